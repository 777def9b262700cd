"""What does the one process that lists clips and writes tables and tars take, a clip or a MB?

It is the part that more nodes do not make faster. Each quantity is the difference between a run
with many clips and one with few, so that no start is in it.
"""

import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple
from unittest import mock

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.face.cache import Leave, add, leaving, made_by, seal
from pipeline.face.crop import make_strip
from pipeline.face.preprocessing import preprocessing
from pipeline.face.table import ClipFaces, write_faces
from pipeline.faces import locate, prepare
from pipeline.index import build_index
from pipeline.pool.children import Failure
from pipeline.pool.pool import Pool
from pipeline.shard import write_shards
from pipeline.synthetic.plan import synthesize
from pipeline.video.frames import read_clip
from safe.config import Config
from safe.errors import DataError
from safe.evaluation.inference import predict
from safe.params import load_config
from safe.sample import DEFAULT_FRAMES, decode_strip
from safe.shards.folder import open_shards
from safe.shards.loader import load_batches
from safe.training.device import pick_precision
from safe.training.loop import Trainer
from tools.benchmarks.scale_model import Rates, Work, here
from tools.benchmarks.shard_build import write_manifest

MANY: Final = 10_000
"""Clips; few are a tenth of it."""
HELD: Final = (25_000, 50_000)
"""Clips between which memory is looked at: past the two blocks of pipeline/manifest.py, which are
all
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
        leftover=leave.path,
        pool=Pool(workers=1, deadline=60.0),
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


# What does a clip take on its way from a video to faces in memory, part by part?
#
# Each part is timed where it runs: in two children of the engine at once.

FACES: Final = (80, 128)
"""Pixels, sides of a stored face: the demo's and the paper's."""


class Clip(NamedTuple):
    """What one clip took: seconds, and how much it was."""

    faces: ClipFaces
    read: float
    megapixels: float
    detect: float
    looks: int
    strip: float
    strips: list[bytes]
    load: float


def time_clip(path: Path, *, config: Config) -> Clip | None:
    """Do what `faces` does with a clip, and note what each part takes. In a child of the engine."""
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
    read, detect, strip, load = np.diff(marks).tolist()
    area = decoded.n_frames * decoded.width * decoded.height / 1e6
    return Clip(found, read, area, detect, count_looks(found), strip, strips, load)


@cache
def _buffer(size: int) -> NDArray[np.uint8]:
    return np.zeros(
        (DEFAULT_FRAMES, size, size, 3), dtype=np.uint8
    )  # not empty: its pages must be there


def count_looks(found: ClipFaces) -> int:
    """Return in how many frames the detector looked (pipeline/face/detect.py)."""
    steady = found.status == "ok" and not found.lost
    return sum(score > 0 for score in found.score) if steady else DEFAULT_FRAMES


def time_clips(videos: Sequence[Path], *, config: Config) -> list[Clip]:
    """Time the clips on two children at once, as in a run. What cannot be read is left out."""
    results = Pool(workers=2, deadline=60.0).run(
        partial(time_clip, config=config),
        [path.absolute() for path in videos],
        setup=partial(prepare, config.faces),
    )
    return [clip for clip in results if clip is not None and not isinstance(clip, Failure)]


def clip_rates(clips: Sequence[Clip]) -> dict[str, float]:
    """Return open, decode, look, strip, load and strip_mb. The first two are a line through all."""
    area = np.array([clip.megapixels for clip in clips])
    read = np.array([clip.read for clip in clips])
    decode, start = np.polyfit(area, read, 1)
    strips = len(clips) * DEFAULT_FRAMES * sum(size**2 for size in FACES) / 1e6
    return {
        "open": max(float(start), 0.0),
        "decode": float(decode),
        "look": sum(clip.detect for clip in clips) / sum(clip.looks for clip in clips),
        "strip": sum(clip.strip for clip in clips) / strips,
        "load": sum(clip.load for clip in clips) / strips,
        "strip_mb": sum(len(jpeg) for clip in clips for jpeg in clip.strips) / 1e6 / strips,
    }


# What does a clip take in training and in inference on this machine, the loader included?

WARM, STEPS = 3, 25
FEW, MANY_CLIPS = 32, 512
"""Clips of the two passes of inference."""


def training_rates(config: Config, shards: Path) -> dict[str, float]:
    """Return step, infer and turn (scale_parts/model.py) of params.yaml's model on some shards."""
    folder = open_shards(shards)
    config = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 100})})
    trainer = Trainer(config, folder, 1)
    workers = config.runtime.workers
    loader = load_batches(folder, trainer.plan(0), workers=workers, device=trainer.device)
    clips, start = 0, 0.0
    for number, batch in enumerate(islice(loader, WARM + STEPS)):
        if number == WARM:
            start = time.perf_counter()
        trainer.train_step(batch)
        clips += len(batch["label"]) if number >= WARM else 0
    step = (time.perf_counter() - start) / clips
    loader.close()

    def one_pass(count: int) -> float:
        rows = np.resize(np.arange(len(folder.label)), count)
        start = time.perf_counter()
        predict(
            trainer.model,
            folder,
            rows,
            crop=config.augment.crop,
            batch=config.eval.batch,
            device=trainer.device,
            precision=pick_precision(config.eval.precision, trainer.device, trains=False),
            workers=workers,
        )
        return time.perf_counter() - start

    one_pass(FEW)
    few, many = (sorted(one_pass(count) for _ in range(3))[1] for count in (FEW, MANY_CLIPS))
    infer = (many - few) / (MANY_CLIPS - FEW)
    return {"step": step, "infer": infer, "turn": max(few - FEW * infer, 0.0)}


