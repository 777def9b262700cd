"""Frames of a clip of the synthetic plan: an animated drawn face.

A clip of the plan and the settings go in; its whole frames come out, or the 16 faces that stand for
it, cut out as crop.py would cut them: a function of (seed, clip) alone.
"""

from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.video.decode import frame_indices
from safe.config import Synthesize
from safe.sample import DEFAULT_FRAMES
from safe.taxonomy import BASIC

# Who is drawn, and where is the head?
#
# A random generator goes in, a Person comes out: everything that stays the same from clip to clip.
# Lengths are in face units: the origin is between the ears, x to the right of the picture, y down,
# the top of the skull at y = -1 and the chin at y = 1.

Colour = NDArray[np.float64]  # [3], RGB, 0..255

SKINS: Final = ((248, 214, 192), (236, 194, 166), (222, 172, 138), (198, 144, 108), (160, 110, 80))
HAIRS: Final = (
    (38, 30, 28),
    (72, 46, 32),
    (118, 78, 46),
    (190, 150, 92),
    (150, 70, 38),
    (150, 148, 146),
)
IRISES: Final = ((70, 44, 26), (96, 66, 36), (72, 98, 70), (66, 100, 140))
STYLES: Final = ("bald", "short", "parted", "fringe", "long", "curly")


