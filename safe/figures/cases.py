"""On which clips do two models differ most, and what did each of them look at?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from safe.errors import DataError
from safe.figures.canvas import (
    GREY,
    TWO_COLUMNS,
    check_models,
    class_name,
    save,
    series,
    sheet,
    styled,
)
from safe.figures.strip import (
    LANE,
    add_panel,
    bars_shown,
    lanes,
    show_chances,
    show_faces,
    show_windows,
)
from safe.predictions import Split

STRIPS, STRIP = 17.0, 112.0
"""mm from the left edge to the strip of faces, and its width."""
BARS, BAR = 149.0, 28.0
"""mm from the left edge to the probabilities, and their width."""
_BOXES = "boxes: attention over the windows, in %, under the frames that each covers"


def choose_cases(a: Split, b: Split, count: int) -> list[int]:
    """Find the clips on which two models differ most about the true class.

    Half of them are where b gives it the higher probability (one more of an odd count), the others
    where a does; each half starts with the largest difference. Fewer, where a model is never ahead.

    Args:
        a: predictions of one model.
        b: predictions of the other, for the same clips.
        count: cases wanted, >= 0.

    Returns:
        Positions in the splits.

    Raises:
        DataError: if the models cannot be compared.
    """
    check_models({"the first model": a, "the second model": b})
    every = np.arange(len(a.label))
    ahead = b.probabilities[every, a.label] - a.probabilities[every, a.label]
    for_b = [int(i) for i in np.argsort(-ahead, kind="stable") if ahead[i] > 0]
    for_a = [int(i) for i in np.argsort(ahead, kind="stable") if ahead[i] < 0]
    return for_b[: count - count // 2] + for_a[: count // 2]


def draw_cases(
    names: tuple[str, str],
    a: Split,
    b: Split,
    rows: Sequence[int],
    strips: Mapping[str, NDArray[np.uint8]],
    out: Path,
    *,
    window: int,
    stride: int,
    frames: int,
) -> None:
    """Write one row a case: its faces, the windows' attention below them, the probabilities.

    A window is a box under the frames that it covers, w * stride to w * stride + window - 1, with
    its attention in percent; windows that overlap lie in lanes below one another.

    Args:
        names: what the two models are called.
        a: predictions of the first.
        b: predictions of the second, for the same clips.
        rows: the cases, positions in the splits, at least one.
        strips: clip to its faces, uint8 [T, S, S, 3], RGB; a clip without is drawn grey.
        out: .png, .svg or .pdf.
        window: frames of a window.
        stride: frames from one window to the next.
        frames: T, those of a clip.

    Raises:
        DataError: if the models cannot be compared, there is no case, the windows do not fit into
            T frames, or the suffix is another.
    """
    figure = cases_figure(names, a, b, rows, strips, window=window, stride=stride, frames=frames)
    save(figure, out)


@styled
def cases_figure(
    names: tuple[str, str],
    a: Split,
    b: Split,
    rows: Sequence[int],
    strips: Mapping[str, NDArray[np.uint8]],
    *,
    window: int,
    stride: int,
    frames: int,
) -> Figure:
    """Make the figure of draw_cases; a case has four axes: faces, two of windows, probabilities."""
    models = dict(zip(names, (a, b), strict=True))
    check_models(models)
    if not rows:
        raise DataError("cases: there is no clip to draw; the two models never differ")
    for name, split in models.items():
        if (split.attention.shape[1] - 1) * stride + window > frames:
            raise DataError(
                f"cases: {split.attention.shape[1]} windows of {window} frames, {stride} apart, in "
                f"{name!r} do not fit into {frames} frames; give the model's own window and stride"
            )
    rows_of_windows = lanes(window, stride)
    strongest = max(float(split.attention[list(rows)].max()) for split in models.values())
    face = STRIP / frames
    pitch = max(5 + face + 2 * (rows_of_windows * LANE + 1), 25) + 3
    top, bottom = 8.0, 6.0
    figure = sheet(TWO_COLUMNS, top + len(rows) * pitch + bottom, layout="none")
    for place, row in enumerate(rows):
        y = top + place * pitch + 5
        faces = add_panel(figure, STRIPS, y, STRIP, face)
        show_faces(faces, strips.get(a.clip[row]), frames)
        faces.set_title(_sentence(models, row), loc="left", fontsize=7, pad=3)
        y += face + 1
        for index, (name, split) in enumerate(models.items()):
            panel = add_panel(figure, STRIPS, y, STRIP, rows_of_windows * LANE)
            shades = split.attention[row] / strongest
            show_windows(
                panel, split.attention[row], shades, window=window, stride=stride,
                frames=frames, colour=series(index).colour,
            )  # fmt: skip
            panel.text(-0.2, rows_of_windows / 2, fill(name, 12), ha="right", va="center")
            y += rows_of_windows * LANE + 1
        bars = add_panel(figure, BARS, top + place * pitch + 2, BAR, 23)
        chances = [split.probabilities[row] for split in models.values()]
        show_chances(bars, chances, a.classes, int(a.label[row]), last=place == len(rows) - 1)
    handles = [
        Patch(facecolor=series(i).colour, hatch=series(i).hatch, edgecolor="white", label=name)
        for i, name in enumerate(names)
    ]
    figure.legend(handles=handles, loc="upper right", ncols=2, borderaxespad=0.2)
    figure.text(
        STRIPS / TWO_COLUMNS,
        1 - 3.4 / (figure.get_figheight() * 25.4),
        "; ".join(filter(None, (_BOXES, bars_shown(a.classes)))),
        va="center",
        color=GREY,
    )
    return figure


def _sentence(models: Mapping[str, Split], row: int) -> str:
    """Say what the clip is and what each model says."""
    split = next(iter(models.values()))
    names, true = [class_name(name) for name in split.classes], int(split.label[row])
    said = ", ".join(
        f"{name} {each.probabilities[row, true]:.2f} (says {names[each.predicted[row]]})"
        for name, each in models.items()
    )
    return f"{split.clip[row]}, {names[true]}. Probability of {names[true]}: {said}"
