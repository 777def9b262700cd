"""Is a forgotten clip gone from everywhere, for good, and all else as it was, also after a kill?"""

import hashlib
import inspect
import io
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zlib
from fnmatch import fnmatch
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from support import ROOT, SMALL, call, no_children, options, small_config

import cli.layout
from cli.app import app, experiments
from cli.forget import places_of, run_forget
from cli.layout import Layout, note_out
from cli.stages import run_index
from pipeline.face.cache import StripCache
from pipeline.face.table import ClipFaces, write_faces
from pipeline.faces import find_faces
from pipeline.forget import Places, Receipt, find_raw, forget, read_contents, remove_rows
from pipeline.index import build_index
from pipeline.pool.pool import Pool
from pipeline.shard import write_shards
from pipeline.synthesize import synthesize
from pipeline.tars import TarWriter, write_index
from pipeline.videos import identity, total
from safe.errors import DataError, ProcessError, SafeError
from safe.files import hold_lock
from safe.shards.folder import open_shards
from safe.taxonomy import BASIC

OVERRIDES = (
    "synthesize.clips=35",
    "synthesize.size=48",
    "shard.clips=3",
    "shard.frames=4",
    "shard.size=32",
    "data.source=strips",
)
DATA = Path("data", "synthetic")
TABLE = DATA / "shards" / "clips.parquet"
PREDICTIONS = Path("runs", "synthetic", "eval", "fold-3", "predictions.parquet")
SELECTED = Path("runs", "synthetic", "calibrate", "fold-2", "predictions.parquet")
SHOWN = Path("results", "experiments", "fig8.png")
STATE = Path(".safe", "checkpoints", "0123", "0000000001.safetensors")
STRIPS = Path(".safe", "strips", "synthetic.zip")
LEFT_OUT = "00002"


def config_of(folder: Path) -> Any:
    return small_config(folder, *OVERRIDES)


def places(folder: Path) -> Places:
    return places_of(Layout("synthetic"), folder)


