"""How do the results of all benchmarks become docs/performance.md?

    python -m tools.benchmarks.page

The page is made from tools/benchmarks/results/*.json and benchmarks/performance.md, whose words
say what the figures mean.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from safe.files import whole_file
from tools.benchmarks.report import RESULTS, table, under

WORDS = Path(__file__).with_name("performance.md")
PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


def section(path: Path) -> str:
    """Return the part of the page for one benchmark: NAME.json, or NAME.WHERE.json."""
    name, _, where = path.stem.partition(".")
    found = json.loads(path.read_text(encoding="utf-8"))
    body = [*gpu_parts(found)] if "parts" in found else [found["note"], table(found)]
    made = under(f"python -m tools.benchmarks.{name}", found)
    title = found["title"] + (f", {where}" if where else "")
    return "\n\n".join([f"## {title}", *body, made]) + "\n"


def gpu_parts(found: dict) -> Iterator[str]:
    """Yield what gpu.py found: the machine, then each part's state, table and notes."""
    yield "; ".join(f"{name} {value}" for name, value in found["environment"].items())
    for part in found["parts"]:
        yield f"### {part['name']}: {part['state']} {part['reason']}".rstrip()
        if part["figures"]:
            yield table(part)
        yield from part["notes"]


def write_page(page: Path, words: Path, sections: Iterable[str]) -> None:
    """Write a page: words first, then the sections."""
    with whole_file(page) as path:
        path.write_text("\n".join([words.read_text(encoding="utf-8"), *sections]), encoding="utf-8")
    print(f"{page} is written")


if __name__ == "__main__":
    write_page(PAGE, WORDS, map(section, sorted(RESULTS.glob("*.json"))))
