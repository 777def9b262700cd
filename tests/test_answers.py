"""Do the rows say what the model said, in both forms, and does no half file appear?"""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from safe.evaluation.answers import ABSTAIN, Answer, judge, schema, writing
from safe.evaluation.calibration import Calibration
from safe.taxonomy import BASIC, decode

SURE = Calibration(
    method="temperature", scale=(0.5,) * 7, level=0.9, cutoffs=(0.2,) * 7, threshold=0.6
)


def logits(**chances: float) -> list[float]:
    """Logits that mean these probabilities at SURE's temperature; the others share the rest."""
    rest = (1 - sum(chances.values())) / (7 - len(chances))
    return [2 * float(np.log(chances.get(name, rest))) for name in BASIC]


def test_a_verdict_is_calibrated_abstains_below_the_threshold_and_has_a_set():
    clear, torn, flat = judge(
        [logits(fear=0.9), logits(sad=0.5, angry=0.3), [0.0] * 7], SURE, BASIC
    )
    assert clear.decision == "fear"
    assert clear.classes == ("fear",)
    assert clear.top == pytest.approx(0.9)  # with 1 / T = 0.5; without it would be near 1
    assert torn.decision == ABSTAIN
    assert torn.classes == ("sad", "angry")
    assert flat.decision == ABSTAIN
    assert flat.classes == ()
    assert sum(torn.probabilities) == pytest.approx(1)


def test_without_calibration_nothing_is_abstained_from_and_no_set_is_promised():
    (one,) = judge([[0.1, 0, 0, 0, 0, 0, 0]], Calibration(), BASIC)
    assert one.decision == "happy"
    assert one.classes is None
    assert one.top == pytest.approx(np.exp(0.1) / (np.exp(0.1) + 6))


def rows(count: int = 3) -> list[Answer]:
    verdicts = judge(np.random.default_rng(0).normal(size=(count, 7)), SURE, BASIC)
    found = [
        Answer("a ü.mp4", i * 1.4, i * 1.4 + 2.8, 2, verdict, (1, 2, 30.25, 40), ("dark", "small"))
        for i, verdict in enumerate(verdicts)
    ]
    return [*found, Answer("a ü.mp4", 5.6, 7, reason="no face")]


def test_json_lines_and_parquet_hold_the_same_in_the_same_order(tmp_path):
    many = rows(1500)  # more than one row group
    for form in ("jsonl", "parquet"):
        with writing(tmp_path / f"x.{form}", form, BASIC) as write:
            for row in many:
                write(row)
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text("utf-8").splitlines()]
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.to_pylist() == lines == [row.record(BASIC) for row in many]
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups == 2
    assert all(list(line) == schema(BASIC).names for line in lines)
    gap = lines[-1]
    assert gap["reason"] == "no face"
    assert {gap[key] for key in gap if key.startswith("p_")} == {None}
    assert gap["face"] is gap["decision"] is gap["set"] is gap["top"] is None


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_an_error_leaves_the_old_file_and_no_other(tmp_path, form):
    path = tmp_path / f"x.{form}"
    path.write_text("old")

    def stop_half_way() -> None:
        with writing(path, form, BASIC) as write:
            write(rows()[0])
            raise InterruptedError

    with pytest.raises(InterruptedError):
        stop_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_video_without_rows_gives_an_empty_table(tmp_path, form):
    with writing(tmp_path / f"x.{form}", form, BASIC):
        pass
    if form == "parquet":
        assert pq.read_table(tmp_path / "x.parquet").schema == schema(BASIC)
    else:
        assert (tmp_path / "x.jsonl").read_text() == ""


@pytest.mark.parametrize("classes", [("a b+c", "笑顔"), tuple(f"class {i}" for i in range(11))])
def test_other_classes_name_the_columns_in_their_order_and_stand_in_the_table(tmp_path, classes):
    logits = np.zeros((1, len(classes)))
    logits[0, 1] = 4
    (verdict,) = judge(logits, Calibration(level=0.9, cutoffs=(0.1,)), classes)
    assert verdict.decision == classes[1]
    assert verdict.classes == (classes[1],)
    answer = Answer("a.mp4", 0, 1, 1, verdict, (0, 0, 1, 1))
    with writing(tmp_path / "x.parquet", "parquet", classes) as write:
        write(answer)
    table = pq.read_table(tmp_path / "x.parquet")
    assert decode(table.schema.metadata) == classes
    (row,) = table.to_pylist()
    assert row == answer.record(classes)
    assert [key for key in row if key.startswith("p_")] == [f"p_{name}" for name in classes]
