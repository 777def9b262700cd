"""Which expression is taken for which?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from safe.errors import DataError
from safe.figures.canvas import (
    MANY,
    ONE_COLUMN,
    PALE,
    TWO_COLUMNS,
    class_name,
    save,
    sheet,
    styled,
    text_width,
)
from safe.metrics import Ints, confusion, uar, uar_name, war
from safe.predictions import Split, pool

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
