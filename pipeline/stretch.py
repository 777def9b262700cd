"""The frames of some windows in the middle of a long video.

In: a file, surveyed once: how many frames, when each is shown, how large. Out: the 16 frames of one
window after the other. Any stretch of a file can be decoded by itself, from the key frame before
it, with the pixels that decoding from the start would give. Native decoders can hang or crash: call
this inside a child of pipeline.pool.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, Final

import av.error
import numpy as np
from numpy.typing import NDArray

from pipeline.video.container import decoded_frames, open_video, read_packets, reading, video_stream
from pipeline.video.decode import Decoded, notes_of, open_file
from pipeline.video.listing import FPS, Listing, list_by_decoding, list_frames
from pipeline.video.picture import TURNED, Pictures, Size, largest, pixel_shape, turns
from safe.errors import DataError

LONGEST: Final = 24 * 60 * 60 * 60
"""Frames of the longest video: 24 hours at 60 a second. Its time stamps take 42 MB."""

_EARLIER: Final = 12.0
"""Seconds that the second attempt to seek goes further back: encoders put a key frame at least
every 250 frames, which is 10 seconds at 25 a second."""

_LOOKS: Final = 500
"""Key frames at most whose size is looked at."""
_LOOK: Final = 2.0
"""Seconds from one to the next, at least."""


@dataclass(frozen=True)
class Survey:
    """What a file says of its video, and how its frames look."""

    listing: Listing
    fps: float
    """Frames a second, above 0."""
    shape: Fraction
    """Width over height of a pixel."""
    size: Size
    """Width and height that all upright frames are fitted into, pixels."""

    @property
    def length(self) -> int:
        """Frames to show."""
        return self.listing.length

    @property
    def start(self) -> float:
        """Seconds on a player's clock of the first frame; sound may begin before it."""
        return self.seconds(0)

    @property
    def end(self) -> float:
        """Seconds on that clock at which the picture ends."""
        return self.seconds(self.length)

    def seconds(self, position: int) -> float:
        """Return when the frame at a position, 0..length, is shown, on a player's clock."""
        listing = self.listing
        known = min(position, len(listing.stamps) - 1)
        ticks = int(listing.stamps[known]) - int(listing.stamps[0])
        if position > known:
            ticks += listing.last
        return listing.start + ticks * listing.tick + max(0, position - known - 1) / self.fps

    def positions(self, seconds: NDArray[np.floating]) -> list[int]:
        """Return which frames are on the screen at some moments on a player's clock."""
        listing = self.listing
        ticks = int(listing.stamps[0]) + (seconds - listing.start) / listing.tick
        shown = listing.at(ticks)
        late = ticks - (int(listing.stamps[-1]) + listing.last)
        lost = np.floor(late * listing.tick * self.fps).astype(np.int64) + 1  # of a cut-off file
        return [int(i) for i in np.minimum(shown + np.maximum(lost, 0), self.length - 1)]


@dataclass(frozen=True)
class Stretch:
    """Windows of a video, one after the other, and how to find their frames in it."""

    path: Path
    windows: tuple[tuple[int, ...], ...]
    """Of each window the places of its 16 frames. What a window has of the frames up to the last of
    the window before, that one has too."""
    stamps: NDArray[np.int64]
    """Time stamps of the frames from `first` on, as far as the stretch may need them; none where
    frames are known by their order."""
    first: int
    tick: float
    fps: float
    shape: Fraction
    size: Size


def survey(path: Path) -> Survey:
    """List the frames of a video and see how large they are.

    Raises:
        DataError: as pipeline.video.decode.read_video does, and if there are more than LONGEST
        frames.
    """
    with open_file(path) as file:
        listing = list_frames(file, most=LONGEST)
        listing = _held_against_decoder(file, listing)
        with reading(), open_video(file) as container:
            stream = video_stream(container)
            pictures = Pictures(pixel_shape(stream))
            sizes = [pictures.size(frame) for frame in _looked_at(container, stream, listing)]
    if not sizes:
        raise DataError("no frame could be decoded")
    return Survey(listing, listing.fps or FPS, pictures.shape, largest(sizes))


def _held_against_decoder(file: Any, listing: Listing) -> Listing:
    """Return the list of the frames that the decoder gives, where the container's is not that.

    A list by stamps is compared by its first frame, since what a file lacks it lacks at its start:
    frames built on others that were cut away. A list by order only decoding can confirm.
    """
    if not (listing.by_stamp and listing.stamped):
        return list_by_decoding(file, most=LONGEST)
    with reading(), open_video(file) as container:
        for frame, _ in decoded_frames(container):
            position = listing.position(frame.pts)
            if position is None:
                if frame.pts is not None and frame.pts < listing.stamps[0]:
                    continue  # an edit list hides it
                break
            if frame.pts != listing.head:  # it is the first because others were lost
                return listing
            stamps = listing.stamps[position:]
            return replace(listing, stamps=stamps, length=listing.length - position)
    return list_by_decoding(file, most=LONGEST)


def _looked_at(container: Any, stream: Any, listing: Listing) -> Iterator[Any]:
    """Yield the first frame, and key frames all over the video where their size may change."""
    frames = decoded_frames(container)
    first = next(frames, None)
    if first is None:
        return
    yield first[0]
    if listing.plain:
        return
    shown = int(listing.stamps[-1] - listing.stamps[0])
    apart = max(_LOOK / listing.tick, shown / _LOOKS)
    try:
        container.seek(0)
    except av.error.FFmpegError:  # an AVI that begins with empty chunks
        return
    context = stream.codec_context
    context.flush_buffers()
    context.skip_frame = "NONKEY"
    due: float = 0
    for packet in read_packets(container, stream):
        if packet is not None:
            if packet.pts is None or not packet.is_keyframe or packet.pts < due:
                continue
            due = packet.pts + apart
        with suppress(av.error.FFmpegError):
            yield from context.decode(packet)


