"""Scene: pose, light, background and camera of a clip, as values for a table.

A random generator goes in, a Scene comes out. Every field may be forced with dataclasses.replace.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from pipeline.synthetic.surface import Float, single
from pipeline.synthetic.traits import Colour, linear

_CANVAS: Final = 128  # pixels of the background as it is drawn


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Where a head is seen, and how. Angles in radians, colours linear RGB.

    yaw > 0 turns the face to the right of the picture, pitch > 0 lowers it, roll > 0 leans it to
    the left. azimuth > 0 is light from the right of the picture, elevation > 0 from above.
    """

    yaw: float
    pitch: float
    roll: float
    azimuth: float
    elevation: float
    key: float  # strength of the key light, about 1
    warmth: float  # of the key light, -0.12 cold .. 0.15 warm
    sky: float  # strength of the light from above, from below and from the other side
    ground: float
    fill: float
    tint: float  # of the sky: above 0 bluer, and the ground redder
    exposure: float
    distance: float  # of the camera, dm
    background: Colour
    clutter: int  # seed of what stands in the background, 0 for a plain one
    blur: float  # sigma, pixels
    noise: float  # standard deviation, of 255
    seed: int  # of the noise


def draw_scene(rng: np.random.Generator, *, turn: float = 1.0, dark: float = 0.0) -> Scene:
    """Draw a scene by lot.

    Args:
        rng: the clip's own generator.
        turn: how far heads turn: 1 is 25 degrees of yaw, 12 of pitch, 8 of roll at most.
        dark: share of scenes that are underexposed, 0..1.
    """
    yaw, pitch, roll = np.deg2rad(turn * rng.uniform(-1, 1, 3) * (25, 12, 8))
    azimuth, elevation = np.deg2rad([rng.uniform(-65, 65), rng.uniform(5, 55)])
    ambient = rng.uniform(0.28, 0.55)
    grey = rng.uniform(40, 215)
    rgb = np.clip(grey + rng.uniform(-35, 35, 3), 10, 235)
    exposure = rng.uniform(0.85, 1.15)
    return Scene(
        yaw=float(yaw),
        pitch=float(pitch),
        roll=float(roll),
        azimuth=float(azimuth),
        elevation=float(elevation),
        key=float(rng.uniform(0.7, 1.25)),
        warmth=float(rng.uniform(-0.12, 0.15)),
        sky=float(1.15 * ambient),
        ground=float(0.7 * ambient),
        fill=float(rng.uniform(0.05, 0.35)),
        tint=float(rng.uniform(-0.08, 0.08)),
        exposure=float(exposure * (rng.uniform(0.25, 0.6) if rng.random() < dark else 1)),
        distance=float(rng.uniform(8, 14)),
        background=linear(tuple(rgb)),
        clutter=int(rng.integers(1, 2**31)) if rng.random() < 0.8 else 0,
        blur=float(rng.uniform(0, 0.5)),
        noise=float(rng.uniform(0, 2.5)),
        seed=int(rng.integers(2**31)),
    )


def draw_background(scene: Scene, size: int) -> Float:
    """Draw what is behind the head: float32 [size, size, 3], linear RGB."""
    canvas = np.ones((_CANVAS, _CANVAS, 3), np.float32) * single(scene.background)
    if scene.clutter:
        rng = np.random.default_rng([scene.clutter, 7])
        for _ in range(rng.integers(1, 6)):
            mask = np.zeros((_CANVAS, _CANVAS), np.float32)
            first, second = rng.integers(0, _CANVAS, (2, 2)).tolist()
            cv2.rectangle(mask, first, second, 1.0, -1)
            mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(1, 7))[..., None]
            rgb = np.clip(rng.uniform(30, 220) + rng.uniform(-40, 40, 3), 5, 240)
            canvas += mask * (single(linear(tuple(rgb))) - canvas)
    canvas *= np.linspace(1.15, 0.85, _CANVAS, dtype=np.float32)[:, None, None]
    return np.asarray(cv2.resize(canvas, (size, size), interpolation=cv2.INTER_LINEAR))
