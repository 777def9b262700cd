"""Pictures of what models said of a split: confusion, reliability, embedding, curves.

Each is a Figure for a file, some also one of PAGE_COLUMN mm for the page, whose words stand around
it; both are drawn by the same lines. Shapes: n clips, K classes, D features.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import threadpoolctl  # type: ignore[import-untyped]
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score

from safe.errors import DataError
from safe.evaluation.metrics import (
    Floats,
    Ints,
    bin_of,
    confusion,
    ece,
    reliability,
    uar,
    uar_name,
    war,
)
from safe.evaluation.predictions import Split, pool
from safe.report.canvas import (
    BLACK,
    BLUE,
    GREY,
    MANY,
    ONE_COLUMN,
    PAGE_COLUMN,
    PALE,
    RED,
    TWO_COLUMNS,
    check_models,
    class_looks,
    class_name,
    legend_columns,
    save,
    series,
    sheet,
    show_name,
    styled,
    text_width,
)
from safe.taxonomy import Classes


def draw_confusion(parts: Mapping[str, Split], out: Path) -> None:
    """Write confusion_figure to a file."""
    save(confusion_figure(parts), out)


def draw_reliability(models: Mapping[str, Split], bins: int, out: Path) -> None:
    """Write reliability_figure to a file."""
    save(reliability_figure(models, bins), out)


# Confusion

_NUMBERED, _BARE = 4.5, 2.6
"""mm, the least side of a cell with its percentage, and of one without: what a line of text is."""

_EDGE: Final = 18.0
"""mm beside the matrices for the names of the classes, where these are short."""


@styled
def confusion_figure(parts: Mapping[str, Split]) -> Figure:
    """Draw one confusion matrix a part (a fold), and of several a last one of all their clips.

    A row is a true class and sums to 100 %; its number of clips stands at its end. A class without
    clips is a grey row. Of more than MANY classes only the last one is drawn, without percentages.

    Args:
        parts: name to predictions, all of the same classes.

    Returns:
        The figure; its axes are the matrices in order.

    Raises:
        DataError: if there is no part, or parts are of different classes.
    """
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
    width = max(ONE_COLUMN if len(matrices) == 1 else TWO_COLUMNS, edge + 11 + least)
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


# Reliability

_OVER: Final[dict[str, Any]] = {"facecolor": "none", "edgecolor": RED, "hatch": "//////"}
_UNDER: Final[dict[str, Any]] = {"facecolor": (1, 1, 1, 0.6), "edgecolor": BLUE}


@styled
def reliability_figure(models: Mapping[str, Split], bins: int) -> Figure:
    """Draw a reliability diagram, one panel a model, side by side.

    Above: accuracy of each bin of confidence, and its gap to the mean confidence there, hatched
    where the model is overconfident; the mean over clips of the gaps is the ECE, equation (12).
    Below: the share of the clips in each bin.

    Args:
        models: name to predictions, all of the same clips; four or fewer stay readable.
        bins: M, bins of equal width, as in metrics.reliability.

    Returns:
        The figure; its axes are the diagrams, then the histograms.

    Raises:
        DataError: if the models cannot be compared.
    """
    check_models(models)
    figure = sheet(ONE_COLUMN if len(models) == 1 else TWO_COLUMNS, 84)
    axes = figure.subplots(
        2, len(models), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1)
    )
    for (above, below), (name, split) in zip(axes.T, models.items(), strict=True):
        _reliability(above, below, split.probabilities, split.label, bins)
        error = ece(split.probabilities, split.label, bins)
        above.set_title(f"{name}: ECE {error:.3f} (n = {len(split.label)})")
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].set_ylabel("clips (%)")
    handles = [
        Line2D([], [], color=BLACK, linestyle="--", linewidth=0.8, label="calibrated"),
        Patch(color=BLUE, label="accuracy"),
        Patch(**_OVER, linewidth=0.6, label="gap: overconfident"),
        Patch(**_UNDER | {"facecolor": (BLUE, 0.4)}, linewidth=0.6, label="gap: underconfident"),
    ]
    columns = 2 if len(models) == 1 else 4
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    return figure


@styled
def reliability_column(probabilities: Floats, label: Ints, bins: int) -> Figure:
    """Draw one reliability diagram [n, K] for the page."""
    figure = sheet(PAGE_COLUMN, 68)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
    _reliability(above, below, probabilities, label, bins)
    above.set_title("accuracy", loc="left", fontsize=7)
    most = max(bar.get_height() for bar in below.patches)
    below.set_yticks([most / 2], [f"clips\n{most:.0f} %"])
    return figure


def _reliability(above: Axes, below: Axes, probabilities: Floats, label: Ints, bins: int) -> None:
    confidence, accuracy, clips = np.array(reliability(probabilities, label, bins)).T
    middle = (bin_of(confidence, bins) + 0.5) / bins  # a bin's mean confidence lies in the bin
    bar: dict[str, Any] = {"width": 1 / bins, "edgecolor": "white", "linewidth": 0.5}
    above.bar(middle, accuracy, color=BLUE, **bar)
    gap = confidence - accuracy
    for side, look in ((gap > 0, _OVER), (gap < 0, _UNDER)):
        above.bar(
            middle[side], gap[side], bottom=accuracy[side], width=1 / bins, linewidth=0.6, **look
        )
    above.plot((0, 1), (0, 1), color=BLACK, linestyle="--", linewidth=0.8)
    above.set(xlim=(0, 1), ylim=(0, 1))
    above.grid(axis="y")
    for panel in (above, below):
        panel.spines["left"].set_visible(False)
        panel.tick_params(axis="y", length=0)
    below.bar(middle, 100 * clips / clips.sum(), color=GREY, **bar)
    below.set_xlabel("confidence")


# Embedding


@styled
def embedding_figure(models: Mapping[str, Split], *, seed: int = 0, most: int = 2000) -> Figure:
    """Draw the t-SNE of the models' embeddings side by side, the same clips in each panel.

    Distances in a t-SNE say little, so each title gives the silhouette of the classes among the
    drawn clips in the embedding itself: -1..1, Euclidean; higher is further apart.

    Args:
        models: name to predictions, all of the same clips.
        seed: of the drawn clips and of t-SNE.
        most: the largest number of clips drawn, see choose_clips.

    Returns:
        The figure; its axes are the models in order.

    Raises:
        DataError: if the models cannot be compared, or there are fewer than four clips.
    """
    check_models(models)
    first = next(iter(models.values()))
    rows = choose_clips(first.label, most, seed=seed)
    if len(rows) < 4:
        raise DataError(f"embedding: {len(rows)} clips are too few for a t-SNE; give at least 4")
    label, classes = first.label[rows], first.classes
    columns = min(3, len(models))
    lines = -(-len(models) // columns)
    width = ONE_COLUMN if columns == 1 else TWO_COLUMNS
    clips = np.bincount(label, minlength=len(classes))
    labels = [f"{class_name(name)} ({n})" for name, n in zip(classes, clips, strict=True)]
    beside = legend_columns(labels, width - 4)
    figure = sheet(width, lines * (width / columns + 5) + 4 + 4.2 * -(-len(labels) // beside))
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel, (name, split) in zip(panels, models.items(), strict=False):
        points = split.embedding[rows]
        _scatter(panel, tsne(points, seed), label, classes, size=9)
        panel.set_title(f"{name}: silhouette {silhouette(points, label)}")
    for empty in panels[len(models) :]:
        empty.remove()
    figure.legend(
        panels[0].collections,
        labels,
        loc="outside lower center",
        ncols=beside,
        markerscale=1.6,
        handletextpad=0.2,
        columnspacing=1.2,
    )
    return figure


@styled
def embedding_column(points: Floats, label: Ints, classes: Classes) -> Figure:
    """Draw points float [n, 2] of clips for the page, in one and a half of its columns."""
    figure = sheet(1.5 * PAGE_COLUMN, 1.5 * PAGE_COLUMN)
    _scatter(figure.subplots(), points, label, classes, size=25)
    return figure


def _scatter(panel: Axes, points: Floats, label: Ints, classes: Classes, *, size: float) -> None:
    for k, (colour, marker) in enumerate(class_looks(classes).values()):
        x, y = points[label == k].T
        panel.scatter(
            x,
            y,
            s=size,
            c=colour,
            marker=marker,
            linewidths=size**0.5 / 4 if marker in "+x" else 0,
            alpha=0.75,
        )
    panel.set(xticks=[], yticks=[])
    panel.set_box_aspect(1)
    panel.spines[:].set(visible=True, color=PALE)


@styled
def class_key(look: tuple[str, str]) -> Figure:
    """Draw the mark of a class, as class_looks gives it, for a legend of the page."""
    figure = sheet(3.3, 3.3, layout="none")
    colour, marker = look
    figure.add_artist(Line2D([0.5], [0.5], color=colour, marker=marker, markersize=5))
    return figure


def choose_clips(label: Ints, most: int, *, seed: int) -> Ints:
    """Draw at most `most` clips at random, each class in its share of the labels.

    Every class keeps at least one clip if `most` allows. Returns int64 positions, ascending.
    """
    rng = np.random.default_rng(seed)
    position = np.empty(
        len(label)
    )  # of each clip in the shuffled row of its class, 0 <= position < 1
    for k in np.unique(label):
        members = np.flatnonzero(label == k)
        position[members] = rng.permutation(len(members)) / len(members)
    return np.sort(np.argsort(position, kind="stable")[:most])


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


# Curves


@styled
def curves_column(
    curves: Mapping[str, tuple[Floats, Floats]],
    x_label: str,
    y_label: str,
    *,
    x_range: tuple[float, float] | None = None,
    y_top: float | None = None,
    mark: tuple[float, float, str] | None = None,
) -> Figure:
    """Draw series over a number for the page, each with its name beside it.

    Args:
        curves: name to x and y; without a name nothing stands beside.
        x_label: below the axis.
        y_label: above the y axis.
        x_range: of the axis; by default that of the points.
        y_top: upper end of the y axis, which begins at 0; by default above the points.
        mark: a point to be pointed out, x, y and a word.
    """
    figure = sheet(PAGE_COLUMN, 54)
    panel = figure.subplots()
    for index, (name, (x, y)) in enumerate(curves.items()):
        look = series(index)
        dot = "o" if len(x) == 1 else ""
        panel.plot(x, y, color=look.colour, linestyle=look.line, marker=dot, label=name)
    if mark:
        at, word = mark[:2], mark[2]
        panel.plot(*at, color=BLACK, marker="D", markersize=5, markerfacecolor="white")
        late = at[0] > 65  # no room to the right
        panel.annotate(
            word,
            at,
            xytext=(-5, 5) if late else (5, -10),
            textcoords="offset points",
            ha="right" if late else "left",
        )
    panel.set(xlabel=x_label, xlim=x_range)
    panel.set_ylim(min(0.0, *(float(np.min(y)) for _, y in curves.values())), y_top)
    panel.set_title(y_label, loc="left", fontsize=7)
    panel.spines["left"].set_visible(False)
    panel.tick_params(axis="y", length=0)
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    panel.grid(axis="y")
    if any(curves):
        legend = panel.legend(loc="center left", bbox_to_anchor=(1, 0.5), handlelength=2)
        for line in legend.get_texts():
            show_name(line, room=22)
    return figure
