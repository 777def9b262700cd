"""Batches of predict: what is finished stays, what ends early can go on, odd names cost nothing."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import (
    PREDICT,
    ROOT,
    drawn_person,
    grey_ramp,
    save_untrained,
    small_disk,
    write_video,
)
from typer.testing import CliRunner

from cli.app import app
from cli.predict import run_predict
from cli.progress import progress
from pipeline.videos import find_videos
from safe.errors import DataError

pytestmark = pytest.mark.usefixtures("unguarded")

SIMPLE = PREDICT | {"timeline": False, "window": 1.0}


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A video of nobody, a second long."""
    folder = tmp_path_factory.mktemp("grey")
    return write_video(folder / "grey.mp4", grey_ramp(25, height=64, width=64)).read_bytes()


def summary_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text("utf-8"))
    return found


def tables(out: Path) -> dict[str, int]:
    """The tables by name, with the number of the file: what is written again has another."""
    return {path.name: path.stat().st_ino for path in out.iterdir() if path.suffix == ".jsonl"}


def names(videos: list[dict[str, Any]]) -> list[str]:
    return [Path(entry["video"]).name for entry in videos]


# A second run


def test_a_second_run_does_what_is_not_finished(grey, model, tmp_path, capsys):
    videos, out = tmp_path / "in", tmp_path / "out"
    for name in ("a.mp4", "b.mp4", "below/a.mp4"):
        (videos / name).parent.mkdir(exist_ok=True, parents=True)
        (videos / name).write_bytes(grey)
    (videos / "bad.mp4").write_text("no video")
    named = [videos / name for name in ("a.mp4", "b.mp4", "bad.mp4")]

    def run(*more: Path, **change: Any) -> tuple[str, set[str]]:
        before = tables(out) if out.exists() else {}
        code = run_predict([*map(str, more or named)], model, out, **SIMPLE | change)
        assert code == (0 if more else 7)
        written = {name for name, number in tables(out).items() if before.get(name) != number}
        return capsys.readouterr().out, written

    said, written = run()
    assert written == {"a.jsonl", "b.jsonl"}
    assert "finished before" not in said
    first = summary_of(out)
    assert (first["left"], names(first["videos"])) == (0, ["a.mp4", "b.mp4", "bad.mp4"])

    said, written = run()  # what could not be used is tried again
    assert not written
    assert "3 videos (2 finished before; --again does them again)" in said
    assert "bad.mp4: unusable: not a video" in said
    again = summary_of(out)
    for each in (first, again):
        del each["totals"]["speed"]
    assert again == first

    os.utime(videos / "a.mp4", (0, 0))
    assert run()[1] == {"a.jsonl"}
    (out / "b.jsonl").unlink()
    assert run()[1] == {"b.jsonl"}
    assert run(named[0], again=True)[1] == {"a.jsonl"}
    said, written = run(named[0], window=0.8)
    assert written == {"a.jsonl"}
    assert "1 video done before with another model, other settings or another version" in said
    said, written = run(named[0], batch=2, deadline=50.0, window=0.8)  # these change no answer
    assert not written

    # Others of the folder stay in the summary, and keep the names of their files.
    assert run(videos / "below", window=0.8)[1] == {"a-2.jsonl"}
    assert names(summary_of(out)["videos"]) == ["a.mp4", "a.mp4", "b.mp4"]
    assert run(videos / "below" / "a.mp4", named[0], window=0.8)[1] == set()
    (out / "summary.json").write_text('{"videos": [{"path": 3}, []]}')
    assert run(named[0], window=0.8)[1] == {"a.jsonl"}


def test_another_model_or_another_picture_is_done_again(model, config, tmp_path):
    write_video(tmp_path / "one.mp4", drawn_person(1)[:30])
    out, how = tmp_path / "out", SIMPLE | {"window": 2.0}
    run_predict([str(tmp_path / "one.mp4")], model, out, **how)
    number = tables(out)
    run_predict([str(tmp_path / "one.mp4")], model, out, **how)
    assert tables(out) == number
    run_predict([str(tmp_path / "one.mp4")], model, out, **how | {"timeline": True})
    assert tables(out) != number
    assert (out / "one.png").is_file()
    number = tables(out)
    run_predict([str(tmp_path / "one.mp4")], model, out, **how)  # what is there is more
    assert tables(out) == number
    shutil.copytree(model, tmp_path / "model")
    (about,) = (tmp_path / "model").rglob("model.json")
    about.write_text(about.read_text().replace('"threshold": 0.1', '"threshold": 0.1'))
    run_predict([str(tmp_path / "one.mp4")], tmp_path / "model", out, **how)  # the same, elsewhere
    assert tables(out) == number
    save_untrained(tmp_path / "new" / "train" / "fold-1", config, about="another")
    run_predict([str(tmp_path / "one.mp4")], tmp_path / "new", out, **how)
    assert tables(out) != number


# A batch that ends early


