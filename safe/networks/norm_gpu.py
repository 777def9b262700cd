"""How does a GPU normalise, add and cut off at zero in few passes through memory?

    y = max(0, (x - mean) / sqrt(variance + eps) * weight + bias + added)

torch has no kernels for BatchNorm in the memory format channels_last_3d: it makes a float32 copy
and takes general ones, and what is added and the ReLU are passes of their own. Here x is read twice
forward (for the sums, for y) and twice backward. Sums are in float32, about the first pixel of each
channel, without which the difference of two large sums would be the variance of a distant mean.
Shapes: B clips, C channels, T frames, H W pixels; P programs share the B T H W rows of a sum.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, WIDE = 32, 64
"""Rows and channels that a program has at a time."""

PROGRAMS = 1024
"""The most that share the rows of a sum."""


class NormRelu(torch.autograd.Function):
    """BatchNorm in training, what is added, and ReLU; for float32, bfloat16 and float16."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        added: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        settings: tuple[float, float, bool],
    ) -> Tensor:
        """Return y of x, channels_last_3d.

        Args:
            ctx: of autograd.
            x: [B, C, T, H, W], channels_last_3d.
            added: of x's shape, or None.
            weight: float32 [C].
            bias: float32 [C].
            running_mean: float32 [C], renewed in place.
            running_var: float32 [C], renewed in place.
            settings: eps, momentum, whether there is a ReLU.
        """
        eps, momentum, relu = settings
        rows, channels = x.numel() // x.shape[1], x.shape[1]
        if added is not None:
            added = _ordered(added)
        programs = min(PROGRAMS, triton.cdiv(rows, ROWS))
        columns = triton.cdiv(channels, WIDE)
        partial = x.new_empty(2, programs, channels, dtype=torch.float32)
        mean, inverse = x.new_empty(2, channels, dtype=torch.float32)
        y = torch.empty_like(x)
        _sums[programs, columns](x, partial, rows, channels, ROWS, WIDE)
        _statistics[(triton.cdiv(channels, 8),)](
            *(x, partial, mean, inverse, running_mean, running_var, rows, programs, eps, momentum),
            *(channels, PROGRAMS, 8),
        )
        _normalise[triton.cdiv(rows, ROWS), columns](
            *(x, x if added is None else added, y, weight, bias, mean, inverse, rows),
            *(channels, ROWS, WIDE, added is not None, relu),
        )
        ctx.save_for_backward(x, None if added is None else y, weight, bias, mean, inverse)
        ctx.relu, ctx.programs = relu, programs
        return y

    @staticmethod
    def backward(ctx: Any, *pulls: Tensor) -> Any:
        """Return the gradients of x, added, weight and bias."""
        x, y, weight, bias, mean, inverse = ctx.saved_tensors
        pull = _ordered(pulls[0])
        rows, channels = x.numel() // x.shape[1], x.shape[1]
        columns = triton.cdiv(channels, WIDE)
        partial = x.new_empty(2, ctx.programs, channels, dtype=torch.float32)
        # What is cut off is seen by y, which need not be kept where nothing was added.
        given = x, x if y is None else y, pull, weight, bias, mean, inverse
        kind = channels, ROWS, WIDE, y is not None, ctx.relu
        _gradient_sums[ctx.programs, columns](*given, partial, rows, *kind)
        of_bias, of_weight = sums = partial.sum(1)
        of_x = torch.empty_like(x)
        of_added = None if y is None else torch.empty_like(x)
        _gradients[triton.cdiv(rows, ROWS), columns](
            *given, sums, of_x, of_x if of_added is None else of_added, rows, *kind
        )
        return of_x, of_added, of_weight, of_bias, None, None, None


def _ordered(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)


@triton.jit
def _load(place, there):
    return tl.load(place, mask=there, other=0).to(tl.float32)


@triton.jit
def _cut(x):
    """Return max(0, x), but NaN for NaN, as torch: tl.maximum would hide a run that diverged."""
    return tl.where(x < 0, 0, x)


@triton.jit
def _tile(first, rows, channel, channels, high: tl.constexpr):
    """Return where `high` rows from `first` on are, and which of them are there."""
    row = (first + tl.arange(0, high))[:, None]
    return row.to(tl.int64) * channels + channel[None, :], (row < rows) & (channel < channels)


@triton.jit
def _sums(x, partial, rows, channels, high: tl.constexpr, wide: tl.constexpr):
    """Add up x and its square, about its first row: partial [2, P, C]."""
    channel = tl.program_id(1) * wide + tl.arange(0, wide)
    inside = channel < channels
    origin = _load(x + channel, inside)
    once = tl.zeros((high, wide), tl.float32)
    squared = tl.zeros((high, wide), tl.float32)
    for first in range(tl.program_id(0) * high, rows, tl.num_programs(0) * high):
        at, there = _tile(first, rows, channel, channels, high)
        far = tl.where(there, _load(x + at, there) - origin[None, :], 0)
        once += far
        squared += far * far
    out = partial + tl.program_id(0) * channels + channel
    tl.store(out, tl.sum(once, 0), mask=inside)
    tl.store(out + tl.num_programs(0) * channels, tl.sum(squared, 0), mask=inside)


