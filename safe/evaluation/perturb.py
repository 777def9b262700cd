"""Perturbations of faces for a robustness evaluation.

In: uint8 faces as the loader gives them, before the centre crop, and the row of each clip. Out: the
same, damaged by one perturbation at one severity. Gaussian noise and frame drop are those of Table
VII; the paper gives no strengths, so ours are in PERTURBATIONS. `shuffle`, `reverse` and `freeze`
keep whole frames and take away their order or their motion: a model that ignores them does not use
time.

All that is random in a clip is drawn from (seed, row), the same draws at every severity. So batch
size, order and workers change nothing, and a higher severity is more of the same: the frames that
severity 1 drops are among those of severity 5, and its patch lies within the larger one.
Shapes: B clips, T frames, H W pixels.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Tensor

Clip = NDArray[np.uint8]  # [T, H, W, 3]
Ints = NDArray[np.int64]
Reals = NDArray[np.float32]
Change = Callable[[Clip, float, np.random.Generator], Clip]

SEVERITIES: Final = range(6)
"""0 changes nothing; 1 to 5 index the levels of a perturbation, mildest first."""

_GREY: Final = 128
_BLUR_SIZE: Final = 112  # pixels; the paper's face size
_GAMMA: Final = 2.2  # pixel value ~ light ** (1 / gamma), about sRGB
_WHITE: Final = 2000  # photoelectrons of a white pixel in full light: visible noise, but little


def _gaussian_noise(clip: Clip, sigma: float, rng: np.random.Generator) -> Clip:
    """Add noise, independent for each pixel and channel."""
    return _noisy(clip, sigma, rng)


def _frame_drop(clip: Clip, share: float, rng: np.random.Generator) -> Clip:
    """Replace random frames by the nearest kept one, the earlier of two; at least one is kept."""
    frames = len(clip)
    order = rng.permutation(frames)
    kept = np.sort(order[min(round(share * frames), frames - 1) :])
    distance = np.abs(np.arange(frames)[:, None] - kept)
    nearest: Ints = kept[distance.argmin(axis=1)]  # argmin takes the first, so the earlier frame
    return clip[nearest]


def _blur(clip: Clip, sigma: float, _: np.random.Generator) -> Clip:
    """Blur by a Gaussian cut off at three sigma; the border pixel is the mirror."""
    sigma *= min(clip.shape[1:3]) / _BLUR_SIZE
    side = 2 * math.ceil(3 * sigma) + 1
    import cv2  # here: training imports this file and blurs nothing

    border = cv2.BORDER_REFLECT_101
    return np.stack(
        [cv2.GaussianBlur(frame, (side, side), sigma, borderType=border) for frame in clip]
    )


def _jpeg(clip: Clip, quality: float, _: np.random.Generator) -> Clip:
    """Compress each frame by itself, chroma 4:2:0, and decode it."""
    images = (simplejpeg.encode_jpeg(frame, int(quality), "RGB", "420") for frame in clip)
    return np.stack([simplejpeg.decode_jpeg(image, "RGB") for image in images])


def _low_light(clip: Clip, stops: float, rng: np.random.Generator) -> Clip:
    """Halve the light `stops` times and add shot noise, which grows as light fades.

    Light is n = _WHITE * 2^-stops * (v / 255)^gamma photoelectrons with deviation sqrt(n), carried
    over to pixel values to first order: dv / dn * sqrt(n) = v / (gamma * sqrt(n)).
    """
    light = _WHITE * 2.0**-stops * (np.arange(256) / 255) ** _GAMMA  # of each of 256 values
    value = 255 * (light / _WHITE) ** (1 / _GAMMA)
    spread = value / (_GAMMA * np.sqrt(np.maximum(light, 1)))  # first order fails below one
    return _noisy(value.astype(np.float32)[clip], spread.astype(np.float32)[clip], rng)


def _occlusion(clip: Clip, share: float, rng: np.random.Generator) -> Clip:
    """Cover one square with mid grey, at one random position for the whole clip."""
    height, width = clip.shape[1:3]
    side = min(round(math.sqrt(share * height * width)), height, width)
    top, left = (rng.random(2) * (height - side + 1, width - side + 1)).astype(int)
    covered = clip.copy()
    covered[:, top : top + side, left : left + side] = _GREY
    return covered


def _shuffle(clip: Clip, share: float, rng: np.random.Generator) -> Clip:
    """Move random frames around one random cycle, so that each of them leaves its position."""
    order = np.arange(len(clip))
    moved = rng.permutation(len(clip))[: round(share * len(clip))]
    order[moved] = np.roll(moved, 1)
    return clip[order]


def _reverse(clip: Clip, _: float, __: np.random.Generator) -> Clip:
    """Play the clip backwards."""
    return clip[::-1]


def _freeze(clip: Clip, share: float, _: np.random.Generator) -> Clip:
    """Cut the clip into stretches and show the middle frame of each, the earlier of two."""
    frames = len(clip)
    length = max(1, round(share * frames))
    start = np.arange(frames) // length * length
    stop = np.minimum(start + length, frames)
    return clip[(start + stop - 1) // 2]


def _noisy(value: Clip | Reals, spread: float | Reals, rng: np.random.Generator) -> Clip:
    """Add normal noise of deviation `spread`, round, and clip to 0..255."""
    noise = rng.standard_normal(value.shape, dtype=np.float32)
    noisy: Clip = np.rint(value + spread * noise).clip(0, 255).astype(np.uint8)
    return noisy


@dataclass(frozen=True)
class Perturbation:
    """One way to damage a clip, and how much at each severity."""

    change: Change
    unit: str  # of the levels
    levels: tuple[float, float, float, float, float]  # of severity 1 to 5


PERTURBATIONS: Final[Mapping[str, Perturbation]] = MappingProxyType(
    {
        # Table VII
        "gaussian_noise": Perturbation(
            _gaussian_noise, "sigma in units of 0..255", (5, 10, 15, 20, 25)
        ),
        "frame_drop": Perturbation(
            _frame_drop, "share of the frames that are lost", (0.125, 0.25, 0.375, 0.5, 0.75)
        ),
        # beyond the paper
        "blur": Perturbation(_blur, "sigma in pixels of a 112-pixel face", (0.75, 1, 1.5, 2, 2.5)),
        "jpeg": Perturbation(_jpeg, "JPEG quality, 1..100", (80, 70, 60, 45, 30)),
        "low_light": Perturbation(_low_light, "stops: halvings of the light", (0.5, 1, 2, 3, 4)),
        "occlusion": Perturbation(
            _occlusion, "share of the frame's area", (0.04, 0.08, 0.12, 0.18, 0.25)
        ),
        # does the model use time?
        "shuffle": Perturbation(
            _shuffle, "share of the frames that leave their position", (0.25, 0.375, 0.5, 0.75, 1)
        ),
        "reverse": Perturbation(_reverse, "share of the clip played backwards", (1, 1, 1, 1, 1)),
        "freeze": Perturbation(
            _freeze, "length of a still, as a share of the clip", (0.125, 0.1875, 0.25, 0.5, 1)
        ),
    }
)
"""Name to perturbation; all levels are ours. Of 16 frames, severities 1 to 5 of frame_drop lose 2,
4, 6, 8, 12; of shuffle displace 4, 6, 8, 12, 16; of freeze make stills of 2, 3, 4, 8, 16.

