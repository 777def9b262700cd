"""The order in which clips come.

That of an epoch is a function of (seed, epoch) and the table alone: permute the shards, take
them in windows of a few, permute the clips of a window. A batch is a slice of that order, and each
of several ranks takes its share of every batch. So the order is the same for any number of workers
and ranks, resumes at any batch, and reads stay within a window of shards.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from safe.errors import ConfigError

WINDOW: Final = 8
"""Shards whose clips are shuffled together."""


def epoch_order(
    rows: NDArray[np.int64], shard: NDArray[np.int64], *, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Return a permutation of `rows`, those of a split; `shard` has that of every row of the table.

    `epoch` counts from 0.
    """
    generator = np.random.default_rng([seed, epoch])
    names, member = np.unique(shard[rows], return_inverse=True)
    window = np.empty(len(names), np.int64)
    window[generator.permutation(len(names))] = np.arange(len(names)) // WINDOW
    turn = window[member]
    sorted_ = np.argsort(turn, kind="stable")  # so that each window has its clips in table order
    starts = np.flatnonzero(np.diff(turn[sorted_])) + 1
    return np.concatenate([generator.permutation(part) for part in np.split(rows[sorted_], starts)])


class TrainPlan:
    """Batches of a whole run, from any step on. Iterating gives row arrays [batch / ranks].

    The last `n % batch` clips of an epoch's order are left out; the order differs from epoch to
    epoch, so they are others each time. Rank r of several has the clips r, r + ranks, ... of every
    batch, so all ranks have the same number of steps.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        shard: NDArray[np.int64],
        *,
        batch: int,
        epochs: int,
        seed: int,
        start: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """Plan the steps from `start` on, for one of `ranks` processes.

        Raises ConfigError where a batch is larger than the split, or has no equal shares.
        """
        if batch % ranks:
            raise ConfigError(
                f"params: train.batch = {batch}: must be a multiple of the {ranks} ranks"
            )
        if len(rows) < batch:
            raise ConfigError(
                f"params: train.batch = {batch}: must be at most the {len(rows)} clips of the "
                "training split"
            )
        self.rows, self.shard = rows, shard
        self.batch, self.epochs, self.seed, self.start = batch, epochs, seed, start
        self.rank, self.ranks = rank, ranks

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        return len(self.rows) // self.batch

    @property
    def left_out(self) -> int:
        """Clips that each epoch leaves out."""
        return len(self.rows) % self.batch

    def position(self, step: int) -> tuple[int, int]:
        """Return (epoch, batch of the epoch) of a step of the run, each from 0.

        The way back, and what `start` takes, is epoch * steps + batch.
        """
        return divmod(step, self.steps)

    def __len__(self) -> int:
        return self.epochs * self.steps - self.start

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        first, skip = self.position(self.start)
        for epoch in range(first, self.epochs):
            order = epoch_order(self.rows, self.shard, seed=self.seed, epoch=epoch)
            for step in range(skip, self.steps):
                batch = order[step * self.batch : (step + 1) * self.batch]
                yield batch[self.rank :: self.ranks]
            skip = 0


def in_order(
    rows: NDArray[np.int64], batch: int, *, rank: int = 0, ranks: int = 1
) -> list[NDArray[np.int64]]:
    """Every row exactly once, in table order, in batches; the last may be smaller.

    Rank r of several has the batches r, r + ranks, ...: together they have each row once, none is
    filled up, and no rank has more than one batch more than another.
    """
    return [rows[start : start + batch] for start in range(rank * batch, len(rows), ranks * batch)]


def hold_out(
    rows: NDArray[np.int64], label: NDArray[np.int64], *, fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split rows into (kept, held out), stratified: of each class the nearest whole share.

    Of a class with at least two clips at least one is held out and at least one is kept.
    """
    generator = np.random.default_rng([seed, 0x5EED])
    held: list[NDArray[np.int64]] = []
    for value in np.unique(label[rows]):
        members = generator.permutation(rows[label[rows] == value])
        count = round(fraction * len(members))
        count = min(max(count, 1), len(members) - 1)
        held.append(members[:count])
    out = np.sort(np.concatenate(held))
    return np.setdiff1d(rows, out), out
