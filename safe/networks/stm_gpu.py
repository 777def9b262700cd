"""How does a GPU run the steps of S2AM2 in few launches?

As run_steps in stm.py says it, a step is some twenty small operations forward and forty backward,
each a launch that takes the GPU longer than its arithmetic. Here it is a product and one kernel
forward, and one kernel, two products and a mask backward; the gradients of the weights are made
once for all steps. Between the products all is float32.
Shapes: B clips, N steps, R = 4 hidden + squeezed + 2 hidden, the width of the product with h.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, UNITS = 16, 32
"""Clips and hidden units a program."""


class Steps(torch.autograd.Function):
    """stm.run_steps, with its arguments, for float32, bfloat16 and float16 on a GPU."""

    @staticmethod
    def forward(
        ctx: Any,
        from_x: Tensor,
        recurrent: Tensor,
        mlp_bias_1: Tensor,
        mlp_weight_2: Tensor,
        mlp_bias_2: Tensor,
        w_a: Tensor,
    ) -> Tensor:
        """Return h [2, N, B, hidden] in the dtype of from_x, in which the products are."""
        low = from_x.dtype
        recurrent, mlp_weight_2 = recurrent.to(low), mlp_weight_2.to(low)
        from_x = from_x.contiguous()
        _, steps, batch, size = (*from_x.shape[:3], w_a.shape[1])
        squeezed = mlp_bias_1.shape[1]
        from_h = from_x.new_empty(2, steps, batch, recurrent.shape[2])
        from_h[:, 0].zero_()  # of h = 0, without a product
        h = from_x.new_empty(2, steps, batch, size)
        m, c = w_a.new_empty(2, steps, batch, size), w_a.new_empty(2, steps + 1, batch, size)
        c[:, 0].zero_()
        for t in range(steps):
            if t:
                torch.bmm(h[:, t - 1], recurrent, out=from_h[:, t])
            _forward[_grid(batch, size)](
                *(from_x, from_h, mlp_bias_1, mlp_weight_2, mlp_bias_2, w_a, c, m, h),
                *(t, steps, batch, size, squeezed),
                *(ROWS, UNITS, max(16, triton.next_power_of_2(squeezed))),
            )
        ctx.save_for_backward(from_x, recurrent, mlp_bias_1, mlp_weight_2, w_a, from_h, h, m, c)
        return h

    @staticmethod
    def backward(ctx: Any, *pulls: Tensor) -> Any:
        """Return the gradients of forward's arguments."""
        from_x, recurrent, mlp_bias_1, mlp_weight_2, w_a, from_h, h, m, c = ctx.saved_tensors
        (pull,) = (each.to(h.dtype).contiguous() for each in pulls)
        _, steps, batch, size = h.shape
        squeezed = mlp_bias_1.shape[1]
        middle = slice(4 * size, 4 * size + squeezed)
        hidden = (from_h[..., middle] + mlp_bias_1[:, None, None]).relu().to(h.dtype)
        is_open = (hidden > 0).to(h.dtype)
        of_h = h.new_zeros(2, batch, size)
        of_c, of_w_a = w_a.new_zeros(2, 2, batch, size)
        of_sums, of_z = torch.empty_like(from_h), torch.empty_like(h)
        for t in reversed(range(steps)):
            _backward[_grid(batch, size)](
                *(from_x, from_h, w_a, c, m, pull, of_h, of_c, of_w_a, of_sums, of_z),
                *(t, steps, batch, size, squeezed, ROWS, UNITS),
            )
            of_hidden = torch.bmm(of_z[:, t], mlp_weight_2.mT)
            torch.mul(of_hidden, is_open[:, t], out=of_sums[:, t, :, middle])
            if t:
                torch.bmm(of_sums[:, t], recurrent.mT, out=of_h)
        later, all_z = of_sums[:, 1:].flatten(1, 2), of_z.flatten(1, 2)
        return (
            of_sums[..., : 4 * size],
            torch.bmm(h[:, :-1].flatten(1, 2).mT, later).to(w_a.dtype),
            of_sums[..., middle].sum((1, 2), dtype=w_a.dtype),
            torch.bmm(hidden.flatten(1, 2).mT, all_z).to(w_a.dtype),
            all_z.sum(1, dtype=w_a.dtype),
            of_w_a.sum(1),
        )


def _grid(batch: int, size: int) -> tuple[int, int, int]:
    return 2, triton.cdiv(batch, ROWS), triton.cdiv(size, UNITS)


@triton.jit
def _load(place, there):
    return tl.load(place, mask=there, other=0).to(tl.float32)


@triton.jit
def _cut(x):
    """Return max(0, x), but NaN for NaN, as torch does."""
    return tl.where(x < 0, 0, x)


