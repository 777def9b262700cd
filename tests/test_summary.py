"""The folds together: worked out by hand, exactly the folds asked for, none missing in silence."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import bare_info

from safe.errors import DataError
from safe.evaluation.calibration import Calibration
from safe.evaluation.metrics import summarize
from safe.evaluation.predictions import read_predictions
from safe.evaluation.summary import summarize_folds
from safe.info import info_digest
from safe.taxonomy import BASIC, encode


def write_fold(
    folder: Path,
    fold: int,
    labels,
    predictions,
    *,
    selection="last",
    left_out=0,
    calibration=None,
    classes=BASIC,
):
    """A fold whose logits are 2 for the prediction and 0 elsewhere."""
    logits = 2.0 * np.eye(len(classes))[predictions]
    out = folder / "eval" / f"fold-{fold}"
    out.mkdir(parents=True)
    table = pa.table(
        {
            "clip": [f"{fold}-{row}" for row in range(len(labels))],
            "label": pa.array(labels, pa.int8()),
            "logits": logits.tolist(),
            "embedding": logits.tolist(),
            "attention": [[1.0]] * len(labels),
        }
    ).replace_schema_metadata(encode(classes))
    pq.write_table(table, out / "predictions.parquet")
    figures = summarize(logits, labels, 15, classes)
    figures |= {"n_test": len(labels), "n_left_out": left_out, "selection": selection, "fold": fold}
    figures |= {"perturb": "none", "severity": 0, "precision": "float32"}
    (out / "metrics.json").write_text(json.dumps(figures))
    model = folder / "calibrate" / f"fold-{fold}"
    model.mkdir(parents=True)
    history = [{"loss": fold + epoch / 10, "clips_per_s": 1.0} for epoch in range(3)]
    info = bare_info(classes=list(classes), fold=fold, history=history)
    info["calibration"] = calibration and calibration.record()
    (model / "model.json").write_text(json.dumps({**info, "sha256": info_digest(info)}))


def run(folder: Path, folds: list[int]) -> dict:
    return summarize_folds(
        evals=folder / "eval",
        models=folder / "calibrate",
        folds=folds,
        dataset="synthetic",
        bins=15,
        out=folder / "results",
    )


def test_means_deviations_and_pooled_figures_by_hand(tmp_path):
    write_fold(tmp_path, 1, [0, 0, 1, 1], [0, 0, 1, 2], left_out=1)  # WAR 75, recalls 100, 50
    write_fold(tmp_path, 2, [0, 3], [1, 3], left_out=2)  # WAR 50, recalls 0, 100
    write_fold(tmp_path, 3, [6, 6], [0, 0])  # not asked for
    result = run(tmp_path, [1, 2])
    assert result["war"] == 62.5
    assert result["uar"] == 62.5  # (75 + 50) / 2
    assert result["war_std"] == pytest.approx(17.6777, abs=1e-4)
    assert result["war_pooled"] == pytest.approx(100 * 4 / 6, abs=1e-4)
    assert result["uar_pooled"] == pytest.approx((100 * 2 / 3 + 50 + 100) / 3, abs=1e-4)
    assert result["recall.happy"] == 50
    assert result["recall.sad"] == 50  # fold 2 has no sad clip
    assert result["recall.fear"] is None
    assert result["uar_classes"] == 2
    assert (result["n_test"], result["n_left_out"], result["n_folds"]) == (6, 3, 2)
    assert 0 <= result["war_low"] <= result["war_pooled"] <= result["war_high"] <= 100
    assert json.loads((tmp_path / "results" / "metrics.json").read_text()) == result


def test_one_fold_has_deviation_zero(tmp_path):
    write_fold(tmp_path, 1, list(range(7)), list(range(7)))
    result = run(tmp_path, [1])
    assert (result["war"], result["uar"], result["war_std"]) == (100, 100, 0)


def test_tables_for_plots(tmp_path):
    write_fold(tmp_path, 1, [0, 1], [0, 2])
    write_fold(tmp_path, 2, [3], [3])
    run(tmp_path, [1, 2])

    def rows(name: str) -> list[dict[str, str]]:
        with (tmp_path / "results" / name).open() as file:
            return list(csv.DictReader(file))

    assert rows("confusion.csv") == [
        {"actual": "happy", "predicted": "happy"},
        {"actual": "sad", "predicted": "neutral"},
        {"actual": "angry", "predicted": "angry"},
    ]
    assert [(row["epoch"], row["loss"]) for row in rows("curves.csv")] == [
        ("1", "1.5"),
        ("2", "1.6"),
        ("3", "1.7"),
    ]
    (row,) = rows("reliability.csv")
    top = np.exp(2) / (np.exp(2) + 6)
    assert float(row["confidence"]) == pytest.approx(top)
    assert float(row["accuracy"]) == pytest.approx(2 / 3)
    assert row["clips"] == "3"


def test_calibrated_figures_are_of_all_clips_each_read_by_its_own_fold(tmp_path):
    """Fold 1's sets hold every class with p > 0.2 and it answers all; fold 2's hold none."""
    always = Calibration("temperature", level=0.9, cutoffs=(0.2,) * 7, clips=9)
    never = Calibration("temperature", level=0.9, cutoffs=(1.0,) * 7, threshold=1.0, clips=9)
    write_fold(tmp_path, 1, [0, 0, 1], [0, 0, 2], calibration=always)
    write_fold(tmp_path, 2, [3], [3], calibration=never)
    result = run(tmp_path, [1, 2])
    assert result["coverage"] == 0.5  # the right ones of fold 1: p of a hit is 0.55, else 0.07
    assert result["set_size"] == 0.75
    assert result["answered"] == 0.75
    assert result["selective_risk"] == pytest.approx(1 / 3, abs=1e-4)
    assert result["error"] == 0.25
    assert 0 <= result["coverage_low"] <= 0.5 <= result["coverage_high"] <= 1
    write_fold(tmp_path, 3, [3], [3])  # without a calibration
    assert run(tmp_path, [1, 3])["coverage"] is None


def test_a_missing_fold_or_mixed_rules_are_one_line(tmp_path):
    write_fold(tmp_path, 1, [0], [0])
    with pytest.raises(DataError, match=r"fold-2/predictions\.parquet: not found; `safe-cli eval`"):
        run(tmp_path, [1, 2])
    write_fold(tmp_path, 2, [0], [0], selection="test")
    with pytest.raises(DataError, match="different rules"):
        run(tmp_path, [1, 2])


@pytest.mark.parametrize("count", [2, 11])
def test_folds_of_other_classes_one_of_them_without_clips(tmp_path, count):
    classes = tuple(f"c{number}" for number in range(count))
    labels = list(range(count - 1)) * 2
    for fold in (1, 12):
        write_fold(tmp_path, fold, labels, labels, classes=classes)
    result = run(tmp_path, [1, 12])
    assert (result["uar"], result["uar_classes"]) == (100, count - 1)
    assert result[f"recall.c{count - 1}"] is None
    with (tmp_path / "results" / "confusion.csv").open() as file:
        assert {row["actual"] for row in csv.DictReader(file)} == set(classes[:-1])


def test_folds_of_different_classes_are_refused(tmp_path):
    write_fold(tmp_path, 1, [0, 1], [0, 1])
    write_fold(tmp_path, 2, [0, 1], [0, 1], classes=("a", "b"))
    with pytest.raises(DataError, match="different classes cannot be pooled: a, b, and happy, sad"):
        run(tmp_path, [1, 2])


def test_predictions_that_name_no_classes_are_of_the_basic_seven(tmp_path):
    path = tmp_path / "predictions.parquet"

    def write(labels, count, metadata=None):
        logits = np.eye(count)[labels].tolist()
        columns = dict.fromkeys(("logits", "embedding", "attention"), logits)
        table = pa.table({"clip": [f"c{i}" for i in labels], "label": labels, **columns})
        pq.write_table(table.replace_schema_metadata(metadata), path)

    write([0, 6], 7)
    assert read_predictions(path).classes == BASIC
    write([0, 7], 8)
    with pytest.raises(DataError, match="must hold 7 logits"):
        read_predictions(path)
    names = tuple("abcdefgh")
    write([0, 7], 8, encode(names))
    assert read_predictions(path).classes == names
    write([0, 1], 8, {b"classes": b"7"})
    with pytest.raises(DataError, match="damaged"):
        read_predictions(path)
    write([0, 7], 8, encode(names))
    table = pq.read_table(path)
    for label in (-1, 8):
        wrong = table.set_column(1, "label", pa.array([0, label]))
        pq.write_table(wrong, path)
        with pytest.raises(DataError, match=r"labels that are not in 0\.\.7"):
            read_predictions(path)
