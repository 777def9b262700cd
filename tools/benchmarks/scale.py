"""The rates behind docs/scale.md, measured on this machine, and a run that they must predict.

    python -m tools.benchmarks.scale [--quick]

Measures what a clip takes, part by part, on clips drawn for it; predicts index, faces and shard of
500 other clips of another size (tools/benchmarks/scale_model.py) and runs these through the command
line. Seconds are of the wall clock, since they are to predict one: measure on a quiet machine.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest import mock

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.face.cache import StripCache, add, filling, made_by, seal
from pipeline.face.crop import make_strip
from pipeline.face.preprocessing import preprocessing
from pipeline.face.table import ClipFaces, write_faces
from pipeline.faces import locate, prepare
from pipeline.index import build_index
from pipeline.pool.children import Failure
from pipeline.pool.pool import Pool
from pipeline.shard import write_shards
from pipeline.synthesize import synthesize
from pipeline.video.frames import read_clip
from safe.config import Config
from safe.errors import DataError
from safe.params import load_config
from safe.sample import DEFAULT_FRAMES, decode_strip
from tools.benchmarks.scale_model import (
    UNITS,
    Machines,
    Rates,
    Work,
    answers,
    check_table,
    faces,
    gpu_rate,
    index,
    shard,
)
from tools.harness import ROOT, Measured, alone, arguments, publish, run, write_manifest

STAGES: Final = ("index", "faces", "shard")
WORKERS: Final = 2
MANY: Final = 10_000
"""Clips of the driver's runs; few are a tenth of it."""
SMALL, LARGE = 1_000, 200_000
"""Bytes of a strip: nothing but its clip counts, or its bytes do."""
FACES: Final = (80, 128)
"""Pixels, sides of a stored face: the demo's and the paper's."""
WITHIN: Final = 0.25
"""Of the measured seconds, by which the sum of the predicted ones may be wrong."""


def main() -> None:
    """Measure, predict, run, and publish."""
    quick = arguments(__doc__, "few clips").parse_args().quick
    before = f"The load of this machine was {os.getloadavg()[0]:.1f} when the measuring began."
    few = {"clips": 35, "rounds": 1, "many": 1_000} if quick else {}
    with tempfile.TemporaryDirectory() as scratch:
        rates, detections = measure(Path(scratch), **few)
        project = Path(scratch) / "checked"
        sets = draw(project, clips=60 if quick else 500, size=224, seed=7)
        predicted = here(rates, describe(project, sets, detections))
        check = {one: [predicted[one], run_stage(project, one, sets)] for one in STAGES}
    check["sum"] = [sum(values) for values in zip(*check.values(), strict=True)]
    ratio = [check["sum"][0] / check["sum"][1]] * 3
    bounds = {"least": 1 - WITHIN, "most": 1 + WITHIN}
    measured = [
        *(
            Measured(name, *[rates[name] * factor] * 3, unit=unit)
            for name, (unit, factor, _) in UNITS.items()
        ),
        Measured("sum: predicted / measured", *ratio, **bounds),
    ]
    note = (
        f"A run of {500} drawn clips of 224 pixels through the command line, {WORKERS} workers, "
        f"against what the rates, of 120 others of 128 and 288 pixels, said of it before. {before}"
    )
    title = "What a run costs"
    publish("scale", title, measured, note=note, quick=quick, check=check)
    print(check_table(check), answers(rates, Machines(gpu_rate=gpu_rate())), sep="\n\n")


def measure(
    scratch: Path, *, clips: int = 60, rounds: int = 3, many: int = MANY
) -> tuple[Rates, float]:
    """Measure all rates, and on how many frames of a drawn clip the detector is run.

    The starts of the stages are what is left of the seconds of a run of few clips when the model
    has taken its clips' share.
    """
    project, larger = scratch / "drawn", scratch / "drawn-larger"
    sets = draw(project, clips=clips, size=128, seed=101)
    draw(larger, clips=clips, size=288, seed=102)
    config = read(sets)
    timed = time_clips([*list_videos(project)[0], *list_videos(larger)[0]], config=config)
    walls = [[run_stage(project, stage, sets) for stage in STAGES] for _ in range(rounds)]
    steady = next(clip.faces for clip in timed if clip.faces.status == "ok")
    rates = {
        **{f"start of {stage}": 0.0 for stage in STAGES},
        **clip_rates(timed),
        **driver_rates(config, scratch, steady, many=many),
        "row": row_rate(config, scratch, many=many),
        "relay_mb": relay_rate(),
    }
    detections = statistics.mean(clip.detections for clip in timed)
    clips_only = here(rates, describe(project, sets, detections))
    for stage, wall in zip(STAGES, zip(*walls, strict=True), strict=True):
        rates[f"start of {stage}"] = max(statistics.median(wall) - clips_only[stage], 0.0)
    return rates, detections


