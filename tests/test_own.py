"""Does a CSV of one's own become the manifest that it says, or one line that says what is wrong?"""

import hashlib
import json
import shutil
from pathlib import Path

import cv2
import pytest
from support import labels_of, options, run_cli

from pipeline.datasets.base import SYNONYMS
from pipeline.datasets.own import make_key
from pipeline.datasets.registry import check_data
from pipeline.index import build_index
from pipeline.manifest import read_classes, read_manifest
from pipeline.video.decode import read_video
from safe.config import Data
from safe.errors import ConfigError, DataError
from safe.params import load_config
from safe.sample import KEY
from safe.taxonomy import BASIC

ROWS = ("a/one.mp4,happy,train", "a/two.mp4,Sadness,train", "b/three.mov,FEAR,test")


def data(folder: Path, **changes: object) -> Data:
    values = {
        "name": "own",
        "root": str(folder),
        "splits": "clips.csv",
        "source": "video",
        "classes": list(BASIC),
    }
    return Data(**{**values, "folds": [1], **changes})


def write(
    root: Path, *rows: str, header: str = "path,label,split", encoding: str = "utf-8"
) -> None:
    """A list; a file of 5 bytes for a/one.mp4, of 7 for b/three.mov; a/two.mp4 is missing."""
    for name, size in (("a/one.mp4", 5), ("b/three.mov", 7)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(bytes(size))
    (root / "clips.csv").write_text("\n".join((header, *rows)) + "\n", encoding=encoding)


def index(folder: Path, **changes: object) -> tuple[list[dict[str, object]], list[str]]:
    """Rows of the manifest, and what was noted."""
    notes: list[str] = []
    build_index(data(folder, **changes), folder / "m.parquet", on_note=notes.append)
    return read_manifest(folder / "m.parquet").to_pylist(), notes


# What a list may look like


def test_a_list_by_hand(tmp_path: Path) -> None:
    write(tmp_path, *ROWS)
    rows, notes = index(tmp_path)
    digest = hashlib.sha256(b"b/three.mov").hexdigest()[:8]
    expected = [
        ("a-one", "a/one.mp4", "happy", "train", 5),
        ("a-two", "a/two.mp4", "sad", "train", None),
        (f"b-three--{digest}", "b/three.mov", "fear", "test", 7),
    ]
    names = ("clip", "path", "label", "bucket", "bytes")
    assert rows == [
        dict(zip(names, row, strict=True)) | {"label": BASIC.index(row[2]), "source": "video"}
        for row in expected
    ]
    assert notes == [
        "label 'Sadness' is read as sad (lines: 1)",
        "fold 1 has no clip of neutral, angry, surprise, disgust, fear to train on",
        "fold 1 has no clip of happy, sad, neutral, angry, surprise, disgust to test on",
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separator_mark_line_ends_order_and_more_columns(
    tmp_path, separator, encoding, end
) -> None:
    write(tmp_path, *ROWS)
    plain, _ = index(tmp_path)
    lines = [[*row.split(",")[::-1], 'said "no, never"; left', ""] for row in ROWS]
    table = [["Split", " LABEL", "path", "remark", "empty"], *lines, [""] * 5]
    text = end.join(
        separator.join(
            '"{}"'.format(cell.replace('"', '""')) if '"' in cell else cell for cell in row
        )
        for row in table
    )
    (tmp_path / "clips.csv").write_bytes(f"{text}{end}{end}".encode(encoding))
    assert index(tmp_path)[0] == plain


def test_folds_by_number(tmp_path: Path) -> None:
    write(tmp_path, "a/one.mp4,happy,2", "a/two.mp4,sad,5", "b/three.mov,fear,2")
    rows, notes = index(tmp_path, folds=[5, 2])
    assert [row["bucket"] for row in rows] == ["fold2", "fold5", "fold2"]
    assert notes[0] == "fold 5 has no clip of sad, neutral, angry, surprise, disgust to train on"
    check_refused(tmp_path, "data.folds: 1 has no clips", "it has folds 2, 5")


def test_val_is_a_bucket_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, *ROWS, "c.mp4,happy,Val")
    assert [row["bucket"] for row in index(tmp_path)[0]] == ["train", "train", "test", "val"]
    check_refused(tmp_path, "data.folds: [2] must be [1]", folds=[2])


def test_keys_can_be_given(tmp_path: Path) -> None:
    rows = [f"{row},{key}" for row, key in zip(ROWS, ("K_1", "", "k-3"), strict=True)]
    write(tmp_path, *rows, header="path,label,split,clip")
    assert [row["clip"] for row in index(tmp_path)[0]] == ["K_1", "a-two", "k-3"]


def test_folders_of_frames(tmp_path: Path) -> None:
    for name, size in (("1.jpg", 4), ("2.PNG", 5), ("notes.txt", 100)):
        (tmp_path / "faces/v1.0").mkdir(parents=True, exist_ok=True)
        (tmp_path / "faces/v1.0" / name).write_bytes(bytes(size))
    (tmp_path / "faces/none").mkdir()
    write(tmp_path, "faces/v1.0/,happy,train", "./faces//none,sad,test", "faces/no,sad,test")
    rows, _ = index(tmp_path, source="frames")
    assert {row["path"]: row["bytes"] for row in rows} == {
        "faces/v1.0": 9,
        "faces/none": None,
        "faces/no": None,
    }
    check_refused(tmp_path, "line 2: faces/v1.0 is a folder", "data.source: frames reads that")


@pytest.mark.parametrize("word", SYNONYMS)
def test_each_other_word_means_one_of_the_classes(tmp_path: Path, word: str) -> None:
    write(tmp_path, f"a/one.mp4,{word.title()},train", "b/three.mov,fear,test")
    rows, notes = index(tmp_path)
    name = BASIC[rows[0]["label"]]
    assert name == "happy" if word == "joy" else name[:3] == word[:3]
    assert notes[0] == f"label {word.title()!r} is read as {name} (lines: 1)"
    rows, _ = index(tmp_path, classes=None)  # else it is a class of its own
    assert read_classes(tmp_path / "m.parquet") == tuple(
        sorted(("fear", word.title()), key=str.lower)
    )


# Classes


def test_labels_are_the_words_of_the_list_in_alphabetical_order(tmp_path: Path) -> None:
    write(
        tmp_path, "a/one.mp4,Zorn,train", "x,Ärger,train", "b/three.mov,calm +,test", "y,zorn,test"
    )
    rows, notes = index(tmp_path, classes=None)
    classes = read_classes(tmp_path / "m.parquet")
    assert classes == ("calm +", "Zorn", "Ärger")
    assert [classes[row["label"]] for row in rows] == ["Zorn", "calm +", "Ärger", "Zorn"]
    assert notes == [
        "fold 1 has no clip of calm + to train on",
        "fold 1 has no clip of Ärger to test on",
    ]


def test_classes_are_chosen_ordered_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    write(
        tmp_path, "a/one.mp4,joy,train", "x,contempt,train", "b/three.mov,fear,test", "y,Joy,test"
    )
    rows, notes = index(tmp_path, classes=["fear", "JOY", "rage"])
    assert read_classes(tmp_path / "m.parquet") == ("fear", "JOY", "rage")
    assert [row["label"] for row in rows] == [1, 0, 1]
    assert notes[0].startswith("label 'contempt' is left out by data.classes (lines: 1)")
    assert "fold 1 has no clip of rage to test on" in notes


def test_classes_are_renamed_and_put_together(tmp_path: Path) -> None:
    write(
        tmp_path, "a/one.mp4,joy,train", "x,contempt,train", "b/three.mov,fear,test", "y,Joy,test"
    )
    rows, notes = index(tmp_path, classes={"Contempt": "fear", "joy": "happy"})
    assert read_classes(tmp_path / "m.parquet") == ("fear", "happy")
    assert [row["label"] for row in rows] == [1, 0, 0, 1]
    rows, notes = index(tmp_path, classes={"contempt": None})
    assert read_classes(tmp_path / "m.parquet") == ("fear", "joy")
    assert len(rows) == 3
    assert notes[0].startswith("label 'contempt' is left out by data.classes (lines: 1)")
    check_refused(tmp_path, "'rage' is no class of clips.csv", "contempt", classes={"rage": "x"})


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a", "a"], "1 classes; there must be 2 to 100"),
        ([f"c{n}" for n in range(100)], "101 classes; there must be 2 to 100"),
        (["a", "b.c"], "class 'b.c' must be a name"),
        (["a", "Abstain"], "is the word for no decision"),
        (["a", "x" * 40], "must be a name"),
    ],
)
def test_classes_that_cannot_be(tmp_path: Path, words: list[str], told: str) -> None:
    lines = [f"a/one{n}.mp4,{word},{('train', 'test')[n % 2]}" for n, word in enumerate(words)]
    write(tmp_path, *lines, "a/one.mp4,a,train", "b/three.mov,a,test")
    check_refused(tmp_path, told, classes=None)


