"""`dvc repro` from nothing to a table, again with nothing to do, and after a kill."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import DEVNULL

import pytest
import yaml
from conftest import ROOT, TINY
from warm import bin_folder

BIN = Path(sys.executable).parent
ENV = {
    "PATH": f"{BIN}:/usr/bin:/bin",
    "HOME": "/nonexistent",
    "OMP_NUM_THREADS": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    **{
        f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    },
}


def warm_env() -> dict[str, str]:
    """ENV with a `dvc` and a `python` that start fast."""
    return ENV | {"PATH": f"{bin_folder()}:{ENV['PATH']}"}


def run(*command: str, folder: Path, **env: str) -> str:
    env = warm_env() | env
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=400
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = (*TINY, "train.epochs=4", "runtime.workers=1")
    return make_repository(tmp_path_factory.mktemp("clone"), *settings)


def make_repository(folder: Path, *settings: str) -> Path:
    """Make a git repository of the project's files as they are now, with parameters; one commit."""
    copy_project(folder)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    for line in settings:
        key, value = line.split("=")
        section, name = key.split(".")
        params[section][name] = yaml.safe_load(value)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    commit_all(folder)
    return folder


def copy_project(folder: Path) -> None:
    """Copy the project's files as they are now, and the page of plots, which takes seconds."""
    names = run("git", "ls-files", "-co", "--exclude-standard", folder=ROOT).splitlines()
    names += [str(page.relative_to(ROOT)) for page in (ROOT / ".safe").glob("plots*.html")]
    for name in names:
        made = name == "dvc.lock" or name.startswith("results/")  # by a run in this very folder
        if (ROOT / name).is_file() and not made:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def commit_all(folder: Path) -> None:
    """Make a folder a git repository of one commit."""
    run("git", "init", "-q", "-b", "main", folder=folder)
    run("git", "add", "-A", folder=folder)
    run("git", "commit", "-qm", "start", folder=folder)


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


def wait_for(condition, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.05)


def test_killed_in_train_it_leaves_nothing_behind_and_goes_on(clone):
    with subprocess.Popen(
        [str(BIN / "dvc"), "repro"],
        cwd=clone,
        env=ENV,
        stdout=DEVNULL,
        stderr=DEVNULL,
        start_new_session=True,
    ) as dvc:
        state = clone / ".safe" / "checkpoints"
        wait_for(lambda: list(state.rglob("*.safetensors")), 300, "the first checkpoint")
        assert len(processes(clone)) > 1
        os.kill(dvc.pid, signal.SIGKILL)
    wait_for(lambda: not processes(clone), 20, "the stage to end with DVC")
    assert not (clone / "results" / "metrics.json").exists()

    said = run("dvc", "repro", folder=clone)
    assert "train: fold 1, epoch 4/4" in said
    assert "train: fold 1, epoch 1/4" not in said  # it went on, it did not begin again
    assert not list(state.rglob("*.safetensors"))
    info = json.loads((clone / "runs/synthetic/train/fold-1/model.json").read_text())
    assert len(info["history"]) == 4


def test_again_there_is_nothing_to_do(clone):
    run("dvc", "repro", folder=clone)
    assert "Data and pipelines are up to date." in run("dvc", "repro", folder=clone)
    assert "up to date" in run("dvc", "status", folder=clone)
    changed = run("git", "status", "--porcelain", folder=clone).splitlines()
    assert {line.split()[-1] for line in changed} == {"dvc.lock", "results/"}


def test_what_comes_out(clone):
    run("dvc", "repro", folder=clone)
    result = json.loads((clone / "results" / "metrics.json").read_text())
    assert (result["dataset"], result["n_folds"], result["selection"]) == ("synthetic", 1, "last")
    assert (result["n_test"], result["n_left_out"]) == (7, 0)
    table = run("dvc", "exp", "show", "--csv", folder=clone)
    row = next(csv.DictReader(io.StringIO(table)))
    assert float(row["uar"]) == result["uar"]
    assert row["data.name"] == "synthetic"
    shown = json.loads(run("dvc", "plots", "diff", "--json", folder=clone) or "{}")
    assert {"results/confusion.csv", "results/curves.csv"} <= set(map(str, shown.get("data", {})))


def test_the_queue_takes_folds_and_the_run_cache_brings_them_together(clone):
    run("git", "add", "-A", folder=clone)
    run("git", "commit", "-qm", "ran", folder=clone)
    run("dvc", "exp", "run", "--queue", "-S", "data.folds=[2]", folder=clone)
    work_off_queue(clone)
    said = run("dvc", "exp", "run", "-S", "data.folds=[1,2]", folder=clone)
    assert said.count("is cached - skipping run") + said.count("didn't change, skipping") >= 6
    assert "epoch" not in said  # no fold was trained again
    result = json.loads((clone / "results" / "metrics.json").read_text())
    assert (result["n_folds"], result["n_test"]) == (2, 14)


def work_off_queue(clone: Path) -> str:
    """Have DVC run what is queued; give its table in the end."""
    # The worker keeps the streams, and lives on for half a minute when there is nothing to do.
    started = subprocess.run(["dvc", "queue", "start"], cwd=clone, env=warm_env(), stdout=DEVNULL)
    assert started.returncode == 0
    end = time.monotonic() + 300
    while re.search("Queued|Running", said := run("dvc", "queue", "status", folder=clone)):
        assert time.monotonic() < end, said
        time.sleep(3)  # each look takes a second of the core that the queue could have
    return said
