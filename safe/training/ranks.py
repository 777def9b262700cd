"""Ranks: the processes that train one model together, and what they say to each other.

`safe-cli train --nproc`, or torchrun, starts a process a rank and tells each its number in the
environment. Clip i of a batch is that of rank i mod n, as in safe/shards/order.py. Everything
random is drawn for the whole batch by every rank, and the loss is that of the whole batch, so what
one rank does with a batch, several do too, each with its own clips. The rest of the code knows
`Ranks` alone, of which one that is ALONE sends and copies nothing.
Shapes: B clips of the whole batch, C channels.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C._distributed_c10d import FileStore, Store, TCPStore
from torch.nn.modules.batchnorm import _BatchNorm

from safe.errors import ConfigError, ModelError, ProcessError
from safe.training.device import pick_device

_PATIENCE: Final = timedelta(hours=12)
"""How long a rank waits for a living one, such as the first, that reads all shards before the
start. One that ended is noticed otherwise: its connections close, and the launcher ends all."""

_CALL: Final = timedelta(minutes=10)
"""How long a rank calls one on another machine that does not listen yet."""

_GRACE: Final = 5.0
"""Seconds in which a launcher ends a rank that lost another; only that other one has a message."""


@dataclass(frozen=True)
class Ranks:
    """This process among the `count` that train together."""

    rank: int = 0
    count: int = 1
    local: int = 0
    """Number on its machine, from 0: which of the GPUs there is its own."""

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and speaks to people."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """Turn runtime.device into this rank's device: of several, each has a GPU of its own.

        Raises:
            ConfigError: if there is none for it, or the name is that of one GPU.
        """
        device = pick_device(name)
        if self.count == 1 or device.type != "cuda":
            return device
        if device.index is not None:
            raise ConfigError(
                f"params: runtime.device = {name}: each of the {self.count} ranks takes a GPU of "
                "its own; use cuda"
            )
        if self.local >= torch.cuda.device_count():
            raise ConfigError(
                f"params: runtime.device = {name}: no GPU for rank {self.rank}, this machine has "
                f"{torch.cuda.device_count()}; start fewer ranks, or use cpu"
            )
        return torch.device("cuda", self.local)

    @property
    def share(self) -> slice:
        """Which clips of a whole batch are this rank's."""
        return slice(self.rank, None, self.count)

    def own(self, batch: Tensor) -> Tensor:
        """View this rank's clips of a whole batch: [B, ...] to [B / count, ...]."""
        return batch[self.share]

    def gather(self, share: Tensor) -> Tensor:
        """Undo `own`: bring the shares of all ranks together, [B / count, ...] to [B, ...].

        Passes no gradient; safe/training/passes.py says how the loss's gets through.
        """
        if self.count == 1:
            return share
        shares = share.new_empty(self.count * len(share), *share.shape[1:])
        dist.all_gather_into_tensor(shares, share.contiguous())
        return shares.view(self.count, *share.shape).movedim(0, 1).flatten(0, 1)

    def sum(self, values: Tensor) -> Tensor:
        """Add up over the ranks, in place; all get the same bits."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def sum_each(self, tensors: list[Tensor]) -> None:
        """Add up each of many tensors of one dtype over the ranks, in place, in one message."""
        if self.count == 1 or not tensors:
            return
        flat = self.sum(torch.cat([tensor.flatten() for tensor in tensors]))
        sums = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, total in zip(tensors, sums, strict=True):
            tensor.copy_(total.view(tensor.shape))

    def sum_gradients(self, model: nn.Module, loss: nn.Module) -> None:
        """Add up the model's gradients; each rank has all of the loss's, so the first's count."""
        if self.count == 1:
            return
        whole = [p.grad for p in loss.parameters() if p.grad is not None]
        if not self.first:
            for gradient in whole:
                gradient.zero_()
        self.sum_each([*whole, *(p.grad for p in model.parameters() if p.grad is not None)])

    def share_layers(self, model: nn.Module, *, sync_bn: bool) -> None:
        """Let the layers that look at a whole batch, or draw for it, work on this rank's share.

        In place. Dropout draws for the whole batch and takes its own rows. BatchNorm takes mean and
        variance over the clips of all ranks if `sync_bn`, else over its own. Only `forward` is
        replaced: names, state and what evaluation does stay. torch.nn.SyncBatchNorm does the same
        on GPUs only.
        """
        for module in model.modules() if self.count > 1 else ():
            if isinstance(module, nn.Dropout):
                module.forward = partial(_drop, module, self)  # type: ignore[method-assign]
            elif sync_bn and isinstance(module, _BatchNorm):
                alone = module.forward
                module.forward = partial(_normalize, module, self, alone)  # type: ignore[method-assign]

    def average_statistics(self, model: nn.Module) -> None:
        """Give every BatchNorm the mean of all ranks' running statistics: ranks stay one model.

        For norms that are not synchronised; those that are have the same already.
        """
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        running = [values for norm in norms for values in (norm.running_mean, norm.running_var)]
        kept = [values for values in running if values is not None]
        self.sum_each(kept)
        for values in kept:
            values /= self.count

    def check_same(self, name: str, step: int, device: torch.device) -> None:
        """Wait for all ranks and make sure that they are about to do the same.

        Args:
            name: of the run, hex digits, at most 16.
            step: where it goes on.
            device: of this rank.

        Raises:
            ModelError: on every rank, if one differs from another.
        """
        said = torch.tensor([[int(name, 16) >> 1, step]], device=device)
        runs, steps = self.gather(said).T.tolist()
        if len(set(runs)) > 1:
            raise ModelError(
                f"the {self.count} ranks are not about to train the same run; params.yaml, shards, "
                "code and torch must be the same on all machines"
            )
        if len(set(steps)) > 1:
            raise ModelError(
                f"the ranks found checkpoints of different steps, {steps}; the folder of "
                "checkpoints must be one that all machines see"
            )


