"""Faces of a video from window to window: whose each is, and what may be wrong with its picture.

The tracks of one window after the other go in, a number for each comes out: the same person keeps
the same number. Neighbouring windows share frames, so a face is known again by lying where it lay
in them; after a gap, by where it may have got to, if it does not look like somebody else
(pipeline/face/portrait.py): so a person who takes another's place after a cut gets a new number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.face.portrait import FAR, NEAR, Picture, one_person
from pipeline.face.track import NEARLY_ALL, Track, step_within_reach
from safe.sample import DEFAULT_FRAMES

_OVERLAP: Final = 0.3
"""IoU from which two boxes of one moment are one face; the detector gives no two that overlap more
(pipeline/face/detect.py)."""

_FORGET: Final = 3
"""Windows after which a face that was lost gets a new number: by then
anybody may be where it was."""

_RUN: Final = 4
"""Known frames that the speed of a face is taken from."""

_FLIGHT: Final = 1
"""Windows over which a lost face is thought to move on as it did."""


@dataclass
class _Person:
    """Where somebody was in the last window that showed them."""

    times: NDArray[np.int64]
    """[M], ascending: when the frames that had a detection are shown, in milliseconds."""
    boxes: NDArray[np.float32]
    """[M, 4]."""
    ends: tuple[Picture, Picture] | None
    """How the face looked at the first of these times and at the last, where that is known."""

    def at(self, times: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the boxes [N, 4] at some times between the first and the last known one."""
        sides = [np.interp(times, self.times, side) for side in self.boxes.T]
        return np.stack(sides, axis=1).astype(np.float32)

    def ahead(self, later: float) -> NDArray[np.float32]:
        """Return the box [4] so many milliseconds later, if the face goes on at its last speed."""
        times, boxes = self.times[-_RUN:], self.boxes[-_RUN:]
        moved = np.zeros(2)
        if len(times) == _RUN:
            centres = (boxes[:, :2] + boxes[:, 2:]) / 2
            moved = (centres[-1] - centres[0]) / (times[-1] - times[0]) * later
        return np.asarray(boxes[-1] + np.tile(moved, 2), np.float32)


class People:
    """Everybody whom a video has shown so far."""

    def __init__(self, *, step: int, max_gap: int, frames: int = DEFAULT_FRAMES) -> None:
        """Begin with nobody.

        Args:
            step: milliseconds from one of a window's frames to the next.
            max_gap: of those, the longest gap after which a face may be as far as without one.
            frames: T, of a window.
        """
        self._step, self._max_gap, self._frames = step, max_gap, frames
        self._people: dict[int, _Person] = {}
        self._count = 0

    def number(self, indices: Sequence[int], tracks: Sequence[Track]) -> list[int]:
        """Say who the faces of the next window are.

        Args:
            indices: when the T frames are shown, milliseconds, not descending; windows come in the
                order of time.
            tracks: the faces of the window.

        Returns:
            For each track a number from 1, no two alike; new people are counted in the order in
            which they appear, from left to right where they do so together.
        """
        recent = indices[0] - (_FORGET * self._frames + 1) * self._step
        self._people = {k: one for k, one in self._people.items() if one.times[-1] >= recent}
        here = [_sighting(indices, track) for track in tracks]
        known: dict[int, int] = {}  # track -> person
        for compare in (self._overlap, self._reach):
            pairs = sorted(
                (far, k, i)
                for k, person in self._people.items()
                for i, face in enumerate(here)
                if k not in known.values() and i not in known
                if (far := compare(person, face)) is not None
            )
            for _, k, i in pairs:
                if k not in known.values() and i not in known:
                    known[i] = k
        for i in sorted(range(len(here)), key=lambda i: (here[i].times[0], here[i].boxes[0, 0])):
            if i not in known:
                self._count += 1
                known[i] = self._count
            self._people[known[i]] = here[i]
        return [known[i] for i in range(len(here))]

    def _overlap(self, person: _Person, face: _Person) -> float | None:
        """Return minus the mean IoU while both are known; None if that is too little or never."""
        common = _while_known(person, face)
        if not common.any():
            return None
        near = (self._max_gap + 1) * self._step
        if not np.isin(face.times, person.times).any() and _strangers(person, face, near):
            return None  # cut in between
        iou = _iou(person.at(face.times[common]), face.boxes[common])
        return -iou if iou >= _OVERLAP else None

    def _reach(self, person: _Person, face: _Person) -> float | None:
        """Return how far a lost face would have moved, in face sizes; None if it is another's."""
        later = float(face.times[0] - person.times[-1])
        lost = later / self._step - 1
        if _while_known(person, face).any():
            return None  # at one moment in two places: two people
        if _strangers(person, face, (self._max_gap + 1) * self._step):
            return None
        boxes = [person.boxes[-1]]
        if 0 < later <= _FLIGHT * self._frames * self._step:
            boxes.append(person.ahead(later))
        steps = [
            step_within_reach(box, face.boxes[0], lost=lost, max_gap=self._max_gap) for box in boxes
        ]
        return min((step for step in steps if step is not None), default=None)


