"""Videos whose every frame carries its number, written by the ffmpeg program.

In: a recipe. Out: a file. The number is eight bits as light and dark squares in the middle of the
picture, and the same eight bits inverted below them, so that a misread is noticed; behind them a
picture in motion, so that frames are predicted from one another. The squares lie in the centre
square of the picture, where the stage shard cuts when there is no face, and survive its JPEG.
"""

import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Final

import cv2
import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

BITS: Final = 8
SIDE: Final = 4
"""Squares in a row; SIDE x SIDE of them are the bits and their complements."""

MIDDLE: Final = 0.8
"""Part of the centre square's side that the squares take."""

_DARK, _LIGHT = 24, 232
_DOUBT: Final = 60
"""Levels by which a square must differ from its complement to be read."""

_SOUND: Final = {"avi": "libmp3lame", "webm": "libopus", "mpg": "mp2"}
"""Encoder of sound by container; aac elsewhere."""


@dataclass(frozen=True)
class Area:
    """Where the squares are in a picture as it is shown, whatever it has been scaled to."""

    width: float
    """Part of the width of the picture as it was drawn."""
    height: float
    turn: int = 0
    """Degrees, counter-clockwise, by which the drawn picture is turned to be shown."""
    mirrored: bool = False
    """Whether left and right are exchanged after that."""

    def drawn(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn a shown picture [H, W, 3] back to how it was drawn."""
        straight = picture[:, ::-1] if self.mirrored else picture
        return np.rot90(straight, -(self.turn // 90))

    def within(self, box: tuple[float, ...], width: int, height: int) -> "Area":
        """Return the area in a box (x0, y0, x1, y1) in the middle of a shown picture."""
        wide, high = width / (box[2] - box[0]), height / (box[3] - box[1])
        if self.turn % 180:
            wide, high = high, wide
        return replace(self, width=self.width * wide, height=self.height * high)


@dataclass(frozen=True)
class Recipe:
    """How a file is made."""

    name: str
    """Of the file, without its ending; unlike all others."""
    family: str
    """What it is an example of."""
    suffix: str
    """Ending of the file's name, by which ffmpeg chooses the container."""
    encode: tuple[str, ...]
    """ffmpeg's options for the encoder: ("-c:v", "libx264", ...)."""
    size: tuple[int, int] = (112, 80)
    """Width and height, pixels. decord gives no batch of pictures 32, 48, 96 or 144 wide."""
    count: int = 80
    rate: str = "25"
    pixels: str = "yuv420p"
    """Pixel format."""
    filters: str = ""
    """Filters before the encoder; they may leave frames out or move them in time."""
    mux: tuple[str, ...] = ()
    """Further options of the output."""
    sound: float | None = None
    """Seconds from the first picture to the first sound, negative where sound is first."""
    steps: tuple[tuple[str, ...], ...] = ()
    """What is done to the file after that, see `make`."""
    sar: str = "1"
    """Sample aspect ratio, width to height, in the file's headers."""
    turn: int = 0
    """Degrees that a player must turn it by, counter-clockwise, and"""
    mirrored: bool = False
    """whether to exchange left and right then: what the options of a copy ask for."""
    scenes: int = 0
    """Frames from one hard cut of the picture to the next; 0: none."""

    @property
    def file(self) -> str:
        """Name of the file in the end."""
        copies = [step[1] for step in self.steps if step[0] == "copy"]
        return f"{self.name}.{[self.suffix, *copies][-1]}"

    @property
    def area(self) -> Area:
        """Where the squares are."""
        width, height = self.size
        wide = float(Fraction(self.sar)) * width
        side = MIDDLE * min(wide, height)
        return Area(side / wide, side / height, self.turn, self.mirrored)


def ffmpeg(*words: str, data: bytes | Iterator[bytes] = b"") -> tuple[bytes, str]:
    """Run the ffmpeg program; return what it writes to its two outputs.

    Raises:
        RuntimeError: what ffmpeg complains of, if it fails.
    """
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", *words]
    sent = data if isinstance(data, bytes) else b"".join(data)
    done = subprocess.run(command, input=sent, capture_output=True, check=False)
    said = done.stderr.decode(errors="replace")
    if done.returncode:
        raise RuntimeError(f"ffmpeg {' '.join(words)}: {said[-1500:]}")
    return done.stdout, said


# The picture


def draw(number: int, recipe: Recipe) -> NDArray[np.uint8]:
    """Return frame `number` of a recipe: uint8 [H, W, 3], RGB."""
    width, height = recipe.size
    scene = number // recipe.scenes if recipe.scenes else 0
    board = _texture(width, height, scene)
    x, y = 3 * number % width, number % height
    picture = board[y : y + height, x : x + width].copy()
    centre = (int(width * (0.5 + 0.45 * np.sin(number / 5))), int(height * 0.9))
    cv2.circle(picture, centre, max(3, height // 8), (210, 60, 40), -1)
    for square, lit in zip(squares(recipe.area, width, height), _lit(number), strict=True):
        x0, y0, x1, y1 = (round(edge) for edge in square)
        picture[y0:y1, x0:x1] = _LIGHT if lit else _DARK
    return picture


@cache
def _texture(width: int, height: int, scene: int) -> NDArray[np.uint8]:
    """Return a smooth coloured picture of twice the size, which repeats, to move about in."""
    cells = np.random.default_rng(scene).integers(50, 200, (6, 8, 3), dtype=np.uint8)
    tiled = np.tile(cells, (3, 3, 1))
    big = cv2.resize(tiled, (3 * width, 3 * height), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(big[height:, width:])


def _lit(number: int) -> list[bool]:
    bits = [bool(number >> bit & 1) for bit in range(BITS)]
    return bits + [not bit for bit in bits]


def squares(area: Area, width: float, height: float) -> list[tuple[float, float, float, float]]:
    """Return x0, y0, x1, y1 of each square in a drawn picture of some size, in pixels."""
    wide, high = area.width * width / SIDE, area.height * height / SIDE
    left, top = (width - SIDE * wide) / 2, (height - SIDE * high) / 2
    return [
        (left + column * wide, top + row * high, left + (column + 1) * wide, top + (row + 1) * high)
        for row in range(SIDE)
        for column in range(SIDE)
    ]


def read_number(shown: NDArray[np.uint8], area: Area) -> int:
    """Return the number that a picture [H, W, 3] shows; -1 if it cannot be read."""
    picture = area.drawn(shown)
    height, width = picture.shape[:2]
    levels = []
    for x0, y0, x1, y1 in squares(area, width, height):
        inset_x, inset_y = (x1 - x0) / 4, (y1 - y0) / 4
        columns = slice(round(x0 + inset_x), max(round(x1 - inset_x), round(x0 + inset_x) + 1))
        rows = slice(round(y0 + inset_y), max(round(y1 - inset_y), round(y0 + inset_y) + 1))
        levels.append(float(picture[rows, columns].mean()))
    apart = np.array(levels[:BITS]) - np.array(levels[BITS:])
    if np.abs(apart).min() < _DOUBT:
        return -1
    return sum(1 << bit for bit in range(BITS) if apart[bit] > 0)


# The file


def make(recipe: Recipe, folder: Path) -> Path:
    """Write the file of a recipe into a folder; return it.

    Steps: ("copy", ending, input options, output options) lets ffmpeg copy the streams into another
    file, options parted by blanks; ("cut", packets, bytes a packet) takes packets off the front of
    a transport stream; ("empty", numbers of frames) puts an empty chunk of an AVI before each of
    these frames, as often as it is named.
    """
    path = folder / f"{recipe.name}.{recipe.suffix}"
    _encode(recipe, path)
    for step, *words in recipe.steps:
        before = path.rename(folder / f"{recipe.name}-before.{path.suffix[1:]}")
        if step == "copy":
            path = folder / f"{recipe.name}.{words[0]}"
            given, wanted = words[1].split(), words[2].split()
            ffmpeg(
                *("-v", "error", "-y", *given, "-i", str(before)),
                *("-map", "0", "-c", "copy", *wanted, str(path)),
            )
        elif step == "cut":
            path.write_bytes(before.read_bytes()[int(words[0]) * int(words[1]) :])
        else:
            path.write_bytes(add_empty_chunks(before.read_bytes(), list(map(int, words))))
        before.unlink()
    return path


def _encode(recipe: Recipe, path: Path) -> None:
    width, height = recipe.size
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
    given += ["-framerate", recipe.rate]
    late = recipe.sound or 0.0
    picture = [*(["-itsoffset", f"{-late}"] if late < 0 else []), *given, "-i", "-"]
    sound: list[str] = []
    if recipe.sound is not None:
        seconds = recipe.count / float(Fraction(recipe.rate))
        sine = f"sine=frequency=440:sample_rate=48000:duration={seconds:.3f}"
        sound = [*(["-itsoffset", f"{late}"] if late > 0 else []), "-f", "lavfi", "-i", sine]
        sound += ["-map", "0:v", "-map", "1:a", "-c:a", _SOUND.get(recipe.suffix, "aac")]
    chain = [recipe.filters] if recipe.filters else []
    if recipe.sar != "1":
        chain.append(f"setsar={recipe.sar}")
    filters = ["-vf", ",".join(chain)] if chain else []
    frames = (draw(number, recipe).tobytes() for number in range(recipe.count))
    ffmpeg(
        *("-v", "error", "-y", *picture, *sound, *filters, *recipe.encode),
        *("-pix_fmt", recipe.pixels, *recipe.mux, str(path)),
        data=frames,
    )


def add_empty_chunks(avi: bytes, before: list[int]) -> bytes:
    """Put empty chunks into an AVI of one video stream, as a webcam does that loses frames.

    One comes before each frame that `before` names, or at the end for the number of frames there
    are. The file's header counts them too.
    """
    start = avi.index(b"movi")
    size = int.from_bytes(avi[start - 4 : start], "little")
    body, at, chunks = avi[start + 4 : start - 4 + 4 + size], 0, []
    while at + 8 <= len(body):
        name, length = body[at : at + 4], int.from_bytes(body[at + 4 : at + 8], "little")
        if name == b"00dc":
            chunks.append(body[at + 8 : at + 8 + length])
        at += 8 + length + length % 2
    flags = avi.rindex(b"idx1") + 8  # of each frame, in an index of rows of 16 bytes
    keys = [int.from_bytes(avi[flags + 16 * n + 4 :][:4], "little") for n in range(len(chunks))]
    wanted: list[tuple[bytes, int]] = []
    for number in range(len(chunks) + 1):
        wanted += [(b"", 0)] * before.count(number)
        if number < len(chunks):
            wanted.append((chunks[number], keys[number]))
    movi, index = b"movi", b""
    for chunk, key in wanted:
        index += b"00dc" + struct.pack("<III", key, len(movi), len(chunk))
        movi += b"00dc" + struct.pack("<I", len(chunk)) + chunk + b"\0" * (len(chunk) % 2)
    head = bytearray(avi[12 : start - 8])
    avih, strh = head.index(b"avih") + 8, head.index(b"strh") + 8
    struct.pack_into("<I", head, avih + 16, len(wanted))
    struct.pack_into("<I", head, strh + 32, len(wanted))
    content = b"AVI " + bytes(head) + b"LIST" + struct.pack("<I", len(movi)) + movi
    content += b"idx1" + struct.pack("<I", len(index)) + index
    return b"RIFF" + struct.pack("<I", len(content)) + content
