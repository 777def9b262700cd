"""Clips of any source, a video, a folder of frames or a strip: which frames, shown when.

In: a folder of jpg or png frames, or one image of 16 faces. Out: a Decoded, as of a video. A frame
is where its number puts it, counted from the first in the step of that folder (1, 2, 3; 0, 5, 10;
0.04, 0.08), so a number that is not there is time that is missing. A name decides what is a frame,
the content what kind of image: JPEG, PNG, BMP or WebP, by a header that is read before anything is
decoded. One that is none of them (a folder, a dangling link, damage, another format), or is too
large, costs itself.
"""

import math
import os
import re
import struct
from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import median_low
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.video.container import MAX_PIXELS
from pipeline.video.decode import Decoded, Decoder, Source, frame_indices, open_file, read_video
from pipeline.video.listing import MAX_FRAMES
from safe.errors import DataError, MachineError, MissingError, of_machine
from safe.sample import DEFAULT_FRAMES, check_scans, find_markers, is_frame

_NUMBERS: Final = re.compile(r"(\d+(?:[.,]\d+)*)")
_SPARSE: Final = 4
"""Steps from most frames to the next where frames were taken out; above, stamps are rounded."""

_MAX_BYTES: Final = 8 * MAX_PIXELS + 2**20
"""Largest file of an image: 16 bits of four colours a pixel without any compression."""

