"""How is one frame of one animated face drawn?

A Person (what stays the same) and facial action units (what moves; Ekman and Friesen's FACS) go in,
an RGB picture comes out. Everything is our own geometry: no real face is used anywhere.
Lengths are in face units (drawn_person), colours RGB 0..255.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.drawn_person import Person, Pose
from pipeline.datasets.easel import ROUND, Easel, Image, Points, T

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
