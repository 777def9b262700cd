"""How is a chart written as SVG that follows the page's colours?

Small parts: an element, a picture with its title and description, a panel with axes. Looks are CSS
classes of style.css, so a chart follows light and dark. Everything that comes from data is escaped.
Lengths are CSS pixels; charts are 340 wide, so that a phone shows them at their size.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import simplejpeg
from markupsafe import Markup, escape
from numpy.typing import NDArray

from safe.errors import DataError
from safe.evaluation.metrics import (
    COVERAGE_SHOWN,
    Floats,
    Ints,
    ece,
    reliability,
    risk_coverage,
)
from safe.report.canvas import SERIES, class_looks
from safe.report.gather import Experiment
from safe.report.results import Figure
from safe.shards.folder import ShardFolder
from safe.shards.loader import ClipReader
from safe.taxonomy import Classes

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

    They are the markers of safe.report.canvas.class_looks.
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


# How does each figure of the page become a chart?
#
# Every function gives one SVG. Series have a colour, a dash and a label at their end, classes a
# colour and a shape, so that nothing hangs on colour alone.

TENTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
POINTS = 400
"""Points of a line at most: more do not show at 340 pixels."""


@dataclass(frozen=True)
class Line:
    """A series: points in order of x, and how it looks (position among the series)."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    look: int = 0


def reliability_chart(
    name: str, title: str, rows: Sequence[tuple[float, float, int]], bins: int
) -> Markup:
    """Draw accuracy over confidence, a bar a bin, the gap to the confidence hatched.

    Below is the share of the clips in each bin.

    Args:
        name: unique on the page.
        title: of the picture.
        rows: what safe.evaluation.metrics.reliability gives.
        bins: M.
    """
    plot = Panel((0, 1), (0, 1), top=24, height=216)
    count = Panel((0, 1), (0, 1), top=plot.bottom + 10, height=40)
    every = sum(clips for _, _, clips in rows)
    most = max(clips for _, _, clips in rows) / every
    parts = [_hatch(name)]
    for confidence, accuracy, clips in rows:
        # A bin's mean confidence lies in it, so it tells which of the M bins a row is.
        left = min(int(np.ceil(confidence * bins - 1e-12)) - 1, bins - 1) / bins
        x, wide = plot.x(left) + 1, (plot.end - plot.left) / bins - 2
        parts.append(
            rectangle(x, plot.y(accuracy), wide, plot.bottom - plot.y(accuracy), class_="bar")
        )
        high, low = max(confidence, accuracy), min(confidence, accuracy)
        parts.append(
            element(
                "rect",
                x=x,
                y=plot.y(high),
                width=wide,
                height=plot.y(low) - plot.y(high),
                class_="gap over" if confidence > accuracy else "gap under",
                fill=f"url(#{name}-hatch)" if confidence > accuracy else None,
            )
        )
        tall = clips / every / most * count.height
        parts.append(rectangle(x, count.bottom - tall, wide, tall, class_="count"))
    parts.append(line(plot.x(0), plot.y(0), plot.x(1), plot.y(1), class_="ideal"))
    parts.append(text(2, count.top + 12, "clips", class_="label"))
    parts.append(text(count.left - 6, count.top + 26, f"{100 * most:.0f} %", class_="tick end"))
    axes = plot.axes("", "accuracy", x_ticks=(), y_ticks=TENTHS)
    below = count.axes("confidence", "", x_ticks=TENTHS, y_ticks=())
    told = "; ".join(f"confidence {c:.2f}, accuracy {a:.2f}, {n} clips" for c, a, n in rows)
    return picture(name, title, f"By bin: {told}.", axes, below, *parts, height=count.bottom + 42)


def _hatch(name: str) -> Markup:
    """The pattern of gaps where the model is too sure."""
    stroke = element("path", d="M0 6L6 0", class_="hatch")
    pattern = element(
        "pattern",
        rectangle(0, 0, 6, 6, class_="hatch-ground"),
        stroke,
        id=f"{name}-hatch",
        width=6,
        height=6,
        patternUnits="userSpaceOnUse",
    )
    return element("defs", pattern)


