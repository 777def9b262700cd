"""Skin: the painted face of a person, brows and beard included.

In: a person's traits and a random generator. Out: the albedo on the face's texture, float32
[HEIGHT, WIDTH, 3], linear RGB 0..1.
"""

from typing import Final

import cv2
import numpy as np
from numpy.typing import ArrayLike

from pipeline.synthetic.surface import Float, single
from pipeline.synthetic.texture import SIDE, Y, bump, curve, noise, smooth
from pipeline.synthetic.traits import Traits

_BLUSH: Final = (1.06, 0.86, 0.86)


class _Paint:
    """The albedo while it is painted."""

    def __init__(self, colour: ArrayLike) -> None:
        self.albedo = np.ones((*SIDE.shape, 3), np.float32) * single(colour)

    def mix(self, mask: Float, colour: ArrayLike) -> None:
        """Cover the skin with a colour, by a mask 0..1."""
        self.albedo += mask[..., None] * (single(colour) - self.albedo)

    def tint(self, mask: Float, factor: ArrayLike) -> None:
        """Multiply the skin by a colour, by a mask 0..1."""
        self.albedo *= 1 - mask[..., None] * (1 - single(factor))


def paint_skin(traits: Traits, rng: np.random.Generator) -> Float:
    """Paint a person's face; details that the traits do not fix are drawn."""
    paint = _Paint(traits.skin)
    old, male, light = traits.old, traits.male, traits.luminance
    red = 1 - (1 - single(_BLUSH)) * min(1, 0.25 + 1.8 * light)
    paint.tint(np.clip(0.12 + 0.1 * noise(rng, 13), 0, 0.5), red)
    paint.tint(bump(0.38, 7.0, 0.17, 0.16) * rng.uniform(0.2, 0.8), red)  # cheeks
    paint.tint(bump(0, 7.0, 0.14, 0.12) * rng.uniform(0.1, 0.6), red)  # nose
    under = rng.uniform(0.1, 0.5) * (1 + 0.3 * old)
    paint.tint(bump(0.30, 7.22, 0.15, 0.05) * under, (0.75, 0.68, 0.72))
    paint.tint(bump(0.31, 7.36, 0.17, 0.055) * rng.uniform(0.15, 0.5), (0.72, 0.62, 0.62))  # lids
    paint.tint(bump(0.095, 6.925, 0.035, 0.022) * 0.8, (0.25, 0.18, 0.16))  # nostrils
    distance, _ = curve([(0.185, 7.3), (0.25, 7.262), (0.33, 7.256), (0.41, 7.275), (0.455, 7.315)])
    lashes = rng.uniform(0.25, 0.7) * (1 - 0.3 * male)
    paint.tint(np.exp(-((distance / 0.012) ** 2)) * lashes, (0.35, 0.28, 0.26))
    grain = 1 + (0.025 * noise(rng, 1.0) + 0.02 * noise(rng, 3.7)) * smooth(6.1, 6.3, Y)
    paint.albedo *= grain[..., None]
    if rng.random() < 0.25:  # freckles, spots
        spots = (noise(rng, 1.1) > 2.1) * np.exp(-(((Y - 7.05) / 0.35) ** 2))
        paint.tint(spots * rng.uniform(0.2, 0.5), (0.6, 0.45, 0.35))
    _paint_brows(paint, traits, rng)
    if traits.beard:
        _paint_beard(paint, traits, rng)
    return paint.albedo


def _paint_brows(paint: _Paint, traits: Traits, rng: np.random.Generator) -> None:
    thick = rng.uniform(0.03, 0.05) * (0.75 + 0.5 * traits.male)
    y = 7.487 + rng.uniform(-0.015, 0.02)
    arch = rng.uniform(0.008, 0.048) * (1.1 - 0.3 * traits.male)
    distance, position = curve(
        [
            (0.085 + rng.uniform(-0.02, 0.025), y),
            (0.2, y + 0.55 * arch),
            (0.36, y + arch + 0.012),
            (0.46, y + 0.75 * arch),
            (0.545, y - 0.025),
        ]
    )
    half = thick * np.interp(position, [0, 0.1, 0.5, 0.75, 1], [0.75, 1, 0.95, 0.7, 0.15])
    edge = smooth(1.15, 0.55, np.abs(distance) / half + 0.12 * noise(rng, 1.7, 0.6))
    mask = edge * smooth(0, 0.05, position + 0.03)
    hair, skin = np.array(traits.brow), np.array(traits.skin)
    paint.mix(mask * single(rng.uniform(0.72, 0.95)), np.minimum(hair * 0.7, skin * 0.3))


def _paint_beard(paint: _Paint, traits: Traits, rng: np.random.Generator) -> None:
    """Paint stubble (below 0.3) or a beard: soft patches, finer strands, no salt on dark skin."""
    jaw = smooth(6.80, 6.64, Y - 0.38 * smooth(0.3, 0.66, SIDE))
    jaw = jaw * smooth(6.14, 6.30, Y + 0.25 * SIDE)
    lip = np.exp(-((SIDE / 0.23) ** 4) - ((Y - 6.64) / 0.1) ** 4)
    moustache = np.exp(-((SIDE / 0.21) ** 4) - ((Y - 6.825) / 0.045) ** 2)
    area = np.maximum(jaw * (1 - 0.95 * lip), moustache)
    area = cv2.GaussianBlur(area, (0, 0), 2.5) * (1 + 0.08 * noise(rng, 6))
    strands = 1 + 0.08 * noise(rng, 0.7, 1.6)
    cover = np.clip(area * strands * traits.beard, 0, 0.9)
    skin, hair = np.array(traits.skin), np.array(traits.hair)
    colour = np.minimum(hair * 0.8, skin * 0.6) if traits.beard > 0.3 else skin * 0.35
    paint.mix(np.asarray(cover, np.float32), colour)
