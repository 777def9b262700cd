"""Shading: from what the pixels of one frame show to the light that they send.

In: visible points of the head and of what it wears, with what stands at them; the light. Out:
colours float32 [3, N], linear RGB. Arrays are channel first; N visible points.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from pipeline.synthetic.anatomy import (
    EYEBALL,
    FACES,
    LASHES,
    LIPS,
    LOWER_TEETH,
    MATERIAL,
    MEAN,
    MOUTH,
    TONGUE,
)
from pipeline.synthetic.person import Person
from pipeline.synthetic.raster import Seen
from pipeline.synthetic.scene import Scene
from pipeline.synthetic.surface import Float, single
from pipeline.synthetic.texture import DENSITY, HEIGHT, LEFT, TOP, WIDTH, smooth
from pipeline.synthetic.wear import Wear

_drawn: Final = MATERIAL != LASHES
SOLID: Final = FACES[_drawn]  # the head without its lashes, which are half transparent
_MATERIAL: Final = MATERIAL[_drawn]
_KIND: Final = np.array([0, 1, 1, 2, 2, 2])[_MATERIAL]  # skin, eyes, mouth

_BUMP: Final = 0.05 * DENSITY  # change of the normal by the slope of a fold, a texel
_DARK: Final = 0.55  # of the albedo, at a depth of one
_GAPS: Final = (0.0, 0.082, 0.147, 0.215, 0.28)  # dm from the middle, between teeth
_IRIS: Final = 0.44  # radius, of the eyeball's
_PUPIL: Final = 0.18
WRAP: Final = single([[0.35], [0.2], [0.15]])
"""How far light reaches round skin, by colour: it scatters in it, red most."""


@dataclass(frozen=True, eq=False)
class Light:
    """The light of one frame, in the head's own axes: directions [3], colours [3, 1]."""

    key: Float
    fill: Float
    view: Float
    up: Float
    key_colour: Float
    sky: Float
    ground: Float
    fill_colour: Float


def light_of(scene: Scene, turned: Float) -> Light:
    """Return the scene's light as a head turned by `turned` [3, 3] meets it."""
    azimuth, elevation = scene.azimuth, scene.elevation
    key = single(
        [
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
            np.cos(azimuth) * np.cos(elevation),
        ]
    )
    fill = single([-key[0], 0.1, 0.7])
    fill /= np.sqrt((fill * fill).sum())

    def own(direction: Float) -> Float:
        return np.asarray((turned * direction[:, None]).sum(0))

    warm, tint = scene.warmth, scene.tint
    return Light(
        key=own(key),
        fill=own(fill),
        view=own(single([0, 0, 1])),
        up=single([0, 1, 0]),
        key_colour=scene.key * single([[1 + warm], [1.0], [1 - warm]]),
        sky=scene.sky * single([[1 - tint], [1.0], [1 + tint]]),
        ground=scene.ground * single([[1 + tint], [1.0], [1 - tint]]),
        fill_colour=scene.fill * np.ones((3, 1), np.float32),
    )


def _dot(vectors: Float, direction: Float) -> Float:
    return np.asarray(
        vectors[0] * direction[0] + vectors[1] * direction[1] + vectors[2] * direction[2]
    )


def illuminate(
    albedo: Float, normal: Float, sky: Float, key: Float, light: Light, *,
    wrap: Float = WRAP, specular: Float | float = 0.0, gloss: Float | float = 12.0,
) -> Float:  # fmt: skip
    """Return the light that points send: diffuse with wrap, hemisphere, fill and a highlight.

    Args:
        albedo: [3, N].
        normal: [3, N], of any length.
        sky: [N], share of the ambient light that arrives.
        key: [N], share of the key light that arrives.
        light: of the frame.
        wrap: [3, 1], how far the key light reaches beyond the terminator.
        specular: strength of the highlight.
        gloss: its exponent (Blinn).
    """
    normal = single(normal / (np.sqrt(_dot(normal, normal)) + 1e-9))
    towards = _dot(normal, light.key)
    diffuse = np.maximum(0, (towards + wrap) / (1 + wrap)) * (key * light.key_colour)
    height = 0.5 + 0.5 * _dot(normal, light.up)
    ambient = light.ground + (light.sky - light.ground) * height
    ambient += np.maximum(0, 0.3 + 0.7 * _dot(normal, light.fill)) * light.fill_colour
    half = light.key + light.view
    facing = np.maximum(_dot(normal, half / np.sqrt((half * half).sum())), 1e-3)
    shine = specular * (gloss + 8) * 0.04 * np.exp(gloss * np.log(facing)) * key * (towards > 0)
    return np.asarray(albedo * (diffuse + ambient * sky) + shine * light.key_colour)


