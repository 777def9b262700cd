"""Which share of the card's bf16 rate do r3d_18's convolutions reach, on these very shapes?

Each alone, as SAFE runs it, beside the card's own rates and the whole training step.
"""

import math
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu_parts.model import WINDOWS, crop_size
from benchmarks.gpu_parts.timing import Setup, queued, step_seconds
from benchmarks.report import Figure, ratio, spread
from safe.networks.r3d import R3D18, StemConv


class Conv(NamedTuple):
    """A convolution of r3d_18, in two or three dimensions, and what it is given."""

    inner: int
    outer: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    given: tuple[int, ...]  # inputs a window, C, and T, H, W or H, W of each

    @property
    def multiply_adds(self) -> int:
        """Of one window, forward."""
        sizes = zip(self.given[2:], self.padding, self.kernel, self.stride, strict=True)
        out = [(size + 2 * pad - kernel) // stride + 1 for size, pad, kernel, stride in sizes]
        return math.prod((self.given[0], self.inner, self.outer, *self.kernel, *out))

    def __str__(self) -> str:
        kernel, given = ("x".join(map(str, sizes)) for sizes in (self.kernel, self.given[2:]))
        return f"{self.inner} to {self.outer}, {kernel} / {self.stride[-1]}, on {given}"


def convolutions(setup: Setup) -> Iterator[Figure | str]:
    """Which share of the card's bf16 rate do r3d_18's convolutions reach, and of the step?"""
    batch, rounds = setup.pick((32, 10), (1, 1))
    products, matrix = yield from _card(setup, rounds)
    yield f"each convolution alone, {batch} clips, {batch * WINDOWS} windows, channels last"
    yield "sums over padding and zeros count as work, but not in the lines of the training step"
    sums = {"forward": [0.0] * rounds, "forward and backward": [0.0] * rounds}
    work = dict.fromkeys(sums, 0.0)
    for conv, times in list_convs(crop_size(setup), setup.device).items():
        runs, flops = _runs(setup, conv, batch * WINDOWS)
        found, late = queued(setup, runs, rounds=rounds, inner=setup.pick(3, 1))
        yield from late
        for name, seconds in found.items():
            rates = [flops[name] / value / 1e12 for value in seconds]
            yield spread(f"{times} x ({conv}), {name}", rates, unit="TFLOP/s")
            work[name] += times * flops[name]
            sums[name] = [a + times * b for a, b in zip(sums[name], seconds, strict=True)]
    for name, seconds in sums.items():
        rates = [work[name] / value / 1e12 for value in seconds]
        yield spread(f"all convolutions, {name}", rates, unit="TFLOP/s")
        yield ratio(f"all convolutions, {name}: share of the matrix product's rate", rates, matrix)
    steps = step_seconds(setup, setup.pick(32, 4), rounds)
    both = sums["forward and backward"]
    yield ratio("convolutions alone, share of the training step", both, steps)
    needed = list_convs(crop_size(setup), torch.device("meta"))
    flops = sum(times * _flops(conv, batch * WINDOWS, 3) for conv, times in needed.items())
    rates = [flops / value / 1e12 for value in steps]
    yield spread("training step, its convolutions' work over its time", rates, unit="TFLOP/s")
    yield ratio("training step, share of the matrix product's rate", rates, matrix)
    yield f"the matrix product: {products}"


def _card(setup: Setup, rounds: int) -> Generator[Figure, None, tuple[str, list[float]]]:
    """Yield the rates of a large product of matrices and of a large copy; return the first."""
    size, numbers = setup.pick(8192, 64), setup.pick(2**31, 2**16)
    left, right = (torch.randn(size, size, device=setup.device) for _ in range(2))
    left, right = left.to(setup.precision), right.to(setup.precision)
    source = torch.randint(256, (numbers,), dtype=torch.uint8, device=setup.device)
    target = torch.zeros_like(source)
    runs = {"product": partial(torch.mm, left, right), "copy": partial(target.copy_, source)}
    found, _ = queued(setup, runs, rounds=rounds)
    what = f"product of matrices, {size} a side, {str(setup.precision).removeprefix('torch.')}"
    rates = [2 * size**3 / value / 1e12 for value in found["product"]]
    yield spread(what, rates, unit="TFLOP/s")
    copied = [2 * numbers / value / 1e12 for value in found["copy"]]
    yield spread("copy on the device, bytes read and written", copied, unit="TB/s")
    return what, rates


def list_convs(side: int, device: torch.device) -> Counter[Conv]:
    """Count the equal convolutions of r3d_18 on windows of 4 frames, as `device` is asked for them.

    Those of a CPU, which leave out most sums over padding, for the device meta, on shapes alone.
    """
    found: Counter[Conv] = Counter()

    class Note(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.convolution.default:
                x, weight, _, stride, padding = args[:5]
                outer, inner, *kernel = weight.shape
                sizes = map(tuple, (kernel, stride, padding, x.shape))
                found[Conv(inner, outer, *sizes)] += 1
            return func(*args, **(kwargs or {}))

    with torch.device(device), torch.no_grad(), Note():
        R3D18().eval()(torch.zeros(1, 3, 4, side, side))
    return found


def _flops(conv: Conv, windows: int, passes: int) -> float:
    """Return the operations forward (1 pass) and of the gradients (1 each) of weight and input."""
    of_clip = conv.inner in (3, StemConv.channels)  # which needs no gradient
    return 2.0 * windows * conv.multiply_adds * (passes - (of_clip and passes == 3))


def _runs(
    setup: Setup, conv: Conv, windows: int
) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
    """Return the runs of one convolution, and their floating-point operations."""
    place = {"device": setup.device, "dtype": setup.precision}
    flat = len(conv.kernel) == 2
    kind, form = (nn.Conv2d, torch.channels_last) if flat else (nn.Conv3d, torch.channels_last_3d)
    layer = kind(
        conv.inner, conv.outer, conv.kernel, conv.stride, conv.padding, bias=False, **place
    ).to(memory_format=form)
    x = torch.randn(windows * conv.given[0], *conv.given[1:], **place).to(memory_format=form)
    x.requires_grad_(conv.inner not in (3, StemConv.channels))
    with torch.no_grad():
        pull = torch.randn_like(layer(x))
    wanted = [layer.weight, *([x] if x.requires_grad else [])]

    def forward() -> None:
        with torch.no_grad():
            layer(x)

    def both() -> None:
        torch.autograd.grad(layer(x), wanted, pull)

    return (
        {"forward": forward, "forward and backward": both},
        {"forward": _flops(conv, windows, 1), "forward and backward": _flops(conv, windows, 3)},
    )
