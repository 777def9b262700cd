"""Which network do the parameters of `model` mean?"""

from collections.abc import Callable
from typing import Final

from torch import nn

from safe.networks.model import SAFE
from safe.networks.rivals.c3d import C3D
from safe.networks.rivals.former_dfer import FormerDFER
from safe.networks.rivals.m3dfel import M3DFEL
from safe.networks.rivals.resnet18_lstm import ResNet18LSTM

RIVALS: Final[dict[str, Callable[..., nn.Module]]] = {
    "resnet18_lstm": ResNet18LSTM,
    "former_dfer": FormerDFER,
    "m3dfel": M3DFEL,
    "c3d": C3D,
}
"""Published models that SAFE is compared with; each is made from `classes` and `dropout`."""


def build_model(
    classes: int,
    *,
    name: str,
    backbone: str,
    weights: str | None,
    temporal: str,
    window: int,
    stride: int,
    hidden: int,
    dropout: float,
) -> nn.Module:
    """Make the network that `name` means, of so many classes: SAFE, or a rival.

    A rival is as it was published: of the other parameters it takes dropout, and m3dfel, whose
    backbone is r3d_18, the weights.

    Raises:
        ModelError: if the weights cannot be loaded into the backbone.
    """
    if name in RIVALS:
        extra = {"weights": weights} if name == "m3dfel" else {}
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
