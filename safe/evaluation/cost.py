"""Cost of one clip: parameters, multiply-adds, milliseconds and bytes.

In: any model that maps clips [B, C, T, H, W] to something. `count` needs shapes only and gives the
same metrics on every machine; `measure` runs the model on one device, and holds for that device.
"""

import copy
import ctypes
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from safe.config import Config, Model
from safe.models.backbones import build_backbone
from safe.models.r3d import R3D18
from safe.models.registry import SYSTEMS, build_model
from safe.training.device import pick_device

Clip = tuple[int, int, int, int]
"""Shape of one clip: C channels, T frames, H W pixels."""

PAPER_CLIP: Final[Clip] = (3, 16, 112, 112)
"""The paper's input: 16 frames of 112 x 112 pixels."""

REST: Final = "(rest)"
"""The part that belongs to no child: the model's own weights and the products in its forward."""


class Part(NamedTuple):
    """What one child of a model costs."""

    parameters: int
    multiply_adds: int  # for one clip


@dataclass(frozen=True)
class Cost:
    """What `count` found."""

    clip: Clip  # the input that multiply_adds are for
    parameters: int
    multiply_adds: int  # for one clip
    parts: dict[str, Part]  # by top-level child; they sum to the whole


@dataclass(frozen=True)
class Speed:
    """What `measure` found, by batch size."""

    device: str
    latency_ms: dict[int, float]  # milliseconds a clip
    peak_bytes: dict[int, int | None]  # None: this system does not tell


class Row(NamedTuple):
    """One model of `table`."""

    name: str
    cost: Cost
    speed: Speed | None = None