ALONE: Final = Ranks()
"""A process that trains by itself."""


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the ranks that a launcher started; without a launcher this process is alone.

    What is on a GPU goes by NCCL, what is on a CPU by gloo; where all ranks are on one machine, on
    loopback alone.

    Args:
        device: runtime.device.

    Raises:
        ConfigError: if there is no GPU for this rank, if ranks that are started again could meet
            those that ended, or if MASTER_ADDR and MASTER_PORT are no place to meet.
        ProcessError: if another rank ended, unless the launcher ends this one first.
    """
    known = os.environ
    if "RANK" not in known or int(known.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    _check_store()
    ranks = Ranks(int(known["RANK"]), int(known["WORLD_SIZE"]), int(known["LOCAL_RANK"]))
    where = ranks.device(device)
    try:
        if where.type == "cuda":
            torch.cuda.set_device(where)
        way = "cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo"
        if int(known.get("LOCAL_WORLD_SIZE", "1")) == ranks.count and (name := _loopback()):
            known.setdefault("GLOO_SOCKET_IFNAME", name)
            known.setdefault("NCCL_SOCKET_IFNAME", name)
        if "TORCHELASTIC_RUN_ID" in known:  # torchrun has a store of its own
            dist.init_process_group(way, timeout=_PATIENCE)
        else:
            dist.init_process_group(
                way,
                store=_meet(ranks),
                rank=ranks.rank,
                world_size=ranks.count,
                timeout=_PATIENCE,
            )
        yield ranks
    except RuntimeError as error:
        if not _is_loss(error):
            raise
        time.sleep(_GRACE)
        raise ProcessError(
            f"rank {ranks.rank}: another rank ended or is out of reach, and its own message says "
            "why; started again, the run goes on from its last checkpoint"
        ) from error
    dist.destroy_process_group()


def _loopback() -> str | None:
    """Return the name of the interface that no other machine reaches: lo, on macOS lo0."""
    names = (name for _, name in socket.if_nameindex())
    return next((name for name in names if name in ("lo", "lo0")), None)


def _meet(ranks: Ranks) -> Store:
    """Return where ranks tell one another their addresses; nothing that they read is unpickled.

    On one machine a file that only this user can open. Else the first rank listens, at MASTER_ADDR
    and nowhere else: torch by itself listens on every interface.
    """
    known = os.environ
    if file := known.get("SAFE_RANKS"):
        return FileStore(file, ranks.count)
    host, port = known.get("MASTER_ADDR", ""), known.get("MASTER_PORT", "")
    listening = None
    try:
        if ranks.first:
            family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, socket.SOCK_STREAM) as bound:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                bound.bind(place)
                listening = bound.detach()
        return TCPStore(
            host,
            int(port),
            ranks.count,
            is_master=ranks.first,
            timeout=_PATIENCE if ranks.first else _CALL,
            master_listen_fd=listening,
        )
    except (OSError, ValueError, dist.DistError) as error:
        said = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise ConfigError(
            f"MASTER_ADDR={host} MASTER_PORT={port}: the ranks cannot meet there ({said}); name an "
            "address of the first machine and a free port of it"
        ) from error


def _check_store() -> None:
    """Refuse a torchrun that restarts ranks but keeps its store: it has the addresses of the dead.

    A rank that reads them before the living one wrote its own ends, or waits for ever (pytorch
    issue 135712).
    """
    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if kept and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0:
        raise ConfigError(
            "torchrun --max-restarts: ranks that start again could meet those that ended; set "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun, and use --rdzv-backend c10d"
        )


def _is_loss(error: RuntimeError) -> bool:
    """Tell whether the ranks can no longer speak; gloo says so in words only."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # ranks talk within
