"""The card: figures equal what the predictions say, and nothing is left unsaid."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, precision_score, recall_score
from support import small_config

from cli.export import run_card
from safe.errors import DataError, ModelError
from safe.evaluation.calibration import Calibration
from safe.evaluation.metrics import softmax, summarize
from safe.evaluation.predictions import Split, write_predictions
from safe.info import info_digest, read_info
from safe.models.registry import build_model
from safe.report.card import write_card
from safe.saved import save_model
from safe.shards.folder import open_shards
from safe.taxonomy import BASIC

ARCHITECTURE = {
    "name": "safe", "backbone": "small", "temporal": "s2am2",
    "window": 4, "stride": 2, "hidden": 4, "dropout": 0.2,
}  # fmt: skip
CALIBRATION = Calibration(
    method="temperature", scale=(0.5,) * 7, level=0.85, cutoffs=(0.06,) * 7, risk=0.25,
    threshold=0.4, clips=40,
)  # fmt: skip
N = 140


@pytest.fixture(scope="module")
def base(project, tmp_path_factory):
    """A model folder and its evaluation: 140 clips, right in half of them, never for disgust."""
    folder = tmp_path_factory.mktemp("card")
    params = small_config(project, "train.select=val").model_dump()
    shards = open_shards(project / "data" / "synthetic" / "shards")
    info = {
        "classes": BASIC,
        "architecture": ARCHITECTURE,
        "crop": 32,
        "preprocessing": {"id": shards.preprocessing_id, "made_from": {"size": 48}},
        "dataset": "synthetic",
        "fold": 1,
        "seed": 3,
        "selection": {"rule": "val", "metric": "uar", "epoch": 2},
        "train_clips": 42,
        "commit": "c" * 40,
        "torch": "2.99",
        "params": params,
        "history": [],
        "calibration": CALIBRATION.record(),
    }
    network = build_model(7, **ARCHITECTURE, weights=None)
    save_model(folder / "model", network.state_dict(), info)
    rng = np.random.default_rng(0)
    label = np.arange(N) % 7
    logits = rng.normal(size=(N, 7)).astype(np.float32)
    logits[np.arange(N), label] += 2
    logits[:, BASIC.index("disgust")] = -9
    evaluate(folder / "eval", label, logits)
    return folder


@pytest.fixture(scope="module")
def text(base):
    """Its card."""
    return card(base, evaluation=base / "eval")


@pytest.fixture
def made(base, tmp_path):
    """A copy of it, to be changed."""
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    (tmp_path / "card.md").unlink(missing_ok=True)
    return tmp_path


def evaluate(out: Path, label: Any, logits: Any, classes: Any = BASIC, **more: Any) -> None:
    """Write what `safe-cli eval` writes, with the keys that a card needs."""
    wide = np.ones((N, 2), np.float32) / 2
    clips = tuple(f"c{i:03d}" for i in range(N))
    out.mkdir()
    split = Split(clips, label, classes, logits, embedding=wide, attention=wide)
    write_predictions(out / "predictions.parquet", split)
    metrics = summarize(logits, label, 15, classes) | {
        "weights": read_info(out.parent / "model" / "model.json")["weights"]["sha256"],
        "n_test": N, "n_left_out": 4, "fold": 1, "selection": "val",
        "perturb": "none", "severity": 0, "precision": "float32",
    }  # fmt: skip
    (out / "metrics.json").write_text(json.dumps(metrics | more))


def card(made: Path, **options: Any) -> str:
    write_card(made / "model", made / "card.md", **options)
    return (made / "card.md").read_text()


def alter(made: Path, **change: Any) -> None:
    path = made / "model" / "model.json"
    info = json.loads(path.read_text()) | change
    path.write_text(json.dumps({**info, "sha256": info_digest(info)}))


def row(text: str, start: str) -> list[str]:
    """The cells of the one table row that begins with a word."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {start} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def read(made: Path) -> tuple[Any, Any]:
    import pyarrow.parquet as pq

    table = pq.read_table(made / "eval" / "predictions.parquet")
    return np.array(table["label"]), np.array(table["logits"].to_pylist())


def numbers(text: str) -> list[float]:
    return [float(word) for word in re.findall(r"-?\d+(?:\.\d+)?", text)]


