"""The memory of the loader with few and with many shards.

    python -m tools.benchmarks.memory [--quick]

Two folders of small shards, 10 and 10,000, with 4 clips each, are read by two workers, each time in
a new process. What counts is the memory of that process and its workers in the middle of reading.
"""

import os
import tempfile
from collections.abc import Sequence
from functools import cache
from itertools import islice
from multiprocessing import active_children
from pathlib import Path
from typing import Final

import numpy as np

from tools.harness import alone, arguments, fast_scratch, held, publish, ratio, spread

FEW, MANY, CLIPS, SIDE, BATCH, WORKERS = 10, 10_000, 4, 16, 16, 2
STEPS: Final = 100
"""Batches read before the memory is looked at."""


def main() -> None:
    """Make the shards, read them in turn, print and keep the ratio."""
    quick = arguments(__doc__, "fewer shards").parse_args().quick
    counts, rounds = ((FEW, MANY // 10), 1) if quick else ((FEW, MANY), 5)
    taken: dict[int, list[float]] = {shards: [] for shards in counts}
    with tempfile.TemporaryDirectory(dir=fast_scratch()) as scratch:
        for shards in counts:
            write(Path(scratch) / str(shards), [CLIPS] * shards)
        for _ in range(rounds):
            for shards, found in taken.items():
                found.append(alone(resident, Path(scratch) / str(shards)) / 2**20)
    few, many = taken.values()
    measured = [
        spread(f"with {counts[0]} shards", few, unit="MB"),
        spread(f"with {counts[1]:,} shards", many, unit="MB"),
        ratio(f"with {counts[1]:,} shards to {counts[0]}", many, few, most=1.05),
    ]
    note = (
        f"Pss of the reading process and its {WORKERS} workers after {STEPS} batches of {BATCH} "
        f"clips; {CLIPS} clips of {SIDE} pixels a shard."
    )
    publish("memory", "Memory of the loader", measured, note=note, quick=quick)


def resident(root: Path) -> int:
    """Read batches and return the bytes that this process and its workers hold then."""
    from safe.shards.folder import open_shards
    from safe.shards.loader import load_batches
    from safe.shards.order import TrainPlan

    folder = open_shards(root)
    rows = np.arange(len(folder.label))
    plan = TrainPlan(rows, folder.shard, batch=BATCH, epochs=STEPS, seed=0)
    batches = load_batches(folder, plan, workers=WORKERS)
    for _ in islice(batches, STEPS):
        pass
    workers = [process.pid for process in active_children()]
    assert len(workers) == WORKERS  # they live as long as `batches`
    return sum(held(process, "smaps_rollup", "Pss") for process in [os.getpid(), *workers])


def write(out: Path, counts: Sequence[int], *, side: int = SIDE, grain: int = 1) -> None:
    """Write a shard folder: tar i has counts[i] clips, in five folds, of noise of `side` pixels.

    With a `grain` above 1 the noise is smooth, a number for so many pixels, of 250 clips.
    """
    # Here, so that the reading process holds what a trainer holds, and no video library.
    import cv2

    from pipeline.tars import ShardWriter, write_index
    from safe.sample import DEFAULT_FRAMES, encode_strip
    from safe.taxonomy import BASIC

    @cache
    def strip(number: int) -> bytes:
        rng = np.random.default_rng(number)
        coarse = rng.integers(98, 158, (DEFAULT_FRAMES, side // grain, side // grain, 3), np.uint8)
        smooth = [cv2.resize(one, (side, side), interpolation=cv2.INTER_CUBIC) for one in coarse]
        return encode_strip(np.stack(smooth), 90, "420")

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
                strip=encode_strip(noise, 90, "420") if grain == 1 else strip(key % 250),
                record={"label": BASIC[key % len(BASIC)], "flags": ""},
            )
        writer.close()
    made = {"id": "0" * 16, "made_from": {"size": side}}
    parts = {"shards": writer.shards, "left_out": [], "classes": BASIC}
    write_index(out, **parts, made=made, rows=writer.rows)


if __name__ == "__main__":
    main()
