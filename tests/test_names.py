"""Names that a disk allows: do they work, or cost their file in one line?"""

import os
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, write_dfew, write_ferv39k

from cli.layout import lock
from pipeline.datasets.base import Spellings, walk_files
from pipeline.index import build_index
from pipeline.manifest import read_manifest
from pipeline.tars import clear_beside
from safe.config import Data
from safe.errors import DataError
from safe.files import atomic_file, fitting, hold_lock
from safe.taxonomy import BASIC

# Temporary names

LONGEST = [
    "x" * 255,
    "x" * 249 + ".jsonl",
    "笑" * 85,  # of 3 bytes each
    "a" + "é" * 127,
    "\udcff" * 255,  # bytes that are no UTF-8
    "[id] {pid} *?%d$x" + "y" * 230,
]


@pytest.mark.parametrize("name", [*LONGEST, "table", "[1].txt", "a*"])
def test_a_name_of_any_length_is_written_whole_and_cleared_after_a_kill(tmp_path, name):
    target, other = tmp_path / name, tmp_path / f"{fitting(name, more=1)[:-1]}b"
    for path in (target, other):
        with atomic_file(path) as temporary:
            assert len(os.fsencode(temporary.name)) <= 255
            temporary.write_text("old")
    write = (
        "import os, signal, sys; from pathlib import Path; from safe.files import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as path:\n"
        "    path.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", write, str(target)]
    done = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 3
    with atomic_file(target) as temporary:
        temporary.write_text("new")
    assert (target.read_text(), other.read_text()) == ("new", "old")
    assert set(tmp_path.iterdir()) == {target, other}


def test_names_cut_to_fit_stay_different_and_whole_letters():
    names = [*LONGEST, *(name[:-1] + "z" for name in LONGEST)]
    cut = [fitting(name, more=16) for name in names]
    assert len(set(cut)) == len(names)
    for name, short in zip(names, cut, strict=True):
        assert len(os.fsencode(short)) <= 239
        assert name.startswith(short[:40])
        assert len(os.fsencode(short)) > 230  # no more is lost than must be
    assert fitting("x" * 239, more=16) == "x" * 239


def test_a_leftover_with_a_number_that_no_process_can_have_stays(tmp_path):
    stale = tmp_path / f".table.{10**30}.tmp"
    stale.touch()
    with atomic_file(tmp_path / "table") as temporary:
        temporary.write_text("new")
    assert stale.exists()


def test_a_shard_folder_and_a_lock_of_the_longest_name(tmp_path, monkeypatch):
    for name in LONGEST:
        out = tmp_path / name
        temporary, old = clear_beside(out)
        temporary.mkdir()
        old.mkdir()
        clear_beside(out)
        assert out.exists()  # what was there before
    monkeypatch.chdir(tmp_path)
    for out in (Path("a" * 200, "b" * 200), Path("/data", *["笑" * 60] * 3)):
        with hold_lock(lock(out), "x"):
            assert lock(out).is_file()
    assert lock(Path("data", "own", "shards")) == Path(".safe", "locks", "data-own-shards")


# What a list names, and what is there


def index(root: Path, *, name: str = "own", source: str = "video") -> tuple[Any, list[str]]:
    """Rows of the manifest by key, and what was noted."""
    splits = {"own": "clips.csv", "dfew": "EmoLabel_DataSplit", "ferv39k": "4_setups"}[name]
    notes: list[str] = []
    classes = list(BASIC) if name == "own" else None
    data = Data(name=name, root=str(root), splits=splits, source=source, folds=[1], classes=classes)
    build_index(data, root / "m.parquet", on_note=notes.append)
    rows = {row["clip"]: row for row in read_manifest(root / "m.parquet").to_pylist()}
    return rows, [note for note in notes if "has no clip of" not in note]


def write_list(root: Path, *paths: str) -> None:
    rows = [f"{path},happy,{'test' if place else 'train'}" for place, path in enumerate(paths)]
    (root / "clips.csv").write_text("\n".join(["path,label,split", *rows]) + "\n", "utf-8")


ODD = [
    *(" first blank.mp4", "last blank.mp4 ", "\u3000wide.mp4", '"quoted".mp4', "a, b; c.mp4"),
    *("a\u00a0b.mp4", "\u200f\u05d0.mp4", "\U0001f469\u200d\U0001f680.mp4", "[id] *?.mp4"),
    *("-x.mp4", "$HOME.mp4", "%d.mp4", "ab:c.mp4", "#1.mp4", "=1+1.mp4", "x" * 255, "笑" * 85),
]


