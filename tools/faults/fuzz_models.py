"""Damaged model folders and checkpoints before load_model and load_checkpoint.

model.json, model.safetensors or a checkpoint is damaged. A ModelError in one line must come, or the
very model and state that were stored; where checksums were made right again, a model that runs.
"""

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import torch

from safe.errors import ModelError
from safe.info import info_digest
from safe.models.registry import build_model
from safe.saved import load_model, save_model
from safe.taxonomy import BASIC
from safe.training.checkpoint import load_checkpoint, save_checkpoint
from tools.faults.fuzz_videos import config
from tools.faults.mutate import mutate, mutate_json, replace_file
from tools.faults.watch import Outcome, try_all, watched

WORDS: Final = ("light", "r3d_18", "bilstm", "c3d", "m3dfel", "resnet18_lstm", "val", "F64", "BF16")
"""Values that mean something in model.json or in the header of a safetensors file."""


def make_original(scratch: Path) -> Path:
    """Write a model folder and in it a folder of two checkpoints of some of its weights."""
    folder = scratch / "model"
    architecture = config().model.model_dump(exclude={"weights"})
    torch.manual_seed(0)
    weights = build_model(len(BASIC), **architecture, weights=None).state_dict()
    info = {
        "classes": list(BASIC),
        "architecture": architecture,
        "crop": 16,
        "preprocessing": {"id": "0" * 16, "made_from": {"size": 16}},
        "dataset": "synthetic",
        "fold": 1,
        "seed": 0,
        "selection": {"rule": "last", "metric": None, "epoch": 2},
        "train_clips": 100,
        "params": config().model_dump(exclude={"runtime"}),
        "history": [{"loss": 1.5}, {"loss": 1.25}],
    }
    save_model(folder, weights, info)
    few = dict(list(weights.items())[:6])
    save_checkpoint(folder / "checkpoints", few, {"step": 6, "epoch": 1})
    save_checkpoint(folder / "checkpoints", few, {"step": 7, "epoch": 1})
    return folder


def fuzz(
    original: Path, numbers: Sequence[int], *, seed: int, workers: int, until: float
) -> Iterator[Outcome]:
    """Try damaged copies of a model folder with checkpoints, made beside it; an outcome each."""
    check = partial(check_model, original=original, seed=seed)
    setup = partial(_load, original)
    return try_all(check, numbers, part="models", workers=workers, until=until, setup=setup)


def check_model(number: int, *, original: Path, seed: int) -> Outcome:
    """Make mutant `number`, load it, say what came of it."""
    kind = tuple(KINDS)[number % len(KINDS)]
    folder = original.parent / f"damaged-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original, folder)
    damage, file = KINDS[kind]
    rng = random.Random(f"model-{seed}-{number}")
    what = f"{file} {damage(folder / file, rng.randrange(2**32))}"
    if "both" in kind:
        _damage_bytes(folder / BEFORE, rng.randrange(2**32))
    if "sums right" in kind:
        _sum_up(folder)
    read = _read_checkpoint if file == LAST else partial(_read_model, changes="sums" in kind)
    outcome = Outcome("models", number, f"{kind}: {what}", "")
    work = partial(read, folder, original)
    outcome = watched(work, outcome, inside=folder, refusal=ModelError)
    if not outcome.finding:
        shutil.rmtree(folder)
    return outcome


def _damage_bytes(path: Path, seed: int) -> str:
    """Damage a file; half of the time its head, which is all that is parsed of the weights."""
    data = path.read_bytes()
    head = min(len(data), 16_384) if seed % 2 else len(data)
    mutant = mutate(data[:head], seed=seed, number=0)
    path.write_bytes(mutant.data + data[head:])
    return mutant.what


def _damage_document(path: Path, seed: int) -> str:
    text, what = mutate_json(json.loads(path.read_text()), seed=seed, number=0, words=WORDS)
    path.write_text(text)
    return what


