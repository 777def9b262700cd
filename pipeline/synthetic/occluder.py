"""Occluder: a hand, or a thing that a hand would hold, in front of a part of the face.

In: frames uint8 [N, S, S, 3] and the places of the face. Out: the same frames, partly covered.
"""

from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.synthetic.traits import Traits

Kind = Literal["hand", "phone", "microphone"]
KINDS: Final[tuple[Kind, ...]] = ("hand", "hand", "hand", "phone", "microphone")
_THINGS: Final = ((30, 30, 34), (210, 210, 205), (150, 40, 45), (40, 70, 130))
_SHIFT: Final = 4  # binary digits behind the point of OpenCV's coordinates


@dataclass(frozen=True, kw_only=True)
class Occluder:
    """What covers a part of the face, in sides of the face's box, x to the right and y down."""

    kind: Kind
    x: float  # of its middle, from the face's
    y: float
    angle: float  # radians, clockwise; 0: fingers point up
    size: float  # of the palm's width
    colour: tuple[int, int, int]  # RGB 0..255
    sway: float  # how far it moves over the clip


def draw_occluder(rng: np.random.Generator, traits: Traits) -> Occluder:
    """Draw what covers the face, and where: a corner of it more often than its middle."""
    kind = KINDS[rng.integers(len(KINDS))]
    around = rng.uniform(-0.2, np.pi + 0.2)  # below and beside, seldom above
    away = rng.uniform(0.25, 0.5)
    skin = tuple(int(255 * min(1.0, channel) ** (1 / 2.2)) for channel in traits.skin)
    thing = _THINGS[rng.integers(len(_THINGS))]
    return Occluder(
        kind=kind,
        x=float(away * np.cos(around)),
        y=float(away * np.sin(around)),
        angle=float(rng.normal(0, 0.5)),
        size=float(rng.uniform(0.26, 0.38)),
        colour=(skin[0], skin[1], skin[2]) if kind == "hand" else thing,
        sway=float(rng.uniform(0, 0.06)),
    )


def cover(
    frames: NDArray[np.uint8], occluder: Occluder, places: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Cover the face.

    Args:
        frames: uint8 [N, S, S, 3], RGB; not changed.
        occluder: by what.
        places: [N, 3]: x, y and side of the face's box, as shares of the frame.
    """
    side = frames.shape[1]
    bright = 0.45 + 0.75 * float(frames.mean()) / 255
    covered = np.empty_like(frames)
    for t, (frame, (x, y, face)) in enumerate(zip(frames, places, strict=True)):
        sway = occluder.sway * np.sin(2 * np.pi * t / len(frames))
        middle = np.array([x + face * (occluder.x + sway), y + face * occluder.y]) * side
        picture, mask = _draw(occluder, middle, occluder.size * face * side, side)
        shaded = picture * bright
        mixed = frame + mask[..., None] * (shaded - frame)
        covered[t] = np.clip(mixed + 0.5, 0, 255).astype(np.uint8)
    return covered


def _draw(
    occluder: Occluder, middle: NDArray[np.float64], unit: float, side: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return colours [S, S, 3] and opacity [S, S] of the thing, `unit` pixels wide."""
    colour = np.array(occluder.colour, np.float32)
    picture = np.empty((side, side, 3), np.float32)
    picture[:] = colour
    mask = np.zeros((side, side), np.uint8)
    sin, cos = np.sin(occluder.angle), np.cos(occluder.angle)
    turn = np.array([[cos, -sin], [sin, cos]])

    def at(x: float, y: float) -> tuple[int, int]:
        across, down = middle + unit * (turn @ (x, y))
        return round(float(across) * 2**_SHIFT), round(float(down) * 2**_SHIFT)

    def stroke(start: tuple[float, float], end: tuple[float, float], width: float) -> None:
        thick = max(1, round(width * unit))
        line = np.zeros((side, side), np.uint8)
        cv2.line(line, at(*start), at(*end), 255, thick, cv2.LINE_AA, _SHIFT)
        # A rim in shadow parts it from what lies below.
        rim = cv2.GaussianBlur(line, (0, 0), max(0.6, 0.05 * unit)).astype(np.float32) / 255
        shade = np.where(line > 0, 0.72 + 0.28 * rim, 1.0)
        picture[:] = np.where(line[..., None] > 0, colour * shade[..., None], picture)
        np.maximum(mask, line, out=mask)

    if occluder.kind == "hand":
        stroke((0, 0.15), (0, 0.75), 0.95)
        for x, length in ((-0.36, 0.75), (-0.12, 0.95), (0.12, 0.9), (0.36, 0.65)):
            stroke((x, 0.0), (x * 1.1, -length), 0.25)
        stroke((-0.4, 0.45), (-0.75, -0.1), 0.27)
        stroke((0, 0.8), (0, 3.0), 0.8)
    elif occluder.kind == "phone":
        stroke((0, -0.4), (0, 0.6), 0.75)
    else:
        stroke((0, 0.1), (0, 3.0), 0.3)
        stroke((0, -0.15), (0, 0.1), 0.62)
    return picture, cv2.GaussianBlur(mask, (0, 0), 0.6).astype(np.float32) / 255
