"""How are millions of rows handed out, and written, without being millions of objects?

A table of ten million rows takes a gigabyte in Arrow's columns and ten as Python objects. So a
stage sees a sequence whose items are made a block at a time, when one of them is asked for.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar, overload

import pyarrow as pa
import pyarrow.parquet as pq

T = TypeVar("T")

BLOCK: Final = 10_000
"""Items that are made together; two blocks are kept."""

ROW_GROUP: Final = 2**20
"""Rows in a group of a parquet file: what Arrow takes for a whole table."""


def write_rows(table: pa.Table, path: Path, *, compression: str) -> None:
    """Write a table without a copy of it; how it lies in memory changes no byte."""
    with pq.ParquetWriter(path, table.schema, compression=compression) as file:
        for start in range(0, max(len(table), 1), ROW_GROUP):
            file.write_table(table.slice(start, ROW_GROUP).combine_chunks())


class Blocks(Sequence[T]):
    """A sequence whose items come from `load(start, stop)`, which returns stop - start of them.

    Cheap where items are asked for in about their order, as `run_tasks` does.
    """

    def __init__(self, count: int, load: Callable[[int, int], Sequence[T]]) -> None:
        self._count, self._load = count, load
        self._ready: dict[int, Sequence[T]] = {}

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        for block in range(-(-self._count // BLOCK)):
            yield from self._block(block)

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[T]: ...
    def __getitem__(self, place: int | slice) -> T | Sequence[T]:
        """Return an item, or a list for a slice. Raises IndexError."""
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(self._count))]
        if not -self._count <= place < self._count:
            raise IndexError(place)
        block, inside = divmod(place % self._count, BLOCK)
        return self._block(block)[inside]

    def _block(self, block: int) -> Sequence[T]:
        items = self._ready.get(block)
        if items is None:
            start = block * BLOCK
            items = self._load(start, min(start + BLOCK, self._count))
            if len(self._ready) == 2:
                del self._ready[next(iter(self._ready))]
            self._ready[block] = items
        return items
