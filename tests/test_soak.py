"""The soak sees what grows, and runs over the real parts; the page says what was found."""

import ctypes
import os
import re
import subprocess
import sys

import pytest
from support import grey_ramp, write_video

import tools.faults.soak
from pipeline.pool.children import give_back
from tools.faults import page
from tools.faults.soak import Look, children, judge, look, soak_batches, soak_clips

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
MB = 2**20
HOLDER = """
held, file = bytearray(b"x") * (50 << 20), open("/dev/null")
print("ready", flush=True)
input()
"""


def looks(own, *, peak=None, files=(7,), processes=(1, 2)) -> list[Look]:
    """A look every 10 of 1,000; `own` gives the parent's MB by the number done."""
    return [
        Look(
            done,
            {process: own(done) * MB if process == 1 else 80 * MB for process in processes},
            {process: (peak or own)(done) * MB for process in processes},
            files[min(done // 200, len(files) - 1)],
        )
        for done in range(10, 1001, 10)
    ]


@pytest.mark.parametrize(
    ("found", "well"),
    [
        (looks(lambda done: 100), True),
        (looks(lambda done: 60 if done < 100 else 100), True),  # the warm-up may grow
        (looks(lambda done: 100 + done % 50, peak=lambda done: 150), True),  # to and fro
        (looks(lambda done: 100 + done // 100), False),
        (looks(lambda done: 100, peak=lambda done: 100 + done // 50), False),
        (looks(lambda done: 100, files=(7, 7, 8)), False),
        (looks(lambda done: 100)[:50] + looks(lambda done: 100, processes=(1, 3))[50:], False),
    ],
)
def test_what_grows_after_the_warm_up_is_seen(found, well):
    rows, sentences, verdict = judge("batches", found)
    assert verdict == well
    assert [row["process"] for row in rows] == ["parent", "child 1"]
    assert all("NOT" not in sentence for sentence in sentences) or not well


def test_the_growth_is_in_per_cent_of_what_was_held_after_the_warm_up():
    (parent, child), sentences, _ = judge("clips", looks(lambda done: 100 + done // 100))
    assert parent["own, MB"] == pytest.approx(101, abs=0.5)
    assert parent["own at the end, MB"] == pytest.approx(109, abs=0.5)
    assert parent["growth, %"] == pytest.approx(100 * 8 / 101, abs=1)
    assert child["growth, %"] == 0
    assert "after the first 100," in sentences[0]
    assert "at most 3 %: NOT met" in sentences[0]


@linux
def test_a_look_sees_a_childs_memory_and_files():
    before = look(0)
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout.readline() == b"ready\n"
        found = look(1)
        child.communicate(b"\n")
    assert found.own.keys() - before.own.keys() == {child.pid}
    assert 50 * MB < found.own[child.pid] <= found.peak[child.pid] < 90 * MB
    assert found.files >= before.files + 2
    assert child.pid not in children(next(iter(found.own)))


@linux
def test_memory_that_was_freed_is_given_back():
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("not glibc")
    pieces = [bytearray(100_000) for _ in range(1000)]
    del pieces[:999:2]  # what stays keeps what was freed from the end of the heap
    held = look(0).own[os.getpid()]
    give_back()
    assert held - look(0).own[os.getpid()] > 25 * MB
    assert len(pieces) == 500


@linux
def test_a_short_soak_of_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(tools.faults.soak, "SHARDS", [4] * 20)
    found = soak_batches(40, tmp_path, every=2)
    assert [one.done for one in found] == list(range(2, 41, 2))
    rows, _, _ = judge("batches", found)
    workers = found[0].own.keys() - set(look(0).own)
    assert len(workers) == 2
    assert all(one.own.keys() == found[0].own.keys() for one in found)
    assert len(rows) == len(found[0].own)


@linux
def test_a_short_soak_of_clips_takes_the_real_stage_with_children(tmp_path):
    good = write_video(tmp_path / "good.mp4", grey_ramp(20))
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(good.read_bytes()[:300])
    found, counts = soak_clips([good, bad], 12, tmp_path, every=2)
    assert counts == {"ok": 0, "partial": 0, "missing": 6, "error": 6}
    assert [one.done for one in found] == list(range(2, 13, 2))
    assert len(found[-1].own.keys() - set(look(0).own)) == 2
    assert (tmp_path / "strips.zip").is_file()


def test_the_words_name_tests_and_runs_that_exist():
    words = page.WORDS.read_text()
    named = set(re.findall(r"`((?:tests|faults)/\w+\.py)`", words))
    assert len(named) > 10
    assert not [path for path in named if not (page.PAGE.parents[1] / path).is_file()]
