"""How is a chart written as SVG that follows the page's colours?

Small parts: an element, a picture with its title and description, a panel with axes. Looks are CSS
classes of style.css, so a chart follows light and dark. Everything that comes from data is escaped.
Lengths are CSS pixels; charts are 340 wide, so that a phone shows them at their size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

WIDTH: Final = 340.0


def element(name: str, *inside: object, **attributes: object) -> Markup:
    """Write an element; `class_` gives class, `stroke_width` stroke-width, None leaves out."""
    told = [
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _text(value))
        for key, value in attributes.items()
        if value is not None
    ]
    content = Markup("").join(part if isinstance(part, Markup) else escape(part) for part in inside)
    return Markup(f"<{name}") + Markup("").join(told) + Markup(">") + content + Markup(f"</{name}>")


def _text(value: object) -> str:
    """Write a number with at most two digits behind the point."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def picture(
    name: str,
    title: str,
    description: str,
    *parts: Markup,
    height: float,
    width: float = WIDTH,
    class_: str = "chart",
) -> Markup:
    """Write a whole SVG. `name` is unique on the page: title and description hang on it."""
    return element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", description, id=f"{name}-desc"),
        *parts,
        viewBox=f"0 0 {_text(width)} {_text(height)}",
        width=width,
        height=height,
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        class_=class_,
    )


@dataclass(frozen=True)
class Panel:
    """A plot: where its numbers lie in the picture."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    left: float = 44.0
    top: float = 12.0
    right: float = 14.0
    height: float = 200.0
    """From the top of the plot to its x axis."""
    width: float = WIDTH

    @property
    def bottom(self) -> float:
        """Of the plot, in pixels."""
        return self.top + self.height

    @property
    def end(self) -> float:
        """Right end of the plot, in pixels."""
        return self.width - self.right

    def x(self, value: float) -> float:
        """Pixels from the left."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.end - self.left)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        low, high = self.y_range
        return self.bottom - (value - low) / (high - low) * self.height

    def axes(
        self,
        x_label: str,
        y_label: str,
        *,
        x_ticks: Sequence[float],
        y_ticks: Sequence[float],
        y_digits: int | None = None,
    ) -> Markup:
        """Draw grid lines, ticks and labels; the y label stands above the axis, to be read."""
        parts = []
        for tick in y_ticks:
            y = self.y(tick)
            told = f"{tick:g}" if y_digits is None else f"{tick:.{y_digits}f}"
            parts.append(line(self.left, y, self.end, y, class_="grid"))
            parts.append(text(self.left - 6, y + 4, told, class_="tick end"))
        for tick in x_ticks:
            x = self.x(tick)
            parts.append(line(x, self.bottom, x, self.bottom + 4, class_="axis"))
            parts.append(text(x, self.bottom + 17, f"{tick:g}", class_="tick middle"))
        parts.append(line(self.left, self.bottom, self.end, self.bottom, class_="axis"))
        middle = (self.left + self.end) / 2
        parts.append(text(middle, self.bottom + 34, x_label, class_="label middle"))
        parts.append(text(2, self.top - 9, y_label, class_="label"))
        return element("g", *parts)


def line(x1: float, y1: float, x2: float, y2: float, *, class_: str) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def text(x: float, y: float, words: object, *, class_: str) -> Markup:
    """Words that start, have their middle or end at x, by the class."""
    return element("text", words, x=x, y=y, class_=class_)


def rectangle(x: float, y: float, width: float, height: float, *, class_: str) -> Markup:
    """A box; nothing is drawn of a width or height below 0."""
    return element("rect", x=x, y=y, width=max(0.0, width), height=max(0.0, height), class_=class_)


def path(points: Sequence[tuple[float, float]], *, class_: str) -> Markup:
    """A line through points."""
    told = "L".join(f"{_text(float(x))} {_text(float(y))}" for x, y in points)
    return element("path", d=f"M{told}", class_=class_)


