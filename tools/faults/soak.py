"""The soak: memory, however many batches are read and clips are decoded, must not grow.

    python -m tools.faults.soak [--quick] [--batches 20000] [--clips 5000]

Two runs, each in a process of its own: batches from shards with workers, cropped and normalised as
in training; and the stage faces over videos with its children, strips included, a few damaged. Now
and then the memory of that process and of each child is looked at, with their open files. Linux
only.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

from pipeline.face.cache import StripCache
from pipeline.faces import find_faces
from pipeline.pool.pool import Pool
from pipeline.synthesize import synthesize
from safe.params import load_config
from tools.harness import ROOT, alone, arguments, fast_scratch, held, keep, table, write_manifest

CONFIG: Final = load_config(
    ROOT / "params.yaml",
    ["synthesize.clips=35", "synthesize.identities=35", "faces.detect_size=160"],
)
WORKERS: Final = 2
BATCH, SIDE, CROP = 16, 32, 16
SHARDS: Final = [7] * 100
"""Clips of the tars that are read; more tars than the loader keeps open."""
WARM: Final = 10
"""Part of a run, a tenth, after which memory is to stay: 2,000 batches, 500 clips."""
MOST: Final = 3.0
"""Per cent that memory may grow after that."""

NOTE: Final = (
    f"Batches of {BATCH} from {len(SHARDS)} tars by {WORKERS} workers, faces of {SIDE} pixels, "
    f"cropped and normalised. Clips: {CONFIG.synthesize.clips} drawn videos and two damaged ones, "
    f"over and over under other keys, through `find_faces` with {WORKERS} children, which leaves "
    "strips too. Own memory is resident memory without pages of program files, which come and go: "
    "Anonymous + Pss_Shmem of /proc/PID/smaps_rollup. A page that a fork shares counts in full in "
    "both, so it grows no memory when one writes to it; shared buffers count once. It is the "
    "median over the looks of the tenth after the warm-up, and of the last tenth. Peak is VmHWM, "
    "resident memory at its highest so far. The warm-up is a tenth of the run."
)


@dataclass(frozen=True)
class Look:
    """What the processes hold at one moment."""

    done: int
    own: dict[int, int]
    """Bytes that each process made: Anonymous and Pss_Shmem."""
    peak: dict[int, int]
    """The highest resident memory so far of each, in bytes: VmHWM."""
    files: int
    """Open files of all together."""


def look(done: int) -> Look:
    """Look at this process and those it started after `done` batches or clips."""
    processes = [os.getpid(), *children(os.getpid())]
    return Look(
        done,
        {one: held(one, "smaps_rollup", "Anonymous", "Pss_Shmem") for one in processes},
        {one: held(one, "status", "VmHWM") for one in processes},
        sum(len(list(Path(f"/proc/{one}/fd").iterdir())) for one in processes),
    )


def children(process: int) -> list[int]:
    """Return the processes that `process` started and that live, and theirs."""
    threads = Path(f"/proc/{process}/task").iterdir()
    own = [int(child) for one in threads for child in (one / "children").read_text().split()]
    return sorted(own + [more for child in own for more in children(child)])


def soak_batches(count: int, scratch: Path, *, every: int) -> list[Look]:
    """Read `count` batches from shards and crop and normalise them, as a training step does."""
    # Here, so that the children of the other run do not load torch, which theirs do not in earnest.
    import numpy as np
    import torch

    from safe.shards.folder import open_shards
    from safe.shards.loader import load_batches
    from safe.shards.order import TrainPlan
    from safe.training.transforms import CropFlip, Transforms
    from tools.benchmarks.memory import write

    torch.set_num_threads(1)
    write(scratch / "shards", SHARDS, side=SIDE)
    folder, looks = open_shards(scratch / "shards"), []
    rows = np.arange(len(folder.label))
    epochs = -(-count // (len(rows) // BATCH))
    plan = TrainPlan(rows, folder.shard, batch=BATCH, epochs=epochs, seed=0)
    prepare = Transforms([CropFlip(CROP, 0.5)])
    generator = torch.Generator().manual_seed(0)
    for done, batch in enumerate(load_batches(folder, plan, workers=WORKERS), start=1):
        prepare(batch["faces"], batch["label"], generator)
        if done % every == 0:
            looks.append(look(done))
        if done == count:
            break
    return looks


def soak_clips(
    videos: Sequence[Path], count: int, scratch: Path, *, every: int
) -> tuple[list[Look], dict[str, int]]:
    """Find the faces of `count` clips, which are `videos` over and over under other keys.

    Returns:
        The looks, and what `find_faces` counted.
    """
    looks: list[Look] = []

    def on_done(done: int) -> None:
        if done % every == 0:
            looks.append(look(done))

    listed = [videos[number % len(videos)] for number in range(count)]
    found = find_faces(
        write_manifest(scratch / "manifest.parquet", listed),
        Path("/"),
        scratch / "faces.parquet",
        settings=CONFIG.faces,
        pool=replace(Pool.of(CONFIG.runtime), workers=WORKERS),
        cache=StripCache(scratch / "strips.zip", CONFIG.shard),
        on_done=on_done,
    )
    return looks, found


def make_videos(folder: Path) -> list[Path]:
    """Draw videos, and damage two: one ends after half of its bytes, one is zeros in its middle."""
    synthesize(folder, CONFIG.synthesize, workers=1)
    videos = sorted(folder.rglob("*.mp4"))
    whole = videos[0].read_bytes()
    third = len(whole) // 3
    damaged = {
        "cut": whole[: len(whole) // 2],
        "zeros": whole[:third] + bytes(third) + whole[-third:],
    }
    for name, data in damaged.items():
        (folder / f"{name}.mp4").write_bytes(data)
    return [*videos, *(folder / f"{name}.mp4" for name in damaged)]


def judge(what: str, looks: Sequence[Look]) -> tuple[list[dict[str, Any]], list[str], bool]:
    """Say how memory went on after the first tenth: a row a process, sentences, and if all is well.

    Well is: no process held MOST per cent more, on the median or at its peak; there are the same
    processes; and there are no more open files than there were at most in the first tenth.
    """
    warm = looks[-1].done // WARM
    before = [one for one in looks if one.done <= warm]
    after = [one for one in looks if one.done >= warm]
    tenth = max(1, len(after) // WARM)
    rows = []
    for place, process in enumerate(after[0].own):
        first = median(one.own.get(process, 0) for one in after[:tenth])
        last = median(one.own.get(process, 0) for one in after[-tenth:])
        highest = after[0].peak[process], after[-1].peak.get(process, 0)
        rows.append(
            {
                "run": what,
                "process": f"child {place}" if place else "parent",
                "own, MB": first / 2**20,
                "own at the end, MB": last / 2**20,
                "growth, %": 100 * (last / first - 1),
                "peak, MB": highest[0] / 2**20,
                "growth of the peak, %": 100 * (highest[1] / highest[0] - 1),
            }
        )
    most = max(max(row["growth, %"], row["growth of the peak, %"]) for row in rows)
    same = all(one.own.keys() == after[0].own.keys() for one in after)
    files = max(one.files for one in before), max(one.files for one in after)
    sentences = [
        f"{looks[-1].done:,} {what}: after the first {warm:,}, no process grew by more than "
        f"{max(most, 0):.2f} % (at most {MOST:g} %: {'met' if most <= MOST else 'NOT met'}).",
        f"Open files of all processes together: at most {files[0]} until then, {files[1]} after. "
        f"Processes: {'the same' if same else 'NOT the same'} {len(rows)} throughout.",
    ]
    return rows, sentences, most <= MOST and same and files[1] <= files[0]


def main() -> int:
    """Run both, print and keep what came out; 1 if something grew."""
    parser = arguments(__doc__, "short")
    parser.add_argument("--batches", type=int, default=20_000)
    parser.add_argument("--clips", type=int, default=5_000)
    args = parser.parse_args()
    batches, clips = (200, 100) if args.quick else (args.batches, args.clips)
    with tempfile.TemporaryDirectory(dir=fast_scratch()) as temporary:
        scratch = Path(temporary)
        videos = make_videos(scratch / "videos")
        # Two processes, so that neither run begins with what the other left.
        read = alone(soak_batches, batches, scratch, every=max(1, batches // 100))
        faces, came = alone(soak_clips, videos, clips, scratch, every=max(1, clips // 100))
    judged = [judge("batches", read), judge("clips", faces)]
    counts = ", ".join(f"{count} {status}" for status, count in came.items())
    rows, sentences, well = (list(part) for part in zip(*judged, strict=True))
    found = {
        "title": "Soak",
        "note": NOTE,
        "summary": [*sentences[0], *sentences[1], f"What became of the clips: {counts}."],
        "rows": [*rows[0], *rows[1]],
    }
    if args.quick:
        print(*found["summary"], table(found["rows"]), sep="\n")
    else:
        keep("soak", found)
    return 0 if all(well) else 1


if __name__ == "__main__":
    raise SystemExit(main())
