"""What does a model say about every clip of a split, exactly once each?

Writes predictions.parquet; every figure, table and plot is made from it, never by running the model
again.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from safe.config import Eval, Runtime
from safe.errors import DataError, ModelError
from safe.inference import Recogniser
from safe.loader import load_batches
from safe.metrics import summarize
from safe.perturb import perturb
from safe.plan import in_order
from safe.process import whole_file
from safe.recipe import pick_device, pick_precision
from safe.saved import load_model
from safe.shards import ShardFolder, open_shards
from safe.verify import verify


@dataclass(frozen=True)
class Predictions:
    """What the model gave, one entry a row of the split, in the table's order."""

    rows: NDArray[np.int64]  # [n]
    logits: NDArray[np.float32]  # [n, K]
    embedding: NDArray[np.float32]  # [n, D]
    attention: NDArray[np.float32]  # [n, N]


@torch.inference_mode()
def predict(
    model: nn.Module,
    folder: ShardFolder,
    rows: NDArray[np.int64],
    *,
    crop: int,
    batch: int,
    device: torch.device,
    precision: torch.dtype,
    workers: int,
    change: Callable[[Tensor, NDArray[np.int64]], Tensor] | None = None,
) -> Predictions:
    """Run the model over `rows` with the centre crop, each row exactly once.

    `change`, if given, perturbs uint8 faces [B, T, S, S, 3] of some rows before the crop.

    Raises:
        DataError: if a clip cannot be read, or the pass did not see each row once.
    """
    answer = Recogniser(model, crop=crop, device=device, precision=precision)
    seen, found = [], []
    there = torch.device("cpu") if change else device  # a perturbation works on the CPU
    for loaded in load_batches(folder, in_order(rows, batch), workers=workers, device=there):
        faces = loaded["faces"]
        if change is not None:
            faces = change(faces, loaded["row"].numpy())
        seen.append(loaded["row"].numpy())
        found.append(answer(faces))
    order = np.concatenate(seen)
    if not np.array_equal(order, rows):
        raise DataError(
            f"{folder.root}: {len(order)} clips came from the loader, expected {len(rows)}"
        )
    logits, embedding, attention = (np.concatenate(part) for part in zip(*found, strict=True))
    return Predictions(order, logits, embedding, attention)


def evaluate(
    model_folder: Path,
    *,
    shards: Path,
    fold: int,
    out: Path,
    settings: Eval,
    runtime: Runtime,
    seen: Path | None = None,
) -> dict[str, Any]:
    """Evaluate a fold's model on its test split; write predictions.parquet and metrics.json.

    `seen` is the memory of shards that safe.verify found good; without it all are read.

    Returns:
        What metrics.json holds: the figures of safe.metrics.summarize, n_test, n_left_out, fold,
        selection, perturb, severity, precision.

    Raises:
        ModelError: if the model was made for shards of another preprocessing, or for another fold.
        DataError: if the shards cannot be read, or are not what their index says.
    """
    model, info = load_model(model_folder)
    folder = open_shards(shards)
    check_fit(info, folder, fold, model_folder)
    verify(folder, seen=seen)
    device = pick_device(runtime.device)
    _, rows = folder.split(fold)
    found = predict(
        model.to(device),
        folder,
        rows,
        crop=info["crop"],
        batch=settings.batch,
        device=device,
        precision=pick_precision(settings.precision, device, trains=False),
        workers=runtime.workers,
        change=None if settings.perturb == "none" else partial(_perturb, settings=settings),
    )
    figures = {
        **summarize(found.logits, folder.label[rows], settings.bins),
        "n_test": len(rows),
        "n_left_out": folder.left_out(folder.test_bucket(fold)),
        "fold": fold,
        "selection": info["selection"]["rule"],
        "perturb": settings.perturb,
        "severity": settings.severity,
        "precision": settings.precision,
    }
    _write(out, folder, found, figures)
    return figures


def _perturb(faces: Tensor, rows: NDArray[np.int64], *, settings: Eval) -> Tensor:
    return perturb(
        faces, rows, name=settings.perturb, severity=settings.severity, seed=settings.seed
    )


def check_fit(info: dict[str, Any], folder: ShardFolder, fold: int, model_folder: Path) -> None:
    """Raise ModelError unless the model was trained for these shards and this fold."""
    theirs = info["preprocessing"]["id"]
    if theirs != folder.preprocessing_id:
        raise ModelError(
            f"{model_folder}: trained on preprocessing {theirs}, but {folder.root} has "
            f"{folder.preprocessing_id}; evaluate on shards made the same way, or train anew"
        )
    if info["fold"] != fold:
        raise ModelError(
            f"{model_folder}: trained for fold {info['fold']}; fold {fold}'s test clips are among "
            "its training clips"
        )


def _write(out: Path, folder: ShardFolder, found: Predictions, figures: dict[str, Any]) -> None:
    floats = pa.list_(pa.float32())
    table = pa.table(
        {
            "clip": pa.array(folder.clip[found.rows].tolist(), pa.string()),
            "label": pa.array(folder.label[found.rows], pa.int8()),
            "logits": pa.array(list(found.logits), floats),
            "embedding": pa.array(list(found.embedding), floats),
            "attention": pa.array(list(found.attention), floats),
        }
    )
    with whole_file(out / "predictions.parquet") as temporary:
        pq.write_table(table, temporary)
    with whole_file(out / "metrics.json") as temporary:
        temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
