"""Rasteriser: which triangle each pixel shows, by a z-buffer in numpy.

In: points [V, 3] (x, y in pixels, z larger = nearer), triangles [F, 3] of their indices. Out: per
pixel the nearest triangle, its barycentric weights and its depth. A pixel (row i, column j) is its
centre (j + 1/2, i + 1/2).

Scan conversion by rows: of each triangle and row the interval of columns inside all three edges is
computed, so that only covered pixels become fragments. Of a pixel's fragments the nearest wins by
the maximum of one integer, depth in its high bits and the fragment's number in its low ones.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Seen:
    """What the pixels show: those that show anything, row by row.

    pixel int64 [N], ascending, row * width + column; face int64 [N], index of the triangle; weights
    float32 [N, 3], barycentric, sum 1; depth float32 [N].
    """

    pixel: NDArray[np.int64]
    face: NDArray[np.int64]
    weights: Float
    depth: Float


def rasterise(
    points: Float, faces: NDArray[np.int32], height: int, width: int, *, two_sided: bool = False
) -> Seen:
    """Find the nearest triangle of each pixel; of two at one depth, the later one.

    Args:
        points: float32 [V, 3]: x, y in pixels (y down), z larger = nearer.
        faces: int32 [F, 3]; front faces run counter-clockwise as seen (their area is negative,
            since y points down).
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        two_sided: whether back faces are seen too.
    """
    x, y, z = np.ascontiguousarray(points.T)
    corners = np.ascontiguousarray(faces.T).astype(np.int64)
    xs, ys = [x[corner] for corner in corners], [y[corner] for corner in corners]
    left, right = _least(*xs), _most(*xs)
    top, bottom = _least(*ys), _most(*ys)
    # Most triangles of a head lie between the centres, or beside the picture.
    half = np.float32(0.5)
    first_row = np.ceil(np.maximum(top, half) - half)
    first_column = np.ceil(np.maximum(left, half) - half)
    kept = np.flatnonzero(
        (np.floor(np.minimum(bottom, height - half) - half) >= first_row)
        & (np.floor(np.minimum(right, width - half) - half) >= first_column)
    )
    x0, x1, x2 = (value[kept].astype(np.float64) for value in xs)
    y0, y1, y2 = (value[kept].astype(np.float64) for value in ys)
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    faced = np.flatnonzero(area != 0 if two_sided else area < 0)
    x0, x1, x2, y0, y1, y2, area = (value[faced] for value in (x0, x1, x2, y0, y1, y2, area))
    kept = kept[faced]
    scale = 1 / area
    # Weight k at (x, y) is across[k] x + down[k] y + start[k]; + 0.0 makes a zero positive.
    across = [(a - b) * scale + 0.0 for a, b in ((y1, y2), (y2, y0), (y0, y1))]
    down = [(b - a) * scale for a, b in ((x1, x2), (x2, x0), (x0, x1))]
    ends = ((x1, y2, x2, y1), (x2, y0, x0, y2), (x0, y1, x1, y0))
    start = [(a * b - c * d) * scale for a, b, c, d in ends]
    corner_z = [z[corner[kept]] for corner in corners]
    dx, dy, dz = (
        sum(part * value for part, value in zip(plane, corner_z, strict=True))
        for plane in (across, down, start)
    )

    low_row = first_row[kept].astype(np.int64)
    rows = np.floor(np.minimum(bottom[kept], height - half) - half).astype(np.int64) - low_row + 1
    owner = np.repeat(np.arange(len(kept)), rows)  # of each row of a triangle
    row = np.arange(len(owner)) - np.repeat(np.cumsum(rows) - rows - low_row, rows)
    centre = row + 0.5
    low, high = np.full(len(owner), 0.5), np.full(len(owner), width - 0.5)
    with np.errstate(divide="ignore", invalid="ignore"):
        for a, b, c in zip(across, down, start, strict=True):
            slope = a[owner]
            edge = -(b[owner] * centre + c[owner]) / slope
            # Of a level edge this is -inf where it holds the row, inf where not, NaN on it.
            low = np.fmax(low, np.where(slope >= 0, edge, -np.inf))
            high = np.fmin(high, np.where(slope < 0, edge, np.inf))
    filled = np.flatnonzero(np.ceil(low - 0.5) <= np.floor(high - 0.5))
    owner, row = owner[filled], row[filled]
    first = np.ceil(low[filled] - 0.5).astype(np.int64)
    count = np.floor(high[filled] - 0.5).astype(np.int64) - first + 1

    # One fragment for each covered pixel.
    column = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - first, count)
    owner, row = np.repeat(owner, count), np.repeat(row, count)
    depth = (dx[owner] * (column + 0.5) + dy[owner] * (row + 0.5) + dz[owner]).astype(np.float32)
    bits = depth.view(np.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)  # ascends with the depth
    none = np.iinfo(np.int64).min
    best = np.full(height * width, none)
    np.maximum.at(best, row * width + column, (ordered << 32) | np.arange(len(owner)))
    pixel = np.flatnonzero(best != none)
    winner = best[pixel] & 0xFFFFFFFF
    owner, x_at, y_at = owner[winner], column[winner] + 0.5, row[winner] + 0.5
    weights = np.empty((len(pixel), 3), np.float32)
    for k, (a, b, c) in enumerate(zip(across, down, start, strict=True)):
        weights[:, k] = a[owner] * x_at + b[owner] * y_at + c[owner]
    return Seen(pixel, kept[owner], weights, depth[winner])


def _least(first: Any, second: Any, third: Any) -> Any:
    return np.minimum(np.minimum(first, second), third)


def _most(first: Any, second: Any, third: Any) -> Any:
    return np.maximum(np.maximum(first, second), third)
