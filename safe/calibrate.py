"""What do the clips of the selection split say of a trained model's answers?

A model folder goes in; the same model with a Calibration in its model.json comes out, and what it
said of the selection split. These clips were not learnt, but where they chose the epoch too their
figures are a little better than those of other clips: the test split tells how good they are.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from safe.calibration import Calibration
from safe.config import Calibrate, Runtime
from safe.errors import ModelError
from safe.evaluate import check_fit
from safe.exact_pass import predict, write_predictions
from safe.metrics import Floats, Ints
from safe.reading.shards import ShardFolder, open_shards
from safe.reading.verify import verify
from safe.recipe import pick_device, pick_precision
from safe.saved import load_model, save_calibrated
from safe.scaling import FITS, class_cutoffs
from safe.selective import threshold_for
from safe.split import Rows, choose_rows
from safe.store import Store
from safe.trust import trust_figures

BATCH: Final = 32
"""Clips at once; not a parameter, because it changes no result that anyone could see."""


class _Choice(BaseModel):
    """safe.split.Choice, read from model.json: a model of older code may lack other parameters."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    select: Literal["last", "val", "test"]
    val_from: Literal["clips", "fold"] = "clips"
    val_fraction: Annotated[float, Field(gt=0, lt=1)]


def calibrate(
    model_folder: Path,
    *,
    shards: Path | Store,
    fold: int,
    out: Path,
    settings: Calibrate,
    runtime: Runtime,
    bins: int,
    seen: Path | None = None,
) -> dict[str, Any]:
    """Fit a model's calibration on its selection split; write a model folder and predictions.

    Without a selection split (train.select last or test) nothing can be fitted honestly: the model
    is written as it is, without sets and without abstention.

    Args:
        model_folder: of the stage train.
        shards: the shard folder that it was trained on.
        fold: the fold that it was trained for.
        out: the model folder to write.
        settings: the section calibrate of params.yaml.
        runtime: the section runtime.
        bins: of the ECE.
        seen: as in safe.evaluate.

    Returns:
        clips of the selection split, temperature (None with another method), and on these clips ece
        before, and the figures of safe.trust after (None without a selection split).

    Raises:
        ModelError: if the model does not fit the shards or the fold.
        DataError: if the shards cannot be read, or are not what their index says.
    """
    model, info = load_model(model_folder)
    folder = open_shards(shards)
    check_fit(info, folder, fold, model_folder)
    rows = selection_rows(info, folder, fold, model_folder)
    if rows is None:
        save_calibrated(out, model_folder, Calibration())
        return {"clips": 0}
    verify(folder, seen=seen)
    device = pick_device(runtime.device)
    found = predict(
        model,
        folder,
        rows,
        crop=info["crop"],
        batch=BATCH,
        device=device,
        precision=pick_precision("float32", device, trains=False),
        workers=runtime.workers,
    )
    labels = folder.label[rows]
    calibration = fit(found.logits.astype(np.float64), labels, settings)
    write_predictions(out / "predictions.parquet", folder, found)
    save_calibrated(out, model_folder, calibration)
    before = trust_figures(found.logits, labels, Calibration(), bins=bins, resamples=0)
    after = trust_figures(found.logits, labels, calibration, bins=bins, resamples=0)
    temperature = 1 / calibration.scale[0] if calibration.method == "temperature" else None
    return {
        **after,
        "clips": len(rows),
        "temperature": temperature,
        "threshold": calibration.threshold,
        "ece": before["ece_calibrated"],
    }


def fit(logits: Floats, labels: Ints, settings: Calibrate) -> Calibration:
    """Fit scale, bias, cutoffs and threshold on logits [n, K] and labels [n], in this order."""
    read = Calibration(method=settings.method, clips=len(labels))
    if settings.method != "none":
        scale, bias = FITS[settings.method](logits, labels)
        read = replace(read, scale=tuple(scale.tolist()), bias=tuple(bias.tolist()))
    p = read.probabilities(logits)
    if settings.level is not None:
        cutoffs = class_cutoffs(p, labels, level=settings.level)
        read = replace(read, level=settings.level, cutoffs=tuple(cutoffs.tolist()))
    if settings.risk is not None:
        threshold = threshold_for(p.max(axis=1), p.argmax(axis=1) != labels, risk=settings.risk)
        read = replace(read, risk=settings.risk, threshold=threshold)
    return read


def selection_rows(
    info: dict[str, Any], folder: ShardFolder, fold: int, model_folder: Path
) -> Rows | None:
    """Say which rows were the model's selection split; None if it had none but the test split.

    They follow from the parameters in model.json and the shards, as they did in training.

    Raises:
        ModelError: if model.json has no parameters of training.
    """
    if info["selection"]["rule"] != "val":
        return None
    try:
        settings = _Choice.model_validate(info["params"]["train"])
        seed = int(info["params"]["seed"])
    except (KeyError, TypeError, ValidationError) as error:
        raise ModelError(
            f"{model_folder}: model.json has no params of training; train anew"
        ) from error
    return choose_rows(folder, fold, settings=settings, seed=seed)[1]