def cut_stretch(path: Path, film: Survey, windows: Sequence[Sequence[int]]) -> Stretch:
    """Take of a survey what decoding these windows needs, and no more: it travels to a child."""
    start, end = windows[0][0], windows[-1][-1] + 1
    spare = windows[0][-1] - start + 1  # frames around: one may stand for a frame that is lost
    stamps = film.listing.stamps
    first = max(0, min(start - spare, len(stamps) - 1))  # at least one
    part = stamps[first : end + spare].copy() if film.listing.by_stamp else stamps[:0]
    positions = tuple(map(tuple, windows))
    return Stretch(
        *(path, positions, part, first, film.listing.tick, film.fps, film.shape, film.size)
    )


def read_windows(stretch: Stretch) -> Iterator[Decoded | None]:
    """Decode the frames of the windows, one window after the other.

    A frame that does not come is replaced by the nearest that does, of those in the stretch and
    around it; a frame that was decoded with errors is used. Either makes `damage` tell so.

    Yields:
        For each window its Decoded, with places of the whole video as indices, all frames at the
        size of the survey; its pixels are overwritten when the next one is asked for. None for a
        window that nothing was decoded of.

    Raises:
        DataError: what PyAV says, or what is wrong with the file.
    """
    with open_file(stretch.path) as file, reading():
        pictures = Pictures(stretch.shape)
        found = _nearest(_placed(file, stretch), sorted(set(chain.from_iterable(stretch.windows))))
        width, height = stretch.size
        pixels = np.zeros((len(stretch.windows[0]), height, width, 3), np.uint8)
        held: dict[int, _Held] = {}
        before: tuple[int, ...] = ()
        for window in stretch.windows:
            rows = {position: row for row, position in enumerate(before)}  # the last row of each
            held = {position: held[position] for position in window if position in held}
            for row, position in enumerate(window):
                if row and position == window[row - 1]:
                    pixels[row] = pixels[row - 1]
                elif position in held:
                    pixels[row] = pixels[rows[position]]  # from further down: windows move on
                else:
                    frame, distance, sound = next(found)
                    pictures.notes.clear()
                    if frame is not None:
                        pixels[row] = pictures.show(frame, stretch.size)
                    wide = frame is not None and turns(pictures.size(frame))
                    held[position] = _Held(distance, sound, frozenset(pictures.notes), wide)
            before = window
            yield _decoded(window, held, pixels, stretch.fps)


@dataclass(frozen=True)
class _Held:
    """What is known of a frame of the window."""

    distance: int
    """Frames from the one that was wanted."""
    sound: bool
    notes: frozenset[str]
    wide: bool


def _decoded(
    window: tuple[int, ...], held: dict[int, _Held], pixels: NDArray[np.uint8], fps: float
) -> Decoded | None:
    """Put a window together; None if no frame of it came from within it."""
    count = len(window)
    step = max(1, (window[-1] - window[0]) // (count - 1))
    if all(one.distance >= step for one in held.values()):
        return None
    bad = sum(held[position].distance > 0 or not held[position].sound for position in window)
    damage = f"{bad} of {count} frames damaged" if bad else ""
    notes: set[str] = set().union(*(one.notes for one in held.values()))
    if len({one.wide for one in held.values()}) > 1:
        notes.add(TURNED)
    height, width = pixels.shape[1:3]
    return Decoded(
        *(pixels, list(window), step * count, fps, width, height, damage),
        notes=notes_of(window, notes),
    )


def _nearest(
    frames: Iterator[tuple[int, Any, bool]], wanted: list[int]
) -> Iterator[tuple[Any, int, bool]]:
    """Yield for each wanted position, ascending: nearest frame, how far off it is, if it is sound.

    Of two as near it is the earlier. Without any frame at all: None, a distance without end.
    """
    nothing: tuple[int, Any, bool] = (-(2**62), None, False)
    before = after = nothing
    for position in wanted:
        while after is not None and after[0] < position:
            before, after = after, next(frames, None)  # type: ignore[assignment]
        best = before if after is None or position - before[0] <= after[0] - position else after
        yield best[1], abs(best[0] - position), best[2]


def _placed(file: Any, stretch: Stretch) -> Iterator[tuple[int, Any, bool]]:
    """Yield the frames of a stretch and around it: position, frame, whether it is sound; ascending.

    Decoding begins at the key frame before the first wanted frame. Where the container finds none,
    or one that is shown too late, at one further back; at last at the start.
    """
    last = -1
    for position, frame, sound in _from_before(file, stretch):
        if position > last:  # a stream whose order changes half-way may show a frame too late
            last = position
            yield position, frame, sound


def _from_before(file: Any, stretch: Stretch) -> Iterator[tuple[int, Any, bool]]:
    if not len(stretch.stamps):  # known by their order: count from the start
        with open_video(file) as container:
            for position, (frame, sound) in enumerate(decoded_frames(container)):
                yield position, frame, sound
        return
    known = {int(stamp): stretch.first + i for i, stamp in enumerate(stretch.stamps)}
    start = stretch.windows[0][0] - stretch.first
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
        container.seek(since, stream=video_stream(container))
    except av.error.FFmpegError:
        return None
    for frame, sound in frames:
        if frame.pts is None or frame.pts > goal:
            return None
        if frame.key_frame:
            return frame, sound
    return None