def test_figures_by_class_and_together_are_those_of_other_libraries(base, text):
    label, logits = read(base)
    said = logits.argmax(1)
    for name, figure in (
        ("WAR", accuracy_score(label, said)),
        ("UAR", balanced_accuracy_score(label, said)),
    ):
        value, low, high = numbers(row(text, name)[1])
        assert value == pytest.approx(100 * figure, abs=0.05)
        assert 2 < value - low < 12
        assert 2 < high - value < 12
    recalls = recall_score(label, said, average=None)
    precisions = precision_score(label, said, average=None, zero_division=0)
    for k, name in enumerate(BASIC):
        _, n, recall, precision, _ = row(text.split("most often taken for")[1], name)
        assert int(n) == (label == k).sum() == 20
        ends = binomtest(int((said[label == k] == k).sum()), 20).proportion_ci(method="wilson")
        expected = [100 * recalls[k], 100 * ends.low, 100 * ends.high]
        assert numbers(recall) == pytest.approx(expected, abs=0.51)
        right = "never said" if name == "disgust" else f"{100 * precisions[k]:.0f}"
        assert precision == right
    assert "The weakest class is disgust, with a recall of 0 (0 to 16) %" in text


def test_calibration_sets_and_abstention_are_measured_on_the_test_clips(base, text):
    label, logits = read(base)
    p = softmax(logits * 0.5)
    before, after = (numbers(cell) for cell in row(text, "NLL, nats")[1:])
    assert before[0] == pytest.approx(
        -np.log(softmax(logits)[np.arange(N), label]).mean(), abs=6e-4
    )
    assert after[0] == pytest.approx(-np.log(p[np.arange(N), label]).mean(), abs=6e-4)
    in_set, sure = p >= 0.06, p.max(1) >= 0.4
    (sets,) = re.findall(r"each class 85 %.*?Measured:\s+(.*?) on average", text, re.S)
    covered, _, _, size = numbers(sets)
    assert covered == pytest.approx(100 * in_set[np.arange(N), label].mean(), abs=0.05)
    assert size == pytest.approx(in_set.sum(1).mean(), abs=0.005)
    (decided,) = re.findall(r"at most 25 %.*?Measured:\s+(.*?)of them wrong", text, re.S)
    share, risk, low, high = numbers(decided)
    assert 0.05 < sure.mean() < 0.95
    assert share == pytest.approx(100 * sure.mean(), abs=0.5)
    assert risk == pytest.approx(100 * (p.argmax(1) != label)[sure].mean(), abs=0.05)
    assert low < risk < high


def test_front_matter_is_yaml_with_the_same_figures(text):
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "apache-2.0"
    (result,) = head["model-index"][0]["results"]
    shown = [numbers(row(text, name)[1])[0] for name in ("WAR", "UAR")]
    assert [metric["value"] for metric in result["metrics"]] == pytest.approx(shown, abs=0.05)


def test_the_law_the_refusals_the_meaning_and_the_origin_are_told_with_and_without_figures(
    made, text
):
    for page in (card(made), text):
        told = " ".join(page.split())
        for words in (
            "Regulation (EU) 2024/1689 (the AI Act), Article 5(1)(f)", "since 2 February 2025",
            "at work or in education", "except for medical or safety reasons",
            "Annex III, point 1(c)", "Article 50(3)", "Diagnosis", "To hire", "Policing", "lies",
            "apparent expression", "does not say what a person feels", "drawn by a program",
            "nothing is known of its fairness", "commit `" + "c" * 40, "torch 2.99", "Feng-Qi Cui",
        ):  # fmt: skip
            assert words in told, words
        sha = json.loads((made / "model" / "model.json").read_text())["weights"]["sha256"]
        assert sha in told
        assert "None" not in told
        assert "nan" not in told


def test_without_an_evaluation_the_card_says_so_and_gives_no_figure(made):
    text = card(made)
    assert "This model has not been evaluated" in text
    assert "WAR" not in text
    assert "model-index" not in text


