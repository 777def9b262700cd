"""How do a clip's 16 faces, its windows and its probabilities look side by side?

Panels that several figures share. A strip spans 0 to 16 on the x axis; frame t spans t to t + 1.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from safe.figures.canvas import BLACK, GREY, PALE, series
from safe.labels import CLASSES, K
from safe.metrics import Floats
from safe.sample import FRAMES

LANE: Final = 3.2
"""mm, height of one row of windows."""


def add_panel(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes without ticks at a place in mm from the upper left corner of the figure."""
    wide, high = (inches * 25.4 for inches in figure.get_size_inches())
    axes = figure.add_axes((left / wide, 1 - (top + height) / high, width / wide, height / high))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return axes


def show_faces(panel: Axes, strip: NDArray[np.uint8] | None) -> None:
    """Draw the faces uint8 [16, S, S, 3] side by side; grey where there are none."""
    panel.set(xlim=(0, FRAMES), ylim=(0, 1))
    if strip is None:
        panel.set_facecolor(PALE)
        panel.add_patch(Rectangle((0, 0), FRAMES, 1, color=PALE))
        panel.text(FRAMES / 2, 0.5, "faces missing", ha="center", va="center", color=GREY)
        return
    panel.imshow(np.concatenate(list(strip), axis=1), extent=(0, FRAMES, 0, 1), aspect="auto")


def lanes(window: int, stride: int) -> int:
    """Return in how many rows windows lie that do not overlap in one."""
    return -(-window // stride)


def show_windows(
    panel: Axes, attention: Floats, shades: Floats, window: int, stride: int, colour: str
) -> None:
    """Draw each window as a box under its frames, the darker (shades, 0..1) the more attention."""
    rows = lanes(window, stride)
    panel.set(xlim=(0, FRAMES), ylim=(rows, 0))
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


def show_chances(panel: Axes, chances: Sequence[Floats], true: int | None, *, last: bool) -> None:
    """Draw the models' probabilities of the K classes; the true one, if known, is bold on grey."""
    if true is not None:
        panel.axhspan(true - 0.5, true + 0.5, color=PALE, linewidth=0)
    height = 0.76 / len(chances)
    for index, chance in enumerate(chances):
        look = series(index)
        panel.barh(
            np.arange(K) + (index - (len(chances) - 1) / 2) * height,
            chance,
            height=height,
            color=look.colour,
            hatch=look.hatch,
            edgecolor="white",
            linewidth=0,
        )
    panel.set(xlim=(0, 1), ylim=(K - 0.5, -0.5))
    panel.set_yticks(range(K), CLASSES)
    panel.tick_params(axis="y", length=0)
    if true is not None:
        panel.get_yticklabels()[true].set(fontweight="bold", color=BLACK)
    panel.set_xticks((0, 0.5, 1), ("0", "0.5", "1") if last else ("", "", ""))
    panel.spines[["left", "bottom"]].set_visible(True)
    if last:
        panel.set_xlabel("probability")
