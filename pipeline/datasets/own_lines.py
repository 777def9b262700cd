"""How are the lines of a list kept, millions of them, and is one of them there twice?

A line as an object takes 700 bytes, as a row of columns 60. Paths and keys are compared by a 64-bit
hash of each, which is sorted once; two that fall together are then looked at themselves.
"""

from array import array
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.blocks import BLOCK, Blocks


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the list, checked but for the file it names."""

    line: int
    path: str
    word: str  # the label as written, in lower case
    split: str
    key: str


_SCHEMA: Final = pa.schema(
    [
        ("line", pa.int64()),
        ("path", pa.string()),
        ("word", pa.string()),
        ("split", pa.string()),
        ("key", pa.string()),
    ]
)


class Lines:
    """The lines of a list in its order, as columns."""

    def __init__(self) -> None:
        self._open: list[tuple[int, str, str, str, str]] = []
        self._batches: list[pa.RecordBatch] = []
        self._hashes = {"path": array("q"), "clip": array("q")}

    def add(self, line: Line) -> None:
        """Append a line."""
        self._open.append((line.line, line.path, line.word, line.split, line.key))
        self._hashes["path"].append(hash(line.path))
        self._hashes["clip"].append(hash(line.key))
        if len(self._open) == BLOCK:
            self._close()

    def table(self) -> pa.Table:
        """Return the lines as a table: line, path, word, split, key."""
        self._close()
        return pa.Table.from_batches(self._batches, _SCHEMA)

    def first_twice(self) -> tuple[int, int, str, str] | None:
        """Return the first line that says again what a line before says; None if there is none.

        Returns:
            Its number, that of the line before, what it repeats (path or clip), and that itself.
        """
        table = self.table()
        found = []
        for order, (what, column) in enumerate((("path", "path"), ("clip", "key"))):
            before: dict[str, int] = {}
            for row in _suspects(np.frombuffer(self._hashes[what], np.int64)).tolist():
                value, line = table[column][row].as_py(), table["line"][row].as_py()
                if value in before:
                    found.append((line, order, before[value], what, value))
                    break
                before[value] = line
        if not found:
            return None
        line, _, earlier, what, value = min(found)
        return line, earlier, what, value

    def _close(self) -> None:
        if self._open:
            columns = list(zip(*self._open, strict=True))
            arrays = [
                pa.array(part, kind) for part, kind in zip(columns, _SCHEMA.types, strict=True)
            ]
            self._batches.append(pa.record_batch(arrays, schema=_SCHEMA))
            self._open = []


def _suspects(hashes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows, ascending, whose hash another row has too."""
    ordered = np.sort(hashes)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    return np.flatnonzero(np.isin(hashes, twice)) if len(twice) else np.empty(0, np.int64)


def lazily(table: pa.Table) -> Blocks[Line]:
    """Give the lines of a table one by one."""

    def load(start: int, stop: int) -> list[Line]:
        columns = table.slice(start, stop - start).to_pydict().values()
        return [Line(*row) for row in zip(*columns, strict=True)]

    return Blocks(len(table), load)
