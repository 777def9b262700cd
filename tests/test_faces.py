"""Does every clip of the manifest get its row, with the right status, reason and boxes?"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from support import ROOT, grey_ramp, write_manifest, write_video

from pipeline import faces
from pipeline.face.detect import LOOK_RULE
from pipeline.face.preprocessing import preprocessing
from pipeline.face.table import SCHEMA, read_faces
from pipeline.faces import Clip, Found, find_clip, find_faces, locate
from pipeline.index import build_index
from pipeline.pool.children import Failure
from pipeline.pool.pool import Pool
from pipeline.video.decode import Decoded
from safe.config import Data, Faces
from safe.errors import DataError
from safe.params import load_config

SETTINGS = load_config(ROOT / "params.yaml").faces.model_copy(update={"max_gap": 4, "smooth": 0.0})
T = 16


def decoded(frames: NDArray[np.uint8], *, damage: str = "", repeat: int = 1) -> Decoded:
    height, width = frames.shape[1:3]
    indices = [t // repeat for t in range(T)]
    return Decoded(frames, indices, T // repeat, 25.0, width, height, damage)


def squares(places: list[int | None]) -> NDArray[np.uint8]:
    """Return frames with a white square of 20 pixels at column `place`, or none."""
    frames = np.zeros((T, 60, 200, 3), dtype=np.uint8)
    for frame, place in zip(frames, places, strict=True):
        if place is not None:
            frame[10:30, place : place + 20] = 255
    return frames


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace the detector by one that finds the white square; count the frames it looks at."""
    seen: list[int] = []

    def find(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        seen.append(1)
        rows, columns = np.nonzero(frame[..., 0] > 127)
        if not len(rows):
            return np.zeros((0, 5), dtype=np.float32)
        x0, y0, x1, y1 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        return np.array([[x0, y0, x1, y1, 0.9]], dtype=np.float32)

    monkeypatch.setattr(faces, "load_detector", lambda *_: find)
    return seen


@pytest.mark.usefixtures("looks")
def test_status_and_reason_by_what_was_found() -> None:
    find = partial(locate, source="video", settings=SETTINGS)
    everywhere = find(decoded(squares([40] * T)))
    assert (everywhere.status, everywhere.reason) == ("ok", "")
    assert everywhere.box == ((40, 10, 60, 30),) * T
    assert (everywhere.n_frames, everywhere.fps) == (T, 25.0)
    assert (everywhere.width, everywhere.height) == (200, 60)

    gap = find(decoded(squares([40] * 4 + [None, None, None] + [44] * 9)))
    assert (gap.status, gap.reason) == ("ok", "3 of 16 frames interpolated")
    assert [box[0] for box in gap.box[3:8]] == [40, 41, 42, 43, 44]
    assert gap.score[4:7] == (0, 0, 0)
    assert min(gap.score[:4] + gap.score[7:]) > 0

    part = find(decoded(squares([40] * 7 + [None] * 9)))
    assert (part.status, part.reason) == ("partial", "face in 7 of 16 frames")
    assert part.box == ((40, 10, 60, 30),) * T

    hole = find(decoded(squares([40] * 5 + [None] * 5 + [40] * 6)))
    assert (hole.status, hole.reason) == ("partial", "face in 11 of 16 frames")

    seldom = find(decoded(squares([40, None] * 8)))  # never long, but often
    assert (seldom.status, seldom.reason) == ("partial", "face in 8 of 16 frames")

    late = find(decoded(squares([None] * 3 + [40] * 13)))
    assert (late.status, late.reason) == ("ok", "3 of 16 frames held")
    assert late.guessed == ["held"]
    both = find(decoded(squares([40] * 6 + [None] + [40] * 8 + [None])))
    assert (both.status, both.guessed) == ("ok", ["interpolated", "held"])
    early = find(decoded(squares([40] * 11 + [None] * 5)))
    assert (early.status, early.reason) == ("partial", "face in 11 of 16 frames")

    none = find(decoded(squares([None] * T)))
    assert (none.status, none.reason) == ("missing", "no face in any frame")
    assert none.box == ((70, 0, 130, 60),) * T
    assert none.score == (0,) * T


def test_a_steady_face_is_no_face_lost_and_keeps_an_empty_reason(looks: list[int]) -> None:
    """Frames that were not looked at have score 0, but only lost faces are counted as such."""
    sparse = locate(decoded(squares([40] * T)), source="video", settings=SETTINGS)
    assert len(looks) == 5
    assert (sparse.status, sparse.reason) == ("ok", "")
    assert [t for t, score in enumerate(sparse.score) if score] == [0, 4, 8, 12, 15]
    looks.clear()
    every = SETTINGS.model_copy(update={"every": 1})
    full = locate(decoded(squares([40] * T)), source="video", settings=every)
    assert len(looks) == T
    assert min(full.score) > 0
    assert (full.box, full.status, full.reason) == (sparse.box, "ok", "")


def test_every_is_held_against_the_gap_that_may_be_interpolated() -> None:
    values = SETTINGS.model_dump()
    assert Faces(**values | {"every": 5, "max_gap": 4}).every == 5
    assert Faces(**values | {"every": 1, "max_gap": 0}).every == 1
    with pytest.raises(ValueError, match="every: 6 leaves 5 frames between two looks; at most max"):
        Faces(**values | {"every": 6, "max_gap": 4})
    for wrong in (0, 65):
        with pytest.raises(ValueError, match="every"):
            Faces(**values | {"every": wrong, "max_gap": 16})


def test_every_is_part_of_the_preprocessing_id() -> None:
    shard = load_config(ROOT / "params.yaml").shard
    made = [
        preprocessing("video", faces=SETTINGS.model_copy(update={"every": n}), shard=shard)
        for n in (1, 4)
    ]
    assert made[0]["id"] != made[1]["id"]
    assert made[1]["made_from"]["every"] == 4
    assert made[1]["made_from"]["look"] == LOOK_RULE
    crops = preprocessing("frames", faces=SETTINGS, shard=shard)["made_from"]
    assert crops["every"] is crops["look"] is None


@pytest.mark.usefixtures("looks")
def test_damage_is_partial_and_kept_in_the_reason() -> None:
    harmed = locate(decoded(squares([40] * T), damage="cut"), source="video", settings=SETTINGS)
    assert (harmed.status, harmed.reason) == ("partial", "cut")
    none = locate(decoded(squares([None] * T), damage="cut"), source="video", settings=SETTINGS)
    assert (none.status, none.reason) == ("missing", "cut; no face in any frame")


def test_a_release_crop_is_its_own_face_and_meets_no_detector(looks: list[int]) -> None:
    found = locate(decoded(squares([None] * T)), source="frames", settings=SETTINGS)
    assert (found.status, found.reason) == ("ok", "")
    assert found.box == ((0, 0, 200, 60),) * T
    assert found.score == (1,) * T
    assert not looks


def test_a_frame_that_a_short_clip_repeats_is_looked_at_once(looks: list[int]) -> None:
    found = locate(decoded(squares([40] * T), repeat=4), source="video", settings=SETTINGS)
    assert len(looks) == 4
    assert len(found.box) == T


def test_stage_gives_every_clip_a_row_in_order(tmp_path: Path) -> None:
    """No file in it has a face; the table is the same with one worker and two, in any folder."""
    clips = [
        ("a1", "v/plain.mp4"),
        ("b2", "v/gone.mp4"),
        ("c3", "v/zero.mp4"),
        ("d4", "v/text.mp4"),
    ]
    tables = []
    for workers in (1, 2):
        home = tmp_path / f"run{workers}"
        write_video(home / "v" / "plain.mp4", grey_ramp(20))
        (home / "v" / "zero.mp4").touch()
        (home / "v" / "text.mp4").write_text("no video")
        done: list[int] = []
        counts = find_faces(
            write_manifest(home / "manifest.parquet", clips, never=["b2"]),
            home,
            home / "out" / "faces.parquet",
            settings=SETTINGS,
            on_done=done.append,
            pool=Pool(workers=workers, deadline=60),
        )
        assert counts == {"ok": 0, "partial": 0, "missing": 1, "error": 3}
        assert done == [1, 2, 3, 4]
        tables.append((home / "out" / "faces.parquet").read_bytes())
    assert tables[0] == tables[1]
    assert str(tmp_path).encode() not in tables[0]
    table = read_faces(tmp_path / "run1" / "out" / "faces.parquet")
    rows = table.to_pylist()
    assert [row["clip"] for row in rows] == ["a1", "b2", "c3", "d4"]
    assert rows[0]["box"] == [[8, 0, 56, 48]] * T
    for row in rows[1:]:
        assert row["reason"]
        assert row["box"] == row["score"] == row["frame_index"] == []


def test_frames_of_a_release_need_no_detector(tmp_path: Path) -> None:
    folder = tmp_path / "crops" / "00001"
    folder.mkdir(parents=True)
    for number, frame in enumerate(grey_ramp(T), start=1):
        cv2.imwrite(str(folder / f"{number}.jpg"), frame)
    found = find_clip(Clip("crops/00001", "frames"), root=tmp_path, settings=SETTINGS).faces
    assert found.status == "ok"
    assert found.box == ((0, 0, 64, 48),) * T


def test_a_decoder_that_dies_is_a_row_and_pyav_is_its_second_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "v" / "plain.mp4", grey_ramp(20))
    second: list[Found] = []

    def run_here(
        pool: Pool, function: Any, tasks: Any, *, fallback: Any, **_: Any
    ) -> Iterator[Any]:
        assert "decoder" not in function.keywords
        assert fallback.keywords["decoder"] == "pyav"
        second.append(fallback(next(iter(tasks))))
        yield second[0]
        yield Failure("killed after 60 s")

    monkeypatch.setattr(Pool, "run", run_here)
    manifest = write_manifest(
        tmp_path / "manifest.parquet", [("a", "v/plain.mp4"), ("b", "v/hangs.mp4")]
    )
    out = tmp_path / "faces.parquet"
    find_faces(manifest, tmp_path, out, settings=SETTINGS, pool=Pool(workers=1, deadline=60))
    first, last = read_faces(out).to_pylist()
    assert first["status"] == second[0].faces.status == "missing"
    assert (last["status"], last["reason"], last["box"]) == ("error", "killed after 60 s", [])


