"""A short round of `python -m tools.faults.fuzz`, and that the harness does see what it is to
find."""

import os
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest
from support import drawn_person

from safe.errors import DataError
from tools.faults.fuzz import run
from tools.faults.fuzz_videos import make_videos
from tools.faults.watch import Outcome, Tally, general, try_all, watched


def test_a_short_round_finds_nothing_and_starts_from_the_same_videos(tmp_path, monkeypatch):
    monkeypatch.setattr(  # one person of each size, drawn once
        "tools.faults.fuzz_videos.draw_video", lambda _, look: drawn_person(1, size=look.size)
    )
    counts = {"videos": 14, "shards": 24, "models": 12}
    tallies = run(counts, seed=1, scratch=tmp_path, workers=1, until=time.monotonic() + 300)
    assert [finding for tally in tallies for finding in tally.findings] == []
    assert {tally.part: tally.total for tally in tallies} == counts
    for tally in tallies:  # the damage is neither always fatal nor never
        assert len(tally.counts) > 3
    assert any(came.startswith("read") for came in tallies[1].counts)
    assert any(came.startswith("ok") for came in tallies[0].counts)
    again = make_videos(tmp_path / "again")
    suffixes = {".mp4", ".avi", ".mkv", ".mov", ".webm", ".ts", ".m2ts", ".mpg", ".flv"}
    assert {path.suffix for path in again} == suffixes
    for path in again:
        assert path.read_bytes() == (tmp_path / "videos" / "originals" / path.name).read_bytes()


def _nothing() -> None:
    """Be the set-up of a reader that needs none."""


def _reader(number: int, *, folder: Path) -> Outcome:
    """Read like a bad reader: each number has a fault of its own; 0, 1 and 2 have none."""

    def read() -> str:
        if number == 1:
            raise DataError(f"{folder}/a.tar: cut off; make it again")
        if number == 3:
            raise DataError("x" * 1000)
        if number == 4:
            raise KeyError("shards")
        if number == 5:
            (folder.parent / "secret").read_text()
        if number == 6:
            subprocess.run(["true"], check=True)
        if number == 7:
            os.abort()
        if number == 8:
            return "WRONG pixels"
        if number == 9:
            bytearray(100 << 20)[::4096] = b"x" * (100 << 8)
        return "read"

    return watched(read, Outcome("bad", number, "", ""), inside=folder, refusal=DataError)


@pytest.fixture
def found(tmp_path) -> dict[int, Outcome]:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "folder").mkdir()
    check = partial(_reader, folder=tmp_path / "folder")
    times = {"workers": 1, "until": time.monotonic() + 60, "setup": _nothing}
    return {each.number: each for each in try_all(check, range(10), part="bad", **times)}


def test_a_bad_reader_is_found_out(found):
    assert sorted(found) == list(range(10))
    assert [number for number, each in found.items() if not each.finding] == [0, 1, 2]
    assert found[1].came == "refused: cut off"
    for number, word in {
        3: "one clear line",
        4: "KeyError at test_fuzz.py",
        5: "opened",
        6: "subprocess",
        7: "signal 6",
        8: "WRONG",
        9: "MB",
    }.items():
        assert word in found[number].finding


def test_a_tally_brings_equal_kinds_together(capsys):
    tally = Tally("shards")
    for number in range(1000):
        reason = general(f"/a/{number}.tar: clip 'c{number}': {number} bytes, at most 2.5e3")
        tally.add([Outcome("shards", number, "cut", reason, memory=100 + number / 100)])
    tally.add([Outcome("shards", 1000, "flip", "raised KeyError", finding="KeyError at x:1")])
    assert tally.rows() == [
        {"mutants": "shards", "outcome": "PATH: clip 'X': N bytes, at most N", "count": 1000},
        {"mutants": "shards", "outcome": "1 other reasons", "count": 1},
    ]
    assert tally.grown() == "102 MB at most in the first fifth, 110 MB in the last"
    assert "FINDING shards:1000 (flip): KeyError" in capsys.readouterr().out
