"""Who is drawn, and where is the head?

A random generator goes in, a Person comes out: everything that stays the same from clip to clip.
Lengths are in face units: the origin is between the ears, x to the right of the picture, y down,
the top of the skull at y = -1 and the chin at y = 1.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Colour = NDArray[np.float64]  # [3], RGB, 0..255

SKINS: Final = ((248, 214, 192), (236, 194, 166), (222, 172, 138), (198, 144, 108), (160, 110, 80))
HAIRS: Final = (
    (38, 30, 28),
    (72, 46, 32),
    (118, 78, 46),
    (190, 150, 92),
    (150, 70, 38),
    (150, 148, 146),
)
IRISES: Final = ((70, 44, 26), (96, 66, 36), (72, 98, 70), (66, 100, 140))
STYLES: Final = ("bald", "short", "parted", "fringe", "long", "curly")


@dataclass(frozen=True, kw_only=True)
class Person:
    """What stays the same from clip to clip. Lengths in face units, colours RGB 0..255."""

    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour
    style: str
    glasses: bool
    beard: float  # 0 none .. 1 full
    width: float  # half the head's
    taper: float  # how far the head narrows to the chin
    eye_x: float
    eye_y: float
    eye_width: float
    eye_open: float
    eye_slant: float
    brow_y: float
    brow_thick: float
    brow_slant: float
    nose_width: float
    nose_y: float
    mouth_y: float
    mouth_width: float
    mouth_curve: float  # of the resting mouth: above 0 the corners hang
    lip_upper: float
    lip_lower: float
    ear: float


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where the head is: x, y and half its height as shares of the frame; angles in radians."""

    x: float
    y: float
    scale: float
    roll: float
    yaw: float
    pitch: float


def draw_person(rng: np.random.Generator) -> Person:
    """Draw a person by lot."""
    tone = rng.uniform(0, len(SKINS) - 1)
    skin = np.array([np.interp(tone, range(len(SKINS)), [s[c] for s in SKINS]) for c in range(3)])
    hair = np.array(HAIRS[rng.integers(len(HAIRS)) if tone < 2.5 else rng.integers(2)], dtype=float)
    male = rng.random() < 0.5
    return Person(
        skin=skin + rng.normal(0, 3, 3),
        hair=hair * rng.uniform(0.8, 1.2),
        iris=np.array(
            IRISES[rng.integers(len(IRISES)) if tone < 2 else rng.integers(2)], dtype=float
        ),
        lips=skin * (0.86, 0.58, 0.60) + (rng.uniform(0, 22), 0, 0),
        style=str(rng.choice(STYLES[:4] if male else STYLES[1:])),
        glasses=bool(rng.random() < 0.15),
        beard=float(rng.uniform(0.3, 1)) if male and rng.random() < 0.35 else 0.0,
        width=rng.uniform(0.66, 0.74),
        taper=rng.uniform(0.32, 0.48) - 0.08 * male,
        eye_x=rng.uniform(0.31, 0.36),
        eye_y=rng.uniform(-0.11, -0.06),
        eye_width=rng.uniform(0.175, 0.21),
        eye_open=rng.uniform(0.9, 1.1),
        eye_slant=rng.uniform(-0.02, 0.02),
        brow_y=rng.uniform(-0.31, -0.27),
        brow_thick=rng.uniform(0.032, 0.05) + 0.015 * male,
        brow_slant=rng.uniform(-0.02, 0.02),
        nose_width=rng.uniform(0.11, 0.16),
        nose_y=rng.uniform(0.24, 0.29),
        mouth_y=rng.uniform(0.55, 0.60),
        mouth_width=rng.uniform(0.28, 0.34),
        mouth_curve=rng.uniform(-0.035, 0.01),
        lip_upper=rng.uniform(0.035, 0.06),
        lip_lower=rng.uniform(0.05, 0.08),
        ear=rng.uniform(0.16, 0.22),
    )
