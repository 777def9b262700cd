"""How are the figures of the long runs kept, and how do they become docs/reliability.md?

    python -m tools.faults.page

Each run gives `keep` what it found, which becomes tools/faults/results/<name>.json. The page is
made from
these and from faults/reliability.md, whose words say what is promised and where it is tested.
"""

import json
from pathlib import Path
from typing import Any, Final

from safe.files import whole_file
from tools.benchmarks.page import write_page
from tools.benchmarks.report import circumstances, under

RESULTS: Final = Path(__file__).with_name("results")
WORDS: Final = Path(__file__).with_name("reliability.md")
PAGE: Final = Path(__file__).parents[2] / "docs" / "reliability.md"
PACKAGES: Final = ("onnxruntime", "pyarrow", "safetensors")


def keep(name: str, found: dict[str, Any], *, results: Path = RESULTS) -> None:
    """Keep what a run found, with date, machine and versions, and print it.

    Args:
        name: of the module in faults/; a run with several tables adds - and a word: fuzz-videos.
        found: `title`, one line; `note`, what was done, for a reader who wants to do it again;
            `summary`, a list of sentences; `rows`, a list of dicts with the same keys, the columns.
        results: the folder.

    Raises:
        ValueError: if `found` has other keys, or a row other columns than the first.
    """
    if found.keys() != {"title", "note", "summary", "rows"}:
        raise ValueError(f"{name}: title, note, summary and rows are kept, not {', '.join(found)}")
    if any(row.keys() != found["rows"][0].keys() for row in found["rows"]):
        raise ValueError(f"{name}: all rows must have the columns of the first")
    kept = {**found, **circumstances(*PACKAGES)}
    with whole_file(results / f"{name}.json") as path:
        path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(section(results / f"{name}.json"))


def section(path: Path) -> str:
    """Return the part of the page for one file that `keep` wrote."""
    found = json.loads(path.read_text(encoding="utf-8"))
    command = f"python -m tools.faults.{path.stem.partition('-')[0]}"
    parts = [
        f"## {found['title']}",
        found["note"],
        "\n".join(f"- {sentence}" for sentence in found["summary"]),
        table(found["rows"]),
        under(command, found),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(rows: list[dict[str, str | int | float]]) -> str:
    """Return rows as a Markdown table; the keys of the first are its head."""
    if not rows:
        return ""
    body = [list(row.values()) for row in rows]
    lines = [[*map(_cell, cells)] for cells in (list(rows[0]), ["---"] * len(rows[0]), *body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: str | int | float) -> str:
    """Write whole numbers in full, others with three digits; a | would end the cell."""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return " ".join(value.split()).replace("|", "\\|")


def main() -> None:
    """Write the page."""
    write_page(PAGE, WORDS, map(section, sorted(RESULTS.glob("*.json"))))


if __name__ == "__main__":
    main()
