"""How does every figure look, and how does it become a file whose bytes are always the same?

Sizes are millimetres on paper: one column of a paper is 88 wide, two are 180. No text is under 7
points. Colours are those of Okabe and Ito, which colour-blind readers tell apart; a marker, line
style or hatch goes with each, so that a print in grey says the same.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import matplotlib
import matplotlib.style  # also makes `matplotlib.style.context` known
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray

from safe.errors import DataError, as_utf8
from safe.evaluation.metrics import Floats
from safe.evaluation.predictions import Split
from safe.files import whole_file
from safe.taxonomy import BASIC, Classes

ONE_COLUMN: Final = 88.0
TWO_COLUMNS: Final = 180.0
MM: Final = 1 / 25.4
"""Inches, matplotlib's unit of length, in a millimetre."""

BLUE, RED, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, BLACK, GREY, PALE = "#56B4E9", "#CC79A7", "#000000", "#767676", "#E6E6E6"


class Look(NamedTuple):
    """What tells one series from the next, in colour and without."""

    colour: str
    marker: str
    line: str | tuple[int, tuple[int, ...]]
    hatch: str


SERIES: Final = (
    Look(BLUE, "o", "-", ""),
    Look(RED, "s", "--", "/////"),
    Look(GREEN, "^", "-.", "....."),
    Look(PURPLE, "D", ":", "xxxxx"),
    Look(ORANGE, "v", (0, (5, 1, 1, 1, 1, 1)), "-----"),
)
"""The models of a figure, in order; a sixth looks like the first."""

_BASIC_LOOKS: Final = dict(
    zip(
        BASIC,
        zip((ORANGE, BLUE, BLACK, RED, SKY, GREEN, PURPLE), "ov+s^Dx", strict=True),
        strict=True,
    )
)
"""Colour and marker of each of the basic seven."""

_OTHERS: Final = (
    *("#3322AA", "#AADD88", "#882255", "#6677FF"),
    *("#554400", "#44DDAA", "#776633", "#225544"),
)
"""Colours of other classes: far from those above and from one another, to the colour-blind too."""

_MARKERS: Final = "PX<>*pdhos^vD"
_HATCHES: Final = (
    *("", "....", "xxxx", "----", "||||", "++++", "oooo", r"\\\\"),
    *("..--", "..||", "xx..", "oo--", "OO"),
)
"""Of areas: one for each time that the colours begin anew."""

MANY: Final = 20
"""Classes beyond which a figure leaves out what would not be readable of each."""

NAMES: Final = {"war": "WAR", "uar": "UAR", "ece": "ECE", "nll": "NLL", "brier": "Brier score"}
"""How the figures of metrics.py are written."""

_FAMILY: Final = "DejaVu Sans"
"""The one typeface that comes with matplotlib, so is everywhere."""

_MORE: Final = ("noto_cjk_sans_jp_regular", "NotoSansCJKjp-Regular.otf")
"""A package, and its font for the letters of Chinese, Japanese and Korean."""

STYLE: Final = {
    "font.family": _FAMILY,
    "font.size": 7,
    "axes.titlesize": 8,
    "axes.labelsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "hatch.linewidth": 0.5,
    "pdf.fonttype": 42,  # text stays text
    "svg.hashsalt": "safe",  # names of clip paths would be random
}

styled = matplotlib.style.context(STYLE, after_reset=True)
"""Decorator: draw by STYLE, whatever the user's matplotlibrc says; nothing stays changed."""


def series(index: int) -> Look:
    """Return the look of the model at this position."""
    return SERIES[index % len(SERIES)]


def sheet(width: float, height: float, *, layout: str = "constrained") -> Figure:
    """Return an empty figure of this size in mm; `layout` is matplotlib's layout engine or none."""
    return Figure(figsize=(width * MM, height * MM), layout=layout)  # type: ignore[arg-type]


