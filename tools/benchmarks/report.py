"""How are two ways to do a thing compared, and how is what came out kept?

Every benchmark times its variants in turn, round after round, so that a busy moment of the machine
hits all of them, and reports the median over the rounds of the ratio within a round, with the
smallest and the largest. `publish` prints that and keeps it as
tools/benchmarks/results/<name>.json, from
which `python -m tools.benchmarks.page` writes docs/performance.md.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from safe.files import whole_file

RESULTS: Final = Path(__file__).parent / "results"
PACKAGES: Final = ("torch", "torchvision", "numpy", "opencv-python", "decord2", "av", "simplejpeg")

WIDEST: Final = {"AVX-512 and bf16": "avx512_bf16", "AVX-512": "avx512f", "AVX2": "avx2"}
"""Vector instructions by the flag of /proc/cpuinfo: a cloud gives another processor each day."""


@dataclass(frozen=True)
class Figure:
    """One number with its spread over the rounds, and what it was to be.

    `least` or `most` is the bound that the project set itself; a figure without one is only told.
    """

    what: str
    value: float
    low: float
    high: float
    unit: str = "x"
    least: float | None = None
    most: float | None = None

    @property
    def verdict(self) -> str:
        """Say whether the bound is met: yes, no, or nothing where there is none."""
        if self.least is None and self.most is None:
            return ""
        above = self.least is None or self.value >= self.least
        return "yes" if above and (self.most is None or self.value <= self.most) else "no"


def interleaved(
    variants: dict[str, Callable[[], object]], *, rounds: int, warm: int = 1
) -> dict[str, list[float]]:
    """Run every variant once a round, in turn, and return the seconds of each, a list a variant.

    `warm` rounds before the first are not timed. Every second round goes through the variants
    backwards, so that none always follows the same one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    order = list(variants.items())
    for number in range(-warm, rounds):
        for name, run in order if number % 2 == 0 else order[::-1]:
            start = time.perf_counter()
            run()
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(
    what: str,
    values: Sequence[float],
    *,
    unit: str = "x",
    least: float | None = None,
    most: float | None = None,
) -> Figure:
    """Return the median of `values` with the smallest and largest."""
    middle = statistics.median(values)
    return Figure(what, middle, min(values), max(values), unit=unit, least=least, most=most)


def ratio(
    what: str,
    above: Sequence[float],
    below: Sequence[float],
    *,
    least: float | None = None,
    most: float | None = None,
) -> Figure:
    """Return the median over the rounds of above / below (seconds a round each).

    With a rival's seconds above and ours below it is how many times faster ours is.
    """
    paired = [a / b for a, b in zip(above, below, strict=True)]
    return spread(what, paired, least=least, most=most)


def publish(
    name: str, title: str, figures: Sequence[Figure], *, note: str = "", keep: bool = True
) -> None:
    """Print the figures as a table and keep them in tools/benchmarks/results/<name>.json.

    Args:
        name: of the benchmark.
        title: one line.
        figures: what came out.
        note: what was timed on what, for a reader who wants to do it again.
        keep: False only prints.
    """
    found = {
        "title": title,
        "note": note,
        **circumstances(),
        "figures": [asdict(figure) | {"met": figure.verdict} for figure in figures],
    }
    if keep:
        with whole_file(RESULTS / f"{name}.json") as path:
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{title}\n{note}\n\n{table(found)}\n")


def table(found: dict) -> str:
    """Return the Markdown table of one benchmark's results, as `publish` keeps them."""
    lines = ["| figure | median | min to max | bound | met |", "| --- | --- | --- | --- | --- |"]
    for row in found["figures"]:
        unit = "" if row["unit"] == "x" else f" {row['unit']}"
        least, most = row["least"], row["most"]
        bound = f">= {least:g}" if least is not None else f"<= {most:g}" if most is not None else ""
        lines.append(
            f"| {row['what']} | {_short(row['value'])}{unit} | {_short(row['low'])} to "
            f"{_short(row['high'])} | {bound} | {row['met']} |"
        )
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def circumstances(*more: str) -> dict[str, object]:
    """Say when, where and with which packages figures are made; `more` names further packages."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": {package: version(package) for package in (*PACKAGES, *more)},
    }


def under(command: str, found: dict) -> str:
    """Return the line below a table: which command made it, and what `circumstances` said."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return f"`{command}`, {found['date']}, {found['machine']}; {versions}."


def machine() -> str:
    """Name the processor, its widest instructions, and how many of its cores this may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    said = dict([part.strip() for part in line.split(":", 1)] for line in lines if ":" in line)
    flags = said.get("flags", "").split()
    widest = next((f" with {name}" for name, flag in WIDEST.items() if flag in flags), "")
    name = said.get("model name", platform.processor())
    return f"{len(os.sched_getaffinity(0))} cores of {name}{widest}"
