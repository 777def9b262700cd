"""What do the folds of an experiment say together?

Reads exactly the folds asked for, never a glob: old fold folders may lie beside them. Writes
metrics.json (what `dvc exp show` shows), the tables that `dvc plots` draws, and two pictures.
"""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from safe.errors import DataError
from safe.evaluation.calibration import FIGURES, Calibration, pooled_figures
from safe.evaluation.intervals import bootstrap_interval
from safe.evaluation.metrics import reliability, softmax, summarize, uar, war
from safe.evaluation.predictions import Split, pool, read_predictions
from safe.files import whole_file
from safe.report.pictures import draw_confusion, draw_reliability


def summarize_folds(
    *, evals: Path, models: Path, folds: Sequence[int], dataset: str, bins: int, out: Path
) -> dict[str, Any]:
    """Bring the folds together.

    War, uar, the recalls, ece, nll and brier are means over the folds (a recall over the folds
    whose test split has the class); war_std and uar_std are the sample standard deviations (0 for
    one fold); uar_classes is the least number of classes that a fold's uar is over. war_pooled and
    uar_pooled come from all test clips in one confusion matrix; war_low to war_high and uar_low to
    uar_high are their 95 % intervals (bootstrap over clips). Those of safe.evaluation.calibration
    (ece_calibrated,
    coverage, risk_at_80, ...) are of all test clips together, each read by its own fold's
    calibration.

    Args:
        evals: folder of `fold-<k>/metrics.json` and `predictions.parquet`.
        models: folder of `fold-<k>/model.json`, for the calibrations and the curves.
        folds: which folds.
        dataset: name for the table.
        bins: of the reliability diagram.
        out: folder for metrics.json, curves.csv, confusion.csv and .png, reliability.csv and .png.

    Raises:
        DataError: if a fold is missing, or the folds are of different classes, or were selected by
            different rules.
    """
    metrics = [_json(evals / f"fold-{fold}" / "metrics.json", "eval") for fold in folds]
    rules = sorted({fold["selection"] for fold in metrics})
    if len(rules) > 1:
        raise DataError(
            f"{evals}: folds selected by different rules ({', '.join(rules)}); train anew"
        )
    splits = {
        fold: read_predictions(evals / f"fold-{fold}" / "predictions.parquet") for fold in folds
    }
    every = pool(list(splits.values()))
    pooled = summarize(every.logits, every.label, bins, every.classes)
    result: dict[str, Any] = {"dataset": dataset, "n_folds": len(folds)}
    for name in ("war", "uar"):
        values = [fold[name] for fold in metrics]
        result[name] = _mean(values)
        result[f"{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        result[f"{name}_pooled"] = pooled[name]
        figure = {"war": war, "uar": uar}[name]
        low, high = bootstrap_interval(every.label, every.predicted, figure, len(every.classes))
        result[f"{name}_low"], result[f"{name}_high"] = 100 * low, 100 * high
    recalls = [f"recall.{name}" for name in every.classes]
    for name in ("ece", "nll", "brier", *recalls):
        result[name] = _mean([fold[name] for fold in metrics])
    result["uar_classes"] = min(sum(fold[r] is not None for r in recalls) for fold in metrics)
    infos = [_json(models / f"fold-{fold}" / "model.json", "calibrate") for fold in folds]
    result |= _trust(list(splits.values()), infos, bins)
    result["selection"] = rules[0]
    for name in ("perturb", "severity", "precision"):
        result[name] = metrics[0][name]
    for name in ("n_test", "n_left_out"):
        result[name] = sum(fold[name] for fold in metrics)
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in result.items()}
    _write_tables(out, [info["history"] for info in infos], every, bins)
    draw_confusion({f"fold {fold}": split for fold, split in splits.items()}, out / "confusion.png")
    draw_reliability({dataset: every}, bins, out / "reliability.png")
    with whole_file(out / "metrics.json") as temporary:
        temporary.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
    return rounded


def _json(path: Path, verb: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: not found; `safe-cli {verb}` makes it") from error
    except ValueError as error:
        raise DataError(f"{path}: damaged; `safe-cli {verb}` makes it anew") from error


def _trust(splits: list[Split], infos: list[dict[str, Any]], bins: int) -> dict[str, float | None]:
    """Figures of the calibrated answers on all test clips; None where a fold has no calibration."""
    readers = [Calibration.from_info(info) for info in infos]
    if not all(reader.clips for reader in readers):
        return dict.fromkeys(FIGURES)
    scaled = [reader.scaled(split.logits) for reader, split in zip(readers, splits, strict=True)]
    pairs = [(reader, softmax(z)) for reader, z in zip(readers, scaled, strict=True)]
    return pooled_figures(
        np.concatenate(scaled),
        np.concatenate([split.label for split in splits]),
        sets=None
        if any(reader.level is None for reader in readers)
        else np.concatenate([reader.sets(p) for reader, p in pairs]),
        abstains=np.concatenate([reader.abstains(p) for reader, p in pairs]),
        bins=bins,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _write_tables(
    out: Path,
    histories: list[list[dict[str, float]]],
    every: Split,
    bins: int,
) -> None:
    columns = [name for name in histories[0][0] if name != "clips_per_s"]
    epochs = min(len(history) for history in histories)
    curves = [
        [epoch + 1, *(round(np.mean([h[epoch][name] for h in histories]), 6) for name in columns)]
        for epoch in range(epochs)
    ]
    _csv(out / "curves.csv", ["epoch", *columns], curves)
    names = every.classes
    pairs = ([names[a], names[p]] for a, p in zip(every.label, every.predicted, strict=True))
    _csv(out / "confusion.csv", ["actual", "predicted"], pairs)
    rows = reliability(every.probabilities, every.label, bins)
    _csv(out / "reliability.csv", ["confidence", "accuracy", "clips"], rows)


def _csv(path: Path, header: list[str], rows: Iterable[Sequence[Any]]) -> None:
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
