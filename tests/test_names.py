"""Names that a disk allows: does every file and folder get its temporary name beside it?"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from cli.layout import lock
from pipeline.tar import clear_beside
from safe.process import fitting, only_one, whole_file

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
        with whole_file(path) as temporary:
            assert len(os.fsencode(temporary.name)) <= 255
            temporary.write_text("old")
    write = (
        "import os, signal, sys; from pathlib import Path; from safe.process import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as path:\n"
        "    path.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", write, str(target)]
    done = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 3
    with whole_file(target) as temporary:
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
    with whole_file(tmp_path / "table") as temporary:
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
        with only_one(lock(out), "x"):
            assert lock(out).is_file()
    assert lock(Path("data", "own", "shards")) == Path(".safe", "locks", "data-own-shards")
