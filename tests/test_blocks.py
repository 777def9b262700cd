"""Do lists and tables of more than one block give what they give as a whole?"""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.face.table import ClipFaces, FaceFile, write_faces
from pipeline.index import build_index
from pipeline.manifest import BLOCK, Rows, read_manifest, write_rows
from pipeline.shard import plan_shards
from safe.config import Data
from safe.errors import DataError
from safe.taxonomy import BASIC

ROWS = 2 * BLOCK + 7


def faces_of(row: int) -> ClipFaces:
    if row % 10 == 3:
        return ClipFaces("error", f"row {row}")
    box = tuple((float(row), 1.0, 2.0, float(side)) for side in range(16))
    return ClipFaces("ok", "", 20, 25.0, 9, 8, tuple(range(row, row + 16)), box, (0.5,) * 16)


def write_list(root: Path, change: tuple[int, str] | None = None) -> Data:
    lines = [f"v/{row:06d}.mp4,{BASIC[row % 7]},{row % 5 + 1}" for row in range(ROWS)][::-1]
    if change:
        lines[change[0] - 2] = change[1]  # the header is line 1
    (root / "v").mkdir(parents=True, exist_ok=True)
    (root / "v/000005.mp4").write_bytes(b"seven..")
    (root / "list.csv").write_text("\n".join(["path,label,split", *lines]) + "\n")
    settings = {"splits": "list.csv", "source": "video", "folds": [1], "classes": list(BASIC)}
    return Data(name="own", root=str(root), **settings)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tables")
    build_index(write_list(root), root / "manifest.parquet")
    clips = read_manifest(root / "manifest.parquet")["clip"].to_pylist()
    write_faces(clips, map(faces_of, range(ROWS)), root / "faces.parquet")
    return root


def test_rows_of_a_table_in_pieces_are_made_as_they_are_asked_for() -> None:
    made: list[int] = []
    chunks = pa.chunked_array([range(5), range(5, ROWS)])
    rows = Rows(pa.table({"row": chunks}), lambda row: made.append(row) or row)
    assert len(rows) == ROWS
    assert next(iter(rows)) == 0
    assert made == [0]
    assert list(rows) == list(rows) == list(range(ROWS))


def test_a_manifest_of_several_blocks_is_the_list_sorted(tables: Path) -> None:
    rows = pq.read_table(tables / "manifest.parquet").to_pylist()
    assert rows == [
        {
            "clip": f"v-{row:06d}",
            "path": f"v/{row:06d}.mp4",
            "label": row % 7,
            "bucket": f"fold{row % 5 + 1}",
            "source": "video",
            "bytes": 7 if row == 5 else None,
        }
        for row in range(ROWS)
    ]


def test_the_plan_has_every_clip_once_by_bucket_with_its_own_face(tables: Path) -> None:
    plan = plan_shards(tables / "manifest.parquet", tables / "faces.parquet", missing="center")
    usable = [row for row in range(ROWS) if row % 10 != 3]
    expected = sorted(usable, key=lambda row: (row % 5, row))
    assert plan.left_out == {f"v-{row:06d}": f"row {row}" for row in range(3, ROWS, 10)}
    for clip, row in zip(plan.clips, expected, strict=True):
        face = faces_of(row)
        assert clip.key == f"v-{row:06d}"
        assert clip.face.frame_index == face.frame_index
        assert tuple(map(tuple, clip.face.box)) == face.box
    some = plan.without({"v-000000", "v-000001"})
    assert [clip.key for clip in some] == [f"v-{r:06d}" for r in expected if r > 1]


def test_far_rows_of_the_face_table(tables: Path) -> None:
    wanted = np.array([0, 249, 250, 9_999, ROWS - 1])
    found = FaceFile(tables / "faces.parquet").rows(wanted)
    assert [face.reason or face.frame_index[0] for face in found] == [0, 249, 250, 9_999, ROWS - 1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((15_000, "v/000005.mp4,sad,1"), "line 20003: path 'v/000005.mp4' is also in line 15000"),
        ((15_000, "v/x.mp4,,1"), "line 15000: no label"),
    ],
)
def test_a_wrong_line_of_a_later_block(tmp_path: Path, change: tuple[int, str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        build_index(write_list(tmp_path, change), tmp_path / "m.parquet")


def test_the_manifest_has_the_bytes_of_the_version_before_blocks(
    tables: Path, tmp_path: Path
) -> None:
    """The sum was computed by commit 9faadd6, which made all rows at once, and named no classes."""
    bare = pq.read_table(tables / "manifest.parquet").replace_schema_metadata(None)
    write_rows(bare, tmp_path / "bare.parquet", compression="zstd")
    digest = hashlib.sha256((tmp_path / "bare.parquet").read_bytes()).hexdigest()
    assert digest[:16] == "04fe0824b6187562"