def head_attributes(person: Person) -> Float:
    """Return what stands at the head's points whatever the frame: [V, 9], see shade_head."""
    columns = (
        (MEAN[:, 0] - LEFT) * DENSITY - 0.5,
        (TOP - MEAN[:, 1]) * DENSITY - 0.5,
        LIPS,
        MOUTH,
        *EYEBALL.T,
        MEAN[:, 2],
        np.clip(person.cover, -0.3, 0.3),
    )
    return np.stack(columns, axis=1).astype(np.float32)


def interpolate(values: Float, faces: NDArray[np.int32], seen: Seen) -> Float:
    """Interpolate values at points [V, A] over the triangles seen: [A, N]."""
    corners = faces[seen.face]
    starts = np.arange(0, corners.size + 1, 3)
    shape = (len(corners), len(values))
    product = csr_matrix((seen.weights.ravel(), corners.ravel(), starts), shape=shape) @ values
    return np.ascontiguousarray(product.T)


def shade_head(
    person: Person, seen: Seen, fixed: Float, moving: Float, height: Float, light: Light
) -> Float:
    """Return the colours [3, N] of visible points of the head.

    Args:
        person: whose head.
        seen: the visible points, of SOLID.
        fixed: head_attributes [V, 9].
        moving: [V, 5]: normal, share of sky, share of key light.
        height: [HEIGHT, WIDTH], of the skin; see folds.fold_heights.
        light: of the frame.
    """
    found = interpolate(np.concatenate([moving, fixed], axis=1), SOLID, seen)
    normal, (sky, key), at = found[:3], found[3:5], found[5:]
    material = _MATERIAL[seen.face]
    parts = []
    for kind, shade in ((1, _eyes), (2, _mouth)):
        which = np.flatnonzero(_KIND[seen.face] == kind)
        given = (at[:, which], normal[:, which], sky[which], key[which])
        parts.append((which, shade(person, material[which], *given, light)))
    # The skin is nearly all there is: it is shaded everywhere, and then the rest put in.
    colours = _skin(person, at, normal, sky, key, height, light)
    for which, part in parts:
        colours[:, which] = part
    return colours


