"""Model folders: `model.safetensors`, the weights, and `model.json`, all else about a model.

Both files are read as if an enemy had written them: sizes, checksums, types and ranges
(safe/info.py), names, shapes and dtypes are compared before a module is built or a tensor takes
memory.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from safe.config import Model
from safe.errors import ModelError
from safe.evaluation.calibration import Calibration
from safe.files import atomic_file, read_bounded
from safe.info import AGAIN, MODEL_FORMAT, info_digest, read_info
from safe.models.registry import build_model
from safe.reader import parse_json

WEIGHTS: Final = "model.safetensors"

HEADER_BYTES: Final = 2**20
"""What model.safetensors may have beside the numbers: names and shapes take some 100 bytes each."""

_DTYPES = {torch.float32: "F32", torch.int64: "I64"}  # those that our modules have


def save_model(folder: Path, weights: dict[str, Tensor], info: dict[str, Any]) -> None:
    """Write weights and info; model.json last, so that a folder with it is complete.

    `info` has all keys of _Info but sha256 and weights; so the caller says which classes there are.
    """
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in weights.items()
    }
    path = folder / WEIGHTS
    with atomic_file(path) as temporary:
        save_file(plain, temporary)
    about = {"sha256": file_digest(path), "bytes": path.stat().st_size}
    _write_info(folder, {"format": MODEL_FORMAT, "weights": about, **info})


def save_calibrated(folder: Path, source: Path, calibration: Calibration) -> None:
    """Write the model of the folder `source` with this calibration; the weights stay as they are.

    Raises:
        ModelError: if model.json of `source` is not what it should be.
    """
    info = read_info(source / "model.json")
    with atomic_file(folder / WEIGHTS) as temporary:
        shutil.copyfile(source / WEIGHTS, temporary)
    _write_info(folder, {**info, "calibration": calibration.record()})


def load_model(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild a model from its folder, in evaluation mode on the CPU, with its info.

    Raises:
        ModelError: one line, if a file is missing, damaged or altered, or the format, the classes
            or the weights do not fit.
    """
    try:
        info = read_info(folder / "model.json")
        section = Model.model_validate({**info["architecture"], "weights": None})
        sizes = {"classes": len(info["classes"]), "frames": info["frames"]}
        architecture = {**sizes, **section.model_dump()}
        weights = _read_weights(folder / WEIGHTS, info["weights"], architecture)
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder}: no model there; run `safe-cli train`, then `safe-cli calibrate`"
        ) from error
    model = build_model(**architecture)
    model.load_state_dict(weights)
    return model.eval(), info


def file_digest(path: Path) -> str:
    """Return the sha256 of a file in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_info(folder: Path, whole: dict[str, Any]) -> None:
    with atomic_file(folder / "model.json") as temporary:
        text = json.dumps({**whole, "sha256": info_digest(whole)}, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")


# model.safetensors


class _NothingDrawn(TorchFunctionMode):
    """Leaves out normal_, for which the device meta imports a thousand modules in seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if func is Tensor.normal_ else func(*args, **(kwargs or {}))


def _read_weights(
    path: Path, about: dict[str, Any], architecture: dict[str, Any]
) -> dict[str, Tensor]:
    """Read the tensors that the architecture has, and no others.

    Raises:
        FileNotFoundError: if there is no such file.
        ModelError: one line.
    """
    try:
        with torch.device("meta"), _NothingDrawn():  # shapes without numbers
            right = build_model(**architecture).state_dict()
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ModelError(f"{path.parent}: no network has the architecture in model.json") from error
    most = sum(tensor.numel() * tensor.itemsize for tensor in right.values()) + HEADER_BYTES
    # Read and not mapped: a file that is cut while it is mapped ends the process by SIGBUS.
    data = read_bounded(path, most=most, error=ModelError)
    if len(data) != about["bytes"] or hashlib.sha256(data).hexdigest() != about["sha256"]:
        raise ModelError(f"{path}: damaged or altered, its checksum is not that of model.json")
    try:
        _check_shapes(data, right, path)
        weights = load(data)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: damaged; {AGAIN}") from error
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise ModelError(
                f"{path}: {name} holds numbers that are not finite; the training diverged, "
                "train again with a smaller train.lr"
            )
    return weights


def _check_shapes(data: bytes, right: dict[str, Tensor], path: Path) -> None:
    """Compare the header of a safetensors file with the tensors of `right`.

    The file is 8 bytes, the length of the header; the header, JSON with dtype and shape by name;
    the numbers.

    Raises:
        ModelError: if it lists others.
        ValueError: if it is none.
    """
    found = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
    if not isinstance(found, dict):
        raise ValueError
    found.pop("__metadata__", None)
    wrong = f"{path}: the weights do not fit the architecture in model.json"
    if found.keys() != right.keys():
        name = min(found.keys() ^ right.keys())
        word = "holds" if name in found else "lacks"
        raise ModelError(f"{wrong}: it {word} {ascii(name)[:100]}")
    for name, tensor in right.items():
        entry = found[name] if isinstance(found[name], dict) else {}
        is_ = (entry.get("dtype"), entry.get("shape"))
        should = (_DTYPES[tensor.dtype], list(tensor.shape))
        if is_ != should:
            raise ModelError(f"{wrong}: {name} is {str(is_)[:100]}, not {should}")
