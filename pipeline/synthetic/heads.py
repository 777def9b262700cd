"""Heads: pictures of a person who moves, T frames at a time.

In: a person, a scene, weights of units [T, 52] and turns of the head [T, 3]. Out: frames uint8 [T,
size, size, 3], RGB: the face alone, cut as crop.py cuts it, or a whole frame with background and
shoulders; the two differ only in the places that the face is given.
"""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.synthetic.anatomy import FRONT, MEAN, SURFACE, move, openness
from pipeline.synthetic.folds import fold_heights, fold_weights
from pipeline.synthetic.person import Person
from pipeline.synthetic.raster import rasterise
from pipeline.synthetic.scene import Scene, draw_background
from pipeline.synthetic.shade import (
    SOLID,
    head_attributes,
    light_of,
    shade_head,
    shade_wear,
)
from pipeline.synthetic.surface import Float, Surface, single, visible
from pipeline.synthetic.texture import smooth
from pipeline.synthetic.wear import RIGID, Wear

MARGIN: Final = 0.1  # of the face's box, on each side
DETECTED: Final = (1.14, 0.13)
"""CenterFace's box against the face's: longer side, and how far its middle lies above, both in
sides of the face's box (means of 105 frames; standard deviations 0.09 and 0.04)."""
_PIVOT: Final = single([0, 7.0, 0.3])  # dm, what the head turns about
_SAMPLES: Final = 1.25  # a pixel's side is drawn as so many
_TONE: Final = 1.25  # of the soft shoulder 1 - exp(-tone x)
_GREY, _METERED = 0.28, 0.2  # luminance that needs no correction; power of the correction
_CAST: Final = np.float32(0.7)  # of the strongest frame: where the clip's shadows are cast
_SUN: Final = 0.22  # radius of the key light, at distance 1
_BODY: Final = smooth(6.3, 6.0, MEAN[:, 1])  # [V], what is not the head casts and gets no shadow
_BODY_LIGHT: Final = np.float32(0.8)
_BEFORE: Final = 0.004  # dm that hair may lie behind the skin and still cover it
_DENSE: Final = 0.5  # opacity from which a layer hides what lies behind it


def face_places(
    frames: int, *, margin: float = MARGIN, wander: Float | None = None, detected: bool = False
) -> NDArray[np.float64]:
    """Return the places [T, 3] of a face that fills the picture but for a margin.

    Args:
        frames: T.
        margin: of the longer side of the face's box, or of the detector's, on each side of it.
        wander: [T, 2], shares of the picture by which the crop misses the middle.
        detected: whether the box is the one that CenterFace would find, as in `shard`.
    """
    larger, above = DETECTED if detected else (1.0, 0.0)
    share = 1 / (larger * (1 + 2 * margin))
    places = np.tile((0.5, 0.5 + above * share, share), (frames, 1))
    if wander is not None:
        places[:, :2] += wander
    return places


def render_heads(
    person: Person,
    scene: Scene,
    units: Float,
    poses: Float,
    size: int,
    *,
    places: NDArray[np.floating] | None = None,
    follow: bool = True,
) -> NDArray[np.uint8]:
    """Draw a clip.

    Args:
        person: who.
        scene: where.
        units: float32 [T, 52], weights of anatomy.UNITS.
        poses: float32 [T, 3], radians: yaw, pitch and roll that are added to the scene's.
        size: of a frame, in pixels.
        places: [T, 3]: x, y of the middle of the face's box and its longer side, all as shares of
            the frame; without them the face fills the frame but for MARGIN.
        follow: whether the box is that of the face as it moves (its side the median over the clip),
            as crop.py follows a detected face, or that of the face at rest, as a camera stands.

    Returns:
        uint8 [T, size, size, 3], RGB.
    """
    units = units.astype(np.float32)
    if places is None:
        places = face_places(len(units))
    canvas = round(size * _SAMPLES)
    moved = move(units)
    head = person.rest + moved
    turned = _turns(scene, poses)
    worn = [_follow(part, moved) for part in person.wear]
    seen = _project(person, scene, turned, [head, *worn], places, follow, canvas)
    shadow = _shadow(person, scene, turned, units)
    normals = SURFACE.normals(head)
    light_shares = np.stack(np.broadcast_arrays(openness(units), shadow), axis=-1)
    moving = np.concatenate([normals, light_shares], axis=-1)
    moving[..., 3:] += _BODY[:, None] * (_BODY_LIGHT - moving[..., 3:])
    worn_normals = [
        Surface(part.faces, len(part.rest)).normals(points)
        for part, points in zip(person.wear, worn, strict=True)
    ]
    traits = person.traits
    heights = fold_heights(fold_weights(units, old=traits.old, strength=traits.wrinkles))
    fixed = head_attributes(person)
    background = np.ascontiguousarray(draw_background(scene, canvas).reshape(-1, 3).T)
    frames = np.empty((len(units), size, size, 3), np.float32)
    for t, frame in enumerate(frames):
        light = light_of(scene, turned[t])
        picture, depth = background.copy(), np.full(canvas * canvas, -np.inf, np.float32)
        skin = rasterise(seen[0][t], SOLID, canvas, canvas)
        picture[:, skin.pixel] = shade_head(person, skin, fixed, moving[t], heights[t], light)
        depth[skin.pixel] = skin.depth
        for part, points, normal in zip(person.wear, seen[1:], worn_normals, strict=True):
            layer = rasterise(points[t], part.faces, canvas, canvas, two_sided=True)
            colour, opacity = shade_wear(part, layer, normal[t], person.strands, light)
            opacity *= layer.depth > depth[layer.pixel] - _BEFORE
            behind = picture[:, layer.pixel]
            picture[:, layer.pixel] = behind + opacity * (colour - behind)
            dense = opacity > _DENSE
            depth[layer.pixel[dense]] = layer.depth[dense]
        drawn = np.ascontiguousarray(picture.T).reshape(canvas, canvas, 3)
        frame[:] = cv2.resize(drawn, (size, size), interpolation=cv2.INTER_AREA)
    return _develop(frames, scene, traits.luminance)


