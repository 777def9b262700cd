"""Backbones: networks that turn a window of frames into one feature vector.

Each maps [B, C, T_w, H, W] to [B, features] and works for any T_w, and H and W from 16 pixels up.
It has `features`, and `sections`: the classes of the blocks that it is a chain of, which
train.recompute computes again. To add one, write its class, here or in a file of its own, and name
it in BACKBONES: it gets those parameters of `model` that its constructor names.
"""

import copy
from collections.abc import Callable
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from safe.errors import ModelError


class Residual(nn.Module):
    """relu(body(x) + shortcut(x)), [B, inner, T, H, W] to [B, outer, T, H / stride, W / stride]."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map x to the sum of the two ways."""
        return torch.relu(self.body(x) + self.shortcut(x))


def _projection(inner: int, outer: int, stride: int) -> nn.Module:
    conv = nn.Conv3d(inner, outer, 1, stride=(1, stride, stride), bias=False)
    return nn.Sequential(conv, nn.BatchNorm3d(outer))


GRID: Final = 4
"""Side of the spatial grid that the small backbone keeps."""


class _Block(Residual):
    """A (2+1)D residual block: 1 x 3 x 3 in space, then 3 x 1 x 1 in time."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        steps = (1, stride, stride)
        body = nn.Sequential(
            nn.Conv3d(inner, outer, (1, 3, 3), stride=steps, padding=(0, 1, 1), bias=False),
            nn.BatchNorm3d(outer),
            nn.ReLU(inplace=True),
            nn.Conv3d(outer, outer, (3, 1, 1), padding=(1, 0, 0), bias=False),
            nn.BatchNorm3d(outer),
        )
        super().__init__(body, _projection(inner, outer, stride))


class Small(nn.Module):
    """A small (2+1)D ResNet for CPUs, demo and tests: 128 features.

    It keeps a 4 x 4 grid before the last projection: with so few layers, where a feature lies (brow
    or mouth) must survive the pooling. The last normalisation gives the gates of the temporal model
    inputs of unit size; without it training stays on a plateau for its first epochs.
    """

    features = 128
    sections = (_Block,)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(3, 16, (1, 5, 5), stride=(1, 2, 2), padding=(0, 2, 2), bias=False),
            nn.BatchNorm3d(16),
            nn.ReLU(inplace=True),
            nn.MaxPool3d((1, 2, 2)),
        )
        self.stages = nn.Sequential(_Block(16, 32, 1), _Block(32, 64, 2))
        self.pool = nn.AdaptiveAvgPool3d((1, GRID, GRID))
        self.project = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64 * GRID * GRID, self.features, bias=False),
            nn.BatchNorm1d(self.features),
            nn.ReLU(inplace=True),
        )

    def forward(self, windows: Tensor) -> Tensor:
        """Map [B, C, T_w, H, W] to [B, 128]."""
        features: Tensor = self.project(self.pool(self.stages(self.stem(windows))))
        return features


STEM: Final = 24
"""Channels of the stem."""

STAGES: Final = ((24, 3), (48, 5), (96, 11), (192, 7))
"""Channels and blocks of each stage."""

EXPANSION: Final = 2.25
"""Channels inside a block, as a multiple of those outside."""


def _squeezed(width: int) -> int:
    """A sixteenth of width in multiples of 8, at least 8, never less than 0.9 of it."""
    exact = width / 16
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * exact else rounded + 8


class SqueezeExcitation(nn.Module):
    """Weigh the channels by what the whole window shows (Hu et al., CVPR 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(width, _squeezed(width))
        self.excite = nn.Linear(_squeezed(width), width)

    def forward(self, x: Tensor) -> Tensor:
        """Scale x [B, D, T, H, W], each channel by a factor between 0 and 1."""
        weights: Tensor = self.excite(self.squeeze(x.mean((2, 3, 4))).relu()).sigmoid()
        return x * weights[:, :, None, None, None]


class Block(Residual):
    """1 x 1 x 1 wider, 3 x 3 x 3 channel by channel, 1 x 1 x 1 narrower; and the input added."""

    def __init__(self, inner: int, outer: int, *, stride: int, excitation: bool) -> None:
        wide = int(EXPANSION * outer)
        steps = (1, stride, stride)
        body = nn.Sequential(
            nn.Conv3d(inner, wide, 1, bias=False),
            nn.BatchNorm3d(wide),
            nn.ReLU(inplace=True),
            nn.Conv3d(wide, wide, 3, stride=steps, padding=1, groups=wide, bias=False),
            nn.BatchNorm3d(wide),
            SqueezeExcitation(wide) if excitation else nn.Identity(),
            nn.SiLU(inplace=True),
            nn.Conv3d(wide, outer, 1, bias=False),
            nn.BatchNorm3d(outer),
        )
        same = inner == outer and stride == 1
        super().__init__(body, nn.Identity() if same else _projection(inner, outer, stride))


class Light(nn.Module):
    """X3D-S up to its last pooling, for the paper's 2.94 G multiply-adds: 432 features.

    Feichtenhofer: X3D: Expanding Architectures for Efficient Video Recognition. CVPR 2020.
    Published with its head: 3.76 M parameters; 1.96 G multiply-adds for 13 frames of 160 x 160.
    Ours, without the head 432 -> 2048 -> 400: 2.09 M, and the same 1.96 G there. On a 4-frame
    window of 112 x 112 it is 0.31 G, and the whole of SAFE on seven of them 2.26 G. What differs:
    the last normalisation of a block starts at 1, not 0, so that all parameters learn from the
    first step. It never strides in time.
    """

    features = int(EXPANSION * STAGES[-1][0])
    sections = (Block,)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv3d(3, STEM, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), bias=False),
            nn.Conv3d(STEM, STEM, (5, 1, 1), padding=(2, 0, 0), groups=STEM, bias=False),
            nn.BatchNorm3d(STEM),
            nn.ReLU(inplace=True),
        ]
        inner = STEM
        for outer, blocks in STAGES:
            for i in range(blocks):
                stride, excitation = (1 if i else 2), i % 2 == 0
                layers.append(Block(inner, outer, stride=stride, excitation=excitation))
                inner = outer
        layers += [
            nn.Conv3d(inner, self.features, 1, bias=False),
            nn.BatchNorm3d(self.features),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
        ]
        self.net = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, windows: Tensor) -> Tensor:
        """Map [B, C, T_w, H, W], T_w from 1 and H, W from 16 up, to [B, 432]."""
        features: Tensor = self.net(windows)
        return features


