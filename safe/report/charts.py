"""How does each figure of the page become a chart?

Every function gives one SVG. Series have a colour, a dash and a label at their end, classes a
colour and a shape, so that nothing hangs on colour alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from safe.figures.canvas import class_looks
from safe.metrics import Floats, Ints
from safe.report.svg import (
    Panel,
    element,
    line,
    mark_class,
    marker,
    path,
    picture,
    rectangle,
    spread,
    text,
    ticks,
)
from safe.taxonomy import Classes

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
        rows: what safe.metrics.reliability gives.
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