@dataclass(frozen=True, kw_only=True)
class Person:
    """What stays the same from clip to clip. Lengths in face units, colours RGB 0..255."""

    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour
    style: str
    glasses: bool
    beard: float  # 0 none .. 1 full
    width: float  # half the head's
    taper: float  # how far the head narrows to the chin
    eye_x: float
    eye_y: float
    eye_width: float
    eye_open: float
    eye_slant: float
    brow_y: float
    brow_thick: float
    brow_slant: float
    nose_width: float
    nose_y: float
    mouth_y: float
    mouth_width: float
    mouth_curve: float  # of the resting mouth: above 0 the corners hang
    lip_upper: float
    lip_lower: float
    ear: float


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where the head is: x, y and half its height as shares of the frame; angles in radians."""

    x: float
    y: float
    scale: float
    roll: float
    yaw: float
    pitch: float


def draw_person(rng: np.random.Generator) -> Person:
    """Draw a person by lot."""
    tone = rng.uniform(0, len(SKINS) - 1)
    skin = np.array([np.interp(tone, range(len(SKINS)), [s[c] for s in SKINS]) for c in range(3)])
    hair = np.array(HAIRS[rng.integers(len(HAIRS)) if tone < 2.5 else rng.integers(2)], dtype=float)
    male = rng.random() < 0.5
    return Person(
        skin=skin + rng.normal(0, 3, 3),
        hair=hair * rng.uniform(0.8, 1.2),
        iris=np.array(
            IRISES[rng.integers(len(IRISES)) if tone < 2 else rng.integers(2)], dtype=float
        ),
        lips=skin * (0.86, 0.58, 0.60) + (rng.uniform(0, 22), 0, 0),
        style=str(rng.choice(STYLES[:4] if male else STYLES[1:])),
        glasses=bool(rng.random() < 0.15),
        beard=float(rng.uniform(0.3, 1)) if male and rng.random() < 0.35 else 0.0,
        width=rng.uniform(0.66, 0.74),
        taper=rng.uniform(0.32, 0.48) - 0.08 * male,
        eye_x=rng.uniform(0.31, 0.36),
        eye_y=rng.uniform(-0.11, -0.06),
        eye_width=rng.uniform(0.175, 0.21),
        eye_open=rng.uniform(0.9, 1.1),
        eye_slant=rng.uniform(-0.02, 0.02),
        brow_y=rng.uniform(-0.31, -0.27),
        brow_thick=rng.uniform(0.032, 0.05) + 0.015 * male,
        brow_slant=rng.uniform(-0.02, 0.02),
        nose_width=rng.uniform(0.11, 0.16),
        nose_y=rng.uniform(0.24, 0.29),
        mouth_y=rng.uniform(0.55, 0.60),
        mouth_width=rng.uniform(0.28, 0.34),
        mouth_curve=rng.uniform(-0.035, 0.01),
        lip_upper=rng.uniform(0.035, 0.06),
        lip_lower=rng.uniform(0.05, 0.08),
        ear=rng.uniform(0.16, 0.22),
    )


# How do shapes in face units become the pixels of a frame?
#
# Shapes are flat polygons on a canvas of twice the frame's size, scaled down by area (so that edges
# are smooth), then multiplied by one blurred map of light and shadow. Face units: see drawn_person.

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


# How is one frame of one animated face drawn?
#
# A Person (what stays the same) and facial action units (what moves; Ekman and Friesen's FACS) go
# in, an RGB picture comes out. Everything is our own geometry: no real face is used anywhere.
# Lengths are in face units (drawn_person), colours RGB 0..255.

UNITS: Final = (
    *("AU1", "AU2", "AU4", "AU5", "AU6", "AU7", "AU9", "AU10", "AU12", "AU15"),
    *("AU17", "AU20", "AU23", "AU25", "AU26", "AU43", "AU61", "AU64"),
)
"""Action units, 0 at rest to 1 at most; AU61 (eyes aside) and AU64 (eyes down) go from -1 to 1."""


class Portrait:
    """One person before one background in one light."""

    def __init__(self, person: Person, size: int, *, home: Pose, rng: np.random.Generator) -> None:
        """Draw background and light by lot, for frames of `size` x `size` pixels."""
        self._person = person
        self._easel = Easel(size, head_width=person.width, home=home, rng=rng)

    def draw(self, units: NDArray[np.float64], pose: Pose) -> Image:
        """Draw one frame.

        Args:
            units: float [len(UNITS)], the action units.
            pose: where the head is.

        Returns:
            uint8 [size, size, 3], RGB.
        """
        unit = dict(zip(UNITS, units.tolist(), strict=True))
        self._easel.start(pose)
        self._draw_head(unit)
        self._draw_nose(unit)
        for side in (-1, 1):
            self._draw_eye(unit, side)
            self._draw_brow(unit, side)
        self._draw_mouth(unit)
        self._draw_front()
        return self._easel.finish()

    def _outline(self, drop: float, grow: float = 1.0) -> Points:
        """Return the head's outline [49, 2], clockwise from the top; `drop` lowers the chin."""
        person = self._person
        angle = np.linspace(0, 2 * np.pi, 49)
        y = -np.cos(angle)
        x = person.width * np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** 0.85
        lower = np.clip(y, 0, 1)
        return _curve(x * (1 - person.taper * lower**2.2), y + drop * lower**2) * grow

    def _draw_head(self, unit: dict[str, float]) -> None:
        person = self._person
        drop = 0.27 * unit["AU26"] - 0.03 * unit["AU17"]
        if person.style in ("long", "curly"):
            back = self._outline(0, 1.16 if person.style == "long" else 1.24)
            if person.style == "long":
                back[12:37, 1] += 0.45 * np.clip(back[12:37, 1] + 0.1, 0, 1)
                back[12:37, 0] *= 1 + 0.7 * np.clip(back[12:37, 1], 0, 0.6)
            self._easel.fill(back, person.hair * 0.75, depth=0)
        neck = np.array([[-0.38, 0.5], [0.38, 0.5], [0.44, 1.35], [0.0, 1.6], [-0.44, 1.35]])
        self._easel.fill(neck, person.skin * 0.86, depth=0)
        for side in (-1, 1):
            ear = ROUND * (0.09, person.ear) + (side * person.width * 0.99, 0.02)
            self._easel.fill(ear, person.skin * 0.93, depth=0)
            self._easel.fill(ear * (1, 0.6) + (0, 0.01), person.skin * 0.75, depth=-0.05)
        outline = self._outline(drop)
        jaw = outline[20:29]
        self._easel.darken(np.concatenate([jaw, jaw[::-1] * (0.9, 1.25)]), 0.62, depth=0)
        self._easel.fill(outline, person.skin, depth=0)
        if person.beard:
            self._draw_beard(outline)
        self._crease_face(unit, drop)

    def _draw_beard(self, outline: Points) -> None:
        person = self._person
        colour = person.skin * (1 - 0.75 * person.beard) + person.hair * 0.75 * person.beard
        inner = _curve(T * person.width * 0.66, person.mouth_y + 0.06 - 0.2 * T**2)
        inner[:, 1] -= 0.24 * (1 - np.abs(T)) ** 0.5 * (np.abs(T) < 0.75)
        self._easel.fill(np.concatenate([outline[14:35], inner]), colour, depth=0.2)

    def _crease_face(self, unit: dict[str, float], drop: float) -> None:
        """Draw the soft folds that action units make in the light map."""
        person = self._person
        fold = min(1.0, 0.9 * unit["AU12"] + 0.8 * unit["AU10"] + 0.8 * unit["AU9"])
        out = 0.05 * unit["AU12"]
        for side in (-1, 1):
            cheek = ROUND * (0.16, 0.11) + (side * 0.42, 0.27 - 0.07 * unit["AU6"])
            self._easel.darken(cheek, 1.10 + 0.13 * unit["AU6"])
            eye = ROUND * (0.22, 0.13) + (side * person.eye_x, person.eye_y - 0.04)
            self._easel.darken(eye, 0.72)
            line = [
                (person.nose_width + 0.04, person.nose_y - 0.04),
                (person.mouth_width + 0.06 + out, person.mouth_y - 0.12),
                (person.mouth_width + 0.10 + out, person.mouth_y + 0.02),
                (person.mouth_width + 0.02 + out, person.mouth_y - 0.10),
            ]
            self._easel.darken(np.array(line) * (side, 1), 0.94 - 0.34 * fold)
            if fold > 0.25:
                curve = np.array(line[:3]) * (side, 1)
                self._easel.line(curve, person.skin * (1 - 0.3 * fold), 0.022)
            crow = np.array([[0.2, -0.02], [0.30, 0.03]]) * (side, 1)
            if unit["AU6"] > 0.3:
                here = np.add(crow, (side * person.eye_x, person.eye_y))
                self._easel.line(here, person.skin * (1 - 0.25 * unit["AU6"]), 0.02)
        chin = ROUND * (0.13, 0.06) + (0, 0.84 + drop)
        self._easel.darken(chin, 1.04 + 0.06 * unit["AU17"])
        self._easel.darken(ROUND * (0.16, 0.03) + (0, person.mouth_y + 0.17 + 0.6 * drop), 0.86)
        if unit["AU17"] > 0.3:
            dent = _curve(T * 0.1, 0.80 + 0.05 * T**2)
            self._easel.line(dent, person.skin * (1 - 0.25 * unit["AU17"]), 0.02)
        frown = max(unit["AU4"], 0.8 * unit["AU9"])
        if frown > 0.2:
            for side in (-1, 1):
                furrow = np.array([[0.055, -0.22], [0.045, -0.36]]) * (side, 1)
                self._easel.line(furrow, person.skin * (1 - 0.42 * frown), 0.026)
            self._easel.darken(ROUND * (0.10, 0.09) + (0, -0.26), 1 - 0.25 * frown)
        raised = 0.5 * (unit["AU1"] + unit["AU2"])
        if raised > 0.3 and person.style != "fringe":
            for y in (-0.58, -0.66):
                wave = _curve(T * 0.3, y + 0.03 * T**2)
                self._easel.line(wave, person.skin * (1 - 0.2 * raised), 0.018)

    def _draw_nose(self, unit: dict[str, float]) -> None:
        person = self._person
        wide, tip = person.nose_width, person.nose_y - 0.06 * unit["AU9"] - 0.02 * unit["AU10"]
        wide *= 1 + 0.2 * unit["AU9"] + 0.1 * unit["AU12"]
        bridge = np.array([[-0.05, -0.1], [0.05, -0.1], [0.06, tip], [-0.06, tip]])
        self._easel.darken(bridge, 1.12)
        self._easel.darken(ROUND * (wide, 0.035) + (0, tip + 0.09), 0.72)
        for side in (-1, 1):
            edge = [(0.06, -0.06), (0.07, tip - 0.1), (wide, tip), (wide * 0.9, tip + 0.04)]
            self._easel.darken(np.array([*edge, (0.06, tip - 0.05)]) * (side, 1), 0.88)
            wing = ROUND * (0.035, 0.055) + (side * wide * 0.92, tip + 0.01)
            self._easel.fill(wing, person.skin * 0.88, depth=0.72)
            shine = np.add(wing, (-side * 0.012, -0.012))
            self._easel.fill(shine, person.skin, depth=0.72)
            hole = ROUND * (0.042, 0.022) + (side * wide * 0.5, tip + 0.05)
            self._easel.fill(hole, person.skin * 0.32, depth=0.75)
        if unit["AU9"] > 0.2:
            for y in (-0.08, 0.0, 0.08):
                wrinkle = _curve(T * 0.10, y + 0.03 - 0.05 * T**2)
                self._easel.line(wrinkle, person.skin * (1 - 0.4 * unit["AU9"]), 0.024, depth=0.72)

    def _draw_eye(self, unit: dict[str, float], side: int) -> None:
        person = self._person
        shut = 1 - min(1.0, unit["AU43"])
        squint = 0.35 * unit["AU7"] + 0.2 * unit["AU6"] + 0.2 * unit["AU9"] + 0.12 * unit["AU4"]
        upper = 0.095 * person.eye_open * (1 + 0.55 * unit["AU5"]) * max(0.1, 1 - squint) * shut
        lower = 0.062 * person.eye_open * (1 + 0.1 * unit["AU5"] - 0.55 * unit["AU6"])
        lower = max(0.0, lower * (1 - 0.55 * unit["AU7"])) - 0.35 * (1 - shut) * 0.07
        sad = unit["AU1"] * max(0.0, 1 - unit["AU2"] - unit["AU5"])  # the lid falls outwards
        x = T * person.eye_width
        bow = 1 - np.abs(T) ** 1.8
        tilt = -(person.eye_slant - 0.05 * sad) * T * side
        top = -upper * bow + tilt * 1.0 + 0.0
        bottom = np.maximum(top, lower * bow + tilt - 0.02 * unit["AU6"] * bow)
        centre = np.array([side * person.eye_x, person.eye_y])
        white = _band(x, top, bottom) + centre
        lid = person.skin * 0.62
        crease = _curve(x * 1.08, top * 1.0 - 0.055 * bow - 0.012) + centre
        self._easel.line(crease, lid, 0.018)
        self._easel.fill(white, np.array((222.0, 217, 212)))
        shadow = _band(x, top, np.minimum(bottom, top + 0.03 * bow)) + centre
        self._easel.fill(shadow, np.full(3, 190.0))
        gaze = np.array([0.06 * unit["AU61"], 0.05 * unit["AU64"] - 0.008])
        for radius, colour in (
            (0.095, person.iris * 0.6),
            (0.08, person.iris),
            (0.05, np.full(3, 12.0)),
        ):
            self._easel.fill(_inside(ROUND * radius + gaze, x, top, bottom) + centre, colour)
        glint = _inside(ROUND * 0.02 + gaze + (-0.03, -0.03), x, top, bottom)
        self._easel.fill(glint + centre, np.full(3, 255.0))
        self._easel.line(_curve(x, bottom) + centre, lid, 0.022)
        self._easel.line(_curve(x * 1.04, top) + centre, person.hair * 0.25 + 8, 0.042)
        if person.glasses:
            frame = ROUND * (0.25, 0.2) + centre + (0, 0.02)
            self._easel.line(frame, np.full(3, 30.0), 0.022)
            arms = np.array([[0.09, 0.0], [-0.02, -0.02]]) * (side, 1) + (0, person.eye_y)
            self._easel.line(arms, np.full(3, 30.0), 0.022)

    def _draw_brow(self, unit: dict[str, float], side: int) -> None:
        person = self._person
        inner = -0.24 * unit["AU1"] + 0.15 * unit["AU4"] + 0.06 * unit["AU9"] + person.brow_slant
        outer = -0.15 * unit["AU2"] + 0.03 * unit["AU1"] - person.brow_slant
        outer += 0.02 * unit["AU4"]
        lift = -0.03 * unit["AU5"] + 0.02 * unit["AU6"]
        t = (T + 1) / 2  # 0 at the nose, 1 at the temple
        x = 0.10 - 0.05 * unit["AU4"] + t * (person.eye_x + 0.14)
        arch = -(0.06 + 0.07 * unit["AU2"]) * np.sin(np.pi * t**1.1)
        y = person.brow_y + 0.05 + inner * (1 - t) ** 1.2 + outer * t + arch + lift
        half = person.brow_thick * (1 - 0.75 * t**2)
        band = _band(side * x, y - half, y + half)
        self._easel.fill(band, person.hair * 0.55 + person.skin * 0.06)

    def _draw_mouth(self, unit: dict[str, float]) -> None:
        person = self._person
        wide, gape = unit["AU12"] + unit["AU20"], unit["AU26"]
        half = person.mouth_width * (1 + 0.36 * wide - 0.36 * gape * (1 - min(1.0, wide)))
        half *= 1 - 0.16 * unit["AU23"]
        corner = person.mouth_y + person.mouth_curve
        corner += -0.14 * unit["AU12"] + 0.17 * unit["AU15"] + 0.05 * unit["AU20"] + 0.16 * gape
        upper = person.mouth_y + 0.03 * unit["AU12"] - 0.09 * unit["AU10"] - 0.03 * unit["AU9"]
        upper -= 0.05 * unit["AU15"] + 0.05 * unit["AU17"] + 0.04 * gape
        gap = max(0.0, 0.13 * unit["AU25"] + 0.31 * gape)
        boxy = 2 + 2.5 * min(1.0, unit["AU20"] + unit["AU10"])
        bow = (1 - np.abs(T) ** boxy) ** (1 - 0.5 * min(1.0, gape))
        top = corner + (upper - corner) * bow
        bottom = corner + (upper + gap - corner) * bow
        press = 1 - 0.75 * unit["AU23"]
        arc = np.sqrt(1 - T**2)
        above = person.lip_upper * press * arc * (1 - 0.25 * np.exp(-((T / 0.14) ** 2)))
        below = person.lip_lower * press * arc * (1 + 0.25 * unit["AU17"] * (1 - unit["AU23"]))
        x, inner = T * half * 1.06, T * half
        self._easel.fill(_band(x, top - above - 0.006, bottom + below + 0.006), person.lips)
        self._easel.fill(_band(x, top - above, top), person.lips * 0.84)
        shine = _band(x * 0.5, bottom + below * 0.35, bottom + below * 0.65)
        self._easel.fill(shine, person.lips * 1.13)
        if gap > 0.015:
            self._easel.fill(_band(inner, top, bottom), np.array((58.0, 18, 20)))
            tongue = np.maximum(top, bottom - 0.3 * gap * bow)
            self._easel.fill(_band(inner * 0.7, tongue, bottom), np.array((168.0, 74, 76)))
            teeth = np.minimum(bottom, top + 0.10 * (1 - 0.95 * gape * (1 - min(1.0, wide))) * bow)
            self._easel.fill(_band(inner * 0.94, top, teeth), np.array((222.0, 214, 204)))
            bared = min(1.0, unit["AU20"] + 0.7 * unit["AU10"])  # lower teeth show
            teeth = np.maximum(top, bottom - 0.07 * bared * bow)
            self._easel.fill(_band(inner * 0.9, teeth, bottom), np.array((226.0, 220, 208)))
        self._easel.line(_curve(inner, top), person.lips * 0.42, 0.022)
        if unit["AU23"] > 0.3:
            for y in (-0.075, 0.085):
                ridge = _curve(inner * 0.7, person.mouth_y + y + 0.02 * T**2)
                self._easel.line(ridge, person.skin * (1 - 0.25 * unit["AU23"]), 0.02)

    def _draw_front(self) -> None:
        """Draw the hair before the forehead, and the bridge of the glasses."""
        person = self._person
        if person.glasses:
            y = person.eye_y
            bridge = np.array([[-0.09, y], [0.0, y - 0.03], [0.09, y]])
            self._easel.line(bridge, np.full(3, 30.0), 0.022, depth=0.72)
        if person.style == "bald":
            return
        side = 1.04 if person.style in ("short", "parted", "fringe") else 1.12
        crown = self._outline(0, side)
        crown = np.concatenate(
            [crown[36:48], crown[:13]]
        )  # from the left ear over the top to the right
        if person.style == "curly":
            crown *= 1 + 0.05 * np.sin(np.arange(25) * 1.9)[:, None]
        x = np.linspace(person.width * 0.95, -person.width * 0.95, 25)
        bend = (x / person.width) ** 4
        line = {
            "short": -0.66 + 0.52 * bend,
            "parted": -0.70 + 0.62 * bend + 0.10 * x,
            "fringe": -0.60 + 0.4 * bend + 0.02 * np.sin(x * 24),
            "long": -0.68 + 0.76 * bend,
            "curly": -0.64 + 0.66 * bend + 0.03 * np.sin(x * 17),
        }[person.style]
        hairline = _curve(x, line)
        self._easel.fill(np.concatenate([crown, hairline]), person.hair, depth=0.1)
        for share in (0.25, 0.5, 0.75):  # strands
            strand = crown[::-1] * share + hairline * (1 - share)
            tone = person.hair * (1.25 if share == 0.5 else 0.82)
            self._easel.line(strand[3:-3], tone, 0.02, depth=0.1)


