"""Does a model grow better calibrated, epoch by epoch, than the one it is compared with?"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, StrMethodFormatter

from safe.errors import DataError
from safe.figures.canvas import GREY, NAMES, TWO_COLUMNS, Look, save, series, sheet, styled
from safe.metrics import Floats

METRICS = ("ece", "nll", "brier")
Curves = Mapping[str, Mapping[str, Sequence[Sequence[float]]]]
"""Model, metric, seed, epoch."""


def draw_calibration(curves: Curves, reference: str, out: Path) -> None:
    """Write ECE, NLL and Brier score of each model as ratios to those of the reference model.

    One panel a metric: mean over the seeds by epoch, and a band from the lowest to the highest
    seed; under 1 is better than the reference. Seed s is divided by seed s of the reference.

    Args:
        curves: curves[model][metric][seed][epoch]; a missing metric is said to be missing.
        reference: the model that the others are divided by.
        out: .png, .svg or .pdf.

    Raises:
        DataError: if the reference is not among the models, or is the only one, or the suffix is
            another.
    """
    save(calibration_figure(curves, reference), out)


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


@styled
def calibration_figure(curves: Curves, reference: str) -> Figure:
    """Make the figure of draw_calibration; its axes are the metrics in order."""
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
                _curve(panel, table, f"{name} / {reference}", series(index))
            else:
                text = f"{name}: missing"
                panel.text(0.04, 0.05 + 0.08 * index, text, transform=panel.transAxes, color=GREY)
    _ticks(panels[0], low, high)
    panels[0].set_ylabel("ratio; below 1 is better")
    handles = {
        label: handle
        for panel in panels
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5)
    return figure


def _curve(panel: Axes, table: Floats, label: str, look: Look) -> None:
    """Draw mean and band of ratios [seeds, epochs]; an epoch without any value is a gap."""
    epoch = np.flatnonzero(np.isfinite(table).any(axis=0))
    present = table[:, epoch]
    panel.fill_between(
        epoch + 1,
        np.nanmin(present, axis=0),
        np.nanmax(present, axis=0),
        color=look.colour,
        alpha=0.2,
        linewidth=0,
    )
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


def _ticks(panel: Axes, low: float, high: float) -> None:
    """Label a log axis by plain numbers, few enough for the ratios that it spans."""
    panel.set_ylim(low / 1.08, high * 1.08)
    wide = high / low > 5
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(6))
    panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.minorticks_off()
