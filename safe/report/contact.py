"""What does the model see of a clip, from its source frames to its attention?

A contact sheet: above, for one clip, its T frames with the box of the face; below, a row a clip,
its T faces, the windows' attention under the frames that each covers, and the probabilities.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from safe.errors import DataError
from safe.evaluation.compare import Estimate
from safe.evaluation.metrics import Floats
from safe.evaluation.predictions import Split
from safe.report.canvas import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LANE,
    NAMES,
    ONE_COLUMN,
    ORANGE,
    PALE,
    RED,
    TWO_COLUMNS,
    add_panel,
    bars_shown,
    check_models,
    class_name,
    lanes,
    save,
    series,
    sheet,
    show_chances,
    show_faces,
    show_name,
    show_windows,
    styled,
)
from safe.sample import DEFAULT_FRAMES
from safe.taxonomy import Classes

KINDS: Final = {
    "detected": (BLUE, "-"),
    "between looks": (GREEN, "-"),
    "interpolated": (ORANGE, "--"),
    "held": (RED, ":"),
    "no face": (RED, "-."),
    "whole frame": (BLUE, "-"),
}
"""Colour and line of a box by how it came about, as pipeline/view.py says it."""

WIDTH: Final = 220.0
"""mm of the sheet, 1732 pixels."""
_MARGIN, _GAP = 6.0, 2.0
_WIDE = WIDTH - 2 * _MARGIN
_IN_A_ROW = 8  # source frames
_TALLEST = 36.0  # mm of a source frame; those of a phone are upright
_HEAD, _TITLE = 11.0, 4.5
_STRIP, _BARS, _BAR = 168.0, 192.0, 22.0  # mm: width of faces beside bars; bars' left edge; width
_CHANCES = 25.0  # mm, height of the bars


@dataclass(frozen=True)
class Frames:
    """The source frames of one clip."""

    pixels: NDArray[np.uint8]
    """uint8 [T, h, w, 3], RGB."""
    boxes: Floats
    """[T, 4]: x0, y0, x1, y1 as shares of width and height; may reach beyond 0..1."""
    kinds: Sequence[str]
    """T keys of KINDS."""
    captions: Sequence[str]
    """T, a few words each."""


@dataclass(frozen=True)
class Said:
    """What one model said of a clip."""

    chances: Floats
    """[K], probabilities."""
    classes: Classes
    """K names."""
    attention: Floats | None = None
    """[N], weights of the windows; None: nothing is shown under the faces."""
    window: int = 0
    """Frames of a window."""
    stride: int = 0
    """Frames from one window to the next."""
    frames: int = DEFAULT_FRAMES
    """Frames of the clip."""


@dataclass(frozen=True)
class Row:
    """One clip, or what one more model said of it."""

    title: str
    faces: NDArray[np.uint8] | None
    """uint8 [T, S, S, 3], RGB; None is drawn grey."""
    label: int | None = None
    said: Said | None = None
    wrong: bool = False
    """Writes the title in red; it has to say so in words too."""

    @property
    def frames(self) -> int:
        """T: of the faces, or where there are none, of the clips that the model sees."""
        if self.faces is not None:
            return len(self.faces)
        return self.said.frames if self.said else DEFAULT_FRAMES


@styled
def contact_figure(
    title: str, note: str, rows: Sequence[Row], *, frames: Frames | None = None
) -> Figure:
    """Make a contact sheet.

    Args:
        title: in bold, above.
        note: a line of grey below it.
        rows: at least one, unless there are frames.
        frames: source frames, above the rows.

    Raises:
        DataError: if there is nothing to draw.
    """
    if not rows and frames is None:
        raise DataError(f"contact sheet: no clip to draw for {title}")
    beside = any(row.said for row in rows)
    strip = _STRIP if beside else _WIDE
    heights = [_height(row, strip) for row in rows]
    above = _frames_height(frames) if frames else 0.0
    figure = sheet(WIDTH, _HEAD + above + sum(heights) + (9 if beside else 2), layout="none")
    high = figure.get_figheight() * 25.4
    left = _MARGIN / WIDTH
    bars = {bars_shown(row.said.classes) for row in rows if row.said}
    note = " · ".join(filter(None, (note, *sorted(bars))))
    head = figure.text(left, 1 - 4 / high, title, fontsize=9, fontweight="bold", va="center")
    show_name(head, room=_WIDE / 2 if frames else _WIDE)  # beside what the boxes mean
    show_name(figure.text(left, 1 - 8 / high, note, color=GREY, va="center"), room=_WIDE)
    if frames:
        _show_frames(figure, frames)
    top, last = _HEAD + above, max((i for i, row in enumerate(rows) if row.said), default=-1)
    for place, (row, height) in enumerate(zip(rows, heights, strict=True)):
        _show_row(figure, row, top, strip, last=place == last)
        top += height
    return figure


def _height(row: Row, strip: float) -> float:
    """Return the mm that a row takes."""
    attends = row.said is not None and row.said.attention is not None
    windows = lanes(row.said.window, row.said.stride) * LANE + 1 if row.said and attends else 0
    return max(strip / row.frames + windows, _CHANCES if row.said else 0) + _TITLE + _GAP


def _frame_height(frames: Frames) -> float:
    """Return the mm that a source frame is high."""
    height, width = frames.pixels.shape[1:3]
    return float(min(_cell() * height / width, _TALLEST))


def _frames_height(frames: Frames) -> float:
    """Return the mm that all source frames take."""
    rows = -(-len(frames.pixels) // _IN_A_ROW)
    return rows * (_frame_height(frames) + _TITLE) + _GAP


def _cell() -> float:
    return (_WIDE - (_IN_A_ROW - 1) * _GAP) / _IN_A_ROW


def _show_frames(figure: Figure, frames: Frames) -> None:
    """Draw the source frames in rows, and above them what the boxes mean."""
    high = _frame_height(frames)
    for t, pixels in enumerate(frames.pixels):
        x = _MARGIN + t % _IN_A_ROW * (_cell() + _GAP)
        y = _HEAD + t // _IN_A_ROW * (high + _TITLE) + _TITLE
        panel = add_panel(figure, x, y, _cell(), high)
        height, width = pixels.shape[:2]
        panel.imshow(pixels, extent=(0, width, height, 0))
        panel.set_anchor("NW")  # a frame narrower than its cell stands below its caption
        panel.set(xlim=(0, width), ylim=(height, 0))
        x0, y0, x1, y1 = frames.boxes[t] * [width, height, width, height]
        colour, line = KINDS[frames.kinds[t]]
        for shade, thick in (("white", 2.2), (colour, 1.2)):  # seen on a ground of any colour
            panel.add_patch(
                Rectangle(
                    (x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=shade, linewidth=thick,
                    linestyle="-" if shade == "white" else line,
                )
            )  # fmt: skip
        panel.set_title(frames.captions[t], loc="left", fontsize=7, pad=2)
    kinds = [kind for kind in KINDS if kind in frames.kinds]
    handles = [
        Line2D([], [], color=KINDS[kind][0], linestyle=KINDS[kind][1], label=kind) for kind in kinds
    ]
    figure.legend(
        handles=handles,
        loc="upper right",
        bbox_to_anchor=(1 - _MARGIN / WIDTH, 1),
        ncols=len(kinds),
        handlelength=2.5,
    )


def _show_row(figure: Figure, row: Row, top: float, strip: float, *, last: bool) -> None:
    """Draw one row from `top`, mm from the upper edge."""
    high, top = strip / row.frames, top + _TITLE
    faces = add_panel(figure, _MARGIN, top, strip, high)
    show_faces(faces, row.faces, row.frames)
    colour = RED if row.wrong else BLACK
    title = faces.set_title(row.title, loc="left", fontsize=7, pad=3, color=colour)
    show_name(title, room=strip)
    said = row.said
    if said is None:
        return
    if said.attention is not None:
        deep = lanes(said.window, said.stride) * LANE
        panel = add_panel(figure, _MARGIN, top + high + 1, strip, deep)
        shades = said.attention / said.attention.max()
        show_windows(
            panel, said.attention, shades, window=said.window, stride=said.stride,
            frames=row.frames, colour=BLUE,
        )  # fmt: skip
    bars = add_panel(figure, _BARS, top - 1, _BAR, _CHANCES)
    show_chances(bars, [said.chances], said.classes, row.label, last=last)


# How do the rows of a table, or the values of a sweep, compare with one another and the paper?

UNITS = {"war": "%", "uar": "%", "nll": "nats"}
TableRow = Mapping[str, Estimate]
"""The estimate of each figure."""


def draw_rows(
    table: Mapping[str, TableRow], out: Path, *, units: Mapping[str, str] | None = None
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
    axes: Mapping[str, Mapping[float, TableRow]],
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
def rows_figure(table: Mapping[str, TableRow], *, units: Mapping[str, str] | None = None) -> Figure:
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
    axes: Mapping[str, Mapping[float, TableRow]],
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


# On which clips do two models differ most, and what did each of them look at?

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