def _around(*radii: float) -> tuple[tuple[float, float], ...]:
    """Return corners at these distances from a middle, evenly around it, the first one above."""
    turns = (2 * math.pi * i / len(radii) for i in range(len(radii)))
    return tuple((r * math.sin(a), -r * math.cos(a)) for r, a in zip(radii, turns, strict=True))


_PLUS = (
    *((-0.4, -1), (0.4, -1), (0.4, -0.4), (1, -0.4), (1, 0.4), (0.4, 0.4)),
    *((0.4, 1), (-0.4, 1), (-0.4, 0.4), (-1, 0.4), (-1, -0.4), (-0.4, -0.4)),
)
_CORNERS: Final = {
    "P": _PLUS,
    "X": tuple((0.71 * (x - y), 0.71 * (x + y)) for x, y in _PLUS),
    "<": ((-1, 0), (0.8, -1), (0.8, 1)),
    ">": ((1, 0), (-0.8, -1), (-0.8, 1)),
    "*": _around(*(1.2, 0.5) * 5),
    "p": _around(*(1.1,) * 5),
    "d": ((0, -1.3), (0.75, 0), (0, 1.3), (-0.75, 0)),
    "h": _around(*(1.1,) * 6),
}
"""Corners of marks of size 1 around the origin, y downwards."""


def marker(x: float, y: float, shape: str, size: float = 4.0) -> str:
    """Return path data of a mark around a point; shapes are those of matplotlib.

    They are the markers of safe.figures.canvas.class_looks.
    """
    r = size
    if corners := _CORNERS.get(shape):
        (x0, y0), *others = corners
        steps = "L".join(f"{x + r * dx:.1f} {y + r * dy:.1f}" for dx, dy in others)
        return f"M{x + r * x0:.1f} {y + r * y0:.1f}L{steps}z"
    diagonal = 0.8 * r
    moves = {
        "o": f"m{-r:g} 0a{r:g} {r:g} 0 1 0 {2 * r:g} 0a{r:g} {r:g} 0 1 0 {-2 * r:g} 0z",
        "v": f"m{-r:g} {-0.8 * r:g}h{2 * r:g}l{-r:g} {1.8 * r:g}z",
        "^": f"m{-r:g} {0.8 * r:g}h{2 * r:g}l{-r:g} {-1.8 * r:g}z",
        "s": f"m{-0.85 * r:g} {-0.85 * r:g}h{1.7 * r:g}v{1.7 * r:g}h{-1.7 * r:g}z",
        "D": f"m0 {-1.2 * r:g}l{r:g} {1.2 * r:g}l{-r:g} {1.2 * r:g}l{-r:g} {-1.2 * r:g}z",
        "+": f"m{-r:g} 0h{2 * r:g}m{-r:g} {-r:g}v{2 * r:g}",
        "x": f"m{-diagonal:g} {-diagonal:g}l{2 * diagonal:g} {2 * diagonal:g}"
        f"m0 {-2 * diagonal:g}l{-2 * diagonal:g} {2 * diagonal:g}",
    }
    return f"M{x:.1f} {y:.1f}{moves[shape]}"


def mark_class(k: int, shape: str) -> str:
    """Return the CSS classes of the mark of class k; page.py makes its colour from k."""
    return f"mark open k{k}" if shape in "+x" else f"mark k{k}"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers in low..high, at most `most` + 1 of them."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** _exponent(rough)
    step = next(power * n for n in (1, 2, 5, 10) if power * n >= rough * (1 - 1e-9))
    first = -(-low // step)
    return [
        round((first + i) * step, 10) for i in range(int((high - first * step) / step + 1e-9) + 1)
    ]


def _exponent(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move labels apart: places in the same order, at least `gap` from one another.

    They stay in low..high as far as there is room for all.
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    found = list(places)
    before = low - gap
    for i in order:
        found[i] = before = max(places[i], before + gap)
    after = high + gap
    for i in reversed(order):
        found[i] = after = min(found[i], after - gap)
    return found
