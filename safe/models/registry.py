"""Networks by name: the one that the parameters of `model` mean, and which clips it can read."""

from collections.abc import Callable
from inspect import signature
from typing import Any, Final

from torch import nn

from safe.models.safe import SAFE
from safe.models.systems.c3d import C3D, SHORTEST
from safe.models.systems.former_dfer import FormerDFER
from safe.models.systems.m3dfel import LENGTH, M3DFEL
from safe.models.systems.resnet18_lstm import ResNet18LSTM
from safe.sample import DEFAULT_FRAMES

SYSTEMS: Final[dict[str, Callable[..., nn.Module]]] = {
    "resnet18_lstm": ResNet18LSTM,
    "former_dfer": FormerDFER,
    "m3dfel": M3DFEL,
    "c3d": C3D,
}
"""Published systems that SAFE is compared with. Each is as published; it is made from `classes`
and those of `dropout`, `frames` and `weights` that it takes."""


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
    classes: int, *, frames: int = DEFAULT_FRAMES, name: str, **settings: Any
) -> nn.Module:
    """Make a network for so many classes and frames.

    Args:
        classes: K.
        frames: T of the clips that it will read.
        name: `safe`, or a key of SYSTEMS.
        settings: the other parameters of `model`, by their names in params.yaml.

    Raises:
        ModelError: if the weights cannot be loaded into the backbone.
        ValueError: if it cannot read clips of so many frames.
    """
    if reason := refused(name, settings["window"], frames):
        raise ValueError(reason)
    if name not in SYSTEMS:
        return SAFE(classes=classes, **settings)
    given = {"frames": frames, **{key: settings[key] for key in ("dropout", "weights")}}
    taken = given.keys() & signature(SYSTEMS[name]).parameters.keys()
    return SYSTEMS[name](classes=classes, **{key: given[key] for key in taken})
