"""How is a 3 x 3 x 3 convolution over 2 or 4 frames done with fewer multiplications?

By Winograd's minimal filtering, in time alone. Each frame that comes out is a sum of convolutions
in two dimensions, one for each frame that it sees: 4 for 2 frames between two of padding, 10 for
4. Of combined frames with combined taps 3 and 6 are enough. The sums are the same, their rounding
is two to eleven times as large (1.5e-6 of an output in float32, 4e-6 of the weights' gradient):
nothing for bfloat16. So this is for CPUs, where multiplications are what takes the time.
Lavin, Gray: Fast Algorithms for Convolutional Neural Networks. CVPR 2016.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_CACHED: Final = 2 << 20
"""Bytes a thread that go in at once: what is made of them on the way stays in the cache."""

_LEAST: Final = 512
"""Pixels of a frame, over the batch, below which combining the taps costs what is gained."""


class _Filtering(NamedTuple):
    """y = back (taps w * frames x), with * a product for each row; A^T, G and B^T in the paper."""

    # Numbers, not tensors: one made while a module is imported is on the device of that moment,
    # which is meta where a model is loaded.
    frames: list[list[float]]  # [products, depth]
    taps: list[list[float]]  # [products, 3]
    back: list[list[float]]  # [depth, products]; column 1 is of ones: the product with the bias


_FILTERINGS: Final = {
    2: _Filtering(
        [[1, 0], [1, 1], [0, 1]],
        [[1, -1, 0], [0, 1, 0], [0, -1, 1]],
        [[0, 1, 1], [1, 1, 0]],
    ),
    # the paper's F(4, 3), without the columns of the two frames of padding
    4: _Filtering(
        [
            [0, -5, 0, 1],
            [-4, -4, 1, 1],
            [4, -4, -1, 1],
            [-2, -1, 2, 1],
            [2, -1, -2, 1],
            [4, 0, -5, 0],
        ],
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ],
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    ),
}
"""By depth in frames."""


def gains(x: Tensor) -> bool:
    """Tell whether `convolve` is for x, [B, C, T, H, W]."""
    return (
        not torch.compiler.is_compiling()  # first: an export must ask nothing about the batch
        and x.shape[2] in _FILTERINGS
        and len(x) * x.shape[3:].numel() >= _LEAST
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
    )


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve with stride 1 and padding 1, as F.conv3d does.

    Args:
        x: [B, C, T, H, W] for which it `gains`.
        weight: [C_out, C, 3, 3, 3].
        bias: [C_out] or None.

    Returns:
        [B, C_out, T, H, W], in the memory format channels_last_3d.
    """
    output: Tensor = _Convolve.apply(x, weight, bias)
    return output


class _Convolve(torch.autograd.Function):
    """Keeps x alone for the backward pass, in which the frames are combined again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        frames, taps, back = _matrices(x)
        kernels = _kernels(taps, weight)
        output = _empty_like(x, channels=len(weight))
        flat_x, flat_output = _by_frame(x), _by_frame(output)
        for part in _parts(x):
            products = [
                F.conv2d(each, kernel, bias if k == 1 else None, padding=1)
                for k, (each, kernel) in enumerate(
                    zip(_combine(frames, flat_x[part], x), kernels, strict=True)
                )
            ]
            _spread(back, products, flat_output[part])
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wanted = [*ctx.needs_input_grad[:2], False]
        frames, taps, back = _matrices(x)
        kernels = _kernels(taps, weight)
        of_kernels = [torch.zeros_like(kernel) for kernel in kernels]
        of_x = _empty_like(x, channels=x.shape[1])
        flat_x, flat_upstream, flat_of_x = _by_frame(x), _by_frame(upstream), _by_frame(of_x)
        for part in _parts(x):
            combined = zip(
                _combine(back.T.contiguous(), flat_upstream[part], upstream),
                _combine(frames, flat_x[part], x),
                kernels,
                of_kernels,
                strict=True,
            )
            of_products = []
            for of_product, each, kernel, of_kernel in combined:
                of_each, of_this, _ = torch.ops.aten.convolution_backward(
                    *(of_product, each, kernel, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
                    wanted,
                )
                of_products.append(of_each)
                if wanted[1]:
                    of_kernel += of_this
            if wanted[0]:
                _spread(frames.T.contiguous(), of_products, flat_of_x[part])
        return (
            of_x if wanted[0] else None,
            torch.einsum("ks,koihw->oishw", taps, torch.stack(of_kernels)) if wanted[1] else None,
            upstream.sum((0, 2, 3, 4)) if ctx.biased and ctx.needs_input_grad[2] else None,
        )


def _matrices(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return frames, taps and back for the depth of x, [B, C, T, H, W], in its dtype."""
    frames, taps, back = (
        torch.tensor(each, dtype=x.dtype, device=x.device) for each in _FILTERINGS[x.shape[2]]
    )
    return frames, taps, back


def _kernels(taps: Tensor, weight: Tensor) -> list[Tensor]:
    """Combine the taps of time: [C_out, C, 3, 3] for each product."""
    combined = torch.einsum("ks,oishw->koihw", taps, weight)
    return [each.contiguous(memory_format=torch.channels_last) for each in combined]


def _empty_like(x: Tensor, *, channels: int) -> Tensor:
    shape = len(x), channels, *x.shape[2:]
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)


def _by_frame(x: Tensor) -> Tensor:
    """View [B, C, T, H, W] as [B, T, H W C]."""
    return x.movedim(1, -1).flatten(2)


def _parts(x: Tensor) -> Iterator[slice]:
    """Cut the batch into parts that a cache holds."""
    one = x.shape[1:].numel() * x.element_size()
    step = max(1, torch.get_num_threads() * _CACHED // one)
    return (slice(start, start + step) for start in range(0, len(x), step))


def _combine(matrix: Tensor, flat: Tensor, like: Tensor) -> Iterator[Tensor]:
    """Combine the frames of [B, T, H W C] by a matrix [products, T]: [B, C, H, W] for each."""
    combined = flat.new_empty(len(matrix), len(flat), flat.shape[2])
    for clip, window in enumerate(flat):
        torch.mm(matrix, window, out=combined[:, clip])
    return (each.unflatten(1, (*like.shape[3:], -1)).movedim(-1, 1) for each in combined)


def _spread(matrix: Tensor, products: list[Tensor], flat: Tensor) -> None:
    """Write into [B, T, H W C] what a matrix [T, products] makes of [B, C, H, W] for each."""
    stacked = torch.stack([each.movedim(1, -1).flatten(1) for each in products])
    for clip, window in enumerate(flat):
        torch.mm(matrix, stacked[:, clip], out=window)