_JPEG_FRAMES: Final = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers of the segments of a JPEG that hold its size: a kind of coding each."""

_OLD_BMP: Final = 12  # bytes of the second header of the oldest BMP files

_NO_STEP: Final = 1e18
"""Stands for the length of a folder whose numbers have no step in common."""


def read_clip(
    path: Path, source: Source, *, decoder: Decoder = "decord", frames: int = DEFAULT_FRAMES
) -> Decoded:
    """Read so many frames of a clip as its source says.

    Raises:
        DataError: what is wrong with the content of the clip; MissingError if it is not there.
        OSError, MachineError: what is wrong with the machine, and says nothing of the clip.
    """
    if source == "video":
        return read_video(path, decoder=decoder, frames=frames)
    return read_frames(path, frames) if source == "frames" else read_strip(path, frames)


def gone(path: Path) -> MachineError:
    """Return the error of a clip that was there: the machine lost it, or somebody removed it."""
    return MachineError(
        f"{path}: not there any more; is the disk or the folder with the clips away? If the clip "
        "is to be missing, run `safe-cli index` again"
    )


def read_frames(folder: Path, count: int = DEFAULT_FRAMES) -> Decoded:
    """Read 16 frames of a folder: the centres of 16 equal segments of its numbers.

    A frame that is missing or damaged is replaced by the nearest, which `damage` tells. Frames of
    another size than the first one read are resized to it.

    Raises:
        MissingError: "folder missing".
        DataError: "no jpg or png frames", "no frame could be decoded", or what is wrong with the
            numbers.
        OSError, MachineError: an error of the machine.
    """
    try:
        names = [file.name for file in folder.iterdir() if is_frame(file.name)]
    except OSError as error:
        if of_machine(error):
            raise
        raise MissingError("folder missing") from error
    if not names:
        raise DataError("no jpg or png frames")
    names, positions = place_frames(names)
    length = (positions or range(len(names)))[-1] + 1
    if length > MAX_FRAMES:
        raise DataError(f"frames numbered over more than {MAX_FRAMES:,}: too long for a clip")
    damage = []
    if positions is None:
        damage.append("numbers of the frames have no common step: taken in their order")
        positions = list(range(len(names)))
    indices = frame_indices(length, count)
    wanted = {_nearest(positions, index) for index in indices}
    images: dict[int, NDArray[np.uint8]] = {}
    reasons = []
    for at in sorted(wanted):
        try:
            images[positions[at]] = _read_image(folder / names[at])
        except DataError as error:  # costs that frame alone
            if isinstance(error, MissingError) and not os.path.lexists(folder / names[at]):
                raise gone(folder / names[at]) from error  # it was there a moment ago
            reasons.append(str(error))
    if not images:
        raise DataError(f"no frame could be decoded: {reasons[0]}")
    there = list(images)
    nearest = [there[_nearest(there, index)] for index in indices]
    height, width = images[there[0]].shape[:2]
    frames = np.stack([_fit(images[position], height, width) for position in nearest])
    if repeated := sum(position != index for position, index in zip(nearest, indices, strict=True)):
        whole = f"{count - repeated} of {count} frames decoded"
        damage.insert(0, f"{whole}, {repeated} repeated from the nearest")
    if length > len(names):
        damage.append(f"{length - len(names)} of {length} numbered frames are not there")
    return Decoded(frames, indices, length, 0.0, width, height, "; ".join(damage))


def read_strip(path: Path, count: int = DEFAULT_FRAMES) -> Decoded:
    """Read the faces of a strip, all of them. Raises DataError and errors of the machine."""
    image = _read_image(path)
    if image.shape[0] != count * image.shape[1]:
        raise DataError(f"not a strip of {count} square faces below one another")
    side = image.shape[1]
    frames = image.reshape(count, side, side, 3)
    return Decoded(frames, list(range(count)), count, 0.0, side, side, "")


def place_frames(names: Sequence[str]) -> tuple[list[str], list[int] | None]:
    """Put names of frames in the order of time, and say where each is.

    Order is that of the numbers in the names: 2 before 10, and 1.10 before 1.9 where these are
    seconds. If 9 and 10 are numbers within a part 1, far fewer of them are missing in between.

    Returns:
        The names, and their positions, ascending from 0: where they have no number of their own,
        one after the other. None for the positions if the numbers have no step in common.
    """
    length, placed = _read_names(names, seconds=False)
    if any(re.search(r"\d[.,]\d", name) for name in names):
        longer, seconds = _read_names(names, seconds=True)
        if longer < math.inf and longer <= 2 * length:
            return seconds
    return placed


def _read_names(
    names: Sequence[str], *, seconds: bool
) -> tuple[float, tuple[list[str], list[int] | None]]:
    """Do the work of place_frames, with 1.5 as one number or as two.

    The number of a frame is the first that differs from name to name, if it grows with each.

    Returns:
        The positions from first to last, which are the fewer the better the reading fits; infinite
        without such a number. Then what place_frames returns.
    """
    keys = {name: _key(name, seconds) for name in names}
    ordered = sorted(names, key=lambda name: (keys[name], name))
    kinds = {tuple(p if isinstance(p, str) else len(p) for p in key) for key in keys.values()}
    if len(kinds) == 1:
        numbers = [[number for part in keys[name][1::2] for number in part] for name in ordered]
        for each in zip(*numbers, strict=True):
            if len(each) > 1 and all(a < b for a, b in pairwise(each)):
                positions = _positions(each)
                return positions[-1] if positions else _NO_STEP, (ordered, positions)
    return math.inf, (ordered, list(range(len(ordered))))


def _key(name: str, seconds: bool) -> list[Any]:
    """Return a name as text, numbers, text, ..., the numbers of 10.30.05 together."""
    key: list[Any] = _NUMBERS.split(name.rpartition(".")[0])
    for at in range(1, len(key), 2):
        digits = re.split("[.,]", key[at])
        if seconds and len(digits) == 2:
            key[at] = (Fraction(".".join(digits)),)
        else:
            key[at] = tuple(map(int, digits))
    return key


def _positions(numbers: Sequence[Fraction]) -> list[int] | None:
    """Count ascending numbers in steps; None if they have none.

    The step is what divides all distances. Stamps that were rounded (33, 67, 100 ms; 0.02, 0.03,
    0.05 s) have none that does so: there it is the mean of the distances that are like most.
    """
    scale = 1
    while any((number * scale).denominator > 1 for number in numbers):
        scale *= 10
    whole = [int(number * scale) for number in numbers]
    gaps = [b - a for a, b in pairwise(whole)]
    mean = Fraction(sum(gaps), len(gaps))
    if scale > 1 and all(abs(n - whole[0] - at * mean) <= 1 for at, n in enumerate(whole)):
        return list(range(len(whole)))
    step, usual = math.gcd(*gaps), median_low(gaps)
    like = [gap for gap in gaps if abs(gap - usual) <= max(usual // 4, 1)]
    if min(gaps) == step and (usual <= _SPARSE * step or 2 * len(like) <= len(gaps)):
        steps = [gap // step for gap in gaps]
    elif 2 * len(like) > len(gaps):
        mean = Fraction(sum(like), len(like))
        steps = [max(1, round(gap / mean)) for gap in gaps]
    else:
        return None
    return list(accumulate(steps, initial=0))


def _nearest(positions: Sequence[int], wanted: int) -> int:
    """Return which of some ascending positions is nearest; of two as near, the earlier."""
    after = min(bisect_left(positions, wanted), len(positions) - 1)
    before = max(after - 1, 0)
    return before if wanted - positions[before] <= positions[after] - wanted else after


def _read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image as RGB uint8 [H, W, 3].

    Raises DataError if it is none, too large or damaged; OSError if the machine fails.
    """
    with open_file(path) as file:
        encoded = file.read(_MAX_BYTES + 1)
    width, height = _read_size(encoded)
    if len(encoded) > _MAX_BYTES or not 0 < width * height <= MAX_PIXELS:
        raise DataError(f"an image of {width} x {height} pixels, or of its bytes, is too large")
    try:  # not cv2.imread, which writes to stderr
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        if "memory" in str(error):
            raise
        image = None
    if image is None or image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise DataError("an image that is damaged")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def _read_size(encoded: bytes) -> tuple[int, int]:
    """Return width and height as the header of an image has them.

    Raises DataError if it is of no format that is read: each decoder more is more to attack.
    """
    head = encoded[:64].ljust(64, b"\0")
    if head.startswith(b"\xff\xd8\xff"):
        check_scans(encoded)
        frame = next((at for kind, at in find_markers(encoded) if kind in _JPEG_FRAMES), None)
        if frame is None or frame + 7 > len(encoded):
            raise DataError("a JPEG image that is damaged")
        height, width = struct.unpack_from(">HH", encoded, frame + 3)
        return width, height
    if head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR":
        width, height = struct.unpack_from(">II", head, 16)
        return width, height
    if head.startswith(b"BM"):
        old = head[14] == _OLD_BMP
        width, height = struct.unpack_from("<HH" if old else "<ii", head, 18)
        return width, abs(height)  # below 0: from the top down
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return _read_webp(head)
    raise DataError("not an image of a kind that is read (JPEG, PNG, BMP, WebP)")


def _read_webp(head: bytes) -> tuple[int, int]:
    """Return width and height of a WebP image: lossy, lossless, or with a header before either."""
    kind = head[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", head, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        sides = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
        return next(sides), next(sides)
    raise DataError("a WebP image that is damaged")


def _fit(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
