"""The timeline of a video: what a model said of each face, from the first second to the last.

One band a face: the probabilities of the classes stacked over time, the decisions above, what was
wrong with the pictures below. Hatched where the model abstained, blank where there was no face.
Each instant belongs to the window whose middle is nearest, no further than half a window.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mode
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from safe.errors import DataError
from safe.evaluation.answers import Answer
from safe.evaluation.metrics import Floats
from safe.report.canvas import (
    BLACK,
    GREY,
    MANY,
    MM,
    PALE,
    TWO_COLUMNS,
    add_panel,
    class_areas,
    class_name,
    legend_columns,
    save,
    sheet,
    show_name,
    styled,
)
from safe.taxonomy import ABSTAIN, Classes

MOST_FACES: Final = 8
"""Bands of one picture: those of the faces that were seen longest."""
POINTS: Final = 240
"""Columns over the whole width; of a longer video neighbouring windows are averaged."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 29.0, 20.0, 12.0, 14.5  # mm around the bands; one line of legend
_LINE = 3.8  # mm, each further line of it
_WORDS, _BAND, _LANE, _APART = 4.0, 17.0, 2.8, 3.5  # mm: decisions, probabilities, a flag, a gap
_WIDTH = TWO_COLUMNS - _LEFT - _RIGHT
_LETTER = 1.45  # mm, mean width of a letter at 7 points
_LEAST = 0.05  # probability that is seen
_SECONDS = partial(MaxNLocator, 10, steps=[1, 2, 5, 6, 10])
_ORDER = ("small", "blurred", "dark", "partly missing", "face lost", "cut")  # others after them


@dataclass
class Band:
    """What the timeline keeps of one face: numbers and one small picture."""

    picture: NDArray[np.uint8] | None = None
    """uint8 [S, S, 3], RGB."""
    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    chances: list[tuple[float, ...]] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)
    flags: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, answer: Answer) -> None:
        """Keep one answer, which is no gap; to be called in the order of time."""
        if answer.verdict is None:
            raise ValueError("a gap belongs to no face")
        self.starts.append(answer.start)
        self.ends.append(answer.end)
        self.chances.append(answer.verdict.probabilities)
        self.decisions.append(answer.verdict.decision)
        self.flags.append(answer.flags)

    @property
    def seconds(self) -> float:
        """How long the face was seen."""
        lefts, rights = self.spans()
        return float((rights - lefts).sum())

    def spans(self) -> tuple[Floats, Floats]:
        """Return the stretch [n] that each window stands for: up to half way to the next middle.

        At the ends of a face, and where the next window begins after this one ended, the window
        stands for all of its own time on that side.
        """
        starts, ends = np.array(self.starts), np.array(self.ends)
        middles = (starts + ends) / 2
        between = (middles[:-1] + middles[1:]) / 2
        joined = starts[1:] <= ends[:-1]
        return (
            np.append(starts[:1], np.where(joined, between, starts[1:])),
            np.append(np.where(joined, between, ends[:-1]), ends[-1:]),
        )


def draw_timeline(
    bands: dict[int, Band], out: Path, *, classes: Classes, title: str, note: str, seconds: float
) -> None:
    """Write timeline_figure to a file."""
    figure = timeline_figure(bands, classes=classes, title=title, note=note, seconds=seconds)
    save(figure, out)


