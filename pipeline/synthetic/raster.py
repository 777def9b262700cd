"""Rasteriser: which triangle each pixel shows, by a z-buffer in numpy.

In: points [V, 3] (x, y in pixels, z larger = nearer) and triangles [F, 3] of their indices. Out: per
pixel the nearest triangle, its barycentric weights and its depth. A pixel (row i, column j) is its
centre (j + 1/2, i + 1/2).

Scan conversion by rows: of each triangle and row the interval of columns inside all three edges is
computed, so that only covered pixels become fragments; of a pixel's fragments the nearest wins by
the maximum of one integer, depth in its high bits and the fragment's number in its low ones.
"""

from dataclasses import dataclass

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
    x, y, z = points.astype(np.float64).T
    first, second, third = faces.T
    x0, x1, x2 = x[first], x[second], x[third]
    y0, y1, y2 = y[first], y[second], y[third]
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    top = np.ceil(np.maximum(np.minimum(np.minimum(y0, y1), y2), 0.5) - 0.5)
    bottom = np.floor(np.minimum(np.maximum(np.maximum(y0, y1), y2), height - 0.5) - 0.5)
    left = np.maximum(np.minimum(np.minimum(x0, x1), x2), 0.5)
    right = np.minimum(np.maximum(np.maximum(x0, x1), x2), width - 0.5)
    holds_centre = (bottom >= top) & (np.floor(right - 0.5) >= np.ceil(left - 0.5))
    kept = np.flatnonzero(holds_centre & ((area != 0) if two_sided else (area < 0)))
    x0, x1, x2, y0, y1, y2 = (value[kept] for value in (x0, x1, x2, y0, y1, y2))
    scale = 1 / area[kept]
    # Weight k at (x, y) is across[k] x + down[k] y + start[k].
    across = np.stack([y1 - y2, y2 - y0, y0 - y1]) * scale
    down = np.stack([x2 - x1, x0 - x2, x1 - x0]) * scale
    start = np.stack([x1 * y2 - x2 * y1, x2 * y0 - x0 * y2, x0 * y1 - x1 * y0]) * scale

    rows = (bottom - top)[kept].astype(np.int64) + 1
    owner = np.repeat(np.arange(len(kept)), rows)  # of each row of a triangle
    row = np.arange(len(owner)) - np.repeat(np.cumsum(rows) - rows, rows)
    row += top[kept].astype(np.int64)[owner]
    base = down[:, owner] * (row + 0.5) + start[:, owner]  # [3, rows]
    slope = across[:, owner]
    with np.errstate(divide="ignore", invalid="ignore"):
        edge = -base / slope
    low = np.where(slope > 0, edge, np.where((slope == 0) & (base < 0), np.inf, -np.inf)).max(0)
    high = np.where(slope < 0, edge, np.inf).min(0)
    low = np.ceil(np.clip(low, left[kept][owner], width) - 0.5).astype(np.int64)
    high = np.floor(np.clip(high, -1, right[kept][owner]) - 0.5).astype(np.int64)

    count = np.maximum(high - low + 1, 0)
    span = np.repeat(np.arange(len(owner)), count)  # of each fragment
    column = np.arange(len(span)) - np.repeat(np.cumsum(count) - count - low, count)
    corner_z = z[faces[kept]].T  # [3, kept]
    step = (across * corner_z).sum(0)[owner]
    depth = ((base * corner_z[:, owner]).sum(0)[span] + step[span] * (column + 0.5)).astype("f4")
    return _nearest(kept, owner, row, span, column, depth, base, slope, height, width)


def _nearest(
    kept: NDArray[np.int64],
    owner: NDArray[np.int64],
    row: NDArray[np.int64],
    span: NDArray[np.int64],
    column: NDArray[np.int64],
    depth: Float,
    base: NDArray[np.float64],
    slope: NDArray[np.float64],
    height: int,
    width: int,
) -> Seen:
    """Choose each pixel's fragment, and compute its weights."""
    bits = depth.view(np.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)  # ascends with the depth
    none = np.iinfo(np.int64).min
    best = np.full(height * width, none)
    np.maximum.at(best, row[span] * width + column, (ordered << 32) | np.arange(len(span)))
    pixel = np.flatnonzero(best != none)
    winner = best[pixel] & 0xFFFFFFFF
    part = span[winner]
    weights = base[:, part] + slope[:, part] * (column[winner] + 0.5)
    return Seen(pixel, kept[owner[part]], weights.T.astype(np.float32), depth[winner])
