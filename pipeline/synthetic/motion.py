"""Motion: how a face and its head move over one clip.

In: the units of an expression at its apex [52], its strength and the number of frames. Out: units
float32 [N, 52] and turns float32 [N, 3] of every frame: neutral, onset, apex, mostly offset; and
what is no expression: blinks, gaze, speech, a drifting head, a face that is never quite at rest.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from pipeline.synthetic.anatomy import INDEX, UNITS, unit_weights
from pipeline.synthetic.surface import Float

VISEMES: Final = (
    {"jawOpen": 0.25},
    {"jawOpen": 0.45},
    {"jawOpen": 0.15, "mouthFunnel": 0.5},
    {"mouthPucker": 0.6, "jawOpen": 0.1},
    {"mouthRollUpper": 0.4, "mouthRollLower": 0.4},
    {"mouthPress": 0.5},
    {"jawOpen": 0.2, "mouthLowerDown": 0.4},
    {"jawOpen": 0.2, "mouthUpperUp": 0.3, "mouthLowerDown": 0.3},
    {"jawOpen": 0.3, "mouthStretch": 0.3},
    {"mouthShrugLower": 0.3, "mouthPress": 0.3},
)
"""Shapes of the mouth while speaking, as units of both sides."""

_RESTLESS: Final = (
    "browInnerUp", "browOuterUp", "browDown", "mouthFrown", "mouthSmile", "eyeSquint", "eyeWide",
    "mouthPress", "mouthStretch", "cheekSquint", "mouthDimple",
)  # fmt: skip
_SYLLABLES: Final = (3.0, 6.0)  # a second
_BLINK: Final = 0.07  # seconds, half of its length
_HELD: Final = 0.2  # share of clips that begin when the expression is already there
_YIELDS: Final = 0.5  # share by which speech gives way to an expression at its apex


@dataclass(frozen=True, kw_only=True)
class Motion:
    """What moves in a clip of N frames."""

    units: Float  # float32 [N, 52], weights of anatomy.UNITS
    turns: Float  # float32 [N, 3], radians: yaw, pitch and roll added to the scene's
    envelope: Float  # float32 [N], 0..1, how much of its apex the expression has
    speech: bool


def draw_motion(
    rng: np.random.Generator,
    target: Float,
    *,
    peak: float,
    frames: int,
    fps: int,
    shown: float | None = None,
    unrest: float = 1.0,
) -> Motion:
    """Draw how a face moves.

    Args:
        rng: the clip's own generator.
        target: float32 [52], units of the expression at its apex.
        peak: what the apex is of the target; 0 shows nothing.
        frames: N.
        fps: frames a second.
        shown: share of the clip in which the expression shows; None: most of it, drawn by lot.
        unrest: how much moves that is no expression; 0: nothing.
    """
    time = np.arange(frames) / fps
    envelope = draw_envelope(rng, frames, shown)
    units = envelope[:, None] * (peak * target)
    units += unit_weights({name: unrest * abs(rng.normal(0, 0.06)) for name in _RESTLESS})
    speech = bool(rng.random() < 0.35 * min(unrest, 1.5))
    if speech:
        units += (1 - _YIELDS * envelope)[:, None] * _speak(rng, time)
    units += unrest * _look_about(rng, time)
    if rng.random() < 0.5 * unrest:
        moment = rng.uniform(0, time[-1])
        lids = np.exp(-(((time - moment) / _BLINK) ** 2))[:, None] * unit_weights({"eyeBlink": 1})
        units = np.maximum(units, lids)
    reach = np.deg2rad((6, 3, 2.5)) * min(unrest, 1.5)
    turns = np.stack([most * _drift(rng, time) for most in reach], axis=1)
    return Motion(
        units=units.astype(np.float32),
        turns=turns.astype(np.float32),
        envelope=envelope,
        speech=speech,
    )


def draw_envelope(rng: np.random.Generator, frames: int, shown: float | None = None) -> Float:
    """Draw how much of its apex an expression has in each frame: float32 [N], 0..1.

    With `shown` it is more than half of the apex in that share of the frames, wherever they lie.
    """
    start = rng.uniform(-0.05, 0.3) if rng.random() > _HELD else -1.0
    full = start + rng.uniform(0.08, 0.25)
    end = rng.uniform(0.75, 1.3)  # beyond 1 the clip ends before the expression does
    fade = max(full, end - rng.uniform(0.08, 0.3))
    if shown is not None:  # from a generator aside, so that nothing else of the clip changes
        start = rng.spawn(1)[0].uniform(0, 1 - shown) - shown / 8
        end = start + 1.25 * shown
        full, fade = start + shown / 4, end - shown / 4
    moments = (np.arange(frames) + 0.5) / frames
    level = np.interp(moments, [start, full, fade, end], [0, 1, 1, 0])
    return np.asarray(level * level * (3 - 2 * level), np.float32)


def _speak(rng: np.random.Generator, time: np.ndarray) -> Float:
    """Draw a mouth that speaks, with pauses: units [N, 52]."""
    count = max(2, int(time[-1] * rng.uniform(*_SYLLABLES)) + 1)
    strengths = rng.uniform(0.3, 1.0, count) * (rng.random(count) > 0.2)
    shapes = [unit_weights(VISEMES[k]) for k in rng.integers(len(VISEMES), size=count)]
    keys = strengths[:, None] * np.stack(shapes)
    moments = np.sort(rng.uniform(0, time[-1], count))
    return np.stack([np.interp(time, moments, column) for column in keys.T], axis=1)


def _look_about(rng: np.random.Generator, time: np.ndarray) -> Float:
    """Draw where the eyes look, which jump from one point to the next: units [N, 52]."""
    units = np.zeros((len(time), len(UNITS)), np.float32)
    jumps = np.sort(rng.uniform(0, max(time[-1], 0.1), rng.integers(0, 3)))
    aside, up = rng.normal(0, 0.22, len(jumps) + 1), rng.normal(-0.05, 0.16, len(jumps) + 1)
    of = np.searchsorted(jumps, time)
    for value, names in (
        (aside[of], ("eyeLookOutLeft", "eyeLookInRight")),
        (-aside[of], ("eyeLookInLeft", "eyeLookOutRight")),
        (up[of], ("eyeLookUpLeft", "eyeLookUpRight")),
        (-up[of], ("eyeLookDownLeft", "eyeLookDownRight")),
    ):
        for name in names:
            units[:, INDEX[name]] = np.clip(value, 0, 0.8)
    return units


def _drift(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Return a slow smooth wander, about -1..1, over time in seconds."""
    rates, phases = rng.uniform(0.15, 0.9, 3), rng.uniform(0, 2 * np.pi, 3)
    waves = np.sin(2 * np.pi * rates * time[:, None] + phases)  # [N, 3]
    return np.asarray(1.5 * waves.mean(axis=1))
