"""Device, precision, compilation, optimizer and learning rate of a run."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal

import torch
from torch import nn

from safe.cores import cores
from safe.errors import ConfigError

if TYPE_CHECKING:  # tools/benchmarks run this file on machines without pydantic
    from safe.config import Train


def pick_device(name: str) -> torch.device:
    """Turn runtime.device into a device; `auto` is the first GPU, else the CPU.

    torch's threads are from then on at most the cores of the container, unless OMP_NUM_THREADS says
    how many they are.
    """
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > cores():
        torch.set_num_threads(cores())
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"params: runtime.device = {name}: no usable GPU here; use cpu or auto")
    if name.startswith("cuda"):  # torch takes 999 for -25
        count = torch.cuda.device_count()
        if int(name.partition(":")[2] or 0) >= count:
            raise ConfigError(f"params: runtime.device = {name}: this machine has {count} GPUs")
    return torch.device(name)


def cpu_has_bf16() -> bool:
    """Tell whether oneDNN computes in bf16 here; on other CPUs torch takes 200 times as long."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pick_precision(name: str, device: torch.device, *, trains: bool = True) -> torch.dtype:
    """Turn train.precision or eval.precision into the dtype of autocast; float32 means none.

    `auto` is bf16 on GPUs that have it.

    Raises:
        ConfigError: for bf16 where the device does not have it, and in training on a CPU: the
            weight gradient of conv3d is wrong there at depth 2, which r3d_18 has on 4-frame
            windows, and nothing but the loss would tell. Its forward pass is right.
    """
    stage = "train" if trains else "eval"
    if device.type == "cuda":
        has = torch.cuda.is_bf16_supported(including_emulation=False)
        if name == "bf16" and not has:
            raise ConfigError(
                f"params: {stage}.precision = bf16: this GPU has no bf16; use float32"
            )
        return torch.bfloat16 if has and name != "float32" else torch.float32
    if name == "bf16" and trains:
        raise ConfigError(
            "params: train.precision = bf16: gradients of conv3d in bf16 are wrong on a CPU; "
            "use float32 or auto"
        )
    if name == "bf16" and not cpu_has_bf16():
        raise ConfigError(
            "params: eval.precision = bf16: this CPU has no bf16 (on x86: AVX-512), and would take "
            "hundreds of times as long; use float32"
        )
    return torch.bfloat16 if name == "bf16" else torch.float32


REPAID: Final = 3_000
"""Training steps from which torch.compile saves more time than it takes: on an H200 it took 42 s
and saved 15 of the 56 ms of a step of r3d_18."""


def pick_compile(
    value: Literal["auto"] | bool,
    device: torch.device,
    *,
    steps: int,
    plain: bool,
    on_note: Callable[[str], None] | None = None,
) -> bool:
    """Turn train.compile into whether the network is compiled.

    `steps` are those of the run; `plain` is whether it is one process and recomputes nothing.
    `on_note` is told if `auto` does without what cannot be compiled.

    Raises:
        ConfigError: for true where torch cannot compile, as without a C++ compiler, or without a
            folder to write to.
    """
    pays = device.type == "cuda" and plain and steps >= REPAID
    if value is False or (value == "auto" and not pays):
        return False
    try:
        new = (
            1 + time.time_ns() % 10**9
        )  # what an earlier run compiled, and torch kept, proves nothing
        torch.compile(lambda x: torch.sin(x) * new)(torch.zeros(2, device=device))
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        if value == "auto":
            if on_note is not None:
                on_note(f"training is not compiled: torch cannot compile here ({reason})")
            return False
        raise ConfigError(
            f"params: train.compile = true: torch cannot compile here ({reason}); use false"
        ) from error
    return True


def build_optimizer(settings: Train, *modules: nn.Module) -> torch.optim.AdamW:
    """Make AdamW; weight decay on matrices and kernels only, not on biases, norms, w_a, alpha.

    On a GPU all parameters are updated by one kernel ("fused"). Not on a CPU, where that one rounds
    otherwise.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = all(p.device.type == "cuda" for p in parameters)
    return torch.optim.AdamW(groups, lr=settings.lr, fused=fused or None)


def learning_rate(settings: Train, step: int, steps_an_epoch: int) -> float:
    """Linear warm-up over train.warmup epochs, then a cosine from lr to lr_min, by step.

    The last step of the run has lr_min, unless all of the run is warm-up.
    """
    warmup = round(settings.warmup * steps_an_epoch)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    last = settings.epochs * steps_an_epoch - 1
    share = (step - warmup) / max(1, last - warmup)
    return settings.lr_min + (settings.lr - settings.lr_min) * (1 + math.cos(math.pi * share)) / 2