def lines_chart(
    name: str,
    title: str,
    description: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    marks: Sequence[tuple[float, float, str]] = (),
) -> Markup:
    """Draw series over a number, each with its label at its end.

    Args:
        name: unique on the page.
        title: of the picture.
        description: what it shows, for those who do not see it.
        lines: the series, at least one, each of at least one point.
        x_label: below the axis.
        y_label: above the axis.
        x_range: of the axis; by default that of the points.
        y_range: of the axis; by default from 0 or the lowest point to the highest.
        marks: points to be pointed out, x, y and a word.
    """
    x_range = x_range or _range([v for one in lines for v in one.x], from_zero=False)
    y_range = y_range or _range([v for one in lines for v in one.y], from_zero=True)
    longest = max(len(one.label) for one in lines)
    numbers = max(len(f"{tick:g}") for tick in ticks(*y_range))
    left, right = (
        max(44.0, 10 + 7.4 * numbers),
        (32 + min(120.0, 6.6 * longest)) if longest else 14.0,
    )
    panel = Panel(x_range, y_range, top=24, left=left, right=right)
    parts = []
    for one in lines:
        thin = np.unique(np.linspace(0, len(one.x) - 1, POINTS).astype(int))
        points = [(panel.x(one.x[i]), panel.y(one.y[i])) for i in thin]
        if len(points) == 1:
            parts.append(element("path", d=marker(*points[0], "o"), class_=f"dot s{one.look}"))
        parts.append(path(points, class_=f"line s{one.look}"))
    ends = [panel.y(one.y[-1]) + 4 for one in lines]
    for one, y in zip(lines, spread(ends, 14, panel.top + 4, panel.bottom), strict=True):
        if one.label:
            sample = [(panel.end + 5, y - 4), (panel.end + 21, y - 4)]
            parts.append(path(sample, class_=f"line s{one.look}"))
            parts.append(text(panel.end + 25, y, one.label, class_="name"))
    for x, y, word in marks:
        parts.append(element("path", d=marker(panel.x(x), panel.y(y), "D", 4.5), class_="point"))
        late = panel.x(x) > panel.end - 80  # no room to the right
        beside = (panel.x(x) - 8, panel.y(y) - 8) if late else (panel.x(x) + 9, panel.y(y) + 16)
        parts.append(text(*beside, word, class_=f"word {'end' if late else ''}"))
    axes = panel.axes(x_label, y_label, x_ticks=ticks(*x_range), y_ticks=ticks(*y_range))
    return picture(name, title, description, axes, *parts, height=panel.bottom + 42)


def _range(values: Sequence[float], *, from_zero: bool) -> tuple[float, float]:
    """Return the range of an axis; never empty."""
    low, high = min(values), max(values)
    low = min(low, 0.0) if from_zero else low
    return (low, high * 1.04 if from_zero else high) if high > low else (low, low + 1)


def scatter_chart(name: str, title: str, points: Floats, label: Ints, classes: Classes) -> Markup:
    """Draw points [n, 2] of n clips, shape and colour by class; the axes have no meaning."""
    side, edge = 520.0, 12.0
    low, high = points.min(axis=0), points.max(axis=0)
    scale = (side - 2 * edge) / max(float((high - low).max()), 1e-9)  # one for both axes
    width, height = ((high - low) * scale + 2 * edge).tolist()
    flat = edge + (points - low) * scale
    parts = [rectangle(0.5, 0.5, width - 1, height - 1, class_="frame")]
    for k, (_, shape) in enumerate(class_looks(classes).values()):
        marks = "".join(marker(x, y, shape, 5) for x, y in flat[label == k].tolist())
        if marks:
            parts.append(element("path", d=marks, class_=mark_class(k, shape)))
    counts = ", ".join(f"{n} {classes[k]}" for k, n in enumerate(np.bincount(label)) if n)
    told = f"{len(label)} clips: {counts}."
    return picture(name, title, told, *parts, height=height, width=width)


