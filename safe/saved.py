"""What is in a model folder?

`model.safetensors` (the weights) and `model.json` (every number needed to rebuild and to judge it:
architecture, classes by name, preprocessing id, params, git commit, selection rule, seed).
"""

import json
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from safe.build import build_model
from safe.errors import ModelError
from safe.labels import CLASSES
from safe.process import whole_file

MODEL_FORMAT: Final = 1


def save_model(folder: Path, weights: dict[str, torch.Tensor], info: dict[str, Any]) -> None:
    """Write weights and info; model.json last, so that a folder with it is complete."""
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in weights.items()
    }
    with whole_file(folder / "model.safetensors") as temporary:
        save_file(plain, temporary)
    with whole_file(folder / "model.json") as temporary:
        text = json.dumps({"format": MODEL_FORMAT, "classes": CLASSES, **info}, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")


def load_model(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild a model from its folder, in evaluation mode on the CPU, with its info.

    Raises:
        ModelError: if a file is missing or damaged, or the classes or the weights do not fit.
    """
    path = folder / "model.json"
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
    except FileNotFoundError as error:
        raise ModelError(f"{folder}: no model there; `safe-cli train` makes it") from error
    except (ValueError, OSError, SafetensorError) as error:
        raise ModelError(f"{folder}: model.json or model.safetensors is damaged") from error
    if info.get("format") != MODEL_FORMAT or info.get("classes") != list(CLASSES):
        raise ModelError(
            f"{path}: of another format or with other classes than {', '.join(CLASSES)}"
        )
    model = build_model(**info["architecture"], weights=None)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(
            f"{folder}: the weights do not fit the architecture in model.json"
        ) from error
    return model.eval(), info
