"""The annotated video: what the model saw and said, drawn into the video itself.

A video and marks (a face's boxes in 16 frames, words and a colour) go in; out comes an mp4 (H.264,
upright, the frames at their times, without sound) with a box about each face in every frame. It is
decoded as all videos are: through the allow-list, frame by frame, in a child that may be killed.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.pool.children import Failure
from pipeline.pool.pool import Pool
from pipeline.stretch import Survey, survey
from pipeline.video.container import decoded_frames, open_video, reading
from pipeline.video.decode import open_file
from pipeline.video.picture import Pictures
from safe.errors import DataError
from safe.files import atomic_file, naming

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]

_PACE: Final = 15.0
"""Seconds that a second of video may take, besides the deadline; 4K on one slow core takes 5."""

_TICK: Final = Fraction(1, 90_000)
_ENCODER: Final = {"preset": "veryfast", "crf": "21", "threads": "4"}
_FONT: Final = cv2.FONT_HERSHEY_DUPLEX


@dataclass(frozen=True)
class Mark:
    """What to draw about one face during one window."""

    face: int
    indices: tuple[int, ...]
    """T places of frames, not descending."""
    boxes: NDArray[np.float32]
    """[T, 4]: x0, y0, x1, y1 in pixels of the upright frame."""
    text: str
    """ASCII; the built-in font has no other letters."""
    colour: Colour
    """RGB, 0..255, of the box and behind the words."""

    @property
    def middle(self) -> float:
        """The position in the middle of the window."""
        return (self.indices[0] + self.indices[-1]) / 2

    def covers(self, position: int) -> bool:
        """Whether a frame is in the window; the first of T frames is half a step inside it."""
        half = (self.indices[-1] - self.indices[0]) / (2 * len(self.indices) - 2)
        return self.indices[0] - half - 1 <= position <= self.indices[-1] + half + 1

    def box(self, position: int) -> Box:
        """Return the box in one frame, interpolated, in whole pixels."""
        x0, y0, x1, y1 = (round(float(np.interp(position, self.indices, c))) for c in self.boxes.T)
        return x0, y0, x1, y1


class Marks:
    """The marks of a video: of each face the one that is drawn into a frame."""

    def __init__(self, marks: Sequence[Mark]) -> None:
        """Sort the marks by face and time."""
        self._marks: dict[int, list[Mark]] = {}
        for mark in sorted(marks, key=lambda mark: mark.middle):
            self._marks.setdefault(mark.face, []).append(mark)
        self._middles = {face: [mark.middle for mark in of] for face, of in self._marks.items()}

    def at(self, position: int) -> Iterator[Mark]:
        """Yield for each face the window whose middle is nearest, if it covers the frame."""
        for face, marks in self._marks.items():
            after = bisect_left(self._middles[face], position)
            near = [mark for mark in marks[max(after - 1, 0) : after + 1] if mark.covers(position)]
            if near:
                yield min(near, key=lambda mark: abs(mark.middle - position))


@dataclass(frozen=True)
class _Task:
    video: Path
    out: Path
    marks: Sequence[Mark]


def annotate(
    video: Path,
    out: Path,
    marks: Sequence[Mark],
    *,
    seconds: float,
    pool: Pool,
) -> None:
    """Write the video with its marks.

    Args:
        video: the file.
        out: the mp4 to write; it appears whole.
        marks: what to draw.
        seconds: length of the video, which the time it may take grows with.
        pool: who decodes, draws and encodes; its deadline is what that may take besides.

    Raises:
        DataError: if the video cannot be decoded, or took too long or too much memory.
        OSError: if the file cannot be written.
    """
    with atomic_file(out) as temporary:
        task = _Task(video, temporary, marks)
        longer = replace(pool, deadline=pool.deadline + _PACE * seconds)
        for result in longer.run(_write, [task]):
            if isinstance(result, Failure):
                raise DataError(result.reason)


def _write(task: _Task) -> None:
    """Be the child's work: decode, draw and encode, a frame at a time."""
    marks = Marks(task.marks)
    last = -1
    film = survey(task.video)
    with (
        open_file(task.video) as file,
        naming(task.out),
        av.open(str(task.out), "w", format="mp4") as target,
    ):
        stream = None
        for position, seconds, pixels in _every_frame(file, film):
            # H.264 in 4:2:0 has even sides: an odd last row or column is cut off.
            image = np.ascontiguousarray(pixels[: len(pixels) & ~1, : pixels.shape[1] & ~1])
            if stream is None:
                stream, start = _stream(target, image, film.fps), seconds
            for mark in marks.at(position):
                draw_mark(image, mark.box(position), mark.text, mark.colour)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            last = max(last + 1, round((seconds - start) / _TICK))  # must grow
            frame.pts, frame.time_base = last, _TICK
            target.mux(stream.encode(frame))
        if stream is None:
            raise DataError("no frame could be decoded")
        target.mux(stream.encode())


def _every_frame(file: Any, film: Survey) -> Iterator[tuple[int, float, NDArray[np.uint8]]]:
    """Yield the position, the time in seconds and the pixels of each frame that decodes.

    The pixels are uint8 [H, W, 3], RGB, upright, of the survey's size.
    """
    listing, pictures = film.listing, Pictures(film.shape)
    with reading(), open_video(file) as container:
        for count, (frame, _) in enumerate(decoded_frames(container)):
            position = listing.position(frame.pts) if listing.by_stamp else count
            if position is not None:  # else an edit list hides it
                yield position, film.seconds(position), pictures.show(frame, film.size)


def _stream(target: Any, image: NDArray[np.uint8], fps: float) -> Any:
    rate = Fraction(fps).limit_denominator(1001)
    stream = target.add_stream("libx264", rate=rate, options=_ENCODER)
    stream.height, stream.width = image.shape[:2]
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = _TICK
    return stream


def draw_mark(image: NDArray[np.uint8], box: Box, text: str, colour: Colour) -> None:
    """Draw a box and its words above it, or inside where there is no room, into an image.

    Args:
        image: uint8 [H, W, 3], RGB, contiguous; changed.
        box: parts outside the image are cut off.
        text: ASCII.
        colour: the words are black or white on it, whichever is easier to read.
    """
    height, width = image.shape[:2]
    scale = max(0.4, min(height, width) / 750)
    thick = max(1, round(2 * scale))
    x0, y0, x1, y1 = box
    cv2.rectangle(image, (x0, y0), (x1, y1), colour, thick + 1, cv2.LINE_AA)
    (wide, high), below = cv2.getTextSize(text, _FONT, scale, 1)
    pad = round(4 * scale) + 1
    tall = high + below + 2 * pad
    x = max(0, min(x0 - thick, width - wide - 2 * pad))
    bottom = min(max(y0 if y0 >= tall else y0 + tall, tall), height)
    cv2.rectangle(image, (x, bottom - tall), (x + wide + 2 * pad, bottom), colour, -1)
    bright = np.dot(colour, (0.299, 0.587, 0.114)) > 140
    ink = (0, 0, 0) if bright else (255, 255, 255)
    cv2.putText(image, text, (x + pad, bottom - below - pad), _FONT, scale, ink, 1, cv2.LINE_AA)
