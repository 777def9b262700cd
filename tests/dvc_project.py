"""A copy of the project as a repository of git and DVC; DVC with its stages in this process."""

import io
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from support import ROOT, call

from cli.layout import plots_page

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


def copy_project(folder: Path) -> None:
    """Copy the project's files as they are; the page of plots, which takes seconds, is empty."""
    for name in run("git", "ls-files", "-co", "--exclude-standard", folder=ROOT).splitlines():
        made = name == "dvc.lock" or name.startswith("results/")  # by a run in this very folder
        if (ROOT / name).is_file() and not made:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    with chdir(folder):
        plots_page().parent.mkdir()
        plots_page().touch()


def set_params(folder: Path, *settings: str) -> None:
    """Write settings, SECTION.KEY=VALUE, into a folder's params.yaml."""
    params = yaml.safe_load((folder / "params.yaml").read_text())
    for line in settings:
        key, value = line.split("=")
        section, name = key.split(".")
        params[section][name] = yaml.safe_load(value)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def commit_all(folder: Path, *, init: bool = False) -> None:
    """Commit all files of a folder; make it a git repository first, with `init`."""
    if init:
        run("git", "init", "-q", "-b", "main", folder=folder)
    run("git", "add", "-A", folder=folder)
    run("git", "commit", "-qm", "as it is", folder=folder)


def make_repository(folder: Path, *settings: str) -> Path:
    """Make a git repository of the project's files as they are now, with parameters; one commit."""
    folder.mkdir(exist_ok=True)
    copy_project(folder)
    set_params(folder, *settings)
    commit_all(folder, init=True)
    return folder


def copy_repository(source: Path, folder: Path, *settings: str) -> Path:
    """Copy a repository with all that DVC made and cached in it; set parameters, commit them."""
    run("cp", "-a", str(source), str(folder), folder=source)
    set_params(folder, *settings)
    run("git", "commit", "-qam", "as it is", "--allow-empty", folder=folder)
    return folder


def run(*command: str, folder: Path, **env: str) -> str:
    """Run a command in a process of its own; return what it said."""
    done = subprocess.run(
        command, cwd=folder, env=ENV | env, capture_output=True, text=True, check=False, timeout=400
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def dvc(line: str, folder: Path, *, fails: bool = False, **env: str) -> str:
    """Do what `dvc LINE` does in a folder, with its stages, in this process; return what it said.

    DVC's own code decides what is run, restored and stored, of the repository that is there. In
    place of a shell with a new Python, a stage is a call of its verb.
    """
    out = io.StringIO()
    with (
        chdir(folder),
        mock.patch.dict(os.environ, {**ENV, "DVC_TEST": "true", "COLUMNS": "150", **env}),
        redirect_stdout(out),
        redirect_stderr(out),
        warnings.catch_warnings(action="ignore"),
    ):
        from dvc.cli import main  # takes over the streams that there are when it is imported

        revive_loggers()
        handlers = [each for each in logging.getLogger("dvc").handlers if hasattr(each, "stream")]
        for handler in handlers:
            handler.stream = out
        with mock.patch("dvc.stage.run._run", run_stage):
            code = main(shlex.split(line))
    assert (code != 0) == fails, f"dvc {line}: {code}\n{out.getvalue()[-5000:]}"
    return out.getvalue()


def revive_loggers() -> None:
    """Let DVC speak again, whatever another library did to the loggers of this process."""
    logging.disable(logging.NOTSET)
    for name, logger in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] == "dvc" and isinstance(logger, logging.Logger):
            logger.disabled = False
            logger.setLevel(logging.INFO if name == "dvc" else logging.NOTSET)


def run_stage(_shell: str, command: str, *, cwd: str, env: dict[str, str], **_: Any) -> None:
    """Stand for DVC's function that gives a stage's command to a shell."""
    from dvc.stage.exceptions import StageCmdFailedError

    words = shlex.split(command)
    assert words[:4] == ["exec", "python", "-m", "cli"]
    logger = logging.getLogger("dvc")
    level = logger.level
    with mock.patch.dict(os.environ, env):
        done = call(*words[4:], folder=Path(cwd))
    logger.setLevel(level)  # dvclive, which train uses, has raised it
    print(done.stdout, done.stderr, sep="", end="")  # noqa: T201
    if done.returncode:
        raise StageCmdFailedError(command, done.returncode)


def stages(said: str) -> list[str]:
    """Return the stages that DVC ran, of what it said."""
    return [line.split()[5] for line in said.splitlines() if line.startswith("> exec")]


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.05)


def work_off_queue(folder: Path) -> str:
    """Have DVC run what is queued, in processes of its own; give its table in the end."""
    # The worker keeps the streams, and lives on for half a minute when there is nothing to do.
    started = subprocess.run(
        ["dvc", "queue", "start"], cwd=folder, env=ENV, stdout=subprocess.DEVNULL
    )
    assert started.returncode == 0
    runs = folder / ".dvc" / "tmp" / "exps" / "run"
    wait_for(
        lambda: any('"returncode": null' not in each.read_text() for each in runs.glob("*/*.json")),
        300,
        "the end of a run",
    )
    end = time.monotonic() + 300
    while re.search("Queued|Running", said := dvc("queue status", folder)):
        assert time.monotonic() < end, said
        time.sleep(1)
    return said
