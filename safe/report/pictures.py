"""Which expression is taken for which?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import threadpoolctl  # type: ignore[import-untyped]
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, StrMethodFormatter
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score

from safe.errors import DataError
from safe.evaluation.metrics import Floats, Ints, confusion, ece, reliability, uar, uar_name, war
from safe.evaluation.predictions import Split, pool
from safe.report.canvas import (
    BLACK,
    BLUE,
    GREY,
    MANY,
    NAMES,
    ONE_COLUMN,
    PALE,
    RED,
    TWO_COLUMNS,
    Look,
    check_models,
    class_looks,
    class_name,
    legend_columns,
    save,
    series,
    sheet,
    styled,
    text_width,
)

_NUMBERED, _BARE = 4.5, 2.6
"""mm, the least side of a cell with its percentage, and of one without: what a line of text is."""

_EDGE: Final = 18.0
"""mm beside the matrices for the names of the classes, where these are short."""


def draw_confusion(parts: Mapping[str, Split], out: Path) -> None:
    """Write one confusion matrix a part (a fold), and of several a last one of all their clips.

    A row is a true class and sums to 100 %; its number of clips stands at its end. A class without
    clips is a grey row. Of more than MANY classes only the last one is drawn, without percentages.

    Args:
        parts: name to predictions, all of the same classes.
        out: .png, .svg or .pdf.

    Raises:
        DataError: if there is no part, parts are of different classes, or the suffix is another.
    """
    save(confusion_figure(parts), out)


@styled
def confusion_figure(parts: Mapping[str, Split]) -> Figure:
    """Make the figure of draw_confusion; its axes are the matrices in order."""
    if not parts:
        raise DataError("confusion: there is no part to draw; give at least one fold")
    shown = dict(parts)
    if len(parts) > 1:
        shown["pooled"] = pool(list(parts.values()))
    classes = next(iter(shown.values())).classes
    k = len(classes)
    if k > MANY:
        shown = dict([shown.popitem()])
    matrices = {name: confusion(part.label, part.predicted, k) for name, part in shown.items()}
    names = [class_name(name) for name in classes]
    edge = max(_EDGE, text_width(names) + 6)
    least = k * (_BARE if k > MANY else _NUMBERED)
    columns = max(1, min(3, len(matrices), int((TWO_COLUMNS - edge) / (least + 11))))
    if len(matrices) == 1:
        width = max(ONE_COLUMN, edge + 11 + least)
    else:
        width = max(TWO_COLUMNS, edge + 11 + least)
    side = (width - edge) / columns - 11  # what names and numbers leave of the width for a matrix
    lines = -(-len(matrices) // columns)
    figure = sheet(width, lines * (side + 6) + edge + 4)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for index, (name, matrix) in enumerate(matrices.items()):
        _matrix(panels[index], matrix)
        title = uar_name(matrix.sum(axis=1))
        between = ", " if title == "UAR" or columns == 1 else ",\n"  # a long one needs a line
        told = f"{name}: WAR {100 * war(matrix):.2f}{between}{title} {100 * uar(matrix):.2f}"
        panels[index].set_title(told, fontsize=7)
        panels[index].set_yticks(range(k), names if index % columns == 0 else [""] * k)
        bottom = index + columns >= len(matrices)
        panels[index].set_xticks(range(k), names if bottom else [""] * k, rotation=90)
    for empty in panels[len(matrices) :]:
        empty.remove()
    shade = "the darker, the more % of the row" if k > MANY else "cells in % of the row"
    figure.supylabel("true class", fontsize=7)
    figure.supxlabel(f"predicted class; {shade}", fontsize=7)
    return figure


def _matrix(panel: Axes, matrix: Ints) -> None:
    """Draw one matrix, int [K, K], with percentages and the clips of each row."""
    k, clips = len(matrix), matrix.sum(axis=1)
    share = np.full(matrix.shape, np.nan)
    np.divide(100 * matrix, clips[:, None], out=share, where=clips[:, None] > 0)
    panel.set_facecolor(PALE)
    panel.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for true in range(k):
        panel.text(k - 0.35, true, f"n {clips[true]}", va="center")
        for predicted in range(k if clips[true] and k <= MANY else 0):
            value = share[true, predicted]
            ink = "white" if value > 55 else "black"
            cell = panel.text(predicted, true, f"{value:.0f}", ha="center", va="center")
            cell.set(color=ink, in_layout=False)  # it lies inside the panel: nothing to lay out
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)


# Is a model right as often as it says it is?

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


# Does a model grow better calibrated, epoch by epoch, than the one it is compared with?

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


# How far does a model keep the classes apart in its embedding?


def draw_embedding(
    models: Mapping[str, Split], out: Path, *, seed: int = 0, most: int = 2000
) -> None:
    """Write the t-SNE of the models' embeddings side by side, the same clips in each panel.

    Distances in a t-SNE say little, so each title gives the silhouette of the classes among the
    drawn clips in the embedding itself: -1..1, Euclidean; higher is further apart.

    Args:
        models: name to predictions, all of the same clips.
        out: .png, .svg or .pdf.
        seed: of the drawn clips and of t-SNE.
        most: the largest number of clips drawn, see choose_clips.

    Raises:
        DataError: if the models cannot be compared, there are fewer than four clips, or the suffix
            is another.
    """
    save(embedding_figure(models, seed=seed, most=most), out)


def choose_clips(label: Ints, most: int, *, seed: int) -> Ints:
    """Draw at most `most` clips at random, each class in its share of the labels.

    Every class keeps at least one clip if `most` allows. Returns int64 positions, ascending.
    """
    rng = np.random.default_rng(seed)
    place = np.empty(len(label))  # of each clip in the shuffled row of its class, 0 <= place < 1
    for k in np.unique(label):
        members = np.flatnonzero(label == k)
        place[members] = rng.permutation(len(members)) / len(members)
    return np.sort(np.argsort(place, kind="stable")[:most])


@styled
def embedding_figure(models: Mapping[str, Split], *, seed: int = 0, most: int = 2000) -> Figure:
    """Make the figure of draw_embedding; its axes are the models in order."""
    check_models(models)
    first = next(iter(models.values()))
    label, looks = first.label, class_looks(first.classes)
    rows = choose_clips(label, most, seed=seed)
    if len(rows) < 4:
        raise DataError(f"embedding: {len(rows)} clips are too few for a t-SNE; give at least 4")
    label = label[rows]
    columns = min(3, len(models))
    lines = -(-len(models) // columns)
    width = ONE_COLUMN if columns == 1 else TWO_COLUMNS
    clips = np.bincount(label, minlength=len(looks))
    labels = [f"{class_name(name)} ({n})" for name, n in zip(looks, clips, strict=True)]
    beside = legend_columns(labels, width - 4)
    figure = sheet(width, lines * (width / columns + 5) + 4 + 4.2 * -(-len(labels) // beside))
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel, (name, split) in zip(panels, models.items(), strict=False):
        points = split.embedding[rows]
        flat = tsne(points, seed)
        for k, (colour, marker) in enumerate(looks.values()):
            panel.scatter(
                *flat[label == k].T,
                s=9,
                c=colour,
                marker=marker,
                linewidths=0.7 if marker in "+x" else 0,
                alpha=0.75,
                label=labels[k],
            )
        panel.set(title=f"{name}: silhouette {silhouette(points, label)}", xticks=[], yticks=[])
        panel.set_box_aspect(1)
        panel.spines[:].set_visible(True)
    for empty in panels[len(models) :]:
        empty.remove()
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=beside,
        markerscale=1.6,
        handletextpad=0.2,
        columnspacing=1.2,
    )
    return figure


def tsne(points: Floats, seed: int) -> Floats:
    """Lay points float [n, D], n >= 4, out in the plane, float [n, 2].

    On one thread, since the order in which threads add up would change the last bits, and t-SNE
    makes much of them.
    """
    method = TSNE(perplexity=min(30, (len(points) - 1) / 3), random_state=seed)
    with threadpoolctl.threadpool_limits(1):
        flat: Floats = method.fit_transform(points)
    return flat


def silhouette(points: Floats, label: Ints) -> str:
    """Return the mean silhouette in words; it is not defined for one class or one clip a class."""
    if not 2 <= len(np.unique(label)) < len(label):
        return "not defined"
    return f"{silhouette_score(points, label):.3f}"
