"""Which frames does a video file hold, and what can be decoded of them if it is damaged?

A path in; first the list of frames that the container wants shown, then the frames at wanted
places. All by PyAV, that is FFmpeg, in one thread.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import av
import av.error
import av.logging
import numpy as np
from numpy.typing import NDArray

from safe.errors import DataError

MAX_PIXELS: Final = 4096 * 4096
"""Largest frame, in pixels: a damaged header may claim sizes that would fill the memory."""

# A playlist renamed to .mp4 must not make the decoder fetch from a network.
_LOCAL: Final = {"protocol_whitelist": "file"}

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
    fps: float
    """Frames a second; 0 where the container does not say."""


def list_frames(path: Path) -> Listing:
    """List the frames that the container wants shown; takes about 3 ms.

    Raises:
        DataError: if it cannot be opened, holds no video, or its frames are larger than MAX_PIXELS.
    """
    try:
        with _open(path) as container:
            stream = container.streams.best("video")
            if stream is None or stream.codec_context is None:
                raise DataError("not a video: no stream that can be decoded")
            if stream.width * stream.height > MAX_PIXELS:
                raise DataError(f"frames of {stream.width} x {stream.height} pixels are too large")
            fps = float(stream.average_rate or 0)
            stamps: list[int | None] = []
            hidden = 0
            try:
                for packet in container.demux(stream):
                    if packet.size and packet.is_discard:  # an edit list starts after it
                        hidden += 1
                    elif packet.size:
                        stamps.append(packet.pts)
            except av.error.FFmpegError:
                pass  # cut off: the frames up to here are listed, the rest are claimed
            # A damaged header may claim billions; a frame takes at least a byte.
            claimed = min(stream.frames - hidden, path.stat().st_size)
            length = max(len(stamps), claimed)
    except av.error.InvalidDataError as error:
        raise DataError("not a video, or cut off before its index") from error
    except av.error.FFmpegError as error:
        raise DataError(f"not a video that can be opened: {error.strerror}") from error
    if not stamps:
        raise DataError("no frame could be decoded")
    known = sorted({stamp for stamp in stamps if stamp is not None})
    complete = len(known) == len(stamps)
    places = {stamp: place for place, stamp in enumerate(known)} if complete else {}
    return Listing(places, length, whole=len(stamps) == length, fps=fps)


@dataclass
class _Candidate:
    """The decoded frame that is nearest to a wanted place so far."""

    distance: int
    frame: Any
    sound: bool


def decode_places(
    path: Path, listing: Listing, indices: list[int]
) -> tuple[NDArray[np.uint8], int, int]:
    """Decode the frames at some places, as far as frames come.

    Reads from the start and holds no more than one frame a wanted place. A place whose frame does
    not come takes the nearest one that does.

    Args:
        path: the file.
        listing: what `list_frames` says of it.
        indices: T places, ascending; repeats are allowed.

    Returns:
        The frames, uint8 [T, H, W, 3], RGB, upright, all at the size of the first; how many of the
        T are repeated from the nearest; how many have errors or build on a frame that has.

    Raises:
        DataError: "no frame could be decoded".
    """
    wanted: dict[int, _Candidate | None] = dict.fromkeys(indices)
    with _open(path) as container:
        for count, (frame, sound) in enumerate(_decoded_frames(container)):
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
        frames = np.stack([_upright(item.frame, chosen[0].frame) for item in chosen])
    repeated = sum(item.distance > 0 for item in chosen)
    return frames, repeated, sum(not item.sound for item in chosen)


def _decoded_frames(container: Any) -> Iterator[tuple[Any, bool]]:
    """Yield each frame that decodes, and whether it is sound.

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
    except av.error.FFmpegError:
        yield None


def _open(path: Path) -> Any:
    return av.open(path, options=_LOCAL, metadata_errors="ignore")


def _upright(frame: Any, first: Any) -> NDArray[np.uint8]:
    """Convert to RGB uint8 [H, W, 3], at the size of the first frame, turned upright."""
    pixels = frame.to_ndarray(format="rgb24", width=first.width, height=first.height)
    return np.rot90(pixels, round(first.rotation / 90))
