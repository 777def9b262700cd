"""Evaluation: each test clip exactly once, the same twice, and only on shards that fit."""

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from support import small_config

from pipeline.tars import ShardWriter, write_index
from safe.doctor import examine_models, examine_predictions
from safe.errors import ModelError
from safe.evaluation.calibrate import calibrate
from safe.evaluation.calibration import Calibration, trust_metrics
from safe.evaluation.evaluate import check_fit, evaluate
from safe.evaluation.metrics import summarize
from safe.evaluation.predictions import read_predictions
from safe.evaluation.summary import summarize_folds
from safe.info import info_digest
from safe.sample import DEFAULT_FRAMES, encode_strip
from safe.shards.folder import open_shards
from safe.taxonomy import BASIC, decode
from safe.training.device import cpu_has_bf16
from safe.training.train import train


@pytest.fixture(scope="module")
def model(project, tmp_path_factory):
    out = tmp_path_factory.mktemp("model")
    train(
        small_config(project, "train.epochs=1", "train.batch=28"),
        shards=project / "data" / "synthetic" / "shards",
        fold=1,
        out=out / "fold-1",
        checkpoints=out / "checkpoints",
        commit="none",
    )
    return out / "fold-1"


def run(project, model, shards, out, *overrides, fold=1):
    config = small_config(project, *overrides)
    return evaluate(
        model, shards=shards, fold=fold, out=out, settings=config.eval, runtime=config.runtime
    )


def test_each_test_clip_once_and_figures_from_the_predictions(project, model, shards, tmp_path):
    figures = run(project, model, shards, tmp_path)
    folder = open_shards(shards)
    _, test = folder.split(1)
    table = pq.read_table(tmp_path / "predictions.parquet")
    assert decode(table.schema.metadata) == folder.classes == BASIC
    assert table["clip"].to_pylist() == folder.clip[test].tolist()
    assert table["label"].to_pylist() == folder.label[test].tolist()
    assert np.allclose(np.array(table["attention"].to_pylist()).sum(1), 1, atol=1e-5)
    logits = np.array(table["logits"].to_pylist())
    assert figures == {
        **summarize(logits, folder.label[test], 15, BASIC),
        **trust_metrics(logits, folder.label[test], Calibration(), bins=15),
        "calibration": "none",
        "calibrated_on": 0,
        "weights": hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest(),
        "model": json.loads((model / "model.json").read_text())["sha256"],
        "n_test": len(test),
        "n_left_out": 0,
        "fold": 1,
        "selection": "last",
        "perturb": "none",
        "severity": 0,
        "precision": "float32",
    }
    assert json.loads((tmp_path / "metrics.json").read_text()) == figures


def test_batch_size_and_workers_change_nothing_and_twice_is_the_same(
    project, model, shards, tmp_path
):
    run(project, model, shards, tmp_path / "a")
    run(project, model, shards, tmp_path / "b", "runtime.workers=0")
    run(project, model, shards, tmp_path / "c", "eval.batch=5")
    a, b, c = (pq.read_table(tmp_path / name / "predictions.parquet") for name in "abc")
    assert a.equals(b)
    assert np.allclose(
        np.array(a["logits"].to_pylist()), np.array(c["logits"].to_pylist()), atol=1e-5
    )


@pytest.mark.skipif(not cpu_has_bf16(), reason="this CPU has no bf16")
def test_bf16_is_told_and_near_float32(project, model, shards, tmp_path):
    alone = "runtime.workers=0"
    plain = run(project, model, shards, tmp_path / "a", alone)
    short = run(project, model, shards, tmp_path / "b", "eval.precision=bf16", alone)
    assert (plain["precision"], short["precision"]) == ("float32", "bf16")
    tables = (pq.read_table(tmp_path / name / "predictions.parquet") for name in "ab")
    a, b = (np.array(table["logits"].to_pylist()) for table in tables)
    difference = np.linalg.norm(a - b) / np.linalg.norm(a)
    assert 1e-5 < difference < 0.02  # bf16 has 8 bits


def test_severity_0_changes_no_bit_and_noise_is_the_same_for_any_batch(
    project, model, shards, tmp_path
):
    alone = "runtime.workers=0"
    run(project, model, shards, tmp_path / "a", alone)
    still = ("eval.perturb=gaussian_noise", "eval.severity=0")
    run(project, model, shards, tmp_path / "b", *still, alone)
    noise = ("eval.perturb=gaussian_noise", "eval.severity=5")
    said = run(project, model, shards, tmp_path / "c", *noise)
    run(project, model, shards, tmp_path / "d", *noise, "eval.batch=5", "runtime.workers=0")
    a, b, c, d = (pq.read_table(tmp_path / name / "predictions.parquet") for name in "abcd")
    assert a.equals(b)
    assert (said["perturb"], said["severity"]) == ("gaussian_noise", 5)
    clean, noisy, again = (np.array(t["logits"].to_pylist()) for t in (a, c, d))
    assert np.abs(clean - noisy).max() > 1e-3
    assert np.allclose(noisy, again, atol=1e-5)


