"""The time and memory of a list of ten million clips, from its rows to the order of an epoch.

    python -m tools.benchmarks.rows [--quick] [--only ROWS]

No clip is decoded and no tar is written: the list, in no order, names one file that is there (one
that is not takes `index` longer), faces are drawn from a pool of a thousand tracks, and tars are
empty files of the right length. All else is what the stages run: the list becomes a manifest, the
faces a table, both the shards' index.json and clips.parquet, which are opened and give the order of
an epoch. Each step is a process of its own: its seconds, and the most memory that was resident.
"""

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from safe.params import load_config
from safe.sample import DEFAULT_FRAMES
from safe.taxonomy import BASIC, Classes
from tools.harness import ROOT, Measured, alone, arguments, held, publish

SIZES: Final = (10_000, 100_000, 1_000_000, 10_000_000)
SECONDS: Final = 600
MEMORY: Final = 4.0  # GiB
TAR: Final = 200  # clips
BYTES: Final = 1024  # of a stand-in for a JPEG
EACH: Final = BYTES + 2560  # that a clip takes in a tar


def write_list(root: Path, rows: int) -> None:
    """Write a CSV list in five folds, of which the first file is there."""
    (root / "clips/0000").mkdir(parents=True)
    (root / "clips/0000/c00000000.mp4").write_bytes(b"x")
    with (root / "list.csv").open("w", encoding="utf-8") as file:
        file.write("path,label,split\n")
        for line in range(rows):
            row = line * 7919 % rows  # each once, since rows is a power of ten
            label = BASIC[row % len(BASIC)]
            file.write(f"clips/{row // 10_000:04d}/c{row:08d}.mp4,{label},{row // 7 % 5 + 1}\n")


def index(root: Path) -> None:
    """List to manifest."""
    from pipeline.index import build_index
    from safe.config import Data

    data = Data(name="own", root=str(root), splits="list.csv", source="video", folds=[1])
    build_index(data, root / "manifest.parquet")


def faces(root: Path) -> None:
    """Manifest to a table of faces, 16 boxes a clip."""
    from pipeline.face.table import ClipFaces, write_faces
    from pipeline.manifest import Rows, read_manifest

    clips = read_manifest(root / "manifest.parquet").select(["clip"])
    generator = np.random.default_rng(0)
    pool = []
    for _ in range(1000):
        box = tuple(map(tuple, (generator.random((DEFAULT_FRAMES, 4), np.float32) * 600).tolist()))
        score = tuple(generator.random(DEFAULT_FRAMES, np.float32).tolist())
        pool.append(ClipFaces("ok", "", 74, 25.0, 608, 608, tuple(range(0, 64, 4)), box, score))
    write_faces(
        Rows(clips, str), (pool[row % 1000] for row in range(len(clips))), root / "faces.parquet"
    )


def shard(root: Path) -> None:
    """Both tables to the order of the tars, every clip with its face, index.json, clips.parquet."""
    from pipeline.face.cache import made_by
    from pipeline.face.preprocessing import preprocessing
    from pipeline.shard import plan_shards
    from pipeline.tars import ClipRows, write_index

    config = load_config(ROOT / "params.yaml")
    plan = plan_shards(root / "manifest.parquet", root / "faces.parquet", missing="center")
    made = preprocessing("video", faces=config.faces, shard=config.shard)
    made_by(root / "faces.parquet", made)
    folder = root / "shards"
    folder.mkdir()
    rows, shards, labels = ClipRows(), list[dict[str, Any]](), list[int]()
    numbers, bucket, name = Counter[str](), "", ""
    for clip in plan.clips:
        if clip.bucket != bucket or len(labels) == TAR:
            _close(folder, name, labels, shards, plan.classes)
            bucket, labels = clip.bucket, []
            name = f"{bucket}-{numbers[bucket]:06d}.tar"
            numbers[bucket] += 1
        assert len(clip.face.box) == DEFAULT_FRAMES
        offset = 512 + len(labels) * EACH
        labels.append(clip.label)
        row = {"clip": clip.key, "label": clip.label, "bucket": bucket, "shard": name, "flags": ""}
        rows.add(row | {"offset": offset, "bytes": BYTES, "crc32": 0})
    _close(folder, name, labels, shards, plan.classes)
    table = rows.table()
    left_out = plan.settle(table["clip"], plan.left_out)
    parts = {"shards": shards, "left_out": left_out, "classes": plan.classes}
    write_index(folder, **parts, made=made, rows=table)


