"""Containers: a video file opened by its content, and its frames decoded in order by PyAV (FFmpeg).

In: an open file. Out: a container with the one stream that is read, and its frames, each with a
word on whether it is sound; or a DataError that says what the file looks like.

FFmpeg left to guess would take a playlist called clip.mp4 for a playlist, and open the files and
the addresses in it. Here the first bytes decide, the name never does, and PyAV is told which
demuxer to use. It gets no path: it reads through the open file, on one thread, and whatever else it
may want to open is refused. decord cannot be told: it gets only files whose first bytes leave it no
other guess.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import av
import av.error
import av.logging
from av.stream import Disposition

from pipeline.video.picture import pixel_shape
from safe.errors import DataError

CODECS: Final = (
    *("h264", "hevc", "av1", "vp8", "vp9"),  # phones, webcams, the web
    *("mpeg4", "mjpeg", "h263"),  # DFEW and FERV39k; cameras; old phones
    *("mpeg1video", "mpeg2video", "msmpeg4v2", "msmpeg4v3"),  # cut from discs and films
    *("flv1", "ffv1"),  # old Flash videos; archives
)
"""Codecs of a video that are decoded, FFmpeg's names; each decoder more is more to attack."""

DECODERS: Final = (*CODECS, "libdav1d", "msmpeg4", "flv")
"""FFmpeg's names of the decoders of these codecs, which differ for av1, msmpeg4v3 and flv1."""

SOUNDS: Final = ("aac", "mp3", "ac3", "amr_nb", "opus", "vorbis", "pcm_s16le", "pcm_u8")
"""Codecs of sound that may lie beside a video that decord gets; decord opens every stream."""

CONVERT: Final = "convert it: ffmpeg -i FILE -c:v libx264 -crf 12 out.mp4"
"""What helps with a video that is sound but not opened."""

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
        known = ", ".join(CODECS)
        raise DataError(f"the codec {codec} is not allowed; allowed are {known}; {CONVERT}")
    shape = max(pixel_shape(stream), Fraction(1))
    if stream.width * stream.height * shape > MAX_PIXELS:
        raise DataError(f"frames of {stream.width} x {stream.height} pixels are too large")


def video_stream(container: Any) -> Any:
    """Return the stream that is decoded: FFmpeg's best that is no cover. Raises DataError."""
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


# Recognition by the first bytes

_HEAD: Final = 4096
_ALLOWED: Final = "mp4, mov, 3gp, avi, mkv, webm, ts, mts, mpg or flv"

_PACKETS: Final = ((188, 0), (192, 4), (204, 0))
"""Of MPEG transport streams: bytes of a packet, and of those before its sync byte. 192 is that of
camcorders (AVCHD) and discs, which put a time before each packet; 204 has check bytes."""

_LEAST_PACKETS: Final = 5

# Boxes that a file of the ISO (mp4) or QuickTime family may begin with, besides ftyp.
_BOXES: Final = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_PICTURES: Final = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"jp2 ", b"jpx ", b"jxl ")

