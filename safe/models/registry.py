"""Which network do the parameters of `model` mean?"""

from collections.abc import Callable
from typing import Any, Final

from torch import nn

from safe.models.safe import SAFE
from safe.models.systems.c3d import C3D, SHORTEST
from safe.models.systems.former_dfer import FormerDFER
from safe.models.systems.m3dfel import LENGTH, M3DFEL
from safe.models.systems.resnet18_lstm import ResNet18LSTM
from safe.sample import DEFAULT_FRAMES

RIVALS: Final[dict[str, Callable[..., nn.Module]]] = {
    "resnet18_lstm": ResNet18LSTM,
    "former_dfer": FormerDFER,
    "m3dfel": M3DFEL,
    "c3d": C3D,
}
"""Published models that SAFE is compared with; each is made from `classes` and `dropout`."""


def refused(name: str, window: int, frames: int) -> str:
    """Say why a network cannot read clips of so many frames; empty if it can."""
    if name == "safe" and window > frames:
        return f"model.window = {window}: must be at most {frames}, the frames of a clip"
    if name == "m3dfel" and frames % LENGTH:
        return f"model.name = m3dfel: needs clips of a multiple of {LENGTH} frames, not {frames}"
    if name == "c3d" and frames < SHORTEST:
        return f"model.name = c3d: needs clips of at least {SHORTEST} frames, not {frames}"
    return ""


def build_model(
    classes: int,
    *,
    frames: int = DEFAULT_FRAMES,
    name: str,
    backbone: str,
    weights: str | None,
    temporal: str,
    window: int,
    stride: int,
    hidden: int,
    dropout: float,
) -> nn.Module:
    """Make the network that `name` means, for so many classes and frames: SAFE, or a rival.

    A rival is as it was published: of the other parameters it takes dropout, and m3dfel, whose
    backbone is r3d_18, the weights.

    Raises:
        ModelError: if the weights cannot be loaded into the backbone.
        ValueError: if it cannot read clips of so many frames.
    """
    if reason := refused(name, window, frames):
        raise ValueError(reason)
    if name in RIVALS:
        extra: dict[str, Any] = {"frames": frames} if name in ("former_dfer", "m3dfel") else {}
        if name == "m3dfel":
            extra["weights"] = weights
        return RIVALS[name](classes=classes, dropout=dropout, **extra)
    return SAFE(
        classes=classes,
        backbone=backbone,
        weights=weights,
        temporal=temporal,
        window=window,
        stride=stride,
        hidden=hidden,
        dropout=dropout,
    )
