"""Portraits: a face with what is around it, small, compared with another by its looks.

In: frames of one video, uint8 [H, W, 3], RGB, and boxes in their pixels. Out: whether two frames
can show one person there, or, of the whole frames, one scene. Boxes alone cannot tell: after a hard
cut another person is often in the same position, and a fast head moves as far.

Two portraits are of two persons if neither light nor motion nor colour makes them one: the darker
is lit like the brighter; then no optical flow (Farneback's) lays the one onto the other, and the
colours of the faces (Lab) are others.

Measured on the videos of ../shared (10 people, 46 videos), on clips of 16 frames put together from
them, 1 to 22 frames of the video apart. Of 319 clips of one shot none had a cut, in grey neither;
with one frame 2.5 times as bright 0.3 %, a white frame 0, a fade in from black 0, a step in
brightness to a half or 1.6 times 0.3 to 0.6 %, a pan over a quarter of the frame 0.9 %; with a
camera that jumps by up to a quarter of the frame at every frame 24 %. Of 267 clips with a cut
between two people, at every position, all were told, also where head and scale are the same or
1 to 5 frames of another are put in; 99.6 % where head and shoulders are put into the other's
picture; in grey 99.3 % have no track of both. Fades over 1 to 5 of the frames: 88 to 94 % told.
"""

from functools import cache
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""uint8 [SIDE, SIDE, 3], RGB."""

SIDE: Final = 80
_AROUND: Final = 2.0
"""Side of a portrait in longer sides of the box: head, shoulders, some of the background."""
_FACE: Final = slice(SIDE // 5, SIDE - SIDE // 5)
"""Rows and columns of the face itself, with the hair."""

_GLANCE: Final = 0.9
"""Correlation of 16 x 16 grey cells of two faces from which nobody looks closer. Those of two
people had at most 0.71, with head and shoulders put into the other's picture; drawn ones 0.89."""


class Bounds(NamedTuple):
    """Below which two portraits are of two persons: all of the first three, or two of the last."""

    around: float
    """Correlation of the portraits, the one laid onto the other: of a person who turns the head it
    stays high, since what is around the face stays."""
    face: float
    """The same of the faces: of a person whom the camera follows it stays high."""
    colours: float
    """Common part of the colours of the faces: stays high in both cases."""
    grey: float
    """Of portraits and of faces: two people though their colours are alike, as in grey films."""


NEAR: Final = Bounds(around=0.9, face=0.86, colours=0.82, grey=0.7)
"""For neighbours of the 16 frames: of 1,969 pairs of one person, at most 8 frames of the video
apart, none was taken for two; of 1,092 that were 12 to 22 apart, one."""

FAR: Final = Bounds(around=0.8, face=0.85, colours=0.78, grey=0.0)
"""For frames farther apart: of 960 pairs of one person, 24 to 300 apart, none was taken for two."""

_SCENE: Final = 0.8  # correlation of whole frames, the one laid onto the other
_SCENE_COLOURS: Final = 0.75
_FLAT: Final = 6.0
"""Standard deviation of grey, 0..255, below which a frame shows nothing: black, white, fog."""