def test_every_name_of_a_list_is_the_file_of_that_name(tmp_path: Path) -> None:
    for size, name in enumerate(ODD, start=1):
        (tmp_path / name).write_bytes(bytes(size))
    write_list(tmp_path, *('"{}"'.format(name.replace('"', '""')) for name in ODD))
    rows, _ = index(tmp_path)
    assert {row["path"]: row["bytes"] for row in rows.values()} == {
        name: size for size, name in enumerate(ODD, start=1)
    }


def test_blanks_count_between_quotes_only(tmp_path: Path) -> None:
    for size, name in enumerate(("a.mp4", " a.mp4", " b.mp4", "c"), start=1):
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "clips.csv").write_text(
        "remark;path;label;split\n"
        '" a.mp4"; a.mp4 ;happy;train\n'
        '"two\nlines; "" a.mp4""";" a.mp4";happy;test\n'
        " ; ; ;\n"
        'x;" b.mp4" ;happy;test\n'.replace('" ;', '";')
    )
    rows, _ = index(tmp_path)
    assert {row["path"]: row["bytes"] for row in rows.values()} == {
        "a.mp4": 1,
        " a.mp4": 2,
        " b.mp4": 3,
    }


@pytest.mark.parametrize(("listed", "there"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
def test_a_letter_in_one_sign_or_in_two_is_the_same(tmp_path, listed: str, there: str) -> None:
    names = ["café/Zoë 1.mp4", "ガ.mp4", "각/b.mp4", "plain.mp4", "gone é.mp4"]
    paths = [unicodedata.normalize(there, name) for name in names]
    for path in paths[:-1]:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    write_list(tmp_path, *(unicodedata.normalize(listed, name) for name in names))
    rows, _ = index(tmp_path)
    gone = unicodedata.normalize(listed, names[-1])
    assert {row["path"]: row["bytes"] for row in rows.values()} == {
        **dict.fromkeys(paths[:-1], 1),
        gone: None,
    }


def test_spellings_in_a_store() -> None:
    stored = [unicodedata.normalize(form, f"{form}/é.mp4") for form in ("NFC", "NFD")]
    both = [unicodedata.normalize(form, "both é.mp4") for form in ("NFC", "NFD")]
    spellings = Spellings(Path(), [*stored, *both, "a.mp4"])
    for form in ("NFC", "NFD"):
        names = [unicodedata.normalize(form, path) for path in ("NFC/é.mp4", "NFD/é.mp4")]
        assert [spellings.find(name) for name in names] == stored
    assert [spellings.find(name) for name in both] == both
    assert spellings.find("ガ.mp4") is spellings.find("a.mp4") is None


def test_two_spellings_are_two_files_if_both_are_there_and_one_twice_if_not(tmp_path) -> None:
    both = [unicodedata.normalize(form, "é.mp4") for form in ("NFC", "NFD")]
    for size, name in enumerate(both, start=1):
        (tmp_path / name).write_bytes(bytes(size))
    write_list(tmp_path, *both)
    rows, _ = index(tmp_path)
    assert {row["path"]: row["bytes"] for row in rows.values()} == {both[0]: 1, both[1]: 2}
    (tmp_path / both[1]).unlink()
    with pytest.raises(DataError, match=r"clips\.csv, line 3: path 'é\.mp4' is also in line 2"):
        index(tmp_path)


def test_what_is_no_file_costs_its_clip(tmp_path: Path) -> None:
    (tmp_path / "good.mp4").write_bytes(b"xyz")
    (tmp_path / "link.mp4").symlink_to("good.mp4")
    (tmp_path / "dangling.mp4").symlink_to("nowhere")
    (tmp_path / "self.mp4").symlink_to("self.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    odd = ["dangling.mp4", "self.mp4", "pipe.mp4", "x" * 300, "good.mp4/below.mp4"]
    write_list(tmp_path, "good.mp4", "link.mp4", *odd)
    rows, _ = index(tmp_path)
    assert {row["path"]: row["bytes"] for row in rows.values()} == {
        "good.mp4": 3,
        "link.mp4": 3,
        **dict.fromkeys(odd, None),
    }


def spoil_frames(folder: Path) -> None:
    """Put beside 2.jpg all that is no frame."""
    (folder / "._2.jpg").write_bytes(bytes(100))
    (folder / "3.jpg").symlink_to("nowhere")
    (folder / "4.jpg").symlink_to("4.jpg")
    (folder / "5.jpg").mkdir()
    os.mkfifo(folder / "6.jpg")


def test_what_is_no_frame_costs_itself(tmp_path: Path, shared: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        spoil_frames(tmp_path / name)
    (tmp_path / "a" / "2.jpg").write_bytes(bytes(7))
    (tmp_path / "b" / "2.png").symlink_to("../a/2.jpg")
    write_list(tmp_path, "a", "b", "c")
    rows, _ = index(tmp_path, source="frames")
    assert {key: row["bytes"] for key, row in rows.items()} == {"a": 7, "b": 7, "c": None}
    case = shared / "cases" / "video" / "apple-double-files"
    settings = {"splits": "clips.csv", "source": "frames", "folds": [1], "classes": list(BASIC)}
    data = Data(name="own", root=str(case), **settings)
    build_index(data, tmp_path / "m.parquet")
    sizes = [file.stat().st_size for file in case.glob("clip01/0*.jpg")]
    assert len(sizes) == 32
    assert read_manifest(tmp_path / "m.parquet")["bytes"][0].as_py() == sum(sizes)


def test_the_folders_of_the_released_sets_may_hold_anything(tmp_path: Path) -> None:
    write_dfew(tmp_path / "dfew")
    write_ferv39k(tmp_path / "ferv39k")
    clean = {name: index(tmp_path / name, name=name) for name in ("dfew", "ferv39k")}
    place = tmp_path / "dfew" / "Clip/original"
    (place / "00010.mp4").symlink_to("nowhere")
    (place / "self").symlink_to("self")
    (place / "up").symlink_to("..")  # a cycle
    (place / "again").symlink_to("part_1")
    (place / "._00003.mp4").write_bytes(b"x")
    (place / "\udcff").mkdir()
    (place / "\udcff" / "00010.mp4").write_bytes(b"x")
    rows, notes = index(tmp_path / "dfew", name="dfew")
    assert rows == clean["dfew"][0]
    assert notes == ["Clip/original/%FF/00010.mp4 is passed over: its name is not UTF-8; rename it"]
    assert index(tmp_path / "ferv39k", name="ferv39k") == clean["ferv39k"]
    folder = tmp_path / "ferv39k" / "2_ClipsforFaceCrop/War/Fear/0103"
    rows, _ = index(tmp_path / "ferv39k", name="ferv39k", source="frames")
    spoil_frames(folder)
    (folder.parent / "0104").symlink_to("nowhere")
    (folder.parent / "\udce9").mkdir()
    again, notes = index(tmp_path / "ferv39k", name="ferv39k", source="frames")
    assert again == rows
    assert notes == [
        "2_ClipsforFaceCrop/War/Fear/%E9 is passed over: its name is not UTF-8; rename it"
    ]


def test_a_walk_takes_the_path_without_links_and_ends_in_a_cycle(tmp_path: Path) -> None:
    (tmp_path / "z" / "deep").mkdir(parents=True)
    (tmp_path / "z" / "deep" / "1").touch()
    (tmp_path / "a").symlink_to("z/deep")
    (tmp_path / "z" / "deep" / "b").symlink_to("../..")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "top").mkdir()
    (tmp_path / "elsewhere" / "top" / "2").touch()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "c").symlink_to("../elsewhere/top")
    (tmp_path / "root" / "d").symlink_to("../elsewhere")
    assert sorted(path for path, _ in walk_files(str(tmp_path))) == ["elsewhere/top/2", "z/deep/1"]
    assert [path for path, _ in walk_files(str(tmp_path / "root"))] == ["c/2"]


def test_a_folder_that_may_not_be_read_is_told_and_costs_its_clips(tmp_path, monkeypatch) -> None:
    if os.geteuid():
        pytest.skip("only root can become someone else")
    write_dfew(tmp_path)
    tmp_path.chmod(0o777)
    (tmp_path / "Clip/original/part_1").chmod(0o700)
    monkeypatch.chdir(tmp_path)  # the folders above are not for everyone
    os.seteuid(65534)
    try:
        rows, notes = index(Path(), name="dfew")
    finally:
        os.seteuid(0)
    assert [row["clip"] for row in rows.values() if row["bytes"] is None] == [
        *("00001", "00002", "00003", "00004", "00010"),
    ]
    assert notes == ["folder Clip/original/part_1 is passed over: Permission denied"]
