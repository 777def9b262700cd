"""What do TAM and S2AM2 take of a training step on a GPU?

Each alone, beside what it is measured by: torch.where on the same bytes, cuDNN's LSTM.
"""

import copy
from collections.abc import Callable, Generator, Iterator
from functools import partial
from itertools import cycle
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.gpu_parts.gradients import tf32
from benchmarks.gpu_parts.model import MIXING, WINDOWS, K
from benchmarks.gpu_parts.timing import Setup, queued, step_seconds, wall
from benchmarks.report import Figure, ratio, spread
from safe.networks.stm import S2AM2, BiLSTM
from safe.training.tam import TAM


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
