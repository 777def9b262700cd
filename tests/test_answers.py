"""Do the rows say what the model said, in both forms, and does no half file appear?"""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from safe.answers import ABSTAIN, SCHEMA, Answer, judge, writing
from safe.calibration import Calibration
from safe.labels import CLASSES

SURE = Calibration(
    method="temperature", scale=(0.5,) * 7, level=0.9, cutoffs=(0.2,) * 7, threshold=0.6
)


def logits(**chances: float) -> list[float]:
    """Logits that mean these probabilities at SURE's temperature; the others share the rest."""
    rest = (1 - sum(chances.values())) / (7 - len(chances))
    return [2 * float(np.log(chances.get(name, rest))) for name in CLASSES]


def test_a_verdict_is_calibrated_abstains_below_the_threshold_and_has_a_set():
    clear, torn, flat = judge([logits(fear=0.9), logits(sad=0.5, angry=0.3), [0.0] * 7], SURE)
    assert clear.decision == "fear"
    assert clear.classes == ("fear",)
    assert clear.top == pytest.approx(0.9)  # with 1 / T = 0.5; without it would be near 1
    assert torn.decision == ABSTAIN
    assert torn.classes == ("sad", "angry")
    assert flat.decision == ABSTAIN
    assert flat.classes == ()
    assert sum(torn.probabilities) == pytest.approx(1)


def test_without_calibration_nothing_is_abstained_from_and_no_set_is_promised():
    (one,) = judge([[0.1, 0, 0, 0, 0, 0, 0]], Calibration())
    assert one.decision == "happy"
    assert one.classes is None
    assert one.top == pytest.approx(np.exp(0.1) / (np.exp(0.1) + 6))


def rows(count: int = 3) -> list[Answer]:
    verdicts = judge(np.random.default_rng(0).normal(size=(count, 7)), SURE)
    found = [
        Answer("a ü.mp4", i * 1.4, i * 1.4 + 2.8, 2, verdict, (1, 2, 30.25, 40), ("dark", "small"))
        for i, verdict in enumerate(verdicts)
    ]
    return [*found, Answer("a ü.mp4", 5.6, 7, reason="no face")]


def test_json_lines_and_parquet_hold_the_same_in_the_same_order(tmp_path):
    many = rows(1500)  # more than one row group
    for form in ("jsonl", "parquet"):
        with writing(tmp_path / f"x.{form}", form) as write:
            for row in many:
                write(row)
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text("utf-8").splitlines()]
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.to_pylist() == lines == [row.record() for row in many]
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups == 2
    assert all(list(line) == SCHEMA.names for line in lines)
    gap = lines[-1]
    assert gap["reason"] == "no face"
    assert {gap[key] for key in gap if key.startswith("p_")} == {None}
    assert gap["face"] is gap["decision"] is gap["set"] is gap["top"] is None


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_an_error_leaves_the_old_file_and_no_other(tmp_path, form):
    path = tmp_path / f"x.{form}"
    path.write_text("old")

    def stop_half_way() -> None:
        with writing(path, form) as write:
            write(rows()[0])
            raise InterruptedError

    with pytest.raises(InterruptedError):
        stop_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_video_without_rows_gives_an_empty_table(tmp_path, form):
    with writing(tmp_path / f"x.{form}", form):
        pass
    if form == "parquet":
        assert pq.read_table(tmp_path / "x.parquet").schema == SCHEMA
    else:
        assert (tmp_path / "x.jsonl").read_text() == ""
