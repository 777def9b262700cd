"""The soak sees what grows, and runs over the real parts; the pages say what was found."""

import ctypes
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import grey_ramp, write_video

import tools.faults.soak
from pipeline.pool.children import give_back
from tools import pages
from tools.faults.soak import Look, children, judge, look, soak_batches, soak_clips
from tools.harness import Measured, keep, measured_table, table

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
    found = soak_batches(24, tmp_path, every=2)
    assert [one.done for one in found] == list(range(2, 25, 2))
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


def test_what_is_kept_becomes_a_part_of_a_page(tmp_path, monkeypatch):
    rows = [{"a|b": 12345, "c": 1.5}, {"a|b": 2, "c": "one\ntwo | three"}]
    found = {"title": "Title", "note": "A note.", "summary": ["All is well."], "rows": rows}
    results = tmp_path / "tools/faults/results"
    results.mkdir(parents=True)
    keep("fuzz", found, results=results)
    kept = json.loads((results / "fuzz.json").read_text())
    assert {name: kept[name] for name in found} == found
    assert {"date", "machine", "versions"} == kept.keys() - found.keys()
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    marks = "<!-- results: faults/fuzz -->\n{}<!-- end -->\nafter\n"
    text = pages.render("before\n" + marks.format("old\n"))
    assert text == pages.render(text)
    lines = [line for line in text.splitlines() if line]
    assert lines[:2] == ["before", "<!-- results: faults/fuzz -->"]
    assert lines[2].startswith("**Title.** `python -m tools.faults.fuzz`, 20")
    assert lines[3:] == [
        "A note.",
        "- All is well.",
        "| a\\|b | c |",
        "| --- | --- |",
        "| 12,345 | 1.5 |",
        "| 2 | one two \\| three |",
        "<!-- end -->",
        "after",
    ]


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_the_pages_say_what_the_results_say_and_name_tests_and_runs_that_exist(page):
    text = page.read_text()
    assert pages.render(text) == text
    assert "<!-- results:" in text
    named = set(re.findall(r"`((?:tests|tools)/[\w/]+\.py)`", text))
    named |= {
        f"{name.replace('.', '/')}.py" for name in re.findall(r"python -m (tools[\w.]+)", text)
    }
    assert [path for path in named if not (pages.ROOT / path).is_file()] == []


def test_a_measured_number_is_told_with_its_bound():
    rows = [
        Measured("a", 1234.5, 1.0, 2.0, unit="s", most=2),
        Measured("b", 1.0, 1.0, 1.0, least=1, most=2),
        Measured("c", 1.0, 1.0, 1.0, least=3),
    ]
    assert measured_table([row.row() for row in rows]).splitlines()[2:] == [
        "| a | 1,234 s | 1 to 2 | <= 2 | no |",
        "| b | 1 | 1 to 1 | 1 to 2 | yes |",
        "| c | 1 | 1 to 1 | >= 3 | no |",
    ]
    assert table([]) == ""


@pytest.mark.parametrize(
    ("change", "wrong"),
    [({"more": 1}, "more"), ({"rows": [{"a": 1}, {"b": 1}]}, "columns")],
)
def test_what_the_page_cannot_show_is_not_kept(tmp_path, change, wrong):
    found = {"title": "", "note": "", "summary": [], "rows": []} | change
    with pytest.raises(ValueError, match=wrong):
        keep("soak", found, results=tmp_path)
    assert not list(Path(tmp_path).iterdir())
