"""Votes: the release's table as it is, and figures by hand and against scikit-learn."""

import json
from pathlib import Path

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats
from support import ROOT

from cli.votes import run_votes
from pipeline.datasets.dfew import FILE, read_votes
from safe.errors import DataError
from safe.evaluation.calibration import Calibration
from safe.evaluation.metrics import softmax
from safe.evaluation.votes import vote_metrics
from safe.models.registry import build_model
from safe.params import load_config
from safe.saved import save_model
from safe.taxonomy import BASIC

K = len(BASIC)

HEADER = (
    "1happy",
    "2sad",
    "3neutral",
    "4angry",
    "5surprise",
    "6disgust",
    "7fear",
    "order",
    "label",
)
ROWS = [
    (8, 0, 2, 0, 0, 0, 0, 7, 1),
    (0, 3, 4, 3, 0, 0, 0, 12, 0),  # no single label
    (0, 0, 0, 0, 1, 0, 9, 16372, 7),
]


def write(root: Path, *rows, header=HEADER) -> Path:
    path = root / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    for row in (header, *rows):
        book.active.append(row)
    book.save(path)
    return path


def test_clips_with_one_label_and_their_votes(tmp_path):
    write(tmp_path, *ROWS)
    assert read_votes(tmp_path) == {"00007": ROWS[0][:7], "16372": ROWS[2][:7]}


def test_numbers_that_a_sheet_holds_as_text_are_numbers(tmp_path):
    write(tmp_path, tuple(map(str, ROWS[0])), tuple(map(float, ROWS[2])))
    assert set(read_votes(tmp_path)) == {"00007", "16372"}


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ((8, 0, 2, 0, 0, 0, 0, 7), "row 2 must be 7 counts of votes, a clip's number, a label"),
        ((8, 0, "x", 0, 0, 0, 0, 7, 1), "row 2 must be"),
        ((8, 0, 2.5, 0, 0, 0, 0, 7, 1), "row 2 must be"),
        ((8, 0, -2, 0, 0, 0, 0, 7, 1), "out of range"),
        ((8, 0, 2, 0, 0, 0, 0, 0, 1), "out of range"),
        ((8, 0, 2, 0, 0, 0, 0, 7, 8), "out of range"),
        ((8, 0, 2, 0, 0, 0, 0, 7, 3), "label 3 has 2 votes, another class has 8"),
    ],
)
def test_a_wrong_row_is_one_line(tmp_path, row, match):
    write(tmp_path, row)
    with pytest.raises(DataError, match=match):
        read_votes(tmp_path)


def test_a_clip_twice_a_missing_file_and_no_table_are_one_line(tmp_path):
    with pytest.raises(DataError, match=r"no Annotation/annotation\.xlsx in data\.root"):
        read_votes(tmp_path)
    path = write(tmp_path, ROWS[0], ROWS[0])
    with pytest.raises(DataError, match="clip 7 is there twice"):
        read_votes(tmp_path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="not a readable xlsx table"):
        read_votes(tmp_path)


def test_figures_by_hand():
    votes = np.zeros((2, K))
    votes[0, :2] = 8, 2
    votes[1, 2] = 10
    p = np.full((2, K), 0.02)
    p[0, 0] = 0.88
    p[1, :3] = 0.5, 0.02, 0.4
    found = vote_metrics(p, votes, resamples=50)
    kl = [0.8 * np.log(0.8 / 0.88) + 0.2 * np.log(0.2 / 0.02), np.log(1 / 0.4)]
    assert found["vote_kl"] == pytest.approx(np.mean(kl))
    assert found["vote_kl"] == pytest.approx(
        np.mean([scipy.stats.entropy(q / q.sum(), r) for q, r in zip(votes, p, strict=True)]),
        rel=0.05,
    )
    distance = [(0.08 + 0.18 + 5 * 0.02) / 2, (0.5 + 0.6 + 5 * 0.02) / 2]
    assert found["vote_distance"] == pytest.approx(np.mean(distance))
    assert found["vote_agreement"] == pytest.approx((0.8 + 0) / 2)
    assert found["vote_confidence"] == pytest.approx((0.88 + 0.5) / 2)
    assert (found["people"], found["n"]) == (0.9, 2)


def test_a_model_that_doubts_as_people_do_is_told_from_one_that_does_not():
    rng = np.random.default_rng(0)
    truth = softmax(rng.normal(0, 2, (800, K)))
    votes = np.array([rng.multinomial(10, row) for row in truth])
    knows = vote_metrics(truth, votes, resamples=100)
    guesses = vote_metrics(rng.permutation(truth), votes, resamples=100)
    assert knows["vote_kl_high"] < guesses["vote_kl_low"]
    assert knows["doubt_rank"] > 0.7
    assert abs(guesses["doubt_rank"]) < 0.1
    # a model that knows the shares is as sure of its class as there are people who chose it
    assert knows["vote_confidence"] == pytest.approx(knows["vote_agreement"], abs=0.02)
    assert vote_metrics(np.full((800, K), 1 / K), votes, resamples=9)["doubt_rank"] is None
    with pytest.raises(DataError, match="none of the clips"):
        vote_metrics(truth[:0], votes[:0])


def test_the_verb_compares_the_clips_that_have_votes(tmp_path, monkeypatch, capsys):
    write(tmp_path / "dfew", *ROWS)
    architecture = load_config(ROOT / "params.yaml", ["model.hidden=8"]).model
    info = {
        "classes": list(BASIC),
        "architecture": architecture.model_dump(exclude={"weights"}),
        "crop": 32,
        "preprocessing": {"id": "0" * 16},
        "fold": 1,
        "selection": {"rule": "val", "epoch": 1},
        "history": [],
        "calibration": Calibration("temperature", scale=(0.5,) * K, clips=9).record(),
    }
    network = build_model(7, **architecture.model_dump())
    runs = tmp_path / "runs" / "dfew"
    save_model(runs / "calibrate" / "fold-1", network.state_dict(), info)
    logits = np.array([[4.0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 3], [1, 2, 3, 4, 5, 6, 7]])
    table = {
        "clip": ["00007", "16372", "00099"],  # of the last one there is no vote
        "label": [0, 6, 1],
        **{name: logits.tolist() for name in ("logits", "embedding", "attention")},
    }
    (runs / "eval" / "fold-1").mkdir(parents=True)
    pq.write_table(pa.table(table), runs / "eval" / "fold-1" / "predictions.parquet")
    monkeypatch.chdir(tmp_path)
    run_votes(ROOT / "params.yaml", [f"data={{name:dfew,root:{tmp_path / 'dfew'},folds:[1]}}"])
    found = json.loads((tmp_path / "results" / "votes.json").read_text())
    counts = [ROWS[0][:7], ROWS[2][:7]]
    assert found["before calibration"] == vote_metrics(softmax(logits[:2]), counts)
    assert found["calibrated"] == vote_metrics(softmax(logits[:2] / 2), counts)
    assert "votes: calibrated, 2 test clips" in capsys.readouterr().out
    with pytest.raises(DataError, match="only DFEW comes with votes"):
        run_votes(ROOT / "params.yaml", None)
