"""Does training from shards keep a GPU as busy as clips that are on it already?

The shards are made here, in a temporary folder: smooth random pictures, whose JPEGs have the size
of natural ones, so that decoding takes what it takes on faces.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.gpu_parts.step import count_waits
from benchmarks.gpu_parts.timing import Setup
from benchmarks.report import Figure, ratio, spread
from pipeline.tar import ShardWriter
from safe.config import Config
from safe.params import load_config, parse_config
from safe.reading.loader import Batch, load_batches
from safe.reading.shards import ShardFolder
from safe.sample import DEFAULT_FRAMES, encode_strip
from safe.taxonomy import BASIC
from safe.training.trainer import Trainer

PARAMS: Final = Path(__file__).parents[2] / "params.yaml"
DISTINCT: Final = 250
"""Pictures that are drawn; each is stored several times."""

GRAIN: Final = 4
"""Pixels a drawn number."""

CONTRAST: Final = 60
"""With GRAIN it makes JPEGs of 66 kB a clip at 128 pixels; those of natural faces have 64."""


def shards(setup: Setup) -> Iterator[Figure | str]:
    """How fast is the trainer's loop from shards, against clips on the device, and the loader?"""
    clips, batch, workers = setup.pick((2000, 32, 8), (24, 4, 2))
    config = paper_config(setup, batch, workers)
    with tempfile.TemporaryDirectory() as folder:
        made = write_folder(Path(folder), clips, config, distinct=setup.pick(DISTINCT, 8))
        size = int(made.size.mean())
        yield f"{clips} clips of {made.face_size} pixels, {size / 1000:.1f} kB each, on average"
        trainer = Trainer(config, made, 1)
        yield from _loader_alone(setup, trainer)
        yield from _loop(setup, trainer)
        yield from count_waits(setup, "safe.training.trainer.Trainer", _resident_step(trainer))


def paper_config(setup: Setup, batch: int, workers: int) -> Config:
    """Return params.yaml with the values that the paper gives, for a run without an end."""
    values = load_config(PARAMS).model_dump()
    values["shard"] |= {"size": setup.pick(128, 32)}
    values["augment"] |= {"crop": setup.pick(112, 16)}
    values["model"] |= setup.pick(
        {"backbone": "r3d_18", "hidden": 512}, {"backbone": "small", "hidden": 8}
    )
    values["train"] |= {"batch": batch, "epochs": 100_000, "lr": 5e-4, "select": "last"}
    values["runtime"] |= {"device": str(setup.device), "workers": workers}
    return parse_config(values)


def write_folder(root: Path, clips: int, config: Config, *, distinct: int) -> ShardFolder:
    """Write tars of drawn clips and return their folder, one clip in five in the test split."""
    settings = config.shard
    generator = torch.Generator().manual_seed(0)
    strips = [
        encode_strip(draw_clip(settings.size, generator), settings.quality, settings.chroma)
        for _ in range(distinct)
    ]
    writer = ShardWriter(root, clips=settings.clips, classes=BASIC)
    for number in range(clips):
        writer.add(
            f"clip-{number:06d}",
            bucket="test" if number < clips // 5 else "train",
            label=number % len(BASIC),
            strip=strips[number % distinct],
            record={"flags": ""},
        )
    writer.close()
    files = [shard["file"] for shard in writer.shards]
    column = writer.rows.to_pydict()
    return ShardFolder(
        root=root,
        index={
            "classes": list(BASIC),
            "frames": DEFAULT_FRAMES,
            "preprocessing": {"id": "drawn", "made_from": {"size": settings.size}},
        },
        clip=np.array(column["clip"]),
        label=np.array(column["label"], np.int64),
        bucket=np.array(column["bucket"]),
        shard=np.array([files.index(name) for name in column["shard"]], np.int64),
        offset=np.array(column["offset"], np.int64),
        size=np.array(column["bytes"], np.int64),
        crc32=np.array(column["crc32"], np.uint32),
        files=files,
    )


def draw_clip(side: int, generator: torch.Generator) -> np.ndarray:
    """Draw smooth random faces of one clip: uint8 [T, side, side, 3]."""
    coarse = torch.rand(DEFAULT_FRAMES, 3, *[round(side / GRAIN)] * 2, generator=generator)
    smooth = F.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False)
    pixels = (128 + CONTRAST * (smooth - 0.5)).clamp(0, 255).byte()
    return pixels.permute(0, 2, 3, 1).contiguous().numpy()


def _batches(trainer: Trainer) -> Iterator[Batch]:
    """Start the loader as safe.train does."""
    workers = trainer.config.runtime.workers
    return load_batches(trainer.folder, trainer.plan(0), workers=workers, device=trainer.device)


def _loader_alone(setup: Setup, trainer: Trainer) -> Iterator[Figure]:
    """Time the loader with nothing else to do, up to batches on the device."""
    batch, count = trainer.config.train.batch, setup.pick(100, 4)
    batches = _batches(trainer)
    rates = []
    for _ in range(setup.pick(5, 2)):
        _take(setup, batches, _read_ahead(trainer))
        rates.append(count * batch / _take(setup, batches, count))
    batches.close()
    yield spread("loader alone, to the device", rates, unit="clips/s")


def _read_ahead(trainer: Trainer) -> int:
    """How many batches may lie ready: they say nothing about the loader's rate."""
    return 2 * trainer.config.runtime.workers + 2


def _take(setup: Setup, batches: Iterator[Batch], count: int) -> float:
    """Return the seconds of `count` batches."""
    began = time.perf_counter()
    for _ in range(count):
        next(batches)
    setup.finish()
    return time.perf_counter() - began


def _loop(setup: Setup, trainer: Trainer) -> Iterator[Figure]:
    """Time steps from shards and steps on resident clips in turn.

    Before each timing from shards as many steps are taken as batches may lie ready: the loader
    filled its buffers while the other variant ran.
    """
    batch, count = trainer.config.train.batch, setup.pick(40, 2)
    batches, resident = _batches(trainer), _resident(trainer)
    steps = {"shards": batches, "resident": resident}
    found: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(-1, setup.pick(4, 1)):
        for name in ("shards", "resident") if number % 2 else ("resident", "shards"):
            _train(setup, trainer, steps[name], _read_ahead(trainer))
            seconds = _train(setup, trainer, steps[name], count)
            if number >= 0:
                found[name].append(seconds)
    batches.close()
    for name, seconds in found.items():
        rates = [count * batch / value for value in seconds]
        yield spread(f"training, {name}, batch {batch}", rates, unit="clips/s")
    what = "training from shards against clips on the device"
    yield ratio(what, found["resident"], found["shards"], least=0.95)


def _train(setup: Setup, trainer: Trainer, batches: Iterator[Batch], count: int) -> float:
    """Return the seconds of `count` steps."""
    setup.finish()
    began = time.perf_counter()
    for _ in range(count):
        trainer.train_step(next(batches))
    setup.finish()
    return time.perf_counter() - began


def _resident(trainer: Trainer) -> Iterator[Batch]:
    """Give four batches that lie on the device, over and over."""
    shape = (trainer.config.train.batch, DEFAULT_FRAMES, *[trainer.folder.face_size] * 2, 3)
    labels = torch.arange(shape[0]) % len(BASIC)
    kept = [torch.randint(256, shape, dtype=torch.uint8).to(trainer.device) for _ in range(4)]
    return cycle([Batch(faces=faces, label=labels, row=labels) for faces in kept])


def _resident_step(trainer: Trainer) -> Callable[[], None]:
    batches = _resident(trainer)
    return lambda: trainer.train_step(next(batches))
