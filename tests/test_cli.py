"""The command line as a user meets it: help, one line for an error, stages that call others."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from support import ROOT, call, labels_of, options, run_cli, start_cli

from pipeline.video.decode import read_video


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def test_help_lists_every_verb_without_loading_torch(folder):
    done = start_cli("--help", folder=folder)
    assert done.returncode == 0
    for verb in ("synthesize", "index", "faces", "shard", "train", "calibrate", "eval", "summary"):
        assert verb in done.stdout
    probe = "import sys, cli.app; print({'torch', 'cv2', 'pyarrow'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_an_error_is_the_exit_code_and_the_one_line_of_the_process(folder):
    done = start_cli("faces", folder=folder)
    here = call("faces", folder=folder)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", here.stderr)


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["train", "-S", "train.epocs=3"], 2, "unknown key 'train.epocs'"),
        (["train", "-S", "tam.block=15"], 2, "tam.block: 15 must divide augment.crop"),
        (["index", "--params", "none.yaml"], 2, "none.yaml not found"),
        (["index"], 3, "data/raw/synthetic"),
        (["faces"], 3, "run the stage index first"),
        (["train"], 3, "`safe-cli shard` makes it"),
        (["calibrate"], 4, "run `safe-cli train`"),
        (["eval"], 4, "then `safe-cli calibrate`"),
        (["summary"], 3, "`safe-cli eval` makes it"),
        (["index", "-S", "data={name:dfew,root:/nowhere}"], 3, "/nowhere"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(folder, arguments, code, what):
    done = run_cli(*arguments, folder=folder, expect=code)
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("safe-cli: ")
    assert what in line


def test_synthesize_leaves_another_dataset_alone(folder):
    done = run_cli("synthesize", "-S", "data={name:dfew,root:/data/DFEW}", folder=folder)
    assert "nothing to do, data.name is dfew" in done.stdout
    assert not list((folder / "data" / "raw" / "synthetic").iterdir())


def test_ferv39k_from_frames_to_a_table(project, folder, unguarded):
    """The synthetic clips in FERV39k's form; `shard` runs what is missing before it."""
    root = folder / "FERV39k"
    lists: dict[str, list[str]] = {"train": [], "test": []}
    labels = labels_of(project)
    for number, (clip, label) in enumerate(sorted(labels.items())[:35]):
        name = f"Action/{label.capitalize()}/{number:04d}"
        lists["test" if number % 5 == 0 else "train"].append(f"{name} {label.capitalize()}")
        video = project / "data" / "raw" / "synthetic" / "Clip" / "original" / f"{clip}.mp4"
        frames = root / "2_ClipsforFaceCrop" / name
        frames.mkdir(parents=True)
        for at, frame in enumerate(read_video(video).frames, start=1):
            cv2.imwrite(str(frames / f"{at}.jpg"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    setups = root / "4_setups" / "All_scenes"
    setups.mkdir(parents=True)
    for part, lines in lists.items():
        (setups / f"{part}_All.csv").write_text("\n".join(lines) + "\n")
    data = f"data={{name:ferv39k,root:{root},splits:4_setups,source:frames,folds:[1]}}"
    said = run_cli("shard", *options(data), folder=folder).stdout
    assert "manifest.parquet is missing, running index first" in said
    assert "faces.parquet is missing, running faces first" in said
    index = json.loads((folder / "data" / "ferv39k" / "shards" / "index.json").read_text())
    assert {shard["bucket"] for shard in index["shards"]} == {"train", "test"}
    assert sum(shard["clips"] for shard in index["shards"]) + len(index["left_out"]) == 35
    for verb in ("train", "calibrate", "eval", "summary"):
        run_cli(verb, *options(data, "train.epochs=1"), folder=folder)
    result = json.loads((folder / "results" / "metrics.json").read_text())
    assert (result["dataset"], result["n_folds"], result["n_test"]) == ("ferv39k", 1, 7)
    assert 0 <= result["uar"] <= 100


def test_cost_is_that_of_clips_of_so_many_frames(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    done = call("cost", "-S", "shard.frames=8", folder=tmp_path)
    assert "3 x 8 x 48 x 48" in done.stdout
    done = call("cost", "-S", "shard.frames=8", "-S", "model.window=12", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "safe-cli: params: model.window: 12 is longer than the clip; at most shard.frames, 8"
    ]
