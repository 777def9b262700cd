"""Whole trainings by the launchers: `--nproc`, two machines of torchrun, a restart after a loss.

All of them end with the model that one process makes alone, but for rounding (tests/test_ranks.py).
"""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from support import FCL, ROOT, SHORT_STEPS, SMALL
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from cli.launch import _machines
from cli.stages import run_calibrate, run_eval, run_train
from safe.errors import ConfigError
from safe.files import die_with_parent
from safe.training.ranks import joined

SETTINGS = [*SMALL, *SHORT_STEPS, *FCL, "train.epochs=3", "runtime.checkpoint_steps=5"]
PARAMS = ROOT / "params.yaml"
TRAIN = ["-m", "cli", "train", "--fold", "1", "--params", str(PARAMS)]
TRAIN += [word for each in SETTINGS for word in ("-S", each)]


def a_folder(project: Path, folder: Path) -> Path:
    """Make a folder to run in, with the project's data."""
    folder.mkdir()
    (folder / "data").symlink_to(project / "data")
    return folder


@pytest.fixture(scope="module")
def alone(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder in which one process trained and evaluated."""
    folder = a_folder(project, tmp_path_factory.mktemp("alone") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_train(PARAMS, SETTINGS, 1)
        evaluate()
    return folder


def evaluate() -> None:
    run_calibrate(PARAMS, SETTINGS, 1)
    run_eval(PARAMS, SETTINGS, 1)


def answers(folder: Path) -> tuple[dict[str, Any], Any, Any]:
    """Read what a run came to: weights, logits of the test clips, figures."""
    fold = folder / "runs" / "synthetic"
    weights = load_file(fold / "train" / "fold-1" / "model.safetensors")
    table = pq.read_table(fold / "eval" / "fold-1" / "predictions.parquet")
    figures = json.loads((fold / "eval" / "fold-1" / "metrics.json").read_text())
    return weights, np.stack(table["logits"].to_pylist()), figures


def check_equal(folder: Path, alone: Path) -> None:
    """Evaluate what ranks made in `folder` (where this process is), and compare."""
    evaluate()
    (ours, logits, figures), (weights, expected, one) = answers(folder), answers(alone)
    for name, value in weights.items():
        np.testing.assert_allclose(ours[name], value, rtol=0, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    assert figures.keys() == one.keys()
    for name in ("war", "uar", "ece", "nll", "brier", "n_test", "error"):
        assert figures[name] == pytest.approx(one[name], rel=1e-4), name


def children(number: int) -> list[int]:
    text = Path(f"/proc/{number}/task/{number}/children").read_text()
    return [int(word) for word in text.split()]


def listening(*numbers: int) -> set[str]:
    """Return the addresses at which processes wait for others to connect."""
    connections = [c for n in numbers for c in psutil.Process(n).net_connections(kind="inet")]
    return {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}


STREAMS = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def test_a_killed_rank_ends_the_others_with_one_line_and_two_machines_of_torchrun_go_on(
    project, alone, tmp_path, monkeypatch
):
    monkeypatch.chdir(a_folder(project, tmp_path / "run"))
    process = subprocess.Popen([sys.executable, *TRAIN, "--nproc", "2"], **STREAMS)
    late = Timer(90, process.kill)  # the line then is empty
    late.start()
    try:
        assert process.stdout is not None
        assert "epoch 1/3" in process.stdout.readline()  # by the first rank alone
        late.cancel()
        ranks = children(process.pid)
        assert len(ranks) == 2
        assert listening(*ranks) == {"127.0.0.1"}  # gloo's; and of the launcher none at all
        assert listening(process.pid) == set()
        os.kill(ranks[1], signal.SIGKILL)
        _, said = process.communicate(timeout=30)
    finally:
        late.cancel()
        process.kill()
    assert process.returncode == 5
    (line,) = said.splitlines()
    assert line.startswith("safe-cli: train: rank 1 of 2 was killed by SIGKILL")
    assert not any(Path(f"/proc/{number}").exists() for number in ranks)
    assert list(Path(".safe", "checkpoints").rglob("*.safetensors"))
    found = train_by_torchrun(machines=2, dies=False)
    said = "".join(words for _, words in found.values())
    assert found.keys() == {0, 1}
    assert "epoch 1/3" not in said
    assert said.count("epoch 3/3") == 1
    check_equal(Path(), alone)


def train_by_torchrun(*, machines: int, dies: bool) -> dict[int, tuple[int, str]]:
    """Let torchrun train with two ranks, on one machine or two that find one another on loopback.

    Returns:
        Of each rank how often it was started again, and what it said.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(machines)]
    agents = [
        context.Process(target=_agent, args=(pipe, machines, endpoint, dies)) for _, pipe in pipes
    ]
    for agent in agents:
        agent.start()
    try:
        assert all(ours.poll(120) for ours, _ in pipes)
        return {rank: told for ours, _ in pipes for rank, told in ours.recv().items()}
    finally:
        for agent in agents:
            agent.join(10)
            agent.kill()


