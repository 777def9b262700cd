"""The 16 frames that stand for a clip, and their pixels.

In: a video file, a folder of face frames or a strip of 16 faces. Out: 16 upright RGB frames, each
with its index in the clip and its time. A frame that could not be decoded is replaced by the
nearest one that could, and the result says so. Native decoders can hang or crash: call this inside
a child of pipeline.pool.

The rule: the centre frame of each of 16 equal segments of the clip. Where the frames do not come at
a constant rate, segments are of time, and the frame on the screen at the centre of each is taken. A
clip of fewer than 16 frames is spread over evenly, each frame repeated in its place. The length of
a video is what its container lists to be shown, also where the file is cut off or damaged: so a
frame keeps its place in time.

Two decoders, the same frames, the same pixels. decord decodes what needs nothing but decoding: mp4
and mov, whole, of upright and progressive frames, equally far apart, none shown before the key
frame that it comes after. It never seeks: when it does, it returns other frames (dmlc/decord#365,
#252, #195). It reads in order, its list of stamps must be the container's, and it must end where
that list ends. All else, and all damage, is PyAV's, whose every frame is held against the list by
its stamp or its order.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from stat import S_ISREG
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.video.container import decoded_frames, open_video, reading, video_stream
from pipeline.video.listing import Listing, list_by_decoding, list_frames
from pipeline.video.picture import (
    HDR,
    INTERLACED,
    TURNED,
    Pictures,
    is_plain,
    largest,
    pixel_shape,
    turns,
)
from safe.errors import DataError, MissingError, of_machine
from safe.sample import DEFAULT_FRAMES

Source = Literal["video", "frames", "strips"]
"""What a clip is: a video file, the folder of a release's face frames, or one strip of 16 faces."""

Decoder = Literal["decord", "pyav"]


@dataclass(frozen=True)
class Decoded:
    """The frames that stand for a clip."""

    frames: NDArray[np.uint8]
    """uint8 [T, H, W, 3], RGB, 0..255, upright."""
    indices: list[int]
    """T positions in the clip, 0..n_frames - 1, not descending."""
    n_frames: int
    """Length of the clip in frames, as its container lists them."""
    fps: float
    """Frames a second; 0 where it is not known (a folder of frames)."""
    width: int
    """W, pixels of the upright frame."""
    height: int
    """H, pixels of the upright frame."""
    damage: str
    """Empty, or what is wrong: "12 of 16 frames decoded, 4 repeated from the nearest"."""
    times: tuple[float, ...] = ()
    """T seconds from the first frame of the clip; empty where they are not known."""
    notes: tuple[str, ...] = ()
    """What is special about a whole clip: of NOTES."""


FEW: Final = "few frames"
NOTES: Final = (FEW, INTERLACED, HDR, TURNED)
"""Half of a clip's frames or fewer differ; what pipeline/video/picture.py did about a picture."""