def _sighting(indices: Sequence[int], track: Track) -> _Person:
    """Take of a track what was detected, a frame that a short video repeats once."""
    times, rows = np.unique(np.array(indices)[track.detected], return_index=True)
    return _Person(times, track.boxes[track.detected][rows], track.ends)


def _strangers(person: _Person, face: _Person, near: int) -> bool:
    """Say whether a face looks like another person than the one who was seen before it.

    At most `near` milliseconds before it, or longer ago.
    """
    if person.ends is None or face.ends is None:
        return False
    bounds = NEAR if face.times[0] - person.times[-1] <= near else FAR
    return not one_person(person.ends[1], face.ends[0], bounds=bounds)


def _while_known(person: _Person, face: _Person) -> NDArray[np.bool_]:
    """Say which times of a face lie between the first and the last known one of a person."""
    return np.asarray((face.times >= person.times[0]) & (face.times <= person.times[-1]))


def _iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Return the mean over [N, 4] pairs of boxes of intersection over union."""
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    shared = sides.clip(0).prod(axis=1)
    areas = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1)
    return float((shared / (areas - shared)).mean())


# Flags: reasons to trust less what a model says of a window, from its faces and how they were found

FLAGS: Final = ("small", "blurred", "dark", "partly missing", "face lost", "cut")
"""Flags of this file, in the order in which they are given; a window may have others after them."""

_SMALL: Final = 1.0
"""Pixels of the video a stored pixel; below, the face had to be enlarged and has less detail than
the faces that the model was trained on."""

_SHARP: Final = 130.0
"""Variance of the Laplacian at 80 pixels a side. In 45 real clips of sharp faces (shared/videos and
mini_dfew) it was 214 to 938; the same faces blurred by one stored pixel had 26 to 97."""

_SIDE: Final = 80
"""Pixels. A larger face has less detail a pixel: at 128 the same faces had 82 to 506, and 6 to 18
when blurred, so the bound falls with the square of the side."""

_DARK: Final = 40.0
"""Mean luma, with what is around the face; in the same clips 79 to 141, and half of the darkest."""


def measure(faces: NDArray[np.uint8]) -> tuple[float, float]:
    """Measure the faces of a window, uint8 [T, S, S, 3], RGB.

    Returns:
        The sharpness: the variance of the Laplacian of the luma, median over the faces; and the
        mean luma, 0..255.
    """
    luma = [cv2.cvtColor(face, cv2.COLOR_RGB2GRAY) for face in faces]
    sharpness = [cv2.Laplacian(grey, cv2.CV_64F).var() for grey in luma]
    return float(np.median(sharpness)), float(np.mean(luma))


def find_flags(
    faces: NDArray[np.uint8], track: Track, *, side: float, damaged: bool
) -> tuple[str, ...]:
    """Say what may be wrong with the faces of one window.

    A face that comes late, goes early, is lost for longer than a gap may be, or is seen in less
    than three quarters of the frames is partly missing. One that is not in the last frame is lost:
    the detector missed none of the 2,240 faces in frames of ../shared, and none of 2,445 that were
    blurred, dimmed, noisy, shrunk to 10 % of the frame or badly compressed. One that shares its
    frames with another person's, or another scene, has a cut.

    Args:
        faces: uint8 [T, S, S, 3], RGB, as they are stored but for the JPEG.
        track: where they were found.
        side: pixels of the video that became the S pixels of a face.
        damaged: whether some of the frames could not be decoded, or with errors only.
    """
    sharpness, luma = measure(faces)
    size = faces.shape[1]
    rare = track.detected.mean() < NEARLY_ALL
    holds = (
        side < _SMALL * size,
        sharpness < _SHARP * (_SIDE / size) ** 2,
        luma < _DARK,
        damaged or rare or bool(track.held.any()),
        not track.detected[-1],
        bool(track.cuts),
    )
    return tuple(flag for flag, held in zip(FLAGS, holds, strict=True) if held)
