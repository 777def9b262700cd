"""Folds of the skin: twelve height maps, and how much of each a face shows.

In: weights of units [T, 52]. Out: the height of the skin [T, HEIGHT, WIDTH] on the face's texture,
where a groove is about 1 deep. Each is a groove with a bulge beside it where anatomy has the fold,
on each side as strong as the units that make it.
"""

from functools import cache
from typing import Final

import cv2
import numpy as np
from scipy.sparse import csr_matrix

from pipeline.synthetic.anatomy import INDEX
from pipeline.synthetic.surface import Float
from pipeline.synthetic.texture import HEIGHT, SIDE, WIDTH, X, bump, curve, noise, smooth

Places = list[tuple[float, float]]

FOLDS: Final = (
    "nasolabial", "crow", "frontal_inner", "frontal_outer", "glabella", "bunny", "infraorbital",
    "chin", "marionette", "stretch", "lid", "mentolabial",
)  # fmt: skip
_MOST: Final = 1.5  # of a fold's weight
_SEAM: Final = 0.05  # dm at the middle line over which the sides blend


def _groove(
    places: Places, width: float, bulge: float, beside: float, side: int = 1, ends: float = 0.15
) -> Float:
    """Return a groove along a curve, with a bulge `beside` it in dm, fading towards its ends."""
    distance, position = curve(places)
    distance = distance * side
    swell = np.exp(-(((distance - beside) / (beside * 0.7)) ** 2)) * (distance > 0)
    shape = bulge * swell - np.exp(-((distance / width) ** 2))
    return np.asarray(shape * smooth(0, ends, position) * smooth(0, ends, 1 - position))


def _lines(several: list[Places], width: float, bulge: float) -> Float:
    grooves = [_groove(places, width, bulge, width * 2.4, 1, 0.3) for places in several]
    return np.asarray(sum(grooves))


def _forehead(rows: tuple[tuple[float, float, float], ...], inner: bool) -> Float:
    """Return the lines of the forehead at heights y, as far out as `end`, by strength."""
    found = np.zeros(SIDE.shape, dtype=np.float32)
    for y, end, strength in rows:
        within: Places = [(-0.3, y + 0.01), (-0.12, y), (0.08, y + 0.004), (0.2, y + 0.014)]
        outside: Places = [(0.04, y), (0.2, y + 0.025), (0.36, y + 0.03), (0.5, y - 0.01)]
        last = (end, y + 0.012) if inner else (end, y - 0.07)
        places = [*(within if inner else outside), last]
        found += strength * _groove(places, 0.015, 0.5, 0.036, 1, 0.42)
    return found


@cache
def _maps() -> csr_matrix:
    """The maps by texel [HEIGHT * WIDTH, 12]."""
    maps = {
        "nasolabial": _groove(
            [(0.18, 7.045), (0.215, 6.97), (0.262, 6.86), (0.288, 6.76), (0.292, 6.66)],
            *(0.022, 0.5, 0.075, -1, 0.22),
        ),
        "crow": _lines(
            [
                [(0.475, 7.36), (0.54, 7.385), (0.60, 7.43)],
                [(0.48, 7.33), (0.55, 7.325), (0.615, 7.335)],
                [(0.475, 7.30), (0.54, 7.265), (0.595, 7.22)],
            ],
            *(0.011, 0.35),
        ),
        "frontal_inner": _forehead(((7.645, 0.34, 0.8), (7.735, 0.4, 1), (7.825, 0.3, 0.8)), True),
        "frontal_outer": _forehead(((7.66, 0.6, 1), (7.75, 0.64, 1), (7.835, 0.58, 0.7)), False),
        "glabella": _lines([[(0.045, 7.44), (0.055, 7.52), (0.075, 7.62)]], 0.018, 0.6)
        + 0.5 * _lines([[(-0.03, 7.40), (0.0, 7.405), (0.05, 7.39)]], 0.014, 0.3),
        "bunny": _lines(
            [
                [(0.02, 7.33), (0.06, 7.28), (0.095, 7.20)],
                [(0.05, 7.36), (0.09, 7.31), (0.125, 7.235)],
                [(-0.02, 7.36), (0, 7.365), (0.04, 7.35)],
            ],
            *(0.012, 0.5),
        ),
        "infraorbital": _groove(
            [(0.19, 7.25), (0.28, 7.185), (0.38, 7.175), (0.46, 7.21)], 0.018, 0.5, 0.05, 1, 0.2
        )
        + 0.6
        * _groove(
            [(0.2, 7.285), (0.29, 7.245), (0.38, 7.25), (0.45, 7.285)], 0.012, 0.4, 0.03, 1, 0.2
        ),
        "chin": 0.45 * bump(0, 6.37, 0.13, 0.085, 2) * noise(np.random.default_rng(5), 1.7),
        "marionette": _groove(
            [(0.225, 6.67), (0.262, 6.61), (0.275, 6.53), (0.262, 6.45)], 0.02, 0.5, 0.05, -1
        ),
        "stretch": _groove(
            [(0.27, 6.74), (0.305, 6.66), (0.30, 6.56), (0.27, 6.48)], 0.018, 0.4, 0.05, -1, 0.2
        )
        + 0.5 * _groove([(0.33, 6.76), (0.37, 6.66), (0.355, 6.54)], 0.018, 0.4, 0.05, -1, 0.25),
        "lid": _groove(
            [(0.19, 7.365), (0.25, 7.415), (0.32, 7.43), (0.40, 7.415), (0.46, 7.365)],
            *(0.011, 0.2, 0.03, -1, 0.1),
        ),
        "mentolabial": _groove(
            [(-0.02, 6.475), (0.05, 6.475), (0.11, 6.49), (0.16, 6.52)], 0.03, 0.5, 0.06, 1, 0.3
        ),
    }
    stack = np.stack([cv2.GaussianBlur(maps[name].astype("f4"), (0, 0), 0.6) for name in FOLDS], -1)
    stack[np.abs(stack) < 2e-3] = 0
    return csr_matrix(stack.reshape(-1, len(FOLDS)))