@contextmanager
def when(folder: Path, count: int, act: Any) -> Iterator[None]:
    """Act once the summary in a folder has some entries."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            if (folder / "summary.json").exists() and len(summary_of(folder)["videos"]) >= count:
                act()
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def make_many(folder: Path, grey: bytes, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:02d}.mp4").write_bytes(grey)


def check_early(out: Path, count: int) -> dict[str, int]:
    """Check that the summary tells of each table that is there, and of no other."""
    early = summary_of(out)
    done = [entry["table"] for entry in early["videos"]]
    assert 0 < len(done) < count
    assert early["left"] == count - len(done)
    assert set(done) <= tables(out).keys()
    assert len(tables(out)) <= len(done) + 1  # one was just written
    assert early["totals"]["videos"] == len(done)
    return {name: number for name, number in tables(out).items() if name in done}


def check_completed(out: Path, count: int, kept: dict[str, int]) -> None:
    whole = summary_of(out)
    assert (whole["left"], len(whole["videos"])) == (0, count)
    assert kept.items() <= tables(out).items()


def test_stopped_and_then_killed_it_leaves_a_summary_and_goes_on(grey, model, tmp_path):
    """Stopped as a user's process with children; killed as a copy of this one."""
    make_many(tmp_path / "in", grey, 30)
    out = tmp_path / "out"
    words = [sys.executable, "-m", "cli", "predict", str(tmp_path / "in"), "--model", str(model)]
    words += ["--out", str(out), "--no-timeline", "--window", "1", "--workers", "1"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (
        subprocess.Popen(words, env=env, cwd=tmp_path, stderr=subprocess.DEVNULL) as run,
        when(out, 2, lambda: run.send_signal(signal.SIGINT)),
    ):
        assert run.wait() == 130
    stopped = check_early(out, 30)

    how = SIMPLE | {"device": "auto"}
    go_on = multiprocessing.get_context("fork").Process(
        target=run_predict, args=([str(tmp_path / "in")], model, out), kwargs=how
    )
    with when(out, len(stopped) + 2, lambda: go_on.kill()):
        go_on.start()
        go_on.join()
    assert go_on.exitcode == -signal.SIGKILL
    kept = check_early(out, 30)
    assert stopped.items() < kept.items()
    for video in sorted((tmp_path / "in").iterdir())[len(kept) + 1 :]:
        video.unlink()
    run_predict([str(tmp_path / "in")], model, out, **how)
    check_completed(out, len(kept) + 1, kept)


def test_on_a_full_disk_it_leaves_a_summary_and_goes_on(grey, model, tmp_path):
    make_many(tmp_path / "in", grey, 3)
    with small_disk(tmp_path / "out", "1m") as out:
        ballast = out / "ballast"
        with when(out, 1, lambda: fill(ballast)), pytest.raises(OSError, match="No space"):
            run_predict([str(tmp_path / "in")], model, out, **SIMPLE)
        kept = check_early(out, 3)
        ballast.unlink()
        run_predict([str(tmp_path / "in")], model, out, **SIMPLE)
        check_completed(out, 3, kept)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


# What is told


def test_what_is_passed_over_is_told_and_unusable_files_are_an_exit_code(grey, model, tmp_path):
    videos, out = tmp_path / "in", tmp_path / "out"
    for name in ("a.mp4", "b.MTS", "._a.mp4", ".git/x.mp4", "notes.txt", "n/1.srt", "2.srt", "x"):
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        (videos / name).write_bytes(grey if name == "a.mp4" else b"no video")
    words = ["predict", str(videos), "--model", str(model), "--out", str(out), "--device", "cpu"]
    done = CliRunner().invoke(app, [*words, "--window", "1", "--workers", "1"])
    assert done.exit_code == 7
    told = (
        f"predict: {videos}: passed over 4 files not called like a video (2.srt, n/1.srt, "
        "notes.txt and 1 more) and 2 files hidden (._a.mp4, .git/)"
    )
    assert told in done.stdout.splitlines()
    assert "b.MTS: unusable: not a video of a kind that is allowed" in done.stdout
    assert "2 videos, 0 with faces: 0 faces, 0 clips, 0 abstained from, 1 unusable" in done.stdout
    assert summary_of(out)["notes"] == [told.removeprefix("predict: ")]
    (videos / "b.MTS").unlink()
    assert CliRunner().invoke(app, [*words, "--window", "1", "--workers", "1"]).exit_code == 0


def test_names_in_brackets_survive_the_bar(capsys):
    for name in ("clip [id] [/b] [bold]x.mp4", "a:smile:{task}.mp4"):
        with progress(name, 3) as done:
            done(3)
        assert name in capsys.readouterr().err


# Names

ODD = [
    *("clip [abc123] [-].mp4", "x" * 250 + ".avi", "笑顔 日本語.mp4"),
    *(
        "caf\udce9.mp4",
        "two\nlines\x1b[31m.mp4",
        "a:b %d {x}.mp4",
        "é.mp4",
        "e\u0301.mp4",
        "-v.mp4",
    ),
]


def test_names_that_a_disk_allows_work(grey, model, config, tmp_path, monkeypatch):
    videos = tmp_path / "in"
    videos.mkdir()
    for name in ODD:
        (videos / name).write_bytes(grey)
    write_video(videos / "a:b %d {x}.mp4", drawn_person(1)[:26])
    words = ["predict", str(videos), "--model", str(model), "--format", "parquet", "--video"]
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*words, "--out", ".", "--window", "1", "--workers", "1"])
    assert done.exit_code == 0, done.output
    entries = summary_of(tmp_path)["videos"]
    assert len(entries) == len(ODD)
    found = {Path(entry["video"]).name: entry for entry in entries}
    assert found["caf%E9.mp4"]["table"] == "caf%E9.parquet"
    assert found["a:b %d {x}.mp4"]["annotated"] == "a:b %d {x}.mp4"
    assert found["笑顔 日本語.mp4"]["table"] == "笑顔 日本語.parquet"
    assert len({unicodedata.normalize("NFC", entry["table"]) for entry in entries}) == len(ODD)
    for entry in entries:
        assert (tmp_path / entry["table"]).is_file()
    assert "two\nlines" not in done.stdout
    assert "\x1b" not in done.stdout
    assert CliRunner().invoke(app, [*words, "--out", ".", "--window", "1"]).exit_code == 0


