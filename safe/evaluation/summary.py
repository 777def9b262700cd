"""Summary of the folds of an experiment: metrics.json, the tables of `dvc plots`, two pictures.

Reads exactly the folds asked for, never a glob: old fold folders may lie beside them.
"""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from safe.errors import DataError
from safe.evaluation.calibration import METRICS, Calibration, pooled_metrics
from safe.evaluation.intervals import intervals, mean_and_deviation
from safe.evaluation.metrics import reliability, summarize
from safe.evaluation.predictions import Split, pool, read_metrics, read_predictions
from safe.files import atomic_file
from safe.info import read_info
from safe.report.pictures import draw_confusion, draw_reliability

_NEEDED: Final = (
    *("war", "uar", "ece", "nll", "brier", "selection", "n_test", "n_left_out"),
    *("perturb", "severity", "precision"),
)
"""What a summary needs of each fold's metrics.json, beside the recalls of its classes."""
_SAME: Final = 1e-6  # points of WAR

MADE: Final = (
    *("metrics.json", "curves.csv", "confusion.csv", "reliability.csv"),
    *("confusion.png", "reliability.png"),
)
"""Files that are written."""


def summarize_folds(
    *, evals: Path, models: Path, folds: Sequence[int], dataset: str, bins: int, out: Path
) -> dict[str, Any]:
    """Bring the folds together.

    War, uar, the recalls, ece, nll and brier are means over the folds (a recall over the folds
    whose test split has the class); war_std and uar_std are the sample standard deviations (0 for
    one fold); uar_classes is the least number of classes that a fold's uar is over. war_pooled and
    uar_pooled come from all test clips in one confusion matrix; war_low to war_high and uar_low to
    uar_high are their intervals (safe.evaluation.intervals). Those of safe.evaluation.calibration
    (ece_calibrated, coverage, risk_at_80, ...) are of all test clips together, each read by its own
    fold's calibration; None where a fold has none.

    Args:
        evals: folder of `fold-<k>/metrics.json` and `predictions.parquet`.
        models: folder of `fold-<k>/model.json`, for the calibrations and the curves.
        folds: which folds.
        dataset: name for the table.
        bins: of the reliability diagram.
        out: folder for metrics.json, curves.csv, confusion.csv and .png, reliability.csv and .png.

    Raises:
        DataError: if a fold is missing or damaged, or the folds are of different classes, or were
            selected by different rules.
        ModelError: if a model.json is damaged.
    """
    splits = [read_predictions(evals / f"fold-{fold}" / "predictions.parquet") for fold in folds]
    every = pool(splits)
    recalls = [f"recall.{name}" for name in every.classes]
    needs = [*_NEEDED, *recalls]
    metrics = [read_metrics(evals / f"fold-{n}" / "metrics.json", needs=needs) for n in folds]
    for n, split, fold in zip(folds, splits, metrics, strict=True):
        # eval writes both, so a kill between them leaves the metrics of an evaluation before.
        if abs(100 * np.mean(split.predicted == split.label) - fold["war"]) > _SAME:
            raise DataError(
                f"{evals / f'fold-{n}'}: metrics.json is of other predictions; "
                f"run `safe-cli eval --fold {n}` again"
            )
    rules = sorted({fold["selection"] for fold in metrics})
    if len(rules) > 1:
        raise DataError(
            f"{evals}: folds selected by different rules ({', '.join(rules)}); train again"
        )
    pooled = summarize(every.logits, every.label, bins, every.classes)
    ends = intervals(("war", "uar"), every.label, every.logits[None], bins=bins)
    result: dict[str, Any] = {"dataset": dataset, "n_folds": len(folds)}
    for name, (low, high) in ends.items():
        result[name], result[f"{name}_std"] = mean_and_deviation([fold[name] for fold in metrics])
        result |= {f"{name}_pooled": pooled[name], f"{name}_low": low, f"{name}_high": high}
    for name in ("ece", "nll", "brier", *recalls):
        known = [fold[name] for fold in metrics if fold[name] is not None]
        result[name] = float(np.mean(known)) if known else None
    result["uar_classes"] = min(sum(fold[r] is not None for r in recalls) for fold in metrics)
    infos = [_info(models / f"fold-{fold}" / "model.json") for fold in folds]
    result |= _trust(splits, infos, bins)
    result["selection"] = rules[0]
    for name in ("perturb", "severity", "precision"):
        result[name] = metrics[0][name]
    for name in ("n_test", "n_left_out"):
        result[name] = sum(fold[name] for fold in metrics)
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in result.items()}
    _write_tables(out, [info["history"] for info in infos], every, bins)
    named = {f"fold {fold}": split for fold, split in zip(folds, splits, strict=True)}
    draw_confusion(named, out / "confusion.png")
    draw_reliability({dataset: every}, bins, out / "reliability.png")
    with atomic_file(out / "metrics.json") as temporary:
        temporary.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
    return rounded


def _info(path: Path) -> dict[str, Any]:
    try:
        return read_info(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: not found; `safe-cli calibrate` makes it") from error


def _trust(splits: list[Split], infos: list[dict[str, Any]], bins: int) -> dict[str, float | None]:
    readers = [Calibration.from_info(info) for info in infos]
    if not all(reader.clips for reader in readers):
        return dict.fromkeys(METRICS)
    pairs = zip(readers, splits, strict=True)
    return pooled_metrics([(read, split.logits, split.label) for read, split in pairs], bins=bins)


def _write_tables(
    out: Path, histories: list[list[dict[str, float]]], every: Split, bins: int
) -> None:
    rows = [row for history in histories for row in history]
    columns = [k for k in (rows or [{}])[0] if k != "clips_per_s" and all(k in row for row in rows)]
    epochs = min(len(history) for history in histories)
    curves = [
        [epoch + 1, *(round(np.mean([h[epoch][name] for h in histories]), 6) for name in columns)]
        for epoch in range(epochs)
    ]
    _csv(out / "curves.csv", ["epoch", *columns], curves)
    names = every.classes
    pairs = ([names[a], names[p]] for a, p in zip(every.label, every.predicted, strict=True))
    _csv(out / "confusion.csv", ["actual", "predicted"], pairs)
    bars = reliability(every.probabilities, every.label, bins)
    _csv(out / "reliability.csv", ["confidence", "accuracy", "clips"], bars)


def _csv(path: Path, header: list[str], rows: Iterable[Sequence[Any]]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