def _curve(x: NDArray[np.float64], y: NDArray[np.float64]) -> Points:
    """Return the points [N, 2] (x, y); np.stack takes five times as long for so few."""
    return np.array((x, y)).T


def _band(x: NDArray[np.float64], top: NDArray[np.float64], bottom: NDArray[np.float64]) -> Points:
    """Return the polygon [2 N, 2] between two curves over the same x."""
    return np.concatenate([_curve(x, top), _curve(x[::-1], bottom[::-1])])


def _inside(
    points: Points,
    x: NDArray[np.float64],
    top: NDArray[np.float64],
    bottom: NDArray[np.float64],
) -> Points:
    """Return the points moved to between two curves over x: what the eyelids leave of the iris."""
    column = np.minimum(np.maximum(points[:, 0], x[0]), x[-1])
    above, below = np.interp(column, x, top), np.interp(column, x, bottom)
    row = np.minimum(np.maximum(points[:, 1], above), below)
    return _curve(column, row)


# How do a face's action units and its pose move over one animated clip?
#
# A class, or a blend of two, and a peak intensity go in; per frame the action units (Ekman and
# Friesen's FACS, see drawn_face.UNITS) and a head pose come out: neutral, onset, apex, offset, with
# blinks, a little speech and a drifting head, so that most clips hold frames that say nothing.

