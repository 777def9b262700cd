"""Each perturbation against a literal loop, another library or its measured strength."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
import scipy.ndimage
import simplejpeg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safe.evaluation.perturb import PERTURBATIONS, perturb

NAMES = list(PERTURBATIONS)
RANDOM = ["gaussian_noise", "frame_drop", "low_light", "occlusion", "shuffle"]
WHOLE_FRAMES = ["frame_drop", "shuffle", "reverse", "freeze"]
LEVELS = range(1, 6)


def textures(batch: int = 3, frames: int = 16, side: int = 48, seed: int = 0) -> torch.Tensor:
    """Moving clips with coarse and fine detail, every frame another one: uint8 [B, T, S, S, 3]."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(batch, frames, side, side, 3))
    coarse = scipy.ndimage.gaussian_filter(noise, (0, 1, 5, 5, 0))
    fine = scipy.ndimage.gaussian_filter(noise[..., :1], (0, 1, 1, 1, 0))
    clips = 128 + 50 * coarse / coarse.std() + 15 * fine / fine.std()
    return torch.from_numpy(clips.clip(0, 255).astype(np.uint8))


def numbered(batch: int = 3, frames: int = 16) -> torch.Tensor:
    """Tiny clips whose pixels tell clip (red) and frame (green)."""
    clips = torch.zeros(batch, frames, 8, 8, 3, dtype=torch.uint8)
    clips[..., 0] = torch.arange(batch)[:, None, None, None]
    clips[..., 1] = torch.arange(frames)[:, None, None]
    return clips


def orders(name: str, severity: int, *, batch: int = 20, frames: int = 16) -> np.ndarray:
    """Return the source of every frame, int [B, T]; each is a whole frame of its own clip."""
    clips = numbered(batch, frames)
    out = perturb(clips, np.arange(batch), name=name, severity=severity, seed=1)
    order = out[:, :, 0, 0, 1].long()
    assert torch.equal(out, clips[torch.arange(batch)[:, None], order])
    return order.numpy()


@pytest.mark.parametrize("name", NAMES)
def test_severity_0_is_the_very_input_and_the_others_leave_it_as_it_was(name):
    clips = textures()
    before = clips.clone()
    assert perturb(clips, np.arange(3), name=name, severity=0, seed=0) is clips
    for severity in LEVELS:
        out = perturb(clips, np.arange(3), name=name, severity=severity, seed=0)
        assert (out.shape, out.dtype) == (clips.shape, torch.uint8)
        assert not torch.equal(out, clips)
        assert torch.equal(clips, before)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    severity=st.integers(1, 5),
    seed=st.integers(0, 2**32),
    rows=st.lists(st.integers(0, 20_000), min_size=2, max_size=5, unique=True),
    data=st.data(),
)
def test_a_clip_depends_on_seed_and_row_alone(name, severity, seed, rows, data):
    clips = textures(len(rows), frames=6, side=16)
    rows = np.array(rows)
    how = {"name": name, "severity": severity, "seed": seed}
    together = perturb(clips, rows, **how)
    order = data.draw(st.permutations(range(len(rows))))
    cut = data.draw(st.integers(1, len(rows) - 1))
    for part in (order[:cut], order[cut:]):
        assert torch.equal(perturb(clips[part], rows[part], **how), together[part])


@pytest.mark.parametrize("name", NAMES)
def test_another_seed_or_row_draws_anew_where_anything_is_drawn(name):
    clips = textures(1).expand(4, -1, -1, -1, -1)
    rows = np.arange(4)
    first = perturb(clips, rows, name=name, severity=3, seed=0)
    other = perturb(clips, rows, name=name, severity=3, seed=1)
    for clip in range(4):
        assert torch.equal(first[clip], other[clip]) == (name not in RANDOM)
    assert torch.equal(first[0], first[1]) == (name not in RANDOM)


@pytest.mark.parametrize("severity", LEVELS)
def test_gaussian_noise_has_the_sigma_of_the_table_and_is_independent(severity):
    clips = torch.full((2, 4, 32, 32, 3), 128, dtype=torch.uint8)
    out = perturb(clips, np.arange(2), name="gaussian_noise", severity=severity, seed=0)
    noise = out.double().numpy() - 128
    sigma = PERTURBATIONS["gaussian_noise"].levels[severity - 1]
    # rounding adds a variance of 1 / 12; 5 standard errors of mean and deviation
    assert noise.std() == pytest.approx(np.hypot(sigma, 12**-0.5), rel=5 / np.sqrt(2 * noise.size))
    assert abs(noise.mean()) < 5 * sigma / np.sqrt(noise.size)
    for axis in range(5):
        a, b = np.take(noise, 0, axis).ravel(), np.take(noise, 1, axis).ravel()
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(len(a))