def find(out: Path, *named: Path | str) -> tuple[list[str], list[str]]:
    notes: list[str] = []
    words = [str(name) for name in named]
    jobs = find_videos(words, out=out, endings=["jsonl"], on_note=notes.append)
    return [str(job.video) for job in jobs], notes


def test_links_are_followed_each_folder_and_file_once(tmp_path):
    real = tmp_path / "elsewhere" / "deep"
    real.mkdir(parents=True)
    (real / "1.mp4").touch()
    (real / "2.mp4").symlink_to("1.mp4")
    (real / "up").symlink_to("../..")
    top = tmp_path / "top"
    top.mkdir()
    (top / "a").symlink_to(real)
    (top / "b").symlink_to(real)
    (top / "3.mp4").symlink_to(real / "1.mp4")
    (top / "gone.mp4").symlink_to("nowhere")
    (top / "self.mp4").symlink_to("self.mp4")
    here = [str(top / name) for name in ("3.mp4", "gone.mp4", "self.mp4")]
    assert find(tmp_path / "out", top) == (here, [])
    assert find(tmp_path / "out", top / "**" / "[12].mp4")[0] == [str(top / "a" / "1.mp4")]
    (top / "3.mp4").unlink()
    videos, _ = find(tmp_path / "out", top)
    assert videos == [str(top / "a" / "1.mp4"), *here[1:]]
    for number in range(30):  # no pattern takes all ways through these
        (top / f"loop{number}").symlink_to(".")
    assert find(tmp_path / "out", top / "**" / "*.mp4")[0] == videos
    assert find(tmp_path / "out", top / "*" / "1.mp4")[0] == videos[:1]
    assert find(tmp_path / "out", tmp_path / "**" / "deep")[0][0] == str(real / "1.mp4")
    with pytest.raises(DataError, match="matches no file and no folder"):
        find(tmp_path / "out", top / "**" / "*.webm")


def test_a_video_that_cannot_be_read_costs_itself(grey, model, tmp_path):
    videos = tmp_path / "in"
    videos.mkdir()
    (videos / "a.mp4").write_bytes(grey)
    (videos / "b.mp4").symlink_to("nowhere")
    (videos / "c.mp4").symlink_to("c.mp4")
    os.mkfifo(videos / "d.mp4")
    (videos / "e.mp4").touch()
    assert run_predict([str(videos)], model, tmp_path / "out", **SIMPLE) == 7
    reasons = {Path(e["video"]).name: e["reason"] for e in summary_of(tmp_path / "out")["videos"]}
    assert reasons == {
        "a.mp4": "no face in any frame",
        **dict.fromkeys(("b.mp4", "c.mp4", "d.mp4"), "file missing"),
        "e.mp4": "empty file",
    }


def test_avchd_gets_an_answer(shared, model, tmp_path):
    """And so do other kinds of transport streams."""
    case = shared / "cases" / "video" / "avchd" / "00001.MTS"
    plain = bytearray()
    for at in range(0, case.stat().st_size, 192):
        plain += case.read_bytes()[at + 4 : at + 192]
    (tmp_path / "plain.ts").write_bytes(plain)
    out = tmp_path / "out"
    run_predict([str(case), str(tmp_path / "plain.ts")], model, out, **SIMPLE)
    first, second = summary_of(out)["videos"]
    assert first["status"] != "unusable"
    assert first["seconds"] == pytest.approx(1.6, abs=0.05)
    assert (second["status"], second["seconds"]) == (first["status"], first["seconds"])