Curve = NDArray[np.float64]

EXPRESSIONS: Final[dict[str, tuple[dict[str, float], ...]]] = {
    "happy": (
        {"AU6": 0.9, "AU12": 1.0, "AU25": 0.8},
        {"AU6": 0.7, "AU12": 1.0, "AU25": 0.25},
        {"AU6": 1.0, "AU12": 1.0, "AU25": 0.7, "AU26": 0.35},
    ),
    "sad": (
        {"AU1": 1.0, "AU4": 0.5, "AU15": 1.0, "AU17": 0.6, "AU43": 0.25, "AU64": 0.5},
        {"AU1": 0.8, "AU4": 0.3, "AU15": 0.9, "AU17": 0.3, "AU43": 0.35, "AU64": 0.8},
    ),
    "neutral": ({},),
    "angry": (
        {"AU4": 1.0, "AU5": 0.4, "AU7": 0.5, "AU23": 1.0},
        {"AU4": 1.0, "AU5": 0.6, "AU7": 0.4, "AU10": 0.4, "AU20": 0.3, "AU25": 0.9, "AU26": 0.25},
    ),
    "surprise": (
        {"AU1": 1.0, "AU2": 1.0, "AU5": 1.0, "AU26": 0.9},
        {"AU1": 0.9, "AU2": 1.0, "AU5": 0.8, "AU26": 0.7},
    ),
    "disgust": (
        {"AU4": 0.5, "AU7": 0.7, "AU9": 1.0, "AU10": 1.0, "AU15": 0.3, "AU25": 0.4},
        {"AU4": 0.4, "AU7": 0.5, "AU9": 1.0, "AU10": 0.6, "AU15": 0.6, "AU17": 0.6},
    ),
    "fear": (
        {"AU1": 1.0, "AU2": 0.4, "AU4": 0.6, "AU5": 1.0, "AU20": 1.0, "AU25": 0.6, "AU26": 0.2},
        {"AU1": 1.0, "AU2": 0.6, "AU4": 0.5, "AU5": 1.0, "AU20": 0.8, "AU25": 0.3, "AU26": 0.5},
    ),
}
"""The action units of each class at its apex, in one or more ways, after FACS's own prototypes."""

