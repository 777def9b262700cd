"""Wear: what sits on a head in layers with soft edges, lashes, hair, hats and glasses.

In: a person's traits and the head at rest [V, 3]. Out: meshes whose points follow the head, with
what shading needs at each: colour, how far inside its outline, strands.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.synthetic.anatomy import (
    BODY,
    FACES,
    LASHES,
    LEFT_EYE,
    MATERIAL,
    MEAN,
    RIGHT_EYE,
    SKIN,
)
from pipeline.synthetic.surface import Float, Surface, single
from pipeline.synthetic.texture import smooth
from pipeline.synthetic.traits import Colour, Traits, blend

RIGID: Final = -1
COLUMNS: Final = ("red", "green", "blue", "cover", "soft", "strands", "u", "v", "gloss")
"""Of a point: colour; how far inside the outline (dm, below 0 outside); half the width of the edge
(dm); how much of the strands shows; where in the strands' texture; gloss."""
_HEIGHTS: Final = {
    "bald": 0.012, "buzz": 0.02, "short": 0.06, "medium": 0.12, "curly": 0.16, "tied": 0.045,
    "long": 0.09,
}  # fmt: skip
FRAMES: Final = ((0.02, 0.018, 0.018), (0.09, 0.05, 0.03), (0.25, 0.24, 0.23), (0.3, 0.2, 0.09))
"""Linear colours of glasses: black, brown, steel, gold."""
_CLOTHES: Final = (25, 225)  # RGB


@dataclass(frozen=True, eq=False)
class Wear:
    """A mesh over the head, of which the nearest triangle is seen.

    What may lie behind its transparent parts is therefore a mesh of its own.
    """

    rest: Float  # [n, 3], dm
    source: NDArray[np.int64]  # [n], the head's point that each follows, or RIGID
    faces: NDArray[np.int32]  # [F, 3]
    looks: Float  # [n, 9], COLUMNS


def make_wear(
    traits: Traits, head: Float, rng: np.random.Generator
) -> tuple[tuple[Wear, ...], Float]:
    """Make a person's lashes, hair, hat and glasses.

    Returns:
        The meshes, from the inner to the outer, and the hair's cover of every point of the head
        [V], in dm inside the hairline.
    """
    normals = Surface(FACES[MATERIAL == SKIN], len(head)).normals(head[None])[0]
    cover = hairline(traits, rng)
    lashes = _lashes(traits, head, rng)
    parts = [_curtain(traits, head, rng)] if traits.style == "long" else []
    if traits.style == "bald":
        parts.append(lashes)
    else:  # one mesh: neither lies before the other
        parts.append(_join(lashes, _hair(traits, head, normals, cover, rng)))
    if traits.hat != "none":
        parts += _hat(traits, head, normals, rng)
    if traits.glasses:
        parts.append(_glasses(head, rng))
    return tuple(parts), cover


def _join(first: Wear, second: Wear) -> Wear:
    return Wear(
        np.concatenate([first.rest, second.rest]),
        np.concatenate([first.source, second.source]),
        np.concatenate([first.faces, second.faces + np.int32(len(first.rest))]),
        np.concatenate([first.looks, second.looks]),
    )


def _lashes(traits: Traits, head: Float, rng: np.random.Generator) -> Wear:
    """The upper lashes, half transparent."""
    used, faces = np.unique(FACES[MATERIAL == LASHES], return_inverse=True)
    cover = 0.02 * rng.uniform(-0.3, 0.5) - 0.006 * traits.male
    looks = _looks(len(used), (0.02, 0.016, 0.014), cover, gloss=0.0, **_strands(MEAN[used] * 4))
    return Wear(head[used], used, faces.reshape(-1, 3).astype(np.int32), looks)


def _looks(count: int, colour: Colour, cover: Float | float, **more: Float | float) -> Float:
    columns = {"soft": 0.02, "strands": 1.0, "u": 0.0, "v": 0.0, "gloss": 1.0} | more
    named = dict(zip(COLUMNS, colour, strict=False)) | {"cover": cover} | columns
    return np.stack([np.broadcast_to(single(named[name]), count) for name in COLUMNS], axis=1)


