"""Clip: everything that is drawn of one clip, as values, and its pictures.

In: a Planned and the settings. Out: Drawn, which makes the frames of the video uint8 [N, S, S, 3]
or the strip of faces uint8 [T, S, S, 3]: a function of (seed, clip) alone.
"""

from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from pipeline.synthetic.expressions import blend
from pipeline.synthetic.heads import face_places, render_heads
from pipeline.synthetic.motion import Motion, draw_motion
from pipeline.synthetic.occluder import Occluder, cover, draw_occluder
from pipeline.synthetic.person import Person, draw_person
from pipeline.synthetic.plan import Planned
from pipeline.synthetic.scene import Scene, draw_scene
from pipeline.synthetic.traits import linear
from pipeline.video.decode import frame_indices
from safe.config import Synthesize
from safe.taxonomy import BASIC

LENGTHS: Final = (16, 28)
SHORT_LENGTHS: Final = (8, 15)  # frames; too short for 16 different ones, as in 0.1 % of DFEW
SHORT_SHARE: Final = 0.03
HUES: Final = (
    (200, 60, 60), (60, 90, 200), (128, 128, 128), (220, 150, 40), (70, 180, 80), (150, 80, 190),
    (60, 180, 190),
)  # fmt: skip
"""RGB of the backgrounds that go with the classes, where `cue` says so."""

# From clip to clip the detector's box differs by so much of its side from what is usual (120 frames
# of 40 people), and its middle by so many sides.
_SPREAD: Final = 0.065
_ASIDE: Final = 0.03
_JITTER: Final = 0.006  # share of the square by which a smoothed box still wanders about the face


@dataclass(frozen=True, eq=False, kw_only=True)
class Drawn:
    """What was drawn by lot of a clip; the pictures follow from it."""

    plan: Planned
    person: Person
    scene: Scene
    motion: Motion
    places: NDArray[np.float64]  # [N, 3]: x, y and side of the face, shares of the frame
    occluder: Occluder | None
    pixels: int  # side of the face as a poor camera sees it; 0: as it is
    quality: int  # of that camera's JPEG

    @property
    def apex(self) -> int:
        """The frame in which the expression shows most."""
        return int(self.motion.envelope.argmax())

    def frames(self, size: int) -> NDArray[np.uint8]:
        """Draw the whole frames of the video, uint8 [N, size, size, 3], RGB."""
        motion = self.motion
        frames = render_heads(
            self.person,
            self.scene,
            motion.units,
            motion.turns,
            size,
            places=self.places,
            follow=False,
        )
        return self._finish(frames, self.places)

    def faces(self, size: int, frames: int, margin: float) -> NDArray[np.uint8]:
        """Draw the faces that stand for the clip, uint8 [frames, size, size, 3], RGB.

        As the pipeline would cut them out of the video with that margin: the square follows the
        face, and all frames have one scale.
        """
        chosen = frame_indices(len(self.motion.units), frames)
        rng = np.random.default_rng([self.scene.seed, 4])
        wander = np.float32(_JITTER) * rng.standard_normal((frames, 2), dtype=np.float32)
        places = face_places(frames, margin=margin, wander=wander, detected=True)
        places[:, 2] /= 1 + _SPREAD * rng.standard_normal()
        places[:, :2] += places[:, 2:] * _ASIDE * rng.standard_normal(2)
        drawn = render_heads(
            self.person,
            self.scene,
            self.motion.units[chosen],
            self.motion.turns[chosen],
            size,
            places=places,
        )
        return self._degrade(self._finish(drawn, places))

    def _finish(self, frames: NDArray[np.uint8], places: NDArray[np.float64]) -> NDArray[np.uint8]:
        return frames if self.occluder is None else cover(frames, self.occluder, places)

    def _degrade(self, faces: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See the faces through a poor camera."""
        if not self.pixels:
            return faces
        side, small = faces.shape[1], (self.pixels, self.pixels)
        for face in faces:
            seen = cv2.resize(face, small, interpolation=cv2.INTER_AREA)
            jpeg = simplejpeg.encode_jpeg(seen, self.quality, "RGB", "420")
            stored = simplejpeg.decode_jpeg(jpeg, "RGB")
            face[:] = cv2.resize(stored, (side, side), interpolation=cv2.INTER_LINEAR)
        return faces


def draw_clip(plan: Planned, settings: Synthesize) -> Drawn:
    """Draw by lot how a planned clip looks."""
    rng = np.random.default_rng([settings.seed, 2, plan.number])
    variety = settings.variety
    person = draw_person_of(plan, settings)
    frames = int(rng.integers(*_lengths(rng), endpoint=True))
    shares = {plan.label: plan.share} | ({plan.blend: 1 - plan.share} if plan.blend else {})
    motion = draw_motion(
        rng,
        blend(shares, rng),
        peak=plan.peak,
        frames=frames,
        fps=settings.fps,
        shown=settings.shown,
        unrest=0.5 + variety,
    )
    scene = draw_scene(rng, turn=0.6 + variety, dark=0.05 + 0.25 * variety)
    poor = rng.random() < 0.5 * variety
    pixels, quality = int(rng.integers(24, 81)), int(rng.integers(25, 91))
    covered = rng.random() < settings.occlusion
    occluder = draw_occluder(rng, person.traits)
    return Drawn(
        plan=plan,
        person=person,
        scene=_with_cue(scene, plan.cue, settings.cue),
        motion=motion,
        places=_home(rng, frames),
        occluder=occluder if covered else None,
        pixels=pixels if poor else 0,
        quality=quality if poor else 100,
    )


def draw_video(
    number: int, settings: Synthesize, *, label: str = "happy", peak: float = 1.0
) -> NDArray[np.uint8]:
    """Draw the video of a clip that is in no plan: of person `number`, uint8 [N, S, S, 3], RGB."""
    who = {"number": number, "identity": number, "fold": 1, "label": label, "listed": label}
    plan = Planned(**who, blend="", share=1.0, peak=peak)  # type: ignore[arg-type]
    return draw_clip(plan, settings).frames(settings.size)


def draw_person_of(plan: Planned, settings: Synthesize) -> Person:
    """Return the person of a clip, whose face at rest is drawn the more widely the more variety."""
    return draw_person(settings.seed, plan.identity, 0.2 + 0.8 * settings.variety)


def _lengths(rng: np.random.Generator) -> tuple[int, int]:
    return SHORT_LENGTHS if rng.random() < SHORT_SHARE else LENGTHS


def _home(rng: np.random.Generator, frames: int) -> NDArray[np.float64]:
    """Draw where in the frame the face is, and how it wanders: [N, 3]."""
    home = np.array(
        [0.5 + 0.03 * rng.normal(), 0.47 + 0.02 * rng.normal(), rng.uniform(0.42, 0.52)]
    )
    reach, phase = np.array([0.012, 0.01, 0.006]), rng.uniform(0, 2 * np.pi, 3)
    waves = np.sin(np.arange(frames)[:, None] / frames * rng.uniform(1, 5, 3) + phase)
    return np.asarray(home + reach * waves)


def _with_cue(scene: Scene, cue: int, kind: str) -> Scene:
    """Let the background, or the light, go with a class."""
    if cue < 0:
        return scene
    if kind == "background":
        return replace(scene, background=linear(HUES[cue]), clutter=0)
    azimuth = np.deg2rad(-75 + 150 * cue / (len(BASIC) - 1))
    return replace(scene, azimuth=float(azimuth), elevation=0.3, key=1.3, fill=0.05)