CONFUSED: Final[dict[str, tuple[str, ...]]] = {
    "happy": ("surprise", "neutral"),
    "sad": ("neutral", "fear"),
    "neutral": ("sad", "angry", "happy"),
    "angry": ("disgust", "neutral"),
    "surprise": ("fear", "happy"),
    "disgust": ("angry",),
    "fear": ("surprise", "sad"),
}
"""With which classes people confuse a class (symmetric)."""


def apex(rng: np.random.Generator, name: str) -> Curve:
    """Draw the action units of a class at full intensity: float [len(UNITS)], see UNITS."""
    ways = EXPRESSIONS[name]
    units = ways[rng.integers(len(ways))]
    strength = np.array([units.get(unit, 0.0) for unit in UNITS])
    return np.clip(strength * rng.uniform(0.75, 1.15, len(UNITS)), -1, 1)


def envelope(rng: np.random.Generator, frames: int) -> Curve:
    """Draw the intensity over time, float [frames], 0..1: neutral, onset, apex, perhaps offset."""
    start = rng.uniform(0.0, 0.28)
    full = start + rng.uniform(0.1, 0.2)
    end = rng.uniform(0.78, 1.3)  # beyond 1 the clip ends before the expression does
    fade = end - rng.uniform(0.1, 0.2)
    level = np.interp(np.linspace(0, 1, frames), [start, full, fade, end], [0, 1, 1, 0])
    return level * level * (3 - 2 * level)