def _turns(scene: Scene, poses: Float) -> Float:
    """Rotation matrices [T, 3, 3] of yaw, then pitch, then roll."""
    yaw, pitch, roll = (poses + np.array((scene.yaw, scene.pitch, scene.roll))).T
    zero, one = np.zeros_like(yaw), np.ones_like(yaw)

    def matrix(*rows: tuple[NDArray[np.float64], ...]) -> NDArray[np.float64]:
        return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)

    sin, cos = np.sin, np.cos
    about_y = matrix((cos(yaw), zero, sin(yaw)), (zero, one, zero), (-sin(yaw), zero, cos(yaw)))
    about_x = matrix(
        (one, zero, zero), (zero, cos(pitch), -sin(pitch)), (zero, sin(pitch), cos(pitch))
    )
    about_z = matrix((cos(roll), -sin(roll), zero), (sin(roll), cos(roll), zero), (zero, zero, one))
    return single(np.einsum("tij,tjk,tkl->til", about_z, about_x, about_y))


def _follow(wear: Wear, moved: Float) -> Float:
    """Return the points [T, n, 3] of what is worn; some follow the skin below them."""
    return single(wear.rest + moved[:, wear.source] * (wear.source != RIGID)[:, None])


def _project(
    person: Person,
    scene: Scene,
    turned: Float,
    meshes: list[Float],
    places: NDArray[np.floating],
    follow: bool,
    canvas: int,
) -> list[Float]:
    """Return meshes, the head first, in pixels of the canvas and depth in dm, each [T, V, 3]."""

    def see(points: Float) -> Float:
        x, y, z = np.moveaxis(points - _PIVOT, 2, 0)
        right, up, near = (
            turned[:, i, :1] * x + turned[:, i, 1:2] * y + turned[:, i, 2:] * z for i in range(3)
        )
        closer = np.float32(scene.distance) / (np.float32(scene.distance) - near)
        return single(np.stack([right * closer, up * closer, near], axis=-1))

    seen = [see(points) for points in meshes]
    still = np.broadcast_to(person.rest[FRONT], (len(turned), len(FRONT), 3))
    face = seen[0][:, FRONT] if follow else see(still)
    low, high = face[..., :2].min(1), face[..., :2].max(1)
    middle = (low + high) / 2
    side = np.median((high - low).max(1))
    scale = (places[:, 2] * canvas / side).astype(np.float32)[:, None]
    for points in seen:
        points[..., 0] = (points[..., 0] - middle[:, :1]) * scale + canvas * places[:, :1]
        points[..., 1] = (middle[:, 1:] - points[..., 1]) * scale + canvas * places[:, 1:2]
    return seen


def _shadow(person: Person, scene: Scene, turned: Float, units: Float) -> Float:
    """Return the share of the key light that reaches each point [V], in the middle of the clip."""
    strongest = units[(units * units).sum(1).argmax()]
    points = person.rest + move(_CAST * strongest[None])
    light = light_of(scene, turned[len(turned) // 2])
    side = np.cross(light.key, (0, 1, 0.1))
    side /= np.sqrt((side * side).sum())
    other = np.cross(light.key, side)
    around = np.arange(4) * np.pi / 2 + 0.4
    ways = light.key + _SUN * (np.cos(around)[:, None] * side + np.sin(around)[:, None] * other)
    faces = SOLID[person.rest[SOLID[:, 0], 1] > 5.9]
    return visible(points[0], SURFACE.normals(points)[0], faces, ways)


def _develop(frames: Float, scene: Scene, luminance: float) -> NDArray[np.uint8]:
    """Turn linear light [T, size, size, 3] into a camera's pixels: tone, gamma, blur, noise.

    A camera meters in part on the face: a darker skin is exposed longer.
    """
    exposure = scene.exposure * (_GREY / max(luminance, 0.05)) ** _METERED
    exposed = 1 - np.exp(frames * np.float32(-_TONE * exposure))
    shown = np.clip(exposed, 0, 1) ** np.float32(1 / 2.2) * 255
    if scene.blur > 0.15:
        for frame in shown:
            cv2.GaussianBlur(frame, (0, 0), scene.blur + 0.2, dst=frame)
    rng = np.random.default_rng([scene.seed, 3])
    shown += scene.noise * rng.standard_normal(shown.shape, dtype=np.float32)
    return np.asarray(np.clip(shown + 0.5, 0, 255), np.uint8)
