"""The parts of the documents that are made of results.

    python -m tools.pages

In a page of docs/, `<!-- results: benchmarks/startup -->` begins the part that is made of
tools/benchmarks/results/startup.json, and `<!-- end -->` ends it; `<!-- results: scale -->` begins
the tables of tools/benchmarks/scale_model.py. What is between the two is written again: a caption,
a note, sentences and a table. All else on the page is written by hand.
"""

import json
import re
from typing import Final

from safe.files import atomic_file
from tools.benchmarks.scale_model import page_part
from tools.harness import ROOT, caption, measured_table, table

PAGES: Final = tuple(
    ROOT / "docs" / f"{name}.md" for name in ("heads", "performance", "scale", "reliability")
)
_PART: Final = re.compile(r"(<!-- results: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(text: str) -> str:
    """Return a page with the parts between its marks made from the results."""
    return _PART.sub(lambda mark: f"{mark[1]}\n{part(mark[2])}\n\n{mark[3]}", text)


def part(name: str) -> str:
    """Return a part: "scale", or the room, the module, and after a dot where it was run."""
    if name == "scale":
        return page_part()
    room, _, stem = name.partition("/")
    path = ROOT / "tools" / room / "results" / f"{stem}.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    command = f"python -m tools.{room}.{stem.partition('.')[0]}"
    pieces = [caption(command, found), found.get("note", "")]
    pieces.append("\n".join(f"- {sentence}" for sentence in found.get("summary", [])))
    pieces.append(measured_table(found["metrics"]) if "metrics" in found else "")
    pieces.append(table(found.get("rows", [])))
    for one in found.get("parts", []):
        state = "" if one["state"] == "done" else f", {one['state']}: {one['reason']}"
        pieces.append(". ".join([f"*{one['name']}{state}*", *one["notes"]]) + ".")
        pieces.append(measured_table(one["metrics"]))
    return "\n\n".join(piece for piece in pieces if piece)


def main() -> None:
    """Write the pages."""
    for page in PAGES:
        text = render(page.read_text(encoding="utf-8"))
        with atomic_file(page) as path:
            path.write_text(text, encoding="utf-8")
        print(f"{page} is written")


if __name__ == "__main__":
    main()
