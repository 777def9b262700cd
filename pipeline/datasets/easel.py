"""How do shapes in face units become the pixels of a frame?

Shapes are flat polygons on a canvas of twice the frame's size, scaled down by area (so that edges
are smooth), then multiplied by one blurred map of light and shadow. Face units: see drawn_person.
"""

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class _Shape:
    """A shape waiting to be drawn: a polygon, a line (thick) or a patch of the light (factor)."""

    points: Points
    depth: float
    colour: tuple[float, ...] = ()
    thick: float = 0.0
    factor: float = 0.0


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
        self._shapes: list[_Shape] = []
        self._draw_shoulders(rng)
        self._draw()
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
        """Draw the shapes in their order; return the frame: uint8 [size, size, 3], RGB."""
        self._draw()
        frame = cv2.resize(self._canvas, (self._size, self._size), interpolation=cv2.INTER_AREA)
        shade = cv2.GaussianBlur(self._shade, (0, 0), _SOFT * self._unit)
        tint = cv2.LUT(cv2.merge([shade, shade, shade]), self._tint)
        lit: Image = cv2.multiply(frame, tint, scale=self._gain * 2 / 255)
        return lit

    def fill(self, points: Points, colour: Colour, *, depth: float = 0.6) -> None:
        """Fill a polygon. `depth`: how far it lies before the ears, 0 for the head's outline."""
        self._shapes.append(_Shape(points, depth, colour=tuple(colour.tolist())))

    def line(self, points: Points, colour: Colour, thick: float, *, depth: float = 0.6) -> None:
        """Draw an open line, `thick` face units wide."""
        self._shapes.append(_Shape(points, depth, colour=tuple(colour.tolist()), thick=thick))

    def darken(self, points: Points, factor: float, *, depth: float = 0.6) -> None:
        """Multiply a soft-edged area by `factor` (above 1 lightens): fills the light map there."""
        self._shapes.append(_Shape(points, depth, factor=factor))

    def _draw(self) -> None:
        """Put the shapes on the canvas and the light map; all are projected in one go.

        For so few points numpy's calls cost more than their arithmetic.
        """
        shapes, self._shapes = self._shapes, []
        counts = [len(shape.points) for shape in shapes]
        depth = np.repeat([shape.depth for shape in shapes], counts)
        places = self._project(np.concatenate([shape.points for shape in shapes]), depth)
        ends = np.cumsum(counts)
        fine = np.rint(places * 32).astype(np.int32)  # the canvas is twice as large
        coarse = np.rint(places * 16).astype(np.int32)
        for shape, end, count in zip(shapes, ends, counts, strict=True):
            here = slice(end - count, end)
            if shape.factor:
                pixels = coarse[here]
                x, y = np.clip(pixels.sum(axis=0) // (16 * count), 0, self._size - 1)
                level = min(255.0, float(self._shade[y, x]) * shape.factor)
                cv2.fillPoly(self._shade, [pixels], level, cv2.LINE_AA, 4)
            elif shape.thick:
                width = max(1, round(shape.thick * 2 * self._unit))
                cv2.polylines(
                    self._canvas, [fine[here]], False, shape.colour, width, cv2.LINE_AA, 4
                )
            else:
                cv2.fillPoly(self._canvas, [fine[here]], shape.colour, cv2.LINE_AA, 4)

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

    def _project(self, points: Points, depth: NDArray[np.float64]) -> Points:
        """Project face units to pixels [N, 2]: yaw and pitch move more what is nearer."""
        ball = np.maximum(1 - points**2 @ _BALL, 0)
        nearer = (np.sqrt(ball) * depth)[:, None] * self._near
        places: Points = points @ self._turn + nearer + self._shift
        return places


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
