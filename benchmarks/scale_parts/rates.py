"""Which rates has this machine, all of them, measured on clips drawn for it?

The starts of the stages are what is left of the seconds of a run of few clips when the model has
taken its clips' share. Seconds are of the wall clock, since they are to predict one: measure on a
quiet machine.
"""

import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import av

from benchmarks.scale_parts.clips import clip_rates, time_clips
from benchmarks.scale_parts.driver import MANY, driver_rates, relay_rate, row_rate
from benchmarks.scale_parts.model import Rates, Work, here
from benchmarks.scale_parts.training import training_rates
from pipeline.datasets.synthetic import synthesize
from pipeline.face.face_table import ClipFaces
from safe.config import Config
from safe.params import load_config

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
