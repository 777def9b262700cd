"""Texture of the face: a grid in front projection of the mean head, with curves and noise on it.

A texel is a place (x, y) of the mean head, in decimetres: [HEIGHT, WIDTH], 0.0075 dm a side, since
the mesh's own texture coordinates leave the face little room.
"""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from pipeline.synthetic.surface import Float

WIDTH, HEIGHT = 240, 320
LEFT: Final = -0.9  # dm, the left border
TOP: Final = 8.5  # dm, the upper border
DENSITY: Final = WIDTH / (-2 * LEFT)  # texels a dm
X, Y = np.meshgrid(
    ((np.arange(WIDTH) + 0.5) / DENSITY + LEFT).astype(np.float32),
    (TOP - (np.arange(HEIGHT) + 0.5) / DENSITY).astype(np.float32),
)
SIDE: Final = np.abs(X)  # how far from the middle line
_REACH: Final = 0.2  # dm around a curve within which its distance is known


def smooth(low: float, high: float, value: NDArray[np.floating]) -> Float:
    """Return 0 below `low`, 1 above `high`, 3 t^2 - 2 t^3 between (also with low > high)."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)


def bump(x: float, y: float, width: float, height: float, power: int = 1) -> Float:
    """Return exp(-(((|X| - x) / width)^2 + ((Y - y) / height)^2)^power), on both sides alike."""
    inside = ((SIDE - x) / width) ** 2 + ((Y - y) / height) ** 2
    return np.asarray(np.exp(-(inside**power)), dtype=np.float32)


def noise(rng: np.random.Generator, across: float, down: float | None = None) -> Float:
    """Return blurred noise [HEIGHT, WIDTH], mean 0 and deviation 1; sigmas in texels."""
    drawn = rng.standard_normal((HEIGHT, WIDTH), dtype=np.float32)
    blurred = cv2.GaussianBlur(drawn, (0, 0), sigmaX=across, sigmaY=down or across)
    return np.asarray(blurred / blurred.std())


def curve(places: list[tuple[float, float]], samples: int = 60) -> tuple[Float, Float]:
    """Measure every texel from a spline through places (|x|, y), on both sides alike.

    Returns:
        The signed distance in dm (positive right of the way along it) and the position along it,
        0..1, both [HEIGHT, WIDTH]; 9 and 0 further away than 0.2.
    """
    along = np.linspace(0, 1, samples)
    spline = CubicSpline(np.linspace(0, 1, len(places)), np.array(places))
    points, ahead = spline(along).astype(np.float32), spline(along, 1)
    ahead = (ahead / np.linalg.norm(ahead, axis=1, keepdims=True)).astype(np.float32)
    near = (points[:, 0].min() - _REACH < SIDE) & (points[:, 0].max() + _REACH > SIDE)
    near &= (points[:, 1].min() - _REACH < Y) & (points[:, 1].max() + _REACH > Y)
    dx, dy = SIDE[near][:, None] - points[:, 0], Y[near][:, None] - points[:, 1]
    nearest = (dx * dx + dy * dy).argmin(1)
    row = np.arange(len(nearest))
    dx, dy = dx[row, nearest], dy[row, nearest]
    right = dx * ahead[nearest, 1] - dy * ahead[nearest, 0] >= 0
    distance, position = np.full(SIDE.shape, 9, np.float32), np.zeros(SIDE.shape, np.float32)
    distance[near] = np.hypot(dx, dy) * np.where(right, 1, -1)
    position[near] = along[nearest]
    return distance, position
