"""Which frames does a video file hold, and what can be decoded of them if it is damaged?

An open file in; first the list of frames that the container wants shown, then the frames at wanted
places. All by PyAV, that is FFmpeg, in one thread. FFmpeg gets the demuxer that the content asks
for and no path: it reads through the open file, and whatever else it may want to open is refused.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import av
import av.error
import av.logging
import numpy as np
from numpy.typing import NDArray

from pipeline.container import CODECS, DECODERS, SOUNDS, recognise
from safe.errors import DataError

MAX_PIXELS: Final = 4096 * 4096
"""Largest frame, in pixels: a damaged header may claim sizes that would fill the memory. 16 frames
of this size are 0.8 GB; params.yaml, runtime.memory, has room for them and the decoder's own."""

MAX_FRAMES: Final = 100_000
"""Longest clip, in frames: over half an hour at 50 a second. A clip of an expression lasts seconds;
16 frames of more than this say nothing of it, and reading its list would take the deadline."""

# dref: an entry of a mov file that says "the samples are in that other file".
_CLOSED: Final = {
    "protocol_whitelist": "none",
    "enable_drefs": "0",
    "codec_whitelist": ",".join(DECODERS),
}

# What PyAV raises on strange content besides its own errors. What a slip in this file would raise
# (TypeError, AttributeError, NameError) is not among them, nor is MemoryError.
_STRANGE: Final = (ArithmeticError, LookupError, ValueError, RuntimeError)

av.logging.set_level(av.logging.PANIC)


@dataclass(frozen=True)
class Listing:
    """What a container says of its video stream, without any decoding."""

    places: dict[int, int]
    """Time stamp of a frame to show -> its place, 0..length - 1; empty if one has no stamp."""
    length: int
    """Frames to show, also those that a cut-off file has lost."""
    whole: bool
    """Whether every frame listed is in the file."""
    tick: float
    """Seconds of one unit of the time stamps."""
    fps: float
    """Frames a second; 0 where the container does not say."""
    plain: bool
    """Whether a reader that chooses demuxer and decoders by itself (decord) can choose no others
    than the allowed ones."""


def list_frames(file: Any, *, most: int | None = None) -> Listing:
    """List the frames that the container wants shown; takes about 3 ms for a clip.

    Args:
        file: the video, open for reading bytes.
        most: frames of the longest video that is allowed; None: MAX_FRAMES, for a clip.

    Raises:
        DataError: if it is no container or codec that is allowed, cannot be opened, holds no video,
            or has frames larger than MAX_PIXELS or too many of them.
    """
    most = MAX_FRAMES if most is None else most
    kind = recognise(file)
    with reading(), open_video(file) as container:
        stream = container.streams.best("video")
        if stream is None or stream.codec_context is None:
            raise DataError("not a video: no stream that can be decoded")
        codec = stream.codec_context.codec.canonical_name
        if codec not in CODECS:
            raise DataError(f"the codec {codec} is not allowed; allowed are {', '.join(CODECS)}")
        if stream.width * stream.height > MAX_PIXELS:
            raise DataError(f"frames of {stream.width} x {stream.height} pixels are too large")
        fps = float(stream.average_rate or 0)
        tick = float(stream.time_base or 0)
        stamps, hidden = _stamps(container, stream, most)
        # A damaged header may claim billions; a frame takes at least a byte.
        claimed = min(stream.frames - hidden, os.fstat(file.fileno()).st_size)
        plain = kind.certain and all(_is_plain(other) for other in container.streams)
    length = max(len(stamps), claimed)
    if not stamps:
        raise DataError("no frame could be decoded")
    if length > most:
        kind_of = "a clip" if most == MAX_FRAMES else "a video"
        raise DataError(f"lists more than {most:,} frames: too long for {kind_of}")
    known = sorted({stamp for stamp in stamps if stamp is not None})
    complete = len(known) == len(stamps)
    places = {stamp: place for place, stamp in enumerate(known)} if complete else {}
    return Listing(places, length, whole=len(stamps) == length, tick=tick, fps=fps, plain=plain)


def _stamps(container: Any, stream: Any, most: int) -> tuple[list[int | None], int]:
    """Return the time stamp of each packet to show, up to one too many, and how many are hidden."""
    stamps: list[int | None] = []
    hidden = 0
    try:
        for packet in container.demux(stream):
            if packet.size and packet.is_discard:  # an edit list starts after it
                hidden += 1
            elif packet.size:
                stamps.append(packet.pts)
            if hidden + len(stamps) > most:
                break
    except MemoryError:
        raise
    except av.error.FFmpegError:
        pass  # cut off: the frames up to here are listed, the rest are claimed
    return stamps, hidden


