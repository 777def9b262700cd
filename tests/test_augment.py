"""Crop, flip and normalisation against literal loops over clips and pixels."""

import numpy as np
import pytest
import torch

from safe.training.transforms import (
    MEAN,
    STD,
    CropFlip,
    Transforms,
    center_crop,
    normalize,
)

LABELS = torch.zeros(0, dtype=torch.int64)


def crop_flip(clips: torch.Tensor, crop: int, flip: float, seed: int) -> torch.Tensor:
    return CropFlip(crop, flip)(clips, LABELS, torch.Generator().manual_seed(seed))


def numbered(batch: int = 3, frames: int = 2, side: int = 12) -> torch.Tensor:
    """Clips whose pixels tell their own row, column and frame."""
    pixel = torch.arange(side)
    clips = torch.zeros(batch, frames, side, side, 3, dtype=torch.uint8)
    clips[..., 0] = pixel[:, None]
    clips[..., 1] = pixel[None, :]
    clips[..., 2] = (
        torch.arange(batch)[:, None, None, None] * 10 + torch.arange(frames)[:, None, None]
    )
    return clips


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_every_crop_is_one_square_of_its_own_clip_the_same_in_all_frames(flip):
    clips = numbered()
    corners = set()
    for seed in range(40):
        out = crop_flip(clips, 8, flip, seed)
        assert out.shape == (3, 2, 8, 8, 3)
        assert out.dtype == torch.uint8
        for clip in range(3):
            top = int(out[clip, 0, 0, 0, 0])
            left = int(out[clip, 0, 0, :, 1].min())
            expected = clips[clip, :, top : top + 8, left : left + 8]
            if flip:
                expected = expected.flip(2)
            assert torch.equal(out[clip], expected)
            corners.add((top, left))
    assert {top for top, _ in corners} == {left for _, left in corners} == set(range(5))


def test_flips_come_with_their_probability_and_the_seed_decides():
    clips = numbered(batch=400)
    out = crop_flip(clips, 12, 0.25, 0)
    flipped = (out[:, 0, 0, 0, 1] == 11).float().mean()
    assert 0.18 < flipped < 0.32
    again = crop_flip(clips, 12, 0.25, 0)
    assert torch.equal(out, again)


def test_the_gather_of_a_gpu_cuts_what_the_slices_of_a_cpu_cut():
    clips = torch.randint(0, 256, (20, 2, 12, 12, 3), dtype=torch.uint8)
    step = CropFlip(7, 0.5)
    draws = step._draw(clips, torch.Generator().manual_seed(1))
    assert torch.equal(crop_flip(clips, 7, 0.5, 1), step._gather(clips, *draws))


@pytest.mark.parametrize("share", [slice(None), slice(1, None, 3)])
@pytest.mark.parametrize("more", [False, True])
def test_the_list_gives_the_bits_of_its_steps_and_writes_into_the_same_memory(share, more):
    def darken(clips, labels, generator):
        assert labels is LABELS
        return clips.sub_(torch.randint(9, (1,), generator=generator))

    clips = torch.randint(9, 256, (20, 2, 12, 12, 3), dtype=torch.uint8)
    whole = Transforms([CropFlip(7, 0.5), *([darken] if more else [])])
    generator = torch.Generator().manual_seed(1)
    expected = CropFlip(7, 0.5)(clips, LABELS, generator)
    if more:
        expected = darken(expected, LABELS, generator)
    before = clips.clone()
    once = whole(clips, LABELS, torch.Generator().manual_seed(1), share=share)
    assert torch.equal(once, normalize(expected[share]))
    assert torch.equal(clips, before)
    again = whole(clips, LABELS, torch.Generator(), share=share)
    assert again.data_ptr() == once.data_ptr()


def test_center_crop():
    out = center_crop(numbered(), 8)
    assert out[0, 0, 0, 0, :2].tolist() == [2, 2]
    assert out.shape == (3, 2, 8, 8, 3)


def test_normalisation_is_the_one_of_torchvisions_kinetics_weights():
    from torchvision.models.video import R3D_18_Weights

    preset = R3D_18_Weights.KINETICS400_V1.transforms()
    assert list(MEAN) == preset.mean
    assert list(STD) == preset.std
    clips = torch.randint(0, 256, (2, 3, 4, 4, 3), dtype=torch.uint8)
    out = normalize(clips)
    assert out.shape == (2, 3, 3, 4, 4)
    assert out.is_contiguous(memory_format=torch.channels_last_3d)
    literal = (clips.numpy() / 255 - np.array(MEAN)) / np.array(STD)
    assert np.allclose(out.numpy(), np.moveaxis(literal, -1, 1), atol=1e-5)


@pytest.mark.parametrize("view", ["whole", "cropped", "strided"])
def test_normalisation_is_bit_for_bit_one_formula_for_all_pixels(view):
    clips = torch.randint(0, 256, (3, 4, 10, 10, 3), dtype=torch.uint8)
    clips = {"whole": clips, "cropped": center_crop(clips, 6), "strided": clips[:, ::2]}[view]
    expected = (clips.float() - torch.tensor(MEAN) * 255) * (1 / (torch.tensor(STD) * 255))
    assert torch.equal(normalize(clips), expected.permute(0, 4, 1, 2, 3))


def test_normalisation_into_memory_that_is_there():
    clips = torch.randint(0, 256, (2, 3, 4, 4, 3), dtype=torch.uint8)
    memory = torch.empty(clips.shape)
    out = normalize(clips, out=memory)
    assert out.data_ptr() == memory.data_ptr()
    assert torch.equal(out, normalize(clips))
    with pytest.raises(RuntimeError):  # a copy would be filled in place of what was given
        normalize(clips, out=memory.transpose(2, 3))


def test_the_number_of_threads_is_as_before():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        normalize(crop_flip(numbered(), 8, 0.5, 0))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