def move_units(
    rng: np.random.Generator, target: Curve, *, peak: float, frames: int, fps: int
) -> NDArray[np.float64]:
    """Draw the action units of every frame.

    Args:
        rng: the clip's own generator.
        target: float [len(UNITS)], the units at full intensity.
        peak: 0..1, the intensity at the apex.
        frames: length of the clip.
        fps: frames a second.

    Returns:
        float [frames, len(UNITS)].
    """
    units = envelope(rng, frames)[:, None] * (peak * target)
    time = np.arange(frames) / fps  # seconds
    index = {unit: column for column, unit in enumerate(UNITS)}
    for unit in rng.choice(("AU1", "AU2", "AU4", "AU7", "AU12", "AU15", "AU17", "AU25"), 3, False):
        units[:, index[unit]] += rng.uniform(0, 0.14)  # a face at rest is never quite blank
    if rng.random() < 0.3:  # speech
        rate, phase = rng.uniform(3, 5), rng.uniform(0, 2 * np.pi)
        syllables = np.sin(2 * np.pi * rate * time + phase) * np.sin(2 * np.pi * 0.7 * time + phase)
        units[:, index["AU25"]] += 0.3 * np.abs(syllables)
        units[:, index["AU26"]] += 0.1 * np.abs(syllables)
    if rng.random() < 0.5:  # a blink takes about a fifth of a second
        moment = rng.uniform(0, time[-1])
        units[:, index["AU43"]] += np.exp(-(((time - moment) / 0.06) ** 2))
    for unit, most in (("AU61", 0.5), ("AU64", 0.25)):
        units[:, index[unit]] += most * _drift(rng, time)
    signed = np.array([unit in ("AU61", "AU64") for unit in UNITS])
    return np.clip(units, np.where(signed, -1, 0), 1)


