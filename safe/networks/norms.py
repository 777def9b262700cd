"""How is BatchNorm over windows computed, with what is added to it and the ReLU that follows?

As torch does, but on a GPU in training, where a backbone spends a third of its time in them, in one
piece (norm_gpu.py).
"""

import warnings
from functools import cache
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safe.recipe import has_triton

_FUSED: Final = (torch.float32, torch.bfloat16, torch.float16)


class Norm(nn.BatchNorm3d):
    """BatchNorm3d: the same names, state and values."""

    alone = True
    """Whether it looks at no other process's clips (safe/training/shared_layers.py)."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, T, H, W] to the same shape."""
        if self._fuses(x):
            return self._run_fused(x, None, relu=False)
        output: Tensor = super().forward(x)
        return output

    def relu(self, x: Tensor, added: Tensor | None) -> Tensor:
        """Return max(0, norm(x) + added), of x's shape [B, C, T, H, W]."""
        if self._fuses(x):
            return self._run_fused(x, added, relu=True)
        output: Tensor = self(x)
        return _add_relu(output, added)

    def _fuses(self, x: Tensor) -> bool:
        return (
            not torch.compiler.is_compiling()
            and is_gpu(x)
            and self.training
            and self.alone
            and x.dtype in _FUSED
            and x.numel() > x.shape[1]  # of a single row torch says that it has no variance
            and x.is_contiguous(memory_format=torch.channels_last_3d)
            and fused_norm(x.device) is not None
        )

    def _run_fused(self, x: Tensor, added: Tensor | None, *, relu: bool) -> Tensor:
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        output: Tensor = fused_norm(x.device).apply(
            *(x, added, self.weight, self.bias, self.running_mean, self.running_var),
            (self.eps, self.momentum, relu),
        )
        return output


def norm_relu(norm: nn.Module, x: Tensor, added: Tensor | None = None) -> Tensor:
    """Return max(0, norm(x) + added); the norm may be folded away (backbones.py)."""
    if isinstance(norm, Norm):
        return norm.relu(x, added)
    return _add_relu(norm(x), added)


def _add_relu(x: Tensor, added: Tensor | None) -> Tensor:
    """Do both in place, as torchvision's blocks do."""
    if added is not None:
        x += added
    return F.relu(x, inplace=True)


def is_gpu(x: Tensor) -> bool:
    """Tell whether a tensor is on a GPU; a place of its own, for tests without one."""
    return x.is_cuda


@cache
def fused_norm(device: torch.device) -> Any:
    """Return NormRelu; None without Triton, or where it does not give torch's values.

    Triton compiles for the very card that is here, which no test has seen: so a small case is
    computed both ways first, once a process. A card that fails it is warned of, and torch computes.
    """
    if not has_triton():
        return None
    from safe.networks.norm_gpu import NormRelu

    shape, channels = (3, 80, 2, 9, 7), 80
    wave = torch.arange(3 * channels * 2 * 9 * 7, device=device, dtype=torch.float32).sin()
    *given, pull = (
        (wave * scale + 1).view(shape).contiguous(memory_format=torch.channels_last_3d)
        for scale in (1, 7, 3)
    )
    given += [wave[:channels] + 2, wave[-channels:]]
    found = []
    for fused in (True, False):
        given = [each.detach().clone().requires_grad_() for each in given]
        mean, variance = wave.new_zeros(channels), wave.new_ones(channels)
        with torch.enable_grad(), torch.autocast(device.type, enabled=False):
            if fused:
                y = NormRelu.apply(*given, mean, variance, (1e-5, 0.1, True))
            else:
                x, added, weight, bias = given
                y = F.batch_norm(x, mean, variance, weight, bias, training=True)
                y = (y + added).relu()
            found.append([y, mean, variance, *torch.autograd.grad(y, given, pull)])
    # A pixel at the edge of the ReLU may fall on either side: 0.6 % of its gradients' norm.
    if all((a - b).norm() < 0.02 * b.norm() for a, b in zip(*found, strict=True)):
        return NormRelu
    warnings.warn(
        f"{device}: BatchNorm's kernels of safe/networks/norm_gpu.py give other values than torch "
        "here; torch's own are used, which take longer",
        stacklevel=2,
    )
    return None


def replace_norms(module: nn.Module) -> None:
    """Make each BatchNorm3d within a Norm, in place: for networks that name theirs themselves."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm3d:
            setattr(module, name, Norm(child.num_features))
        else:
            replace_norms(child)
