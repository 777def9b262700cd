"""Does the manifest hold every clip of the lists, with its label and bucket, or say why not?"""

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import touch, write_dfew, write_ferv39k

from pipeline.index import build_index
from pipeline.manifest import read_manifest
from safe.config import Data
from safe.errors import DataError
from safe.taxonomy import BASIC

SPLITS = {"synthetic": "EmoLabel_DataSplit", "dfew": "EmoLabel_DataSplit", "ferv39k": "4_setups"}


def data(root: Path, name: str = "dfew", source: str = "video") -> Data:
    return Data(name=name, root=str(root), splits=SPLITS[name], source=source, folds=[1])


def rows_of(path: Path) -> dict[str, dict[str, object]]:
    return {row["clip"]: row for row in read_manifest(path).to_pylist()}


# What a manifest holds


@pytest.mark.parametrize("spelling", ["single-labeled", "single_labeled"])
@pytest.mark.parametrize("name", ["dfew", "synthetic"])
def test_dfew_by_hand(tmp_path: Path, name: str, spelling: str) -> None:
    write_dfew(tmp_path / "DFEW", spelling)
    counts = build_index(data(tmp_path / "DFEW", name), tmp_path / "out/manifest.parquet")
    rows = rows_of(tmp_path / "out/manifest.parquet")
    assert list(rows) == [f"{i:05d}" for i in range(1, 11)]
    assert rows["00003"] == {
        "clip": "00003",
        "path": "Clip/original/part_1/3.mp4",
        "label": BASIC.index("angry"),  # DFEW's 4
        "bucket": "fold4",
        "source": "video",
        "bytes": 3,
    }
    assert rows["00006"]["path"] == "Clip/original/part_2/more/00006.mp4"
    assert rows["00006"]["label"] == BASIC.index("fear")  # DFEW's 7
    assert rows["00010"]["bytes"] is None
    assert counts == {
        "clips": 10,
        "missing": 1,
        "forgotten": 0,
        **{"happy": 1, "sad": 2, "neutral": 2, "angry": 2, "surprise": 1, "disgust": 1, "fear": 1},
        **{f"fold{k}": 2 for k in range(1, 6)},
    }


def test_dfew_frames_prefer_all_frames_to_sixteen(tmp_path: Path) -> None:
    write_dfew(tmp_path)
    touch(tmp_path / "Clip/clip_224x224_16f/00001/1.jpg", size=9)
    build_index(data(tmp_path, source="frames"), tmp_path / "m.parquet")
    assert rows_of(tmp_path / "m.parquet")["00001"]["path"] == "Clip/clip_224x224_16f/00001"
    touch(tmp_path / "Clip/clip_224x224/00001/00001_00001.jpg", size=20)
    touch(tmp_path / "Clip/clip_224x224/00001/00001_00002.jpg", size=22)
    touch(tmp_path / "Clip/clip_224x224/00001/Thumbs.db", size=100)
    (tmp_path / "Clip/clip_224x224/00002").mkdir()  # no frame in it: missing
    counts = build_index(data(tmp_path, source="frames"), tmp_path / "m.parquet")
    row = rows_of(tmp_path / "m.parquet")["00001"]
    assert (row["path"], row["bytes"], row["source"]) == ("Clip/clip_224x224/00001", 42, "frames")
    assert counts["missing"] == 9


def test_ferv39k_by_hand(tmp_path: Path) -> None:
    write_ferv39k(tmp_path)
    counts = build_index(data(tmp_path, "ferv39k"), tmp_path / "m.parquet")
    rows = rows_of(tmp_path / "m.parquet")
    assert list(rows) == sorted(rows)
    assert rows["War-Angry-0267"] == {
        "clip": "War-Angry-0267",
        "path": "0_7_LabelClips/War/Angry/0267.mp4",
        "label": BASIC.index("angry"),
        "bucket": "test",
        "source": "video",
        "bytes": 7,
    }
    assert rows["Action-Sad-0001"]["bucket"] == "train"
    assert (counts["clips"], counts["missing"], counts["train"], counts["test"]) == (5, 3, 3, 2)
    build_index(data(tmp_path, "ferv39k", "frames"), tmp_path / "m.parquet")
    row = rows_of(tmp_path / "m.parquet")["War-Fear-0103"]
    assert (row["path"], row["bytes"]) == ("2_ClipsforFaceCrop/War/Fear/0103", 5)


def test_same_bytes_wherever_the_data_is(tmp_path: Path) -> None:
    for name in ("a", "b/somewhere_else"):
        write_dfew(tmp_path / name)
        build_index(data(tmp_path / name), tmp_path / name / "m.parquet")
    first = (tmp_path / "a/m.parquet").read_bytes()
    assert first == (tmp_path / "b/somewhere_else/m.parquet").read_bytes()
    assert str(tmp_path).encode() not in first


# Forgotten clips


