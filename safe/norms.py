"""How is BatchNorm over windows computed, with what is added to it and the ReLU that follows?

As torch does, but on a GPU in training, where a backbone spends a third of its time in them, in one
piece (safe/norm_gpu.py).
"""

from functools import cache
from importlib.util import find_spec
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FUSED: Final = (torch.float32, torch.bfloat16, torch.float16)


class Norm(nn.BatchNorm3d):
    """BatchNorm3d: the same names, state and values."""

    alone = True
    """Whether it looks at no other process's clips (safe/shared_layers.py)."""

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
            is_gpu(x)
            and self.training
            and self.alone
            and x.dtype in _FUSED
            and x.is_contiguous(memory_format=torch.channels_last_3d)
            and not torch.compiler.is_compiling()
            and has_triton()
        )

    def _run_fused(self, x: Tensor, added: Tensor | None, *, relu: bool) -> Tensor:
        from safe.norm_gpu import NormRelu

        self.num_batches_tracked += 1
        output: Tensor = NormRelu.apply(
            *(x, added, self.weight, self.bias, self.running_mean, self.running_var),
            (self.eps, self.momentum, relu),
        )
        return output


def norm_relu(norm: nn.Module, x: Tensor, added: Tensor | None = None) -> Tensor:
    """Return max(0, norm(x) + added); the norm may be folded away (safe.backbones.fold_norms)."""
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
def has_triton() -> bool:
    """Tell whether Triton is here; torch for Linux brings it."""
    return find_spec("triton") is not None


def replace_norms(module: nn.Module) -> None:
    """Make each BatchNorm3d within a Norm, in place: for networks that name theirs themselves."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm3d:
            setattr(module, name, Norm(child.num_features))
        else:
            replace_norms(child)
