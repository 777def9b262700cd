"""What are the frames of some windows in the middle of a long video?

A file is surveyed once: how many frames, when each is shown, how large. Then any stretch of it can
be decoded by itself: from the key frame before it, with the pixels that decoding from the start
would give, holding the 16 frames of one window at a time. Native decoders can hang or crash: call
this inside pipeline.tasks.engine.run_tasks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import av.error
import numpy as np
from numpy.typing import NDArray

from pipeline.decode import Decoded, frame_indices, open_file
from pipeline.video import decoded_frames, list_frames, open_video, reading, upright
from safe.errors import DataError
from safe.sample import FRAMES

LONGEST: Final = 24 * 60 * 60 * 60
"""Frames of the longest video: 24 hours at 60 a second. Its time stamps take 42 MB."""

_FPS: Final = 25.0  # frames a second of a video that says nothing of it
_TRUSTED: Final = 0.1  # part by which the stamps may differ from what the container says
_EARLIER: Final = 12.0
"""Seconds that the second attempt to seek goes further back: encoders put a key frame at least
every 250 frames, which is 10 seconds at 25 a second."""


@dataclass(frozen=True)
class Picture:
    """How the decoder gives a frame of the video."""

    width: int
    """Pixels, before it is turned upright."""
    height: int
    rotation: int
    """Degrees counter-clockwise that turn it upright."""


@dataclass(frozen=True)
class Survey:
    """What a file says of its video, and how its first frame looks."""

    stamps: NDArray[np.int64]
    """Time stamps of the frames, ascending; fewer than `length` where the file is cut off, and none
    at all where a frame has no stamp of its own."""
    length: int
    """Frames to show."""
    tick: float
    """Seconds of one unit of the stamps."""
    fps: float
    """Frames a second, above 0."""
    picture: Picture

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright frame, pixels."""
        sides = (self.picture.width, self.picture.height)
        return sides if round(self.picture.rotation / 90) % 2 == 0 else sides[::-1]

    def seconds(self, place: int) -> float:
        """Return when the frame at a place, 0..length, is shown, counted from the first frame."""
        if not len(self.stamps):
            return place / self.fps
        known = min(place, len(self.stamps) - 1)
        ticks = int(self.stamps[known]) - int(self.stamps[0])
        return ticks * self.tick + (place - known) / self.fps


@dataclass(frozen=True)
class Stretch:
    """Consecutive windows of a video, and how to find their frames in it."""

    path: Path
    spans: tuple[tuple[int, int], ...]
    """Of each window its first frame and the one after its last. Windows have one length, and lie a
    multiple of a sixteenth of it apart: so a window shares its first frames with the one before."""
    stamps: NDArray[np.int64]
    """Time stamps of the frames from `first` on, as far as the stretch may need them; or none."""
    first: int
    tick: float
    picture: Picture


def survey(path: Path) -> Survey:
    """List the frames of a video and decode its first.

    Raises:
        DataError: as pipeline.decode.read_video does, and if there are more than LONGEST frames.
    """
    with open_file(path) as file:
        listing = list_frames(file, most=LONGEST)
        stamps = np.fromiter(listing.places, np.int64, len(listing.places))
        with reading(), open_video(file) as container:
            for frame, _ in decoded_frames(container):
                if not listing.places or frame.pts in listing.places:
                    picture = Picture(frame.width, frame.height, frame.rotation)
                    break
            else:
                raise DataError("no frame could be decoded")
    fps = _frames_a_second(listing.fps, stamps, listing.tick)
    return Survey(stamps, listing.length, listing.tick, fps, picture)


def _frames_a_second(said: float, stamps: NDArray[np.int64], tick: float) -> float:
    """Believe a container (0: it says nothing) only if its time stamps say about the same.

    What a browser records often claims 1000 frames a second.
    """
    shown = float(stamps[-1] - stamps[0]) * tick if len(stamps) else 0.0
    if not shown:
        return said or _FPS
    mean = (len(stamps) - 1) / shown
    return said if abs(said - mean) <= _TRUSTED * mean else mean


def places(span: tuple[int, int]) -> list[int]:
    """Return the 16 places of the frames of a window, given its first and the one after it."""
    start, end = span
    return [start + index for index in frame_indices(end - start)]


def cut_stretch(path: Path, film: Survey, spans: Sequence[tuple[int, int]]) -> Stretch:
    """Take of a survey what decoding these windows needs, and no more: it travels to a child."""
    start, end = spans[0][0], spans[-1][1]
    spare = spans[0][1] - start  # frames around, one of which may stand for a frame that is lost
    first = max(0, min(start - spare, len(film.stamps) - 1))  # at least one, where there are any
    stamps = film.stamps[first : end + spare].copy()
    return Stretch(path, tuple(spans), stamps, first, film.tick, film.picture)