def test_a_hundred_classes_and_a_thousandth_fold(tmp_path: Path) -> None:
    lines = [f"a/one{n}.mp4,c{n},{1000 + n % 2}" for n in range(100)]
    write(tmp_path, *lines, "a/one.mp4,c0,1000")
    rows, _ = index(tmp_path, classes=None, folds=[1000])
    assert len(read_classes(tmp_path / "m.parquet")) == 100
    assert {row["bucket"] for row in rows} == {"fold1000", "fold1001"}
    assert len({row["label"] for row in rows}) == 100


# Keys made from paths

PATHS = (
    *("a/b.mp4", "a-b.mp4", "a_b.mp4", "a/b", "a b.mp4", "a.b.mp4", "a/b.mov", "A/B.mp4", "ä.mp4"),
    *("日本/笑.mp4", f"{'x' * 300}.mp4", f"{'x' * 301}.mp4", f"{'x/' * 60}y.mp4", "-.mp4", ".mp4"),
)


def test_made_keys_are_well_formed_and_plain_where_the_path_is() -> None:
    keys = {path: make_key(path) for path in PATHS}
    assert all(KEY.fullmatch(key) for key in keys.values()), keys
    assert (keys["a/b.mp4"], keys["a_b.mp4"], keys["a/b"]) == ("a-b", "a_b", "a-b")
    others = [
        key for path, key in keys.items() if path != "a/b"
    ]  # a video and a folder: one source
    assert len(set(others)) == len(others)
    assert keys["a b.mp4"] == "a-b--" + hashlib.sha256(b"a b.mp4").hexdigest()[:8]


