"""Do columns say what the same lines and rows say one by one?"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.datasets.own import LINES, PARTS, check_rows, first_twice, plain_rows, split_rows
from pipeline.face.table import SCHEMA, ClipFaces, FaceFile, write_faces

WHERE = Path("list.csv")

PATHS = st.one_of(
    st.from_regex(r"[a-zA-Z0-9_]{1,4}(/[a-z]{1,3}){0,2}(\.mp4)?", fullmatch=True),
    st.sampled_from([" a.mp4", "./a//b.mp4", "a/b.mov", "a b", "\u7b11.mp4", "x" * 120, "a/.mp4"]),
)
GOOD = st.tuples(
    PATHS,
    st.sampled_from(["happy", "sad", "contempt", "HAPPY", " Joy ", "\u7b11"]),
    st.sampled_from([*PARTS, "1", "17", "Train", " 3"]),
    st.sampled_from(["", " ", "k", " k-1 ", "K_2"]),
)
BAD = st.sampled_from(
    [
        ("/a", "happy", "1", ""),
        ("a/../b", "happy", "1", ""),
        ("a", " ", "1", ""),
        ("a", "happy", "06", ""),
        ("a", "happy", "1", "k.1"),
        ("a\\b", "happy", "1", ""),
        ("a",),
        ("a", "happy", "1", "", "more"),
        ("", "", "", ""),
        ('"a, b"', "happy", "1", ""),
    ]
)
ENDS = st.sampled_from(["", "\n", "\n\n"])


def by_columns(text: str, separator: str, names: list[str]) -> pa.Table | None:
    """The lines of a plain list; None where it is none, or a line is wrong."""
    try:
        table, wrong = check_rows(plain_rows(text, separator, names), WHERE)
    except pa.ArrowInvalid:
        return None
    return None if wrong or '"' in text else table


def one_by_one(text: str, separator: str, names: list[str]) -> pa.Table | None:
    """The lines as the csv module reads them; None where one is wrong."""
    table, wrong = check_rows(split_rows(text, separator, names, WHERE), WHERE)
    return None if wrong else table


def listed(rows: list[tuple[str, ...]], *, clip: bool, separator: str, end: str) -> Any:
    """The list with or without its fourth column, its separator and its columns."""
    names = ["path", "label", "split", "clip"][: 4 if clip else 3]
    cells = [row if clip or len(row) != 4 else row[:3] for row in rows]
    return "\n".join(map(separator.join, [names, *cells])) + end, separator, names


@settings(max_examples=60, deadline=None)
@given(st.lists(GOOD, min_size=1, max_size=9), st.booleans(), st.sampled_from(",;\t"), ENDS)
def test_a_good_list_is_plain_and_reads_the_same(
    rows: list[tuple[str, ...]], clip: bool, separator: str, end: str
) -> None:
    about = listed(rows, clip=clip, separator=separator, end=end)
    found, expected = by_columns(*about), one_by_one(*about)
    assert found is not None
    assert expected is not None
    assert found.to_pylist() == expected.to_pylist()
    assert len(found) == len(rows)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(GOOD, BAD), max_size=6), st.booleans(), st.sampled_from(",;\t"), ENDS)
def test_a_list_that_may_be_wrong_is_never_read_otherwise(
    rows: list[tuple[str, ...]], clip: bool, separator: str, end: str
) -> None:
    about = listed(rows, clip=clip, separator=separator, end=end)
    found, expected = by_columns(*about), one_by_one(*about)
    if found is not None:
        assert expected is not None
        assert found.to_pylist() == expected.to_pylist()


@pytest.mark.parametrize("row", BAD.elements)
def test_each_wrong_line_is_left_to_the_line_by_line_reader(row: tuple[str, ...]) -> None:
    rows = [("a/b.mp4", "happy", "1", "k"), row, ("c.mp4", "sad", "2", "")]
    assert by_columns(*listed(rows, clip=True, separator=",", end="\n")) is None


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("stuvwxyz")), max_size=8))
def test_the_first_line_that_is_there_twice(pairs: list[tuple[str, str]]) -> None:
    seen: dict[tuple[str, str], int] = {}
    expected = None
    for line, pair in enumerate(pairs, start=2):
        repeats = [
            (line, seen[what, value], what, value)
            for what, value in zip(("path", "clip"), pair, strict=True)
            if (what, value) in seen
        ]
        if repeats and expected is None:
            expected = repeats[0]
        for what, value in zip(("path", "clip"), pair, strict=True):
            seen.setdefault((what, value), line)
    rows = [
        {"line": line, "path": path, "key": key, "word": "a", "split": "1"}
        for line, (path, key) in enumerate(pairs, start=2)
    ]
    assert first_twice(pa.Table.from_pylist(rows, LINES)) == expected


SIDE = st.floats(-1e3, 1e3, width=32)


@st.composite
def faces(draw: st.DrawFn) -> ClipFaces:
    count = draw(st.sampled_from([0, 1, 16]))
    box = draw(st.lists(st.tuples(SIDE, SIDE, SIDE, SIDE), min_size=count, max_size=count))
    score = draw(st.lists(SIDE, min_size=count, max_size=count))
    status = draw(st.sampled_from(["ok", "partial", "missing", "error"]))
    index = tuple(range(count))
    return ClipFaces(status, "why", 20, 25.0, 9, 8, index, tuple(box), tuple(score))


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(faces(), max_size=9), data=st.data())
def test_faces_are_written_and_read_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, rows: list[ClipFaces], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("faces") / "faces.parquet"
    clips = [f"c{row}" for row in range(len(rows))]
    write_faces(clips, rows, path)
    columns: dict[str, Any] = {
        name: [getattr(row, name) for row in rows] for name in SCHEMA.names[1:]
    }
    assert pq.read_table(path).equals(pa.table({"clip": clips} | columns, schema=SCHEMA))
    if not rows:
        return
    wanted = sorted(data.draw(st.sets(st.integers(0, len(rows) - 1), min_size=1)))
    found = FaceFile(path).rows(np.array(wanted))
    for place, row in enumerate(wanted):
        face = found[place]
        assert (face.status, face.score) == (rows[row].status, rows[row].score)
        assert face.frame_index == rows[row].frame_index
        assert tuple(map(tuple, face.box)) == rows[row].box


def test_a_box_of_five_sides_is_refused(tmp_path: Path) -> None:
    face = ClipFaces("ok", "", frame_index=(0,), box=((0.0, 1.0, 2.0, 3.0, 4.0),), score=(1.0,))
    with pytest.raises(AssertionError, match="box"):
        write_faces(["c"], [face], tmp_path / "faces.parquet")
    assert not (tmp_path / "faces.parquet").exists()
