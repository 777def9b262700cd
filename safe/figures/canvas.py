"""How does every figure look, and how does it become a file whose bytes are always the same?

Sizes are millimetres on paper: one column of a paper is 88 wide, two are 180. No text is under 7
points. Colours are those of Okabe and Ito, which colour-blind readers tell apart; a marker, line
style or hatch goes with each, so that a print in grey says the same.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import matplotlib
import matplotlib.style  # also makes `matplotlib.style.context` known
import numpy as np
from matplotlib.figure import Figure

from safe.errors import DataError
from safe.labels import CLASSES
from safe.predictions import Split
from safe.process import whole_file

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

CLASS_LOOKS: Final = dict(
    zip(
        CLASSES,
        zip((ORANGE, BLUE, BLACK, RED, SKY, GREEN, PURPLE), "ov+s^Dx", strict=True),
        strict=True,
    )
)
"""Colour and marker of each class."""

NAMES: Final = {"war": "WAR", "uar": "UAR", "ece": "ECE", "nll": "NLL", "brier": "Brier score"}
"""How the figures of metrics.py are written."""

STYLE: Final = {
    "font.family": "DejaVu Sans",  # the one typeface that comes with matplotlib, so is everywhere
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


@styled
def save(figure: Figure, out: Path) -> None:
    """Write the figure whole: .png at 200 dpi, .svg or .pdf, without a date or version in it.

    Raises:
        DataError: if the suffix is another.
    """
    stamps = {".png": ("Software",), ".svg": ("Date", "Creator"), ".pdf": ("CreationDate",)}
    if out.suffix not in stamps:
        raise DataError(f"figure {out}: the suffix must be one of {', '.join(stamps)}")
    with whole_file(out) as path:
        figure.savefig(
            path, format=out.suffix[1:], dpi=200, metadata=dict.fromkeys(stamps[out.suffix])
        )


def check_models(models: Mapping[str, Split]) -> None:
    """Make sure that models can stand side by side.

    Raises:
        DataError: if there is none, if their clips, labels or order differ, or if an output is not
            finite.
    """
    if not models:
        raise DataError("figure: there is no model to draw; give at least one")
    first, reference = next(iter(models.items()))
    for name, split in models.items():
        if split.clip != reference.clip or not np.array_equal(split.label, reference.label):
            raise DataError(
                f"figure: {name!r} and {first!r} do not hold the same clips and labels in one "
                "order; take both from the same folds of the same data"
            )
        if not (np.isfinite(split.logits).all() and np.isfinite(split.embedding).all()):
            raise DataError(f"figure: outputs of {name!r} are not finite; its training diverged")
