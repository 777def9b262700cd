"""`dvc repro`, killed in train, to a table; then again, and for more folds."""

import csv
import io
import json
import os
import signal
import subprocess
from pathlib import Path
from subprocess import DEVNULL

from dvc_project import BIN, ENV, commit_all, copy_repository, dvc, run, stages, wait_for


def processes(folder: Path) -> list[int]:
    """Processes that work in a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cwd").readlink().is_relative_to(folder):
                    found.append(int(entry.name))
            except OSError:
                continue  # it ended, or is not ours
    return found


def test_killed_in_train_it_leaves_nothing_behind_and_goes_on_to_a_table(tiny, tmp_path, unguarded):
    """Killed as a user's process, with the stage in one of its own."""
    clone = copy_repository(tiny, tmp_path / "clone", "train.epochs=4", "runtime.workers=1")
    with subprocess.Popen(
        [str(BIN / "dvc"), "repro"],
        cwd=clone,
        env=ENV,
        stdout=DEVNULL,
        stderr=DEVNULL,
        start_new_session=True,
    ) as real:
        state = clone / ".safe" / "checkpoints"
        wait_for(lambda: list(state.rglob("*.safetensors")), 300, "the first checkpoint")
        assert len(processes(clone)) > 1
        os.kill(real.pid, signal.SIGKILL)
    wait_for(lambda: not processes(clone), 20, "the stage to end with DVC")
    assert not (clone / "results" / "metrics.json").exists()

    said = dvc("repro", clone)
    assert "train: fold 1, epoch 4/4" in said
    assert "train: fold 1, epoch 1/4" not in said  # it went on, it did not begin again
    assert stages(said) == ["train", "calibrate", "eval", "summary"]
    assert not list(state.rglob("*.safetensors"))
    info = json.loads((clone / "runs/synthetic/train/fold-1/model.json").read_text())
    assert len(info["history"]) == 4

    check_that_nothing_is_left_to_do(clone)
    check_what_came_out(clone)
    check_that_the_run_cache_brings_folds_together(clone)


def check_that_nothing_is_left_to_do(clone):
    assert "Data and pipelines are up to date." in dvc("repro", clone)
    assert "up to date" in dvc("status", clone)
    changed = run("git", "status", "--porcelain", folder=clone).splitlines()
    assert {line.split()[-1] for line in changed} == {"dvc.lock", "results/"}


def check_what_came_out(clone):
    result = json.loads((clone / "results" / "metrics.json").read_text())
    assert (result["dataset"], result["n_folds"], result["selection"]) == ("synthetic", 1, "last")
    assert (result["n_test"], result["n_left_out"]) == (7, 0)
    row = next(csv.DictReader(io.StringIO(dvc("exp show --csv", clone))))
    assert float(row["uar"]) == result["uar"]
    assert row["data.name"] == "synthetic"
    said = dvc("plots diff --json", clone)  # before it, that the commit has no plots
    shown = json.loads(said[said.index("{") :])
    assert {"results/confusion.csv", "results/curves.csv"} <= set(map(str, shown["data"]))


def check_that_the_run_cache_brings_folds_together(clone):
    """Each fold run by itself, in the folder of its own that DVC's queue gives it."""
    commit_all(clone)
    said = dvc("exp run --temp -S data.folds=[2]", clone)
    assert stages(said) == ["train", "calibrate", "eval", "summary"]
    said = dvc("exp run -S data.folds=[1,2]", clone)
    assert stages(said) == ["summary"]  # no fold was trained again
    result = json.loads((clone / "results" / "metrics.json").read_text())
    assert (result["n_folds"], result["n_test"]) == (2, 14)
