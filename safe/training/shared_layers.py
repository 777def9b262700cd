"""How do the layers that look at a whole batch, or draw for it, work on one rank's share of it?

Dropout draws for the whole batch and takes its own rows. BatchNorm takes mean and variance over the
clips of all ranks (train.sync_bn), or over its own. Only `forward` is replaced: names, state and
what evaluation does stay. torch.nn.SyncBatchNorm does the same on GPUs only; this one is for all
devices. Shapes: B clips of the whole batch, C channels.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from safe.training.ranks import Ranks


def share_layers(model: nn.Module, ranks: Ranks, *, sync_bn: bool) -> None:
    """Let the layers of a rank's model do what they would do with the whole batch. In place."""
    if ranks.count == 1:
        return
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.forward = partial(_drop, module, ranks)  # type: ignore[method-assign]
        elif sync_bn and isinstance(module, _BatchNorm):
            alone = module.forward
            module.forward = partial(_normalize, module, ranks, alone)  # type: ignore[method-assign]


def average_statistics(model: nn.Module, ranks: Ranks) -> None:
    """Give every BatchNorm the mean of all ranks' running statistics, so that ranks stay one model.

    For norms that are not synchronised; those that are have the same already.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    running = [values for norm in norms for values in (norm.running_mean, norm.running_var)]
    kept = [values for values in running if values is not None]
    ranks.sum_each(kept)
    for values in kept:
        values /= ranks.count


@torch.compiler.disable  # type: ignore[untyped-decorator]  # ranks talk within
def _drop(dropout: nn.Dropout, ranks: Ranks, x: Tensor) -> Tensor:
    """Draw as one rank would for all B rows, and keep every count-th: x is [B / count, ...]."""
    if not dropout.training:
        return x
    whole = x.new_ones(len(x) * ranks.count, *x.shape[1:])
    return x * ranks.own(F.dropout(whole, dropout.p))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _normalize(
    norm: _BatchNorm, ranks: Ranks, alone: Callable[[Tensor], Tensor], x: Tensor
) -> Tensor:
    """Do what BatchNorm does with the clips of all ranks; x is [.., C, ...]."""
    if not norm.training:
        return alone(x)
    out, mean, variance = _Norm.apply(x, norm.weight, norm.bias, norm.eps, ranks)  # type: ignore[no-untyped-call]
    count = x.numel() // x.shape[1] * ranks.count
    with torch.no_grad():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        assert norm.momentum is not None
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
    return out  # type: ignore[no-any-return]


class _Norm(torch.autograd.Function):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, over the x of all ranks.

    Its gradient in x has two sums over all ranks; those in weight and bias are this rank's part, as
    with every other parameter.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, ranks: Ranks
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.axes = [axis for axis in range(x.ndim) if axis != 1]
        ctx.count = x.numel() // x.shape[1] * ranks.count
        ctx.ranks = ranks
        wide = x.to(weight.dtype)  # bfloat16 under autocast
        mean = ranks.sum(wide.sum(ctx.axes)) / ctx.count
        centred = wide - _per_channel(mean, x)
        variance = ranks.sum(centred.square().sum(ctx.axes)) / ctx.count
        inverse = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.mark_non_differentiable(mean, variance)
        out = torch.addcmul(_per_channel(bias, x), centred, _per_channel(inverse * weight, x))
        return out.to(x.dtype), mean, variance

    @staticmethod
    def backward(ctx: Any, *pulls: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        pull = pulls[0].to(weight.dtype)
        unit = (x.to(weight.dtype) - _per_channel(mean, x)) * _per_channel(inverse, x)
        for_bias, for_weight = pull.sum(ctx.axes), (pull * unit).sum(ctx.axes)
        shift, tilt = ctx.ranks.sum(torch.stack([for_bias, for_weight])) / ctx.count
        rest = pull - _per_channel(shift, x) - unit * _per_channel(tilt, x)
        for_x = (rest * _per_channel(inverse * weight, x)).to(x.dtype)
        return for_x, for_weight, for_bias, None, None


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """View [C] so that it meets x [.., C, ...] at its channels."""
    return values.view(-1, *[1] * (x.ndim - 2))
