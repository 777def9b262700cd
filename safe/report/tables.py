"""Pictures of an experiment's table: its rows, a sweep, calibration epoch by epoch.

In: estimates of safe.evaluation.compare, or the curves of trainings; a row without runs says so.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, StrMethodFormatter

from safe.errors import DataError
from safe.evaluation.compare import Estimate
from safe.evaluation.metrics import Floats
from safe.report.canvas import (
    BLACK,
    BLUE,
    GREY,
    NAMES,
    ONE_COLUMN,
    PALE,
    RED,
    TWO_COLUMNS,
    Look,
    series,
    sheet,
    styled,
)

UNITS: Final = {"war": "%", "uar": "%", "nll": "nats"}
TableRow = Mapping[str, Estimate]
"""The estimate of each metric."""


@styled
def rows_figure(table: Mapping[str, TableRow], *, units: Mapping[str, str] = UNITS) -> Figure:
    """Draw a table as dots and intervals: one panel a metric, one line a row of the table.

    A bar is the 95 % interval, a dot the mean, a tick a seed, a hollow diamond the paper's value.

    Args:
        table: row to metric (war, uar, ...) to estimate.
        units: of the metrics.

    Returns:
        The figure; its axes are the metrics, in the order they first appear.

    Raises:
        DataError: if the table has no row or no metric.
    """
    metrics = list(dict.fromkeys(name for row in table.values() for name in row))
    if not metrics:
        raise DataError("rows: the table has no row with a figure; there is nothing to draw")
    figure = sheet(ONE_COLUMN if len(metrics) == 1 else TWO_COLUMNS, 6 * len(table) + 24)
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for panel, metric in zip(panels, metrics, strict=True):
        panel.set_xlabel(_label(metric, units))
        estimates = [row.get(metric) for row in table.values()]
        for position, estimate in enumerate(estimates):
            panel.axhline(position, color=PALE, linewidth=0.6, zorder=0)
            _mark(panel, position, estimate, across=True)
        for position, estimate in enumerate(estimates):
            _say_missing(panel, position, estimate, across=True)
        if not any(map(_has_mark, estimates)):
            panel.set_xticks([])
        panel.spines["left"].set_visible(False)
        panel.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(table)), list(table))
    panels[0].set_ylim(len(table) - 0.5, -0.5)
    _legend(figure, seed="|")
    return figure


@styled
def sweep_figure(
    axes: Mapping[str, Mapping[float, TableRow]],
    metric: str,
    *,
    units: Mapping[str, str] = UNITS,
) -> Figure:
    """Draw one metric against the values of each swept parameter, one panel a parameter.

    Marks as in rows_figure; a line joins the means of neighbouring values.

    Args:
        axes: parameter to value to estimates.
        metric: which of the estimates, e.g. "war".
        units: as in rows_figure.

    Returns:
        The figure; its axes are the parameters in order.

    Raises:
        DataError: if there is no parameter, or a parameter has no value.
    """
    if not axes or not all(axes.values()):
        raise DataError("sweep: a parameter without values, or none at all; nothing to draw")
    figure = sheet(ONE_COLUMN if len(axes) == 1 else TWO_COLUMNS, 68)
    panels = figure.subplots(1, len(axes), sharey=True, squeeze=False)[0]
    estimates = [row.get(metric) for values in axes.values() for row in values.values()]
    for panel, (name, values) in zip(panels, axes.items(), strict=True):
        positions = sorted(values)
        means = [_mean(values[value].get(metric)) for value in positions]
        panel.plot(positions, means, color=BLUE, linewidth=0.8, zorder=1)
        for value in positions:
            _mark(panel, value, values[value].get(metric), across=False)
        panel.set_xticks(positions, [f"{value:g}" for value in positions])
        panel.margins(x=0.1)
        panel.set_xlabel(name)
    for panel, values in zip(panels, axes.values(), strict=True):
        for value, row in values.items():
            _say_missing(panel, value, row.get(metric), across=False)
    if not any(map(_has_mark, estimates)):
        panels[0].set_yticks([])
    panels[0].set_ylabel(_label(metric, units))
    _legend(figure, seed="_")
    return figure


def _mark(panel: Axes, position: float, estimate: Estimate | None, *, across: bool) -> None:
    """Draw one estimate at a place of the other axis; `across`: values run left to right."""

    def plot(values: tuple[float, ...], **look: object) -> None:
        points = (values, [position] * len(values))
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
    return estimate.mean if estimate else float("nan")


def _has_mark(estimate: Estimate | None) -> bool:
    return estimate is not None and (math.isfinite(estimate.mean) or estimate.paper is not None)


def _say_missing(panel: Axes, position: float, estimate: Estimate | None, *, across: bool) -> None:
    """Write "missing" where there is no run, at the edge that is further from the paper's value.

    To be called when all marks are drawn: those decide where the edges are.
    """
    if math.isfinite(_mean(estimate)):
        return
    low, high = panel.get_xlim() if across else panel.get_ylim()
    near = estimate is not None and estimate.paper is not None and estimate.paper < (low + high) / 2
    edge = 0.99 if near else 0.01
    panel.text(
        *((edge, position) if across else (position, edge)),
        "missing",
        transform=panel.get_yaxis_transform() if across else panel.get_xaxis_transform(),
        rotation=0 if across else 90,
        ha=("right" if near else "left") if across else "center",
        va="center" if across else ("top" if near else "bottom"),
        color=GREY,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )


def _label(metric: str, units: Mapping[str, str]) -> str:
    name = NAMES.get(metric, metric)
    return f"{name} ({units[metric]})" if metric in units else name


def _legend(figure: Figure, *, seed: str) -> None:
    """Explain the marks below the panels."""
    paper = {"marker": "D", "markerfacecolor": "none", "linestyle": "", "label": "the paper"}
    handles = [
        Line2D([], [], color=BLUE, marker="o", markersize=4.5, linestyle="", label="mean"),
        Line2D([], [], color=BLUE, linewidth=2.4, alpha=0.4, label="95 % interval"),
        Line2D([], [], color=BLACK, marker=seed, markersize=8, linestyle="", label="one seed"),
        Line2D([], [], color=RED, **paper),  # type: ignore[arg-type]
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, columnspacing=1.2)


METRICS: Final = ("ece", "nll", "brier")
Curves = Mapping[str, Mapping[str, Sequence[Sequence[float]]]]
"""Model, metric, seed, epoch."""


@styled
def calibration_figure(curves: Curves, reference: str) -> Figure:
    """Draw ECE, NLL and Brier score of each model as ratios to those of the reference model.

    One panel a metric: mean over the seeds by epoch, and a band from the lowest to the highest
    seed; under 1 is better than the reference. Seed s is divided by seed s of the reference.

    Args:
        curves: curves[model][metric][seed][epoch]; a missing metric is said to be missing.
        reference: the model that the others are divided by.

    Returns:
        The figure; its axes are the metrics in order.

    Raises:
        DataError: if the reference is not among the models, or is the only one.
    """
    if reference not in curves or len(curves) < 2:
        raise DataError(
            f"calibration: {reference!r} and a model to compare with it are needed; there are "
            f"{', '.join(curves) or 'none'}"
        )
    figure = sheet(TWO_COLUMNS, 62)
    panels = figure.subplots(1, len(METRICS), sharey=True)
    others = [name for name in curves if name != reference]
    low, high = 1.0, 1.0
    for panel, metric in zip(panels, METRICS, strict=True):
        panel.axhline(1, color=GREY, linewidth=0.8)
        panel.set(title=NAMES[metric], xlabel="epoch", yscale="log")
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        for index, name in enumerate(others):
            table = ratios(curves[name].get(metric, ()), curves[reference].get(metric, ()))
            seen = table[np.isfinite(table) & (table > 0)]
            if seen.size:
                low, high = min(low, seen.min()), max(high, seen.max())
                _band(panel, table, f"{name} / {reference}", series(index))
            else:
                text = f"{name}: missing"
                panel.text(0.04, 0.05 + 0.08 * index, text, transform=panel.transAxes, color=GREY)
    first = panels[0]  # its axis by plain numbers, few enough for the ratios that it spans
    first.set(ylabel="ratio; below 1 is better", ylim=(low / 1.08, high * 1.08))
    locator = LogLocator(subs=(1, 2, 5)) if high / low > 5 else MaxNLocator(6)
    first.yaxis.set_major_locator(locator)
    first.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    first.minorticks_off()
    handles = {
        label: handle
        for panel in panels
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5)
    return figure


def ratios(model: Sequence[Sequence[float]], reference: Sequence[Sequence[float]]) -> Floats:
    """Divide seed by seed and epoch by epoch: float64 [seeds, epochs], as far as both reach.

    nan where a value is nan, or the reference's is not above 0.
    """
    pairs = list(zip(model, reference, strict=False))
    epochs = min((len(curve) for pair in pairs for curve in pair), default=0)
    above, below = (
        np.array([pair[side][:epochs] for pair in pairs], dtype=np.float64).reshape(
            len(pairs), epochs
        )
        for side in (0, 1)
    )
    found = np.full(above.shape, np.nan)
    np.divide(above, below, out=found, where=below > 0)
    return found


def _band(panel: Axes, table: Floats, label: str, look: Look) -> None:
    """Draw mean and band of ratios [seeds, epochs]; an epoch without any value is a gap."""
    epoch = np.flatnonzero(np.isfinite(table).any(axis=0))
    present = table[:, epoch]
    ends = np.nanmin(present, axis=0), np.nanmax(present, axis=0)
    panel.fill_between(epoch + 1, *ends, color=look.colour, alpha=0.2, linewidth=0)
    mean = np.full(table.shape[1], np.nan)
    mean[epoch] = np.nanmean(present, axis=0)
    panel.plot(
        np.arange(1, len(mean) + 1),
        mean,
        color=look.colour,
        linestyle=look.line,
        marker=look.marker,
        markevery=max(1, len(mean) // 8),
        label=label,
    )
