"""Pictures of clips, from their source frames to what a model attends to and says.

A contact sheet: above, for one clip, its T frames with the box of the face; below, a row a clip,
its T faces, the windows' attention under the frames that each covers, and the probabilities. Cases:
the same of clips on which two models differ. The strip of T faces spans 0 to T on the x axis; frame
t spans t to t + 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from safe.errors import DataError
from safe.evaluation.metrics import Floats
from safe.evaluation.predictions import Split
from safe.report.canvas import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    MM,
    ORANGE,
    PALE,
    RED,
    TWO_COLUMNS,
    add_panel,
    check_models,
    class_name,
    series,
    sheet,
    show_name,
    styled,
)
from safe.sample import DEFAULT_FRAMES
from safe.taxonomy import Classes

# Contact sheet

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
_CELL = (_WIDE - (_IN_A_ROW - 1) * _GAP) / _IN_A_ROW
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
    """Draw a contact sheet.

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
    above = 0.0
    if frames:
        above = -(-len(frames.pixels) // _IN_A_ROW) * (_frame_height(frames) + _TITLE) + _GAP
    figure = sheet(WIDTH, _HEAD + above + sum(heights) + (9 if beside else 2), layout="none")
    high = figure.get_figheight() / MM
    left = _MARGIN / WIDTH
    bars = {bars_shown(row.said.classes) for row in rows if row.said}
    note = " · ".join(filter(None, (note, *sorted(bars))))
    head = figure.text(left, 1 - 4 / high, title, fontsize=9, fontweight="bold", va="center")
    show_name(head, room=_WIDE / 2 if frames else _WIDE)  # beside what the boxes mean
    show_name(figure.text(left, 1 - 8 / high, note, color=GREY, va="center"), room=_WIDE)
    if frames:
        _show_frames(figure, frames)
    top, last = _HEAD + above, max((i for i, row in enumerate(rows) if row.said), default=-1)
    for position, (row, height) in enumerate(zip(rows, heights, strict=True)):
        _show_row(figure, row, top, strip, last=position == last)
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
    return float(min(_CELL * height / width, _TALLEST))


def _show_frames(figure: Figure, frames: Frames) -> None:
    """Draw the source frames in rows, and above them what the boxes mean."""
    high = _frame_height(frames)
    for t, pixels in enumerate(frames.pixels):
        x = _MARGIN + t % _IN_A_ROW * (_CELL + _GAP)
        y = _HEAD + t // _IN_A_ROW * (high + _TITLE) + _TITLE
        panel = add_panel(figure, x, y, _CELL, high)
        height, width = pixels.shape[:2]
        panel.imshow(pixels, extent=(0, width, height, 0))
        panel.set_anchor("NW")  # a frame narrower than its cell stands below its caption
        panel.set(xlim=(0, width), ylim=(height, 0))
        x0, y0, x1, y1 = frames.boxes[t] * [width, height, width, height]
        colour, line = KINDS[frames.kinds[t]]
        box = {"fill": False, "width": x1 - x0, "height": y1 - y0}
        for look in (
            {"edgecolor": "white", "linewidth": 2.2},  # seen on a ground of any colour
            {"edgecolor": colour, "linewidth": 1.2, "linestyle": line},
        ):
            panel.add_patch(Rectangle((x0, y0), **box | look))
        panel.set_title(frames.captions[t], loc="left", fontsize=7, pad=2)
    kinds = [kind for kind in KINDS if kind in frames.kinds]
    figure.legend(
        handles=[
            Line2D([], [], color=KINDS[kind][0], linestyle=KINDS[kind][1], label=kind)
            for kind in kinds
        ],
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
        show_windows(panel, said.attention, said.window, said.stride, row.frames)
    bars = add_panel(figure, _BARS, top - 1, _BAR, _CHANCES)
    show_chances(bars, [said.chances], said.classes, row.label)
    show_axis(bars, last=last)


# Cases

_LEFT, _FACES = 17.0, 112.0  # mm: left edge and width of the strip of faces
_RIGHT, _SAID = 149.0, 28.0  # mm: left edge and width of the probabilities
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


@styled
def cases_figure(
    models: Mapping[str, Split],
    rows: Sequence[int],
    strips: Mapping[str, NDArray[np.uint8]],
    *,
    window: int,
    stride: int,
    frames: int,
) -> Figure:
    """Draw one row a case: its faces, the windows' attention of two models, the probabilities.

    Args:
        models: name to predictions, two, for the same clips.
        rows: the cases, positions in the splits, at least one.
        strips: clip to its faces, uint8 [T, S, S, 3], RGB; a clip without is drawn grey.
        window: frames of a window.
        stride: frames from one window to the next.
        frames: T, those of a clip.

    Returns:
        The figure; a case has four axes: faces, two of windows, probabilities.

    Raises:
        DataError: if the models cannot be compared, there is no case, or the windows do not fit
            into T frames.
    """
    check_models(models)
    if not rows:
        raise DataError("cases: there is no clip to draw; the two models never differ")
    for name, split in models.items():
        if (split.attention.shape[1] - 1) * stride + window > frames:
            raise DataError(
                f"cases: {split.attention.shape[1]} windows of {window} frames, {stride} apart, in "
                f"{name!r} do not fit into {frames} frames; give the model's own window and stride"
            )
    first = next(iter(models.values()))
    deep = lanes(window, stride) * LANE
    strongest = max(float(split.attention[list(rows)].max()) for split in models.values())
    face = _FACES / frames
    pitch = max(5 + face + 2 * (deep + 1), 25) + 3
    figure = sheet(TWO_COLUMNS, 8 + len(rows) * pitch + 6, layout="none")
    for position, row in enumerate(rows):
        top = 8 + position * pitch
        faces = add_panel(figure, _LEFT, top + 5, _FACES, face)
        show_faces(faces, strips.get(first.clip[row]), frames)
        faces.set_title(_sentence(models, row), loc="left", fontsize=7, pad=3)
        for index, (name, split) in enumerate(models.items()):
            y = top + 5 + face + 1 + index * (deep + 1)
            panel = add_panel(figure, _LEFT, y, _FACES, deep)
            show_windows(
                panel, split.attention[row], window, stride, frames,
                strongest=strongest, colour=series(index).colour,
            )  # fmt: skip
            panel.text(-0.2, deep / LANE / 2, fill(name, 12), ha="right", va="center")
        bars = add_panel(figure, _RIGHT, top + 2, _SAID, 23)
        chances = [split.probabilities[row] for split in models.values()]
        show_chances(bars, chances, first.classes, int(first.label[row]))
        show_axis(bars, last=position == len(rows) - 1)
    looks = map(series, range(len(models)))
    handles = [
        Patch(facecolor=look.colour, hatch=look.hatch, edgecolor="white", label=name)
        for look, name in zip(looks, models, strict=True)
    ]
    figure.legend(handles=handles, loc="upper right", ncols=2, borderaxespad=0.2)
    told = "; ".join(filter(None, (_BOXES, bars_shown(first.classes))))
    high = figure.get_figheight() / MM
    figure.text(_LEFT / TWO_COLUMNS, 1 - 3.4 / high, told, va="center", color=GREY)
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


# Their parts, of which the page shows two beside its words

LANE: Final = 3.2
"""mm, height of one row of windows."""

BARS: Final = 8
"""Classes whose probabilities fit below one another."""

_NAMED: Final = 17.0  # mm for the name of a class beside its bar


def show_faces(panel: Axes, strip: NDArray[np.uint8] | None, frames: int) -> None:
    """Draw T = frames faces uint8 [T, S, S, 3] side by side; grey where there are none."""
    panel.set(xlim=(0, frames), ylim=(0, 1))
    if strip is None:
        panel.add_patch(Rectangle((0, 0), frames, 1, color=PALE))
        panel.text(frames / 2, 0.5, "faces missing", ha="center", va="center", color=GREY)
        return
    panel.imshow(np.concatenate(list(strip), axis=1), extent=(0, frames, 0, 1), aspect="auto")


def lanes(window: int, stride: int) -> int:
    """Return in how many rows windows lie that do not overlap in one."""
    return -(-window // stride)


def show_windows(
    panel: Axes,
    attention: Floats,
    window: int,
    stride: int,
    frames: int,
    *,
    strongest: float | None = None,
    colour: str = BLUE,
) -> None:
    """Draw each window [N] as a box under its frames, the darker the more attention, in percent.

    Window w covers frames w * stride to w * stride + window - 1; those that overlap lie in lanes
    below one another. The darkest box is that of the attention `strongest`, by default the most
    here.
    """
    rows = lanes(window, stride)
    panel.set(xlim=(0, frames), ylim=(rows, 0))
    for w, weight in enumerate(attention):
        depth, ink = shade(weight / (strongest or attention.max()))
        left, lane = w * stride, w % rows
        box = Rectangle((left, lane), window, 0.9, facecolor=(colour, depth), clip_on=False)
        box.set(edgecolor=GREY, linewidth=0.5)
        panel.add_patch(box)
        told = panel.text(left + window / 2, lane + 0.48, f"{100 * weight:.0f}", color=ink)
        told.set(ha="center", va="center_baseline")


def shade(share: float) -> tuple[float, str]:
    """Return the opacity of a box by its share 0..1 of the most, and the ink of words in it.

    None is between a third and 0.86, where neither black nor white is readable enough.
    """
    return (0.66 * share, BLACK) if share <= 0.5 else (0.86 + 0.14 * share, "white")


def bars_shown(classes: Classes) -> str:
    """Say of which classes show_chances has bars; nothing where of all."""
    return f"bars: the {BARS} likeliest of {len(classes)} classes" if len(classes) > BARS else ""


def show_chances(
    panel: Axes,
    chances: Sequence[Floats],
    classes: Classes,
    true: int | None,
    *,
    most: int = BARS,
) -> list[int]:
    """Draw the models' probabilities [K] each; the true class, if known, is bold on grey.

    Of more than `most` classes those that any of the models gives most, and the true one.

    Returns:
        The classes that have bars, from above.
    """
    shown = np.arange(len(classes))
    if len(classes) > most:
        rank = np.max(chances, axis=0)
        if true is not None:
            rank[true] += 1  # it is among them
        shown = np.sort(np.argsort(-rank, kind="stable")[:most])
    positions = np.arange(len(shown))
    height = 0.76 / len(chances)
    for index, chance in enumerate(chances):
        look = series(index)
        panel.barh(
            positions + (index - (len(chances) - 1) / 2) * height,
            chance[shown],
            height=height,
            color=look.colour,
            hatch=look.hatch,
            edgecolor="white",
            linewidth=0,
        )
    panel.set(xlim=(0, 1), ylim=(len(shown) - 0.5, -0.5))
    panel.set_yticks(positions, [class_name(classes[k], room=_NAMED) for k in shown])
    panel.tick_params(axis="y", length=0)
    if true is not None:
        position = int(np.flatnonzero(shown == true)[0])
        panel.axhspan(position - 0.5, position + 0.5, color=PALE, linewidth=0, zorder=0.5)
        panel.get_yticklabels()[position].set(fontweight="bold", color=BLACK)
    return [int(k) for k in shown]


def show_axis(panel: Axes, *, last: bool) -> None:
    """Draw the axes of bars, with numbers below the last ones."""
    panel.set_xticks((0, 0.5, 1), ("0", "0.5", "1") if last else ("", "", ""))
    panel.spines[["left", "bottom"]].set_visible(True)
    if last:
        panel.set_xlabel("probability")


@styled
def windows_strip(attention: Floats, window: int, stride: int, frames: int) -> Figure:
    """Draw attention [N] for the page, to lie under a strip of faces of its width."""
    deep = lanes(window, stride) * LANE
    figure = sheet(158, deep, layout="none")
    show_windows(add_panel(figure, 0, 0, 158, deep), attention, window, stride, frames)
    return figure


@styled
def chances_column(
    chances: Floats, classes: Classes, true: int, inside: NDArray[np.bool_], *, most: int
) -> Figure:
    """Draw probabilities [K] for the page, in percent; classes outside the set [K] are pale."""
    rows = min(len(classes), most)
    figure = sheet(49, 3.5 * rows, layout="none")
    panel = add_panel(figure, _NAMED + 2, 0, 22, 3.5 * rows)
    shown = show_chances(panel, [chances], classes, true, most=most)
    for position, (k, bar) in enumerate(zip(shown, panel.patches, strict=False)):
        if not inside[k]:
            bar.set(color=GREY, alpha=0.45)
        panel.text(chances[k] + 0.05, position, f"{100 * chances[k]:.0f} %", va="center_baseline")
    return figure
