"""A sample of a shard: tar members of one key, `<key>.jpg`, `<key>.cls` and `<key>.json`.

The jpg is a film strip: the T square faces of the clip below one another in time order, width S,
height T * S. S is a multiple of 16 so that no JPEG block crosses two frames.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Final

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from safe.errors import DataError

DEFAULT_FRAMES: Final = 16
"""T, the frames that stand for a clip, in the paper; and in files that do not say so."""

MOST_FRAMES: Final = 64
"""Largest T."""

SHARD_FORMAT: Final = 3
"""Version of the shard folder: tars, index.json and clips.parquet."""

CLIP_COLUMNS: Final = {
    "clip": "string",
    "label": "int8",
    "bucket": "string",
    "shard": "string",
    "offset": "int64",
    "bytes": "int64",
    "crc32": "uint32",
    "flags": "string",
}
"""Columns of clips.parquet by Arrow type; offset, bytes and crc32 are those of the JPEG."""

KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,95}")
"""What a clip's key may look like. No dot: the stock webdataset reader cuts it at the first one.
With `.json` it fits the 100 characters of a ustar header."""

IMAGES: Final = (".jpg", ".jpeg", ".png")
"""Endings of the frames of a clip that is a folder, in lower case."""


def is_frame(name: str) -> bool:
    """Whether a file of this name is a frame; hidden ones, such as ._1.jpg of macOS, are not."""
    return not name.startswith(".") and name.lower().endswith(IMAGES)


def encode_strip(faces: NDArray[np.uint8], quality: int, chroma: str) -> bytes:
    """Encode the faces of a clip, uint8 [T, S, S, 3], RGB, as one JPEG strip.

    Raises ValueError if the shape is another, or S no multiple of 16. `chroma` is 420 or 444.
    """
    frames, height, width, channels = faces.shape
    if (height, channels) != (width, 3) or width % 16:
        raise ValueError(f"faces must be [T, S, S, 3] with S a multiple of 16: {faces.shape}")
    strip = np.ascontiguousarray(faces).reshape(frames * height, width, 3)
    return bytes(simplejpeg.encode_jpeg(strip, quality, "RGB", chroma, fastdct=False))


_MAX_SCANS: Final = 100
"""Scans of a JPEG, which each take the time of the whole image; encoders make ten or so."""


_MARKER: Final = re.compile(rb"\xff+([^\x00\x01\xff\xd0-\xd8])")
"""A marker of a JPEG, but for those that may stand within a scan."""

_SCAN, _END = 0xDA, 0xD9


def find_markers(jpeg: bytes) -> Iterator[tuple[int, int]]:
    """Yield the second byte of each marker of a JPEG up to its end, and where its segment begins.

    Those without a segment, and those within the data of a scan, are left out.
    """
    at = 0
    while (found := _MARKER.search(jpeg, at)) and found[1][0] != _END:
        yield found[1][0], found.end()
        at = found.end() + int.from_bytes(jpeg[found.end() : found.end() + 2])


def check_scans(jpeg: bytes) -> None:
    """Raise DataError if a JPEG has scans that would take minutes."""
    if jpeg.count(b"\xff\xda") <= _MAX_SCANS:  # microseconds; more may be of a preview inside it
        return
    scans = (kind for kind, _ in find_markers(jpeg) if kind == _SCAN)
    if next(islice(scans, _MAX_SCANS, None), None) is not None:
        raise DataError(f"a JPEG of more than {_MAX_SCANS} scans, the most that are decoded")


def decode_strip(
    jpeg: bytes, size: int, frames: int = DEFAULT_FRAMES, *, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Decode a JPEG strip to uint8 [T, size, size, 3], RGB, 0..255.

    Args:
        jpeg: the file.
        size: side of a face.
        frames: T.
        out: contiguous, to decode into; else a new array is made.

    Raises:
        DataError: if it is no JPEG, or its header claims another size or it has too many scans
        (checked before any decoding).
    """
    check_scans(jpeg)
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
        if (height, width) != (frames * size, size):
            raise DataError(
                f"strip of {width} x {height} pixels, expected {size} x {frames * size}"
            )
        pixels = simplejpeg.decode_jpeg(jpeg, "RGB", buffer=out)
    except ValueError as error:
        raise DataError(f"not a readable JPEG strip: {error}") from error
    faces: NDArray[np.uint8] = pixels.reshape(frames, size, size, 3)
    return faces
