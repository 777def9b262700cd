"""Several ranks on loopback do what one does with the same batch."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import (
    EIGHT_LABELS,
    FCL,
    SHORT_STEPS,
    backward,
    build_acl,
    build_small,
    eight_clips,
    gradients,
    small_config,
)
from torch import Tensor, nn

from safe.errors import ConfigError, ModelError
from safe.models.safe import Output
from safe.shards.folder import open_shards
from safe.shards.loader import load_batches
from safe.training.loop import Trainer
from safe.training.passes import recompute
from safe.training.ranks import ALONE, Ranks, joined
from safe.training.train import train


def on_ranks(count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Run work(ranks, *arguments) in `count` processes that joined; give what each returned."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    processes = [
        context.Process(target=_rank, args=(rank, count, port, pipe[1], work, arguments))
        for rank, pipe in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    try:
        assert all(ours.poll(60) for ours, _ in pipes)
        return [ours.recv() for ours, _ in pipes]
    finally:
        for process in processes:
            process.join(10)
            process.kill()


def _rank(rank: int, count: int, port: int, pipe: Any, work: Any, arguments: tuple[Any]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with joined("cpu") as ranks:
        pipe.send(work(ranks, *arguments))


def test_a_process_that_no_launcher_started_is_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")  # of Slurm: no rank, so no launcher of ranks
    monkeypatch.delenv("RANK", raising=False)
    with joined("cpu") as ranks:
        assert ranks is ALONE
        assert ranks.first
    x = torch.arange(6)
    assert ranks.gather(x) is x
    assert torch.equal(ranks.own(x), x)


def test_ranks_that_would_meet_the_dead_of_the_last_start_are_refused(monkeypatch):
    for name, value in [("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")]:
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    with pytest.raises(ConfigError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"), joined("cpu"):
        pass


def _talk(ranks: Ranks) -> list[Any]:
    x = torch.arange(12).view(6, 2)
    back = ranks.gather(ranks.own(x))
    parts = [torch.full((2, 3), float(ranks.rank)), torch.tensor(float(10**ranks.rank))]
    ranks.sum_each(parts)
    errors = []
    for name, step in [("ab", 4), ("a" * 15 + str(2 * ranks.rank), 4), ("ab", ranks.rank)]:
        try:
            ranks.check_same(name, step, torch.device("cpu"))
        except ModelError as error:
            errors.append(str(error))
    return [ranks.own(x)[:, 0].tolist(), back.tolist(), [p.tolist() for p in parts], errors]


def test_ranks_share_gather_sum_and_notice_that_they_are_not_of_one_run():
    for rank, (own, back, sums, errors) in enumerate(on_ranks(3, _talk)):
        assert own == [2 * rank, 2 * rank + 6]
        assert back == torch.arange(12).view(6, 2).tolist()
        assert sums == [[[3.0] * 3] * 2, 111.0]
        assert len(errors) == 2
        assert "the same run" in errors[0]
        assert "different steps, [0, 1, 2]" in errors[1]


def _normalize(ranks: Ranks, x: Tensor, recomputed: bool) -> list[Any]:
    torch.manual_seed(1)
    norm = nn.BatchNorm3d(x.shape[1]) if x.ndim == 5 else nn.BatchNorm1d(x.shape[1])
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    net = nn.Sequential(norm.double(), nn.Tanh())
    ranks.share_layers(net, sync_bn=True)
    own = ranks.own(x).clone().requires_grad_()
    out = net(own)
    (out * ranks.own(x.roll(1, 0))).sum().backward()
    ranks.sum_each([norm.weight.grad, norm.bias.grad])
    tensors = [ranks.gather(out.detach()), ranks.gather(own.grad), norm.weight.grad]
    tensors += [norm.bias.grad, *norm.buffers(), net.eval()(x).detach()]
    return [tensor.numpy() for tensor in tensors]


@pytest.mark.parametrize("shape", [(6, 3, 2, 4, 5), (12, 4)])
def test_the_synchronised_norm_is_torchs_norm_of_the_whole_batch(shape):
    x = torch.randn(shape, dtype=torch.float64) * 3 + 5
    expected = _normalize(ALONE, x, False)
    for found in on_ranks(2, _normalize, x, False):
        for ours, torchs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, torchs, rtol=1e-9, atol=1e-12)


def _average(ranks: Ranks) -> list[Any]:
    norm = nn.BatchNorm1d(2)
    norm.running_mean += ranks.rank
    norm.running_var *= 4**ranks.rank
    ranks.average_statistics(nn.Sequential(norm))
    return [norm.running_mean.tolist(), norm.running_var.tolist()]


def test_norms_that_are_not_synchronised_share_the_mean_of_their_statistics():
    assert on_ranks(2, _average) == [[[0.5, 0.5], [2.5, 2.5]]] * 2


def _pull(ranks: Ranks, x: Tensor, seeds: list[int], again: bool) -> list[Any]:
    model, acl = build_small().train(), build_acl()
    if again:
        recompute(model)
    ranks.share_layers(model, sync_bn=True)
    arguments = {"precision": torch.float64, "seeds": seeds, "ranks": ranks}
    losses, logits = backward(model, acl, ranks.own(x), EIGHT_LABELS, **arguments)
    return [gradients(model, acl).numpy(), logits.numpy(), [v.item() for v in losses.values()]]


@pytest.mark.parametrize(("seeds", "again"), [([5], False), ([5], True), ([5, 3], False)])
def test_the_gradient_is_that_of_the_whole_batch_with_fcl_norm_and_dropout(seeds, again):
    x = eight_clips()
    gradient, logits, losses = _pull(ALONE, x, seeds, again)
    found = on_ranks(2, _pull, x, seeds, again)
    assert np.array_equal(found[0][0], found[1][0])  # so that ranks never drift apart
    for ours, our_logits, our_losses in found:
        assert np.linalg.norm(ours - gradient) < 1e-10 * np.linalg.norm(gradient)
        np.testing.assert_allclose(our_logits, logits, rtol=1e-9)
        np.testing.assert_allclose(our_losses, losses, rtol=1e-9)


def _train(
    ranks: Ranks, project: Path, shards: Path, overrides: list[str], steps: int, double: bool
) -> Any:
    trainer = Trainer(
        small_config(project, *SHORT_STEPS, *overrides), open_shards(shards), 1, ranks
    )
    if double:
        trainer.model.double().register_forward_pre_hook(lambda _, given: (given[0].double(),))
        trainer.acl.double()
    rows = []
    for batch in islice(load_batches(trainer.folder, trainer.plan(0), workers=0), steps):
        rows.append(batch["row"].tolist())
        trainer.train_step(batch)
        if trainer.step % trainer.steps == 0 and not double:
            trainer.end_epoch(1.0, trainer.steps)
    tensors = {name: value.numpy() for name, value in trainer.tensors().items()}
    return tensors, trainer.history, rows


def test_thirty_steps_give_the_parameters_of_one_rank(project, shards):
    count = 3
    settings = (project, shards, [*FCL, "train.epochs=8", "train.select=test"], 30, False)
    expected, history, rows = _train(ALONE, *settings)
    assert len(history) == 7
    start = Trainer(small_config(project, *SHORT_STEPS, *FCL), open_shards(shards), 1).tensors()
    moved = [np.abs(expected[name] - value.numpy()).max() for name, value in start.items()
             if name.startswith("model/") and name.endswith("weight")]  # fmt: skip
    assert min(moved) > 3e-5  # three times what is allowed below
    found = on_ranks(count, _train, *settings)
    for tensors, our_history, _ in found:
        assert tensors.keys() == expected.keys()
        for name in expected:
            if not name.startswith("optimizer/"):
                sums = name.startswith("tally/")  # of losses, some units large
                np.testing.assert_allclose(
                    tensors[name], expected[name], rtol=1e-5 * sums, atol=1e-5, err_msg=name
                )
            assert np.array_equal(tensors[name], found[0][0][name]), name
        for ours, one in zip(our_history, history, strict=True):
            assert ours == pytest.approx(one, rel=1e-4)
    shares = [found[rank][2] for rank in range(count)]
    whole = [sorted(chain(*step)) for step in zip(*shares, strict=True)]
    assert whole == [sorted(step) for step in rows]
    assert len(set(chain(*rows[:4]))) == 48  # 4 steps an epoch: each clip once over all ranks


def test_at_the_full_rate_float64_shows_that_only_rounding_differs(project, shards):
    settings = (project, shards, [*FCL, "train.lr=0.001"], 12, True)
    expected, _, _ = _train(ALONE, *settings)
    for tensors, _, _ in on_ranks(3, _train, *settings):
        for name in expected:
            np.testing.assert_allclose(tensors[name], expected[name], rtol=0, atol=1e-9)


def _weights(
    ranks: Ranks, project: Path, shards: Path, overrides: list[str], order: Tensor | None = None
) -> Any:
    """Train 12 steps at the full rate, the clips within a batch in `order`; give all weights."""
    overrides = [*FCL, "model.dropout=0", "train.lr=0.001", *overrides]
    trainer = Trainer(
        small_config(project, *SHORT_STEPS, *overrides), open_shards(shards), 1, ranks
    )
    if order is not None:
        forward, back = trainer.model.forward, order.argsort()
        trainer.model.forward = lambda x: Output(*(part[back] for part in forward(x[order])))
    for batch in islice(load_batches(trainer.folder, trainer.plan(0), workers=0), 12):
        trainer.train_step(batch)
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()]).numpy()


def test_in_float32_at_the_full_rate_ranks_differ_from_one_no_more_than_one_from_itself(
    project, shards
):
    """The same clips in another order within the batch are the same step but for rounding."""
    one = _weights(ALONE, project, shards, [])

    def distance(other: Any) -> float:
        return float(np.sqrt(np.square(one - other, dtype=np.float64).mean()))

    orders = [torch.randperm(12, generator=torch.Generator().manual_seed(s)) for s in range(2)]
    itself = [distance(_weights(ALONE, project, shards, [], order)) for order in orders]
    ranks = distance(on_ranks(2, _weights, project, shards, [])[0])
    own_norm = distance(on_ranks(2, _weights, project, shards, ["train.sync_bn=false"])[0])
    assert 0 < ranks < 2 * max(itself)
    assert own_norm > 6 * max(itself)  # so that a mistake in the step would show


def _run(
    ranks: Ranks, project: Path, shards: Path, out: Path, stop: int | None, *changes: str
) -> bool:
    places = {"shards": shards, "out": out / "model", "checkpoints": out / "checkpoints"}
    config = small_config(project, *SHORT_STEPS, *FCL, "train.epochs=1", *changes)
    return train(config, fold=1, commit="none", stop_after=stop, ranks=ranks, **places)


def test_another_number_of_ranks_goes_on_from_the_checkpoint(project, shards, tmp_path):
    assert _run(ALONE, project, shards, tmp_path / "one", None)
    parts = tmp_path / "parts"
    assert on_ranks(2, _run, project, shards, parts, 2) == [False, False]
    (kept,) = (parts / "checkpoints").rglob("*.safetensors")
    assert kept.name == "0000000002.safetensors"
    assert on_ranks(3, _run, project, shards, parts, 3) == [False] * 3
    assert _run(ALONE, project, shards, parts, None)
    one, ours = (load_file(p / "model" / "model.safetensors") for p in (tmp_path / "one", parts))
    for name, value in one.items():
        assert torch.allclose(ours[name], value, rtol=0, atol=1e-5), name
    assert not list((parts / "checkpoints").rglob("*.safetensors"))


def test_ranks_compute_the_same_with_a_compiled_network(project, shards, tmp_path, monkeypatch):
    """With the backend that runs what was traced as it stands: a real one is slow to start."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    short, both = "train.batch=28", tmp_path / "both"
    assert _run(ALONE, project, shards, tmp_path / "one", None, short)
    compiled = on_ranks(2, _run, project, shards, both, None, short, "train.compile=true")
    assert compiled == [True, True]
    one, two = (load_file(p / "model" / "model.safetensors") for p in (tmp_path / "one", both))
    for name, value in one.items():
        assert torch.allclose(two[name], value, rtol=0, atol=1e-5), name


def test_what_ranks_cannot_share_is_one_clear_line(project, shards):
    folder = open_shards(shards)
    with pytest.raises(ConfigError, match=r"12: must be a multiple .* 3 x 5$"):
        Trainer(small_config(project, *SHORT_STEPS, "train.accumulate=3"), folder, 1, Ranks(0, 5))
