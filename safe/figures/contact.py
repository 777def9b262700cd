"""What does the model see of a clip, from its source frames to its attention?

A contact sheet: above, for one clip, its T frames with the box of the face; below, a row a clip,
its T faces, the windows' attention under the frames that each covers, and the probabilities.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from safe.errors import DataError
from safe.figures.canvas import BLACK, BLUE, GREEN, GREY, ORANGE, RED, sheet, show_name, styled
from safe.figures.strip import (
    LANE,
    add_panel,
    bars_shown,
    lanes,
    show_chances,
    show_faces,
    show_windows,
)
from safe.metrics import Floats
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
