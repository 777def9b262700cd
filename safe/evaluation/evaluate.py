"""The stage eval: a fold's model on its test split."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from safe.config import Eval, Runtime
from safe.errors import ModelError
from safe.evaluation.calibration import Calibration, trust_metrics
from safe.evaluation.inference import predict
from safe.evaluation.metrics import summarize
from safe.evaluation.perturb import perturb
from safe.evaluation.predictions import write_predictions
from safe.files import atomic_file
from safe.saved import WEIGHTS, load_model
from safe.shards.folder import ShardFolder, open_shards
from safe.shards.source import Source
from safe.shards.verify import verify
from safe.training.device import pick_device, pick_precision


def evaluate(
    model_folder: Path,
    *,
    shards: Path | Source,
    fold: int,
    out: Path,
    settings: Eval,
    runtime: Runtime,
    seen: Path | None = None,
) -> dict[str, Any]:
    """Evaluate a fold's model on its test split; write predictions.parquet and metrics.json.

    `seen` is the memory of shards that safe.shards.verify found good; without it all are read.

    Returns:
        What metrics.json holds: the metrics of safe.evaluation.metrics.summarize, of the model's
        own logits; those of safe.evaluation.calibration, of its calibrated answers; calibration and
        calibrated_on, how and on how many clips; weights, their sha256; n_test, n_left_out, fold,
        selection, perturb, severity, precision.

    Raises:
        ModelError: if the model was made for shards of another preprocessing, of other classes, or
            for another fold; or if an answer of it is not finite.
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
        name=model_folder / WEIGHTS,
        change=None
        if settings.perturb == "none"
        else partial(
            perturb, name=settings.perturb, severity=settings.severity, seed=settings.seed
        ),
    )
    calibration = Calibration.from_info(info)
    metrics = {
        **summarize(found.logits, found.label, settings.bins, folder.classes),
        **trust_metrics(found.logits, found.label, calibration, bins=settings.bins),
        "calibration": calibration.method,
        "calibrated_on": calibration.clips,
        "weights": info["weights"]["sha256"],
        "model": info["sha256"],
        "n_test": len(rows),
        "n_left_out": folder.left_out(folder.test_bucket(fold)),
        "fold": fold,
        "selection": info["selection"]["rule"],
        "perturb": settings.perturb,
        "severity": settings.severity,
        "precision": settings.precision,
    }
    write_predictions(out / "predictions.parquet", found)
    with atomic_file(out / "metrics.json") as temporary:
        temporary.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    return metrics


def check_fit(info: dict[str, Any], folder: ShardFolder, fold: int, model_folder: Path) -> None:
    """Raise ModelError unless the model was trained for these shards and this fold."""
    if info["frames"] != folder.frames:
        raise ModelError(
            f"{model_folder}: trained on clips of {info['frames']} frames, but {folder.location} "
            f"has {folder.frames}; set shard.frames = {info['frames']} and make the shards again"
        )
    theirs = info["preprocessing"]["id"]
    if theirs != folder.preprocessing_id:
        raise ModelError(
            f"{model_folder}: trained on preprocessing {theirs}, but {folder.location} has "
            f"{folder.preprocessing_id}; evaluate on shards made the same way, or train again"
        )
    if tuple(info["classes"]) != folder.classes:
        raise ModelError(
            f"{model_folder}: trained on the classes {', '.join(info['classes'])}, but "
            f"{folder.location} has {', '.join(folder.classes)}; evaluate on shards of the same "
            "classes, or train again"
        )
    if info["fold"] != fold:
        raise ModelError(
            f"{model_folder}: trained for fold {info['fold']}; fold {fold}'s test clips are among "
            "its training clips"
        )
    read = info.get("read") or {}
    if read.get("clips") not in (None, folder.digest(fold)):
        raise ModelError(
            f"{model_folder}: trained on other clips than {folder.location} has for fold {fold}; "
            "run `safe-cli train` again, or take the shards that it was trained on"
        )