def class_looks(classes: Classes) -> dict[str, tuple[str, str]]:
    """Return colour and marker of each class; no two have both in common.

    The basic seven look as everywhere, whatever else is among the classes; the others look by their
    position among the others.
    """
    others = [name for name in classes if name not in _BASIC_LOOKS]
    looks = {
        name: (
            _OTHERS[i % len(_OTHERS)],
            _MARKERS[(i % len(_OTHERS) + i // len(_OTHERS)) % len(_MARKERS)],
        )
        for i, name in enumerate(others)
    }
    return {name: _BASIC_LOOKS.get(name) or looks[name] for name in classes}


def class_areas(classes: Classes) -> dict[str, dict[str, Any]]:
    """Return colour and hatch of the area of each class, as matplotlib takes them."""
    others = [name for name in classes if name not in _BASIC_LOOKS]
    hatch = {name: _HATCHES[i // len(_OTHERS)] for i, name in enumerate(others)}
    return {
        name: {"facecolor": colour, "edgecolor": "white", "hatch": hatch.get(name, "")}
        for name, (colour, _) in class_looks(classes).items()
    }


def legend_columns(labels: Sequence[str], room: float) -> int:
    """Return how many columns of a legend fit into so many mm."""
    wide = [text_width([label]) + 9.5 for label in labels]
    for columns in range(len(wide), 1, -1):
        if sum(part.max() for part in np.array_split(wide, columns)) <= room:
            return columns
    return 1


def text_width(lines: Sequence[str]) -> float:
    """Return the mm that the longest of some lines takes at 7 points."""
    plain = Text(fontsize=STYLE["font.size"])
    if not "".join(lines).isascii():
        plain.set_fontfamily(list(_fonts()))
    return max(_width(plain, line) for line in lines)


def class_name(name: str, *, room: float = 40) -> str:
    """Return the name of a class as it is drawn at 7 points, at most so many mm wide."""
    line = Text(text=name, fontsize=STYLE["font.size"])
    show_name(line, room=room)
    return line.get_text()


def show_name(line: Text, *, room: float) -> None:
    """Make a text that holds the name of a file one line of letters, whatever the name holds.

    Letters of other scripts come from a second font; what neither has, and what is no letter (line
    ends, emoji), is written as its code point: [U+1F600]. Nothing is read as a formula.

    Args:
        line: the text; changed.
        room: mm that it may take; a longer one loses its middle.
    """
    fonts = _fonts()
    known = set().union(*fonts.values())
    name = unicodedata.normalize("NFC", as_utf8(line.get_text()))
    parts = [each if ord(each) in known else f"[U+{ord(each):04X}]" for each in name]
    line.set_fontfamily(list(fonts))
    line.set_parse_math(False)
    text, count = "".join(parts), len(parts)
    while (share := room / max(_width(line, text), 1)) < 1 and count > 2:
        count = min(count - 1, int(count * share))
        text = "".join([*parts[: count - count // 2], "…", *parts[len(parts) - count // 2 :]])
    line.set_text(text)


def _width(line: Text, text: str) -> float:
    """Return the mm that a text would take as this line, at most."""
    font = line.get_fontproperties()
    points, *_ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(1.03 * points / 72 / MM)  # letters are as wide as whole pixels


@cache
def _fonts() -> dict[str, frozenset[int]]:
    """Return the fonts for names, the first one first: their letters by family."""
    files: list[str] = [fontManager.findfont(FontProperties(family=_FAMILY))]
    package, name = _MORE
    spec = find_spec(package)
    if spec is not None and spec.origin is not None:  # without it names are code points
        files.append(str(Path(spec.origin).with_name(name)))
        fontManager.addfont(files[-1])
        also_bold = replace(fontManager.ttflist[-1], weight=700)  # else matplotlib warns
        fontManager.ttflist.append(also_bold)
    fonts = map(FT2Font, files)
    return {font.family_name: frozenset(font.get_charmap()) - {0, 9, 10, 13} for font in fonts}


@styled
def save(figure: Figure, out: Path) -> None:
    """Write the figure whole: .png at 200 dpi, .svg or .pdf, without a date or version in it.

    Raises:
        DataError: if the suffix is another.
    """
    stamps = {".png": ("Software",), ".svg": ("Date", "Creator"), ".pdf": ("CreationDate",)}
    if out.suffix not in stamps:
        raise DataError(f"figure {out}: the suffix must be one of {', '.join(stamps)}")
    families = None
    for line in figure.findobj(Text):
        if not line.get_text().isascii():  # a class may have a name in letters of a second font
            families = families or list(_fonts())
            line.set_fontfamily(families)
    with whole_file(out) as path:
        figure.savefig(
            path, format=out.suffix[1:], dpi=200, metadata=dict.fromkeys(stamps[out.suffix])
        )


def check_models(models: Mapping[str, Split]) -> None:
    """Make sure that models can stand side by side.

    Raises:
        DataError: if there is none, if their classes, clips, labels or order differ, or if an
            output is not finite.
    """
    if not models:
        raise DataError("figure: there is no model to draw; give at least one")
    first, reference = next(iter(models.items()))
    for name, split in models.items():
        if split.classes != reference.classes:
            raise DataError(f"figure: {name!r} and {first!r} are of different classes")
        if split.clip != reference.clip or not np.array_equal(split.label, reference.label):
            raise DataError(
                f"figure: {name!r} and {first!r} do not hold the same clips and labels in one "
                "order; take both from the same folds of the same data"
            )
        if not (np.isfinite(split.logits).all() and np.isfinite(split.embedding).all()):
            raise DataError(f"figure: outputs of {name!r} are not finite; its training diverged")


# How do a clip's faces, its windows and its probabilities look side by side?
#
# Panels that several figures share. The strip of T faces spans 0 to T on the x axis; frame t spans
# t to t + 1.

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
