"""How do a mark, an interval, attention and probabilities become small charts beside numbers?

Each stands in a table or a list whose words say the same.
"""

from collections.abc import Sequence
from typing import Final

from markupsafe import Markup

from safe.figures.canvas import class_looks
from safe.report.svg import Panel, element, line, mark_class, marker, picture, rectangle, text
from safe.taxonomy import Classes

BARS: Final = 8
"""Classes whose probabilities are shown of a clip, where there are more than a few more."""

_LETTERS: Final = 20
"""Of a class's name beside its bar."""

_STRIP: Final = 768.0
"""Width of the attention over all frames, so that its letters are as large for any number."""


def class_keys(classes: Classes) -> list[Markup]:
    """Return the marks of the classes for a legend; their names stand beside them."""
    return [_key(k, shape) for k, (_, shape) in enumerate(class_looks(classes).values())]


def _key(k: int, shape: str) -> Markup:
    mark = element("path", d=marker(8, 8, shape, 5), class_=mark_class(k, shape))
    return element("svg", mark, viewBox="0 0 16 16", width=16, height=16, aria_hidden="true")


def interval_cell(
    value: float | None,
    low: float | None,
    high: float | None,
    domain: tuple[float, float],
    *,
    at: float | None = None,
) -> Markup:
    """Draw a dot and its interval for a cell of a table, whose numbers stand beside it.

    `at` is a line to compare with, as 0 for a difference.
    """
    width, height = 150.0, 18.0
    panel = Panel(domain, (0, 1), left=4, right=4, width=width)
    middle = height / 2
    parts = [line(4, middle, width - 4, middle, class_="grid")]
    if at is not None:
        parts.append(line(panel.x(at), 1, panel.x(at), height - 1, class_="axis"))
    if low is not None and high is not None:
        ends = [panel.x(min(max(end, domain[0]), domain[1])) for end in (low, high)]
        parts.append(line(ends[0], middle, ends[1], middle, class_="interval"))
    if value is not None:
        parts.append(element("path", d=marker(panel.x(value), middle, "o", 4), class_="dot s0"))
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        aria_hidden="true",
        class_="cell",
    )


def attention_chart(
    name: str, weights: Sequence[float], *, window: int, stride: int, frames: int
) -> Markup:
    """Draw each window under the frames that it covers, the darker the more attention.

    Of T frames, frame t spans t / T to (t + 1) / T of the width, as in the strip of faces above it.
    """
    lanes = -(-window // stride)
    unit, lane, most = _STRIP / frames, 17.0, max(weights)
    parts = []
    for w, weight in enumerate(weights):
        x, y = w * stride * unit, (w % lanes) * lane
        shade = round(10 * weight / most)
        parts.append(
            rectangle(x + 1, y + 1, window * unit - 2, lane - 2, class_=f"window a{shade}")
        )
        words = f"{100 * weight:.0f} %"
        middle = x + window * unit / 2
        tone = "deep" if shade > 5 else "light"
        parts.append(text(middle, y + 12.5, words, class_=f"weight middle {tone}"))
    told = ", ".join(
        f"frames {w * stride + 1} to {w * stride + window}: {100 * v:.0f} %"
        for w, v in enumerate(weights)
    )
    title = "Attention over windows"
    return picture(name, title, told, *parts, height=lanes * lane, width=_STRIP, class_="att")


def bars_chart(
    name: str,
    chances: Sequence[float],
    classes: Classes,
    *,
    true: int,
    inside: Sequence[bool],
) -> Markup:
    """Draw the probability of each class; the label is bold, classes outside the set are pale.

    Of more than BARS + 3 classes only the likeliest BARS, and the label.
    """
    shown = list(range(len(classes)))
    if len(classes) > BARS + 3:
        likely = sorted(shown, key=lambda k: (k != true, -chances[k]))[: BARS + 1]
        shown = sorted(likely)
    names = {k: _short(classes[k]) for k in shown}
    row, left = 17.0, max(66.0, 12 + 7.2 * max(map(len, names.values())))
    width = 174.0 + left
    parts = []
    for place, k in enumerate(shown):
        chance, y = chances[k], place * row
        bold = " true" if k == true else ""
        parts.append(text(left - 6, y + 12.5, names[k], class_=f"tick end{bold}"))
        wide = chance * (width - left - 44)
        look = "bar" if inside[k] else "bar out"
        parts.append(rectangle(left, y + 3, max(wide, 1), row - 6, class_=look))
        parts.append(
            text(left + max(wide, 1) + 5, y + 12.5, f"{100 * chance:.0f} %", class_="tick")
        )
    told = ", ".join(f"{classes[k]} {100 * chances[k]:.0f} %" for k in shown)
    title = "Probabilities" if len(shown) == len(classes) else "Probabilities of the likeliest"
    return picture(name, title, told, *parts, height=len(shown) * row, width=width)


def _short(name: str) -> str:
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"