def _agent(pipe: Any, machines: int, endpoint: str, dies: bool) -> None:
    """Do what `torchrun --nnodes MACHINES --max-restarts 1` does, with ranks that are forked."""
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # as docs/scale.md says
    config = LaunchConfig(
        min_nodes=machines,
        max_nodes=machines,
        nproc_per_node=2 // machines,
        run_id="run",
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        max_restarts=1,
        start_method="fork",
    )
    pipe.send(elastic_launch(config, _rank)(dies))


def _rank(dies: bool) -> tuple[int, str]:
    """Train as a rank; the second `dies` after 9 steps, when it runs for the first time."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the agent's, which the fork has too
    die_with_parent()
    starts = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    if dies and starts == 0 and os.environ["RANK"] == "1":
        _kill_after(9)
    with redirect_stdout(StringIO()) as said:
        run_train(PARAMS, SETTINGS, 1)
    return starts, said.getvalue()


def _kill_after(steps: int) -> None:
    from safe.training.loop import Trainer

    step = Trainer.train_step

    def counted(trainer: Trainer, batch: Any) -> None:
        if trainer.step == steps:
            os.kill(os.getpid(), signal.SIGKILL)
        step(trainer, batch)

    Trainer.train_step = counted  # type: ignore[method-assign]


def test_torchrun_starts_the_ranks_again_from_the_last_checkpoint(
    project, alone, tmp_path, monkeypatch
):
    monkeypatch.chdir(a_folder(project, tmp_path / "run"))
    found = train_by_torchrun(machines=1, dies=True)
    assert {rank: starts for rank, (starts, _) in found.items()} == {0: 1, 1: 1}
    check_equal(Path(), alone)


def _meets(rank: int, host: str, port: int, pipe: Any) -> None:
    told = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "MASTER_ADDR": host}
    told |= {"MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    os.environ.update({name: str(value) for name, value in told.items()})
    with joined("cpu") as ranks:
        total = ranks.sum(torch.tensor([rank + 1.0]))
        pipe.send((total.item(), listening(os.getpid())))
        pipe.poll(60)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.9"])
def test_over_machines_the_first_rank_listens_where_the_user_says(host: str) -> None:
    with socket.create_server((host, 0)) as free:
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe() for _ in range(2)]
    ranks = [
        context.Process(target=_meets, args=(rank, host, port, pipe), daemon=True)
        for rank, (_, pipe) in enumerate(pipes)
    ]
    for rank in ranks:
        rank.start()
    assert all(ours.poll(60) for ours, _ in pipes)
    (first, at), (second, beside) = (ours.recv() for ours, _ in pipes)
    for ours, _ in pipes:
        ours.send("go")
    for rank in ranks:
        rank.join(60)
    assert first == second == 3.0
    assert at == {"127.0.0.1", socket.gethostbyname(host)}
    assert beside == {"127.0.0.1"}


@pytest.mark.parametrize(
    "told",
    [
        {"NNODES": "2"},
        {"NNODES": "two"},
        {"NNODES": "2", "NODE_RANK": "2", "MASTER_PORT": "1"},
        {"NNODES": "0"},
    ],
)
def test_machines_that_are_not_named_right(
    told: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="NNODES"):
        _machines()


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid", ""])
def test_no_place_to_meet_is_one_line(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    for name, value in {**told, "MASTER_ADDR": host, "MASTER_PORT": "none"}.items():
        monkeypatch.setenv(name, value if name != "MASTER_PORT" or not host else "29517")
    with pytest.raises(ConfigError, match="MASTER_ADDR") as caught, joined("cpu"):
        pass
    assert "\n" not in str(caught.value)