def test_forgotten_clips_are_as_if_no_list_named_them(tmp_path: Path) -> None:
    write_dfew(tmp_path)
    forgotten = tmp_path / "forgotten.csv"
    forgotten.write_text("dataset,clip\nferv39k,00001\ndfew,00010\ndfew,00003\ndfew,99999\n")
    counts = build_index(data(tmp_path), tmp_path / "m.parquet", forgotten=forgotten)
    assert set(rows_of(tmp_path / "m.parquet")) == {f"{i:05d}" for i in (1, 2, 4, 5, 6, 7, 8, 9)}
    assert (counts["clips"], counts["missing"], counts["forgotten"]) == (8, 0, 2)
    assert (counts["angry"], counts["fold4"]) == (0, 1)


@pytest.mark.parametrize("text", [None, "dataset,clip\n", "dataset,clip\nferv39k,00001\n"])
def test_nothing_forgotten(tmp_path: Path, text: str | None) -> None:
    write_dfew(tmp_path)
    build_index(data(tmp_path), tmp_path / "m.parquet")
    if text is not None:
        (tmp_path / "forgotten.csv").write_text(text)
    build_index(data(tmp_path), tmp_path / "n.parquet", forgotten=tmp_path / "forgotten.csv")
    assert (tmp_path / "n.parquet").read_bytes() == (tmp_path / "m.parquet").read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line must be dataset,clip"),
        ("clip\n00001\n", "first line must be dataset,clip"),
        (
            "dataset,clip\ndfw,00001\n",
            "line 2: 'dfw,00001' must be one of synthetic, dfew, ferv39k",
        ),
        ("dataset,clip\ndfew,00001\ndfew\n", "line 3: 'dfew'"),
        ("dataset,clip\ndfew,00001,x\n", "line 2"),
        ("dataset,clip\ndfew,../00001\n", "line 2"),
        ("dataset,clip\n\ndfew,00001\n", "line 2: ''"),
        ("dataset,clip\n\xff", "line 2"),
    ],
)
def test_a_wrong_list_of_forgotten_clips_lets_none_back_in(
    tmp_path: Path, text: str, message: str
) -> None:
    write_dfew(tmp_path)
    forgotten = tmp_path / "forgotten.csv"
    forgotten.write_text(text)
    with pytest.raises(DataError) as caught:
        build_index(data(tmp_path), tmp_path / "m.parquet", forgotten=forgotten)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m.parquet").exists()


# The official lists


@pytest.fixture
def official(shared: Path, tmp_path: Path) -> Path:
    """The official lists, linked beside empty files that stand for the clips."""
    for name in ("dfew", "ferv39k"):
        (tmp_path / name).mkdir()
        source = shared / "data/official_splits" / name / SPLITS[name]
        (tmp_path / name / SPLITS[name]).symlink_to(source)
    return tmp_path


def test_official_dfew(official: Path) -> None:
    folder = official / "dfew/Clip/original"
    folder.mkdir(parents=True)
    for i in range(1, 16_373, 8):  # every eighth: making the files is what takes time here
        (folder / f"{i}.mp4").touch()
    counts = build_index(data(official / "dfew"), official / "m.parquet")
    assert counts["clips"] == 11_697
    assert [counts[f"fold{k}"] for k in range(1, 6)] == [2341, 2341, 2340, 2339, 2336]
    rows = list(rows_of(official / "m.parquet").values())
    assert all((row["bytes"] is None) == (int(row["clip"]) % 8 != 1) for row in rows)
    train = [row["label"] for row in rows if row["bucket"] != "fold1"]
    assert [train.count(label) for label in range(7)] == [1956, 1515, 2135, 1738, 1175, 116, 721]
    test = {row["clip"]: row["label"] for row in rows if row["bucket"] == "fold3"}
    with next((official / "dfew").glob("*/test*/set_3.csv")).open() as file:
        expected = {
            f"{int(r['video_name']):05d}": int(r["label"]) - 1 for r in csv.DictReader(file)
        }
    assert test == expected


def test_official_ferv39k(official: Path) -> None:
    lists = sorted((official / "ferv39k/4_setups/All_scenes").glob("*.csv"))
    listed = [line.split() for file in lists for line in file.read_text().splitlines()]
    for clip, _ in listed[::16]:
        path = official / "ferv39k/0_7_LabelClips" / f"{clip}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    counts = build_index(data(official / "ferv39k", "ferv39k"), official / "m.parquet")
    assert (counts["clips"], counts["missing"]) == (38_935, 38_935 - len(listed[::16]))
    assert (counts["train"], counts["test"]) == (31_088, 7_847)
    rows = rows_of(official / "m.parquet")
    labels = {clip.replace("/", "-"): BASIC.index(name.lower()) for clip, name in listed}
    assert {clip: row["label"] for clip, row in rows.items()} == labels


def test_mini_dfew_keeps_the_missing_clip(shared: Path, tmp_path: Path) -> None:
    counts = build_index(data(shared / "data/mini_dfew"), tmp_path / "m.parquet")
    assert (counts["clips"], counts["missing"]) == (48, 1)
    rows = rows_of(tmp_path / "m.parquet")
    assert [clip for clip, row in rows.items() if row["bytes"] is None] == ["00048"]
    assert rows["00045"]["bytes"] == 0


