"""Which expression is taken for which?"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from safe.errors import DataError
from safe.figures.canvas import ONE_COLUMN, PALE, TWO_COLUMNS, save, sheet, styled
from safe.labels import CLASSES, K
from safe.metrics import Ints, confusion, uar, war
from safe.predictions import Split


def draw_confusion(parts: Mapping[str, Split], out: Path) -> None:
    """Write one confusion matrix a part (a fold), and of several a last one of all their clips.

    A row is a true class and sums to 100 %; its number of clips stands at its end. A class without
    clips is a grey row.

    Args:
        parts: name to predictions.
        out: .png, .svg or .pdf.

    Raises:
        DataError: if there is no part, or the suffix is another.
    """
    save(confusion_figure(parts), out)


@styled
def confusion_figure(parts: Mapping[str, Split]) -> Figure:
    """Make the figure of draw_confusion; its axes are the matrices in order."""
    if not parts:
        raise DataError("confusion: there is no part to draw; give at least one fold")
    matrices = {name: confusion(part.label, part.predicted) for name, part in parts.items()}
    if len(matrices) > 1:
        matrices["pooled"] = np.asarray(sum(matrices.values()))
    columns = min(3, len(matrices))
    lines = -(-len(matrices) // columns)
    width = ONE_COLUMN if columns == 1 else TWO_COLUMNS
    side = (width - 18) / columns - 11  # what names and numbers leave of the width for a matrix
    figure = sheet(width, lines * (side + 6) + 22)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for index, (name, matrix) in enumerate(matrices.items()):
        _matrix(panels[index], matrix)
        panels[index].set_title(
            f"{name}: WAR {100 * war(matrix):.2f}, UAR {100 * uar(matrix):.2f}", fontsize=7
        )
        panels[index].set_yticks(range(K), CLASSES if index % columns == 0 else [""] * K)
        bottom = index + columns >= len(matrices)
        panels[index].set_xticks(range(K), CLASSES if bottom else [""] * K, rotation=90)
    for empty in panels[len(matrices) :]:
        empty.remove()
    figure.supylabel("true class", fontsize=7)
    figure.supxlabel("predicted class; cells in % of the row", fontsize=7)
    return figure


def _matrix(panel: Axes, matrix: Ints) -> None:
    """Draw one matrix, int [K, K], with percentages and the clips of each row."""
    clips = matrix.sum(axis=1)
    share = np.full(matrix.shape, np.nan)
    np.divide(100 * matrix, clips[:, None], out=share, where=clips[:, None] > 0)
    panel.set_facecolor(PALE)
    panel.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for true in range(K):
        panel.text(K - 0.35, true, f"n {clips[true]}", va="center")
        for predicted in range(K):
            if clips[true]:
                value = share[true, predicted]
                ink = "white" if value > 55 else "black"
                cell = panel.text(predicted, true, f"{value:.0f}", ha="center", va="center")
                cell.set(color=ink, in_layout=False)  # it lies inside the panel: nothing to lay out
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)