def _drop(dropout: nn.Dropout, ranks: Ranks, x: Tensor) -> Tensor:
    """Draw as one rank would for all B rows, and keep every count-th: x is [B / count, ...]."""
    if not dropout.training:
        return x
    whole = x.new_ones(len(x) * ranks.count, *x.shape[1:])
    return x * ranks.own(F.dropout(whole, dropout.p))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _normalize(
    norm: _BatchNorm, ranks: Ranks, alone: Callable[[Tensor], Tensor], x: Tensor
) -> Tensor:
    """Do what BatchNorm does with the clips of all ranks; x is [.., C, ...]."""
    if not norm.training:
        return alone(x)
    out, mean, variance = _Norm.apply(x, norm.weight, norm.bias, norm.eps, ranks)  # type: ignore[no-untyped-call]
    count = x.numel() // x.shape[1] * ranks.count
    with torch.no_grad():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        assert norm.momentum is not None
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
    return out  # type: ignore[no-any-return]


class _Norm(torch.autograd.Function):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, over the x of all ranks.

    Its gradient in x has two sums over all ranks; those in weight and bias are this rank's part, as
    with every other parameter.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, ranks: Ranks
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.axes = [axis for axis in range(x.ndim) if axis != 1]
        ctx.count = x.numel() // x.shape[1] * ranks.count
        ctx.ranks = ranks
        wide = x.to(weight.dtype)  # bfloat16 under autocast
        mean = ranks.sum(wide.sum(ctx.axes)) / ctx.count
        centred = wide - _per_channel(mean, x)
        variance = ranks.sum(centred.square().sum(ctx.axes)) / ctx.count
        inverse = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.mark_non_differentiable(mean, variance)
        out = torch.addcmul(_per_channel(bias, x), centred, _per_channel(inverse * weight, x))
        return out.to(x.dtype), mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        grad = grads[0].to(weight.dtype)
        unit = (x.to(weight.dtype) - _per_channel(mean, x)) * _per_channel(inverse, x)
        for_bias, for_weight = grad.sum(ctx.axes), (grad * unit).sum(ctx.axes)
        shift, tilt = ctx.ranks.sum(torch.stack([for_bias, for_weight])) / ctx.count
        rest = grad - _per_channel(shift, x) - unit * _per_channel(tilt, x)
        for_x = (rest * _per_channel(inverse * weight, x)).to(x.dtype)
        return for_x, for_weight, for_bias, None, None


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """View [C] so that it meets x [.., C, ...] at its channels."""
    return values.view(-1, *[1] * (x.ndim - 2))