def test_gaussian_noise_is_clipped_and_does_not_wrap():
    for value in (0, 255):
        clips = torch.full((1, 2, 16, 16, 3), value, dtype=torch.uint8)
        out = perturb(clips, np.arange(1), name="gaussian_noise", severity=5, seed=0)
        assert 0.4 < (out == value).float().mean() < 0.6
        assert (out.int() - value).abs().max() < 128


@pytest.mark.parametrize("severity", LEVELS)
def test_frame_drop_shows_the_nearest_kept_frame(severity):
    for order in orders("frame_drop", severity):
        kept = sorted(set(order))
        assert len(kept) == 16 - (2, 4, 6, 8, 12)[severity - 1]
        for frame, shown in enumerate(order):
            nearest = kept[0]
            for other in kept:
                if abs(other - frame) < abs(nearest - frame):
                    nearest = other
            assert shown == nearest


def test_frame_drop_keeps_a_frame_of_the_shortest_clips():
    for frames in (1, 2, 3):
        order = orders("frame_drop", 5, frames=frames)
        assert all(len(set(row)) == max(1, frames - round(0.75 * frames)) for row in order)


def test_a_severer_frame_drop_or_occlusion_contains_the_milder_one():
    for mild, severe in pairwise(LEVELS):
        for a, b in zip(orders("frame_drop", mild), orders("frame_drop", severe), strict=True):
            assert set(b) < set(a)
        assert not (covered(mild) & ~covered(severe)).any()


@pytest.mark.parametrize("severity", LEVELS)
def test_shuffle_displaces_as_many_frames_as_it_says_and_loses_none(severity):
    found = orders("shuffle", severity)
    for order in found:
        assert sorted(order) == list(range(16))
        assert (order != np.arange(16)).sum() == (4, 6, 8, 12, 16)[severity - 1]
    assert len({tuple(order) for order in found}) == len(found)


@pytest.mark.parametrize("severity", LEVELS)
def test_reverse_turns_time_round_and_twice_is_the_input(severity):
    assert (orders("reverse", severity) == np.arange(16)[::-1]).all()
    clips = textures()
    how = {"name": "reverse", "severity": severity, "seed": 0}
    once = perturb(clips, np.arange(3), **how)
    assert torch.equal(perturb(once, np.arange(3), **how), clips)


def test_freeze_shows_longer_and_longer_stills():
    expected = [
        [0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14],
        [1, 1, 1, 4, 4, 4, 7, 7, 7, 10, 10, 10, 13, 13, 13, 15],
        [1, 1, 1, 1, 5, 5, 5, 5, 9, 9, 9, 9, 13, 13, 13, 13],
        [3] * 8 + [11] * 8,
        [7] * 16,
    ]
    for severity, order in zip(LEVELS, expected, strict=True):
        assert (orders("freeze", severity) == order).all()


@pytest.mark.parametrize("name", WHOLE_FRAMES)
@pytest.mark.parametrize("frames", [1, 2, 5, 30])
def test_perturbations_of_time_give_whole_frames_for_clips_of_any_length(name, frames):
    for severity in LEVELS:
        assert orders(name, severity, frames=frames).shape == (20, frames)