Noise, blur and JPEG are milder at every severity than those of Tiny-ImageNet-C (Hendrycks and
Dietterich, ICLR 2019: sigma 10 to 46, 0.5 to 1.5 pixels of 64, quality 65 to 25), because an
expression is finer than what tells objects apart."""


def perturb(
    faces: Tensor, rows: NDArray[np.int64], *, name: str, severity: int, seed: int
) -> Tensor:
    """Damage each clip of a batch.

    Args:
        faces: uint8 [B, T, H, W, 3] on the CPU, RGB, 0..255; not changed.
        rows: int64 [B], 0 or more: the clip's row in the shard folder's table.
        name: a key of PERTURBATIONS.
        severity: 0..5; 0 gives `faces` itself.
        seed: 0 or more; with the row it decides all draws.

    Returns:
        uint8 [B, T, H, W, 3].

    Raises:
        ValueError: for an unknown name or severity, or if there is not one row for each clip.
    """
    if name not in PERTURBATIONS:
        raise ValueError(f"perturbation {name!r} must be one of {', '.join(PERTURBATIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity {severity} of {name} must be one of 0 to {SEVERITIES[-1]}")
    if severity == 0:
        return faces
    perturbation = PERTURBATIONS[name]
    level = perturbation.levels[severity - 1]
    clips = faces.contiguous().numpy()
    changed = np.empty_like(clips)
    for position, (clip, row) in enumerate(zip(clips, rows, strict=True)):
        rng = np.random.default_rng([seed, int(row)])
        changed[position] = perturbation.change(clip, level, rng)
    return torch.from_numpy(changed)
