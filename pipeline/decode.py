"""Which 16 frames of a clip, and their pixels?

A video file, a folder of face frames or a strip of 16 faces in, 16 upright RGB frames out. A frame
that could not be decoded is replaced by the nearest one that could, and the result says so. Native
decoders can hang or crash: call this inside pipeline.tasks.engine.run_tasks.

The rule: the centre frame of each of 16 equal segments of the clip. A clip of fewer than 16 frames
is spread over evenly, each frame repeated in its place. The length of a video is what its container
lists to be shown, also where the file is cut off or damaged: so a frame keeps its place in time.

Two decoders, the same pixels. PyAV tells of all damage that FFmpeg notices. decord raises when
packets are lost, but not when FFmpeg conceals an error inside a frame; and where an edit list hides
frames at the start it counts those too and fills up with copies of the last frame, so it is trusted
only with a stream whose length it reads as listed.
"""

import re
import sys
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.video import Listing, decode_places, list_frames
from safe.errors import DataError
from safe.sample import FRAMES

Source = Literal["video", "frames", "strips"]
"""What a clip is: a video file, the folder of a release's face frames, or one strip of 16 faces."""

Decoder = Literal["decord", "pyav"]

_IMAGES: Final = (".jpg", ".jpeg", ".png")


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


def frame_indices(n: int, count: int = FRAMES) -> list[int]:
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


def read_clip(path: Path, source: Source, *, decoder: Decoder = "decord") -> Decoded:
    """Read a clip as its source says. Raises DataError."""
    if source == "video":
        return read_video(path, decoder=decoder)
    return read_frames(path) if source == "frames" else read_strip(path)


def read_video(path: Path, *, decoder: Decoder = "decord") -> Decoded:
    """Decode 16 frames of a video, at its own size.

    Args:
        path: the file; a container and a codec that pipeline/container.py allows.
        decoder: "decord", with PyAV for what decord cannot be trusted with; or "pyav" for all. PyAV
            also sees damage inside a frame that decord conceals in silence.

    Raises:
        DataError: "file missing", "empty file", "not a video ..." or "no frame could be decoded".
    """
    damage = ""
    # Opened once: what is checked is what is decoded, and no path reaches a decoder.
    with open_file(path) as file:
        listing = list_frames(file)
        indices = frame_indices(listing.length)
        frames = _decode_decord(file, listing, indices) if decoder == "decord" else None
        if frames is None:
            frames, repeated, unsound = decode_places(file, listing, indices)
            damage = _describe(repeated, unsound)
    height, width = frames.shape[1:3]
    return Decoded(frames, indices, listing.length, listing.fps, width, height, damage)


def read_frames(folder: Path) -> Decoded:
    """Read 16 of a folder's jpg or png frames, in natural order (1, 2, 10).

    Frames of another size than the first one read are resized to it.

    Raises:
        DataError: "folder missing", "no jpg or png frames" or "no frame could be decoded".
    """
    if not folder.is_dir():
        raise DataError("folder missing")
    files = [file for file in folder.iterdir() if file.suffix.lower() in _IMAGES]
    if not files:
        raise DataError("no jpg or png frames")
    files.sort(key=lambda file: _natural(file.name))
    indices = frame_indices(len(files))
    read = {index: _read_image(files[index]) for index in set(indices)}
    images = {index: image for index, image in read.items() if image is not None}
    if not images:
        raise DataError("no frame could be decoded")
    nearest = {index: min(images, key=lambda have: abs(have - index)) for index in indices}
    height, width = images[min(images)].shape[:2]
    frames = np.stack([_fit(images[nearest[index]], height, width) for index in indices])
    repeated = sum(nearest[index] != index for index in indices)
    return Decoded(frames, indices, len(files), 0.0, width, height, _describe(repeated, 0))


def read_strip(path: Path) -> Decoded:
    """Read the 16 faces of a strip, all of them. Raises DataError."""
    if not path.is_file():
        raise DataError("file missing")
    image = _read_image(path)
    if image is None or image.shape[0] != FRAMES * image.shape[1]:
        raise DataError(f"not a strip of {FRAMES} square faces below one another")
    side = image.shape[1]
    frames = image.reshape(FRAMES, side, side, 3)
    return Decoded(frames, list(range(FRAMES)), FRAMES, 0.0, side, side, "")


def open_file(path: Path) -> FileIO:
    """Open a file for reading, without a buffer.

    Raises:
        DataError: "file missing", "empty file" or "file cannot be opened: ...".
    """
    if not path.is_file():
        raise DataError("file missing")
    if path.stat().st_size == 0:
        raise DataError("empty file")
    try:
        return FileIO(path)
    except OSError as error:
        raise DataError(f"file cannot be opened: {error.strerror}") from error


def _decode_decord(file: FileIO, listing: Listing, indices: list[int]) -> NDArray[np.uint8] | None:
    """Decode with decord: uint8 [T, H, W, 3], or None where decord fails or cannot be trusted.

    decord gets the open file by its number: a path could hold a pattern (clip%d.png) or a protocol.
    """
    if not (listing.whole and listing.plain):
        return None
    load_decoder()  # here, because a folder of frames needs none
    import decord

    try:
        # Any fault at all is to raise: the default repeats frames in silence, and so does 0.
        file.seek(0)
        name = f"/dev/fd/{file.fileno()}"
        reader = decord.VideoReader(name, num_threads=1, fault_tol=1e-6)
        if len(reader) != listing.length:
            return None
        frames: NDArray[np.uint8] = reader.get_batch(indices).asnumpy()
    except (
        *(decord.DECORDError, decord.DECORDLimitReachedError),
        *(RuntimeError, ValueError, AssertionError, ArithmeticError, LookupError),
    ) as error:
        if "bad_alloc" in str(error):
            raise MemoryError("decord") from error
        return None
    return frames if frames.shape[-1] == 3 else None


def _describe(repeated: int, unsound: int) -> str:
    """Say what is wrong with the 16 frames, or nothing."""
    parts = []
    if repeated:
        parts.append(
            f"{FRAMES - repeated} of {FRAMES} frames decoded, {repeated} repeated from the nearest"
        )
    if unsound:
        parts.append(f"{unsound} of {FRAMES} frames decoded with errors")
    return "; ".join(parts)


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a sorting key by which 2.jpg comes before 10.jpg."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _read_image(file: Path) -> NDArray[np.uint8] | None:
    """Read an image as RGB uint8 [H, W, 3]; None if it is damaged."""
    encoded = np.fromfile(file, np.uint8)  # not cv2.imread, which writes to stderr
    image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    return None if image is None else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def _fit(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