def fold_weights(units: Float, *, old: float, strength: float) -> Float:
    """Return how much of each fold a face shows: float32 [T, 12, 2], of its left and right side.

    Args:
        units: weights of units [T, 52].
        old: 0..1, how far the person is from 25 to 85 years.
        strength: of all folds of this person.
    """

    def sides(name: str) -> Float:
        each = (name, name) if name in INDEX else (f"{name}Left", f"{name}Right")
        return np.asarray(np.clip(units[:, [INDEX[unit] for unit in each]], 0, 2))

    brow, sneer, smile = sides("browDown"), sides("noseSneer"), sides("mouthSmile")
    squint, cheek = sides("eyeSquint"), sides("cheekSquint")
    found = {
        "nasolabial": 0.12 + 0.3 * old + 0.85 * smile + 0.8 * sneer
        + 0.45 * sides("mouthUpperUp") + 0.25 * cheek,
        "crow": 0.2 * old + 0.6 * cheek + 0.45 * squint * (smile + 0.3),
        "frontal_inner": 0.15 * old + 0.62 * np.maximum(0, sides("browInnerUp") - 0.5 * sneer),
        "frontal_outer": 0.15 * old + 0.6 * np.maximum(0, sides("browOuterUp") - 0.6 * brow),
        "glabella": 0.05 * old + 0.75 * brow + 0.15 * sneer + 0.12 * sides("browInnerUp"),
        "bunny": 1.1 * sneer + 0.12 * smile,
        "infraorbital": 0.2 + 0.2 * old + 0.55 * cheek + 0.45 * squint,
        "chin": 0.9 * sides("mouthShrugLower") + 0.2 * sides("mouthFrown"),
        "marionette": 0.08 * old + 0.75 * sides("mouthFrown") + 0.2 * sides("mouthPress"),
        "stretch": 0.8 * sides("mouthStretch") + 0.4 * smile + 0.3 * sides("mouthDimple"),
        "lid": 0.6 + 0.4 * sides("eyeWide") - 0.5 * sides("eyeBlink"),
        "mentolabial": 0.35 + 0.7 * sides("mouthShrugLower") + 0.3 * sides("mouthPress"),
    }  # fmt: skip
    stack = np.stack([np.broadcast_to(found[name], brow.shape) for name in FOLDS], axis=1)
    return np.minimum(stack * strength, _MOST).astype(np.float32)


def fold_heights(weights: Float) -> Float:
    """Return the height of the skin [T, HEIGHT, WIDTH] of weights [T, 12, 2]."""
    frames = len(weights)
    flat = _maps() @ weights.transpose(1, 2, 0).reshape(len(FOLDS), 2 * frames)
    left, right = flat.T.reshape(2, frames, HEIGHT, WIDTH)
    share = smooth(-_SEAM, _SEAM, X)  # the person's left is on the picture's right
    return np.asarray(right + share * (left - right), dtype=np.float32)
