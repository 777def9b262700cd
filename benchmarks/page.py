"""How do the results of all benchmarks become docs/performance.md?

    python -m benchmarks.page

The page is made from benchmarks/results/*.json and benchmarks/performance.md, whose words say what
the figures mean.
"""

import json
from pathlib import Path

from benchmarks.report import RESULTS, table, under
from safe.process import whole_file

WORDS = Path(__file__).with_name("performance.md")
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def section(path: Path) -> str:
    """Return the part of the page for one benchmark."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return (
        f"## {found['title']}\n\n{found['note']}\n\n{table(found)}\n\n"
        f"{under(f'python -m benchmarks.{path.stem}', found)}\n"
    )


def main() -> None:
    """Write the page."""
    parts = [WORDS.read_text(encoding="utf-8"), *map(section, sorted(RESULTS.glob("*.json")))]
    with whole_file(PAGE) as path:
        path.write_text("\n".join(parts), encoding="utf-8")
    print(f"{PAGE} is written")


if __name__ == "__main__":
    main()
