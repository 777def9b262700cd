"""How do the rows of a table, or the values of a sweep, compare with one another and the paper?"""

import math
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from safe.compare import Estimate
from safe.errors import DataError
from safe.figures.canvas import (
    BLACK,
    BLUE,
    GREY,
    NAMES,
    ONE_COLUMN,
    PALE,
    RED,
    TWO_COLUMNS,
    save,
    sheet,
    styled,
)

UNITS = {"war": "%", "uar": "%", "nll": "nats"}
Row = Mapping[str, Estimate]
"""The estimate of each figure."""


def draw_rows(
    table: Mapping[str, Row], out: Path, *, units: Mapping[str, str] | None = None
) -> None:
    """Write a table as dots and intervals: one panel a figure, one line a row of the table.

    A bar is the 95 % interval, a dot the mean, a tick a seed, a hollow diamond the paper's figure.
    A row without runs says so.

    Args:
        table: row to figure (war, uar, ...) to estimate.
        out: .png, .svg or .pdf.
        units: of the figures; by default percent for war and uar, nats for nll.

    Raises:
        DataError: if the table has no row or no figure, or the suffix is another.
    """
    save(rows_figure(table, units=units), out)


def draw_sweep(
    axes: Mapping[str, Mapping[float, Row]],
    figure: str,
    out: Path,
    *,
    units: Mapping[str, str] | None = None,
) -> None:
    """Write one figure against the values of each swept parameter, one panel a parameter.

    Marks as in draw_rows; a line joins the means of neighbouring values.

    Args:
        axes: parameter to value to estimates.
        figure: which figure of the estimates, e.g. "war".
        out: .png, .svg or .pdf.
        units: as in draw_rows.

    Raises:
        DataError: if there is no parameter or a parameter has no value, or the suffix is another.
    """
    save(sweep_figure(axes, figure, units=units), out)


@styled
def rows_figure(table: Mapping[str, Row], *, units: Mapping[str, str] | None = None) -> Figure:
    """Make the figure of draw_rows; its axes are the figures, in the order they first appear."""
    figures = list(dict.fromkeys(name for row in table.values() for name in row))
    if not figures:
        raise DataError("rows: the table has no row with a figure; there is nothing to draw")
    sheet_ = sheet(ONE_COLUMN if len(figures) == 1 else TWO_COLUMNS, 6 * len(table) + 24)
    panels = sheet_.subplots(1, len(figures), sharey=True, squeeze=False)[0]
    for panel, figure in zip(panels, figures, strict=True):
        panel.set_xlabel(_label(figure, units))
        estimates = [row.get(figure) for row in table.values()]
        for place, estimate in enumerate(estimates):
            panel.axhline(place, color=PALE, linewidth=0.6, zorder=0)
            _mark(panel, place, estimate, across=True)
        for place, estimate in enumerate(estimates):
            _say_missing(panel, place, estimate, across=True)
        if not any(map(_has_mark, estimates)):
            panel.set_xticks([])
        panel.spines["left"].set_visible(False)
        panel.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(table)), list(table))
    panels[0].set_ylim(len(table) - 0.5, -0.5)
    _legend(sheet_, seed="|")
    return sheet_


@styled
def sweep_figure(
    axes: Mapping[str, Mapping[float, Row]],
    figure: str,
    *,
    units: Mapping[str, str] | None = None,
) -> Figure:
    """Make the figure of draw_sweep; its axes are the parameters in order."""
    if not axes or not all(axes.values()):
        raise DataError("sweep: a parameter without values, or none at all; nothing to draw")
    sheet_ = sheet(ONE_COLUMN if len(axes) == 1 else TWO_COLUMNS, 68)
    panels = sheet_.subplots(1, len(axes), sharey=True, squeeze=False)[0]
    estimates = [row.get(figure) for values in axes.values() for row in values.values()]
    for panel, (name, values) in zip(panels, axes.items(), strict=True):
        places = sorted(values)
        means = [_mean(values[value].get(figure)) for value in places]
        panel.plot(places, means, color=BLUE, linewidth=0.8, zorder=1)
        for value in places:
            _mark(panel, value, values[value].get(figure), across=False)
        panel.set_xticks(places, [f"{value:g}" for value in places])
        panel.margins(x=0.1)
        panel.set_xlabel(name)
    for panel, values in zip(panels, axes.values(), strict=True):
        for value, row in values.items():
            _say_missing(panel, value, row.get(figure), across=False)
    if not any(map(_has_mark, estimates)):
        panels[0].set_yticks([])
    panels[0].set_ylabel(_label(figure, units))
    _legend(sheet_, seed="_")
    return sheet_


def _mark(panel: Axes, place: float, estimate: Estimate | None, *, across: bool) -> None:
    """Draw one estimate at a place of the other axis; `across`: values run left to right."""

    def plot(values: tuple[float, ...], **look: object) -> None:
        points = (values, [place] * len(values))
        panel.plot(*(points if across else points[::-1]), **look)  # type: ignore[arg-type]

    if estimate and math.isfinite(estimate.mean):
        if math.isfinite(estimate.low) and math.isfinite(estimate.high):
            plot((estimate.low, estimate.high), color=BLUE, linewidth=2.4, alpha=0.4, zorder=2)
        seed = "|" if across else "_"
        plot(estimate.values, color=BLACK, marker=seed, markersize=8, linestyle="", zorder=3)
        plot((estimate.mean,), color=BLUE, marker="o", markersize=4.5, zorder=4)
    if estimate and estimate.paper is not None:
        plot((estimate.paper,), color=RED, marker="D", markerfacecolor="none", zorder=5)


def _mean(estimate: Estimate | None) -> float:
    """Return the mean, nan without an estimate."""
    return estimate.mean if estimate else float("nan")


def _has_mark(estimate: Estimate | None) -> bool:
    """Tell whether there is anything to draw of it."""
    return estimate is not None and (math.isfinite(estimate.mean) or estimate.paper is not None)


def _say_missing(panel: Axes, place: float, estimate: Estimate | None, *, across: bool) -> None:
    """Write "missing" where there is no run, at the edge that is further from the paper's figure.

    To be called when all marks are drawn: those decide where the edges are.
    """
    if math.isfinite(_mean(estimate)):
        return
    low, high = panel.get_xlim() if across else panel.get_ylim()
    near = estimate is not None and estimate.paper is not None and estimate.paper < (low + high) / 2
    edge = 0.99 if near else 0.01
    panel.text(
        *((edge, place) if across else (place, edge)),
        "missing",
        transform=panel.get_yaxis_transform() if across else panel.get_xaxis_transform(),
        rotation=0 if across else 90,
        ha=("right" if near else "left") if across else "center",
        va="center" if across else ("top" if near else "bottom"),
        color=GREY,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )


def _label(figure: str, units: Mapping[str, str] | None) -> str:
    """Name a figure with its unit."""
    unit = (UNITS if units is None else units).get(figure)
    name = NAMES.get(figure, figure)
    return f"{name} ({unit})" if unit else name


def _legend(figure: Figure, *, seed: str) -> None:
    """Explain the marks below the panels."""
    handles = [
        Line2D([], [], color=BLUE, marker="o", markersize=4.5, linestyle="", label="mean"),
        Line2D([], [], color=BLUE, linewidth=2.4, alpha=0.4, label="95 % interval"),
        Line2D([], [], color=BLACK, marker=seed, markersize=8, linestyle="", label="one seed"),
        Line2D(
            [], [], color=RED, marker="D", markerfacecolor="none", linestyle="", label="the paper"
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, columnspacing=1.2)