def read_windows(stretch: Stretch) -> Iterator[Decoded | None]:
    """Decode the frames of the windows, one window after the other.

    A frame that does not come is replaced by the nearest that does, of those in the stretch and
    around it; a frame that was decoded with errors is used. Either makes `damage` tell so.

    Yields:
        For each window its Decoded, with places of the whole video as indices, all frames at the
        size of the video's first; its pixels are overwritten when the next one is asked for. None
        for a window that nothing was decoded of.

    Raises:
        DataError: what PyAV says, or what is wrong with the file.
    """
    with open_file(stretch.path) as file, reading():
        windows = [places(span) for span in stretch.spans]
        found = _nearest(_placed(file, stretch), sorted(set(chain.from_iterable(windows))))
        pixels: NDArray[np.uint8] | None = None
        held: dict[int, tuple[int, bool]] = {}  # of each frame of the window: how far off, sound
        before: list[int] = []
        for window in windows:
            kept = {place: before.index(place) for place in window if place in held}
            held = {place: held[place] for place in kept}
            for row, place in enumerate(window):
                if place in kept:
                    if pixels is not None:
                        pixels[row] = pixels[kept[place]]  # from further down: windows move on
                    continue
                frame, distance, sound = next(found)
                held[place] = distance, sound
                if frame is None:
                    continue
                image = upright(frame, stretch.picture)
                if pixels is None:
                    pixels = np.zeros((FRAMES, *image.shape), np.uint8)
                pixels[row] = image
            before = window
            yield _decoded(window, held, pixels)


def _decoded(
    window: list[int],
    held: dict[int, tuple[int, bool]],
    pixels: NDArray[np.uint8] | None,
) -> Decoded | None:
    """Put a window together; None if no frame of it came from within it."""
    step = window[1] - window[0]
    if pixels is None or all(distance >= step for distance, _ in held.values()):
        return None
    bad = sum(distance > 0 or not sound for distance, sound in held.values())
    damage = f"{bad} of {FRAMES} frames damaged" if bad else ""
    height, width = pixels.shape[1:3]
    return Decoded(pixels, window, step * FRAMES, 0.0, width, height, damage)


def _nearest(
    frames: Iterator[tuple[int, Any, bool]], wanted: list[int]
) -> Iterator[tuple[Any, int, bool]]:
    """Yield for each wanted place, ascending, the nearest frame, how far off it is, if it is sound.

    Of two as near it is the earlier. Without any frame at all: None, a distance without end.
    """
    nothing: tuple[int, Any, bool] = (-(2**62), None, False)
    before = after = nothing
    for place in wanted:
        while after is not None and after[0] < place:
            before, after = after, next(frames, None)  # type: ignore[assignment]
        best = before if after is None or place - before[0] <= after[0] - place else after
        yield best[1], abs(best[0] - place), best[2]


def _placed(file: Any, stretch: Stretch) -> Iterator[tuple[int, Any, bool]]:
    """Yield the frames of a stretch and around it: place, frame, whether it is sound; ascending.

    Decoding begins at the key frame before the first wanted frame. Where the container finds none,
    or one that is shown too late, at one further back; at last at the start.
    """
    last = -1
    for place, frame, sound in _from_before(file, stretch):
        if place > last:  # a stream whose order changes half-way may show a frame too late
            last = place
            yield place, frame, sound


def _from_before(file: Any, stretch: Stretch) -> Iterator[tuple[int, Any, bool]]:
    if not len(stretch.stamps):  # no time stamps: count from the start
        with open_video(file) as container:
            for place, (frame, sound) in enumerate(decoded_frames(container)):
                yield place, frame, sound
        return
    known = {int(stamp): stretch.first + i for i, stamp in enumerate(stretch.stamps)}
    start = places(stretch.spans[0])[0] - stretch.first
    goal = int(stretch.stamps[min(start, len(stretch.stamps) - 1)])
    for since in (goal, goal - round(_EARLIER / stretch.tick), None):
        with open_video(file) as container:
            frames = decoded_frames(container)
            if since is not None:
                key = _seek(container, frames, since=since, goal=goal)
                if key is None:
                    continue
                frames = chain([key], frames)
            for frame, sound in frames:
                if frame.pts in known:
                    yield known[frame.pts], frame, sound
            return


def _seek(
    container: Any, frames: Iterator[tuple[Any, bool]], *, since: int, goal: int
) -> tuple[Any, bool] | None:
    """Go to the key frame before the stamp `since`; return it, or None if it comes after `goal`.

    What a decoder shows between a seek and the first key frame is left out: it is built on frames
    that the decoder has not seen.
    """
    try:
        container.seek(since, stream=container.streams.best("video"))
    except av.error.FFmpegError:
        return None
    for frame, sound in frames:
        if frame.pts is None or frame.pts > goal:
            return None
        if frame.key_frame:
            return frame, sound
    return None
