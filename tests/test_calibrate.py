"""The stage calibrate: fitted on the selection split alone, and nothing where there is none."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from support import small_config

from safe.errors import DataError, ModelError
from safe.evaluation.calibrate import calibrate, fit, selection_rows
from safe.evaluation.calibration import Calibration, trust_metrics
from safe.evaluation.evaluate import evaluate
from safe.evaluation.metrics import softmax
from safe.evaluation.predictions import read_predictions
from safe.info import info_digest
from safe.saved import load_model, save_calibrated
from safe.shards.folder import open_shards
from safe.training.split import choose_rows, next_fold
from safe.training.train import train

VAL = ("train.select=val", "train.val_from=fold", "train.epochs=1")


def trained(project, out, *overrides):
    train(
        small_config(project, "train.batch=28", *overrides),
        shards=project / "data" / "synthetic" / "shards",
        fold=1,
        out=out,
        checkpoints=out.parent / "checkpoints",
        commit="none",
    )
    return out


@pytest.fixture(scope="module")
def model(project, tmp_path_factory):
    return trained(project, tmp_path_factory.mktemp("calibrate") / "fold-1", *VAL)


def run(project, model, shards, out, *overrides):
    config = small_config(project, *overrides)
    return calibrate(
        model,
        shards=shards,
        fold=1,
        out=out,
        settings=config.calibrate,
        runtime=config.runtime,
        bins=15,
    )


def test_fitted_on_the_next_fold_and_kept_in_the_model(project, model, shards, tmp_path):
    said = run(project, model, shards, tmp_path / "out", "calibrate.level=0.7")
    folder = open_shards(shards)
    split = read_predictions(tmp_path / "out" / "predictions.parquet")
    assert list(split.clip) == folder.clip[folder.bucket == "fold2"].tolist()
    network, info = load_model(tmp_path / "out")
    original, before = load_model(model)
    pairs = zip(network.parameters(), original.parameters(), strict=True)
    assert all((a == b).all() for a, b in pairs)
    assert {**info, "calibration": None, "sha256": None} == {
        **before,
        "calibration": None,
        "sha256": None,
    }
    read = Calibration.from_info(info)
    assert (read.method, read.level, read.clips) == ("temperature", 0.7, 14)
    config = small_config(project, "calibrate.level=0.7")
    assert read == fit(split.logits, split.label, config.calibrate)
    figures = trust_metrics(split.logits, split.label, read, bins=15, resamples=0)
    assert said["ece_calibrated"] == figures["ece_calibrated"]
    assert said["clips"] == 14


def test_the_test_split_has_no_say(project, model, shards, tmp_path):
    """The same calibration comes out where the labels of all test clips are others."""
    folder = open_shards(shards)
    rows = selection_rows(load_model(model)[1], folder, 1, model)
    assert set(folder.bucket[rows]) == {"fold2"}
    config = small_config(project, *VAL)
    kept, held = choose_rows(folder, 1, settings=config.train, seed=0)
    assert rows.tolist() == held.tolist()
    assert set(folder.bucket[kept]) == {"fold3", "fold4", "fold5"}


def test_a_model_from_before_a_parameter_was_added_still_has_its_selection_split(model, shards):
    info = load_model(model)[1]
    old = {k: info["params"]["train"][k] for k in ("select", "val_from", "val_fraction")}
    older = {**info, "params": {"seed": 0, "train": old}}
    folder = open_shards(shards)
    rows = selection_rows(older, folder, 1, model)
    assert rows.tolist() == selection_rows(info, folder, 1, model).tolist()
    with pytest.raises(ModelError, match="no params of training"):
        selection_rows({**info, "params": {"seed": 0, "train": {}}}, folder, 1, model)


def test_evaluation_reads_the_answers_by_it(project, model, shards, tmp_path):
    run(project, model, shards, tmp_path / "out")
    config = small_config(project)
    figures = evaluate(
        tmp_path / "out",
        shards=shards,
        fold=1,
        out=tmp_path / "eval",
        settings=config.eval,
        runtime=config.runtime,
    )
    split = read_predictions(tmp_path / "eval" / "predictions.parquet")
    read = Calibration.from_info(load_model(tmp_path / "out")[1])
    p = softmax(split.logits * read.scale[0])
    holds = p[np.arange(14), split.label] >= np.array(read.cutoffs)[split.label]
    assert figures["coverage"] == pytest.approx(holds.mean())
    assert figures["calibrated_on"] == 14
    assert figures["answered"] == pytest.approx((p.max(1) >= read.threshold).mean())


def test_without_a_selection_split_nothing_is_fitted(project, shards, tmp_path):
    for rule in ("last", "test"):
        source = trained(
            project, tmp_path / rule / "fold-1", f"train.select={rule}", "train.epochs=1"
        )
        assert run(project, source, shards, tmp_path / rule / "out") == {"clips": 0}
        assert Calibration.from_info(load_model(tmp_path / rule / "out")[1]) == Calibration()
        assert not (tmp_path / rule / "out" / "predictions.parquet").exists()


def test_method_none_leaves_the_probabilities_and_null_the_sets_and_decisions(
    project, model, shards, tmp_path
):
    run(project, model, shards, tmp_path, "calibrate.method=none", "calibrate.level=null")
    read = Calibration.from_info(load_model(tmp_path)[1])
    assert (read.method, set(read.scale), read.level) == ("none", {1.0}, None)
    assert read.threshold > 0
    run(project, model, shards, tmp_path, "calibrate.risk=null")
    read = Calibration.from_info(load_model(tmp_path)[1])
    assert (read.level, read.risk, read.threshold) == (0.9, None, 0.0)


def test_an_altered_calibration_is_refused(project, model, shards, tmp_path):
    out = tmp_path / "out"
    save_calibrated(out, model, Calibration("temperature", clips=3))
    for key, value in [
        ("scale", [0.0] * 7),
        ("scale", [1.0] * 6),
        ("bias", [float("1e9")] * 7),
        ("threshold", 7.0),
        ("method", "magic"),
        ("more", 1),
    ]:
        info = json.loads((out / "model.json").read_text())
        info["calibration"] = {**info["calibration"], key: value}
        info["sha256"] = info_digest(info)
        bad = tmp_path / "bad"
        shutil.copytree(out, bad, dirs_exist_ok=True)
        (bad / "model.json").write_text(json.dumps(info))
        with pytest.raises(ModelError, match=rf"calibration\.{key}"):
            load_model(bad)


def test_a_dataset_of_two_parts_has_no_next_fold(project, shards, tmp_path):
    folder = open_shards(shards)
    two = folder.bucket.copy()
    two[:] = "train"
    two[:20] = "test"
    settings = small_config(project, *VAL).train
    with pytest.raises(DataError, match="val_from: fold needs at least three folds"):
        choose_rows(replace(folder, bucket=two), 1, settings=settings, seed=0)


def test_a_bucket_val_is_the_selection_split_or_belongs_to_training(project, shards):
    folder = open_shards(shards)
    three = np.array(["test"] * 20 + ["val"] * 30 + ["train"] * 20)
    folder = replace(folder, bucket=three)
    for overrides in (("train.val_from=fold",), ("train.val_from=clips",)):
        settings = small_config(project, "train.select=val", *overrides).train
        kept, held = choose_rows(folder, 1, settings=settings, seed=0)
        assert held.tolist() == list(range(20, 50))
        assert kept.tolist() == list(range(50, 70))
    kept, held = choose_rows(folder, 1, settings=small_config(project).train, seed=0)
    assert (len(kept), held) == (50, None)


def test_of_many_folds_the_next_one_is_the_next_number(shards):
    buckets = np.array([f"fold{1 + row % 12}" for row in range(70)])
    folder = replace(open_shards(shards), bucket=buckets)
    found = [next_fold(folder, fold) for fold in (1, 2, 9, 12)]
    assert found == ["fold2", "fold3", "fold10", "fold1"]