def _strands(points: Float) -> dict[str, Float]:
    """Where points lie in the strands' texture: round the skull, and down it."""
    angle = np.arctan2(points[:, 0], points[:, 2] - 0.2)
    return {"u": angle * 68 + 300, "v": points[:, 1] * 45 + points[:, 2] * 19}


def hairline(traits: Traits, rng: np.random.Generator) -> Float:
    """Return how far each point of the head is inside the hairline: float32 [V], dm."""
    x, y, z = MEAN.T
    out = np.abs(x)
    bald = traits.male * traits.old
    line = 7.98 + rng.uniform(-0.06, 0.06) + 0.06 * bald
    recess = rng.uniform(0, 0.14) * traits.male
    front = line + recess * np.exp(-(((out - 0.33) / 0.12) ** 2)) - 1.15 * np.maximum(0, out - 0.5)
    side = 0.5 + rng.uniform(-0.06, 0.06) - z + 0.35 * np.maximum(0, y - 7.55)
    side -= 0.9 * np.maximum(0, 7.25 - y) * (z > 0.1)
    ahead = np.minimum(np.maximum(y - front, np.minimum(side, y - 7.0)), 3)
    behind = np.minimum(y - 6.75, np.maximum(side + 0.2, y - front))
    cover = np.where(z > 0.35, ahead, behind)
    phase = rng.uniform(0, 6, 2)
    wavy = 0.02 * np.sin(13 * x + phase[0]) + 0.015 * np.sin(29 * x + phase[1])
    low, slope, sweep = rng.uniform(7.66, 7.85), rng.uniform(-0.25, 0.25), rng.random()
    if traits.fringe:
        cover = np.maximum(cover, np.where(z > 0.3, y - (low + slope * x), -1))
    cover = cover + wavy
    ear = (out > 0.66) & (z > -0.05) & (y < 7.42) & (y > 6.85)
    cover = np.where(ear, -0.3, cover)
    if traits.style == "bald":
        cover = np.minimum(cover, 7.75 - y) if sweep < 0.5 else np.full_like(y, -1)
    return np.where(BODY, cover, -1).astype(np.float32)


def _shell(
    head: Float,
    normals: Float,
    cover: Float,
    height: Float,
    looks: dict[str, Float | float],
    colour: Colour,
) -> Wear:
    """Push the points inside a cover out along their normals by a height."""
    faces = FACES[MATERIAL == SKIN]
    faces = faces[(cover > -0.12)[faces].any(1)]
    used, faces = np.unique(faces, return_inverse=True)
    rest = head[used] + normals[used] * height[used, None]
    shown = _looks(len(used), colour, cover[used], **looks, **_strands(MEAN[used]))
    return Wear(rest.astype(np.float32), used, faces.reshape(-1, 3).astype(np.int32), shown)


def _hair(
    traits: Traits, head: Float, normals: Float, cover: Float, rng: np.random.Generator
) -> Wear:
    height = _HEIGHTS[traits.style] * rng.uniform(0.75, 1.3) * (0.4 if traits.hat != "none" else 1)
    phase = rng.uniform(0, 6, 2)
    waves = np.sin(9 * MEAN[:, 0] + phase[0]) * np.sin(8 * MEAN[:, 1] + phase[1])
    if traits.style == "curly":
        waves += np.sin(23 * MEAN[:, 0] + phase[0]) * np.sin(25 * MEAN[:, 1] + phase[1])
    raised = height * smooth(-0.04, 0.22, cover) * (1 + 0.25 * waves)
    looks: dict[str, Float | float] = {"soft": 0.05 if traits.style == "buzz" else 0.035}
    part = _shell(head, normals, cover, raised, looks, traits.hair)
    part.rest[:, 1] += 0.35 * raised[part.source] * (MEAN[part.source, 1] > 7.8)
    return part


