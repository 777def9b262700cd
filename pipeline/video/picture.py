"""A decoded frame as a person would see it: upright, square pixels, no comb, RGB uint8.

In: a frame of PyAV and the shape of its pixels, as the container says it. Out: uint8 [H, W, 3], and
what had to be done about it. All colour conversion is one filter of FFmpeg, `scale`, which decord
runs too, so both decoders give the same pixels for every pixel format, range and matrix.

The rules, all in the preprocessing id by PICTURE_RULE:
- pixels that are not square: the width is scaled, as players do;
- a display matrix: the nearest of the eight turns and mirrorings;
- an interlaced frame: its first field, scaled to the full height;
- HDR (HLG and PQ): display light as BT.2100 has it, 100 nits to 85 % of white, the rest rolled off,
  BT.2020 to BT.709 primaries, gamma 2.4;
- frames of more than one size: fitted into the largest width and height, proportions kept.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from typing import Any, Final

import cv2
import numpy as np
from av.filter import Graph
from numpy.typing import NDArray

PICTURE_RULE: Final = "ffmpeg-scale-square-upright-1"
"""Name of this file's rules in the preprocessing id; to be changed when other pixels come out."""

HDR: Final = "HDR"
INTERLACED: Final = "interlaced"
TURNED: Final = "picture changes its shape"

_PQ, _HLG = 16, 18  # AVCOL_TRC_SMPTE2084, AVCOL_TRC_ARIB_STD_B67
_SQUARE: Final = 0.01
"""Part by which pixels may be off square and count as square: encoders round the ratio."""
_ODDEST: Final = 4
"""Ratio of a pixel's sides beyond which a header is not believed."""

Size = tuple[int, int]
"""Width and height, pixels."""


def pixel_shape(stream: Any) -> Fraction:
    """Return width over height of a stream's pixels; 1 where they are square or hardly anything."""
    shape = stream.sample_aspect_ratio
    if not shape or not Fraction(1, _ODDEST) <= shape <= _ODDEST or abs(shape - 1) <= _SQUARE:
        return Fraction(1)
    return Fraction(shape)


def is_hdr(source: Any) -> bool:
    """Say whether a frame or a codec context is of a high dynamic range (PQ or HLG)."""
    return source.color_trc in (_PQ, _HLG)


