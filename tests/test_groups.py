"""Groups: by hand, on tables that a person could write."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import read_experiment, write_fold

from safe.errors import DataError
from safe.evaluation.groups import groups_of, read_factors
from safe.report.results import by_group


def column(name: str, kind: pa.DataType, title: str, edges=(), unit: str = "") -> pa.Field:
    about = {"title": title, "edges": json.dumps(edges), "unit": unit}
    return pa.field(name, kind, metadata=about)


SCHEMA = pa.schema(
    [
        pa.field("clip", pa.string()),
        column("age", pa.float64(), "age", (18, 60), "years"),
        column("sex", pa.string(), "sex"),
        column("hat", pa.bool_(), "hat"),
        column("same", pa.string(), "the same for all"),
        pa.field("seed", pa.int64()),
    ]
)


def write(path, clips, **columns):
    rows = {"same": ["x"] * len(clips), "seed": list(range(len(clips))), **columns}
    pq.write_table(pa.table({"clip": clips, **rows}, SCHEMA), path)
    return read_factors(path)


def test_clips_are_grouped_by_words_and_between_edges(tmp_path):
    clips = [f"c{i:02d}" for i in range(20)]
    ages = [17.9] * 5 + [18.0] * 5 + [59.9] * 3 + [60.0] * 7
    sexes = ["female", "male"] * 10
    table = write(tmp_path / "f.parquet", clips, age=ages, sex=sexes, hat=[True] * 4 + [False] * 16)
    assert table.column_names == ["clip", "age", "sex", "hat", "same"]
    asked = [*reversed(clips), "another"]
    found = {(g.factor, g.name): [asked[row] for row in g.rows] for g in groups_of(table, asked)}
    assert {key: sorted(group) for key, group in found.items()} == {
        ("age", "below 18 years"): clips[:5],
        ("age", "18 to 60 years"): clips[5:13],
        ("age", "from 60 years"): clips[13:],
        ("sex", "female"): clips[::2],
        ("sex", "male"): clips[1::2],
    }  # four hats are too few, and then there is nothing to compare the others with


@pytest.mark.parametrize("harm", ["text", "twice", "no clip"])
def test_what_is_no_factor_table_is_one_line(tmp_path, harm):
    path = tmp_path / "f.parquet"
    if harm == "text":
        path.write_text("clip,age\n")
    elif harm == "twice":
        pq.write_table(pa.table({"clip": ["a", "a"]}), path)
    else:
        pq.write_table(pa.table({"key": ["a"]}), path)
    with pytest.raises(DataError, match=r"f\.parquet") as error:
        read_factors(path)
    assert "\n" not in str(error.value)


def test_war_uar_and_confidence_of_groups_by_a_slow_loop(tmp_path):
    write_fold(tmp_path, 1)
    write_fold(tmp_path, 2)
    experiment = read_experiment(tmp_path)
    split = experiment.split
    ages = [float(10 + 7 * (i % 11)) for i in range(len(split.clip))]
    constant = {"sex": ["female"] * len(ages), "hat": [False] * len(ages)}
    table = write(tmp_path / "f.parquet", list(split.clip), age=ages, **constant)
    rows = by_group(experiment, table)
    assert list(rows) == ["age"]
    for row, (low, high) in zip(rows["age"], ((0, 18), (18, 60), (60, 999)), strict=True):
        own = [i for i, age in enumerate(ages) if low <= age < high]
        right = [int(split.logits[i].argmax() == split.label[i]) for i in own]
        recalls = []
        for k in range(7):
            of = [right[n] for n, i in enumerate(own) if split.label[i] == k]
            recalls += [sum(of) / len(of)] if of else []
        sure = [max(experiment.probabilities[i]) for i in own]
        assert row.clips == len(own)
        assert row.war.value == pytest.approx(100 * sum(right) / len(own))
        assert row.war.low < row.war.value < row.war.high
        assert row.uar.value == pytest.approx(100 * np.mean(recalls))
        assert row.confident == pytest.approx(100 * (np.mean(sure) - np.mean(right)))
    assert by_group(experiment, None) == {}
