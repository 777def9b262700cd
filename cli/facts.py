"""How do facts about one thing read in a terminal?

Facts are sections under a heading: a dict is written as `name  value` lines, a list of dicts as a
table. Numbers, strings, lists of them and None only, so the same facts are JSON as they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Facts = dict[str, dict[str, Any] | list[dict[str, Any]]]
"""Sections in their order, by heading."""


def lines(facts: Facts) -> list[str]:
    """Write facts as lines of text; a section that holds nothing is left out."""
    written: list[str] = []
    for heading, section in facts.items():
        if not section:
            continue
        written += ["", heading] if written else [heading]
        if isinstance(section, Mapping):
            wide = max(map(len, section))
            written += [f"  {name:{wide}}  {_plain(value)}" for name, value in section.items()]
        else:
            written += [f"  {line}" for line in _table(section)]
    return written


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Align columns: numbers to the right, words to the left."""
    names = list(rows[0])
    cells = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    right = [all(isinstance(row[name], int | float | None) for row in rows) for name in names]
    aligned = (
        "  ".join(
            f"{cell:>{w}}" if r else f"{cell:{w}}"
            for cell, w, r in zip(line, widths, right, strict=True)
        )
        for line in cells
    )
    return [line.rstrip() for line in aligned]


def _cell(value: Any) -> str:
    """Write a cell of a table, where all numbers of a column have as many digits."""
    return f"{value:.2f}" if isinstance(value, float) else _plain(value)


def _plain(value: Any) -> str:
    """Write a value in a few characters."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) > 99_999 else str(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "-"
    return str(value)