def _close(
    folder: Path, name: str, labels: list[int], shards: list[dict[str, Any]], classes: Classes
) -> None:
    """Make an empty tar of one length for all, and say what is in it."""
    if not name:
        return
    size, first = (TAR + 1) * EACH, folder.parent / "empty.tar"
    if not shards:
        first.touch()
        os.truncate(first, size)  # no byte of it is on the disk
    os.link(first, folder / name)  # to make 50,000 files would take longer than all else
    counts = Counter(classes[label] for label in labels)
    about = {"file": name, "bucket": name[:-11], "sha256": "0" * 64, "bytes": size}
    by_class = {word: counts[word] for word in classes}
    shards.append(about | {"clips": len(labels), "classes": by_class})


def plan(root: Path) -> None:
    """Open the folder and order an epoch."""
    from safe.shards.folder import open_shards
    from safe.shards.order import TrainPlan

    folder = open_shards(root / "shards")
    train, _ = folder.split(1)
    batches = TrainPlan(train, folder.shard, batch=32, epochs=1, seed=0)
    seen = sum(len(batch) for batch in batches)
    assert seen + batches.left_out == len(train)


STEPS: Final[dict[str, Callable[[Path], None]]] = {
    one.__name__: one for one in (index, faces, shard, plan)
}


def take(name: str, root: Path) -> int:
    """Take a step and return the most memory that it had, bytes."""
    STEPS[name](root)
    return held("self", "status", "VmHWM")


def measure(rows: int) -> dict[str, tuple[float, float]]:
    """Return seconds and GiB of each step, each in a process of its own, its start included."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        write_list(Path(folder), rows)
        for name in STEPS:
            start = time.perf_counter()
            most = alone(take, name, Path(folder))
            found[name] = (time.perf_counter() - start, most / 2**30)
            print(f"{rows:>10,} rows, {name}: {found[name]}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Measure every size and print the table."""
    parser = arguments(__doc__, "up to a million rows")
    parser.add_argument("--only", type=int, help="one size; keeps nothing")
    args = parser.parse_args()
    sizes = (args.only,) if args.only else SIZES[:3] if args.quick else SIZES
    measured, totals = list[Measured](), []

    def add(what: str, value: float, unit: str = "x", most: float | None = None) -> None:
        measured.append(Measured(what, value, value, value, unit=unit, most=most))

    for rows in sizes:
        steps = measure(rows)
        last = rows == SIZES[-1]
        totals.append(sum(seconds for seconds, _ in steps.values()))
        most = max(memory for _, memory in steps.values())
        add(f"{rows:,} rows, list to plan", totals[-1], "s", SECONDS if last else None)
        add(f"{rows:,} rows, most memory", most, "GiB", MEMORY if last else None)
    for name, (seconds, memory) in steps.items():
        add(f"{sizes[-1]:,} rows, {name}", seconds, "s")
        add(f"{sizes[-1]:,} rows, {name}: memory", memory, "GiB")
    for (few, before), (many, after) in pairwise(zip(sizes, totals, strict=True)):
        add(f"time a row, {many:,} to {few:,}", after / before / (many / few))
    note = f"No clip decoded, no tar written; {TAR} clips a tar. Each step a process, run once."
    publish("rows", "Ten million rows", measured, note=note, quick=bool(args.quick or args.only))


if __name__ == "__main__":
    main()
