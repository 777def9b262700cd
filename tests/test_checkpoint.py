"""Checkpoints: exact round trip, whole or not at all, one process a run."""

import subprocess
import sys

import pytest
import torch

from safe.checkpoint import (
    fingerprint,
    load_checkpoint,
    only_one,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from safe.errors import ModelError


def test_round_trip_is_exact(tmp_path):
    tensors = {
        "a/b": torch.randn(3, 4, 5, 6, 7).to(memory_format=torch.channels_last_3d),
        "bytes": torch.randint(0, 256, (5,), dtype=torch.uint8),
        "scalar": torch.tensor(7),
    }
    state = {"step": 3, "history": [{"loss": 0.1}]}
    save_checkpoint(tmp_path / "x" / "last.safetensors", tensors, state)
    loaded, loaded_state = load_checkpoint(tmp_path / "x" / "last.safetensors")
    assert loaded_state == state
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["last.safetensors"]


def test_missing_is_none_and_damaged_is_one_line(tmp_path):
    path = tmp_path / "last.safetensors"
    assert load_checkpoint(path) is None
    save_checkpoint(path, {"a": torch.zeros(100)}, {})
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ModelError, match="damaged checkpoint; delete it"):
        load_checkpoint(path)


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, {"a": torch.ones(2)}, {"step": 1})
    with pytest.raises(TypeError):
        save_checkpoint(path, {"a": torch.zeros(2)}, {"step": object()})
    assert load_checkpoint(path)[1] == {"step": 1}


def test_an_optimizer_goes_on_exactly(tmp_path):
    def make() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        net = torch.nn.Linear(4, 2)
        return net, torch.optim.AdamW(net.parameters(), lr=0.1)

    def step(net: torch.nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
        optimizer.zero_grad()
        (net(torch.full((3, 4), float(number))) ** 2).sum().backward()
        optimizer.step()

    whole = make()
    for number in range(6):
        step(*whole, number)
    first = make()
    for number in range(3):
        step(*first, number)
    save_checkpoint(tmp_path / "c", optimizer_tensors(first[1]), {})
    second = make()
    second[0].load_state_dict(first[0].state_dict())
    restore_optimizer(second[1], load_checkpoint(tmp_path / "c")[0])
    for number in range(3, 6):
        step(*second, number)
    assert torch.equal(whole[0].weight, second[0].weight)


def test_fingerprints_follow_the_content_not_the_order():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_a_run_belongs_to_one_process(tmp_path):
    hold = (
        "import sys; from pathlib import Path; from safe.checkpoint import only_one\n"
        "with only_one(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(ModelError, match=f"process {other.pid} is training"),
            only_one(tmp_path),
        ):
            pass
        other.communicate()
    with only_one(tmp_path):
        pass