def test_shards_of_another_preprocessing_are_refused(project, model, shards, tmp_path):
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    index = json.loads((copy / "index.json").read_text())
    theirs, index["preprocessing"]["id"] = index["preprocessing"]["id"], "0123456789abcdef"
    (copy / "index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="preprocessing") as caught:
        run(project, model, copy, tmp_path / "out")
    assert theirs in str(caught.value)
    assert "0123456789abcdef" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("classes", [BASIC[::-1], (*BASIC, "contempt")])
def test_shards_of_other_classes_or_in_another_order_are_refused(project, shards, model, classes):
    info = {**json.loads((model / "model.json").read_text()), "classes": list(classes)}
    told = rf"^.+: trained on the classes {', '.join(classes)}, but .+ has happy, sad.+again$"
    with pytest.raises(ModelError, match=told):
        check_fit(info, open_shards(shards), 1, model)


def test_another_folds_model_is_refused(project, model, shards, tmp_path):
    with pytest.raises(ModelError, match="trained for fold 1; fold 2's test clips"):
        run(project, model, shards, tmp_path, fold=2)


def test_a_model_folder_that_is_missing_or_damaged_is_one_line(project, model, shards, tmp_path):
    with pytest.raises(
        ModelError, match="no model there; run `safe-cli train`, then `safe-cli calibrate`"
    ):
        run(project, tmp_path / "none", shards, tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    path = broken / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="damaged"):
        run(project, broken, shards, tmp_path)
    info = json.loads((model / "model.json").read_text())
    info["architecture"]["hidden"] = 8
    shutil.copytree(model, tmp_path / "other")
    info["sha256"] = info_digest(info)
    (tmp_path / "other" / "model.json").write_text(json.dumps(info))
    with pytest.raises(ModelError, match="weights do not fit"):
        run(project, tmp_path / "other", shards, tmp_path)


def write_clips(root, classes, labels: dict[str, list[int]]) -> None:
    """Write a shard folder of noise, a few clips in each bucket."""
    root.mkdir()
    rng = np.random.default_rng(0)
    writer = ShardWriter(root, clips=100, classes=classes)
    for bucket, own in labels.items():
        for number, label in enumerate(own):
            noise = rng.integers(0, 256, (DEFAULT_FRAMES, 16, 16, 3), np.uint8)
            strip = encode_strip(noise, 90, "420")
            record = {"label": classes[label], "flags": ""}
            place = {"bucket": bucket, "label": label}
            writer.add(f"{bucket}-{number:02d}", **place, strip=strip, record=record)
    writer.close()
    made = {"id": "0" * 16, "made_from": {"size": 16}}
    parts = {"shards": writer.shards, "left_out": [], "classes": classes, "rows": writer.rows}
    write_index(root, made=made, **parts)


@pytest.mark.parametrize("count", [2, 11])
def test_other_classes_from_shards_to_the_figures_of_folds(project, tmp_path, count):
    """The last class of several has no clip in fold 12's test split."""
    classes = tuple(f"class {number}" for number in range(count))
    few = list(range(count if count == 2 else count - 1)) * 2
    labels = {"fold12": few, "fold3": list(range(count)) * 2, "fold7": list(range(count)) * 2}
    write_clips(tmp_path / "shards", classes, labels)
    shards = open_shards(tmp_path / "shards")
    words = ("train.epochs=1", "train.batch=4", "augment.crop=16", "train.select=val")
    more = ("train.val_from=fold", "acl.top_k=1", "runtime.workers=0")
    config = small_config(project, *words, *more)
    common = {"shards": tmp_path / "shards", "fold": 12}
    model, out = tmp_path / "train", tmp_path / "calibrate" / "fold-12"
    train(config, **common, out=model, checkpoints=tmp_path / "checkpoints", commit="none")
    assert json.loads((model / "model.json").read_text())["classes"] == list(classes)
    rest = {"settings": config.calibrate, "runtime": config.runtime, "bins": 15}
    calibrate(model, **common, out=out, **rest)
    where = tmp_path / "eval" / "fold-12"
    figures = run(project, out, tmp_path / "shards", where, fold=12)
    assert figures["uar_classes"] == len(set(few))
    assert (figures[f"recall.{classes[-1]}"] is None) == (count > 2)
    split = read_predictions(where / "predictions.parquet")
    assert (split.classes, split.logits.shape) == (classes, (len(few), count))
    stages = {"evals": tmp_path / "eval", "models": tmp_path / "calibrate"}
    whole = summarize_folds(**stages, folds=[12], dataset="own", bins=15, out=tmp_path / "results")
    assert whole["uar"] == pytest.approx(figures["uar"], abs=1e-4)

    turned = replace(shards, index={**shards.index, "classes": classes[::-1]})
    for folder, kinds in ((shards, []), (turned, ["model-classes", "predictions-classes"])):
        found = (
            examine_models(tmp_path / "calibrate", folds=[12], shards=folder),
            examine_predictions(tmp_path / "eval", models={12}, shards=folder, forgotten=set()),
        )
        assert [finding.kind for part in found for finding in part.findings] == kinds
