"""How do a clip's faces, its windows and its probabilities look side by side?

Panels that several figures share. The strip of T faces spans 0 to T on the x axis; frame t spans t
to t + 1.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from safe.figures.canvas import BLACK, GREY, PALE, class_name, series
from safe.metrics import Floats
from safe.taxonomy import Classes

LANE: Final = 3.2
"""mm, height of one row of windows."""

BARS: Final = 8
"""Classes whose probabilities fit below one another."""

_NAMED: Final = 17.0  # mm for the name of a class beside its bar


def add_panel(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes without ticks at a place in mm from the upper left corner of the figure."""
    wide, high = (inches * 25.4 for inches in figure.get_size_inches())
    axes = figure.add_axes((left / wide, 1 - (top + height) / high, width / wide, height / high))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return axes


def show_faces(panel: Axes, strip: NDArray[np.uint8] | None, frames: int) -> None:
    """Draw T = frames faces uint8 [T, S, S, 3] side by side; grey where there are none."""
    panel.set(xlim=(0, frames), ylim=(0, 1))
    if strip is None:
        panel.set_facecolor(PALE)
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
    shades: Floats,
    *,
    window: int,
    stride: int,
    frames: int,
    colour: str,
) -> None:
    """Draw each window as a box under its frames, the darker (shades, 0..1) the more attention."""
    rows = lanes(window, stride)
    panel.set(xlim=(0, frames), ylim=(rows, 0))
    for w, (weight, shade) in enumerate(zip(attention, shades, strict=True)):
        left, lane = w * stride, w % rows
        panel.add_patch(
            Rectangle(
                (left, lane),
                window,
                0.9,
                facecolor=(colour, 0.7 * shade),
                edgecolor=GREY,
                linewidth=0.5,
                clip_on=False,
            )
        )
        middle = (left + window / 2, lane + 0.48)
        panel.text(*middle, f"{100 * weight:.0f}", ha="center", va="center_baseline")


def bars_shown(classes: Classes) -> str:
    """Say of which classes show_chances has bars; nothing where of all."""
    return f"bars: the {BARS} likeliest of {len(classes)} classes" if len(classes) > BARS else ""


def show_chances(
    panel: Axes, chances: Sequence[Floats], classes: Classes, true: int | None, *, last: bool
) -> None:
    """Draw the models' probabilities of the K classes; the true one, if known, is bold on grey.

    Of more than BARS classes those that any of the models gives most, and the true one.
    """
    shown = np.arange(len(classes))
    if len(classes) > BARS:
        rank = np.max(chances, axis=0)
        if true is not None:
            rank[true] += 1  # it is among them
        shown = np.sort(np.argsort(-rank, kind="stable")[:BARS])
    places = np.arange(len(shown))
    height = 0.76 / len(chances)
    for index, chance in enumerate(chances):
        look = series(index)
        panel.barh(
            places + (index - (len(chances) - 1) / 2) * height,
            chance[shown],
            height=height,
            color=look.colour,
            hatch=look.hatch,
            edgecolor="white",
            linewidth=0,
        )
    panel.set(xlim=(0, 1), ylim=(len(shown) - 0.5, -0.5))
    panel.set_yticks(places, [class_name(classes[k], room=_NAMED) for k in shown])
    panel.tick_params(axis="y", length=0)
    if true is not None:
        place = int(np.flatnonzero(shown == true)[0])
        panel.axhspan(place - 0.5, place + 0.5, color=PALE, linewidth=0, zorder=0.5)
        panel.get_yticklabels()[place].set(fontweight="bold", color=BLACK)
    panel.set_xticks((0, 0.5, 1), ("0", "0.5", "1") if last else ("", "", ""))
    panel.spines[["left", "bottom"]].set_visible(True)
    if last:
        panel.set_xlabel("probability")
