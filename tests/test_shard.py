"""Are shards complete, of the right pixels, and the same bytes however they are made?"""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import ROOT, touch, write_video

from pipeline.face.crop import cut_faces
from pipeline.face.preprocessing import preprocessing
from pipeline.face.table import SCHEMA as FACES
from pipeline.face.table import ClipFaces
from pipeline.manifest import SCHEMA as MANIFEST
from pipeline.pool.children import Failure
from pipeline.pool.pool import Pool
from pipeline.shard import write_shards
from pipeline.tars import TarWriter, atomic_folder
from pipeline.video.decode import Decoded, frame_indices
from safe.errors import DataError
from safe.params import load_config
from safe.sample import decode_strip
from safe.taxonomy import BASIC

CONFIG = load_config(ROOT / "params.yaml")
SHARD = CONFIG.shard.model_copy(update={"size": 32, "margin": 0.25, "clips": 2, "quality": 95})
T = 16
WIDTH, HEIGHT, LENGTH = 96, 64, 20
BOX = [30.0, 20.0, 54.0, 44.0]

# clip, bucket, label, status, reason. 00007 decodes for nobody: its file is empty.
CLIPS = [
    ("00001", "fold2", 0, "ok", ""),
    ("00002", "fold1", 1, "ok", ""),
    ("00003", "fold1", 1, "missing", "no face in any frame"),
    ("00004", "fold1", 6, "partial", "face in 7 of 16 frames"),
    ("00005", "fold1", 2, "error", "empty file"),
    ("00006", "fold2", 5, "ok", "2 of 16 frames interpolated"),
    ("00007", "fold2", 5, "ok", ""),
]