def history_charts(history: Sequence[Mapping[str, float]]) -> list[Markup]:
    """Draw a fold's training: losses, WAR and UAR, and the learning rate over the epochs."""
    epochs = [float(epoch + 1) for epoch in range(len(history))]
    panels = (
        ("Loss", "", {"loss": "total", "ce": "CE", "logit": "CAL", "feature": "FCL"}),
        (
            "Accuracy in training",
            "%",
            {
                "train_war": "train WAR",
                "train_uar": "train UAR",
                "select_war": "select WAR",
                "select_uar": "select UAR",
            },
        ),
        ("Learning rate", "", {"lr": ""}),
    )
    found = []
    for title, unit, columns in panels:
        there = [key for key in columns if history and all(key in row for row in history)]
        lines = [
            Line(columns[key], epochs, [float(row[key]) for row in history], look)
            for look, key in enumerate(there)
        ]
        if not lines:
            continue
        told = "; ".join(
            f"{one.label or title} from {one.y[0]:.4g} to {one.y[-1]:.4g}" for one in lines
        )
        name = f"history-{title.split()[0].lower()}"
        label = f"{title.lower()} ({unit})" if unit else title.lower()
        found.append(
            lines_chart(
                name,
                title,
                f"Over {len(epochs)} epochs: {told}.",
                lines,
                x_label="epoch",
                y_label=label,
                y_range=(0, 100) if unit else None,
            )
        )
    return found


# How do a mark, an interval, attention and probabilities become small charts beside numbers?
#
# Each stands in a table or a list whose words say the same.

BARS: Final = 8
"""Classes whose probabilities are shown of a clip, where there are more than a few more."""

_LETTERS: Final = 20
"""Of a class's name beside its bar."""

_STRIP: Final = 768.0
"""Width of the attention over all frames, so that its letters are as large for any number."""


def class_keys(classes: Classes) -> list[Markup]:
    """Return the marks of the classes for a legend; their names stand beside them."""
    return [_key(k, shape) for k, (_, shape) in enumerate(class_looks(classes).values())]


def _key(k: int, shape: str) -> Markup:
    mark = element("path", d=marker(8, 8, shape, 5), class_=mark_class(k, shape))
    return element("svg", mark, viewBox="0 0 16 16", width=16, height=16, aria_hidden="true")


def interval_cell(
    value: float | None,
    low: float | None,
    high: float | None,
    domain: tuple[float, float],
    *,
    at: float | None = None,
) -> Markup:
    """Draw a dot and its interval for a cell of a table, whose numbers stand beside it.

    `at` is a line to compare with, as 0 for a difference.
    """
    width, height = 150.0, 18.0
    panel = Panel(domain, (0, 1), left=4, right=4, width=width)
    middle = height / 2
    parts = [line(4, middle, width - 4, middle, class_="grid")]
    if at is not None:
        parts.append(line(panel.x(at), 1, panel.x(at), height - 1, class_="axis"))
    if low is not None and high is not None:
        ends = [panel.x(min(max(end, domain[0]), domain[1])) for end in (low, high)]
        parts.append(line(ends[0], middle, ends[1], middle, class_="interval"))
    if value is not None:
        parts.append(element("path", d=marker(panel.x(value), middle, "o", 4), class_="dot s0"))
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        aria_hidden="true",
        class_="cell",
    )


