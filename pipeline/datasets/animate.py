"""What does one clip of the synthetic plan look like, frame by frame?

A clip of the plan and the settings go in; its whole frames come out, or the 16 faces that stand for
it, cut out as crop.py would cut them: a function of (seed, clip) alone.
"""

from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.drawn_face import Portrait
from pipeline.datasets.drawn_person import Pose, draw_person
from pipeline.datasets.easel import Image
from pipeline.datasets.expressions import apex, move_head, move_units
from pipeline.decode import frame_indices
from safe.config import Synthesize
from safe.sample import DEFAULT_FRAMES

LENGTHS: Final = (18, 44)
SHORT_LENGTHS: Final = (8, 15)  # frames; too short for 16 different ones, as in 0.1 % of DFEW
SHORT_SHARE: Final = 0.03
_GRAIN: Final = 3.0  # standard deviation of the sensor's noise, of 255
_SPARE: Final = 32  # pixels that the noise is larger than a frame
# What the detector makes of these faces (measured on 25 clips), cut out with a margin of 0.1: half
# the head's height is 0.47 of the square, give or take 5 % from clip to clip, and its middle lies
# 0.1 face units above the square's.
_SCALE: Final = 0.47
_SPREAD: Final = 0.05
_ABOVE: Final = 0.1
_JITTER: Final = 0.006  # share of the square that a smoothed box still wanders about the head


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip of the plan: who shows what, how strongly."""

    number: int  # from 1; the file's name
    identity: int
    fold: int  # 1..5, whose test set holds it
    label: str
    blend: str  # the other class of a blend, or ""
    share: float  # of the label in the blend, 0..1
    peak: float  # intensity at the apex, 0..1; 0 for a plain neutral face

    @property
    def key(self) -> str:
        """The name of the clip's file without its ending."""
        return f"{self.number:05d}"


def draw_clip(clip: Clip, settings: Synthesize) -> list[Image]:
    """Draw all frames of a clip, each uint8 [size, size, 3], RGB."""
    rng, units, poses = _move(clip, settings)
    return _draw(clip, settings, rng, units, poses)


def draw_faces(clip: Clip, settings: Synthesize, frames: int = DEFAULT_FRAMES) -> NDArray[np.uint8]:
    """Draw the faces that stand for a clip: uint8 [T, size, size, 3], RGB.

    The clip is the one that draw_clip draws, seen by a camera that follows the head as crop.py
    does: the head stays in the middle and all frames have one scale.
    """
    rng, units, poses = _move(clip, settings)
    chosen = frame_indices(len(poses), frames)
    # A generator of its own: light and background are drawn from the clip's.
    own = np.random.default_rng([settings.seed, 4, clip.number])
    usual = np.median([poses[i].scale for i in chosen]) * (1 + _SPREAD * own.standard_normal())
    wander = _JITTER * own.standard_normal((len(chosen), 2))
    close = []
    for i, (x, y) in zip(chosen, wander, strict=True):
        scale = _SCALE * poses[i].scale / usual
        close.append(replace(poses[i], x=0.5 + x, y=0.5 + y - _ABOVE * scale, scale=scale))
    return np.stack(_draw(clip, settings, rng, units[chosen], close))


def _move(
    clip: Clip, settings: Synthesize
) -> tuple[np.random.Generator, NDArray[np.float64], list[Pose]]:
    """Return the clip's generator, action units [frames, units] and head poses."""
    rng = np.random.default_rng([settings.seed, 2, clip.number])
    lengths = SHORT_LENGTHS if rng.random() < SHORT_SHARE else LENGTHS
    frames = int(rng.integers(*lengths, endpoint=True))
    target = clip.share * apex(rng, clip.label)
    if clip.blend:
        target += (1 - clip.share) * apex(rng, clip.blend)
    units = move_units(rng, target, peak=clip.peak, frames=frames, fps=settings.fps)
    return rng, units, move_head(rng, frames=frames, fps=settings.fps)


def _draw(
    clip: Clip,
    settings: Synthesize,
    rng: np.random.Generator,
    units: NDArray[np.float64],
    poses: list[Pose],
) -> list[Image]:
    """Draw the person in these poses, with the noise of one sensor."""
    person = draw_person(np.random.default_rng([settings.seed, 1, clip.identity]))
    size = settings.size
    portrait = Portrait(person, size, home=poses[0], rng=rng)
    grain = rng.normal(0, _GRAIN, (size + _SPARE, size + _SPARE, 3)).round().astype(np.int16)
    shifts = rng.integers(_SPARE, size=(len(poses), 2))
    images = []
    for unit, pose, (down, right) in zip(units, poses, shifts, strict=True):
        noise = grain[down : down + size, right : right + size]
        images.append(cv2.add(portrait.draw(unit, pose), noise, dtype=cv2.CV_8U))
    return images