class Portraits:
    """What the frames of a clip show in some boxes, each cut out once."""

    def __init__(self, frames: NDArray[np.uint8]) -> None:
        """Take the frames, uint8 [T, H, W, 3]."""
        self._frames = frames
        self._glimpses: dict[tuple[int, bytes], NDArray[np.float32]] = {}
        self._pictures: dict[tuple[int, bytes], Picture] = {}

    def one_person(
        self,
        t: int,
        box: NDArray[np.float32],
        u: int,
        other: NDArray[np.float32],
        *,
        bounds: Bounds = NEAR,
    ) -> bool:
        """Say whether box [4] of frame t and another of frame u can be of one person."""
        if float(self._glimpse(t, box) @ self._glimpse(u, other)) >= _GLANCE:
            return True
        return one_person(self.picture(t, box), self.picture(u, other), bounds=bounds)

    def one_scene(self, t: int, u: int) -> bool:
        """Say whether two frames can be of one scene; one that shows nothing is of any."""
        height, width = self._frames.shape[1:3]
        corner = np.array([0, 0, width, height], np.float32)
        one, two = (_sample(self._frames[position], corner) for position in (t, u))
        if min(_grey(one).std(), _grey(two).std()) < _FLAT:
            return True
        return any(
            _moved(a, b) >= _SCENE or _common(a, b) >= _SCENE_COLOURS
            for a, b in ((one, two), _same_light(one, two))
        )

    def picture(self, t: int, box: NDArray[np.float32]) -> Picture:
        """Return the portrait of box [4] in frame t."""
        key = t, box.tobytes()
        if key not in self._pictures:
            self._pictures[key] = _sample(self._frames[t], _square(box, _AROUND))
        return self._pictures[key]

    def _glimpse(self, t: int, box: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 [256] of mean 0 and norm 1: the face in a few grey cells."""
        key = t, box.tobytes()
        if key not in self._glimpses:
            face = _sample(self._frames[t], _square(box, 1.2), side=16)
            cells = _grey(face).astype(np.float32).ravel()
            cells -= cells.mean()
            self._glimpses[key] = cells / max(float(np.linalg.norm(cells)), 1e-6)
        return self._glimpses[key]


def one_person(a: Picture, b: Picture, *, bounds: Bounds = NEAR) -> bool:
    """Say whether two portraits can be of one person, as they are or in the same light."""
    return _alike(a, b, bounds) or _alike(*_same_light(a, b), bounds)


def _alike(a: Picture, b: Picture, bounds: Bounds) -> bool:
    around = _moved(a, b)
    if around >= bounds.around:
        return True
    face = _moved(_face(a), _face(b))
    if face >= bounds.face:
        return True
    return max(around, face) >= bounds.grey and _common(_face(a), _face(b)) >= bounds.colours


def _same_light(a: Picture, b: Picture) -> tuple[Picture, Picture]:
    """Light the darker of two pictures like the brighter, as a flash or a lamp would."""
    means = [float(_grey(each).mean()) for each in (a, b)]
    return (_lit(a, means[1]), b) if means[0] < means[1] else (a, _lit(b, means[0]))


def _lit(picture: Picture, goal: float) -> Picture:
    """Make a picture brighter until its mean is about the goal, white staying white."""
    light = picture.astype(np.float32)
    for _ in range(4):  # what is white already grows no brighter, so one step is not enough
        light *= goal / max(float(light.clip(0, 255).mean()), 1.0)
    return light.clip(0, 255).astype(np.uint8)


def _face(picture: Picture) -> Picture:
    return np.ascontiguousarray(picture[_FACE, _FACE])


def _square(box: NDArray[np.float32], around: float) -> NDArray[np.float32]:
    """Return the square round the middle of a box, `around` times as long as its longer side."""
    middle, half = (box[:2] + box[2:]) / 2, max(box[2:] - box[:2]) * around / 2
    return np.concatenate([middle - half, middle + half])


def _sample(frame: NDArray[np.uint8], corners: NDArray[np.float32], *, side: int = SIDE) -> Picture:
    """Return what lies between two corners as uint8 [side, side, 3]; beyond the frame it repeats.

    From four pixels a cell, not from all: a portrait costs 0.4 ms, however large the face is.
    """
    steps = (np.arange(2 * side) + 0.5) / (2 * side)
    (x0, y0, x1, y1), (height, width) = corners, frame.shape[:2]
    rows = np.clip(y0 + (y1 - y0) * steps, 0, height - 1).astype(int)
    columns = np.clip(x0 + (x1 - x0) * steps, 0, width - 1).astype(int)
    cells = np.ascontiguousarray(frame[rows][:, columns])
    return np.asarray(cv2.resize(cells, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def _grey(picture: Picture) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)


def _moved(a: Picture, b: Picture) -> float:
    """Return the correlation of b with a, every pixel of which moved as optical flow says.

    Farneback's flow, because it gives the same bits with any number of threads.
    """
    flow = np.zeros((*a.shape[:2], 2), np.float32)
    flow = cv2.calcOpticalFlowFarneback(_grey(b), _grey(a), flow, 0.5, 3, 9, 3, 7, 1.5, 0)
    rows, columns = np.indices(a.shape[:2], np.float32)
    moved = cv2.remap(
        a, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    one, two = (each.reshape(-1, 3).astype(np.float32) for each in (moved, b))
    one, two = one - one.mean(axis=0), two - two.mean(axis=0)
    norm = float(np.linalg.norm(one) * np.linalg.norm(two))
    return float((one * two).sum()) / norm if norm > 0 else 0.0


def _common(a: Picture, b: Picture) -> float:
    """Return the common part, 0 to 1, of the colours of two pictures."""
    return float(np.minimum(_colours(a), _colours(b)).sum())


def _colours(picture: Picture) -> NDArray[np.float32]:
    """Return the shares of 8 x 12 x 12 colours in Lab, blurred: a shade more is no other colour."""
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)
    counts = cv2.calcHist([lab], [0, 1, 2], None, [8, 12, 12], [0, 256, 64, 192, 64, 192])
    for axis, cells in enumerate(counts.shape):
        counts = np.moveaxis(np.tensordot(_blur(cells), counts, (1, axis)), 0, axis)
    return np.asarray(counts / max(float(counts.sum()), 1.0), np.float32)


@cache
def _blur(cells: int) -> NDArray[np.float32]:
    """Return the matrix of a filter of a quarter, a half, a quarter."""
    near = np.eye(cells, k=-1) + np.eye(cells, k=1)
    return np.asarray(np.eye(cells) / 2 + near / 4, np.float32)
