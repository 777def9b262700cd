"""What does the one process that lists clips and writes tables and tars take, a clip or a MB?

It is the part that more nodes do not make faster. Each quantity is the difference between a run
with many clips and one with few, so that no start is in it.
"""

import multiprocessing
import os
import statistics
import time
from pathlib import Path
from typing import Final, NamedTuple
from unittest import mock

from benchmarks.shard_build import write_manifest
from pipeline.face.face_table import ClipFaces, write_faces
from pipeline.face.leftover import Leave, add, leaving, made_by, seal
from pipeline.face.preprocessing import preprocessing
from pipeline.index import build_index
from pipeline.shard import write_shards
from safe.config import Config

MANY: Final = 10_000
"""Clips; few are a tenth of it."""
HELD: Final = (25_000, 50_000)
"""Clips between which memory is looked at: past the two blocks of pipeline/blocks.py, which are all
objects."""
SMALL, LARGE = 1_000, 200_000
"""Bytes of a strip: nothing but its clip counts, or its bytes do."""
_TABLES: Final = ("index.json", "clips.parquet")


class Driven(NamedTuple):
    """What the driver did with some clips."""

    leave: float  # s
    pack: float  # s
    memory: float  # MB
    index: int  # bytes of index.json
    table: int  # bytes of clips.parquet


def drive(config: Config, folder: Path, face: ClipFaces, clips: int, size: int) -> Driven:
    """Write `clips` strips of `size` bytes as the driver of `faces`, then of `shard`, does."""
    folder.mkdir()
    manifest, table = write_manifest([Path(__file__)] * clips, folder / "m"), folder / "f"
    keys = [f"{number:05d}" for number in range(clips)]
    noise = os.urandom(size + clips + 512)  # strips differ in bytes, length and checksum, as real
    made = preprocessing("video", faces=config.faces, shard=config.shard)
    leave = Leave(folder / "left.zip", config.shard)
    start = time.perf_counter()
    with leaving(leave) as file:
        assert file is not None
        for number, key in enumerate(keys):
            add(file, key, noise[number : number + size + number % 512])
        write_faces(keys, [face] * clips, table)
        seal(file, made_by(table, made))
    middle, before = time.perf_counter(), _peak_mb()
    done = write_shards(
        manifest,
        table,
        folder,
        folder / "shards",
        settings=config.shard,
        faces_settings=config.faces,
        workers=1,
        deadline=60.0,
        leftover=leave.path,
    )
    assert done == {"clips": clips, "left_out": 0, "shards": -(-clips // config.shard.clips)}
    end, peak = time.perf_counter(), _peak_mb()
    index, table_bytes = ((folder / "shards" / name).stat().st_size for name in _TABLES)
    return Driven(middle - start, end - middle, peak - before, index, table_bytes)


def _peak_mb() -> float:
    """Return the most memory that this process has had (not ru_maxrss: its parent's counts too)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def driver_rates(
    config: Config,
    folder: Path,
    face: ClipFaces,
    *,
    many: int = MANY,
    held: tuple[int, int] = HELD,
) -> dict[str, float]:
    """Return leave, pack, their seconds a MB, memory, index and table: from five runs.

    `face` is the row of faces.parquet that all clips have.
    """
    few = many // 10
    runs = [("few", few, SMALL), ("many", many, SMALL), ("large", few, LARGE)]
    runs += [("held", held[0], SMALL), ("held-more", held[1], SMALL)]
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        tasks = [(config, folder / name, face, clips, size) for name, clips, size in runs]
        less, more, big, start, end = pool.starmap(drive, tasks, chunksize=1)
    clips, mb = many - few, few * (LARGE - SMALL) / 1e6
    tars = clips / config.shard.clips
    return {
        "leave": max(more.leave - less.leave, 0.0) / clips,
        "leave_mb": max(big.leave - less.leave, 0.0) / mb,
        "pack": max(more.pack - less.pack, 0.0) / clips,
        "pack_mb": max(big.pack - less.pack, 0.0) / mb,
        "memory": max(end.memory - start.memory, 0.0) / (held[1] - held[0]),
        "index": (more.index - less.index) / 1e6 / tars,
        "table": (more.table - less.table) / 1e6 / clips,
    }


def row_rate(config: Config, folder: Path, *, many: int = MANY) -> float:
    """Return the seconds that `index` takes a clip, of empty files in DFEW's layout."""
    few, times = many // 10, []
    for name, clips in (("first", few), ("few", few), ("many", many)):  # the first one warms up
        root = folder / f"listed-{name}"
        videos, lists = root / "Clip" / "original", root / config.data.splits
        videos.mkdir(parents=True)
        for number in range(1, clips + 1):
            (videos / f"{number:05d}.mp4").touch()
        for fold in range(1, 6):
            for part in ("train", "test"):
                rows = [n for n in range(1, clips + 1) if (n % 5 == fold - 1) == (part == "test")]
                path = lists / f"{part}(single-labeled)" / f"set_{fold}.csv"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("video_name,label\n" + "".join(f"{n},{n % 7 + 1}\n" for n in rows))
        start = time.perf_counter()
        build_index(config.data.model_copy(update={"root": str(root)}), root / "manifest.parquet")
        times.append(time.perf_counter() - start)
    return max(times[2] - times[1], 0.0) / (many - few)


def relay_rate(*, size: int = 75_000, batch: int = 200, rounds: int = 12) -> float:
    """Return the seconds a MB from a Dask worker through the scheduler to this process.

    Raises:
        ModuleNotFoundError: without the extra `scale`.
    """
    from distributed import Client, LocalCluster, wait

    options = {"processes": True, "threads_per_worker": 1, "dashboard_address": None}
    # Dask's nanny leaves OMP_NUM_THREADS=1 in the environment, with which the stages that are run
    # later would train on one core.
    with (
        mock.patch.dict(os.environ),
        LocalCluster(n_workers=1, **options) as cluster,
        Client(cluster) as client,
    ):
        times = []
        for _ in range(rounds):
            future = client.submit(_strips, batch, size, pure=False)
            wait(future)  # made, but not yet on its way
            start = time.perf_counter()
            assert len(future.result()) == batch
            times.append(time.perf_counter() - start)
    return statistics.median(times) / (batch * size / 1e6)


def _strips(count: int, size: int) -> list[bytes]:
    return [os.urandom(size) for _ in range(count)]