def frame_indices(n: int, count: int = DEFAULT_FRAMES) -> list[int]:
    """Return the centre frame of each of `count` equal segments: floor((i + 1/2) n / count).

    With n < count frames are repeated in place, evenly. Raises ValueError if n is below 1.
    """
    if n < 1:
        raise ValueError(f"a clip of {n} frames has no frame to choose")
    return [(2 * i + 1) * n // (2 * count) for i in range(count)]


def load_decoder() -> None:
    """Load decord, once in each child before its first clip; it takes time that is not a clip's.

    decord loads all of CUDA where pip has installed it, as torch does: 0.4 GB and a second or
    more a process, for a GPU decoder that is not used. It looks for the package `nvidia`, which is
    therefore not there while decord is imported.
    """
    if "decord" in sys.modules:
        return
    there = sys.modules.pop("nvidia", None)
    sys.modules["nvidia"] = None  # type: ignore[assignment]  # what Python takes for "there is none"
    try:
        import decord
    finally:
        del sys.modules["nvidia"]
        if there is not None:
            sys.modules["nvidia"] = there
    decord.logging.set_level(decord.logging.QUIET)


def read_video(path: Path, *, decoder: Decoder = "decord", frames: int = DEFAULT_FRAMES) -> Decoded:
    """Decode `frames` frames of a video, at its own size but for pixels that are not square.

    Args:
        path: the file; a container and a codec that pipeline/video/container.py allows.
        decoder: "decord", with PyAV for what decord cannot be trusted with; or "pyav" for all. PyAV
            also sees damage inside a frame that decord conceals in silence.
        frames: T.

    Raises:
        DataError: "file missing", "empty file", "not a video ..." or "no frame could be decoded".
        OSError: an error of the machine.
    """
    # Opened once: what is checked is what is decoded, and no path reaches a decoder.
    with open_file(path) as file:
        listing = list_frames(file)
        if not (listing.by_stamp or listing.steady):  # by order, at times that are not known
            listing = list_by_decoding(file)
        found = None
        if decoder == "decord" and listing.plain and listing.whole and _begins_plain(file, listing):
            found = _decode_decord(file, listing, frames)
        if found is None:
            found = _decode_pyav(file, listing, frames)
        if found is None:  # the decoder has other frames than the container lists, and no damage
            listing = list_by_decoding(file)
            found = _decode_pyav(file, listing, frames)
            if found is None:
                raise DataError("decodes to other frames each time")
    return found


def clip_indices(listing: Listing, frames: int = DEFAULT_FRAMES) -> list[int]:
    """Return the indices of the frames that stand for a clip."""
    if listing.steady or not listing.whole:
        return frame_indices(listing.length, frames)
    first, end = int(listing.stamps[0]), int(listing.stamps[-1]) + listing.last
    centres = first + (np.arange(frames) + 0.5) / frames * (end - first)
    return [int(index) for index in listing.at(centres)]


def _decoded(
    frames: NDArray[np.uint8], listing: Listing, indices: list[int], damage: str, notes: set[str]
) -> Decoded:
    """Put together what is known of a clip."""
    height, width = frames.shape[1:3]
    known = np.minimum(indices, len(listing.stamps) - 1)
    times = (listing.stamps[known] - listing.stamps[0]) * listing.tick
    return Decoded(
        *(frames, indices, listing.length, listing.fps, width, height, damage),
        times=tuple(times.tolist()),
        notes=notes_of(indices, notes),
    )


def notes_of(indices: Sequence[int], notes: set[str]) -> tuple[str, ...]:
    """Return what is special about frames at these indices, in the order of NOTES."""
    few = {FEW} if 2 * len(set(indices)) <= len(indices) else set()
    return tuple(note for note in NOTES if note in notes | few)


class ClipFile(FileIO):
    """A file of a clip, open for reading. An error of the machine is raised when it is closed.

    A decoder would take it for the end of the file, or print it.
    """

    _trouble: OSError | None = None

    def read(self, size: int | None = -1) -> bytes:
        """Read so many bytes; none from an error on."""
        try:
            return b"" if self._trouble else super().read(size) or b""
        except OSError as error:
            self._trouble = OSError(error.errno, os.strerror(error.errno or 0), str(self.name))
            return b""

    def __exit__(self, *raised: object) -> None:
        self.close()
        if self._trouble:
            raise self._trouble


def open_file(path: Path) -> ClipFile:
    """Open a file of a clip for reading, without a buffer. The only place where one is opened.

    Raises:
        MissingError: "file missing", of what is no regular file too.
        DataError: "empty file".
        OSError: an error of the machine, as that the file may not be read.
    """
    # A pipe is not even opened, which its writer would notice. Without O_NONBLOCK one that took the
    # file's place meanwhile would be waited for for ever.
    try:
        if not S_ISREG(path.stat().st_mode):
            raise MissingError("file missing")
        file = ClipFile(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    except OSError as error:
        if of_machine(error):
            raise
        raise MissingError("file missing") from error
    about = os.fstat(file.fileno())
    if not S_ISREG(about.st_mode):
        file.close()
        raise MissingError("file missing")
    if about.st_size == 0:
        file.close()
        raise DataError("empty file")
    return file


def _begins_plain(file: FileIO, listing: Listing) -> bool:
    """Say whether the first frame is the first that is listed, and is shown as it is stored."""
    with reading(), open_video(file) as container:
        shape = pixel_shape(video_stream(container))
        for frame, sound in decoded_frames(container):
            return sound and listing.position(frame.pts) == 0 and is_plain(frame, shape)
    return False


def _decode_decord(file: FileIO, listing: Listing, count: int) -> Decoded | None:
    """Decode with decord; None where it fails or cannot be trusted.

    decord gets the open file by its number: a path could hold a pattern (clip%d.png) or a protocol.
    """
    load_decoder()  # here, because a folder of frames needs none
    import decord

    indices = clip_indices(listing, count)
    try:
        # Any fault at all is to raise: the default repeats frames in silence, and so does 0.
        file.seek(0)
        name = f"/dev/fd/{file.fileno()}"
        reader = decord.VideoReader(name, num_threads=1, fault_tol=1e-6)
        if not _lists_the_same(reader, listing):
            return None
        frames = _in_order(reader, indices, listing.length)
    except (
        *(decord.DECORDError, decord.DECORDLimitReachedError),
        *(RuntimeError, ValueError, AssertionError, ArithmeticError, LookupError),
    ) as error:
        if "bad_alloc" in str(error):
            raise MemoryError("decord") from error
        return None
    return None if frames is None else _decoded(frames, listing, indices, "", set())


def _lists_the_same(reader: Any, listing: Listing) -> bool:
    """Say whether decord lists as many frames as the container does, with their stamps."""
    if len(reader) != listing.length:
        return False
    begins = reader.get_frame_timestamp(range(listing.length))[:, 0]
    return bool(np.abs(begins - listing.stamps * listing.tick).max() <= listing.tick / 2 + 1e-3)


def _in_order(reader: Any, indices: list[int], length: int) -> NDArray[np.uint8] | None:
    """Read the frames at some indices without seeking; None unless exactly `length` frames come.

    What is not wanted is decoded, and not converted.
    """
    frames: NDArray[np.uint8] | None = None
    at = 0
    for row, index in enumerate(indices):
        if frames is not None and index == indices[row - 1]:
            frames[row] = frames[row - 1]
            continue
        if index > at:
            reader.skip_frames(index - at)
        try:
            image = reader.next().asnumpy()
        except StopIteration:
            return None
        at = index + 1
        if image.shape[-1] != 3:
            return None
        if frames is None:
            frames = np.empty((len(indices), *image.shape), np.uint8)
        frames[row] = image
    # A frame lost on the way would be missed at the end, a frame too many would be left over there.
    if length > at + 1:
        reader.skip_frames(length - at - 1)
    try:
        if length > at:
            reader.next()
    except StopIteration:
        return None
    try:
        reader.next()
    except StopIteration:
        return frames
    return None


def _decode_pyav(file: FileIO, listing: Listing, frames: int) -> Decoded | None:
    """Decode with PyAV, from the start, as far as frames come.

    Holds no more than one frame a wanted index. An index whose frame does not come takes the
    nearest one that does. Returns None where the listing is refuted: a whole file without damage
    whose frames are others.

    Raises:
        DataError: "no frame could be decoded", or what PyAV says.
    """
    indices = clip_indices(listing, frames)
    nearest: dict[int, tuple[int, Any, bool]] = {}  # of each index: distance, frame, soundness
    sure = listing.decoded or not listing.whole
    count, at, first = 0, -1, -1
    losses: list[None] = []
    with reading(), open_video(file) as container:
        pictures = Pictures(pixel_shape(video_stream(container)))
        for frame, sound in decoded_frames(container, on_loss=lambda: losses.append(None)):
            if not sound:
                losses.append(None)
            index = listing.position(frame.pts) if listing.by_stamp else count
            if index is None:  # an edit list hides it
                continue
            if listing.by_stamp and index <= at and not sure and not losses:
                return None  # time stamps that go back are guesses
            first = index if first < 0 else first
            count, at = count + 1, max(at, index)
            for want in indices:
                distance = abs(want - index)
                if want not in nearest or distance < nearest[want][0]:
                    nearest[want] = distance, frame, sound
            if at >= indices[-1] and (sure or losses or (listing.by_stamp and count == at + 1)):
                break
        else:
            if not (sure or losses) and _is_refuted(listing, first, count):
                return None
        if not nearest:
            raise DataError("no frame could be decoded")
        distances, chosen, sounds = zip(*(nearest[index] for index in indices), strict=True)
        images = _show(pictures, chosen)
    damage = _describe(sum(map(bool, distances)), sounds.count(False), frames)
    damage = damage or "frames are lost between those decoded" * bool(losses)
    turned = len({turns(pictures.size(frame)) for frame in chosen}) > 1
    return _decoded(
        images, listing, indices, damage, pictures.notes | ({TURNED} if turned else set())
    )


def _is_refuted(listing: Listing, first: int, count: int) -> bool:
    """Say whether a decoder that told of no damage has other frames than are listed.

    Where each packet holds a frame and has a stamp of its own, it may leave out those alone that
    are shown before the first in the file; others that do not come are lost.
    """
    if count == listing.length:
        return False
    if not (listing.stamped and listing.by_stamp):
        return True
    return first == listing.position(listing.head) and first + count == listing.length


def _show(pictures: Pictures, chosen: Sequence[Any]) -> NDArray[np.uint8]:
    """Convert frames, some of them the same, to RGB: uint8 [T, H, W, 3], all of one size."""
    canvas = largest([pictures.size(frame) for frame in chosen])
    frames = np.empty((len(chosen), canvas[1], canvas[0], 3), np.uint8)  # filled: one copy
    for row, frame in enumerate(chosen):
        again = row > 0 and frame is chosen[row - 1]
        frames[row] = frames[row - 1] if again else pictures.show(frame, canvas)
    return frames


def _describe(repeated: int, unsound: int, count: int) -> str:
    """Say what is wrong with the frames, or nothing."""
    parts = []
    if repeated:
        parts.append(
            f"{count - repeated} of {count} frames decoded, {repeated} repeated from the nearest"
        )
    if unsound:
        parts.append(f"{unsound} of {count} frames decoded with errors")
    return "; ".join(parts)