# What is wrong is said in one line, and nothing is written


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_bytes().decode()
    assert old in text
    file.write_bytes(text.replace(old, new, 1).encode())


TEST = "EmoLabel_DataSplit/test(single-labeled)/set_2.csv"  # clips 1 and 6
TRAIN = "EmoLabel_DataSplit/train(single-labeled)/set_2.csv"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (TEST, "video_name,label", "name,label", "first line must be video_name,label"),
        (TEST, "1,2", "1,8", "label '8' of clip 1 must be 1 to 7"),
        (TEST, "1,2", "1,happy", "label 'happy' of clip 1"),
        (TEST, "1,2", "../1,2", "must be a clip's number"),
        (TEST, "1,2", "1.5,2", "must be a clip's number"),
        (TEST, "1,2", "1,2\r\n1,2", "clip 1 is listed twice"),
        (TEST, "1,2", "1,2\r\n7,1", "clip 7 is in the test sets of folds 2 and 3"),
        (TRAIN, "2,3\r\n", "", "train set_2.csv must be all 8 clips outside"),
        (TRAIN, "2,3", "2,4", "2 entries differ"),
    ],
)
def test_wrong_dfew_lists(tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    write_dfew(tmp_path)
    edit(tmp_path / file, old, new)
    check_refused(data(tmp_path), tmp_path / "m.parquet", message)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("War/Angry/0267 Angry", "War/Angry/0267 Joy", "must name one of Happy"),
        ("War/Angry/0267 Angry", "War/Angry/0267 Sad", "twice the same"),
        ("War/Angry/0267 Angry", "War/../0267 Angry", "must read like"),
        ("War/Angry/0267", "War/Angry/0.267", "must read like"),
        ("War/Angry/0267 Angry", "War/Disgust/0004 Disgust", "also in the test list"),
        ("War/Angry/0267 Angry", "Action/Sad/0001 Sad", "also in the train list"),
    ],
)
def test_wrong_ferv39k_lists(tmp_path: Path, old: str, new: str, message: str) -> None:
    write_ferv39k(tmp_path)
    edit(tmp_path / "4_setups/All_scenes/test_All.csv", old, new)
    check_refused(data(tmp_path, "ferv39k"), tmp_path / "m.parquet", message)


@pytest.mark.parametrize("name", ["dfew", "ferv39k"])
@pytest.mark.parametrize("source", ["video", "frames"])
def test_wrong_root(tmp_path: Path, name: str, source: str) -> None:
    out = tmp_path / "m.parquet"
    absent = tmp_path / "absent"
    check_refused(data(absent, name, source), out, f"no folder {absent}", SPLITS[name])
    check_refused(data(tmp_path, name, source), out, "set_1.csv" if name == "dfew" else "train_All")


@pytest.mark.parametrize(
    ("name", "folder"), [("dfew", "Clip/original"), ("ferv39k", "0_7_LabelClips")]
)
def test_lists_without_clips(tmp_path: Path, name: str, folder: str) -> None:
    (write_dfew if name == "dfew" else write_ferv39k)(tmp_path)
    (tmp_path / folder).rename(tmp_path / "elsewhere")
    check_refused(data(tmp_path, name), tmp_path / "m.parquet", f"no folder {folder}", "*.mp4")
    (tmp_path / folder).mkdir()
    check_refused(data(tmp_path, name), tmp_path / "m.parquet", "none of the", folder)


def test_clip_that_is_there_twice(tmp_path: Path) -> None:
    write_dfew(tmp_path)
    touch(tmp_path / "Clip/original/part_9/00003.mp4")
    check_refused(data(tmp_path), tmp_path / "m.parquet", "clip 3 is in", "part_1/3.mp4", "part_9")


def check_refused(section: Data, out: Path, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        build_index(section, out)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not out.exists()


# Reading back


def test_manifest_that_is_missing_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    with pytest.raises(DataError, match="run the stage index first"):
        read_manifest(path)
    path.write_bytes(b"not a table")
    with pytest.raises(DataError, match="not a readable manifest"):
        read_manifest(path)
    pq.write_table(pa.table({"clip": ["a"]}), path)
    with pytest.raises(DataError, match="must have the columns clip, path, label"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("clip", "00002.1", "letters, digits"),
        ("clip", "00001", "is there twice"),
        ("clip", "99999", "must be sorted"),
        ("label", 7, "label 7 must be 0 to 6"),
        ("path", "../x.mp4", "must stay inside data.root"),
        ("path", "/x.mp4", "must stay inside data.root"),
    ],
)
def test_manifest_with_a_wrong_row(
    tmp_path: Path, column: str, value: object, message: str
) -> None:
    write_dfew(tmp_path)
    path = tmp_path / "m.parquet"
    build_index(data(tmp_path), path)
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[1][column] = value
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    with pytest.raises(DataError, match=message):
        read_manifest(path)