def _damage_header(path: Path, seed: int) -> str:
    """Change the JSON of a safetensors file: types, shapes, offsets; its length is made right."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    document = json.loads(data[8 : 8 + length])
    text, what = mutate_json(document, seed=seed, number=0, words=WORDS)
    head = text.encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(len(head).to_bytes(8, "little") + head + data[8 + length :])
    return what


def _replace(path: Path, seed: int) -> str:
    return replace_file(path, random.Random(seed))


def _sum_up(folder: Path) -> None:
    """Make the sums in model.json right again, where it still is an object with that place."""
    path, weights = folder / "model.json", (folder / "model.safetensors").read_bytes()
    with suppress(ValueError, RecursionError, TypeError):
        info = json.loads(path.read_text())
        about = {"sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)}
        info = {**info, "weights": about}
        path.write_text(json.dumps({**info, "sha256": info_digest(info)}))


LAST, BEFORE = (f"checkpoints/{step:010d}.safetensors" for step in (7, 6))

KINDS: Final[dict[str, tuple[Callable[[Path, int], str], str]]] = {
    "bytes": (_damage_bytes, "model.json"),
    "structure": (_damage_document, "model.json"),
    "structure, sums right": (_damage_document, "model.json"),
    "weights": (_damage_bytes, "model.safetensors"),
    "weights, sums right": (_damage_bytes, "model.safetensors"),
    "header, sums right": (_damage_header, "model.safetensors"),
    "other model file": (_replace, "model.json"),
    "other weights file": (_replace, "model.safetensors"),
    "last": (_damage_bytes, LAST),
    "header of the last": (_damage_header, LAST),
    "both": (_damage_bytes, LAST),
    "other checkpoint": (_replace, LAST),
}
"""How something is damaged, and which file of the folder."""


def _load(original: Path) -> None:
    """Load in a child what every mutant needs, before its memory is bounded."""
    torch.set_num_threads(1)
    model, _ = _sound_model(original)
    with torch.inference_mode():
        model(torch.zeros(1, 3, 16, 32, 32))
    _sound_checkpoint(original)


@cache
def _sound_model(original: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    return load_model(original)


@cache
def _sound_checkpoint(original: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    found = load_checkpoint(original / "checkpoints")
    assert found is not None
    return found


def _read_model(folder: Path, original: Path, *, changes: bool) -> str:
    """Load a model as `eval` does, use what it uses of model.json, run the model once."""
    model, info = load_model(folder)
    sound, described = _sound_model(original)
    same = _same(model.state_dict(), sound.state_dict()) and info == described
    str(info["preprocessing"]["id"] + info["selection"]["rule"]), info["fold"] + 1
    with torch.inference_mode():
        model(torch.zeros(1, 3, 16, 32, 32))
    if same:
        return "read: the stored model"
    return "read: what the new checksums say" if changes else "WRONG model was loaded"


def _read_checkpoint(folder: Path, original: Path) -> str:
    notes: list[str] = []
    found = load_checkpoint(folder / "checkpoints", notes.append)
    sound = _sound_checkpoint(original)
    if found is None:
        return "WRONG: a damaged checkpoint counts as none"
    if not _same(found[0], sound[0]):
        return "WRONG tensors were loaded"
    if found[1] == sound[1]:
        return "read: the stored checkpoint"
    before = found[1] == {**sound[1], "step": sound[1]["step"] - 1}
    # A file that is not there leaves no trace; of any other one line must tell.
    missing = LAST not in [str(path.relative_to(folder)) for path in folder.rglob("*.safetensors")]
    told = missing or (len(notes) == 1 and notes[0].isprintable())
    return "read: the checkpoint before it" if before and told else "WRONG state was loaded"


def _same(found: dict[str, torch.Tensor], sound: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of tensors are equal, bit by bit: a NaN is not equal to itself."""
    return found.keys() == sound.keys() and all(
        found[name].dtype == tensor.dtype
        and found[name].shape == tensor.shape
        and found[name].numpy().tobytes() == tensor.numpy().tobytes()
        for name, tensor in sound.items()
    )