def here(rates: Rates, work: Work) -> dict[str, float]:
    """Return the seconds of each stage on this machine."""
    found = faces(rates, work, Machines(cores=WORKERS))
    stages = {"index": index(rates, work), "faces": found, "shard": shard(rates, work)}
    return {name: stage.seconds for name, stage in stages.items()}


# Drawn clips


def draw(project: Path, *, clips: int, size: int, seed: int) -> list[str]:
    """Make a project folder with drawn clips; return the overrides of params.yaml that use it."""
    sets = [f"synthesize.clips={clips}", f"synthesize.size={size}", f"synthesize.seed={seed}"]
    sets += [f"synthesize.identities={max(5, clips // 10)}", f"runtime.workers={WORKERS}"]
    config = read(sets)
    synthesize(project / config.data.root, config.synthesize, workers=WORKERS)
    return sets


def read(sets: list[str]) -> Config:
    """Return params.yaml with overrides."""
    return load_config(ROOT / "params.yaml", sets)


def run_stage(project: Path, stage: str, sets: list[str]) -> float:
    """Run a stage as a user would; return its seconds, from the start of its process to the end."""
    words = [word for override in sets for word in ("-S", override)]
    command = [sys.executable, "-m", "cli", stage, "--params", str(ROOT / "params.yaml"), *words]
    start = time.perf_counter()
    run(command, folder=project)
    return time.perf_counter() - start


def describe(project: Path, sets: list[str], detections: float) -> Work:
    """Return what the model must know of drawn clips: listed, not decoded, and not timed."""
    config, (videos, frames) = read(sets), list_videos(project)
    size = sum(path.stat().st_size for path in videos) / 1e6
    return Work(
        name="drawn clips",
        clips=len(videos),
        frames=frames,
        megapixels=config.synthesize.size**2 / 1e6,
        detections=detections,
        raw_mb=size / len(videos) / frames,
        size=config.shard.size,
        trained=len(videos),
        tar=config.shard.clips,
    )


def list_videos(project: Path) -> tuple[list[Path], float]:
    """Return the videos below a folder, and their mean number of frames as containers list it."""
    videos, frames = sorted(project.rglob("*.mp4")), 0
    for path in videos:
        with av.open(str(path)) as container:
            frames += container.streams.video[0].frames
    return videos, frames / len(videos)


# A clip on its way from a video to faces in memory, in two children of the pool at once


class Clip(NamedTuple):
    """What one clip took: seconds, and how much it was."""

    faces: ClipFaces
    read: float
    megapixels: float
    detect: float
    detections: int
    strip: float
    strips: list[bytes]
    load: float


def time_clips(videos: Sequence[Path], *, config: Config) -> list[Clip]:
    """Time the clips on two children at once, as in a run. What cannot be read is left out."""
    results = Pool(workers=WORKERS, deadline=60.0).run(
        partial(time_clip, config=config),
        [path.absolute() for path in videos],
        setup=partial(prepare, config.faces),
    )
    return [clip for clip in results if clip is not None and not isinstance(clip, Failure)]


def time_clip(path: Path, *, config: Config) -> Clip | None:
    """Do what `faces` does with a clip, and note what each part takes."""
    marks = [time.process_time()]
    try:
        decoded = read_clip(path, "video")
    except DataError:
        return None
    marks.append(time.process_time())
    found = locate(decoded, source="video", settings=config.faces)
    marks.append(time.process_time())
    sides = [config.shard.model_copy(update={"size": size}) for size in FACES]
    strips = [make_strip(decoded, found, source="video", settings=side) for side in sides]
    marks.append(time.process_time())
    for jpeg, size in zip(strips, FACES, strict=True):
        decode_strip(jpeg, size, out=_buffer(size))
    marks.append(time.process_time())
    seconds, detect, strip, load = np.diff(marks).tolist()
    area = decoded.n_frames * decoded.width * decoded.height / 1e6
    return Clip(found, seconds, area, detect, count_detections(found), strip, strips, load)


