"""Which network turns a window of frames into one feature vector?

Every backbone maps [B, C, T_w, H, W] to [B, features] and works for any T_w, H and W from 16 pixels
up.
"""

import copy
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from safe.errors import ModelError
from safe.networks.light import Light

GRID: Final = 4
"""Side of the spatial grid that the small backbone keeps."""


class _Block(nn.Module):
    """A (2+1)D residual block: 1 x 3 x 3 in space, then 3 x 1 x 1 in time."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        steps = (1, stride, stride)
        self.body = nn.Sequential(
            nn.Conv3d(inner, outer, (1, 3, 3), stride=steps, padding=(0, 1, 1), bias=False),
            nn.BatchNorm3d(outer),
            nn.ReLU(inplace=True),
            nn.Conv3d(outer, outer, (3, 1, 1), padding=(1, 0, 0), bias=False),
            nn.BatchNorm3d(outer),
        )
        self.shortcut = nn.Sequential(
            nn.Conv3d(inner, outer, 1, stride=steps, bias=False), nn.BatchNorm3d(outer)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


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


def _r3d_18() -> nn.Module:
    # Here, because loading torchvision takes half a second; and on the CPU, because a model may be
    # made on the device meta for its shapes alone, and what a module makes for itself must last.
    with torch.device("cpu"):
        from safe.networks.r3d import R3D18

    return R3D18()


BACKBONES: Final[dict[str, Callable[[], Any]]] = {
    "small": Small,
    "light": Light,
    "r3d_18": _r3d_18,
}
"""Networks by name; `features` is how many they give, `sections` the classes of their pieces."""


def build_backbone(name: str, weights: str | None = None) -> Any:
    """Make a backbone, with Kinetics-400 weights where a path is given.

    Args:
        name: a key of BACKBONES.
        weights: path of torchvision's r3d_18 weights, saved as safetensors; None starts at random.

    Raises:
        ModelError: if the file is missing, not safetensors, or does not fit; says where to get it.
    """
    backbone = BACKBONES[name]()
    if weights is not None:
        _load_kinetics(backbone, name, Path(weights))
    return backbone


def sections(model: nn.Module) -> list[nn.Module]:
    """Return the pieces that its backbone is a chain of: the next sees but a piece's output."""
    kinds = tuple(kind for module in model.modules() for kind in getattr(module, "sections", ()))
    return [module for module in model.modules() if isinstance(module, kinds)]


def _load_kinetics(backbone: nn.Module, name: str, path: Path) -> None:
    """Load torchvision's state dict. Only safetensors: a pickled file could run code."""
    from safetensors import SafetensorError  # here: benchmarks/gpu.py runs without them
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
