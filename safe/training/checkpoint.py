"""Checkpoints: the state of a run on disk, from which it goes on exactly where it stopped.

A folder a run, outside DVC's outputs (DVC deletes those before a stage runs), keyed by all that
defines the run. In it are the last two, one safetensors file each, named by step: tensors as they
are; numbers and history as JSON in the file's metadata, and beside them a sha256 over both, so that
a file that was altered on disk is not taken up: then the one before is. Nothing is pickled.
"""

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from safe.errors import ModelError
from safe.files import atomic_file, is_alive

KEPT: Final = 2
"""Checkpoints a run: the second one is for the day when the last is damaged."""

LOCK: Final = "lock"
"""The file in the folder that says which process trains the run."""


def fingerprint(parts: dict[str, Any]) -> str:
    """Name a run by what defines it: 16 hex digits of the sha256 of its canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all; keep it and the one before, remove all others.

    Args:
        folder: the run's folder.
        tensors: by name, on any device.
        state: what JSON can hold; `step` is the number of steps done.

    Raises:
        OSError: if it cannot be written; the checkpoints before it are then as they were.
    """
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    text = json.dumps(state)
    path = folder / f"{state['step']:010d}.safetensors"
    with atomic_file(path) as temporary:
        save_file(plain, temporary, metadata={"state": text, "sha256": _digest(plain, text)})
    before = [other for other in _checkpoints(folder) if other < path]
    # A file of a later step was damaged, or this run would not be at this one.
    _remove_all_but(folder, {path, *before[-(KEPT - 1) :]})


def load_checkpoint(
    folder: Path, on_note: Callable[[str], None] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read the last checkpoint of a run; None where there is none.

    Args:
        folder: the run's folder.
        on_note: called with one line if the last one is damaged and one before it is taken.

    Raises:
        ModelError: if there are checkpoints and none is whole: hours of training are at stake, so
            to begin again is for the user to decide.
    """
    damage = []
    for path in reversed(_checkpoints(folder)):
        try:
            found = _read(path)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            damage.append(f"{path.name}: {' '.join(str(error).split())}")
            continue
        if damage and on_note is not None:
            on_note(f"{folder}: damaged checkpoint ({damage[0]}); going on from {path.name}")
        return found
    if damage:
        raise ModelError(
            f"{folder}: no checkpoint is readable ({'; '.join(damage)}); restore one, or delete "
            "the folder to train from the start"
        )
    return None


def remove_checkpoints(folder: Path) -> None:
    """Remove a run's checkpoints, and what a killed process left beside them."""
    _remove_all_but(folder, set())


@dataclass(frozen=True)
class State:
    """What a training that stopped left: the folder, its bytes, and the days since it stopped."""

    folder: Path
    bytes: int
    days: float


def abandoned(checkpoints: Path) -> list[State]:
    """List the states of runs that no living process trains, the oldest first."""
    found = []
    for folder in checkpoints.glob("*"):
        if files := [path.stat() for path in _checkpoints(folder)]:
            with suppress(OSError, ValueError):  # no one has had the lock
                if is_alive(int((folder / LOCK).read_text("ascii"))):
                    continue
            days = (time.time() - max(about.st_mtime for about in files)) / 86_400
            found.append(State(folder, sum(about.st_size for about in files), days))
    return sorted(found, key=lambda state: -state.days)


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the last at the end."""
    return sorted(folder.glob("[0-9]*.safetensors"))


def _remove_all_but(folder: Path, kept: set[Path]) -> None:
    for path in folder.iterdir():
        if path not in kept and path.name != LOCK:
            path.unlink()


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read one checkpoint. Raises ValueError if its content is not what was written."""
    if not path.is_file():
        raise ValueError("not a regular file")  # to open a pipe would wait for ever
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if _digest(tensors, metadata["state"]) != metadata["sha256"]:
        raise ValueError("its content does not have its sha256")
    return tensors, json.loads(metadata["state"])


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    """Hex sha256 over the state's text and each tensor: name, type, shape, bytes."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Flatten an optimizer's per-parameter state to names `<parameter number>.<what>`."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": value
        for number, entries in state.items()
        for name, value in entries.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Undo optimizer_tensors. The optimizer must have been made for the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
