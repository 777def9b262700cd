"""How do shapes in face units become the pixels of a frame?

Shapes are flat polygons on a canvas of twice the frame's size, scaled down by area (so that edges
are smooth), then multiplied by one blurred map of light and shadow. Face units: see drawn_person.
"""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.drawn_person import Colour, Pose

Points = NDArray[np.float64]  # [N, 2], face units
Image = NDArray[np.uint8]  # [size, size, 3], RGB

T: Final = np.linspace(-1, 1, 17)  # along an eye, a brow or the mouth
ROUND: Final = np.stack([np.cos(T * np.pi), np.sin(T * np.pi)], axis=1)  # [17, 2], a circle
_BALL: Final = np.array([0.95, 1.2]) ** -2.0  # the ellipsoid on which a feature lies
_LIT: Final = 3.2  # face units that the light map spans
_NEUTRAL: Final = 128  # of the light map: multiplies by one
_SOFT: Final = 0.035  # face units, sigma of the blur of light and shadow


class Easel:
    """One background in one light. For each frame: `start`, fill, line and darken, `finish`."""

    def __init__(
        self, size: int, *, head_width: float, home: Pose, rng: np.random.Generator
    ) -> None:
        """Draw light, wall and shoulders by lot for frames of `size` x `size` pixels.

        `head_width` is half the head's width in face units; `home`, where the head is on the whole.
        """
        self._size = size
        self._gain = rng.uniform(0.92, 1.06)
        shadow = np.arange(256)[:, None] / _NEUTRAL
        tint = 255 / 2 * shadow ** np.array([0.85, 1.0, 1.1])  # shaded skin is redder
        self._tint = tint.clip(0, 255).astype(np.uint8)[None]
        self._light = _lit_head(rng, size, head_width)
        self._aim(home)
        self._canvas = _wall(rng, 2 * size)
        self._draw_shoulders(rng)
        self._backdrop = self._canvas.copy()

    def start(self, pose: Pose) -> None:
        """Begin a frame: the background alone, and the head's light where the head is."""
        self._aim(pose)
        np.copyto(self._canvas, self._backdrop)
        grow = self._spin.T * self._unit * _LIT / self._size
        corner = self._shift - grow @ np.full(2, self._size / 2 - 0.5)
        self._shade = cv2.warpAffine(
            self._light,
            np.column_stack([grow, corner]),
            (self._size, self._size),
            borderMode=cv2.BORDER_REPLICATE,
        )

    def finish(self) -> Image:
        """Return the frame: uint8 [size, size, 3], RGB."""
        frame = cv2.resize(self._canvas, (self._size, self._size), interpolation=cv2.INTER_AREA)
        shade = cv2.GaussianBlur(self._shade, (0, 0), _SOFT * self._unit)
        tint = cv2.LUT(cv2.merge([shade, shade, shade]), self._tint)
        lit: Image = cv2.multiply(frame, tint, scale=self._gain * 2 / 255)
        return lit

    def fill(self, points: Points, colour: Colour, *, depth: float = 0.6) -> None:
        """Fill a polygon. `depth`: how far it lies before the ears, 0 for the head's outline."""
        pixels = self._pixels(points, depth=depth, zoom=2)
        cv2.fillPoly(self._canvas, [pixels], colour.tolist(), cv2.LINE_AA, 4)

    def line(self, points: Points, colour: Colour, thick: float, *, depth: float = 0.6) -> None:
        """Draw an open line, `thick` face units wide."""
        pixels = self._pixels(points, depth=depth, zoom=2)
        width = max(1, round(thick * 2 * self._unit))
        cv2.polylines(self._canvas, [pixels], False, colour.tolist(), width, cv2.LINE_AA, 4)

    def darken(self, points: Points, factor: float, *, depth: float = 0.6) -> None:
        """Multiply a soft-edged area by `factor` (above 1 lightens): fills the light map there."""
        pixels = self._pixels(points, depth=depth, zoom=1)
        x, y = np.clip(pixels.mean(axis=0) // 16, 0, self._size - 1).astype(int)
        level = float(self._shade[y, x]) * factor
        cv2.fillPoly(self._shade, [pixels], min(255.0, level), cv2.LINE_AA, 4)

    def _draw_shoulders(self, rng: np.random.Generator) -> None:
        half = rng.uniform(1.25, 1.6)
        body = np.stack([T * half, 2.6 - 1.42 * (1 - T**4) ** 0.5], axis=1)
        corners = np.array([[half, 4], [-half, 4]])
        self.fill(np.concatenate([body, corners]), rng.uniform(20, 230, 3), depth=0)

    def _aim(self, pose: Pose) -> None:
        """Prepare the way from face units to pixels for one pose."""
        self._unit = pose.scale * self._size  # pixels in a face unit
        cos, sin = np.cos(pose.roll), np.sin(pose.roll)
        self._spin = np.array([[cos, sin], [-sin, cos]])  # for rows: points @ self._spin
        self._turn = np.diag([np.cos(pose.yaw), 1]) @ self._spin * self._unit
        self._near = np.array([np.sin(pose.yaw), np.sin(pose.pitch)]) @ self._spin * self._unit
        self._shift = np.array([pose.x, pose.y]) * self._size - 0.5

    def _pixels(self, points: Points, *, depth: float, zoom: int) -> NDArray[np.int32]:
        """Project face units to 1/16 pixels: yaw and pitch move more what is nearer."""
        place = points @ self._turn
        if depth:
            ball = 1 - points**2 @ _BALL
            place += np.sqrt(np.maximum(ball, 0))[:, None] * (self._near * depth)
        place += self._shift
        place *= 16 * zoom
        fixed: NDArray[np.int32] = np.rint(place, out=place).astype(np.int32)
        return fixed


def _lit_head(rng: np.random.Generator, size: int, head_width: float) -> NDArray[np.uint8]:
    """Return the light map [size, size]: Lambert's law on an ellipsoid, the light from one side."""
    axis = np.linspace(-_LIT / 2, _LIT / 2, size)
    x, y = np.meshgrid(axis / (head_width * 1.05), axis / 1.08)
    inside = np.clip(1 - x**2 - y**2, 0, 1)
    light = np.array([rng.uniform(-0.5, 0.5), rng.uniform(-0.55, -0.1), 1.0])
    light /= np.linalg.norm(light)
    lambert = np.clip(x * light[0] + y * light[1] + np.sqrt(inside) * light[2], 0, 1)
    level = np.where(inside > 0, 0.5 + 0.6 * lambert, 0.68)
    return np.asarray(np.rint(level * _NEUTRAL), dtype=np.uint8)


def _wall(rng: np.random.Generator, side: int) -> Image:
    """Return a wall out of focus: uint8 [side, side, 3]."""
    tone = rng.uniform(70, 190) + rng.normal(0, 14, 3)
    coarse = tone + rng.normal(0, 22, (4, 4, 1)) + rng.normal(0, 6, (4, 4, 3))
    wall = cv2.resize(coarse.astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(wall * 1.3, 0, 255), dtype=np.uint8)