def run(folder: Path, *clips: str, **options: bool) -> list[Receipt]:
    return forget(list(clips), places(folder), config_of(folder).data, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with clips in all places where they can be; one of them has no file."""
    folder = tmp_path_factory.mktemp("made")
    config, at = config_of(folder), places(folder)
    root, faces = Path(config.data.root), folder / DATA / "faces.parquet"
    synthesize(root, config.synthesize, source="strips", frames=4, workers=1)
    (root / "Clip" / "strips" / f"{LEFT_OUT}.jpg").unlink()
    build_index(config.data, at.manifest)
    pool = Pool(workers=1, deadline=60)
    with no_children():
        cache = StripCache(folder / STRIPS, config.shard)
        find_faces(
            at.manifest, root, faces, settings=config.faces, frames=4, cache=cache, pool=pool
        )
        settings = {"settings": config.shard, "faces_settings": config.faces}
        write_shards(at.manifest, faces, root, at.shards, **settings, pool=pool)
    random = np.random.default_rng(0)
    shards = open_shards(at.shards)
    rows = shards.split(3)[1]
    columns = {
        name: [random.random(width, dtype=np.float32) for _ in rows]
        for name, width in (("logits", 7), ("embedding", 64), ("attention", 7))
    }
    (folder / PREDICTIONS).parent.mkdir(parents=True)
    pq.write_table(pa.table({"clip": shards.clip[rows].tolist(), **columns}), folder / PREDICTIONS)
    (folder / SELECTED).parent.mkdir(parents=True)
    shutil.copy(folder / PREDICTIONS, folder / SELECTED)
    for fold in (1, 3):
        (folder / f"runs/synthetic/train/fold-{fold}").mkdir(parents=True)
    strip = jpeg_of(folder, middle(folder)["clip"])
    for path in (folder / SHOWN, folder / STATE, folder / DATA / ".faces.parquet.4194305.tmp"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"before" + strip + b"after")  # stands for any file that shows the clip
    (folder / STATE).with_name("lock").touch()
    shutil.copytree(at.shards, at.shards.with_name(".shards.old"))  # of a kill after the swap
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "project")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / TABLE).to_pylist()


def middle(folder: Path) -> dict[str, Any]:
    """The row of the clip in the middle of the middle shard: fold 3, second tar, second clip."""
    return [row for row in rows_of(folder) if row["shard"] == "fold3-000001.tar"][1]


def jpeg_of(folder: Path, clip: str) -> bytes:
    row = next(row for row in rows_of(folder) if row["clip"] == clip)
    with tarfile.open(folder / DATA / "shards" / row["shard"]) as archive:
        file = archive.extractfile(f"{clip}.jpg")
        assert file is not None
        return file.read()


def members(folder: Path) -> dict[str, tuple[bytes, bytes]]:
    """Header and bytes of every member of every shard, by name."""
    found = {}
    for path in sorted((folder / DATA / "shards").glob("*.tar")):
        raw = path.read_bytes()
        with tarfile.open(path) as archive:
            for member in archive.getmembers():
                end = member.offset_data + member.size
                found[member.name] = (
                    raw[member.offset : member.offset_data],
                    raw[member.offset_data : end],
                )
    return found


def tree(folder: Path) -> dict[str, str]:
    """The sha256 of every file; of receipts, without their times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            name = str(path.relative_to(folder))
            if path.parent.name == "forgotten":
                receipt = json.loads(data)
                assert receipt.pop("finished") > receipt.pop("begun")
                data, name = json.dumps(receipt).encode(), f"receipt {len(found)}"
            found[name] = hashlib.sha256(data).hexdigest()
    return found


def hits(folder: Path, clip: str, jpeg: bytes) -> list[str]:
    """Files below a folder that hold a part of a JPEG's middle or name the clip."""
    third = len(jpeg) // 3
    parts = [jpeg[at : at + 64] for at in range(third, 2 * third, 16)]
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if path.suffix == ".parquet" and path.parent.name != "locks":
            names = clip in pq.read_table(path)["clip"].to_pylist()
        else:
            names = f'"{clip}"'.encode() in data or f"{clip}.".encode() in data
        if names or clip in path.name or any(part in data for part in parts):
            found.append(str(path.relative_to(folder)))
    return found


def check_folder(folder: Path, clips: set[str]) -> None:
    """Check index.json and clips.parquet against the tars alone, and the stock reader too."""
    shards = folder / DATA / "shards"
    index = json.loads((shards / "index.json").read_text())
    names = [entry["file"] for entry in index["shards"]]
    assert sorted(path.name for path in shards.glob("*.tar")) == names
    rows = rows_of(folder)
    for entry in index["shards"]:
        data = (shards / entry["file"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert entry["bytes"] == len(data)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            labels = [
                int(archive.extractfile(member).read())  # type: ignore[union-attr]
                for member in archive
                if member.name.endswith(".cls")
            ]
        assert entry["clips"] == len(labels) > 0
        assert entry["classes"] == {name: labels.count(i) for i, name in enumerate(BASIC)}
    read = {}
    paths = [str(shards / name) for name in names]
    for sample in webdataset.WebDataset(paths, shardshuffle=False, empty_check=False):
        read[sample["__key__"]] = sample["jpg"]
    assert list(read) == [row["clip"] for row in rows]
    assert read.keys() == clips
    for row in rows:
        data = (shards / row["shard"]).read_bytes()[row["offset"] : row["offset"] + row["bytes"]]
        assert data == read[row["clip"]]
        assert row["crc32"] == zlib.crc32(data)
    assert set(open_shards(shards).clip.tolist()) == clips


# What goes and what stays


def test_a_clip_in_the_middle(folder: Path) -> None:
    row = middle(folder)
    clip, tar = row["clip"], row["shard"]
    jpeg, before, samples = jpeg_of(folder, clip), tree(folder), members(folder)
    assert {str(path) for path in (SHOWN, STATE, PREDICTIONS, SELECTED, TABLE)} < set(
        hits(folder, clip, jpeg)
    )
    tables = {path: pq.read_table(path) for path in places(folder).tables}
    (receipt,) = run(folder, clip)

    raw = f"Clip/strips/{clip}.jpg"  # another JPEG of the same pixels: stays without --raw
    left = [name for name in hits(folder, clip, jpeg) if not name.startswith("data/raw/")]
    assert left == [f"{DATA}/forgotten/{next((folder / DATA / 'forgotten').iterdir()).name}"]
    assert (folder / "data" / "raw" / "synthetic" / raw).is_file()
    assert (folder / "forgotten.csv").read_text() == f"dataset,clip\nsynthetic,{clip}\n"
    assert not list(folder.rglob(".shards.*"))
    assert not list(folder.rglob("*.tmp"))
    assert not (folder / ".safe" / "strips" / "synthetic.zip").exists()
    assert (folder / STATE).with_name("lock").exists()

    after = tree(folder)
    changed = {name for name in before.keys() & after.keys() if before[name] != after[name]}
    shards = DATA / "shards"
    assert changed == {
        str(path)
        for path in (
            DATA / "manifest.parquet",
            DATA / "factors.parquet",
            DATA / "faces.parquet",
            PREDICTIONS,
            SELECTED,
            TABLE,
            shards / "index.json",
            shards / tar,
        )
    }
    for suffix in ("jpg", "cls", "json"):
        del samples[f"{clip}.{suffix}"]
    assert members(folder) == samples
    check_folder(folder, {name.partition(".")[0] for name in samples})
    for path, old in tables.items():
        rest = [entry for entry in old.to_pylist() if entry["clip"] != clip]
        assert len(rest) == len(old) - 1
        assert pq.read_table(path).to_pylist() == rest
    assert receipt["shards"][tar]["before"] == before[str(shards / tar)]
    assert receipt["shards"][tar]["after"] == after[str(shards / tar)]
    assert [Path(model).name for model in receipt["models"]] == ["fold-1"]  # fold 3 tests on it
    assert receipt["raw_kept"] == [raw]


def test_predictions_keep_the_bits_of_the_other_rows(folder: Path) -> None:
    clip = middle(folder)["clip"]
    old = pq.read_table(folder / PREDICTIONS).to_pydict()
    run(folder, clip)
    new = pq.read_table(folder / PREDICTIONS).to_pydict()
    at = old["clip"].index(clip)
    for name in ("logits", "embedding", "attention"):
        want = np.delete(np.array(old[name], np.float32), at, axis=0)
        assert np.array(new[name], np.float32).tobytes() == want.tobytes()


def test_all_clips_of_a_shard_and_one_that_was_left_out(folder: Path) -> None:
    rows = rows_of(folder)
    gone = {row["clip"] for row in rows if row["shard"] == "fold3-000001.tar"} | {LEFT_OUT}
    before = tree(folder)
    (receipt,) = run(folder, *gone)
    after = tree(folder)
    tars = {name for name in before if name.startswith(f"{DATA}/shards/") and "tar" in name}
    assert {name for name in tars if name not in after} == {f"{DATA}/shards/fold3-000001.tar"}
    assert all(after[name] == before[name] for name in tars & after.keys())
    assert json.loads((folder / DATA / "shards" / "index.json").read_text())["left_out"] == []
    check_folder(folder, {row["clip"] for row in rows} - gone)
    assert receipt["shards"]["fold3-000001.tar"]["after"] is None
    assert (receipt["left_out"], receipt["removed"][str(places(folder).manifest)]) == (1, 4)


def test_files_that_are_links_to_a_cache_are_not_written_to(folder: Path, tmp_path: Path) -> None:
    """DVC's caches of type hardlink and symlink, read-only."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for number, path in enumerate(sorted((folder / DATA).rglob("*"))):
        if path.is_file() and path.parent.name != ".shards.old":
            kept = cache / f"{number}-{path.name}"
            path.rename(kept)
            kept.chmod(0o444)
            if number % 2:
                path.symlink_to(kept)
            else:
                os.link(kept, path)
    before, clip = tree(cache), middle(folder)["clip"]
    kept_rows = {row["clip"] for row in rows_of(folder)} - {clip}
    run(folder, clip)
    assert tree(cache) == before
    check_folder(folder, kept_rows)


# It does not come back


@pytest.mark.usefixtures("unguarded")
def test_index_and_faces_make_the_same_tables_without_it(folder: Path) -> None:
    clip = middle(folder)["clip"]
    run(folder, clip)
    at, config = places(folder), config_of(folder)
    before = tree(folder / DATA)
    counts = build_index(config.data, at.manifest, forgotten=at.forgotten)
    assert (counts["forgotten"], counts["clips"]) == (1, 34)
    root, faces = Path(config.data.root), folder / DATA / "faces.parquet"
    pool = Pool(workers=1, deadline=60)
    find_faces(at.manifest, root, faces, settings=config.faces, frames=4, pool=pool)
    assert tree(folder / DATA) == before


@pytest.mark.parametrize("count", [7, 250, 251, 600])
def test_a_face_table_is_as_if_written_without_the_clip(tmp_path: Path, count: int) -> None:
    box = (1.5, 2.0, 30.25, 40.0)
    row = ClipFaces("ok", "", 20, 25.0, 96, 64, tuple(range(16)), (box,) * 16, (0.75,) * 16)
    keys = [f"{number:05d}" for number in range(count)]
    write_faces(keys, [row] * count, tmp_path / "faces.parquet")
    remove_rows(tmp_path / "faces.parquet", {keys[3], "99999"})
    del keys[3]
    write_faces(keys, [row] * len(keys), tmp_path / "fresh.parquet")
    fresh = (tmp_path / "fresh.parquet").read_bytes()
    assert (tmp_path / "faces.parquet").read_bytes() == fresh


def test_twice_is_once(folder: Path) -> None:
    clip = middle(folder)["clip"]
    run(folder, clip)
    before = tree(folder)
    assert run(folder, clip) == []
    assert tree(folder) == before


def test_a_list_from_elsewhere_is_carried_out_here(folder: Path) -> None:
    """forgotten.csv came by git; the clip is still in this copy of the project."""
    clip = middle(folder)["clip"]
    (folder / "forgotten.csv").write_text(f"dataset,clip\ndfew,00001\nsynthetic,{clip}\n")
    rest = {row["clip"] for row in rows_of(folder)} - {clip}
    run(folder, clip)
    check_folder(folder, rest)
    assert (folder / "forgotten.csv").read_text() == f"dataset,clip\ndfew,00001\nsynthetic,{clip}\n"


# Nothing is changed


def test_dry_run_changes_nothing_and_says_the_same(folder: Path) -> None:
    before, clip = tree(folder), middle(folder)["clip"]
    (planned,) = run(folder, clip, dry_run=True)
    assert tree(folder) == before
    (done,) = run(folder, clip)
    assert planned["finished"] is None
    for name in planned.keys() - {"begun", "finished", "shards"}:
        assert planned[name] == done[name], name


@pytest.mark.parametrize("clips", [["00099"], ["00003", "00099"], ["../../etc/passwd"], ["3"]])
def test_an_unknown_key_changes_nothing(folder: Path, clips: list[str]) -> None:
    before = tree(folder)
    with pytest.raises(DataError, match=r"not in .*manifest\.parquet") as caught:
        run(folder, *clips)
    assert repr(clips[-1]) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert tree(folder) == before


@pytest.mark.parametrize(
    "name",
    ["shards/fold3-000001.tar", "shards/clips.parquet", "faces.parquet"],
)
def test_damage_is_not_given_a_new_sum(folder: Path, name: str) -> None:
    clip, path = middle(folder)["clip"], folder / DATA / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data[:-8] if name == "faces.parquet" else data)
    before = tree(folder)
    with pytest.raises(DataError, match="damaged") as caught:
        run(folder, clip)
    assert "\n" not in str(caught.value)
    assert tree(folder) == before


# Raw clips


def test_raw_is_deleted_and_its_neighbours_stay(folder: Path) -> None:
    clip = middle(folder)["clip"]
    strips = folder / "data" / "raw" / "synthetic" / "Clip" / "strips"
    names = {path.name for path in strips.iterdir()}
    run(folder, clip)
    (receipt,) = run(folder, clip, raw=True)  # forgotten before; the raw clip was still there
    assert {path.name for path in strips.iterdir()} == names - {f"{clip}.jpg"}
    assert (receipt["raw_deleted"], receipt["removed"]) == ([f"Clip/strips/{clip}.jpg"], {})
    assert run(folder, clip, raw=True) == []


def test_raw_stays_within_the_root(folder: Path, tmp_path: Path) -> None:
    clip = middle(folder)["clip"]
    strips = folder / "data" / "raw" / "synthetic" / "Clip" / "strips"
    strips.rename(tmp_path / "elsewhere")
    strips.symlink_to(tmp_path / "elsewhere")
    before = tree(folder)
    with pytest.raises(DataError, match=r"outside data\.root"):
        run(folder, clip, raw=True)
    assert tree(folder) == before
    assert (tmp_path / "elsewhere" / f"{clip}.jpg").is_file()
    (receipt,) = run(folder, clip)  # without it, all else goes
    assert receipt["raw_kept"] == [f"Clip/strips/{clip}.jpg"]


def test_what_counts_as_a_raw_clip(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "frames" / "00001").mkdir(parents=True)
    (root / "frames" / "00001" / "1.jpg").touch()
    (tmp_path / "secret").touch()
    (root / "link.mp4").symlink_to(tmp_path / "secret")
    assert find_raw(root, "frames/00001") == root / "frames" / "00001"
    assert find_raw(root, "frames/00002") is None
    assert find_raw(root, "link.mp4") == root / "link.mp4"  # the link goes, not what it names
    for path in ("frames", "../secret", "", "frames/..", str(tmp_path / "secret")):
        with pytest.raises(DataError):
            find_raw(root, path)


# Places of verbs, of kills and of links

ELSEWHERE = Path("elsewhere")


def leave(folder: Path, clip: str, video: Path) -> list[Path]:
    """Put what shows the clip where verbs and kills leave it; return the files."""
    strip = jpeg_of(folder, clip)
    temporary = folder / ".dvc" / "tmp" / "exps" / "standalone" / "tmpab12" / DATA / "shards"
    beside = folder.parent / ELSEWHERE  # outside of the project
    files = [
        folder / ".safe" / "cache" / f"{'0' * 64}.part",
        folder / ".safe" / "cache" / f"{'1' * 64}.tar",
        folder / "inspected" / f"{clip}.png",
        folder / "inspected" / f".{clip}.png.4194305.tmp",
        folder / "results" / ".report.html.4194305.tmp",
        temporary / "fold1-000000.tar",
        beside / "page.html",
        beside / ".page.html.4194305.tmp",
    ]
    for out in (folder / "predictions", beside / "answers"):
        names = [f"{video.stem}.{ending}" for ending in ("jsonl", "png", "mp4")]
        files += [out / name for name in (*names, f"{video.stem}-2.parquet", "twin.jsonl")]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"before" + strip + b"after")
    for out in (folder / "predictions", beside / "answers"):
        shutil.copy(video, out.parent / "twin.mp4")  # the same video under another name
        write_summary(out, {video: video.stem, out.parent / "twin.mp4": "twin"})
        for path in (out / "other.jsonl", out / f"{video.stem}9.png", out / f"{video.stem}-3.mp4"):
            path.write_bytes(b"about another video")
    return files


def write_summary(out: Path, videos: dict[Path, str]) -> None:
    def entry(video: Path, base: str) -> dict[str, Any]:
        files = {"table": f"{base}.jsonl", "timeline": f"{base}.png", "annotated": f"{base}.mp4"}
        sums = {"faces": 1, "clips": 2, "abstained": 0, "seconds": 2.5}
        made = {"path": identity(video), "video": str(video), "made_by": "0", "reason": None}
        size = {"bytes": video.stat().st_size if video.exists() else 5, "modified": 0}
        return made | files | sums | size | {"status": "ok"}

    entries = [entry(video, base) for video, base in videos.items()]
    entries.append(entry(out / "gone.mp4", "other"))
    summary = {"left": 0, "totals": total(entries), "videos": entries}
    (out / "summary.json").write_text(json.dumps(summary))


def test_what_verbs_and_kills_leave_goes_too(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    clip = middle(home)["clip"]
    jpeg = jpeg_of(home, clip)
    video = home / "data" / "raw" / "synthetic" / "Clip" / "strips" / f"{clip}.jpg"
    files = leave(home, clip, video)
    beside = home.parent / ELSEWHERE
    (beside / ".theirs.html.4194305.tmp").touch()
    note_out("report", beside / "page.html")
    note_out("report", Path("results", "report.html"))  # where it is by itself
    (home / "results" / "report.html").write_text("page")
    note_out("predict", beside / "answers")
    note_out("predict", beside / "answers")
    before = tree(beside)
    arguments = (Path("params.yaml"), [*SMALL, *OVERRIDES], [clip], None)
    run_forget(*arguments, raw=False, dry_run=True)
    assert str(beside / "answers") in capsys.readouterr().out
    assert {name: sha for name, sha in tree(beside).items() if ".lock" not in name} == before
    run_forget(*arguments, raw=False, dry_run=False)
    assert [str(path) for path in files if path.exists()] == []
    left = [name for name in hits(home.parent, clip, jpeg) if "/raw/" not in name]
    kept = ("forgotten", "twin.mp4", f"{clip}9.png", f"{clip}-3.mp4")  # see below
    assert not [name for name in left if not any(word in name for word in kept)]
    for out in (home / "predictions", beside / "answers"):
        there = {path.name for path in out.iterdir()} - {".lock"}
        assert there == {"summary.json", "other.jsonl", f"{clip}9.png", f"{clip}-3.mp4"}
        summary = json.loads((out / "summary.json").read_text())
        assert [entry["table"] for entry in summary["videos"]] == ["other.jsonl"]
        assert (summary["totals"]["videos"], summary["totals"]["clips"]) == (1, 2)
    assert (beside / ".theirs.html.4194305.tmp").exists()


def test_an_experiment_that_runs_is_not_taken_away(home: Path) -> None:
    workspace = home / ".dvc" / "tmp" / "exps" / "tmpab12"
    workspace.mkdir(parents=True)
    (workspace / "face").touch()
    words = [sys.executable, "-c", "print(flush=True); input()"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, cwd=workspace, **pipes) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(home)
            with pytest.raises(ProcessError, match=f"process {process.pid} runs an experiment"):
                forget_here(middle(home)["clip"])
        process.communicate(b"\n")
    assert (workspace / "face").exists()


def forget_here(*clips: str) -> None:
    settings = [*SMALL, *OVERRIDES]
    run_forget(Path("params.yaml"), settings, list(clips), None, raw=False, dry_run=False)


@pytest.mark.parametrize("what", ["shards", ".", ".."])
def test_shards_behind_a_link_are_rewritten_where_they_are(
    folder: Path, tmp_path: Path, what: str
) -> None:
    clip = middle(folder)["clip"]
    jpeg, rest = jpeg_of(folder, clip), {row["clip"] for row in rows_of(folder)} - {clip}
    link = Path(os.path.normpath(folder / DATA / what))
    link.rename(tmp_path / "disk")
    link.symlink_to(tmp_path / "disk")
    run(folder, clip)
    assert link.is_symlink()
    check_folder(folder, rest)
    assert [name for name in hits(tmp_path / "disk", clip, jpeg) if "forgotten" not in name] == [
        name for name in hits(tmp_path / "disk", clip, jpeg) if "raw/" in name
    ]


def test_what_a_link_named_is_told(folder: Path, tmp_path: Path) -> None:
    kept = {tmp_path / "disk.parquet": DATA / "faces.parquet", tmp_path / "fig8.png": SHOWN}
    kept[tmp_path / "cache" / "files" / "md5" / "ab"] = PREDICTIONS  # DVC's own
    for target, path in kept.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        (folder / path).rename(target)
        (folder / path).symlink_to(target)
    (receipt,) = run(folder, middle(folder)["clip"])
    assert receipt["linked"] == [str(tmp_path / "disk.parquet"), str(tmp_path / "fig8.png")]
    assert sum(str(tmp_path / "disk.parquet") in line for line in receipt["to_do"]) == 1


@pytest.mark.parametrize("where", ["shards", "raw", "frames"])
def test_the_same_bytes_under_another_key_go_too(folder: Path, where: str) -> None:
    row = middle(folder)
    clip, raw = row["clip"], folder / "data" / "raw" / "synthetic" / "Clip" / "strips"
    twin = next(r["clip"] for r in rows_of(folder) if r["shard"] == "fold1-000000.tar")
    if where == "shards":
        put_into_shards(folder, twin, jpeg_of(folder, clip))
    else:
        shutil.copy(raw / f"{clip}.jpg", raw / f"{twin}.jpg")
        size = (raw / f"{clip}.jpg").stat().st_size
        set_bytes(folder / DATA / "manifest.parquet", {clip: size, twin: size})
    if where == "frames":
        for key in (clip, twin):
            (raw / f"{key}.jpg").rename(raw / "1.jpg")
            (raw / f"{key}.jpg").mkdir()
            (raw / "1.jpg").rename(raw / f"{key}.jpg" / "1.jpg")
    rest = {r["clip"] for r in rows_of(folder)} - {clip, twin}
    (receipt,) = run(folder, clip)
    assert receipt["same"] == {twin: clip}
    assert receipt["clips"] == sorted((clip, twin))
    check_folder(folder, rest)
    assert run(folder, clip) == []


def set_bytes(manifest: Path, sizes: dict[str, int]) -> None:
    table = pq.read_table(manifest)
    known = zip(table["clip"].to_pylist(), table["bytes"].to_pylist(), strict=True)
    column = pa.array(
        [sizes.get(key, size) for key, size in known], table.schema.field("bytes").type
    )
    at = table.schema.get_field_index("bytes")
    pq.write_table(table.set_column(at, table.schema.field("bytes"), column), manifest)


def put_into_shards(folder: Path, twin: str, jpeg: bytes) -> None:
    """Make the shards again, with these bytes for one clip."""
    shards = folder / DATA / "shards"
    index, rows = read_contents(shards)
    row = next(row for row in rows["fold1-000000.tar"] if row["clip"] == twin)
    old = shards / "fold1-000000.tar"
    writer = TarWriter(old.with_suffix(".new"))
    with tarfile.open(old) as archive:
        for member in archive.getmembers():
            key, _, ending = member.name.partition(".")
            data = archive.extractfile(member).read()  # type: ignore[union-attr]
            at = writer.add(member.name, jpeg if (key, ending) == (twin, "jpg") else data)
            if ending == "jpg":
                next(r for r in rows[old.name] if r["clip"] == key)["offset"] = at
    writer.close()
    old.with_suffix(".new").rename(old)
    row |= {"bytes": len(jpeg), "crc32": zlib.crc32(jpeg)}
    entry = next(entry for entry in index["shards"] if entry["file"] == old.name)
    entry |= {"sha256": hashlib.sha256(old.read_bytes()).hexdigest(), "bytes": old.stat().st_size}
    write_index(
        shards,
        shards=index["shards"],
        left_out=index["left_out"],
        made=index["preprocessing"],
        classes=tuple(index["classes"]),
        frames=index["frames"],
        rows=[row for name in sorted(rows) for row in rows[name]],
    )


def listed(path: str) -> bool:
    return any(
        fnmatch(path, pattern) or fnmatch(path, f"{pattern}/*")
        for pattern in cli.layout.places(Layout("x"))
    )


def test_every_path_of_the_layout_is_a_place() -> None:
    """Who adds a path for a stage says here what of a clip will be there."""
    at = Layout("x")
    paths = [getattr(at, name) for name in dir(Layout) if isinstance(getattr(at, name), Path)]
    for value in vars(cli.layout).values():
        if inspect.isfunction(value) and value.__annotations__ == {"return": Path}:
            paths.append(value())
        elif isinstance(value, Path):
            paths.append(value)
    assert len(paths) > 15
    kept = {cli.layout._kept(), cli.layout.RESULTS, at.trains, at.calibrates, at.evals}
    folders = {*kept, cli.layout.checkpoints(), cli.layout.tar_cache(), cli.layout.INSPECTED}
    for path in set(paths) - folders:
        assert listed(str(path)) or listed(f"{path}/file"), path


def test_every_verb_that_writes_where_it_is_told_is_known() -> None:
    verbs = [*app.registered_commands, *experiments.registered_commands]
    names = {c.name or c.callback.__name__: inspect.signature(c.callback) for c in verbs}  # type: ignore[union-attr]
    assert {name for name, of in names.items() if "out" in of.parameters} == cli.layout.OUTS.keys()
    assert names["predict"].parameters["out"].default == cli.layout.ANSWERS
    for name, holds in cli.layout.OUTS.items():
        source = "".join(path.read_text() for path in (ROOT / "cli").glob("*.py"))
        assert (f'note_out("{name}"' in source) == (holds != "nothing")


# The receipt


def test_a_receipt_holds_keys_and_sums_only(folder: Path) -> None:
    clip = middle(folder)["clip"]
    faces = {row["clip"]: row for row in pq.read_table(folder / DATA / "faces.parquet").to_pylist()}
    run(folder, clip)
    (path,) = (folder / DATA / "forgotten").iterdir()
    text = path.read_text()
    assert len(text) < 5_000
    assert not any(f"{side:.1f}" in text for box in faces[clip]["box"] for side in box if side)

    def walk(value: object) -> None:
        if isinstance(value, dict | list):
            for entry in value.values() if isinstance(value, dict) else value:
                walk(entry)
        else:
            assert value is None or isinstance(value, str | int)
            assert len(str(value)) < 400

    walk(json.loads(text))


# Killed


CHANGES = ("os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir")


def forget_until(folder: Path, clip: str, at: int | None, pipe: Connection) -> None:
    """Forget a clip; kill -9 this process before its change number `at` of the file system."""
    seen: list[str] = []

    def look(event: str, _: tuple[Any, ...]) -> None:
        if event in CHANGES:
            if len(seen) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            seen.append(event)

    sys.addaudithook(look)
    pipe.send("go")
    run(folder, clip)
    pipe.send(seen)


def start(folder: Path, clip: str, at: int | None) -> tuple[Any, Connection]:
    context = multiprocessing.get_context("fork")  # what spawn imports takes seconds
    ours, theirs = context.Pipe()
    child = context.Process(target=forget_until, args=(folder, clip, at, theirs))
    child.start()
    theirs.close()
    assert ours.poll(60)
    assert ours.recv() == "go"
    return child, ours


def test_killed_at_any_change_it_is_completed_by_the_next(made: Path, tmp_path: Path) -> None:
    clip = middle(made)["clip"]
    whole = tmp_path / "whole"
    shutil.copytree(made, whole)
    began = time.monotonic()
    child, pipe = start(whole, clip, None)
    steps = pipe.recv()
    child.join()
    lasted = time.monotonic() - began
    wanted = {name.replace(str(whole), ""): value for name, value in tree(whole).items()}
    renames = [i for i, step in enumerate(steps) if step == "os.rename"]
    points = sorted({*renames[::2], *renames[-2:], *range(0, len(steps), 30)})
    assert len(points) > 6
    random = np.random.default_rng(5)
    unfinished = 0
    for number, point in enumerate([*points, None]):
        folder = tmp_path / "whole"  # the same path, since receipts name it
        shutil.rmtree(folder)
        shutil.copytree(made, folder)
        child, _ = start(folder, clip, point)
        if point is None:
            time.sleep(random.uniform(0, lasted))
            child.kill()
        child.join(60)
        assert child.exitcode in ((-9,) if point is not None else (0, -9)), number
        readable_or_absent(folder)
        unfinished += any('"finished": null' in path.read_text() for path in receipts(folder))
        run(folder, *[clip] * bool(number % 2))  # without a key it completes what was begun
        if not any(receipts(folder)):  # killed before the plan was written
            run(folder, clip)
        assert tree(folder) == wanted, (number, point)
    assert unfinished >= len(points) // 2


def receipts(folder: Path) -> list[Path]:
    return list((folder / DATA / "forgotten").glob("*.json"))


def readable_or_absent(folder: Path) -> None:
    """Check that training reads right bytes, or none."""
    shards = folder / DATA / "shards"
    if not shards.exists():
        with pytest.raises(DataError, match="not found"):
            open_shards(shards)
        return
    check_folder(folder, {row["clip"] for row in rows_of(folder)})


# The command


@pytest.fixture
def home(folder: Path) -> Path:
    for name in ("params.yaml", "experiments"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    return folder


def test_the_command(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = middle(home)["clip"]
    monkeypatch.chdir(home)
    (home / "list.txt").write_text(f"{clip}\n\n")

    def said(*clips: str, file: Path | None = None, dry_run: bool = False) -> str:
        settings = [*SMALL, *OVERRIDES]
        run_forget(Path("params.yaml"), settings, list(clips), file, raw=False, dry_run=dry_run)
        return capsys.readouterr().out

    dry = said(file=Path("list.txt"), dry_run=True)
    assert dry.startswith("dry run: forget: 1 clips of synthetic")
    assert not (home / "forgotten.csv").exists()
    told = said(clip)
    for text in (
        "data/synthetic/shards/fold3-000001.tar: 1 clips",
        f"{SHOWN}: deleted as a whole",
        f"--raw deletes it): data/raw/synthetic/Clip/strips/{clip}.jpg",
        "Trained on these clips: runs/synthetic/train/fold-1\n",
        "dvc commit -f index faces shard\n",
        "dvc gc -w",
    ):
        assert text in told, text
    assert said(clip) == f"forget: forgotten before, in no table and no shard: {clip}\n"
    for words, what in (
        ([], "name a clip by its key.*no earlier"),
        (["00099"], "clip '00099': not in"),
    ):
        with pytest.raises(SafeError, match=what):
            said(*words)
    with pytest.raises(SafeError, match="--file none"):
        said(file=Path("none"))
    run_index(Path("params.yaml"), [*SMALL, *OVERRIDES])
    assert "34 clips, 1 missing, 1 forgotten" in capsys.readouterr().out


def hold(lock: Path, pipe: Connection) -> None:
    with hold_lock(lock, "shards"):
        pipe.send("held")
        pipe.recv()


def test_it_waits_for_no_one_and_overtakes_no_one(home: Path) -> None:
    before = tree(home)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    lock = home / ".safe" / "locks" / "data-synthetic-shards"
    other = context.Process(target=hold, args=(lock, theirs))
    other.start()
    assert ours.recv() == "held"
    done = call("forget", middle(home)["clip"], *options(*OVERRIDES), folder=home)
    other.kill()
    other.join()
    assert done.returncode == 5
    (line,) = done.stderr.splitlines()
    assert f"process {other.pid} is writing it" in line
    after = tree(home)
    assert {
        name for name in after if before.get(name) != after[name] and "lock" not in name
    } == set()
