"""Crop, flip and normalisation against literal loops over clips and pixels."""

import numpy as np
import pytest
import torch

from safe.training import transforms as augment
from safe.training.transforms import (
    MEAN,
    STD,
    center_crop,
    normalize,
    random_crop_flip,
    random_crop_flip_normalize,
)


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
        out = random_crop_flip(clips, 8, flip, torch.Generator().manual_seed(seed))
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
    out = random_crop_flip(clips, 12, 0.25, torch.Generator().manual_seed(0))
    flipped = (out[:, 0, 0, 0, 1] == 11).float().mean()
    assert 0.18 < flipped < 0.32
    again = random_crop_flip(clips, 12, 0.25, torch.Generator().manual_seed(0))
    assert torch.equal(out, again)


def test_the_gather_of_a_gpu_cuts_what_the_slices_of_a_cpu_cut(monkeypatch):
    clips = torch.randint(0, 256, (20, 2, 12, 12, 3), dtype=torch.uint8)
    sliced = random_crop_flip(clips, 7, 0.5, torch.Generator().manual_seed(1))
    monkeypatch.setattr(augment, "_cut", augment._gather)
    gathered = random_crop_flip(clips, 7, 0.5, torch.Generator().manual_seed(1))
    assert torch.equal(sliced, gathered)


@pytest.mark.parametrize("given", [True, False])
def test_crop_and_normalisation_in_one_pass_give_the_bits_of_both(given):
    clips = torch.randint(0, 256, (20, 2, 12, 12, 3), dtype=torch.uint8)
    memory = torch.empty(20, 2, 7, 7, 3) if given else None
    once = random_crop_flip_normalize(clips, 7, 0.5, torch.Generator().manual_seed(1), out=memory)
    squares = random_crop_flip(clips, 7, 0.5, torch.Generator().manual_seed(1))
    assert torch.equal(once, normalize(squares))
    assert memory is None or once.data_ptr() == memory.data_ptr()


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
        normalize(random_crop_flip(numbered(), 8, 0.5, torch.Generator()))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