def _curtain(traits: Traits, head: Float, rng: np.random.Generator) -> Wear:
    """Long hair: a sheet from inside the shell down past the ears, open at the face."""
    skull = BODY & (MEAN[:, 1] > 6.8) & (MEAN[:, 1] < 7.9)  # with the ears, which it covers
    half = float(np.abs(head[skull, 0]).max())
    back = float(head[skull, 2].min())
    top, low = float(head[BODY, 1].max()) - 0.65, rng.uniform(5.4, 6.4)
    columns, rows = 45, 8
    flare, phase = rng.uniform(-0.03, 0.2), rng.uniform(0, 6)
    reach = rng.choice((0.45, 0.85))  # behind the ears, or over them
    angle = np.linspace(-np.pi * 0.8, np.pi * 0.8, columns)  # 0 behind
    down = np.linspace(0, 1, rows)[:, None]
    radius = (half + 0.03) * (1 + flare * down) + 0.03 * np.sin(7 * angle + phase) * down
    radius = radius * (1 - 0.2 * (1 - smooth(0, 0.3, down)))
    ahead = np.clip((np.abs(angle) - np.pi / 2) / (0.3 * np.pi), 0, 1)
    x = np.where(ahead > 0, np.sign(angle) * radius * (1 - 0.04 * ahead), np.sin(angle) * radius)
    depth = np.cos(angle) * (0.2 - back + 0.12) * (1 + flare * down)
    z = np.where(ahead > 0, 0.2 + ahead * reach * (1 - 0.2 * down), 0.2 - depth)
    y = np.broadcast_to(top + (low - top) * down, x.shape)
    points = np.stack([x, y, z], axis=-1).reshape(-1, 3).astype(np.float32)
    edge = 0.5 * (1 - np.abs(angle) / (np.pi * 0.8)) - 0.02
    cover = np.minimum(edge + 0 * down, (1 - down) * 0.3 - 0.01).ravel()
    shown = _looks(
        len(points), blend((0, 0, 0), traits.hair, 0.85), single(cover), **_strands(points),
        soft=0.03,
    )  # fmt: skip
    return Wear(points, np.full(len(points), RIGID), _grid(rows, columns), shown)


def _grid(rows: int, columns: int) -> NDArray[np.int32]:
    """Triangles of a sheet of rows x columns points."""
    start = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    first = np.stack([start, start + 1, start + columns], axis=1)
    second = np.stack([start + 1, start + columns + 1, start + columns], axis=1)
    return np.concatenate([first, second]).astype(np.int32)


def _hat(traits: Traits, head: Float, normals: Float, rng: np.random.Generator) -> list[Wear]:
    """A knitted hat with a turned-up rim, or a cap with a peak."""
    y, z = MEAN[:, 1], MEAN[:, 2]
    brow = rng.uniform(7.72, 7.84)
    cover = np.where(BODY, y - (brow - 0.34 * (1.25 - z)), -1).astype(np.float32)
    colour = cloth(rng)
    height = _HEIGHTS[traits.style] * 0.8 + 0.05 + 0.12 * smooth(8.1, 8.5, y)
    if traits.hat == "beanie":
        height = height + 0.05 * smooth(0.3, 0.24, cover)
    else:
        height = height * (0.45 + 0.55 * smooth(0, 0.35, cover))
    height = np.where(cover > -0.08, height, 0).astype(np.float32)
    crown = _shell(head, normals, cover, height, {"soft": 0.008, "gloss": 0.0}, colour)
    crown.looks[:, COLUMNS.index("strands")] = 0.15
    if traits.hat == "beanie":
        return [crown]
    columns, rows = 25, 4
    middle = BODY & (np.abs(MEAN[:, 0]) < 0.06) & (np.abs(y - brow) < 0.06) & (z > 0.8)
    front = head[middle].mean(0)
    angle, out = np.linspace(-1.05, 1.05, columns), np.linspace(0, 1, rows)[:, None]
    reach = 0.62 * out * np.cos(angle * 0.95) ** 0.7
    x = np.sin(angle) * 0.66 * (1 + 0.05 * out)
    peak_z = front[2] + 0.05 - 0.6 * (1 - np.cos(angle)) + reach
    peak_y = front[1] + 0.06 - 0.2 * reach - 0.2 * np.sin(angle) ** 2 + 0 * out
    points = np.stack([x, peak_y, peak_z], axis=-1).reshape(-1, 3).astype(np.float32)
    shown = _looks(len(points), blend((0, 0, 0), colour, 0.8), 1.0, strands=0.0, gloss=0.0)
    return [crown, Wear(points, np.full(len(points), RIGID), _grid(rows, columns), shown)]


