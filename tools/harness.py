"""The harness of all benchmarks and fault runs: timing in turn, child processes, /proc, results.

Variants are timed in turn, round after round, so that a busy moment of the machine hits all of
them; a ratio is the median over the rounds of the ratio within a round, with the smallest and the
largest. What came out is kept as results/NAME.json beside the script; `python -m tools.pages` puts
it into the documents.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from safe.cores import cores
from safe.files import atomic_file

ROOT: Final = Path(__file__).parents[1]
BENCHMARKS: Final = Path(__file__).parent / "benchmarks" / "results"
FAULTS: Final = Path(__file__).parent / "faults" / "results"

_PACKAGES: Final = ("torch", "torchvision", "numpy", "opencv-python", "decord2", "av", "simplejpeg")
_OF_FAULTS: Final = (*_PACKAGES, "onnxruntime", "pyarrow", "safetensors")
_WIDEST: Final = {"AVX-512 and bf16": "avx512_bf16", "AVX-512": "avx512f", "AVX2": "avx2"}
"""Vector instructions by the flag of /proc/cpuinfo: a cloud gives another processor each day."""


@dataclass(frozen=True)
class Measured:
    """A number with its spread over the rounds, and the bound that the project set itself."""

    what: str
    value: float
    low: float
    high: float
    unit: str = "x"
    least: float | None = None
    most: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the bound is met: yes, no, or nothing where there is none."""
        if self.least is None and self.most is None:
            return ""
        above = self.least is None or self.value >= self.least
        return "yes" if above and (self.most is None or self.value <= self.most) else "no"

    def row(self) -> dict[str, Any]:
        """Return what is kept."""
        return asdict(self) | {"met": self.verdict}


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
) -> Measured:
    """Return the median of `values` with the smallest and largest."""
    middle = statistics.median(values)
    return Measured(what, middle, min(values), max(values), unit=unit, least=least, most=most)


def ratio(
    what: str,
    above: Sequence[float],
    below: Sequence[float],
    *,
    least: float | None = None,
    most: float | None = None,
) -> Measured:
    """Return the median over the rounds of above / below, each seconds a round.

    With another's seconds above and ours below it is how many times faster ours is.
    """
    paired = [a / b for a, b in zip(above, below, strict=True)]
    return spread(what, paired, least=least, most=most)


def arguments(doc: str | None, quick: str) -> argparse.ArgumentParser:
    """Return a script's parser: its docstring's first line, and --quick, which keeps nothing."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{quick}; keeps nothing")
    return parser


# Child processes


def run(command: Sequence[str], *, folder: Path = ROOT, says: str = "") -> str:
    """Run a command that must succeed and print `says`; return what it prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode or says not in done.stdout:
        sys.exit(f"{' '.join(command[:4])}: {done.stderr or done.stdout}")
    return done.stdout


def alone(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call a function of a module in a new process, which has loaded nothing else."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments, **options).result()


def held(process: int | str, file: str, *names: str) -> int:
    """Add up the lines `name: number kB` of a file of /proc/PID; in bytes.

    smaps_rollup has Pss (a page that n processes share counts 1/n in each) and its parts; status
    has VmHWM, the highest resident memory so far. (ru_maxrss counts a larger parent's too.)
    """
    lines = Path(f"/proc/{process}/{file}").read_text().splitlines()
    found = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith(" kB")}
    return sum(1024 * int(found[name]) for name in names)


