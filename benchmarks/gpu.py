"""How right and how fast is SAFE on a GPU, all of it in one call?

    python -m benchmarks.gpu --out FILE.json [--minutes 8] [--device cuda] [--quick]

For a bare machine: Python with torch, torchvision and numpy. Each part runs in a process of its
own, the most important first: a part whose packages are missing, or that raises, or that takes too
long, costs the others nothing, and what it had found by then is kept. The file is written anew
after every part. Nothing about the card's settings is changed. Ends with 1 if a part raised.
"""

import argparse
import importlib
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import torchvision

from benchmarks.gpu_parts.timing import Setup
from benchmarks.report import Figure, machine, table
from safe.process import die_with_parent, whole_file


class Part(NamedTuple):
    """A function that gives Figures, notes (str) and facts about the machine (dict)."""

    module: str
    function: str
    limit: float  # seconds

    @property
    def name(self) -> str:
        """How the part is called in the file and by --only."""
        return self.function


PARTS: Final = (
    Part("benchmarks.gpu", "environment", 60),
    Part("benchmarks.gpu_parts.gradients", "gradients", 75),
    Part("benchmarks.gpu_parts.step", "training", 130),
    Part("benchmarks.gpu_parts.convolutions", "convolutions", 60),
    Part("benchmarks.gpu_parts.shards", "shards", 90),
    Part("benchmarks.gpu_parts.pieces", "tam", 40),
    Part("benchmarks.gpu_parts.pieces", "s2am2", 50),
    Part("benchmarks.gpu_parts.step", "waits", 40),
    Part("benchmarks.gpu_parts.inference", "inference", 40),
    Part("benchmarks.gpu_parts.step", "graphed", 40),
    Part("benchmarks.gpu_parts.step", "benchmarked", 30),
    Part("benchmarks.gpu_parts.step", "compiled", 150),
)
"""In the order in which they run; together they may be more than the time there is."""

SHORTEST: Final = 15.0
"""Seconds that must be left for a part to be started."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts, write the file, print a table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--minutes", type=float, default=8, help="for all parts together")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script out")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], metavar="PART")
    args = parser.parse_args(arguments)
    wanted = [*args.only, "environment"] if args.only else [part.name for part in PARTS]
    chosen = [part for part in PARTS if part.name in wanted]
    setup = Setup(torch.device(args.device), args.quick)
    found = run_parts(chosen, setup, seconds=60 * args.minutes, out=args.out)
    for part in found["parts"]:
        print(f"\n{part['name']}: {part['state']} in {part['seconds']:.0f} s {part['reason']}")
        for note in part["notes"]:
            print(f"  {note}")
        if part["figures"]:
            print(table(part))
    return int(any(part["state"] == "failed" for part in found["parts"]))


def run_parts(parts: Iterable[Part], setup: Setup, *, seconds: float, out: Path) -> dict[str, Any]:
    """Run the parts within `seconds` and return what is also written to `out` after each.

    Of every part: name, state (done, missing, failed, stopped or skipped), reason, seconds, notes
    and figures.
    """
    began = time.monotonic()
    found: dict[str, Any] = {
        "title": "SAFE on a GPU",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "device": str(setup.device),
        "quick": setup.quick,
        "versions": {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
        "environment": {},
        "parts": [],
    }
    for part in parts:
        left = seconds - (time.monotonic() - began)
        entry = _run(part, setup, min(part.limit, left), found["environment"])
        found["parts"].append(entry)
        found["seconds"] = time.monotonic() - began
        with whole_file(out) as path:
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def _run(part: Part, setup: Setup, seconds: float, facts: dict[str, Any]) -> dict[str, Any]:
    """Run a part in a process of its own, and end that when its time is over."""
    entry: dict[str, Any] = {"name": part.name, "state": "skipped", "reason": "no time was left"}
    entry |= {"seconds": 0.0, "notes": [], "figures": []}
    if seconds < SHORTEST:
        return entry
    began = time.monotonic()
    # A fork has torch imported already. CUDA has never been used here, so it can be used there.
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        process = context.Process(target=_work, args=(part, setup, theirs, scratch))
        process.start()
        theirs.close()
        entry |= {"state": "stopped", "reason": f"its limit of {seconds:.0f} s was reached"}
        try:
            while ours.poll(max(0.0, began + seconds - time.monotonic())):
                kind, value = ours.recv()
                if kind == "end":
                    entry |= value
                    break
                facts.update(value) if kind == "facts" else entry[kind].append(value)
        except EOFError:
            process.join()
            entry |= {"state": "failed", "reason": f"its process ended with {process.exitcode}"}
        process.kill()  # all it had to say is here; a GPU program may be long in ending
        process.join()
    return entry | {"seconds": time.monotonic() - began}


def _work(part: Part, setup: Setup, pipe: Connection, scratch: str) -> None:
    """Run the part, and send on what it gives: a child's whole life."""
    die_with_parent()
    tempfile.tempdir = scratch  # which the parent removes, also where this process is ended
    state, reason = "done", ""
    try:
        if setup.quick:
            torch.set_num_threads(1)  # tiny tensors gain nothing from more
        if setup.device.index is not None:
            torch.cuda.set_device(setup.device)
        for item in getattr(importlib.import_module(part.module), part.function)(setup):
            if isinstance(item, Figure):
                pipe.send(("figures", asdict(item) | {"met": item.verdict}))
            else:
                pipe.send(("notes", item) if isinstance(item, str) else ("facts", item))
    except ModuleNotFoundError as error:
        of_ours = (error.name or "").split(".")[0] in ("safe", "pipeline", "report", "gpu_parts")
        state, reason = ("failed" if of_ours else "missing"), str(error)
    except Exception as error:  # noqa: BLE001  whatever it is, the other parts go on
        state, reason = "failed", f"{type(error).__name__}: {error}"
        pipe.send(("notes", traceback.format_exc()))
    pipe.send(("end", {"state": state, "reason": reason}))


def environment(setup: Setup) -> Iterable[dict[str, Any]]:
    """Which GPU is this, and what drives it?"""
    yield {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32 in convolutions": torch.backends.cudnn.allow_tf32,
        "tf32 in products": torch.backends.cuda.matmul.allow_tf32,
    }
    if setup.device.type != "cuda":
        return
    card = torch.cuda.get_device_properties(setup.device)
    yield {
        "gpu": card.name,
        "memory_gb": card.total_memory / 1e9,
        "multiprocessors": card.multi_processor_count,
        "capability": f"{card.major}.{card.minor}",
    }
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
        yield {"driver": said.stdout.split()[0]}
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        yield {"driver": f"unknown: {error}"}


if __name__ == "__main__":
    sys.exit(main())