def _r3d_18() -> nn.Module:
    # Here, because loading torchvision takes half a second; and on the CPU, because a model may be
    # made on the device meta for its shapes alone, and what a module makes for itself must last.
    with torch.device("cpu"):
        from safe.models.r3d import R3D18

    return R3D18()


BACKBONES: Final[dict[str, Callable[..., Any]]] = {
    "small": Small,
    "light": Light,
    "r3d_18": _r3d_18,
}


def build_backbone(name: str, weights: str | None = None, /, **settings: Any) -> Any:
    """Make a backbone, with Kinetics-400 weights where a path is given.

    Args:
        name: a key of BACKBONES.
        weights: path of torchvision's r3d_18 weights, saved as safetensors; None starts at random.
        settings: parameters of `model`; it gets those that it has.

    Raises:
        ModelError: if the file is missing, not safetensors, or does not fit; says where to get it.
    """
    make = BACKBONES[name]
    backbone = make(**{key: settings[key] for key in signature(make).parameters if key in settings})
    if weights is not None:
        _load_kinetics(backbone, name, Path(weights))
    return backbone


def sections(model: nn.Module) -> list[nn.Module]:
    """Return the pieces that its backbone is a chain of: the next sees but a piece's output."""
    kinds = tuple(kind for module in model.modules() for kind in getattr(module, "sections", ()))
    return [module for module in model.modules() if isinstance(module, kinds)]


def _load_kinetics(backbone: nn.Module, name: str, path: Path) -> None:
    """Load torchvision's state dict. Only safetensors: a pickled file could run code."""
    from safetensors import SafetensorError  # here: tools/benchmarks/gpu.py runs without them
    from safetensors.torch import load_file

    get = (
        "get torchvision's R3D_18_Weights.KINETICS400_V1 on a machine with a network and save it "
        "as safetensors: README.md, 'Kinetics weights'"
    )
    if name != "r3d_18":
        raise ModelError(
            f"model.weights: only r3d_18 has Kinetics weights, not {name}; set it to null"
        )
    if not path.is_file():
        raise ModelError(f"model.weights: {path} not found; {get}")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"model.weights: {path} is not a safetensors file; {get}") from error
    state = {f"net.{key}": value for key, value in state.items() if not key.startswith("fc.")}
    try:
        backbone.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"model.weights: {path} does not hold r3d_18; {get}") from error


def fold_norms(model: nn.Module) -> nn.Module:
    """Copy a model for evaluation, with each BatchNorm folded into the convolution before it.

    What BatchNorm does in evaluation is linear, so the values stay but for rounding, and a pass
    over all activations is saved. Only neighbours in an nn.Sequential are folded.
    """
    folded = copy.deepcopy(model).eval()
    for chain in folded.modules():
        if isinstance(chain, nn.Sequential):
            for (name, first), (after, second) in pairwise(list(chain.named_children())):
                if isinstance(first, nn.Conv3d) and isinstance(second, nn.BatchNorm3d):
                    setattr(chain, name, fuse_conv_bn_eval(first, second))
                    setattr(chain, after, nn.Identity())
    return folded