def fast_scratch() -> str | None:
    """Return a folder in memory, where there is one: each tar is flushed to its disk."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def write_manifest(
    out: Path,
    files: Sequence[Path],
    *,
    keys: Sequence[str] | None = None,
    source: str = "video",
    buckets: int = 1,
) -> Path:
    """Write a manifest of files below the folder /, with classes and buckets in turn."""
    import pyarrow as pa  # here: a benchmark on a bare machine has none of these
    import pyarrow.parquet as pq

    from pipeline.manifest import SCHEMA, with_classes
    from safe.taxonomy import BASIC

    rows = [
        {
            "clip": keys[number] if keys else f"{number:05d}",
            "path": str(file.absolute()).lstrip("/"),
            "label": number % len(BASIC),
            "bucket": f"fold{1 + number % buckets}",
            "source": source,
            "bytes": file.stat().st_size,
        }
        for number, file in enumerate(files)
    ]
    pq.write_table(with_classes(pa.Table.from_pylist(rows, SCHEMA), BASIC), out)
    return out


# Results


def publish(
    name: str,
    title: str,
    measured: Sequence[Measured],
    *,
    note: str = "",
    quick: bool = False,
    **more: Any,
) -> None:
    """Print what a benchmark measured; keep it in tools/benchmarks/results but where `quick`.

    Args:
        name: of the module.
        title: one line.
        measured: what came out.
        note: what was timed on what, for a reader who wants to do it again.
        quick: a trial.
        more: what else is kept.
    """
    found = {"title": title, "note": note, "metrics": [one.row() for one in measured], **more}
    print(f"{title}\n{note}\n\n{measured_table(found['metrics'])}\n")
    if not quick:
        write_json(BENCHMARKS / f"{name}.json", found | circumstances(_PACKAGES))


def keep(name: str, found: dict[str, Any], *, results: Path = FAULTS) -> None:
    """Print and keep what a fault run found.

    Args:
        name: of the module in tools/faults/.
        found: `title`, one line; `note`, what was done; `summary`, a list of sentences; `rows`, a
            list of dicts with the same keys, the columns.
        results: the folder.

    Raises:
        ValueError: if `found` has other keys, or a row other columns than the first.
    """
    if found.keys() != {"title", "note", "summary", "rows"}:
        raise ValueError(f"{name}: title, note, summary and rows are kept, not {', '.join(found)}")
    if any(row.keys() != found["rows"][0].keys() for row in found["rows"]):
        raise ValueError(f"{name}: all rows must have the columns of the first")
    write_json(results / f"{name}.json", found | circumstances(_OF_FAULTS))
    print(found["title"], *found["summary"], table(found["rows"]), sep="\n")


def write_json(path: Path, found: dict[str, Any]) -> None:
    """Write a document, all of it or nothing."""
    with atomic_file(path) as file:
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def circumstances(packages: Sequence[str]) -> dict[str, object]:
    """Say when, where and with which packages something is measured."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": {package: version(package) for package in packages},
    }


def machine() -> str:
    """Name the processor, its widest instructions, and how many of its cores this may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    said = dict([part.strip() for part in line.split(":", 1)] for line in lines if ":" in line)
    flags = said.get("flags", "").split()
    widest = next((f" with {name}" for name, flag in _WIDEST.items() if flag in flags), "")
    name = said.get("model name", platform.processor())
    return f"{cores()} cores of {name}{widest}"


# Tables


def caption(command: str, found: dict[str, Any]) -> str:
    """Return title, command, date, machine and versions."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    where = f"{found['gpu']}, {found['machine']}" if "gpu" in found else found["machine"]
    return f"**{found['title']}.** `{command}`, {found['date'][:10]}, {where}; {versions}."


def measured_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return what `Measured.row` keeps as a Markdown table."""
    return table(
        [
            {
                "": row["what"],
                "median": f"{cell(float(row['value']))} {row['unit'].removeprefix('x')}".strip(),
                "min to max": f"{cell(float(row['low']))} to {cell(float(row['high']))}",
                "bound": _bound(row),
                "met": row["met"],
            }
            for row in rows
        ]
    )


def _bound(row: dict[str, Any]) -> str:
    least, most = row["least"], row["most"]
    if least is not None and most is not None:
        return f"{least:g} to {most:g}"
    return f">= {least:g}" if least is not None else f"<= {most:g}" if most is not None else ""


def table(rows: Sequence[dict[str, str | int | float]]) -> str:
    """Return rows as a Markdown table; the keys of the first are its head."""
    if not rows:
        return ""
    body = [list(row.values()) for row in rows]
    lines = [list(map(cell, cells)) for cells in (list(rows[0]), ["---"] * len(rows[0]), *body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: str | int | float) -> str:
    """Write whole numbers in full, others with three digits; a | would end the cell."""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return " ".join(value.split()).replace("|", "\\|")