def turning(frame: Any) -> tuple[bool, bool, bool]:
    """Return what the display matrix asks for: transpose, then mirror left-right, then up-down.

    The matrix takes x, y to a x + c y, b x + d y, with y downwards; of other turns the nearest.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, False, False
    a, b, _, c, d = (int(number) for number in np.frombuffer(bytes(data), "=i4")[:5])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


def is_plain(frame: Any, shape: Fraction) -> bool:
    """Say whether a frame needs nothing but the conversion of its colours."""
    return (
        shape == 1 and not any(turning(frame)) and not frame.interlaced_frame and not is_hdr(frame)
    )


@dataclass
class Pictures:
    """Frames of one video on their way to RGB; keeps the filters that it has set up."""

    shape: Fraction
    """Width over height of a pixel."""
    notes: set[str] = field(default_factory=set)
    """What was done about the frames so far: HDR, INTERLACED."""
    _graphs: dict[Any, Any] = field(default_factory=dict)

    def size(self, frame: Any) -> Size:
        """Return width and height of a frame as it is seen."""
        size = max(1, round(frame.width * self.shape)), frame.height
        return size[::-1] if turning(frame)[0] else size

    def show(self, frame: Any, canvas: Size | None = None) -> NDArray[np.uint8]:
        """Convert a frame to RGB uint8 [H, W, 3], fitted into a canvas where one is given."""
        hdr, fields = is_hdr(frame), bool(frame.interlaced_frame)
        self.notes |= {HDR} if hdr else set()
        self.notes |= {INTERLACED} if fields else set()
        width = max(1, round(frame.width * self.shape))
        pixels = self._convert(frame, (width, frame.height), hdr=hdr, fields=fields)
        transpose, mirrored, flipped = turning(frame)
        if transpose:
            pixels = pixels.swapaxes(0, 1)
        pixels = pixels[:: -1 if flipped else 1, :: -1 if mirrored else 1]
        return fit(pixels, canvas or self.size(frame))

    def _convert(self, frame: Any, size: Size, *, hdr: bool, fields: bool) -> NDArray[np.uint8]:
        kind = frame.format.name, frame.width, frame.height, frame.colorspace, frame.color_range
        key = (*kind, *size, hdr, fields)
        if key not in self._graphs:
            self._graphs[key] = _graph(frame, size, "rgb48" if hdr else "rgb24", fields=fields)
        _, source, sink = self._graphs[key]
        source.push(frame)
        pixels: NDArray[Any] = sink.pull().to_ndarray()
        return _to_sdr(pixels, frame.color_trc) if hdr else pixels


def _graph(frame: Any, size: Size, form: str, *, fields: bool) -> tuple[Any, Any, Any]:
    """Set up the filters from a decoded frame to packed RGB: graph (to be kept), source, sink."""
    graph = Graph()
    graph.threads = 1
    first = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format.name,
        time_base=frame.time_base or Fraction(1, 1000),
    )
    chain = [graph.add("field", "type=top")] if fields else []
    chain += [graph.add("scale", f"{size[0]}:{size[1]}"), graph.add("format", form)]
    chain += [graph.add("buffersink")]
    for before, after in zip([first, *chain], chain, strict=False):
        before.link_to(after)
    graph.configure()
    return graph, first, chain[-1]


def fit(pixels: NDArray[np.uint8], canvas: Size) -> NDArray[np.uint8]:
    """Fit an image into a canvas (width, height), proportions kept, black around."""
    height, width = pixels.shape[:2]
    if (width, height) == canvas:
        return pixels
    scale = min(canvas[0] / width, canvas[1] / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if size != (width, height):
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        pixels = np.asarray(cv2.resize(np.ascontiguousarray(pixels), size, interpolation=method))
    x, y = (canvas[0] - size[0]) // 2, (canvas[1] - size[1]) // 2
    whole = np.zeros((canvas[1], canvas[0], 3), np.uint8)
    whole[y : y + size[1], x : x + size[0]] = pixels
    return whole


def turns(size: Size) -> bool:
    """Say whether a picture of this size is wide and not upright."""
    return size[0] > size[1]


def largest(sizes: list[Size]) -> Size:
    """Return the canvas for frames of these sizes: the largest width and the largest height."""
    return max(width for width, _ in sizes), max(height for _, height in sizes)


# HDR. BT.2100 tables 4 and 5; BT.2087 for the primaries.

_WHITE: Final = 100.0  # nits of the light that becomes the end of the straight part, with _KNEE
_KNEE: Final = 0.75  # of SDR's linear light: above, the curve flattens towards 1
_LUMA: Final = np.array([0.2627, 0.6780, 0.0593], np.float32)
_TO_709: Final = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349],
     [-0.018151, -0.100579, 1.118730]], np.float32,
)  # fmt: skip


@cache
def _light(trc: int) -> NDArray[np.float32]:
    """Return the light of each of 65,536 signals: of PQ in nits, of HLG of the scene, 0 to 1."""
    signal = np.linspace(0, 1, 65536)
    if trc == _HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
        return light.astype(np.float32)
    power = signal ** (32 / 2523)
    ratio = np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)
    return (10_000 * ratio ** (16384 / 2610)).astype(np.float32)


def _to_sdr(pixels: NDArray[np.uint16], trc: int) -> NDArray[np.uint8]:
    """Map the RGB signal of an HDR frame, uint16 [H, W, 3], to BT.709 and uint8."""
    light = _light(trc)[pixels]
    if trc == _HLG:  # the display's own curve, at 1,000 nits
        scene = np.maximum(light @ _LUMA, 1e-6)
        light *= 1000 * (scene**0.2)[..., None]
    light = np.maximum(cv2.transform(light / _WHITE, _TO_709), 0)
    over = _KNEE + (1 - _KNEE) * (1 - np.exp((_KNEE - light) / (1 - _KNEE) / 2))
    light = np.where(light > _KNEE, over, light)
    return np.asarray(np.round(255 * light ** (1 / 2.4)), np.uint8)