def faces_row(clip: str, status: str, reason: str) -> dict[str, Any]:
    row: dict[str, Any] = {"clip": clip, "status": status, "reason": reason}
    if status == "error":
        return row | {"n_frames": 0, "fps": 0.0, "width": 0, "height": 0} | {
            name: [] for name in ("frame_index", "box", "score")
        }  # fmt: skip
    square = [(WIDTH - HEIGHT) / 2, 0.0, (WIDTH + HEIGHT) / 2, float(HEIGHT)]
    scores = [0.0 if status == "missing" else 0.75] * T
    if "interpolated" in reason:
        scores[3:5] = [0.0, 0.0]
    return row | {
        "n_frames": LENGTH,
        "fps": 25.0,
        "width": WIDTH,
        "height": HEIGHT,
        "frame_index": frame_indices(LENGTH),
        "box": [square if status == "missing" else BOX] * T,
        "score": scores,
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write clips whose red is the time and whose green and blue are the place, and the tables."""
    root = tmp_path_factory.mktemp("dataset")
    frames = np.zeros((LENGTH, HEIGHT, WIDTH, 3), dtype=np.uint8)
    frames[..., 0] = 12 * np.arange(LENGTH)[:, None, None]
    frames[..., 1] = 2 * np.arange(WIDTH)
    frames[..., 2] = 3 * np.arange(HEIGHT)[:, None]
    for clip in ("00001", "00002", "00003", "00004", "00006"):
        write_video(root / "v" / f"{clip}.mp4", frames)
    touch(root / "v" / "00007.mp4")
    listed = [
        {"clip": clip, "path": f"v/{clip}.mp4", "label": label, "bucket": bucket,
         "source": "video", "bytes": 1}
        for clip, bucket, label, _, _ in CLIPS
    ]  # fmt: skip
    found = [faces_row(clip, status, reason) for clip, _, _, status, reason in CLIPS]
    pq.write_table(pa.Table.from_pylist(listed, MANIFEST), root / "manifest.parquet")
    pq.write_table(pa.Table.from_pylist(found, FACES), root / "faces.parquet")
    return root


def write(root: Path, out: Path, *, missing: str = "center", **options: Any) -> dict[str, int]:
    defaults = {"settings": SHARD, "pool": Pool(deadline=60)}
    return write_shards(
        root / "manifest.parquet",
        root / "faces.parquet",
        root,
        out,
        faces_settings=CONFIG.faces.model_copy(update={"missing": missing}),
        **(defaults | options),
    )


@pytest.fixture(scope="module")
def shards(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "shards"
    assert write(dataset, out) == {"clips": 5, "left_out": 2, "shards": 3}
    return out


def hashes(folder: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.iterdir())
    }


def test_index_says_what_is_where(shards: Path) -> None:
    index = json.loads((shards / "index.json").read_text())
    assert sorted(index) == [
        *("classes", "format", "frames", "left_out", "preprocessing", "shards", "table")
    ]
    assert (index["format"], index["classes"], index["frames"]) == (3, list(BASIC), 16)
    table = (shards / "clips.parquet").read_bytes()
    assert index["table"] == {
        "file": "clips.parquet",
        "sha256": hashlib.sha256(table).hexdigest(),
        "bytes": len(table),
    }
    assert index["left_out"] == [
        {"clip": "00005", "bucket": "fold1", "reason": "empty file"},
        {"clip": "00007", "bucket": "fold2", "reason": "empty file"},
    ]
    assert [(s["file"], s["bucket"], s["clips"]) for s in index["shards"]] == [
        ("fold1-000000.tar", "fold1", 2),
        ("fold1-000001.tar", "fold1", 1),
        ("fold2-000000.tar", "fold2", 2),
    ]
    for entry in index["shards"]:
        data = (shards / entry["file"]).read_bytes()
        assert entry["bytes"] == len(data)
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert list(entry["classes"]) == sorted(BASIC)
        assert sum(entry["classes"].values()) == entry["clips"]
    assert index["shards"][0]["classes"]["sad"] == 2
    assert sum(s["clips"] for s in index["shards"]) + len(index["left_out"]) == len(CLIPS)
    assert sorted(file.name for file in shards.iterdir()) == [
        "clips.parquet",
        *(s["file"] for s in index["shards"]),
        "index.json",
    ]


def test_table_finds_each_jpeg_by_its_offset(shards: Path) -> None:
    rows = pq.read_table(shards / "clips.parquet").to_pylist()
    assert [(r["clip"], r["label"], r["bucket"], r["flags"]) for r in rows] == [
        ("00002", 1, "fold1", ""),
        ("00003", 1, "fold1", "missing"),
        ("00004", 6, "fold1", "partial"),
        ("00001", 0, "fold2", ""),
        ("00006", 5, "fold2", "interpolated"),
    ]
    for row in rows:
        with tarfile.open(shards / row["shard"]) as tar:
            member = tar.getmember(f"{row['clip']}.jpg")
            assert (member.offset_data, member.size) == (row["offset"], row["bytes"])
        data = (shards / row["shard"]).read_bytes()[row["offset"] :][: row["bytes"]]
        assert row["crc32"] == zlib.crc32(data)
        assert decode_strip(data, 32).shape == (T, 32, 32, 3)


def test_pixels_are_the_right_frames_and_places(shards: Path) -> None:
    rows = {row["clip"]: row for row in pq.read_table(shards / "clips.parquet").to_pylist()}

    def faces(clip: str) -> Any:
        row = rows[clip]
        data = (shards / row["shard"]).read_bytes()[row["offset"] :][: row["bytes"]]
        return decode_strip(data, 32).astype(float)

    expected_red = 12 * np.array(frame_indices(LENGTH))
    # the box has 24 pixels, with margin 36: columns 24 to 60, rows 14 to 50
    offsets = (np.arange(32) + 0.5) * 36 / 32 - 0.5
    seen = faces("00002")
    np.testing.assert_allclose(seen[..., 0].mean(axis=(1, 2)), expected_red, atol=4)
    np.testing.assert_allclose(seen[..., 1].mean(axis=(0, 1)), 2 * (24 + offsets), atol=6)
    # in 4:2:0 the colours of a face's first and last row mix with those of its neighbours
    rows_between = seen[:, 1:-1, :, 2].mean(axis=(0, 2))
    np.testing.assert_allclose(rows_between, 3 * (14 + offsets)[1:-1], atol=6)
    # no face: the centre square, without a margin
    seen = faces("00003")
    columns = 16 + 2 * (np.arange(32) + 0.5) - 0.5
    np.testing.assert_allclose(seen[..., 1].mean(axis=(0, 1)), 2 * columns, atol=6)


def test_a_release_crop_is_stored_whole_and_square() -> None:
    frames = np.zeros((T, 40, 64, 3), dtype=np.uint8)
    frames[..., 0] = 3 * np.arange(64)
    decoded = Decoded(frames, list(range(T)), T, 0.0, 64, 40, "")
    face = ClipFaces("ok", "", box=((0, 0, 64, 40),) * T)
    settings = SHARD.model_copy(update={"size": 64})
    faces = cut_faces(decoded, face, source="frames", settings=settings)
    np.testing.assert_array_equal(faces[:, 12:52], frames)
    np.testing.assert_array_equal(faces[:, 0], frames[:, 0])


def test_same_bytes_with_other_workers_folder_and_clock(
    dataset: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "elsewhere" / "dataset"
    shutil.copytree(dataset, moved)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 1e8)
    monkeypatch.setenv("TZ", "Pacific/Apia")
    out = tmp_path / "elsewhere" / "shards"
    done: list[int] = []
    write(moved, out, pool=Pool(workers=2, deadline=60), on_done=done.append)
    assert done == [2, 3, 4, 5, 6, 7]  # of 7 clips; one is left out from the start
    assert hashes(out) == hashes(shards)
    assert len(hashes(out)) == 5
    for file in out.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes()
        if file.suffix == ".tar":
            with tarfile.open(file) as tar:
                for member in tar:
                    owner = (member.uid, member.gid, member.uname, member.gname)
                    assert (member.mtime, member.mode, *owner) == (0, 0o644, 0, 0, "", "")


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the tasks here: what is tested is not the engine."""

    def run_here(pool: Pool, function: Any, tasks: list[Any], **_: Any) -> Iterator[Any]:
        yield from map(function, tasks)

    monkeypatch.setattr(Pool, "run", run_here)


@pytest.mark.usefixtures("in_process")
def test_missing_faces_are_left_out_on_record_where_the_policy_says_drop(
    dataset: Path, tmp_path: Path
) -> None:
    assert write(dataset, tmp_path / "s", missing="drop")["left_out"] == 3
    index = json.loads((tmp_path / "s" / "index.json").read_text())
    reasons = {entry["clip"]: entry["reason"] for entry in index["left_out"]}
    assert reasons["00003"] == "no face in any frame (faces.missing: drop)"


def test_a_clip_that_fails_now_is_left_out_and_does_not_end_the_run(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_here(
        pool: Pool, function: Any, tasks: list[Any], *, fallback: Any, **_: Any
    ) -> Iterator[Any]:
        assert fallback.keywords["decoder"] == "pyav"
        for task in tasks:
            yield Failure("killed after 60 s") if task.key == "00002" else fallback(task)

    monkeypatch.setattr(Pool, "run", run_here)
    assert write(dataset, tmp_path / "s") == {"clips": 4, "left_out": 3, "shards": 2}
    index = json.loads((tmp_path / "s" / "index.json").read_text())
    assert index["left_out"][0] == {
        "clip": "00002",
        "bucket": "fold1",
        "reason": "killed after 60 s",
    }


@pytest.mark.usefixtures("in_process")
def test_other_frames_than_in_the_face_table_are_not_stored(dataset: Path, tmp_path: Path) -> None:
    table = pq.read_table(dataset / "faces.parquet").to_pylist()
    table[1]["frame_index"] = list(range(T))
    stale = tmp_path / "faces.parquet"
    pq.write_table(pa.Table.from_pylist(table, FACES), stale)
    write_shards(
        dataset / "manifest.parquet", stale, dataset, tmp_path / "s",
        settings=SHARD, faces_settings=CONFIG.faces, pool=Pool(deadline=60),
    )  # fmt: skip
    index = json.loads((tmp_path / "s" / "index.json").read_text())
    assert index["left_out"][0]["clip"] == "00002"
    assert "other frames" in index["left_out"][0]["reason"]
    pq.write_table(pa.Table.from_pylist(table[1:], FACES), stale)
    with pytest.raises(DataError, match=r"other clips than .* \(6 and 7\)"):
        write_shards(
            dataset / "manifest.parquet", stale, dataset, tmp_path / "s",
            settings=SHARD, faces_settings=CONFIG.faces, pool=Pool(deadline=60),
        )  # fmt: skip


@pytest.mark.usefixtures("in_process")
def test_folder_appears_whole_or_not_at_all(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "shards"
    write(dataset, out, missing="drop")
    before = hashes(out)
    with monkeypatch.context() as patch:
        patch.setattr(pq, "ParquetWriter", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write(dataset, out)
    assert hashes(out) == before
    (tmp_path / ".shards.tmp").mkdir()  # of a run that was killed
    (tmp_path / ".shards.tmp" / "fold9-000000.tar").touch()
    write(dataset, out)
    assert hashes(out) != before
    assert "fold9-000000.tar" not in hashes(out)
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]
    for file in out.iterdir():
        file.unlink()
    (out / "thesis.txt").touch()
    with pytest.raises(DataError, match="holds something else than shards"):
        write(dataset, out)
    assert (out / "thesis.txt").exists()


@pytest.mark.usefixtures("in_process")
def test_nothing_to_store_is_an_error_with_the_first_reason(dataset: Path, tmp_path: Path) -> None:
    for clip, *_ in CLIPS:
        touch(tmp_path / "v" / f"{clip}.mp4")
    with pytest.raises(DataError, match="no clip can be stored; the first, 00001: empty file"):
        write_shards(
            dataset / "manifest.parquet", dataset / "faces.parquet", tmp_path, tmp_path / "s",
            settings=SHARD, faces_settings=CONFIG.faces, pool=Pool(deadline=60),
        )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["v"]


def test_id_is_of_everything_that_decides_the_pixels_and_of_nothing_else() -> None:
    base = preprocessing("video", faces=CONFIG.faces, shard=SHARD)
    canonical = json.dumps(base["made_from"], sort_keys=True, separators=(",", ":"))
    assert base["id"] == hashlib.sha256(canonical.encode()).hexdigest()[:16]
    ids = {base["id"]}
    changes: list[tuple[str, dict[str, Any]]] = [
        ("faces", {"detect_size": 640}), ("faces", {"threshold": 0.4}), ("faces", {"smooth": 2.0}),
        ("faces", {"max_gap": 2}), ("faces", {"missing": "drop"}), ("shard", {"size": 48}),
        ("shard", {"margin": 0.1}), ("shard", {"quality": 80}), ("shard", {"chroma": "444"}),
    ]  # fmt: skip
    for section, update in changes:
        settings = {"faces": CONFIG.faces, "shard": SHARD}
        settings[section] = settings[section].model_copy(update=update)
        ids.add(preprocessing("video", **settings)["id"])
    ids.add(preprocessing("frames", faces=CONFIG.faces, shard=SHARD)["id"])
    assert len(ids) == 2 + len(changes)
    more = SHARD.model_copy(update={"clips": 7})
    assert preprocessing("video", faces=CONFIG.faces, shard=more) == base


def test_tar_is_what_other_tools_expect(tmp_path: Path) -> None:
    members = {"a.jpg": b"x" * 511, "a.cls": b"", "b.jpg": b"y" * 512, "b.json": b"z" * 1025}
    tar = TarWriter(tmp_path / "t.tar")
    offsets = {name: tar.add(name, data) for name, data in members.items()}
    with pytest.raises(ValueError, match="too long"):
        tar.add("k" * 101, b"")
    tar.close()
    data = tar.path.read_bytes()
    assert tar.size == len(data)
    assert tar.sha256 == hashlib.sha256(data).hexdigest()
    assert data[-1024:] == bytes(1024)
    with tarfile.open(fileobj=io.BytesIO(data)) as read:
        for member in read:
            assert read.extractfile(member).read() == members[member.name]
            assert member.offset_data == offsets[member.name]
    if shutil.which("tar"):
        listed = subprocess.run(
            ["tar", "-tf", str(tar.path)], capture_output=True, text=True, check=True
        )
        assert listed.stdout.split() == list(members)
        assert not listed.stderr


def test_whole_folder_is_empty_at_first(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "new" / "out") as folder:
        assert not list(folder.iterdir())
        assert not (tmp_path / "new" / "out").exists()
        (folder / "index.json").write_text("{}")
    assert (tmp_path / "new" / "out" / "index.json").read_text() == "{}"