@pytest.mark.parametrize("severity", LEVELS)
@pytest.mark.parametrize("side", [48, 112, 128])
def test_blur_is_a_gaussian_with_its_kernel_written_out(side, severity):
    clips = textures(1, frames=2, side=side)
    out = perturb(clips, np.arange(1), name="blur", severity=severity, seed=0)
    sigma = (0.75, 1, 1.5, 2, 2.5)[severity - 1] * side / 112
    x = np.arange(-np.ceil(3 * sigma), np.ceil(3 * sigma) + 1)
    kernel = np.exp(-(x**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    exact = clips.double().numpy()
    for axis in (2, 3):
        exact = scipy.ndimage.correlate1d(exact, kernel, axis=axis, mode="mirror")
    error = np.abs(out.numpy() - exact)
    assert error.max() <= 1.5  # OpenCV's own kernel has 8 bits
    assert error.mean() < 0.5
    assert np.abs(clips.numpy() - exact).mean() > error.mean()


@pytest.mark.parametrize("severity", LEVELS)
def test_jpeg_is_the_round_trip_of_each_frame(severity):
    clips = textures(2, frames=3)
    out = perturb(clips, np.arange(2), name="jpeg", severity=severity, seed=0)
    for clip in range(2):
        for frame in range(3):
            image = simplejpeg.encode_jpeg(
                clips[clip, frame].numpy(),
                quality=(80, 70, 60, 45, 30)[severity - 1],
                colorspace="RGB",
                colorsubsampling="420",
            )
            assert np.array_equal(out[clip, frame], simplejpeg.decode_jpeg(image))
            other = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
            assert np.abs(out[clip, frame].numpy() - other.astype(int)).mean() < 0.5


@pytest.mark.parametrize("severity", LEVELS)
@pytest.mark.parametrize("value", [40, 128, 255])
def test_low_light_is_what_counting_photons_gives(value, severity):
    clips = torch.full((1, 8, 48, 48, 3), value, dtype=torch.uint8)
    out = perturb(clips, np.arange(1), name="low_light", severity=severity, seed=0).numpy()
    stops = (0.5, 1, 2, 3, 4)[severity - 1]
    electrons = 2000 * (value / 255) ** 2.2 / 2**stops
    counted = np.random.default_rng(5).poisson(electrons, out.size)
    photographed = np.rint(255 * (counted / 2000) ** (1 / 2.2))
    assert out.mean() == pytest.approx(value * 2 ** (-stops / 2.2), abs=0.1)
    if electrons > 10:  # with fewer the first order of the noise is not all of it
        assert out.mean() == pytest.approx(photographed.mean(), abs=0.75)
        assert out.std() == pytest.approx(photographed.std(), rel=0.06)


def test_low_light_leaves_black_black():
    clips = torch.zeros(1, 2, 16, 16, 3, dtype=torch.uint8)
    assert not perturb(clips, np.arange(1), name="low_light", severity=5, seed=0).any()


def covered(severity: int, *, clips: int = 30, height: int = 48, width: int = 48) -> np.ndarray:
    """Where occlusion put grey, bool [B, H, W]; checks that it is the same in every frame."""
    black = torch.zeros(clips, 4, height, width, 3, dtype=torch.uint8)
    out = perturb(black, np.arange(clips), name="occlusion", severity=severity, seed=0)
    assert set(out.unique().tolist()) == {0, 128}
    assert torch.equal(out, out[:, :1, :, :, :1].expand_as(out))
    return (out[:, 0, :, :, 0] == 128).numpy()


@pytest.mark.parametrize("severity", LEVELS)
def test_occlusion_is_one_square_of_its_area_at_a_random_place(severity):
    share = (0.04, 0.08, 0.12, 0.18, 0.25)[severity - 1]
    for patch in covered(severity, height=60, width=50):
        rows, columns = np.flatnonzero(patch.any(1)), np.flatnonzero(patch.any(0))
        assert len(rows) == len(columns) == round(np.sqrt(share * 60 * 50))
        assert patch.sum() == len(rows) ** 2  # a full square, and nothing else
        assert patch.mean() == pytest.approx(share, abs=0.01)


def test_occlusion_reaches_every_place_up_to_the_border():
    corners = [np.argwhere(patch)[0] for patch in covered(1, clips=400, height=10, width=8)]
    tops, lefts = np.transpose(corners)  # of patches of 2 x 2
    assert set(tops) == set(range(9))
    assert set(lefts) == set(range(7))
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 0.2


@pytest.mark.parametrize("name", ["gaussian_noise", "blur", "jpeg", "low_light", "occlusion"])
@pytest.mark.parametrize("side", [64, 112])
def test_damage_grows_with_severity(name, side):
    clips = textures(2, frames=4, side=side)
    damage = [
        (perturb(clips, np.arange(2), name=name, severity=s, seed=0).int() - clips.int())
        .abs()
        .float()
        .mean((1, 2, 3, 4))
        for s in range(6)
    ]
    for mild, severe in pairwise(damage):
        assert (severe > 1.05 * mild).all()


def test_errors_name_what_is_allowed():
    clips, rows = numbered(2), np.arange(2)
    with pytest.raises(ValueError, match=r"'fog' must be one of gaussian_noise, .*, freeze"):
        perturb(clips, rows, name="fog", severity=0, seed=0)
    for severity in (-1, 6):
        with pytest.raises(ValueError, match=f"severity {severity} of blur must be one of 0 to 5"):
            perturb(clips, rows, name="blur", severity=severity, seed=0)
    with pytest.raises(ValueError, match=r"longer|shorter"):
        perturb(clips, rows[:1], name="blur", severity=1, seed=0)
