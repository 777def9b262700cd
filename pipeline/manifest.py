"""What does a row of the manifest hold, and is a manifest sound?

data/<name>/manifest.parquet has a row for every clip that the official lists name, sorted by clip.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar, overload

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from safe.errors import DataError
from safe.sample import KEY as CLIP_KEY
from safe.taxonomy import BASIC, KEY, Classes, decode, encode

# How are millions of rows handed out, and written, without being millions of objects?
#
# A table of ten million rows takes a gigabyte in Arrow's columns and ten as Python objects. So a
# stage sees a sequence whose items are made a block at a time, when one of them is asked for.

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


SCHEMA: Final = pa.schema(
    [
        pa.field("clip", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.int8(), nullable=False),
        pa.field("bucket", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=True),
    ]
)
"""Columns of the manifest. `path` is relative to data.root, with /; `bytes` is null where the file
is missing, and the sum over the frames where `source` is frames. The schema's metadata has the
classes that labels are positions in (safe/taxonomy.py)."""

_OUTSIDE: Final = r"(?:\A|/)(?:\.\.)?(?:/|\z)|\\"  # an empty part, .. or a backslash


@dataclass(frozen=True)
class Clip:
    """One clip that a dataset's official lists name, whether its file is there or not."""

    key: str
    """Unique; letters, digits, - and _ only."""
    path: str
    """Relative to data.root, with /: a video file or a folder of frames."""
    label: int
    """Position in the classes of the data set."""
    bucket: str
    """The test set that it is in, "fold1", "fold2", ...; or its part: train, val or test."""
    bytes: int | None
    """Size of the file, or of the folder's frames; None where it is missing."""


def read_manifest(path: Path) -> pa.Table:
    """Read a manifest and check that it is one.

    Raises:
        DataError: if it is missing, no parquet file, or does not hold what `build_index` writes.
    """
    if not path.is_file():
        raise DataError(f"no manifest {path}: run the stage index first")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is not a readable manifest: {reason}") from error
    if not table.schema.equals(SCHEMA):
        raise DataError(
            f"{path} must have the columns {', '.join(SCHEMA.names)} as the stage index writes "
            f"them; it has {', '.join(table.schema.names)}"
        )
    try:
        check_rows(table)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return table


def classes_of(table: pa.Table) -> Classes:
    """Return the classes that a manifest's labels are positions in.

    Those made before version 0.2 do not say so: there were the basic seven alone.

    Raises:
        DataError: if what it says are no classes.
    """
    metadata = table.schema.metadata or {}
    if KEY.encode() not in metadata:
        return BASIC
    try:
        return decode(metadata)
    except ValueError as error:
        raise DataError(f"{error}; run the stage index again") from error


def read_classes(path: Path) -> Classes:
    """Return the classes of a manifest on the disk. Raises DataError as read_manifest does."""
    return classes_of(read_manifest(path))


def tabulate(clips: Iterable[Clip], source: str, classes: Classes) -> pa.Table:
    """Turn clips into a table of SCHEMA with these classes, in their order, a block at a time."""
    left, batches = iter(clips), []
    while block := list(islice(left, BLOCK)):
        columns: dict[str, list[object]] = {
            "clip": [clip.key for clip in block],
            "path": [clip.path for clip in block],
            "label": [clip.label for clip in block],
            "bucket": [clip.bucket for clip in block],
            "source": [source] * len(block),
            "bytes": [clip.bytes for clip in block],
        }
        batches.append(pa.record_batch(columns, SCHEMA))
    return with_classes(pa.Table.from_batches(batches, SCHEMA), classes)


def with_classes(table: pa.Table, classes: Classes) -> pa.Table:
    """Say in the metadata of a table of SCHEMA which classes its labels are positions in."""
    return table.replace_schema_metadata(encode(classes))


def untabulate(table: pa.Table) -> Blocks[Clip]:
    """Turn a table of SCHEMA into clips, a block at a time, when they are asked for."""
    columns = table.select(["clip", "path", "label", "bucket", "bytes"])

    def load(start: int, stop: int) -> list[Clip]:
        rows = columns.slice(start, stop - start).to_pydict().values()
        return [Clip(*row) for row in zip(*rows, strict=True)]

    return Blocks(len(table), load)


def check_rows(table: pa.Table) -> None:
    """Raise DataError unless keys ascend and are well formed, labels exist, paths stay inside."""
    clip, label, path, count = table["clip"], table["label"], table["path"], len(classes_of(table))
    good = (
        pc.match_substring_regex(clip, rf"\A(?:{CLIP_KEY.pattern})\z"),
        pc.and_(pc.greater_equal(label, 0), pc.less(label, count)),
        pc.invert(pc.match_substring_regex(path, _OUTSIDE)),
    )
    wrong = [pc.index(mask, False).as_py() for mask in good]
    after = pc.index(pc.less(clip.slice(0, max(len(clip) - 1, 0)), clip.slice(1)), False).as_py()
    wrong += [after + 1 if after >= 0 else -1]
    found = [row for row in wrong if row >= 0]
    if found:  # columns say which row is the first wrong one; how it is wrong, the row says
        first = min(found)
        rows = untabulate(table.slice(max(first - 1, 0), min(first, 1) + 1))
        _check_clips(list(rows), count)


def _check_clips(clips: list[Clip], classes: int) -> None:
    """Raise DataError with what is wrong with the first clip that is wrong."""
    previous = ""
    for clip in clips:
        if not CLIP_KEY.fullmatch(clip.key):
            raise DataError(f"clip {clip.key!r}: a key has letters, digits, - and _ only")
        if clip.key <= previous:
            problem = "is there twice" if clip.key == previous else f"comes after {previous}"
            raise DataError(f"clip {clip.key} {problem}; clips must be sorted and different")
        previous = clip.key
        if not 0 <= clip.label < classes:
            raise DataError(f"clip {clip.key}: label {clip.label} must be 0 to {classes - 1}")
        parts = clip.path.split("/")
        if "" in parts or ".." in parts or "\\" in clip.path:
            raise DataError(f"clip {clip.key}: path {clip.path!r} must stay inside data.root")