@styled
def timeline_figure(
    bands: dict[int, Band], *, classes: Classes, title: str, note: str, seconds: float
) -> Figure:
    """Draw the timeline of a video.

    Of more than MANY classes those that are never likely are drawn as one, grey.

    Args:
        bands: number of a face to its band.
        classes: K names.
        title: name of the video.
        note: a line below it, such as which model.
        seconds: length of the video.

    Returns:
        The figure; a face has two axes, its picture and its band.

    Raises:
        DataError: if there is no face.
    """
    longest = sorted(bands, key=lambda face: (-bands[face].seconds, face))
    shown = sorted(longest[:MOST_FACES])
    if not shown:
        raise DataError("timeline: there is no face to draw")
    end = max([seconds, *(bands[face].ends[-1] for face in shown)])
    parts = {face: _columns(bands[face], end) for face in shown}
    lanes = {face: _lanes(parts[face].flags) for face in shown}
    likely = _likely(parts.values())
    looks = [list(class_areas(classes).values())[k] for k in likely]
    legend = [
        Patch(**look, lw=0, label=class_name(classes[k]))
        for k, look in zip(likely, looks, strict=True)
    ]
    if len(likely) < len(classes):
        legend.append(Patch(color=PALE, label=f"{len(classes) - len(likely)} others"))
    legend.append(
        Patch(facecolor="#B0B0B0", edgecolor="white", hatch="//////", lw=0, label=ABSTAIN)
    )
    columns = legend_columns([str(patch.get_label()) for patch in legend], TWO_COLUMNS - 8)
    bottom = _BOTTOM + _LINE * (-(-len(legend) // columns) - 1)
    heights = [_WORDS + _BAND + _LANE * len(lanes[face]) + _APART for face in shown]
    figure = sheet(TWO_COLUMNS, _TOP + sum(heights) + bottom, layout="none")
    _write(figure, title, note, hidden=len(bands) - len(shown))
    top = _TOP
    for face, height in zip(shown, heights, strict=True):
        _portrait(add_panel(figure, 4, top + _WORDS, _BAND, _BAND), bands[face].picture, face)
        band = add_panel(figure, _LEFT, top + _WORDS, _WIDTH, _BAND)
        _stack(band, parts[face], dict(zip(likely, looks, strict=True)), end)
        _decisions(band, parts[face], end)
        for lane, name in enumerate(lanes[face]):
            y = top + _WORDS + _BAND + lane * _LANE
            _lane(add_panel(figure, _LEFT, y + 0.6, _WIDTH, _LANE - 0.9), parts[face], name, end)
        top += height
    axis = add_panel(figure, _LEFT, top - _APART + 1.2, _WIDTH, 0.01)
    axis.spines["bottom"].set_visible(True)
    axis.set(xlim=(0, end), xlabel="seconds")
    axis.xaxis.set_major_locator(_SECONDS())
    figure.legend(
        handles=legend,
        loc="lower center",
        ncols=columns,
        handlelength=1.4,
        columnspacing=1.4,
        bbox_to_anchor=(0.5, 1.5 * MM / figure.get_figheight()),
        borderaxespad=0,
    )
    return figure


@dataclass(frozen=True)
class _Columns:
    """What is drawn of a band: stretches in the order of time."""

    lefts: Floats
    rights: Floats
    chances: Floats  # [n, K]
    decisions: list[str]  # of the most windows in the column
    flags: list[set[str]]  # of any of them


def _lanes(flags: list[set[str]]) -> list[str]:
    """Return all flags of a face, those of _ORDER first."""
    there = set().union(*flags)
    return [flag for flag in _ORDER if flag in there] + sorted(there.difference(_ORDER))


def _likely(parts: Iterable[_Columns]) -> list[int]:
    """Return the classes that have an area of their own: of many, those that ever reach _LEAST."""
    highest = np.max([part.chances.max(axis=0) for part in parts], axis=0)
    return [k for k, most in enumerate(highest) if most >= _LEAST or len(highest) <= MANY]


def _columns(band: Band, end: float) -> _Columns:
    """Average neighbouring windows until a column is wide enough; never across a blank.

    A blank of less than half such a column could not be seen, and is closed.
    """
    least = end / POINTS
    lefts, rights = band.spans()
    rights[:-1] = np.where(lefts[1:] - rights[:-1] < least / 2, lefts[1:], rights[:-1])
    blank = np.flatnonzero(lefts[1:] > rights[:-1]) + 1
    count = max(1, round(least / float(np.median(rights - lefts))))
    runs = np.split(np.arange(len(lefts)), blank)
    groups = [run[i : i + count] for run in runs for i in range(0, len(run), count)]
    chances = np.array(band.chances)
    return _Columns(
        lefts=np.array([lefts[group[0]] for group in groups]),
        rights=np.array([rights[group[-1]] for group in groups]),
        chances=np.array([chances[group].mean(axis=0) for group in groups]),
        decisions=[mode([band.decisions[i] for i in group]) for group in groups],
        flags=[{flag for i in group for flag in band.flags[i]} for group in groups],
    )


def _runs(values: Sequence[object], part: _Columns) -> list[tuple[float, float, int]]:
    """Join neighbouring columns of one value: left, right and the first column of each run."""
    found: list[tuple[float, float, int]] = []
    for i, value in enumerate(values):
        if found and values[i - 1] == value and part.lefts[i] == part.rights[i - 1]:
            left, _, first = found[-1]
            found[-1] = (left, float(part.rights[i]), first)
        else:
            found.append((float(part.lefts[i]), float(part.rights[i]), i))
    return found


def _stack(panel: Axes, part: _Columns, looks: dict[int, dict[str, Any]], end: float) -> None:
    """Draw the probabilities as steps, a blank where there is none, hatched where undecided."""
    panel.set(xlim=(0, end), ylim=(0, 1))
    blank = np.flatnonzero(part.lefts[1:] > part.rights[:-1]) + 1
    edges = np.append(np.insert(part.lefts, blank, part.rights[blank - 1]), part.rights[-1])
    chances = np.insert(part.chances, blank, np.nan, axis=0)
    below = np.zeros(len(chances))
    for k, look in looks.items():
        above = below + chances[:, k]
        panel.stairs(above, edges, baseline=below, fill=True, linewidth=0, **look)
        below = above
    if len(looks) < chances.shape[1]:
        whole = chances.sum(axis=1)
        panel.stairs(whole, edges, baseline=below, fill=True, linewidth=0, color=PALE)
    for left, right, first in _runs(part.decisions, part):
        if part.decisions[first] == ABSTAIN:
            look = {"facecolor": (1, 1, 1, 0.45), "edgecolor": "white", "hatch": "//////", "lw": 0}
            panel.add_patch(Rectangle((left, 0), right - left, 1, **look))
    panel.set_yticks((0, 0.5, 1), ("0", "0.5", "1"))
    panel.xaxis.set_major_locator(_SECONDS())
    panel.tick_params(axis="x", length=0, labelbottom=False)
    panel.set_axisbelow(True)
    panel.grid(axis="x", color=PALE, linewidth=0.6)
    panel.spines["left"].set_visible(True)


def _decisions(panel: Axes, part: _Columns, end: float) -> None:
    """Write each run's decision above it, where there is room for the word."""
    for left, right, first in _runs(part.decisions, part):
        word = class_name(part.decisions[first])
        if (right - left) / end * _WIDTH > _LETTER * len(word):
            grey = GREY if word == ABSTAIN else BLACK
            panel.text((left + right) / 2, 1.06, word, ha="center", va="bottom", color=grey)


def _lane(panel: Axes, part: _Columns, flag: str, end: float) -> None:
    """Mark the times with a flag; its name is at the right."""
    panel.set(xlim=(0, end), ylim=(0, 1))
    held = [flag in flags for flags in part.flags]
    for left, right, first in _runs(held, part):
        colour = GREY if held[first] else PALE
        panel.add_patch(Rectangle((left, 0), right - left, 1, color=colour, linewidth=0))
    panel.text(1.01, 0.5, flag, transform=panel.transAxes, va="center", color=GREY)


def _portrait(panel: Axes, picture: NDArray[np.uint8] | None, face: int) -> None:
    if picture is not None:
        panel.imshow(picture, interpolation="lanczos")
    panel.set_title(f"face {face}", fontsize=7, pad=2)


def _write(figure: Figure, title: str, note: str, *, hidden: int) -> None:
    """Write the title above, and how many faces have no band."""
    full = figure.get_figheight() / MM
    more = f"; {hidden} more face{'s' * (hidden > 1)}, seen for less time" if hidden else ""
    head = figure.text(4 / TWO_COLUMNS, 1 - 4 / full, title, va="center", fontsize=8, weight="bold")
    line = figure.text(4 / TWO_COLUMNS, 1 - 8 / full, note + more, va="center", color=GREY)
    for text in (head, line):
        show_name(text, room=TWO_COLUMNS - 8)