def _is_plain(stream: Any) -> bool:
    """Whether nothing, or a decoder that is allowed, would be opened for a stream."""
    context = stream.codec_context
    return context is None or context.codec.canonical_name in (*CODECS, *SOUNDS)


@dataclass
class _Candidate:
    """The decoded frame that is nearest to a wanted place so far."""

    distance: int
    frame: Any
    sound: bool


def decode_places(
    file: Any, listing: Listing, indices: list[int]
) -> tuple[NDArray[np.uint8], int, int]:
    """Decode the frames at some places, as far as frames come.

    Reads from the start and holds no more than one frame a wanted place. A place whose frame does
    not come takes the nearest one that does.

    Args:
        file: the video, open for reading bytes.
        listing: what `list_frames` says of it.
        indices: T places, ascending; repeats are allowed.

    Returns:
        The frames, uint8 [T, H, W, 3], RGB, upright, all at the size of the first; how many of the
        T are repeated from the nearest; how many have errors or build on a frame that has.

    Raises:
        DataError: "no frame could be decoded", or what PyAV says.
    """
    wanted: dict[int, _Candidate | None] = dict.fromkeys(indices)
    with reading(), open_video(file) as container:
        for count, (frame, sound) in enumerate(decoded_frames(container)):
            place = listing.places.get(frame.pts, -1) if listing.places else count
            if place < 0:
                continue
            for index, best in wanted.items():
                distance = abs(index - place)
                if best is None or distance < best.distance:
                    wanted[index] = _Candidate(distance, frame, sound)
            if place >= indices[-1]:  # frames come in the order of their places
                break
        chosen = [candidate for index in indices if (candidate := wanted[index]) is not None]
        if not chosen:
            raise DataError("no frame could be decoded")
        first = chosen[0].frame
        pixels = upright(first, first)
        frames = np.empty((len(chosen), *pixels.shape), np.uint8)  # filled, not stacked: one copy
        for place, item in enumerate(chosen):
            frames[place] = pixels if item.frame is first else upright(item.frame, first)
    repeated = sum(item.distance > 0 for item in chosen)
    return frames, repeated, sum(not item.sound for item in chosen)


def decoded_frames(container: Any) -> Iterator[tuple[Any, bool]]:
    """Yield each frame that decodes, from where the container stands, and whether it is sound.

    A frame is not sound if the decoder concealed an error in it, or if it is built on such a frame
    or on a packet that was lost: so everything up to the next key frame.
    """
    stream = container.streams.best("video")
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    sound = True
    for packet in _packets(container, stream):
        try:
            frames = stream.codec_context.decode(packet)
        except MemoryError:
            raise
        except av.error.FFmpegError:
            sound = False
            continue
        for frame in frames:
            sound = (sound or frame.key_frame) and not frame.is_corrupt
            yield frame, sound


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the packets and then the empty one that flushes the decoder, of a cut-off file too."""
    try:
        yield from container.demux(stream)
    except MemoryError:
        raise
    except av.error.FFmpegError:
        yield None


def open_video(file: Any) -> Any:
    """Open the container that the content of a file asks for, and nothing besides."""
    return av.open(
        file,
        mode="r",
        format=recognise(file).demuxer,
        container_options=_CLOSED,
        metadata_errors="ignore",
        io_open=_refuse,
    )


def _refuse(url: str, flags: int, options: dict[str, str]) -> Any:
    """Be what FFmpeg calls to open anything besides the file that it was given."""
    raise DataError(f"asks for another file, {url!r:.80}")


@contextmanager
def reading() -> Iterator[None]:
    """Turn what PyAV raises on strange content into a DataError. MemoryError stays what it is."""
    try:
        yield
    except MemoryError:
        raise
    except av.error.InvalidDataError as error:
        raise DataError("not a video, or cut off before its index") from error
    except av.error.FFmpegError as error:
        raise DataError(f"not a video that can be opened: {error.strerror}") from error
    except _STRANGE as error:
        raise DataError(f"not a video that can be read: {type(error).__name__}") from error


def upright(frame: Any, first: Any) -> NDArray[np.uint8]:
    """Convert to RGB uint8 [H, W, 3], at the size of the first frame, turned upright as that."""
    pixels = frame.to_ndarray(format="rgb24", width=first.width, height=first.height)
    return np.rot90(pixels, round(first.rotation / 90))