def test_clips_by_split_and_class_come_from_the_shards(made, project):
    shards = project / "data" / "synthetic" / "shards"
    text = card(made, shards=shards)
    opened = open_shards(shards)
    counts = text.partition("## Training")[0]
    assert row(counts, "clips") == ["clips", "training", "selection", "test"]
    test = [int(row(counts, name)[-1]) for name in BASIC]
    assert test == np.bincount(opened.label[opened.bucket == "fold1"], minlength=7).tolist()
    assert [int(cell) for cell in row(counts, "**all**")[1:]] == [42, 14, 14]
    alter(made, preprocessing={"id": "f" * 16, "made_from": {"size": 48}})
    assert "the shards were not at hand" in card(made, shards=shards)


def test_damaged_clips_a_model_without_calibration_and_another_dataset_are_told(made):
    label, logits = read(made)
    evaluate(made / "blurred", label, logits, perturb="blur", severity=3)
    text = card(made, evaluation=made / "blurred")
    assert "damaged on purpose: blur, severity 3 of 5" in text
    assert "model-index" not in text
    alter(made, calibration=replace(CALIBRATION, clips=0).record(), dataset="dfew")
    text = card(made, evaluation=made / "eval")
    assert "It is not calibrated" in text
    assert "no sets" in text
    assert "drawn" not in text
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "other"
    assert "must add here" not in text
    alter(made, dataset="own")
    assert "must add here where the clips come from" in card(made)


def test_an_evaluation_of_another_model_and_a_model_that_lacks_a_fact_are_one_line(made):
    label, logits = read(made)
    evaluate(made / "other", label, logits, weights="0" * 64)
    evaluate(made / "torn", label, logits, war=12.0)
    for name in ("other", "torn"):
        with pytest.raises(DataError, match="of another model or another evaluation"):
            card(made, evaluation=made / name)
    with pytest.raises(DataError, match="`safe-cli eval` makes it"):
        card(made, evaluation=made / "none")
    alter(made, params={"train": {}})
    with pytest.raises(ModelError, match="lacks what a card tells"):
        card(made)
    assert not (made / "card.md").exists()


def test_the_verb_finds_evaluation_and_shards_of_a_run(
    made, project, tmp_path, monkeypatch, capsys
):
    run = tmp_path / "runs" / "synthetic"
    (run / "eval").mkdir(parents=True)
    (run / "calibrate").mkdir()
    (made / "model").rename(run / "calibrate" / "fold-1")
    (tmp_path / "data").symlink_to(project / "data")
    monkeypatch.chdir(tmp_path)
    run_card(Path("runs/synthetic"), None, Path("card.md"))
    assert "without metrics: no evaluation beside it" in capsys.readouterr().out
    (made / "eval").rename(run / "eval" / "fold-1")
    run_card(Path("runs/synthetic"), None, Path("card.md"))
    assert "metrics of runs/synthetic/eval/fold-1" in capsys.readouterr().out
    text = Path("card.md").read_text()
    assert row(text, "WAR")
    assert row(text, "**all**")[1] == "42"


def test_a_card_of_other_classes_says_which_have_no_test_clip(made):
    classes = ("contempt", "笑顔", "very sad")
    info = read_info(made / "model" / "model.json") | {"classes": classes}
    network = build_model(3, **ARCHITECTURE, weights=None)
    for key in ("weights", "sha256"):
        del info[key]
    info["calibration"] = Calibration(clips=40).record()
    save_model(made / "model", network.state_dict(), info)
    label = np.arange(N) % 2
    logits = np.eye(3)[(label + (np.arange(N) % 5 == 0)) % 3].astype(np.float32)
    with pytest.raises(DataError, match="of other classes than the model"):
        card(made, evaluation=made / "eval")
    evaluate(made / "three", label, logits, classes)
    text = card(made, evaluation=made / "three")
    told = " ".join(text.split())
    for words in (
        "each of 3 expressions a probability: contempt, 笑顔, very sad.",
        "| UAR over 2 of 3 classes (mean of the classes' recalls; chance is 33.3) |",
        "| very sad | 0 | - | 0 | - |",
        "Without a test clip: very sad. How well the model finds it is not known.",
        "One face a clip, 3 classes",
        '"contempt, 0.80" says',
        "treat it as no answer.",
    ):
        assert words in told, words
    assert "neutral" not in text