def move_head(rng: np.random.Generator, *, frames: int, fps: int) -> list[Pose]:
    """Draw the head's pose in every frame: a place of the clip's own and a slow drift around it."""
    time = np.arange(frames) / fps
    home = {
        "x": 0.5 + np.clip(rng.normal(0, 0.025), -0.06, 0.06),
        "y": 0.515 + np.clip(rng.normal(0, 0.015), -0.03, 0.03),
        "scale": rng.uniform(0.31, 0.37),
        "roll": np.clip(rng.normal(0, 0.05), -0.12, 0.12),
        "yaw": np.clip(rng.normal(0, 0.12), -0.28, 0.28),
        "pitch": np.clip(rng.normal(0, 0.04), -0.09, 0.09),
    }
    reach = {"x": 0.012, "y": 0.01, "scale": 0.004, "roll": 0.03, "yaw": 0.08, "pitch": 0.04}
    paths = {name: home[name] + most * _drift(rng, time) for name, most in reach.items()}
    return [Pose(**{name: float(path[i]) for name, path in paths.items()}) for i in range(frames)]


def _drift(rng: np.random.Generator, time: Curve) -> Curve:
    """Return a slow smooth wander, about -1..1, over time in seconds."""
    rates, phases = rng.uniform(0.15, 0.9, 3), rng.uniform(0, 2 * np.pi, 3)
    waves = np.sin(2 * np.pi * rates * time[:, None] + phases)  # [frames, 3]
    return np.asarray(1.5 * waves.mean(axis=1))