@cache
def _buffer(size: int) -> NDArray[np.uint8]:
    return np.zeros((DEFAULT_FRAMES, size, size, 3), dtype=np.uint8)  # its pages must be there


def count_detections(found: ClipFaces) -> int:
    """Return in how many frames the detector was run (pipeline/face/detect.py)."""
    steady = found.status == "ok" and not found.lost
    return sum(score > 0 for score in found.score) if steady else DEFAULT_FRAMES


def clip_rates(clips: Sequence[Clip]) -> Rates:
    """Return open, decode (a line through all clips), detect, strip, load and strip_mb."""
    area = np.array([clip.megapixels for clip in clips])
    decode, start = np.polyfit(area, np.array([clip.read for clip in clips]), 1)
    strips = len(clips) * DEFAULT_FRAMES * sum(size**2 for size in FACES) / 1e6
    return {
        "open": max(float(start), 0.0),
        "decode": float(decode),
        "detect": sum(clip.detect for clip in clips) / sum(clip.detections for clip in clips),
        "strip": sum(clip.strip for clip in clips) / strips,
        "load": sum(clip.load for clip in clips) / strips,
        "strip_mb": sum(len(jpeg) for clip in clips for jpeg in clip.strips) / 1e6 / strips,
    }


# The one process that lists clips and writes tables and tars: the part that more nodes do not make
# faster. Each rate is the difference between a run with many clips and one with few.


class Driven(NamedTuple):
    """What the driver did with some clips."""

    cache: float  # s
    pack: float  # s
    index: int  # bytes of index.json
    table: int  # bytes of clips.parquet


def drive(config: Config, folder: Path, face: ClipFaces, clips: int, size: int) -> Driven:
    """Write `clips` strips of `size` bytes as the driver of `faces`, then of `shard`, does."""
    folder.mkdir()
    manifest, table = write_manifest(folder / "m", [Path(__file__)] * clips), folder / "f"
    keys = [f"{number:05d}" for number in range(clips)]
    noise = os.urandom(size + clips + 512)  # strips differ in bytes, length and checksum, as real
    made = preprocessing("video", faces=config.faces, shard=config.shard)
    cache = StripCache(folder / "left.zip", config.shard)
    start = time.perf_counter()
    with filling(cache) as file:
        assert file is not None
        for number, key in enumerate(keys):
            add(file, key, noise[number : number + size + number % 512])
        write_faces(keys, [face] * clips, table)
        seal(file, made_by(table, made))
    middle, shards = time.perf_counter(), folder / "shards"
    stages: dict[str, Any] = {"settings": config.shard, "faces_settings": config.faces}
    limits = {"pool": Pool(deadline=60.0)}
    done = write_shards(manifest, table, folder, shards, cache=cache.path, **stages, **limits)
    assert done == {"clips": clips, "left_out": 0, "shards": -(-clips // config.shard.clips)}
    end = time.perf_counter()
    sizes = ((shards / name).stat().st_size for name in ("index.json", "clips.parquet"))
    return Driven(middle - start, end - middle, *sizes)


def driver_rates(config: Config, folder: Path, face: ClipFaces, *, many: int = MANY) -> Rates:
    """Return cache, pack, their seconds a MB, index and table, where all clips have this face."""
    few = many // 10
    runs = {"few": (few, SMALL), "many": (many, SMALL), "large": (few, LARGE)}
    less, more, big = (
        alone(drive, config, folder / name, face, *sizes) for name, sizes in runs.items()
    )
    clips, mb = many - few, few * (LARGE - SMALL) / 1e6
    return {
        "cache": max(more.cache - less.cache, 0.0) / clips,
        "cache_mb": max(big.cache - less.cache, 0.0) / mb,
        "pack": max(more.pack - less.pack, 0.0) / clips,
        "pack_mb": max(big.pack - less.pack, 0.0) / mb,
        "index": (more.index - less.index) / 1e6 / (clips / config.shard.clips),
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
    """Return the seconds a MB from a Dask worker through the scheduler to this process."""
    from distributed import Client, LocalCluster, wait

    options = {"processes": True, "threads_per_worker": 1, "dashboard_address": None}
    # Dask's nanny leaves OMP_NUM_THREADS=1 in the environment.
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


if __name__ == "__main__":
    main()