def cloth(rng: np.random.Generator) -> Colour:
    """Draw the linear colour of a piece of clothing."""
    rgb = np.clip(rng.uniform(*_CLOTHES) + rng.uniform(-45, 45, 3), 8, 240)
    red, green, blue = (float(c) for c in (rgb / 255) ** 2.2)
    return red, green, blue


def _glasses(head: Float, rng: np.random.Generator) -> Wear:
    """Rims round both eyes, a bridge and temples, rigid."""
    eyes = [head[np.unique(FACES[eye == MATERIAL])] for eye in (LEFT_EYE, RIGHT_EYE)]
    half_x, half_y = rng.uniform(0.22, 0.27), rng.uniform(0.13, 0.185)
    square, thick = rng.uniform(2, 4.5), rng.uniform(0.018, 0.032)
    colour = FRAMES[rng.integers(len(FRAMES))]
    turn = np.linspace(0, 2 * np.pi, 33)
    points, faces, start = [], [], 0

    def add(sheet: NDArray[np.floating]) -> None:
        nonlocal start
        rows, columns, _ = sheet.shape
        points.append(sheet.reshape(-1, 3))
        faces.append(_grid(rows, columns) + start)
        start += rows * columns

    ahead = max(float(eye[:, 2].max()) for eye in eyes) + 0.2
    wide = float(np.abs(head[BODY & (MEAN[:, 1] > 7.2) & (MEAN[:, 1] < 7.5), 0]).max())
    for eye, sign in zip(eyes, (1, -1), strict=True):
        middle = (eye.max(0) + eye.min(0)) / 2 + (0.015 * sign, -0.05, 0)
        round_x = np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** (2 / square)
        round_y = np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** (2 / square)
        rings = [
            np.stack(
                [middle[0] + round_x * (half_x + more), middle[1] + round_y * (half_y + more)],
                axis=-1,
            )
            for more in (0, thick)
        ]
        rim = np.stack(rings)
        back = 0.16 * (rim[..., :1] / 0.6) ** 2
        add(np.concatenate([rim, ahead - back], axis=-1))
        outer = sign * (abs(middle[0]) + half_x)
        hinge = (outer, middle[1] + 0.06, ahead - 0.16 * (outer / 0.6) ** 2)
        ear = (sign * (wide - 0.06), middle[1] + 0.04, 0.15)
        temple = np.linspace(hinge, ear, 7)
        add(np.stack([temple, temple + np.array((0, 0.045, 0))]))
    inner = abs(float((eyes[0].max(0) + eyes[0].min(0))[0]) / 2) - half_x + 0.015
    across = np.linspace(-inner, inner, 5)
    height = float((eyes[0].max(0) + eyes[0].min(0))[1]) / 2 + 0.03
    arch = np.stack([across, height + 0.02 * np.cos(across / inner), np.full(5, ahead)], axis=-1)
    add(np.stack([arch, arch + np.array((0, thick + 0.005, 0))]))
    joined = np.concatenate(points).astype(np.float32)
    shown = _looks(len(joined), colour, 1.0, strands=0.0)
    return Wear(joined, np.full(len(joined), RIGID), np.concatenate(faces).astype(np.int32), shown)
