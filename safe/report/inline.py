"""A picture as SVG in the page: it follows light and dark, and needs no file beside it."""

import io
import re
from typing import Final
from xml.etree import ElementTree

from markupsafe import Markup, escape
from matplotlib.figure import Figure

from safe.report.canvas import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    OTHERS,
    PALE,
    PURPLE,
    RED,
    SKY,
    find_letters,
    styled,
)

_PAGE: Final = {
    "#FFFFFF": "var(--ground)",
    BLACK: "var(--ink)",
    GREY: "var(--soft)",
    PALE: "var(--rule)",
    **{colour: f"var(--{colour[1:]})" for colour in (BLUE, RED, GREEN, ORANGE, SKY, PURPLE)},
    **{colour: f"var(--{colour[1:]})" for colour in OTHERS},
}
"""What stands for a colour in the page, so that pictures follow light and dark."""

_ON_DARK: Final = {
    **{BLUE: "#56B4E9", RED: "#F0813A", GREEN: "#2CC296", ORANGE: ORANGE},
    **{SKY: "#B8E4FF", PURPLE: "#D98FB8"},
}
"""Colours on a dark ground, where they were chosen by eye."""

_PIXELS: Final = 12 / 7
"""Pixels of the page in a point."""


def colour_rules() -> str:
    """Return the CSS that inline() counts on: the colours on a light and on a dark ground."""
    colours = (*_ON_DARK, *OTHERS)
    light = "".join(f"--{colour[1:]}:{colour};" for colour in colours)
    dark = "".join(f"--{colour[1:]}:{_on_dark(colour)};" for colour in colours)
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme: dark){{:root{{{dark}}}}}\n"


def _on_dark(colour: str) -> str:
    """Return a colour #rrggbb as it is on a dark ground: the lighter the darker it is."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    light = sum(w * part for w, part in zip((0.21, 0.72, 0.07), parts, strict=True)) / 255
    white = max(0.0, 0.55 - light)
    lighter = "".join(f"{round(part + white * (255 - part)):02X}" for part in parts)
    return _ON_DARK.get(colour, f"#{lighter}")


@styled
def inline(
    figure: Figure, name: str, title: str = "", told: str = "", *, class_: str = "chart"
) -> Markup:
    """Write the figure as SVG for the page: 7 points are 12 pixels, colours those of the page.

    The page's policy forbids style attributes, and an id may be there once.

    Args:
        figure: what was drawn.
        name: unique on the page; what ids begin with.
        title: what the picture is.
        told: what it shows, for those who do not see it. Without title and this the picture is one
            that stands beside words which say the same.
        class_: CSS class.
    """
    find_letters(figure)
    file = io.BytesIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(file.getvalue())
    wide, high = (inches * 72 for inches in figure.get_size_inches())
    parts = [
        f'viewBox="0 0 {wide:.2f} {high:.2f}" width="{_PIXELS * wide:.0f}" '
        f'height="{_PIXELS * high:.0f}" fill="var(--ink)" class="{class_}"'
    ]
    if title:
        parts += [
            f' role="img" aria-labelledby="{name}-title {name}-desc">',
            f'<title id="{name}-title">{escape(title)}</title>',
            f'<desc id="{name}-desc">{escape(told)}</desc>',
        ]
    else:
        parts.append(' aria-hidden="true">')
    return Markup("<svg {}{}</svg>".format("".join(parts), _inside(root, name)))


def _inside(node: ElementTree.Element, name: str) -> str:
    return "".join(_markup(child, name) for child in node)


def _markup(node: ElementTree.Element, name: str) -> str:
    """Write an element of matplotlib's SVG as one of the page; groups leave their parts."""
    tag = node.tag.rpartition("}")[2]
    if tag in ("metadata", "style"):
        return ""
    style = dict(part.split(": ", 1) for part in node.get("style", "").split("; ") if part)
    if tag == "path" and style.get("fill") == "none" and "stroke" not in style:
        return ""  # the ground of a panel
    style.pop("font-family", None)
    found = {key.rpartition("}")[2]: value for key, value in node.items()} | style
    found.pop("style", None)
    if tag in ("g", "text"):
        found.pop("id", None)
    if found.get("transform", "").startswith("rotate(-0 "):
        del found["transform"]
    told = "".join(f' {key}="{_value(value, key, name)}"' for key, value in found.items())
    inside = escape((node.text or "").strip()) + Markup(_inside(node, name))
    return inside if tag == "g" and not told else f"<{tag}{told}>{inside}</{tag}>"


def _value(value: str, key: str, name: str) -> str:
    """Write an attribute: colours as variables, ids with the picture's name, two digits."""
    if key == "id":
        return f"{name}-{value}"
    if "#" in value and (key == "href" or value.startswith("url(")):
        return value.replace("#", f"#{name}-")
    if value.startswith("#"):
        return _PAGE.get(value.upper(), value)
    short = re.sub(r"-?\d+\.\d+", lambda one: f"{float(one[0]):.2f}".rstrip("0").rstrip("."), value)
    return " ".join(short.split())
