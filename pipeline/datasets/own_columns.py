"""How is a list of ten million lines kept, read where it is plain, and is a line there twice?

A line as an object takes 700 bytes, as a row of columns 60. A list without quotes is read and
checked column by column; that and line by line give the same (tests/test_columns.py).
"""

from collections.abc import Iterator
from itertools import islice, repeat
from operator import attrgetter
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv
from numpy.typing import NDArray

from pipeline.blocks import BLOCK
from pipeline.datasets.own_lines import PLAIN, SPLIT, Line, name_clip
from safe.errors import DataError
from safe.sample import KEY

LINES: Final = pa.schema(
    [
        ("line", pa.int64()),
        ("path", pa.string()),
        ("key", pa.string()),
        ("word", pa.dictionary(pa.int32(), pa.string())),
        ("split", pa.dictionary(pa.int32(), pa.string())),
    ]
)
"""What is kept of a line: own_lines.Line."""

_WORDED: Final = ("word", "split")
_CHUNK: Final = 2**22  # bytes of the list that are in work at a time
_CODED: Final = pa.dictionary(pa.int32(), pa.string())


class Lines:
    """Lines as they come, kept as columns; what came before an error can still be asked for."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines, self._open = lines, list[Line]()
        self._batches: list[pa.RecordBatch] = []

    def read(self) -> None:
        """Take all lines. Raises what they raise."""
        while True:
            for line in islice(self._lines, BLOCK):
                self._open.append(line)
            if not self._close():
                return

    def table(self) -> pa.Table:
        """Return the lines so far, in their order: a table of LINES."""
        self._close()
        return pa.Table.from_batches(self._batches, LINES).unify_dictionaries()

    def _close(self) -> bool:
        rows, self._open = self._open, []
        if rows:
            columns = {name: list(map(attrgetter(name), rows)) for name in LINES.names}
            coded = {name: pa.array(columns[name]).dictionary_encode() for name in _WORDED}
            self._batches.append(pa.record_batch(columns | coded, LINES))
        return bool(rows)


def read_plain(text: str, separator: str, names: list[str]) -> pa.Table | None:
    r"""Read a plain list: no quote, no blank line but at its end, and nothing wrong.

    Args:
        text: the list, its header the first line, with \n between lines.
        separator: between the columns.
        names: of all columns, path, label, split and perhaps clip among them.

    Returns:
        A table of LINES in the list's order; None where the list is not plain: whoever reads it
        line by line finds what it means or what is wrong with it.
    """
    if '"' in text:
        return None
    data = text.rstrip("\n").encode()
    wanted = [name for name in ("path", "label", "split", "clip") if name in names]
    columns = [str(names.index(name)) for name in wanted]  # other names may be there twice
    types = {
        column: _CODED if name in ("label", "split") else pa.string()
        for column, name in zip(columns, wanted, strict=True)
    }
    batches, line = [], 2
    try:
        for batch in pv.open_csv(
            pa.BufferReader(data),
            pv.ReadOptions(
                use_threads=False,
                block_size=_CHUNK,
                skip_rows=1,
                column_names=[str(place) for place in range(len(names))],
            ),
            pv.ParseOptions(delimiter=separator, quote_char=False, double_quote=False),
            pv.ConvertOptions(column_types=types, include_columns=columns),
        ):
            batches.append(_check(batch.rename_columns(wanted), line))
            line += len(batch)
    except (pa.ArrowInvalid, KeyError, DataError):
        return None
    if line - 2 != data.count(b"\n"):  # a blank line: numbers of lines would be wrong
        return None
    return pa.Table.from_batches(batches, LINES).unify_dictionaries()


def _check(batch: pa.RecordBatch, line: int) -> pa.RecordBatch:
    """Turn some of the list's lines into LINES. Raises KeyError or DataError if one is wrong."""
    path, given = batch["path"], batch["clip"] if "clip" in batch.schema.names else None
    key = given
    if given is None:
        key = pc.replace_substring(pc.replace_substring(path, ".mp4", ""), "/", "-")
    plain = pc.and_(
        pc.match_substring_regex(path, rf"\A(?:{PLAIN})\z"),
        pc.match_substring_regex(key, rf"\A(?:{KEY.pattern})\z"),
    )
    if not pc.all(plain).as_py():
        odd = pc.invert(plain)
        paths = path.filter(odd).to_pylist()
        keys = repeat("", len(paths)) if given is None else given.filter(odd).to_pylist()
        named = [name_clip(a.strip(), b.strip(), "") for a, b in zip(paths, keys, strict=True)]
        path = pc.replace_with_mask(path, odd, pa.array([one for one, _ in named], pa.string()))
        key = pc.replace_with_mask(key, odd, pa.array([one for _, one in named], pa.string()))
    number = pa.array(np.arange(line, line + len(batch)))
    word, split = _strip(batch["label"]), _lower(batch["split"])
    return pa.record_batch([number, path, key, word, split], schema=LINES)


def _strip(column: pa.DictionaryArray) -> pa.DictionaryArray:
    """Return labels without spaces around them. Raises KeyError where one is empty."""
    words = [word.strip() for word in column.dictionary.to_pylist()]
    if not all(words):
        raise KeyError("")
    return _coded(column, words)


def _lower(column: pa.DictionaryArray) -> pa.DictionaryArray:
    """Return splits in lower case. Raises KeyError where a value is none."""
    words = [word.strip().lower() for word in column.dictionary.to_pylist()]
    if not all(map(SPLIT.fullmatch, words)):
        raise KeyError("")
    return _coded(column, words)


def _coded(column: pa.DictionaryArray, words: list[str]) -> pa.DictionaryArray:
    """Put other words in the place of a column's; two may become one."""
    return pa.array(words, pa.string()).take(column.indices).dictionary_encode()


def first_twice(table: pa.Table) -> tuple[int, int, str, str] | None:
    """Return the first line that says again what a line before says; None if there is none.

    Paths and keys are compared by a 64-bit hash of each, which is sorted once; two that fall
    together are then looked at themselves.

    Returns:
        Its number, that of the line before, what it repeats (path or clip), and that itself.
    """
    found = []
    for order, (what, column) in enumerate((("path", "path"), ("clip", "key"))):
        before: dict[str, int] = {}
        for row in _suspects(table[column]).tolist():
            value, line = table[column][row].as_py(), table["line"][row].as_py()
            if value in before:
                found.append((line, order, before[value], what, value))
                break
            before[value] = line
    if not found:
        return None
    line, _, earlier, what, value = min(found)
    return line, earlier, what, value


def _suspects(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return the rows, ascending, whose hash another row has too."""
    hashes = np.empty(len(column), np.int64)
    start = 0
    for chunk in column.chunks:
        hashes[start : start + len(chunk)] = list(map(hash, chunk.to_pylist()))
        start += len(chunk)
    ordered = np.sort(hashes)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    return np.flatnonzero(np.isin(hashes, twice)) if len(twice) else np.empty(0, np.int64)