@triton.jit
def _tanh(x):
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def _gates(from_x, from_h, line, unit, there, size: tl.constexpr, squeezed: tl.constexpr):
    """Return i, f, g, o, r and u of clips and units."""
    x = from_x + line * (4 * size) + unit
    h = from_h + line * (6 * size + squeezed) + unit
    return (
        tl.sigmoid(_load(x, there) + _load(h, there)),
        tl.sigmoid(_load(x + size, there) + _load(h + size, there)),
        _tanh(_load(x + 2 * size, there) + _load(h + 2 * size, there)),
        tl.sigmoid(_load(x + 3 * size, there) + _load(h + 3 * size, there)),
        tl.sigmoid(_load(h + 4 * size + squeezed, there)),
        _cut(_load(h + 5 * size + squeezed, there)),
    )


@triton.jit(do_not_specialize=["t"])
def _forward(
    from_x,
    from_h,
    bias_1,
    weight_2,
    bias_2,
    w_a,
    c,
    m,
    h,
    t,
    steps,
    batch,
    size: tl.constexpr,
    squeezed: tl.constexpr,
    rows: tl.constexpr,
    units: tl.constexpr,
    inner: tl.constexpr,
):
    """Compute m, c and h of step t from the sums, for `rows` clips and `units` units."""
    way = tl.program_id(0)
    row = tl.program_id(1) * rows + tl.arange(0, rows)[:, None]
    unit = tl.program_id(2) * units + tl.arange(0, units)[None, :]
    there = (row < batch) & (unit < size)
    line = (way * steps + t) * batch + row
    i, f, g, o, r, u = _gates(from_x, from_h, line, unit, there, size, squeezed)

    column = tl.arange(0, inner)
    sums = from_h + line * (6 * size + squeezed) + 4 * size + column[None, :]
    hidden = _load(sums, (row < batch) & (column < squeezed)[None, :])
    hidden += _load(bias_1 + way * squeezed + column, column < squeezed)[None, :]
    weights = weight_2 + (way * squeezed + column[:, None]) * size + unit
    weight = tl.load(weights, mask=(column < squeezed)[:, None] & (unit < size), other=0)
    z = tl.dot(_cut(hidden).to(weight.dtype), weight, input_precision="ieee")
    gate = tl.sigmoid(z + _load(bias_2 + way * size + unit, unit < size))

    old = c + ((way * (steps + 1) + t) * batch + row) * size + unit
    scale = _load(w_a + way * size + unit, unit < size)
    new = (f * _load(old, there) + i * g * gate) * scale + r * u
    tl.store(old + batch * size, new, mask=there)
    tl.store(m + line * size + unit, gate, mask=there)
    tl.store(h + line * size + unit, o * _tanh(new), mask=there)


@triton.jit(do_not_specialize=["t"])
def _backward(
    from_x,
    from_h,
    w_a,
    c,
    m,
    pull,
    of_h,
    of_c,
    of_w_a,
    of_sums,
    of_z,
    t,
    steps,
    batch,
    size: tl.constexpr,
    squeezed: tl.constexpr,
    rows: tl.constexpr,
    units: tl.constexpr,
):
    """Carry the gradients of h and c of step t to its sums, to z and to c of the step before."""
    way = tl.program_id(0)
    row = tl.program_id(1) * rows + tl.arange(0, rows)[:, None]
    unit = tl.program_id(2) * units + tl.arange(0, units)[None, :]
    there = (row < batch) & (unit < size)
    line = (way * steps + t) * batch + row
    i, f, g, o, r, u = _gates(from_x, from_h, line, unit, there, size, squeezed)
    gate = _load(m + line * size + unit, there)
    old = c + ((way * (steps + 1) + t) * batch + row) * size + unit
    before, bent = _load(old, there), _tanh(_load(old + batch * size, there))
    scale = _load(w_a + way * size + unit, unit < size)

    here = (way * batch + row) * size + unit  # in what goes from step to step
    dh = _load(pull + line * size + unit, there) + _load(of_h + here, there)
    dc = _load(of_c + here, there) + dh * o * (1 - bent * bent)
    ds = dc * scale
    tl.store(of_c + here, ds * f, mask=there)
    grown = _load(of_w_a + here, there) + dc * (f * before + i * g * gate)
    tl.store(of_w_a + here, grown, mask=there)
    tl.store(of_z + line * size + unit, ds * i * g * gate * (1 - gate), mask=there)
    sums = of_sums + line * (6 * size + squeezed) + unit
    tl.store(sums, ds * g * gate * i * (1 - i), mask=there)
    tl.store(sums + size, ds * before * f * (1 - f), mask=there)
    tl.store(sums + 2 * size, ds * i * gate * (1 - g * g), mask=there)
    tl.store(sums + 3 * size, dh * bent * o * (1 - o), mask=there)
    tl.store(sums + 4 * size + squeezed, dc * u * r * (1 - r), mask=there)
    tl.store(sums + 5 * size + squeezed, tl.where(u <= 0, 0, dc * r), mask=there)
