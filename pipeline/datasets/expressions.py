"""How do a face's action units and its pose move over one animated clip?

A class, or a blend of two, and a peak intensity go in; per frame the action units (Ekman and
Friesen's FACS, see drawn_face.UNITS) and a head pose come out: neutral, onset, apex, offset, with
blinks, a little speech and a drifting head, so that most clips hold frames that say nothing.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.drawn_face import UNITS
from pipeline.datasets.drawn_person import Pose
from safe.taxonomy import BASIC

Curve = NDArray[np.float64]

EXPRESSIONS: Final[dict[str, tuple[dict[str, float], ...]]] = {
    "happy": (
        {"AU6": 0.9, "AU12": 1.0, "AU25": 0.8},
        {"AU6": 0.7, "AU12": 1.0, "AU25": 0.25},
        {"AU6": 1.0, "AU12": 1.0, "AU25": 0.7, "AU26": 0.35},
    ),
    "sad": (
        {"AU1": 1.0, "AU4": 0.5, "AU15": 1.0, "AU17": 0.6, "AU43": 0.25, "AU64": 0.5},
        {"AU1": 0.8, "AU4": 0.3, "AU15": 0.9, "AU17": 0.3, "AU43": 0.35, "AU64": 0.8},
    ),
    "neutral": ({},),
    "angry": (
        {"AU4": 1.0, "AU5": 0.4, "AU7": 0.5, "AU23": 1.0},
        {"AU4": 1.0, "AU5": 0.6, "AU7": 0.4, "AU10": 0.4, "AU20": 0.3, "AU25": 0.9, "AU26": 0.25},
    ),
    "surprise": (
        {"AU1": 1.0, "AU2": 1.0, "AU5": 1.0, "AU26": 0.9},
        {"AU1": 0.9, "AU2": 1.0, "AU5": 0.8, "AU26": 0.7},
    ),
    "disgust": (
        {"AU4": 0.5, "AU7": 0.7, "AU9": 1.0, "AU10": 1.0, "AU15": 0.3, "AU25": 0.4},
        {"AU4": 0.4, "AU7": 0.5, "AU9": 1.0, "AU10": 0.6, "AU15": 0.6, "AU17": 0.6},
    ),
    "fear": (
        {"AU1": 1.0, "AU2": 0.4, "AU4": 0.6, "AU5": 1.0, "AU20": 1.0, "AU25": 0.6, "AU26": 0.2},
        {"AU1": 1.0, "AU2": 0.6, "AU4": 0.5, "AU5": 1.0, "AU20": 0.8, "AU25": 0.3, "AU26": 0.5},
    ),
}
"""The action units of each class at its apex, in one or more ways, after FACS's own prototypes."""

CONFUSED: Final[dict[str, tuple[str, ...]]] = {
    "happy": ("surprise", "neutral"),
    "sad": ("neutral", "fear"),
    "neutral": ("sad", "angry", "happy"),
    "angry": ("disgust", "neutral"),
    "surprise": ("fear", "happy"),
    "disgust": ("angry",),
    "fear": ("surprise", "sad"),
}
"""With which classes people confuse a class (symmetric)."""


def apex(rng: np.random.Generator, name: str) -> Curve:
    """Draw the action units of a class at full intensity: float [len(UNITS)], see UNITS."""
    ways = EXPRESSIONS[name]
    units = ways[rng.integers(len(ways))]
    strength = np.array([units.get(unit, 0.0) for unit in UNITS])
    return np.clip(strength * rng.uniform(0.75, 1.15, len(UNITS)), -1, 1)


def envelope(rng: np.random.Generator, frames: int) -> Curve:
    """Draw the intensity over time, float [frames], 0..1: neutral, onset, apex, perhaps offset."""
    start = rng.uniform(0.0, 0.28)
    full = start + rng.uniform(0.1, 0.2)
    end = rng.uniform(0.78, 1.3)  # beyond 1 the clip ends before the expression does
    fade = end - rng.uniform(0.1, 0.2)
    level = np.interp(np.linspace(0, 1, frames), [start, full, fade, end], [0, 1, 1, 0])
    return level * level * (3 - 2 * level)


def move_units(
    rng: np.random.Generator, target: Curve, *, peak: float, frames: int, fps: int
) -> NDArray[np.float64]:
    """Draw the action units of every frame.

    Args:
        rng: the clip's own generator.
        target: float [len(UNITS)], the units at full intensity.
        peak: 0..1, the intensity at the apex.
        frames: length of the clip.
        fps: frames a second.

    Returns:
        float [frames, len(UNITS)].
    """
    units = envelope(rng, frames)[:, None] * (peak * target)
    time = np.arange(frames) / fps  # seconds
    index = {unit: column for column, unit in enumerate(UNITS)}
    for unit in rng.choice(("AU1", "AU2", "AU4", "AU7", "AU12", "AU15", "AU17", "AU25"), 3, False):
        units[:, index[unit]] += rng.uniform(0, 0.14)  # a face at rest is never quite blank
    if rng.random() < 0.3:  # speech
        rate, phase = rng.uniform(3, 5), rng.uniform(0, 2 * np.pi)
        syllables = np.sin(2 * np.pi * rate * time + phase) * np.sin(2 * np.pi * 0.7 * time + phase)
        units[:, index["AU25"]] += 0.3 * np.abs(syllables)
        units[:, index["AU26"]] += 0.1 * np.abs(syllables)
    if rng.random() < 0.5:  # a blink takes about a fifth of a second
        moment = rng.uniform(0, time[-1])
        units[:, index["AU43"]] += np.exp(-(((time - moment) / 0.06) ** 2))
    for unit, most in (("AU61", 0.5), ("AU64", 0.25)):
        units[:, index[unit]] += most * _drift(rng, time)
    signed = np.array([unit in ("AU61", "AU64") for unit in UNITS])
    return np.clip(units, np.where(signed, -1, 0), 1)


def move_head(rng: np.random.Generator, *, frames: int, fps: int) -> list[Pose]:
    """Draw the head's pose in every frame: a place of the clip's own and a slow drift around it."""
    time = np.arange(frames) / fps
    home = {
        "x": 0.5 + np.clip(rng.normal(0, 0.025), -0.06, 0.06),
        "y": 0.515 + np.clip(rng.normal(0, 0.015), -0.03, 0.03),
        "scale": rng.uniform(0.31, 0.37),
        "roll": np.clip(rng.normal(0, 0.05), -0.12, 0.12),
        "yaw": np.clip(rng.normal(0, 0.12), -0.28, 0.28),
        "pitch": np.clip(rng.normal(0, 0.04), -0.09, 0.09),
    }
    reach = {"x": 0.012, "y": 0.01, "scale": 0.004, "roll": 0.03, "yaw": 0.08, "pitch": 0.04}
    paths = {name: home[name] + most * _drift(rng, time) for name, most in reach.items()}
    return [Pose(**{name: float(path[i]) for name, path in paths.items()}) for i in range(frames)]


def _drift(rng: np.random.Generator, time: Curve) -> Curve:
    """Return a slow smooth wander, about -1..1, over time in seconds."""
    rates, phases = rng.uniform(0.15, 0.9, 3), rng.uniform(0, 2 * np.pi, 3)
    waves = np.sin(2 * np.pi * rates * time[:, None] + phases)  # [frames, 3]
    return np.asarray(1.5 * waves.mean(axis=1))


assert set(EXPRESSIONS) == set(CONFUSED) == set(BASIC)
