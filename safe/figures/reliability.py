"""Is a model right as often as it says it is?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from safe.figures.canvas import (
    BLACK,
    BLUE,
    GREY,
    ONE_COLUMN,
    RED,
    TWO_COLUMNS,
    check_models,
    save,
    sheet,
    styled,
)
from safe.metrics import ece, reliability
from safe.predictions import Split

TOO_SURE: dict[str, Any] = {
    "facecolor": "#F6D5BE",
    "edgecolor": RED,
    "linewidth": 0.6,
    "hatch": "////",
}
TOO_UNSURE: dict[str, Any] = {
    "facecolor": "#CFE4F1",
    "edgecolor": BLUE,
    "linewidth": 0.6,
    "hatch": ".....",
}


def draw_reliability(models: Mapping[str, Split], bins: int, out: Path) -> None:
    """Write a reliability diagram, one panel a model, side by side.

    Above: accuracy of each bin of confidence, and hatched its gap to the mean confidence there;
    the mean over clips of the gaps is the ECE, equation (12). Below: the share of the
    clips in each bin.

    Args:
        models: name to predictions, all of the same clips; four or fewer stay readable.
        bins: M, bins of equal width, as in metrics.reliability.
        out: .png, .svg or .pdf.

    Raises:
        DataError: if the models cannot be compared, or the suffix is another.
    """
    save(reliability_figure(models, bins), out)


@styled
def reliability_figure(models: Mapping[str, Split], bins: int) -> Figure:
    """Make the figure of draw_reliability; its axes are the diagrams, then the histograms."""
    check_models(models)
    figure = sheet(ONE_COLUMN if len(models) == 1 else TWO_COLUMNS, 84)
    axes = figure.subplots(
        2, len(models), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1)
    )
    for (above, below), (name, split) in zip(axes.T, models.items(), strict=True):
        _panel(above, below, split, bins)
        error = ece(split.probabilities, split.label, bins)
        above.set_title(f"{name}: ECE {error:.3f} (n = {len(split.label)})")
        below.set_xlabel("confidence")
    axes[0, 0].set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes[1, 0].set_ylabel("clips (%)")
    handles = [
        Line2D([], [], color=BLACK, linestyle="--", linewidth=0.8, label="calibrated"),
        Patch(color=BLUE, label="accuracy"),
        Patch(**TOO_SURE, label="gap: too sure"),
        Patch(**TOO_UNSURE, label="gap: not sure enough"),
    ]
    columns = 2 if len(models) == 1 else 4
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    return figure


def _panel(above: Axes, below: Axes, split: Split, bins: int) -> None:
    """Draw one model's diagram and histogram."""
    rows = reliability(split.probabilities, split.label, bins)
    confidence, accuracy, clips = np.array(rows).T
    edges = np.linspace(0, 1, bins + 1)
    # A bin's mean confidence lies in the bin, so it tells which of the M bins a row is.
    middle = (np.digitize(confidence, edges[1:-1], right=True) + 0.5) / bins
    bar: dict[str, Any] = {"width": 1 / bins, "edgecolor": "white", "linewidth": 0.5}
    above.bar(middle, accuracy, color=BLUE, **bar)
    gap = confidence - accuracy
    for side, look in ((gap > 0, TOO_SURE), (gap < 0, TOO_UNSURE)):
        above.bar(middle[side], gap[side], bottom=accuracy[side], width=1 / bins, **look)
    above.plot((0, 1), (0, 1), color=BLACK, linestyle="--", linewidth=0.8)
    below.bar(middle, 100 * clips / clips.sum(), color=GREY, **bar)
