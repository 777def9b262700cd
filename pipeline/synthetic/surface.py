"""Surface: normals of a mesh, and which of its points light from some directions reaches.

In: points float32 [V, 3] or [T, V, 3], triangles [F, 3]. Out: unit normals of the same shape;
shares of light float32 [V], 0..1.
"""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix

from pipeline.synthetic.raster import rasterise

Float = NDArray[np.float32]


_BIAS: Final = 0.06  # dm that a point may lie behind the depth map and be lit
_MIDDLE: Final = (0.0, 7.2, 0.5)  # of the head, dm
_SPAN: Final = 3.4  # dm across the depth map


def single(values: ArrayLike) -> Float:
    """Return values as an array of float32."""
    return np.asarray(values, dtype=np.float32)


class Surface:
    """The triangles of a mesh, ready for normals of many poses of it."""

    def __init__(self, faces: NDArray[np.int32], count: int) -> None:
        """Take triangles [F, 3] over `count` points."""
        self.faces = faces
        corner = faces.T.ravel()
        face = np.tile(np.arange(len(faces)), 3)
        ones = np.ones(len(corner), dtype=np.float32)
        self._sum = csr_matrix((ones, (corner, face)), shape=(count, len(faces)))

    def normals(self, points: Float) -> Float:
        """Return unit normals [T, V, 3] of points [T, V, 3], by area over the faces around each.

        The sums are sparse products, whose order no number of threads changes.
        """
        axes = np.ascontiguousarray(points.transpose(2, 1, 0))  # [3, V, T]
        first, second, third = self.faces.T
        a = [axis[second] - axis[first] for axis in axes]
        b = [axis[third] - axis[first] for axis in axes]
        x, y, z = (self._sum @ (a[i] * b[j] - a[j] * b[i]) for i, j in ((1, 2), (2, 0), (0, 1)))
        length = np.sqrt(x * x + y * y + z * z) + np.float32(1e-12)
        return np.stack([(axis / length).T for axis in (x, y, z)], axis=-1)


def visible(
    points: Float,
    normals: Float,
    faces: NDArray[np.int32],
    directions: NDArray[np.float64],
    size: int = 72,
) -> Float:
    """Return the share of light from the directions that reaches each point: float32 [V], 0..1.

    Weighted by the cosine at the point; from each direction [N, 3] a depth map of `size` pixels.
    """
    reached = np.zeros(len(points), dtype=np.float32)
    whole = np.full(len(points), 1e-4, dtype=np.float32)
    scale = size / _SPAN
    for direction in directions / np.linalg.norm(directions, axis=1, keepdims=True):
        up = (0.0, 1.0, 0.0) if abs(direction[1]) < 0.95 else (0.0, 0.0, 1.0)
        right = np.cross(up, direction)
        right /= np.linalg.norm(right)
        axes = np.stack([right, np.cross(direction, right), direction]).astype(np.float32)
        x, y, z = ((points - single(_MIDDLE)) * axes[:, None]).sum(-1)
        seen = np.stack([size / 2 + x * scale, size / 2 - y * scale, z], axis=1)
        nearest = rasterise(seen, faces, size, size)
        depth = np.full(size * size, -np.inf, dtype=np.float32)
        depth[nearest.pixel] = nearest.depth
        column, row = seen[:, 0].astype(int), seen[:, 1].astype(int)
        inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
        pixel = np.where(inside, row * size + column, 0)
        lit = ~inside | (depth[pixel] <= z + _BIAS)
        cosine = np.maximum((normals * direction.astype(np.float32)).sum(1), 0)
        reached += cosine * lit
        whole += cosine
    return reached / whole
