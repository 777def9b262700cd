"""How are millions of rows handed out one by one without being millions of objects?

A table of ten million rows takes a gigabyte in Arrow's columns and ten as Python objects. So a
stage sees a sequence whose items are made a block at a time, when one of them is asked for.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar, overload

T = TypeVar("T")

BLOCK: Final = 10_000
"""Items that are made together; two blocks are kept."""


class Blocks(Sequence[T]):
    """A sequence whose items are made by `load(start, stop)`, which returns stop - start of them.

    Cheap where items are asked for in about their order, as `run_tasks` does.
    """

    def __init__(self, count: int, load: Callable[[int, int], list[T]]) -> None:
        self._count, self._load = count, load
        self._ready: dict[int, list[T]] = {}

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        return (self[place] for place in range(self._count))

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
        items = self._ready.get(block)
        if items is None:
            start = block * BLOCK
            items = self._load(start, min(start + BLOCK, self._count))
            if len(self._ready) == 2:
                del self._ready[next(iter(self._ready))]
            self._ready[block] = items
        return items[inside]
