"""Does the memory of the loader grow with the number of shards?

    python -m tools.benchmarks.memory [--quick]

Two folders of small shards, 10 and 10,000, with 4 clips each, are read by two workers, each time in
a fresh process. What counts is the resident memory of that process and its workers in the middle of
reading (Pss of /proc/PID/smaps_rollup: a page that n processes share counts 1/n in each).
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import islice
from multiprocessing import active_children
from pathlib import Path
from typing import Final

import numpy as np

from safe.sample import DEFAULT_FRAMES, encode_strip
from safe.shards.folder import open_shards
from safe.shards.loader import load_batches
from safe.shards.order import TrainPlan
from safe.taxonomy import BASIC
from tools.benchmarks.report import publish, ratio, spread

FEW, MANY, CLIPS, SIDE, BATCH, WORKERS = 10, 10_000, 4, 16, 16, 2
STEPS: Final = 100
"""Batches read before the memory is looked at."""


def main() -> None:
    """Make the shards, read them in turn, print and keep the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer shards, kept nowhere")
    parser.add_argument("--read", type=Path, help="print the memory while this folder is read")
    args = parser.parse_args()
    if args.read:
        print(resident(args.read))
        return
    counts, rounds = ((FEW, MANY // 10), 1) if args.quick else ((FEW, MANY), 5)
    taken: dict[int, list[float]] = {shards: [] for shards in counts}
    quickest = "/dev/shm" if Path("/dev/shm").is_dir() else None  # each tar is flushed to the disk
    with tempfile.TemporaryDirectory(dir=quickest) as scratch:
        for shards in counts:
            write(Path(scratch) / str(shards), [CLIPS] * shards)
        for _ in range(rounds):
            for shards in counts:
                command = [
                    sys.executable,
                    "-m",
                    "tools.benchmarks.memory",
                    "--read",
                    f"{scratch}/{shards}",
                ]
                printed = subprocess.run(command, check=True, capture_output=True, text=True)
                taken[shards].append(float(printed.stdout) / 2**20)
    few, many = taken.values()
    if args.quick:
        print(f"{few[0]:.1f} MB with {counts[0]} shards, {many[0]:.1f} MB with {counts[1]}")
        return
    publish(
        "memory",
        "Memory of the loader",
        [
            spread(f"with {counts[0]} shards", few, unit="MB"),
            spread(f"with {counts[1]:,} shards", many, unit="MB"),
            ratio(f"with {counts[1]:,} shards to {counts[0]}", many, few, most=1.05),
        ],
        note=f"Pss of the reading process and its {WORKERS} workers after {STEPS} batches of "
        f"{BATCH} clips; {CLIPS} clips of {SIDE} pixels a shard.",
    )


def resident(root: Path) -> int:
    """Read batches and return the bytes that this process and its workers hold then."""
    folder = open_shards(root)
    rows = np.arange(len(folder.label))
    plan = TrainPlan(rows, folder.shard, batch=BATCH, epochs=STEPS, seed=0)
    batches = load_batches(folder, plan, workers=WORKERS)
    for _ in islice(batches, STEPS):
        pass
    assert len(active_children()) == WORKERS  # they live as long as `batches`
    return sum(pss(process) for process in [os.getpid(), *(p.pid for p in active_children())])


def pss(process: int) -> int:
    """Return the proportional share of resident memory in bytes."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def write(out: Path, counts: Sequence[int], *, side: int = SIDE) -> None:
    """Write a shard folder: tar i has counts[i] clips, each of its own noise of `side` pixels."""
    # Here, so that the reading process holds what a trainer holds, and no video library.
    from pipeline.tars import ShardWriter, write_index

    out.mkdir()
    generator = np.random.default_rng(0)
    writer = ShardWriter(out, clips=max(counts), classes=BASIC)
    for number in range(len(counts)):
        for key in range(sum(counts[:number]), sum(counts[: number + 1])):
            noise = generator.integers(0, 256, (DEFAULT_FRAMES, side, side, 3), np.uint8)
            writer.add(
                f"{key:06d}",
                bucket=f"fold{1 + number * 5 // len(counts)}",
                label=key % len(BASIC),
                strip=encode_strip(noise, 90, "420"),
                record={"label": BASIC[key % len(BASIC)], "flags": ""},
            )
        writer.close()
    made = {"id": "0" * 16, "made_from": {"size": side}}
    parts = {"shards": writer.shards, "left_out": [], "classes": BASIC}
    write_index(out, **parts, made=made, rows=writer.rows)


if __name__ == "__main__":
    main()
