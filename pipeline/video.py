"""A video file opened, and its frames decoded in order; by PyAV, that is FFmpeg.

In: an open file. Out: a container with the one stream that is read, and its frames, each with a
word on whether it is sound. FFmpeg gets the demuxer that the content asks for and no path: it reads
through the open file, and whatever else it may want to open is refused. One thread.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, Final

import av
import av.error
import av.logging
from av.stream import Disposition

from pipeline.container import CODECS, CONVERT, DECODERS, recognise
from pipeline.picture import pixel_shape
from safe.errors import DataError

MAX_PIXELS: Final = 4096 * 4096
"""Largest frame, in pixels: a damaged header may claim sizes that would fill the memory. 16 frames
of this size are 0.8 GB; params.yaml, runtime.memory, has room for them and the decoder's own."""

_TRANSMITTED: Final = ("mpegts", "mpeg")

# dref: an entry of a mov file that says "the samples are in that other file".
_CLOSED: Final = {
    "protocol_whitelist": "none",
    "enable_drefs": "0",
    "codec_whitelist": ",".join(DECODERS),
}

# Tags that are no UTF-8: PyAV 19 takes them by itself and has no such option.
_LENIENT: Final = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}

# What PyAV raises on strange content besides its own errors. What a slip in this file would raise
# (TypeError, AttributeError, NameError) is not among them, nor is MemoryError.
_STRANGE: Final = (ArithmeticError, LookupError, ValueError, RuntimeError)

av.logging.set_level(av.logging.PANIC)


def check_stream(stream: Any) -> None:
    """Raise DataError if a stream is of a codec or a size that is not allowed."""
    if stream.codec_context is None:
        raise DataError("not a video: no stream that can be decoded")
    codec = stream.codec_context.codec.canonical_name
    if codec not in CODECS:
        allowed = ", ".join(CODECS)
        raise DataError(f"the codec {codec} is not allowed; allowed are {allowed}; {CONVERT}")
    shape = max(pixel_shape(stream), Fraction(1))
    if stream.width * stream.height * shape > MAX_PIXELS:
        raise DataError(f"frames of {stream.width} x {stream.height} pixels are too large")


def video_stream(container: Any) -> Any:
    """Return the stream that is decoded: FFmpeg's best that is no cover picture.

    Raises:
        DataError: if there is none.
    """
    videos = video_streams(container)
    if not videos:
        covers = bool(container.streams.video)
        told = "it has sound and a cover picture only" if covers else "no stream can be decoded"
        raise DataError(f"not a video: {told}")
    best = container.streams.best("video")
    return best if best in videos else videos[0]


def video_streams(container: Any) -> list[Any]:
    """Return the streams that are videos: neither covers nor thumbnails."""
    still = Disposition.attached_pic | Disposition.timed_thumbnails
    return [stream for stream in container.streams.video if not stream.disposition & still]


def decoded_frames(
    container: Any, *, on_loss: Callable[[], None] | None = None
) -> Iterator[tuple[Any, bool]]:
    """Yield each frame that decodes, from where the container stands, and whether it is sound.

    A frame is not sound if the decoder concealed an error in it, or if it is built on such a frame
    or on a packet that was lost: so everything up to the next key frame. `on_loss` is called for
    every packet that does not decode or that the demuxer calls damaged; not for those before the
    first key frame of a transmission (MPEG-TS, MPEG-PS), which may begin anywhere.
    """
    stream = video_stream(container)
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    sound, begun = True, container.format.name not in _TRANSMITTED
    for packet in read_packets(container, stream):
        begun = begun or packet is None or packet.is_keyframe
        lost = packet is not None and packet.is_corrupt
        try:
            frames = stream.codec_context.decode(packet)
        except MemoryError:
            raise
        except av.error.FFmpegError:
            sound, lost, frames = False, True, []
        if lost and begun and on_loss is not None:
            on_loss()
        for frame in frames:
            sound = (sound or frame.key_frame) and not frame.is_corrupt
            yield frame, sound


def read_packets(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the packets and then None, which flushes the decoder, of a cut-off file too.

    An empty packet in the middle would flush it there.
    """
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except MemoryError:
        raise
    except av.error.FFmpegError:
        pass
    yield None


def open_video(file: Any) -> Any:
    """Open the container that the content of a file asks for, and nothing besides."""
    return av.open(
        file,
        mode="r",
        format=recognise(file).demuxer,
        container_options=_CLOSED,
        io_open=_refuse,
        **_LENIENT,
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