@triton.jit
def _statistics(
    x,
    partial,
    mean,
    inverse,
    running_mean,
    running_var,
    rows,
    programs,
    eps,
    momentum,
    channels,
    most: tl.constexpr,
    wide: tl.constexpr,
):
    """Turn the sums into mean and 1 / sqrt(variance + eps), and renew the running ones."""
    channel = tl.program_id(0) * wide + tl.arange(0, wide)
    inside = channel < channels
    program = tl.arange(0, most)
    there = (program < programs)[:, None] & inside[None, :]
    at = partial + program[:, None] * channels + channel[None, :]
    far = tl.sum(_load(at, there), 0) / rows
    variance = tl.sum(_load(at + programs * channels, there), 0) / rows - far * far
    variance = _cut(variance)
    centre = _load(x + channel, inside) + far
    tl.store(mean + channel, centre, mask=inside)
    tl.store(inverse + channel, 1 / tl.sqrt(variance + eps), mask=inside)
    old = _load(running_mean + channel, inside)
    tl.store(running_mean + channel, old + momentum * (centre - old), mask=inside)
    old = _load(running_var + channel, inside)
    unbiased = variance * (rows / (rows - 1.0))
    tl.store(running_var + channel, old + momentum * (unbiased - old), mask=inside)


@triton.jit
def _normalise(
    x,
    added,
    y,
    weight,
    bias,
    mean,
    inverse,
    rows,
    channels,
    high: tl.constexpr,
    wide: tl.constexpr,
    adds: tl.constexpr,
    relu: tl.constexpr,
):
    """Write y."""
    channel = tl.program_id(1) * wide + tl.arange(0, wide)
    inside = channel < channels
    at, there = _tile(tl.program_id(0) * high, rows, channel, channels, high)
    scale = _load(weight + channel, inside) * _load(inverse + channel, inside)
    centred = _load(x + at, there) - _load(mean + channel, inside)[None, :]
    out = centred * scale[None, :] + _load(bias + channel, inside)[None, :]
    if adds:
        out += _load(added + at, there)
    if relu:
        out = _cut(out)
    tl.store(y + at, out, mask=there)


@triton.jit
def _pulled(
    x,
    y,
    pull,
    weight,
    bias,
    mean,
    inverse,
    at,
    there,
    channel,
    inside,
    by_y: tl.constexpr,
    relu: tl.constexpr,
):
    """Return the gradient before the ReLU, and x normalised."""
    stretch = _load(inverse + channel, inside)
    centred = _load(x + at, there) - _load(mean + channel, inside)[None, :]
    g = _load(pull + at, there)
    if relu:
        if by_y:
            out = _load(y + at, there)
        else:
            scale = _load(weight + channel, inside) * stretch
            out = centred * scale[None, :] + _load(bias + channel, inside)[None, :]
        g = tl.where(out <= 0, 0, g)
    return g, centred * stretch[None, :]


@triton.jit
def _gradient_sums(
    x,
    y,
    pull,
    weight,
    bias,
    mean,
    inverse,
    partial,
    rows,
    channels,
    high: tl.constexpr,
    wide: tl.constexpr,
    by_y: tl.constexpr,
    relu: tl.constexpr,
):
    """Add up g and g times x normalised, which are the gradients of bias and weight."""
    channel = tl.program_id(1) * wide + tl.arange(0, wide)
    inside = channel < channels
    of_bias = tl.zeros((high, wide), tl.float32)
    of_weight = tl.zeros((high, wide), tl.float32)
    for first in range(tl.program_id(0) * high, rows, tl.num_programs(0) * high):
        at, there = _tile(first, rows, channel, channels, high)
        g, unit = _pulled(
            x, y, pull, weight, bias, mean, inverse, at, there, channel, inside, by_y, relu
        )
        of_bias += g
        of_weight += g * unit
    out = partial + tl.program_id(0) * channels + channel
    tl.store(out, tl.sum(of_bias, 0), mask=inside)
    tl.store(out + tl.num_programs(0) * channels, tl.sum(of_weight, 0), mask=inside)


@triton.jit
def _gradients(
    x,
    y,
    pull,
    weight,
    bias,
    mean,
    inverse,
    sums,
    of_x,
    of_added,
    rows,
    channels,
    high: tl.constexpr,
    wide: tl.constexpr,
    by_y: tl.constexpr,
    relu: tl.constexpr,
):
    """Write the gradients of x and of what was added."""
    channel = tl.program_id(1) * wide + tl.arange(0, wide)
    inside = channel < channels
    at, there = _tile(tl.program_id(0) * high, rows, channel, channels, high)
    g, unit = _pulled(
        x, y, pull, weight, bias, mean, inverse, at, there, channel, inside, by_y, relu
    )
    shift = _load(sums + channel, inside)[None, :] / rows
    tilt = _load(sums + channels + channel, inside)[None, :] / rows
    scale = _load(weight + channel, inside) * _load(inverse + channel, inside)
    tl.store(of_x + at, (g - shift - unit * tilt) * scale[None, :], mask=there)
    if by_y:
        tl.store(of_added + at, g, mask=there)
