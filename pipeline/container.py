"""Is this file one of the containers that are allowed, by its content?

An open file in; out the one demuxer that may read it, or a DataError that says what the file looks
like. FFmpeg left to guess would take a playlist called clip.mp4 for a playlist, and open the files
and the addresses in it. Here the first bytes decide, the name never does, and PyAV is told which
demuxer to use. decord cannot be told: it gets only files whose first bytes leave it no other guess.
"""

import os
from dataclasses import dataclass
from typing import Any, Final

from safe.errors import DataError

CODECS: Final = (
    *("h264", "hevc", "av1", "vp8", "vp9"),  # phones, webcams, the web
    *("mpeg4", "mjpeg", "h263"),  # DFEW and FERV39k; cameras; old phones
    *("mpeg1video", "mpeg2video", "msmpeg4v2", "msmpeg4v3"),  # cut from discs and films
)
"""Codecs of a video that are decoded, FFmpeg's names; each decoder more is more to attack."""

DECODERS: Final = (*CODECS, "libdav1d", "msmpeg4")
"""FFmpeg's names of the decoders of these codecs, which differ for av1 and msmpeg4v3."""

SOUNDS: Final = ("aac", "mp3", "ac3", "amr_nb", "opus", "vorbis", "pcm_s16le", "pcm_u8")
"""Codecs of sound that may lie beside a video that decord gets; decord opens every stream."""

_HEAD: Final = 4096
_ALLOWED: Final = "mp4, mov, 3gp, avi, mkv or webm"

# Boxes that a file of the ISO (mp4) or QuickTime family may begin with, besides ftyp.
_BOXES: Final = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_PICTURES: Final = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"jp2 ", b"jpx ", b"jxl ")

_LOOKS: Final = (
    (b"#EXTM3U", "a playlist (#EXTM3U)"),
    (b"ffconcat", "a list of files (ffconcat)"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89PNG", "a PNG picture"),
    (b"GIF8", "a GIF picture"),
    (b"RIFF", "a RIFF file that is no AVI"),
    (b"\x1a\x45\xdf\xa3", "an EBML file that is neither Matroska nor WebM"),
    (b"OggS", "an Ogg file"),
    (b"FLV\x01", "a Flash video"),
    (b"\x30\x26\xb2\x75", "a Windows Media file (ASF)"),
    (b"\x00\x00\x01\xba", "an MPEG program stream"),
    (b"\x47\x40", "an MPEG transport stream"),
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
        DataError: "not a video of a kind that is allowed: it looks like ..." if it is none of mp4,
            mov, 3gp, avi, mkv and webm.
    """
    file.seek(0)
    head = file.read(_HEAD)
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    for try_one in (_iso, _avi, _matroska):
        container = try_one(head, size)
        if container is not None:
            return container
    raise DataError(
        f"not a video of a kind that is allowed: it looks like {_describe(head)}, "
        f"not like {_ALLOWED}"
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
