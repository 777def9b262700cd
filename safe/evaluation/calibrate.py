"""The stage calibrate: a Calibration fitted on a model's selection split.

In: a model folder and its shards. Out: the same model with a Calibration in its model.json, and
what it said of the selection split. These clips were not learnt, but where they chose the epoch too
their metrics are a little better than those of other clips: the test split tells how good they are.

Both ways of scaling (Guo et al., "On Calibration of Modern Neural Networks", 2017) minimise the
negative log-likelihood of p = softmax(scale * logits + bias). Shapes: n clips, K classes.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

from safe.config import Calibrate, Runtime
from safe.errors import ModelError
from safe.evaluation.calibration import Calibration, trust_metrics
from safe.evaluation.evaluate import check_fit
from safe.evaluation.inference import predict
from safe.evaluation.metrics import Floats, Ints, nll, threshold_for
from safe.evaluation.predictions import write_predictions
from safe.saved import WEIGHTS, load_model, save_calibrated
from safe.shards.folder import ShardFolder, open_shards
from safe.shards.source import Source
from safe.shards.verify import verify
from safe.training.device import pick_device, pick_precision
from safe.training.split import Rows, choose_rows

BATCH: Final = 32
"""Clips at once; not a parameter, because it changes no result that anyone could see."""

MOST: Final = 20.0
"""Largest temperature, and one over the smallest: beyond, a split has no error, or nothing else."""


LEAST: Final = 30
"""Clips of a selection split from which on a calibration is told as one. Of fewer, a share such as
the coverage is known to 18 percentage points at best (two standard errors), and one clip more or
less moves the temperature from one of its limits to the other."""


def doubts(clips: int, temperature: float | None) -> list[str]:
    """Say why a calibration on so many clips is not to be relied on; nothing if it may be."""
    told = []
    if 0 < clips < LEAST:
        told.append(f"only {clips} clips, not enough (at least {LEAST})")
    if temperature is not None and not MOST**-0.999 < temperature < MOST**0.999:
        told.append(f"the temperature is at its limit of {temperature:.4g}")
    return told


def calibrate(
    model_folder: Path,
    *,
    shards: Path | Source,
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
        shards: what it was trained on.
        fold: the fold that it was trained for.
        out: the model folder to write.
        settings: the section calibrate of params.yaml.
        runtime: the section runtime.
        bins: of the ECE.
        seen: as in safe.evaluation.evaluate.

    Returns:
        clips of the selection split (nothing else if that is 0), temperature (None with another
        method), threshold, and on these clips ece before, and the metrics of
        safe.evaluation.calibration after.

    Raises:
        ModelError: if the model does not fit the shards or the fold, or an answer is not finite.
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
        name=model_folder / WEIGHTS,
    )
    calibration = fit(found.logits.astype(np.float64), found.label, settings)
    write_predictions(out / "predictions.parquet", found)
    save_calibrated(out, model_folder, calibration)
    before, after = (
        trust_metrics(found.logits, found.label, read, bins=bins, resamples=0)
        for read in (Calibration(), calibration)
    )
    return {
        **after,
        "clips": len(rows),
        "temperature": 1 / calibration.scale[0] if settings.method == "temperature" else None,
        "threshold": calibration.threshold,
        "ece": before["ece_calibrated"],
    }


class _Choice(BaseModel):
    """The choice of a split as model.json says it: a model of older code may lack other keys."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    select: Literal["last", "val", "test"]
    val_from: Literal["clips", "fold"] = "clips"
    val_fraction: Annotated[float, Field(gt=0, lt=1)]


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
            f"{model_folder}: model.json has no params of training; train again"
        ) from error
    return choose_rows(folder, fold, settings=settings, seed=seed)[1]


def fit(logits: Floats, labels: Ints, settings: Calibrate) -> Calibration:
    """Fit scale, bias, cutoffs and threshold on logits [n, K] and labels [n], in this order."""
    read = Calibration(method=settings.method, clips=len(labels))
    if settings.method != "none":
        fit_scale = {"temperature": fit_temperature, "vector": fit_vector}[settings.method]
        scale, bias = fit_scale(logits, labels)
        read = replace(read, scale=tuple(scale.tolist()), bias=tuple(bias.tolist()))
    p = read.probabilities(logits)
    if settings.level is not None:
        cutoffs = class_cutoffs(p, labels, level=settings.level)
        read = replace(read, level=settings.level, cutoffs=tuple(cutoffs.tolist()))
    if settings.risk is not None:
        threshold = threshold_for(p.max(axis=1), p.argmax(axis=1) != labels, risk=settings.risk)
        read = replace(read, risk=settings.risk, threshold=threshold)
    return read


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    """Find the one temperature T for all classes; the order of the classes stays as it is.

    Returns:
        Scale, float64 [K], all 1 / T with T in 1/20..20; and bias, [K], all 0.
    """
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    # Of 1 / T the likelihood is a convex function, so there is one lowest point; its logarithm only
    # makes the search even over small and large ones.
    found = minimize_scalar(
        lambda t: nll(z * np.exp(t), y),
        bounds=(-np.log(MOST), np.log(MOST)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    k = z.shape[1]
    return np.full(k, np.exp(found.x)), np.zeros(k)


def fit_vector(logits: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    """Find a scale and a bias a class; the class with the highest probability may become another.

    2 K numbers from few clips would learn those clips by heart, and a class without any would get
    the bias minus infinity. So the biases, and the logarithms of scale * T, have a normal prior of
    mean 0 and deviation 1: many clips outweigh it, a class without any keeps what T gives.

    Returns:
        Scale [K] within 1/20..20, and bias [K] of sum 0.
    """
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    start, _ = fit_temperature(z, y)
    k = z.shape[1]
    truth = np.eye(k)[y]

    def loss(numbers: Floats) -> tuple[float, Floats]:
        move, bias = numbers[:k], numbers[k:]
        scaled = z * start * np.exp(move)
        log_p = log_softmax(scaled + bias, axis=1)
        rest = (np.exp(log_p) - truth) / len(z)
        value = -(truth * log_p).sum() / len(z) + (numbers**2).sum() / 2 / len(z)
        slope = np.concatenate([(rest * scaled).sum(axis=0), rest.sum(axis=0)])
        return float(value), slope + numbers / len(z)

    limit = np.log(MOST)
    bounds = [(-limit - np.log(s), limit - np.log(s)) for s in start] + [(None, None)] * k
    found = minimize(loss, np.zeros(2 * k), jac=True, method="L-BFGS-B", bounds=bounds).x
    bias = found[k:]
    return start * np.exp(found[:k]), bias - bias.mean()


def class_cutoffs(probabilities: Floats, labels: Ints, *, level: float) -> Floats:
    """Say from which probability on a class belongs to a clip's prediction set.

    Class-conditional split conformal prediction (Vovk 2012; Sadinle, Lei and Wasserman 2019): of
    the n_c clips of class c the floor((n_c + 1) (1 - level))-th smallest p_c is the cutoff of c. If
    new clips are drawn like these, the sets hold the label of at least `level` of each class, and
    of at most 1 / (n_c + 1) more. A class with too few clips for that is in every set (cutoff 0).

    Returns:
        float64 [K], 0..1.
    """
    cutoffs = np.zeros(probabilities.shape[1])
    for c in range(len(cutoffs)):
        own = np.sort(probabilities[labels == c, c])
        rank = int(np.floor((len(own) + 1) * (1 - level) + 1e-9))  # 0.1 * 10 must not become 0
        if rank >= 1:
            cutoffs[c] = own[rank - 1]
    return cutoffs
