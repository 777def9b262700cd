"""Which figures stand on a model card, with which intervals?

An evaluation goes in; numbers come out, rounded only where they are shown as they are.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from safe.calibration import Calibration
from safe.errors import DataError
from safe.metrics import Ints, confusion, uar, uar_name, war
from safe.predictions import Split, read_predictions
from safe.statistics import bootstrap_interval
from safe.taxonomy import Classes
from safe.trust import trust_figures

Interval = tuple[float | None, float | None, float | None]
"""A figure and the ends of its 95 % interval; None where it is not defined."""


def card_figures(folder: Path, info: dict[str, Any], calibration: Calibration) -> dict[str, Any]:
    """Compute what an evaluation says of a model.

    Args:
        folder: of metrics.json and predictions.parquet.
        info: the model's model.json.
        calibration: what it says of the model's answers.

    Returns:
        metrics, what metrics.json holds; n, test clips; war and uar, an Interval each in percent;
        uar_name, which says over how many classes UAR is; rows, a dict a class; fewest and weakest,
        two of them; absent, names of those without test clips; before and after, what safe.trust
        says of the plain softmax and of the calibrated answers: ece and aurc as Intervals, nll and
        brier as text, the rest in percent.

    Raises:
        DataError: if a file is missing or damaged, or they are not of this model.
    """
    path = folder / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        told = (metrics["weights"], metrics["n_test"], metrics["war"])
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not found or damaged; `safe-cli eval` makes it") from error
    split = read_predictions(folder / "predictions.parquet")
    if list(split.classes) != info["classes"]:
        raise DataError(f"{folder}: of other classes than the model; run `safe-cli eval` for it")
    classes = split.classes
    matrix = confusion(split.label, split.predicted, len(classes))
    found = (info["weights"]["sha256"], len(split.clip), 100 * war(matrix))
    if told[:2] != found[:2] or abs(told[2] - found[2]) > 1e-6:
        raise DataError(
            f"{folder}: of another model or another evaluation: weights, clips and WAR are {told}, "
            f"here {found}; run `safe-cli eval` for this model"
        )
    rows = [_row(matrix, k, classes) for k in range(len(classes))]
    drawn = {
        figure: bootstrap_interval(split.label, split.predicted, figure, len(classes))
        for figure in (war, uar)
    }
    present = [row for row in rows if row["n"]]
    bins = int(info["params"]["eval"]["bins"])
    return {
        "metrics": metrics,
        "n": len(split.clip),
        "war": _percent(war(matrix), *drawn[war]),
        "uar": _percent(uar(matrix), *drawn[uar]),
        "uar_name": uar_name(matrix.sum(axis=1)),
        "absent": [row["name"] for row in rows if not row["n"]],
        "rows": rows,
        "fewest": min(present, key=lambda row: row["n"]),
        "weakest": min(present, key=lambda row: row["recall"][0]),
        "before": _trust(split, Calibration(), bins),
        "after": _trust(split, calibration, bins),
    }


def _row(matrix: Ints, k: int, classes: Classes) -> dict[str, Any]:
    """What the table by class says of class k."""
    wrong = matrix[k].copy()
    wrong[k] = 0
    guessed = matrix[:, k].sum()
    return {
        "name": classes[k],
        "n": int(matrix[k].sum()),
        "recall": _recall(int(matrix[k, k]), int(matrix[k].sum())),
        "precision": f"{100 * matrix[k, k] / guessed:.0f}" if guessed else "never said",
        "taken_for": f"{classes[wrong.argmax()]} ({wrong.max()})" if wrong.any() else "-",
    }


def _recall(right: int, clips: int) -> Interval:
    """Recall in percent with Wilson's interval: resampling would give none where all are wrong."""
    if not clips:
        return None, None, None
    ends = binomtest(right, clips).proportion_ci(method="wilson")
    return 100 * right / clips, 100 * ends.low, 100 * ends.high


def _trust(split: Split, calibration: Calibration, bins: int) -> dict[str, Any]:
    """Figures of safe.trust with what is shown of each."""
    found = trust_figures(split.logits, split.label, calibration, bins=bins)

    def triple(name: str, times: float = 1.0) -> Interval:
        ends = (found[name], found[f"{name}_low"], found[f"{name}_high"])
        value, low, high = (None if end is None else times * end for end in ends)
        return value, low, high

    def one(name: str, digits: int, times: float = 1.0) -> str:
        value = found[name]
        return "-" if value is None else f"{times * value:.{digits}f}"

    return {
        "ece": triple("ece_calibrated"),
        "aurc": triple("aurc"),
        "nll": one("nll_calibrated", 3),
        "brier": one("brier_calibrated", 3),
        "coverage": triple("coverage", 100),
        "set_size": one("set_size", 2),
        "answered": one("answered", 0, 100),
        "selective_risk": triple("selective_risk", 100),
        "risk_at_80": triple("risk_at_80", 100),
        "error": one("error", 1, 100),
    }


def _percent(value: float, low: float, high: float) -> Interval:
    shown = [None if np.isnan(end) else 100 * end for end in (value, low, high)]
    return shown[0], shown[1], shown[2]
