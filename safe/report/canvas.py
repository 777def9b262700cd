"""The look of every picture, and its files, whose bytes are always the same.

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
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

from safe.errors import DataError, as_utf8
from safe.evaluation.predictions import Split
from safe.files import atomic_file
from safe.taxonomy import BASIC, Classes

ONE_COLUMN: Final = 88.0
TWO_COLUMNS: Final = 180.0
PAGE_COLUMN: Final = 70.0
"""mm; 340 pixels of the page, so that a phone shows them at their size."""
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
"""The models of a picture, in order; a sixth looks like the first."""

_BASIC_LOOKS: Final = dict(
    zip(
        BASIC,
        zip((ORANGE, BLUE, BLACK, RED, SKY, GREEN, PURPLE), "ov+s^Dx", strict=True),
        strict=True,
    )
)
"""Colour and marker of each of the basic seven."""

OTHERS: Final = (
    *("#3322AA", "#AADD88", "#882255", "#6677FF"),
    *("#554400", "#44DDAA", "#776633", "#225544"),
)
"""Colours of other classes: far from those above and from one another, to the colour-blind too."""

_MARKERS: Final = "PX<>*pdhos^vD"
_HATCHES: Final = (
    *("", "....", "xxxx", "----", "||||", "++++", "oooo", r"\\\\"),
    *("..--", "..||", "xx..", "oo--", "OO"),
)
"""Of areas: one for each time that the colours begin again."""

MANY: Final = 20
"""Classes beyond which a picture leaves out what would not be readable of each."""

NAMES: Final = {"war": "WAR", "uar": "UAR", "ece": "ECE", "nll": "NLL", "brier": "Brier score"}
"""How the metrics are written."""

_FAMILY: Final = "DejaVu Sans"
"""The one typeface that comes with matplotlib, so is everywhere."""

_MORE: Final = ("noto_cjk_sans_jp_regular", "NotoSansCJKjp-Regular.otf")
"""A package, and its font for the letters of Chinese, Japanese and Korean."""

_STYLE: Final = {
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
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "hatch.linewidth": 0.5,
    "text.parse_math": False,  # a name may hold a $
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
    "svg.hashsalt": "safe",  # names of clip paths would be random
}

styled = matplotlib.style.context(_STYLE, after_reset=True)
"""Decorator: draw by _STYLE, whatever the user's matplotlibrc says; nothing stays changed."""


def series(index: int) -> Look:
    """Return the look of the model at this position."""
    return SERIES[index % len(SERIES)]


def class_looks(classes: Classes) -> dict[str, tuple[str, str]]:
    """Return colour and marker of each class; no two have both in common.

    The basic seven look as everywhere, whatever else is among the classes; the others look by their
    position among the others. (Not in taxonomy.py: a training must not depend on colours.)
    """
    others = [name for name in classes if name not in _BASIC_LOOKS]
    looks = {
        name: (
            OTHERS[i % len(OTHERS)],
            _MARKERS[(i % len(OTHERS) + i // len(OTHERS)) % len(_MARKERS)],
        )
        for i, name in enumerate(others)
    }
    return {name: _BASIC_LOOKS.get(name) or looks[name] for name in classes}


def class_areas(classes: Classes) -> dict[str, dict[str, Any]]:
    """Return colour and hatch of the area of each class, as matplotlib takes them."""
    others = [name for name in classes if name not in _BASIC_LOOKS]
    hatch = {name: _HATCHES[i // len(OTHERS)] for i, name in enumerate(others)}
    return {
        name: {"facecolor": colour, "edgecolor": "white", "hatch": hatch.get(name, "")}
        for name, (colour, _) in class_looks(classes).items()
    }


def sheet(width: float, height: float, *, layout: str = "constrained") -> Figure:
    """Return an empty figure of this size in mm; `layout` is matplotlib's layout engine or none."""
    return Figure(figsize=(width * MM, height * MM), layout=layout)  # type: ignore[arg-type]


def add_panel(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes without ticks at a place in mm from the upper left corner of the figure."""
    wide, high = (inches / MM for inches in figure.get_size_inches())
    axes = figure.add_axes((left / wide, 1 - (top + height) / high, width / wide, height / high))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return axes


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


# Names as letters


def class_name(name: str, *, room: float = 40) -> str:
    """Return the name of a class as it is drawn at 7 points, at most so many mm wide."""
    line = Text(text=name, fontsize=_STYLE["font.size"])
    show_name(line, room=room)
    return line.get_text()


def show_name(line: Text, *, room: float) -> None:
    """Make a text that holds the name of a file one line of letters, whatever the name holds.

    Letters of other scripts come from a second font; what neither has, and what is no letter (line
    ends, emoji), is written as its code point: [U+1F600].

    Args:
        line: the text; changed.
        room: mm that it may take; a longer one loses its middle.
    """
    fonts = _fonts()
    known = set().union(*fonts.values())
    name = unicodedata.normalize("NFC", as_utf8(line.get_text()))
    parts = [each if ord(each) in known else f"[U+{ord(each):04X}]" for each in name]
    line.set_fontfamily(list(fonts))
    text, count = "".join(parts), len(parts)
    while (share := room / max(_width(line, text), 1)) < 1 and count > 2:
        count = min(count - 1, int(count * share))
        text = "".join([*parts[: count - count // 2], "…", *parts[len(parts) - count // 2 :]])
    line.set_text(text)


def text_width(lines: Sequence[str]) -> float:
    """Return the mm that the longest of some lines takes at 7 points."""
    plain = Text(fontsize=_STYLE["font.size"])
    if not "".join(lines).isascii():
        plain.set_fontfamily(list(_fonts()))
    return max(_width(plain, line) for line in lines)


def legend_columns(labels: Sequence[str], room: float) -> int:
    """Return how many columns of a legend fit into so many mm."""
    wide = [text_width([label]) + 9.5 for label in labels]
    for columns in range(len(wide), 1, -1):
        if sum(part.max() for part in np.array_split(wide, columns)) <= room:
            return columns
    return 1


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


# Files


@styled
def save(figure: Figure, out: Path) -> None:
    """Write the figure whole: .png at 200 dpi, .svg or .pdf, without a date or version in it.

    Raises:
        DataError: if the suffix is another.
    """
    stamps = {".png": ("Software",), ".svg": ("Date", "Creator"), ".pdf": ("CreationDate",)}
    if out.suffix not in stamps:
        raise DataError(f"figure {out}: the suffix must be one of {', '.join(stamps)}")
    find_letters(figure)
    with atomic_file(out) as path:
        figure.savefig(
            path, format=out.suffix[1:], dpi=200, metadata=dict.fromkeys(stamps[out.suffix])
        )


def find_letters(figure: Figure) -> None:
    """Give texts a second font where they need it: a class may have a name in any letters."""
    for line in figure.findobj(Text):
        if not line.get_text().isascii():
            line.set_fontfamily(list(_fonts()))
