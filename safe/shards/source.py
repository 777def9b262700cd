"""The source of shards: a folder of this disk, or whatever opens tars and small files by name.

This is all that the rest of the code knows of where shards are. A folder here is below; one of an
object store, with its cache and prefetching, is safe.shards.cache.StoredShards.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from safe.errors import DataError
from safe.files import read_bounded

_OPEN_FILES: Final = 16

T = TypeVar("T")

Check = Callable[[int, BinaryIO, object], None]
"""Compares a tar, by its position in index.json, with index and table: its bytes, and the name that
errors give it. Raises DataError."""


class Tars(Protocol):
    """The tars of one shard folder, by their positions in index.json."""

    def open(self, number: int) -> AbstractContextManager[int]:
        """Give a file descriptor of a tar. Raises DataError, one line."""

    def prefetch(self, plan: Iterable[NDArray[np.int64]], batches: Iterator[T]) -> Iterator[T]:
        """Give `batches`; `plan` has the tars that each of them reads."""

    def close(self) -> None:
        """Close what is open."""


class Source(Protocol):
    """A folder of index.json, clips.parquet and tars. Its text, and `source / name`, name it."""

    @property
    def root(self) -> Path:
        """The folder on this disk: the shards', or that of their cache."""

    @property
    def checks(self) -> bool:
        """Whether each tar is checked when it comes, so that nobody need read them before."""

    def __truediv__(self, name: str) -> object: ...

    def read(self, name: str, *, most: int) -> bytes:
        """Read a file of at most `most` bytes. Raises DataError, one line."""

    def sizes(self) -> Mapping[str, int]:
        """Return names and bytes of all files."""

    def tars(self, tars: NDArray[Any], check: Check) -> Tars:
        """Return what opens tars, [n] with the fields file, sha256 and bytes."""


@dataclass(frozen=True)
class LocalShards:
    """A shard folder on this disk."""

    root: Path
    checks = False

    def __str__(self) -> str:
        return str(self.root)

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    def read(self, name: str, *, most: int) -> bytes:
        """Read a small file. Raises DataError."""
        try:
            return read_bounded(self / name, most=most, error=DataError)
        except FileNotFoundError as error:
            raise DataError(f"{self / name}: not found; `safe-cli shard` makes it") from error

    def sizes(self) -> dict[str, int]:
        """Return names and bytes of all files."""
        return {path.name: path.stat().st_size for path in self.root.iterdir() if path.is_file()}

    def tars(self, tars: NDArray[Any], check: Check) -> "LocalTars":
        """Return what opens tars. They are checked by safe.shards.verify, before."""
        return LocalTars(self, tars["file"])


class LocalTars:
    """Tars of this disk; a few stay open, the longest unused is closed."""

    def __init__(self, folder: LocalShards, names: NDArray[np.str_]) -> None:
        self._folder, self._names = folder, names
        self._open: OrderedDict[int, int] = OrderedDict()  # number -> file descriptor

    @contextmanager
    def open(self, number: int) -> Iterator[int]:
        """Give a file descriptor. Raises DataError."""
        if number not in self._open:
            if len(self._open) >= _OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
            path = self._folder / str(self._names[number])
            try:
                self._open[number] = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise DataError(f"{path}: cannot be opened ({error.strerror})") from error
        self._open.move_to_end(number)
        yield self._open[number]

    def prefetch(self, plan: Iterable[NDArray[np.int64]], batches: Iterator[T]) -> Iterator[T]:
        """Give `batches`: all is here."""
        return batches

    def close(self) -> None:
        """Close what is open."""
        while self._open:
            os.close(self._open.popitem()[1])


def as_source(shards: Path | Source) -> Source:
    """Take a path for the folder that is there."""
    return LocalShards(shards) if isinstance(shards, Path) else shards