def _sample(texture: Float, u: Float, v: Float) -> Float:
    """Look a texture [HEIGHT, WIDTH, 3] up between its texels: [3, N]."""
    rows = -(-len(u) // 256)
    maps = np.zeros((2, rows * 256), np.float32)
    maps[0, : len(u)], maps[1, : len(u)] = u, v
    grid = maps.reshape(2, rows, 256)
    found = cv2.remap(texture, grid[0], grid[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.ascontiguousarray(found.reshape(rows * 256, 3)[: len(u)].T)


def _skin(
    person: Person, at: Float, normal: Float, sky: Float, key: Float, folds: Float, light: Light
) -> Float:
    u, v, lips, mouth, *_rest, cover = at
    colour = _sample(person.albedo, u, v)
    # The nearest texel will do here: folds are blurred, and this is drawn finer than a pixel.
    column = np.clip(u + 0.5, 1, WIDTH - 2).astype(np.int64)
    texel = np.clip(v + 0.5, 1, HEIGHT - 2).astype(np.int64) * WIDTH + column
    flat = folds.ravel()
    height, right = flat[texel], (flat[texel + 1] - flat[texel - 1]) / 2
    up = (flat[texel - WIDTH] - flat[texel + WIDTH]) / 2
    lips = np.clip((lips - 0.3) * 2.5, 0, 1)
    front = np.clip((normal[2] - 0.1) * 3, 0, 1) * (1 - lips) * (1 - mouth)
    normal[0] -= _BUMP * front * right
    normal[1] -= _BUMP * front * up
    dark = np.maximum(0.35, 1 + _DARK * np.minimum(0.2, front * height))
    colour *= np.stack([dark, dark * (0.75 + 0.25 * dark), dark * (0.75 + 0.25 * dark)])
    traits = person.traits
    hairy = smooth(-0.03, 0.07, cover) * (0.55 if traits.style == "bald" else 0.85)
    for share, other in (
        (hairy, tuple(0.7 * c for c in traits.hair)),
        (lips, traits.lips),
        (mouth, (0.16, 0.035, 0.03)),
    ):
        colour += share * (single(other)[:, None] - colour)
    under = 1.0 if traits.style == "bald" else 1 - 0.3 * smooth(-0.12, 0.02, cover)
    inside = mouth > 0.5
    sky = single(np.where(inside, 0.45 * sky, sky) * under)
    key = single(np.where(inside, 0.35 * key, key) * under)
    clothed = v > (TOP - person.collar) * DENSITY
    colour[:, clothed] = single(person.cloth)[:, None]
    specular = 0.035 * (1 + 2 * lips) * ~clothed
    return illuminate(colour, normal, sky, key, light, specular=specular, gloss=14 + 22 * lips)


def _eyes(
    person: Person, _: NDArray[np.int8], at: Float, normal: Float, sky: Float, key: Float,
    light: Light,
) -> Float:  # fmt: skip
    """Colour eyes by the angle from the front pole: pupil, iris with a dark ring, white."""
    x, y, z = at[4:7]
    radius = np.where(z < 0, 1, np.sqrt((x * x + y * y) / (x * x + y * y + z * z + 1e-9)))
    edge = _IRIS * person.pupil
    white = np.clip((radius - edge) * 14, 0, 1)
    ring = 1 - 0.65 * np.exp(-(((radius - edge) / 0.07) ** 2))
    iris = single(person.traits.iris)[:, None] * (np.clip((radius - _PUPIL) * 14, 0, 1) * ring)
    colour = single(iris + white * (single([[0.54], [0.49], [0.47]]) - iris))
    return illuminate(
        colour, normal, 0.25 + 0.75 * sky, 0.2 + 0.8 * key, light,
        wrap=single([[0.5]]), specular=0.4, gloss=220.0,
    )  # fmt: skip


def _mouth(
    person: Person, material: NDArray[np.int8], at: Float, normal: Float, sky: Float, key: Float,
    light: Light,
) -> Float:  # fmt: skip
    """Colour teeth, with gaps and darker further in, and the tongue."""
    out = np.abs((at[0] + 0.5) / DENSITY + LEFT)
    bright = np.ones_like(out)
    for gap in _GAPS:
        bright -= 0.4 * np.exp(-(((out - gap) / 0.008) ** 2))
    bright *= np.clip((at[7] - 1.05) * 3.5, 0.12, 1) * np.where(material == LOWER_TEETH, 0.85, 1)
    tongue = material == TONGUE
    colour = single([[0.62], [0.57], [0.46]]) * bright
    colour[:, tongue] = single([[0.34], [0.11], [0.10]])
    normal[2] += np.where(tongue, 0, 0.5)
    return illuminate(
        colour, normal,
        np.where(tongue, 0.7 * sky, np.minimum(1, 0.38 + 0.7 * sky)),
        np.where(tongue, 0.6 * key, 0.35 + 0.65 * key), light,
        wrap=single([[0.5]]), specular=0.25, gloss=40.0,
    )  # fmt: skip


def shade_wear(
    wear: Wear, seen: Seen, normals: Float, strands_of: Float, light: Light
) -> tuple[Float, Float]:
    """Return the colours [3, N] and the opacity [N] of visible points of what a person wears."""
    at = interpolate(np.concatenate([wear.looks, normals], axis=1), wear.faces, seen)
    cover, soft, strands, u, v, gloss = at[3:9]
    texel = strands_of[v.astype(int) % HEIGHT, u.astype(int) % WIDTH]
    opacity = smooth(0, 1, 0.5 + (cover + 0.02 * strands * texel) / (2 * soft))
    colour = at[:3] * np.maximum(0.35, 1 + 0.26 * strands * texel)
    normal = at[9:12]
    normal = normal * np.where(_dot(normal, light.view) < 0, -1, 1)
    shared = np.full(len(cover), 0.65, np.float32)
    lit = illuminate(
        colour, normal, shared, shared, light, wrap=single([[0.3]]),
        specular=gloss * (0.006 + 0.06 * at[1]), gloss=9.0,
    )  # fmt: skip
    return lit, opacity