def attention_chart(
    name: str, weights: Sequence[float], *, window: int, stride: int, frames: int
) -> Markup:
    """Draw each window under the frames that it covers, the darker the more attention.

    Of T frames, frame t spans t / T to (t + 1) / T of the width, as in the strip of faces above it.
    """
    lanes = -(-window // stride)
    unit, lane, most = _STRIP / frames, 17.0, max(weights)
    parts = []
    for w, weight in enumerate(weights):
        x, y = w * stride * unit, (w % lanes) * lane
        shade = round(10 * weight / most)
        parts.append(
            rectangle(x + 1, y + 1, window * unit - 2, lane - 2, class_=f"window a{shade}")
        )
        words = f"{100 * weight:.0f} %"
        middle = x + window * unit / 2
        tone = "deep" if shade > 5 else "light"
        parts.append(text(middle, y + 12.5, words, class_=f"weight middle {tone}"))
    told = ", ".join(
        f"frames {w * stride + 1} to {w * stride + window}: {100 * v:.0f} %"
        for w, v in enumerate(weights)
    )
    title = "Attention over windows"
    return picture(name, title, told, *parts, height=lanes * lane, width=_STRIP, class_="att")


def bars_chart(
    name: str,
    chances: Sequence[float],
    classes: Classes,
    *,
    true: int,
    inside: Sequence[bool],
) -> Markup:
    """Draw the probability of each class; the label is bold, classes outside the set are pale.

    Of more than BARS + 3 classes only the likeliest BARS, and the label.
    """
    shown = list(range(len(classes)))
    if len(classes) > BARS + 3:
        likely = sorted(shown, key=lambda k: (k != true, -chances[k]))[: BARS + 1]
        shown = sorted(likely)
    names = {k: _short(classes[k]) for k in shown}
    row, left = 17.0, max(66.0, 12 + 7.2 * max(map(len, names.values())))
    width = 174.0 + left
    parts = []
    for place, k in enumerate(shown):
        chance, y = chances[k], place * row
        bold = " true" if k == true else ""
        parts.append(text(left - 6, y + 12.5, names[k], class_=f"tick end{bold}"))
        wide = chance * (width - left - 44)
        look = "bar" if inside[k] else "bar out"
        parts.append(rectangle(left, y + 3, max(wide, 1), row - 6, class_=look))
        parts.append(
            text(left + max(wide, 1) + 5, y + 12.5, f"{100 * chance:.0f} %", class_="tick")
        )
    told = ", ".join(f"{classes[k]} {100 * chances[k]:.0f} %" for k in shown)
    title = "Probabilities" if len(shown) == len(classes) else "Probabilities of the likeliest"
    return picture(name, title, told, *parts, height=len(shown) * row, width=width)


def _short(name: str) -> str:
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"


# How do confidence and error become charts, of one experiment or of several on one scale?


def trust_charts(experiment: Experiment) -> dict[str, Any]:
    """Reliability before and after calibration, risk and coverage, prediction sets."""
    before, after = experiment.split.probabilities, experiment.probabilities
    stages = {"before": ("Before calibration", before)}
    if experiment.calibrated:
        stages["after"] = ("After calibration", after)
    risks = {"before": before, "after": after}
    if not experiment.calibrated:
        risks = {"error": before}
    return {
        "reliability": [_reliability(experiment, key, *stage) for key, stage in stages.items()],
        "risk": _risk("risk", experiment, risks, mark=True),
    }


def _reliability(experiment: Experiment, key: str, title: str, p: Floats) -> dict[str, Any]:
    """A reliability diagram with its ECE."""
    label, bins = experiment.split.label, experiment.bins
    rows = reliability(p, label, bins)
    chart = reliability_chart(f"reliability-{key}", title, rows, bins)
    return {"title": title, "chart": chart, "ece": Figure("ECE", ece(p, label, bins))}


def _risk(
    name: str, experiment: Experiment, series: dict[str, Floats], *, mark: bool = False
) -> Markup:
    """Risk-coverage curves of probabilities [n, K], and where the decisions of `experiment` lie."""
    label = experiment.split.label
    lines, marks = [], []
    for look, (title, p) in enumerate(series.items()):
        lines.append(_curve(title, p, label, look))
    answered = ~experiment.abstains
    if mark and answered.any() and not answered.all():
        wrong = experiment.probabilities.argmax(axis=1) != label
        point = (100 * float(answered.mean()), 100 * float(wrong[answered].mean()))
        marks.append((*point, "decisions"))
    return _risk_chart(name, lines, marks)


def _curve(title: str, p: Floats, label: Ints, look: int) -> Line:
    """A series of the risk-coverage chart, in percent, from probabilities [n, K]."""
    coverage, risk = risk_coverage(p.max(axis=1), p.argmax(axis=1) != label)
    return Line(title, (100 * coverage).tolist(), (100 * risk).tolist(), look)


def _risk_chart(
    name: str, lines: Sequence[Line], marks: Sequence[tuple[float, float, str]] = ()
) -> Markup:
    at = [
        f"{one.label}: {one.y[-1]:.1f} % of all clips, {np.interp(80, one.x, one.y):.1f} % of the "
        f"{100 * COVERAGE_SHOWN:.0f} % surest"
        for one in lines
    ]
    return lines_chart(
        name,
        "Error by coverage",
        f"Share of errors: {'; '.join(at)}.",
        lines,
        x_label="clips answered, surest first (%)",
        y_label="error (%)",
        x_range=(0, 100),
        marks=marks,
    )


def charts_together(experiment: Experiment, others: Sequence[Experiment]) -> dict[str, Any]:
    """Curves of all experiments in one chart, and their reliability diagrams on one scale."""
    if not others:
        return {}
    lines, diagrams = [], []
    for look, one in enumerate([experiment, *others]):
        p, label = one.probabilities, one.split.label
        lines.append(_curve(one.name[:18], p, label, look % len(SERIES)))
        title = f"{one.name}{', calibrated' if one.calibrated else ''}"
        diagrams.append(_reliability(one, f"of-{look}", title, p))
    return {"risk": _risk_chart("risk-all", lines), "reliability": diagrams}


# Which clips does the page show, and how do their faces get into it?
#
# Shown are the clips that the model is most sure about and wrong, and those that it is least sure
# about. Their faces come from the shards, checked as a training reads them, scaled down, as JPEG in
# the page itself. Faces are biometric data: a page with them is to be kept as the clips are.

SIDE: Final = 64
"""Pixels of a face in the picture; 16 of them take some 25 KB. The page shows them smaller."""

QUALITY: Final = 82


@dataclass(frozen=True)
class Case:
    """One clip that is shown."""

    row: int
    """Position in the experiment's split."""
    clip: str
    label: str
    decision: str | None
    """The class that is decided for; None: the model abstains."""
    likeliest: str
    sure: float
    """Highest probability, in percent."""


def choose(experiment: Experiment, count: int) -> tuple[list[Case], list[Case]]:
    """Find `count` clips, or fewer, that are wrong most surely, and as many doubtful ones.

    Confidence is the highest probability, calibrated where there is a calibration.

    Returns:
        The wrong ones, the surest first; the doubtful ones, the least sure first. No clip is in
        both.
    """
    p = experiment.probabilities
    confidence, said = p.max(axis=1), p.argmax(axis=1)
    order = np.argsort(-confidence, kind="stable")
    worst = [int(i) for i in order if said[i] != experiment.split.label[i]][:count]
    doubtful = [int(i) for i in order[::-1] if i not in worst][:count]
    return _cases(experiment, worst, said), _cases(experiment, doubtful, said)


def _cases(experiment: Experiment, rows: Sequence[int], said: Ints) -> list[Case]:
    split = experiment.split
    return [
        Case(
            row=row,
            clip=split.clip[row],
            label=split.classes[split.label[row]],
            decision=None if experiment.abstains[row] else split.classes[said[row]],
            likeliest=split.classes[said[row]],
            sure=100 * float(experiment.probabilities[row].max()),
        )
        for row in rows
    ]


def read_strips(folder: ShardFolder, clips: Sequence[str]) -> dict[str, str]:
    """Read the faces of clips and make each a picture: clip to a data: URI.

    A clip that is not in the shards any more, or cannot be read, is left out.
    """
    found = {}
    reader = ClipReader(folder)
    size = folder.face_size
    faces = np.empty((1, folder.frames, size, size, 3), dtype=np.uint8)
    try:
        for clip in clips:
            rows = np.flatnonzero(folder.clip == clip)
            if not len(rows):
                continue
            try:
                reader.read(rows, faces)
            except DataError:
                continue
            found[clip] = _data_uri(faces[0])
    finally:
        reader.close()
    return found


def _data_uri(faces: NDArray[np.uint8]) -> str:
    """Put faces uint8 [T, S, S, 3] side by side, SIDE pixels each, as a JPEG."""
    import cv2  # here: a page without faces needs it not

    small = [cv2.resize(face, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for face in faces]
    strip = np.ascontiguousarray(np.concatenate(small, axis=1))
    jpeg = simplejpeg.encode_jpeg(strip, QUALITY, "RGB", "420", fastdct=False)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