# What is wrong is said in one line, and nothing is written


def check_refused(folder: Path, *words: str, **changes: object) -> None:
    (folder / "m.parquet").unlink(missing_ok=True)
    with pytest.raises(DataError) as caught:
        index(folder, **changes)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert not (folder / "m.parquet").exists()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("c.mp4,,train", ("line 5: no label",)),
        ("c.mp4,happy,training", ("line 5: split 'training' must be train, val or test, or",)),
        ("c.mp4,happy,0", ("line 5: split '0'",)),
        ("c.mp4,happy,03", ("line 5: split '03'",)),
        ("c.mp4,happy,3", ("split is train in line 2 and 3 in line 5",)),
        ("/c.mp4,happy,train", ("line 5: path '/c.mp4' is absolute",)),
        ("C:/c.mp4,happy,train", ("line 5: path 'C:/c.mp4' is absolute",)),
        ("~/c.mp4,happy,train", ("is absolute",)),
        ("a/../../c.mp4,happy,train", ("line 5: path 'a/../../c.mp4' leaves data.root",)),
        ("a\\c.mp4,happy,train", ("line 5: path", "must have / between folders")),
        (",happy,train", ("line 5: path '' must be",)),
        (".,happy,train", ("leaves data.root",)),
        ("a/\0.mp4,happy,train", ("line 5",)),
        ("a/one.mp4,happy,train", ("line 5: path 'a/one.mp4' is also in line 2; keep one",)),
        ("./a//one.mp4,sad,test", ("line 5: path 'a/one.mp4' is also in line 2",)),
        ("c.mp4,happy", ("line 5: 2 columns where the header has 3",)),
        ("c, d.mp4,happy,train", ("line 5: 4 columns", "between quotes")),
        ('"c.mp4,happy,train', ("line 5",)),
        ("a,happy,train", ("line 5: a is a folder",)),
    ],
)  # fmt: skip
def test_a_wrong_line(tmp_path: Path, row: str, words: tuple[str, ...]) -> None:
    write(tmp_path, *ROWS, row)
    check_refused(tmp_path, "clips.csv", *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("empty", "path,label,split")),
        ("\n \n", ("empty",)),
        ("path,label,split\n", ("no line below the header",)),
        ("path,emotion,split\na/one.mp4,happy,train\n", ("no column label in", "path, label")),
        ("a/one.mp4,happy,train\n", ("no column path and no column label and no column split",)),
        ("path|label|split\na|b|c\n", ("commas, semicolons or tabs",)),
        ("path,label,split,Label\na,b,c,d\n", ("names the column label twice",)),
        ("path,label,split\na/one.mp4,happy,train\n", ("no line has split test",)),
        ("path,label,split\na/one.mp4,happy,test\n", ("no line has split train",)),
        ("path,label,split\na/one.mp4,happy,1\n", ("all lines are of fold 1",)),
        ("path,label,split\nx.mp4,sad,train\ny.mp4,sad,test\n", ("none of the 2 clips", "x.mp4")),
        (
            "path,label,split,clip\na/one.mp4,sad,train,k.1\n",
            ("line 2: clip 'k.1' must be 1 to 95 letters, digits, - and _",),
        ),
        (
            "path,label,split,clip\na/one.mp4,sad,train,k\nb,sad,test,k\n",
            ("line 3: clip 'k' is also in line 2",),
        ),
    ],
)
def test_a_wrong_list(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    write(tmp_path)
    (tmp_path / "clips.csv").write_text(text)
    check_refused(tmp_path, *words)


def test_a_list_that_is_no_text_or_not_there(tmp_path: Path) -> None:
    write(tmp_path, *ROWS, encoding="utf-16")
    check_refused(tmp_path, "clips.csv cannot be read", "utf-8")
    (tmp_path / "clips.csv").unlink()
    check_refused(tmp_path, "no clips.csv in data.root")
    check_refused(tmp_path, "no folder", "absent", root=str(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("splits=clips.txt", "a file in data.root that ends in .csv"),
        ("splits=/clips.csv", "a file in data.root"),
        ("splits=../clips.csv", "a file in data.root"),
        ("splits=a/../../clips.csv", "a file in data.root"),
        ("source=strips", "must be video or frames"),
        ("folds=[0]", "folds"),
        ("classes=[a]", "there must be 2 to 100"),
        ("classes=[a,A]", "two classes have one name"),
        ("name=dfew", "must be EmoLabel_DataSplit when data.name is dfew"),
    ],
)
def test_wrong_parameters(change: str, words: str) -> None:
    own = ["data={name:own,root:/data,splits:lists/clips.csv}", f"data.{change}"]
    params = Path(__file__).parents[1] / "params.yaml"
    with pytest.raises(ConfigError, match=words):
        check_data(load_config(params, own))
    config = load_config(params, own[:1])
    check_data(config)
    assert config.data.splits == "lists/clips.csv"


# From a list to a table of results


def test_from_a_list_of_frames_to_shards(project: Path, tmp_path: Path) -> None:
    """The drawn clips under names of one's own; every ninth folder is missing."""
    shutil.copy(Path(__file__).parents[1] / "params.yaml", tmp_path)
    root, lines = tmp_path / "mine", ["path;label;split"]
    clips = sorted(labels_of(project).items())[:35]
    for number, (clip, label) in enumerate(clips):
        name = f"{label}/{clip} take {number}"
        lines.append(f"{name};{label.upper()};{part(number)}")
        if number % 9 != 8:
            (root / name).mkdir(parents=True)
            video = project / "data/raw/synthetic/Clip/original" / f"{clip}.mp4"
            for at, frame in enumerate(read_video(video).frames, start=1):
                cv2.imwrite(str(root / name / f"{at}.jpg"), frame[..., ::-1])
    (root / "lists").mkdir()
    (root / "lists" / "clips.csv").write_text("\n".join(lines) + "\n")
    values = f"data={{name:own,root:{root},splits:lists/clips.csv,source:frames,folds:[1]}}"
    said = run_cli("shard", *options(values), folder=tmp_path).stdout  # after index and faces
    assert "index: 35 clips, 3 missing" in said
    found = json.loads((tmp_path / "data/own/shards/index.json").read_text())
    held = {bucket: 0 for bucket in ("train", "val", "test")}
    for shard in found["shards"]:
        held[shard["bucket"]] += shard["clips"]
    for entry in found["left_out"]:
        held[entry["bucket"]] += 1
    parts = [part(number) for number in range(35)]
    assert held == {bucket: parts.count(bucket) for bucket in held}
    assert [entry["reason"] for entry in found["left_out"]] == ["folder missing"] * 3


def part(number: int) -> str:
    return ("test", "val", "train", "train", "train")[number % 5]