assert set(EXPRESSIONS) == set(CONFUSED) == set(BASIC)


LENGTHS: Final = (18, 44)
SHORT_LENGTHS: Final = (8, 15)  # frames; too short for 16 different ones, as in 0.1 % of DFEW
SHORT_SHARE: Final = 0.03
_GRAIN: Final = 3.0  # standard deviation of the sensor's noise, of 255
_SPARE: Final = 32  # pixels that the noise is larger than a frame
# What the detector makes of these faces (measured on 25 clips), cut out with a margin of 0.1: half
# the head's height is 0.47 of the square, give or take 5 % from clip to clip, and its middle lies
# 0.1 face units above the square's.
_SCALE: Final = 0.47
_SPREAD: Final = 0.05
_ABOVE: Final = 0.1
_JITTER: Final = 0.006  # share of the square that a smoothed box still wanders about the head


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip of the plan: who shows what, how strongly."""

    number: int  # from 1; the file's name
    identity: int
    fold: int  # 1..5, whose test set holds it
    label: str
    blend: str  # the other class of a blend, or ""
    share: float  # of the label in the blend, 0..1
    peak: float  # intensity at the apex, 0..1; 0 for a plain neutral face

    @property
    def key(self) -> str:
        """The name of the clip's file without its ending."""
        return f"{self.number:05d}"


def draw_clip(clip: Clip, settings: Synthesize) -> list[Image]:
    """Draw all frames of a clip, each uint8 [size, size, 3], RGB."""
    rng, units, poses = _move(clip, settings)
    return _draw(clip, settings, rng, units, poses)


def draw_faces(clip: Clip, settings: Synthesize, frames: int = DEFAULT_FRAMES) -> NDArray[np.uint8]:
    """Draw the faces that stand for a clip: uint8 [T, size, size, 3], RGB.

    The clip is the one that draw_clip draws, seen by a camera that follows the head as crop.py
    does: the head stays in the middle and all frames have one scale.
    """
    rng, units, poses = _move(clip, settings)
    chosen = frame_indices(len(poses), frames)
    # A generator of its own: light and background are drawn from the clip's.
    own = np.random.default_rng([settings.seed, 4, clip.number])
    usual = np.median([poses[i].scale for i in chosen]) * (1 + _SPREAD * own.standard_normal())
    wander = _JITTER * own.standard_normal((len(chosen), 2))
    close = []
    for i, (x, y) in zip(chosen, wander, strict=True):
        scale = _SCALE * poses[i].scale / usual
        close.append(replace(poses[i], x=0.5 + x, y=0.5 + y - _ABOVE * scale, scale=scale))
    return np.stack(_draw(clip, settings, rng, units[chosen], close))


def _move(
    clip: Clip, settings: Synthesize
) -> tuple[np.random.Generator, NDArray[np.float64], list[Pose]]:
    """Return the clip's generator, action units [frames, units] and head poses."""
    rng = np.random.default_rng([settings.seed, 2, clip.number])
    lengths = SHORT_LENGTHS if rng.random() < SHORT_SHARE else LENGTHS
    frames = int(rng.integers(*lengths, endpoint=True))
    target = clip.share * apex(rng, clip.label)
    if clip.blend:
        target += (1 - clip.share) * apex(rng, clip.blend)
    units = move_units(rng, target, peak=clip.peak, frames=frames, fps=settings.fps)
    return rng, units, move_head(rng, frames=frames, fps=settings.fps)


def _draw(
    clip: Clip,
    settings: Synthesize,
    rng: np.random.Generator,
    units: NDArray[np.float64],
    poses: list[Pose],
) -> list[Image]:
    """Draw the person in these poses, with the noise of one sensor."""
    person = draw_person(np.random.default_rng([settings.seed, 1, clip.identity]))
    size = settings.size
    portrait = Portrait(person, size, home=poses[0], rng=rng)
    grain = rng.normal(0, _GRAIN, (size + _SPARE, size + _SPARE, 3)).round().astype(np.int16)
    shifts = rng.integers(_SPARE, size=(len(poses), 2))
    images = []
    for unit, pose, (down, right) in zip(units, poses, shifts, strict=True):
        noise = grain[down : down + size, right : right + size]
        images.append(cv2.add(portrait.draw(unit, pose), noise, dtype=cv2.CV_8U))
    return images
