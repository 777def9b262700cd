"""Checkpoints: exact round trip, whole or not at all, the one before when the last is damaged."""

from pathlib import Path

import pytest
import torch

from safe.errors import ModelError
from safe.training.checkpoint import (
    LOCK,
    fingerprint,
    load_checkpoint,
    optimizer_tensors,
    remove_checkpoints,
    restore_optimizer,
    save_checkpoint,
)


def test_round_trip_is_exact(tmp_path):
    tensors = {
        "a/b": torch.randn(3, 4, 5, 6, 7).to(memory_format=torch.channels_last_3d),
        "bytes": torch.randint(0, 256, (5,), dtype=torch.uint8),
        "half": torch.randn(3).to(torch.bfloat16),
        "none": torch.zeros(0, 4),
        "scalar": torch.tensor(7),
        "yes": torch.tensor([True, False]),
    }
    state = {"step": 3, "history": [{"loss": 0.1}]}
    save_checkpoint(tmp_path / "x", tensors, state)
    loaded, loaded_state = load_checkpoint(tmp_path / "x")
    assert loaded_state == state
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert names(tmp_path / "x") == ["0000000003.safetensors"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def save_steps(folder: Path, *steps: int) -> list[Path]:
    for step in steps:
        save_checkpoint(folder, {"a": torch.full((100,), float(step))}, {"step": step})
    return [folder / f"{step:010d}.safetensors" for step in steps]


def test_the_last_two_are_kept_and_none_after_success(tmp_path):
    assert load_checkpoint(tmp_path / "nowhere") is None
    paths = save_steps(tmp_path, 9, 10, 200)
    (tmp_path / LOCK).touch()
    assert names(tmp_path) == ["0000000010.safetensors", "0000000200.safetensors", LOCK]
    assert load_checkpoint(tmp_path)[1] == {"step": 200}
    paths[2].with_name(".0000000210.safetensors.1.tmp").touch()  # of a process that was killed
    remove_checkpoints(tmp_path)
    assert names(tmp_path) == [LOCK]


def cut(data: bytes) -> bytes:
    return data[:-50]


def flip_a_weight(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def alter_the_step(data: bytes) -> bytes:
    assert data.count(b'{\\"step\\": 20}') == 1
    return data.replace(b'{\\"step\\": 20}', b'{\\"step\\": 21}')


def empty(data: bytes) -> bytes:
    return b""


def huge_header(data: bytes) -> bytes:
    return b"\xff" * 8 + data[8:]


@pytest.mark.parametrize("damage", [cut, flip_a_weight, alter_the_step, empty, huge_header])
def test_a_damaged_last_one_falls_back_to_the_one_before_and_says_so(tmp_path, damage):
    before, last = save_steps(tmp_path, 10, 20)
    last.write_bytes(damage(last.read_bytes()))
    notes: list[str] = []
    tensors, state = load_checkpoint(tmp_path, notes.append)
    assert state == {"step": 10}
    assert torch.equal(tensors["a"], torch.full((100,), 10.0))
    (note,) = notes
    assert "damaged checkpoint (0000000020.safetensors: " in note
    assert note.endswith("going on from 0000000010.safetensors")
    assert "\n" not in note
    save_steps(tmp_path, 15)  # the run that went on: the damaged file is of no use to it
    assert names(tmp_path) == [before.name, "0000000015.safetensors"]


def test_with_none_left_whole_the_run_stops_and_says_what_to_do(tmp_path):
    for path in save_steps(tmp_path, 10, 20):
        path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(ModelError, match=r"no checkpoint is readable.*delete the folder") as error:
        load_checkpoint(tmp_path)
    assert all(f"{step:010d}" in str(error.value) for step in (10, 20))
    assert "\n" not in str(error.value)


def test_an_error_while_writing_leaves_the_ones_before(tmp_path):
    save_steps(tmp_path, 1, 2)
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, {"a": torch.zeros(2)}, {"step": 3, "what": object()})
    assert names(tmp_path) == ["0000000001.safetensors", "0000000002.safetensors"]
    assert load_checkpoint(tmp_path)[1] == {"step": 2}


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
    save_checkpoint(tmp_path / "c", optimizer_tensors(first[1]), {"step": 3})
    second = make()
    second[0].load_state_dict(first[0].state_dict())
    restore_optimizer(second[1], load_checkpoint(tmp_path / "c")[0])
    for number in range(3, 6):
        step(*second, number)
    assert torch.equal(whole[0].weight, second[0].weight)


def test_fingerprints_follow_the_content_not_the_order():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