def count(model: nn.Module, *, clip: Clip = PAPER_CLIP) -> Cost:
    """Count the parameters of `model` and the multiply-adds of one clip [C, T, H, W] through it.

    Multiply-adds are half of what torch.utils.flop_counter.FlopCounterMode counts, which is two
    operations for each: products of matrices, convolutions and attention. Normalisation,
    activations, softmax, pooling and other work on single elements are not in it, nor is decoding.
    Papers often call this number FLOPs.

    The counting runs in evaluation mode on a copy of shapes without values (the meta device): it
    takes no memory and milliseconds, and there nn.LSTM and nn.MultiheadAttention fall into the
    products that they are made of; on a CPU they are one fused call that FlopCounterMode takes for
    nothing. `model` may be on any device and is not changed. A weight that two children share
    belongs to the first.

    Raises:
        ValueError: if the clip is shorter than the model's window.
        RuntimeError: if the clip does not fit otherwise, or the forward pass asks for values or
            uses a tensor that is neither parameter nor buffer.
    """
    hollow = _on_meta(model)
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        hollow(torch.empty(1, *clip))
    flops = {name: sum(by_op.values()) for name, by_op in counter.get_flop_counts().items()}
    whole = Part(sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2)

    parts, counted = {}, set[int]()
    for name, child in model.named_children():
        own = {id(p): p.numel() for p in child.parameters() if id(p) not in counted}
        counted |= own.keys()
        parts[name] = Part(sum(own.values()), flops.get(f"{type(model).__name__}.{name}", 0) // 2)
    rest = Part(
        whole.parameters - sum(part.parameters for part in parts.values()),
        whole.multiply_adds - sum(part.multiply_adds for part in parts.values()),
    )
    if any(rest):
        parts[REST] = rest
    return Cost(clip, *whole, parts)


def describe(section: Model, *, classes: int, frames: int, crop: int) -> dict[str, Any]:
    """Return the block `cost` of model.json: `count` of the network of a section of params.yaml."""
    return copy.deepcopy(
        _counted(section.model_copy(update={"weights": None}), classes, frames, crop)
    )


@lru_cache(maxsize=32)
def _counted(section: Model, classes: int, frames: int, crop: int) -> dict[str, Any]:
    network = build_model(classes=classes, frames=frames, **section.model_dump())
    found = count(network, clip=(3, frames, crop, crop))
    parts = {name: part._asdict() for name, part in found.parts.items()}
    return Part(found.parameters, found.multiply_adds)._asdict() | {"parts": parts}


def _on_meta(model: nn.Module) -> nn.Module:
    """Copy a model without its values: deepcopy takes what is in the memo for copied already."""
    memo: dict[int, object] = {id(b): b.to("meta") for b in model.buffers()}
    for p in model.parameters():
        memo[id(p)] = nn.Parameter(p.to("meta"), requires_grad=p.requires_grad)
    return copy.deepcopy(model, memo).float().eval()


@torch.inference_mode()
def measure(
    model: nn.Module,
    *,
    device: torch.device,
    clip: Clip = PAPER_CLIP,
    batches: Sequence[int] = (1, 32),
    repeats: int = 5,
) -> Speed:
    """Time a float32 copy of `model` on `device` in evaluation mode; see what memory it takes.

    Latency: milliseconds a clip, the median of `repeats` passes over clips that are already on the
    device, divided by the batch, after two others; a GPU is waited for before and after each pass.
    float32 is torch's: a GPU that has TF32 uses it for convolutions unless told otherwise.

    Peak memory: bytes above what was in use before the copy was made, so weights, input and
    everything in between, over the second pass. On a GPU these are the bytes of
    torch.cuda.max_memory_allocated: exact, without the CUDA context and what the allocator keeps in
    reserve. On a CPU it is the growth of this process's peak resident set (VmHWM of
    /proc/self/status, reset before that pass, after freed memory was given back; Linux with glibc,
    else None). That counts pages, not tensors: what other threads allocate and what lies fragmented
    too, nothing that was swapped out. Runs differ by a tenth or two.

    Raises:
        ValueError: if `batches` is empty or a number below 1.
    """
    if not batches or min(*batches, repeats) < 1:
        raise ValueError(f"batches {batches} and repeats {repeats} must be numbers from 1 up")
    before = _used(device) if _forget_peak(device) else None
    ours = copy.deepcopy(model).to(device).float().eval()
    generator = torch.Generator().manual_seed(0)
    latency: dict[int, float] = {}
    peak: dict[int, int | None] = {}
    for size in sorted(set(batches)):
        clips = torch.randn(size, *clip, generator=generator).to(device)
        ours(clips)  # loads and chooses kernels, which takes time and memory once
        _forget_peak(device)
        ours(clips)  # one pass: a heap that is used again and again also fragments
        peak[size] = None if before is None else max(0, _peak(device) - before)
        latency[size] = _median_ms(ours, clips, device, repeats) / size
    return Speed(_describe(device), latency, peak)


def _median_ms(model: nn.Module, clips: Tensor, device: torch.device, repeats: int) -> float:
    """Milliseconds of one pass."""
    wait = torch.cuda.synchronize if device.type == "cuda" else torch.cpu.synchronize
    times = []
    for _ in range(repeats):
        wait(device)
        start = time.perf_counter()
        model(clips)
        wait(device)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def _forget_peak(device: torch.device) -> bool:
    """Let the peak start again from what is in use now; False where the system cannot."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # starts CUDA too: the next call fails where nothing has
        torch.cuda.reset_peak_memory_stats(device)
        return True
    if sys.platform != "linux":
        return False
    try:
        ctypes.CDLL(None).malloc_trim(0)  # freed memory that glibc keeps would hide the growth
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM becomes VmRSS
        return True
    except (AttributeError, OSError):  # not glibc; or a container that keeps /proc to itself
        return False


def _used(device: torch.device) -> int:
    """Bytes in use now."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _status("VmRSS")


def _peak(device: torch.device) -> int:
    """Most bytes in use at any moment since `_forget_peak`."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(key: str) -> int:
    """Bytes that Linux states for this process under `key`."""
    lines = Path("/proc/self/status").read_bytes().decode(errors="replace").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU with {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def compare(config: Config, *, classes: int, timed: bool = False) -> list[Row]:
    """Return what the model of a Config costs, and what it is held against.

    Beside SAFE of any backbone: the paper's baseline, and one pass of the backbone.
    """
    settings = config.model.model_dump() | {"weights": None}
    settings |= {"classes": classes, "frames": config.shard.frames}
    models: dict[str, nn.Module]
    if config.model.name in SYSTEMS:
        models = {str(config.model.name): build_model(**settings)}
    else:
        models = {
            f"SAFE, {config.model.backbone}": build_model(**settings | {"temporal": "s2am2"}),
            "baseline (BiLSTM)": build_model(**settings | {"temporal": "bilstm"}),
            f"one pass of {config.model.backbone}": build_backbone(
                config.model.backbone, **settings
            ),
        }
        if config.model.backbone == "r3d_18":
            padded = build_model(**settings | {"temporal": "s2am2"})
            padded.backbone = R3D18(padded=True)
            models["SAFE, sums over padding too"] = padded
    device = pick_device(config.runtime.device)
    clip = (3, config.shard.frames, config.augment.crop, config.augment.crop)
    return [
        Row(
            title,
            count(model, clip=clip),
            measure(model, device=device, clip=clip) if timed else None,
        )
        for title, model in models.items()
    ]


def table(rows: Iterable[Row]) -> str:
    """Write rows and their parts as one Markdown table, and below it how the metrics were made.

    Columns for latency and memory are those of the batch sizes that any row was measured at; a row
    without a measurement is blank there. Parts are shown where there are two or more.
    """
    rows = list(rows)
    speeds = [row.speed for row in rows if row.speed]
    batches = sorted({size for speed in speeds for size in speed.latency_ms})
    head = ["model", "input", "parameters", "multiply-adds"]
    head += [f"ms a clip, batch {size}" for size in batches]
    head += [f"peak memory, batch {size}" for size in batches]
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2)]
    for name, cost, speed in rows:
        numbers = [_short(cost.parameters), _short(cost.multiply_adds)]
        latency = speed.latency_ms if speed else {}
        peak = speed.peak_bytes if speed else {}
        numbers += [_digits(latency[size]) if size in latency else "" for size in batches]
        numbers += [_megabytes(peak.get(size)) for size in batches]
        lines.append([name, " x ".join(map(str, cost.clip)), *numbers])
        for child, part in cost.parts.items() if len(cost.parts) > 1 else ():
            lines.append([f"- {child}", "", *map(_short, part), *[""] * (2 * len(batches))])
    note = "Multiply-adds: one clip, half of the operations that torch's FlopCounterMode counts."
    if devices := " and ".join(dict.fromkeys(speed.device for speed in speeds)):
        note += f" Latency (median) and memory (weights, input, activations): float32 on {devices}."
    return "\n".join([f"| {' | '.join(line)} |" for line in lines] + ["", note, ""])


def _short(number: int) -> str:
    """Three digits and a unit: 59748188160 is 59.7 G."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{_digits(number / size)} {unit}"
    return str(number)


def _digits(number: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f}"


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.0f} MB"