# Which rates has this machine, all of them, measured on clips drawn for it?
#
# The starts of the stages are what is left of the seconds of a run of few clips when the model has
# taken its clips' share. Seconds are of the wall clock, since they are to predict one: measure on a
# quiet machine.

ROOT: Final = Path(__file__).parents[2]
STAGES: Final = ("index", "faces", "shard", "train", "calibrate", "eval")
WORKERS: Final = 2
CLIPS: Final = 60
"""Clips of each of two sizes that are measured."""
SIZES: Final = (128, 288)
"""Pixels, sides of their frames."""


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
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "cli", stage, "--params", str(ROOT / "params.yaml"), *words],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{stage}: {done.stderr}")
    return time.perf_counter() - start


def describe(project: Path, sets: list[str], *, looks: float) -> Work:
    """Return what the model must know of drawn clips: listed, not decoded, and not timed."""
    config, (videos, frames) = read(sets), list_videos(project)
    fold = config.synthesize.clips // 5
    return Work(
        name="drawn clips",
        clips=len(videos),
        frames=frames,
        megapixels=config.synthesize.size**2 / 1e6,
        looks=looks,
        raw_mb=sum(path.stat().st_size for path in videos) / len(videos) / 1e6,
        size=config.shard.size,
        trained=len(videos) - 2 * fold,
        selected=fold,
        tested=fold,
        epochs=config.train.epochs,
        tar=config.shard.clips,
    )


def list_videos(project: Path) -> tuple[list[Path], float]:
    """Return the videos below a folder, and their mean number of frames as containers list it."""
    videos, frames = sorted(project.rglob("*.mp4")), 0
    for path in videos:
        with av.open(str(path)) as container:
            frames += container.streams.video[0].frames
    return videos, frames / len(videos)


def measure(
    scratch: Path, *, clips: int = CLIPS, rounds: int = 3, many: int = MANY
) -> tuple[Rates, float]:
    """Measure all rates, and how often the detector looks at a drawn clip.

    What is written lies in the folder `scratch`.
    """
    project, larger = scratch / "drawn", scratch / "drawn-larger"
    sets = [*draw(project, clips=clips, size=SIZES[0], seed=101), "train.epochs=1"]
    draw(larger, clips=clips, size=SIZES[1], seed=102)
    config = read(sets)
    timed = time_clips([*list_videos(project)[0], *list_videos(larger)[0]], config=config)
    walls = [[run_stage(project, stage, sets) for stage in STAGES] for _ in range(rounds)]
    known = {
        **clip_rates(timed),
        **driver_rates(config, scratch, steady([clip.faces for clip in timed]), many=many),
        **training_rates(config, project / "data" / "synthetic" / "shards"),
        "row": row_rate(config, scratch, many=many),
        "relay_mb": relay_rate(),
    }
    rates = Rates(start=dict.fromkeys(STAGES, 0.0), **known)
    looks = statistics.mean(clip.looks for clip in timed)
    clips_only = here(rates, describe(project, sets, looks=looks), cores=WORKERS)
    middle = [statistics.median(wall) for wall in zip(*walls, strict=True)]
    start = {
        stage: max(wall - clips_only[stage], 0.0)
        for stage, wall in zip(STAGES, middle, strict=True)
    }
    return replace(rates, start=start), looks


def steady(faces: list[ClipFaces]) -> ClipFaces:
    """Return the first whole row of a face table."""
    return next(face for face in faces if face.status == "ok")