_MXF: Final = b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02"  # may follow other bytes
_VIDEOS: Final = (
    (b"GIF8", "a GIF picture"),
    (b"OggS", "an Ogg file"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media file (ASF, wmv)"),
    (_MXF, "an MXF file"),
    (b"YUV4MPEG2", "a bare YUV video (y4m)"),
    (b"\x1f\x07\x00\x3f", "a DV video"),
    (b"\x1f\x07\x00\xbf", "a DV video"),
    (b"DKIF", "an IVF file"),
    (b"\x00\x00\x00\x00\x01\xbc", "a GXF file"),
    (b".RMF", "a RealMedia file"),
    (b"nut/multimedia", "a NUT file"),
    (b"\xb7\xd8\x00\x20\x37\x49\xda\x11", "a recording of Windows (wtv)"),
    (b"\x12\x00\x0a", "a bare AV1 video (obu)"),
    (b"\x00\x00\x01\xb3", "a bare MPEG-1 or MPEG-2 video (m2v)"),
    (b"\x00\x00\x01\xb0", "a bare MPEG-4 video (m4v)"),
    (b"\x00\x00\x01\x0f", "a bare VC-1 video"),
)
"""What videos begin with that are known and not opened: each demuxer more is more to attack."""

_LOOKS: Final = (
    (b"#EXTM3U", "a playlist (#EXTM3U)"),
    (b"ffconcat", "a list of files (ffconcat)"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89PNG", "a PNG picture"),
    (b"RIFF", "a RIFF file that is no AVI"),
    (b"\x1a\x45\xdf\xa3", "an EBML file that is neither Matroska nor WebM"),
    (b"FLV", "a Flash video with a header that cannot be"),
    (b"\x00\x00\x01\xba", "an MPEG program stream with a header that cannot be"),
    (b"\x47\x40", "an MPEG transport stream that is damaged or cut off"),
    (b"PK\x03\x04", "a zip archive"),
    (b"%PDF", "a PDF"),
    (b"<", "XML or a web page"),
)


@dataclass(frozen=True)
class Container:
    """How a file may be read."""

    demuxer: str
    """FFmpeg's name of the demuxer to use."""
    certain: bool
    """Whether FFmpeg, left to guess, can open it as nothing else that opens further files."""


def recognise(file: Any) -> Container:
    """Tell the container of an open binary file from its first bytes; leaves it at its start.

    Raises:
        DataError: "not a video of a kind that is allowed: it looks like ..." if it is none of those
            below, and how to convert it if it is a video all the same.
    """
    file.seek(0)
    head = file.read(_HEAD)
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    for try_one in (_iso, _avi, _matroska, _transport_stream, _program_stream, _flash):
        if container := try_one(head, size):
            return container
    video = _name_video(head)
    raise DataError(
        f"not a video of a kind that is allowed: it looks like {video or _describe(head)}, "
        f"not like {_ALLOWED}{f'; {CONVERT}' if video else ''}"
    )


def _iso(head: bytes, size: int) -> Container | None:
    """Recognise mp4, mov, m4v and 3gp: a first box of a known type and a size that can be.

    FFmpeg finds a demuxer that opens further files (playlists, lists, MPD, SDP) by text from the
    first byte on. A small ftyp box begins with a zero byte, which ends any text.
    """
    length, kind = int.from_bytes(head[:4]), head[4:8]
    if kind == b"ftyp":
        picture = head[8:12] in _PICTURES
        return Container("mov", True) if 16 <= length <= _HEAD and not picture else None
    if kind not in _BOXES:
        return None
    # 0: up to the end of the file; 1: the size follows in 64 bits. A cut-off file has less than
    # its mdat or moov claims, so these have no upper limit.
    small = kind in (b"wide", b"free", b"skip", b"pnot")
    sane = 8 <= length <= size if small else length in (0, 1) or length >= 8
    return Container("mov", False) if sane else None


def _avi(head: bytes, size: int) -> Container | None:
    """Recognise AVI. FFmpeg gives it the highest score: a tie at most, which is an error."""
    return Container("avi", True) if head[:4] == b"RIFF" and head[8:12] == b"AVI " else None


def _matroska(head: bytes, size: int) -> Container | None:
    """Recognise Matroska and WebM: an EBML header, all of it in sight, with their document type."""
    if head[:4] != b"\x1a\x45\xdf\xa3" or len(head) < 5 or not head[4]:
        return None
    width = 9 - head[4].bit_length()  # bytes of the length, by the leading zeros of the first
    length = int.from_bytes(head[4 : 4 + width]) & ((1 << 7 * width) - 1)
    if 4 + width + length > min(len(head), size):
        return None
    header = head[4 + width : 4 + width + length]
    known = b"\x42\x82\x88matroska" in header or b"\x42\x82\x84webm" in header
    return Container("matroska", True) if known else None


def _transport_stream(head: bytes, size: int) -> Container | None:
    """Recognise MPEG-TS, also that of AVCHD: a sync byte in each packet in sight, and a payload."""
    for length, before in _PACKETS:
        starts = range(before, len(head) - 3, length)
        if len(starts) >= _LEAST_PACKETS and all(
            head[at] == 0x47 and head[at + 3] & 0x30 for at in starts
        ):
            return Container("mpegts", False)
    return None


def _program_stream(head: bytes, size: int) -> Container | None:
    """Recognise MPEG-PS by its first pack: all marker bits, and a start code behind it."""
    if head[:4] != b"\0\0\1\xba" or len(head) < 32:
        return None
    ones: int
    if head[4] >> 6 == 1:  # MPEG-2
        ones = head[4] & head[6] & head[8] & 4 and head[9] & 1 and head[12] & 3 == 3
        end = 14 + (head[13] & 7)
    else:
        ones = head[4] >> 4 == 2 and head[4] & head[6] & head[8] & head[11] & 1 and head[9] >> 7
        end = 12
    known = bool(ones) and head[end : end + 3] == b"\0\0\1" and head[end + 3] >= 0xB9
    return Container("mpeg", False) if known else None


def _flash(head: bytes, size: int) -> Container | None:
    """Recognise FLV: its header of 9 bytes, and a first tag of sound, pictures or data."""
    if len(head) < 14 or head[:4] != b"FLV\1" or head[5:13] != b"\0\0\0\x09\0\0\0\0":
        return None
    return Container("flv", False) if not head[4] & 0xFA and head[13] in (8, 9, 18) else None


def _name_video(head: bytes) -> str | None:
    """Return what kind of video, which is not opened, a file is; None if it is none known."""
    for magic, words in _VIDEOS:
        if head.startswith(magic) or (magic in head and magic == _MXF):
            return words
    start = 4 if head[:4] == b"\0\0\0\1" else 3
    if head[start - 3 : start] == b"\0\0\1" and len(head) > start + 1:
        first, second = head[start], head[start + 1]
        if second == 1 and first in (0x40, 0x42, 0x46):  # parameter sets, an access unit
            return "a bare HEVC video (H.265)"
        if first & 0x9F in (7, 9):
            return "a bare H.264 video"
    return None


def _describe(head: bytes) -> str:
    """Say in words what the first bytes of a file look like."""
    for magic, words in _LOOKS:
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(magic):
            return words
    if not head.strip(b"\0"):
        return "zeros"
    if head[4:8] == b"ftyp":
        return "a picture, or an mp4 with a header of a size that cannot be"
    printable = sum(32 <= byte < 127 or byte in b"\t\r\n" for byte in head)
    return "text" if printable >= 0.95 * len(head) else "nothing known"
