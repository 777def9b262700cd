"""Split of a fold: clips to train on, and clips on which epoch and calibration are chosen."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from safe.errors import DataError
from safe.shards.folder import ShardFolder
from safe.shards.order import hold_out

Rows = NDArray[np.int64]

VAL: str = "val"
"""The bucket that a dataset's own lists set apart for choices."""


class Choice(Protocol):
    """What of the section train decides the split."""

    @property
    def select(self) -> str:
        """last, val or test."""

    @property
    def val_from(self) -> str:
        """Fold or clips."""

    @property
    def val_fraction(self) -> float:
        """0..1 exclusive."""


def choose_rows(
    folder: ShardFolder, fold: int, *, settings: Choice, seed: int
) -> tuple[Rows, Rows | None]:
    """Say which rows of the table a fold is trained on, and which are its selection split, if any.

    With train.select `val` the selection split is the bucket `val` where the dataset has one; else,
    by train.val_from, a stratified part of the training clips, or all clips of the next fold: where
    the folds are different people, only the latter says how the model does on people it never saw.

    Raises:
        DataError: if the fold is not there, or there is no next one, or nothing is left to train.
    """
    train, test = folder.split(fold)
    if settings.select != "val":
        return train, test if settings.select == "test" else None
    if VAL in folder.buckets:
        name = VAL
    elif settings.val_from == "fold":
        name = next_fold(folder, fold)
    else:
        return hold_out(train, folder.label, fraction=settings.val_fraction, seed=seed)
    held = folder.bucket[train] == name
    if held.all():
        raise DataError(f"{folder.location}: fold {fold} has no clips to train on beside {name}")
    return train[~held], train[held]


def next_fold(folder: ShardFolder, fold: int) -> str:
    """Name the bucket after fold `fold`'s own; after the last comes the first.

    Raises:
        DataError: if the clips do not lie in folds.
    """
    names = (name for name in folder.buckets if name.startswith("fold"))
    folds = sorted(names, key=lambda name: (len(name), name))  # fold2 before fold10
    if len(folds) < 3:
        raise DataError(
            f"{folder.location}: train.val_from: fold needs at least three folds; it has "
            f"{', '.join(sorted(folder.buckets))}; use clips"
        )
    return folds[(folds.index(folder.test_bucket(fold)) + 1) % len(folds)]