def test_a_table_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not found: run `safe-cli faces`"):
        read_faces(tmp_path / "faces.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(DataError, match="not a readable parquet"):
        read_faces(tmp_path / "text.parquet")
    manifest = write_manifest(tmp_path / "manifest.parquet", [])
    with pytest.raises(DataError, match="has columns clip, path"):
        read_faces(manifest)


def test_mini_dfew(shared: Path, tmp_path: Path) -> None:
    """8 of 40 real clips are ok, each of the 8 troubled ones has a status it may have, and why."""
    root = shared / "data" / "mini_dfew"
    expected = json.loads((root / "expected.json").read_text())
    data = Data(name="dfew", root=str(root), splits="EmoLabel_DataSplit", source="video", folds=[1])
    build_index(data, tmp_path / "manifest.parquet")
    trouble = expected["allowed_status"]
    assert len(trouble) == 8
    manifest = pq.read_table(tmp_path / "manifest.parquet")
    clips = manifest["clip"].to_pylist()
    assert len(clips) - len(trouble) == expected["good"] == 40
    some = [i for i, clip in enumerate(clips) if clip in trouble or i % 5 == 0]
    pq.write_table(manifest.take(some), tmp_path / "manifest.parquet")
    counts = find_faces(
        tmp_path / "manifest.parquet",
        root,
        tmp_path / "faces.parquet",
        settings=load_config(ROOT / "params.yaml").faces,
        pool=Pool(workers=1, deadline=60),
    )
    table = read_faces(tmp_path / "faces.parquet")
    assert table.schema == SCHEMA
    rows = {row["clip"]: row for row in table.to_pylist()}
    assert len(rows) == table.num_rows == sum(counts.values()) == len(some)
    for clip, allowed in trouble.items():
        assert rows[clip]["status"] in allowed
        assert rows[clip]["reason"]
    good = [row for clip, row in rows.items() if clip not in trouble]
    assert len(good) >= 8
    for row in good:
        assert row["status"] == "ok"
        assert len(row["frame_index"]) == len(row["box"]) == len(row["score"]) == T
        boxes = np.array(row["box"])
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2] <= row["width"]).all()
        assert (boxes[:, 3] <= row["height"]).all()
        assert (boxes[:, 2:] - boxes[:, :2] > 60).all()
