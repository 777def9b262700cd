"""What do TAM and S2AM2 take of a training step on a GPU?

Each alone, beside what it is measured by: torch.where on the same bytes, cuDNN's LSTM.
"""

import copy
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.tars import ShardWriter
from safe.config import Config
from safe.models.backbones import fold_norms
from safe.models.safe import S2AM2, BiLSTM
from safe.params import load_config, parse_config
from safe.sample import DEFAULT_FRAMES, encode_strip
from safe.shards.folder import ShardFolder
from safe.shards.loader import Batch, load_batches
from safe.shards.source import LocalShards
from safe.taxonomy import BASIC
from safe.training.loop import Trainer
from safe.training.tam import TAM
from safe.training.transforms import center_crop, normalize
from tools.benchmarks.gpu import (
    MIXING,
    WINDOWS,
    K,
    Setup,
    build_safe,
    crop_size,
    draw_faces,
    queued,
    rate,
    step_seconds,
    wall,
)
from tools.benchmarks.gpu_training import count_waits, tf32
from tools.benchmarks.report import Figure, ratio, spread


def tam(setup: Setup) -> Iterator[Figure | str]:
    """What does TAM take, against torch.where on the same bytes, and of the step?"""
    batch, side, rounds = setup.pick((32, 112, 15), (4, 32, 1))
    yield f"uint8 [{batch}, 16, {side}, {side}, 3]; four batches in turn, more than the cache holds"
    shape = (batch, 16, side, side, 3)
    batches = [torch.randint(256, shape, dtype=torch.uint8, device=setup.device) for _ in range(4)]
    labels, generator = torch.arange(batch) % K, torch.Generator().manual_seed(0)
    mixer = TAM(**MIXING)
    patches = torch.rand(batch, 1, side // 16, side // 16, 1, device=setup.device) < 0.5
    masks = patches.repeat_interleave(16, 2).repeat_interleave(16, 3)  # [B, 1, H, W, 1]
    turns = {name: cycle(range(4)) for name in ("where", "tam")}

    def where() -> None:
        i = next(turns["where"])
        torch.where(masks, batches[i - 1], batches[i])

    def mix() -> None:
        mixer(batches[next(turns["tam"])], labels, generator)

    runs = {"where": where, "tam": mix}
    found, late = queued(setup, runs, rounds=rounds, inner=4)
    yield from late
    yield _micro("TAM, of the GPU", found["tam"])
    yield _micro("torch.where on one batch, of the GPU", found["where"])
    yield ratio("TAM's speed against torch.where", found["where"], found["tam"], least=0.5)
    hosts = wall(setup, runs, rounds=rounds, inner=4)
    yield _micro("TAM, with the host's own time", hosts["tam"])
    steps = step_seconds(setup, batch, rounds)
    yield ratio("TAM, share of the training step", found["tam"], steps, most=0.01)


def _micro(what: str, seconds: list[float]) -> Figure:
    return spread(what, [1e6 * value for value in seconds], unit="us")


class Rivals(NamedTuple):
    """S2AM2 and cuDNN's LSTM at the size that the paper's model has, and what they are given."""

    ours: S2AM2
    lstm: BiLSTM
    x: Tensor  # [B, N, D]
    pull: Tensor  # [B, N, 2 D]


def _rivals(setup: Setup) -> Rivals:
    batch, width = setup.pick((32, 512), (4, 16))
    ours, lstm = (made(width, width).to(setup.device) for made in (S2AM2, BiLSTM))
    shapes = (batch, WINDOWS, width), (batch, WINDOWS, 2 * width)
    return Rivals(ours, lstm, *(torch.randn(shape, device=setup.device) for shape in shapes))


def s2am2(setup: Setup) -> Iterator[Figure | str]:
    """What does S2AM2 take forward and backward, against cuDNN's LSTM and of the step?"""
    ours, lstm, x, pull = _rivals(setup)
    yield f"batch {len(x)}, {WINDOWS} steps, {x.shape[2]} wide, both directions, under autocast"
    yield "float32: without tf32, which cuDNN would take and other products not, as torch sets it"
    both = partial(_both_ways, setup, x.to(setup.precision), pull)

    def wide(module: nn.Module) -> None:
        with tf32(on=False):
            _both_ways(setup, x, pull, module, precision=torch.float32)

    runs = {
        "S2AM2": partial(both, ours),
        "LSTM": partial(both, lstm),
        "S2AM2, float32": partial(wide, ours),
        "LSTM, float32": partial(wide, lstm),
    }
    if setup.device.type == "cuda":
        half = partial(_both_ways, setup, x.half(), pull, precision=torch.float32)
        runs["LSTM, float16 weights"] = partial(half, copy.deepcopy(lstm).half())
        with setup.autocast():
            yield f"cuDNN computes the LSTM: {'Cudnn' in _made_by(lstm(x.to(setup.precision)))}"
    rounds = setup.pick(20, 1)
    own = yield from _compare(setup, runs, rounds)
    steps = step_seconds(setup, len(x), rounds)
    yield ratio("S2AM2, share of the training step", own, steps, most=0.02)


def _both_ways(
    setup: Setup, x: Tensor, pull: Tensor, module: Any, precision: torch.dtype | None = None
) -> tuple[Tensor, ...]:
    """Return the gradients of the input and of the weights."""
    x = x.detach().requires_grad_()
    with setup.autocast(precision):
        out = module(x)
    return torch.autograd.grad(out, [x, *module.parameters()], pull.to(out.dtype))


def _compare(
    setup: Setup, runs: dict[str, Callable[[], object]], rounds: int
) -> Generator[Figure | str, None, list[float]]:
    """Yield each run's time, and the first against LSTM, with and without the host's part.

    Returns:
        The GPU's own seconds of the first run.
    """
    first = next(iter(runs))
    found, late = queued(setup, runs, rounds=rounds)
    yield from late
    hosts = wall(setup, runs, rounds=rounds, inner=setup.pick(5, 1))
    for where, seconds in (("of the GPU", found), ("with the host", hosts)):
        for name, values in seconds.items():
            yield _micro(f"{name}, {where}", values)
        what = f"{first} against cuDNN's LSTM, {where}"
        yield ratio(what, seconds[first], seconds["LSTM"], most=2)
        if "LSTM, float32" in seconds:
            pair = seconds["S2AM2, float32"], seconds["LSTM, float32"]
            yield ratio(f"{what}, float32", *pair, most=2)
    return found[first]


def _made_by(out: Tensor) -> str:
    """Return the names of the last few operations that made `out`."""
    names, open_ = "", [out.grad_fn]
    for _ in range(8):
        if open_ and (node := open_.pop(0)) is not None:
            names += node.name() + " "
            open_ += [following for following, _ in node.next_functions]
    return names


# How many clips a second does SAFE recognise on a GPU, and how long does one clip take?


@torch.inference_mode()
def infer(model: nn.Module, faces: Tensor, setup: Setup, precision: torch.dtype) -> Tensor:
    """Return the logits [B, K] of faces on the device, as safe.evaluation.inference makes them."""
    clips = normalize(center_crop(faces, crop_size(setup)))
    with setup.autocast(precision):
        return model(clips).logits


def inference(setup: Setup) -> Iterator[Figure | str]:
    """How many clips a second, and how long for one clip?"""
    yield "from uint8 faces on the device to logits; tf32 as torch sets it"
    model = fold_norms(build_safe(setup))
    rounds, inner = setup.pick((15, 5), (1, 1))
    precisions = {str(p).removeprefix("torch."): p for p in (torch.float32, torch.bfloat16)}
    for batch in (setup.pick(32, 4), 1):
        faces, _ = draw_faces(setup, batch)
        runs = {name: partial(infer, model, faces, setup, p) for name, p in precisions.items()}
        if batch == 1:
            found = wall(setup, runs, rounds=4 * rounds)
            for name, seconds in found.items():
                milliseconds = [1000 * value for value in seconds]
                yield spread(f"inference, {name}, one clip", milliseconds, unit="ms")
            continue
        found = wall(setup, runs, rounds=rounds, inner=inner)
        for name, seconds in found.items():
            yield rate(f"inference, {name}, batch {batch}", batch, seconds)
        yield ratio(f"inference, bf16 against float32, batch {batch}", *found.values())


# Does training from shards keep a GPU as busy as clips that are on it already?
#
# The shards are made here, in a temporary folder: smooth random pictures, whose JPEGs have the size
# of natural ones, so that decoding takes what it takes on faces.

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
        yield from count_waits(setup, "safe.training.loop.Trainer", _resident_step(trainer))


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
        source=LocalShards(root),
        index={
            "shards": {"file": np.array(files)},
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
    """Start the loader as safe.training.train does."""
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
