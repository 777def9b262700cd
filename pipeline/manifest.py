"""The manifest: a row for every clip that the official lists name, sorted by clip.

Out of the stage index, as data/<name>/manifest.parquet; each reader checks that it is sound.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, Generic, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from safe.errors import DataError
from safe.sample import KEY as CLIP_KEY
from safe.taxonomy import BASIC, KEY, Classes, decode, encode

T = TypeVar("T")

BLOCK: Final = 10_000
"""Rows that are Python objects at a time: ten million take a gigabyte in Arrow's columns and ten as
objects."""

ROW_GROUP: Final = 2**20
"""Rows in a group of a parquet file: what Arrow takes for a whole table."""


def write_rows(table: pa.Table, path: Path, *, compression: str) -> None:
    """Write a table without a copy of it; how it lies in memory changes no byte."""
    with pq.ParquetWriter(path, table.schema, compression=compression) as file:
        for start in range(0, max(len(table), 1), ROW_GROUP):
            file.write_table(table.slice(start, ROW_GROUP).combine_chunks())


@dataclass(frozen=True)
class Rows(Generic[T]):
    """The rows of a table as objects, made a record batch at a time as they are walked through."""

    table: pa.Table
    make: Callable[..., T]
    """Takes the values of a row, in the order of the columns."""

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[T]:
        for batch in self.table.to_batches(max_chunksize=BLOCK):
            yield from map(self.make, *batch.to_pydict().values())


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

_NONE: Final = 2**63
"""Behind the last row."""

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


def untabulate(table: pa.Table) -> Rows[Clip]:
    """Turn a table of SCHEMA into clips."""
    return Rows(table.select(["clip", "path", "label", "bucket", "bytes"]), Clip)


def check_rows(table: pa.Table) -> None:
    """Raise DataError unless keys ascend and are well formed, labels exist, paths stay inside."""
    clip, label, path, count = table["clip"], table["label"], table["path"], len(classes_of(table))
    ascends = pc.less(clip.slice(0, max(len(clip) - 1, 0)), clip.slice(1))
    first = {
        "key": _first_wrong(pc.match_substring_regex(clip, rf"\A(?:{CLIP_KEY.pattern})\z")),
        "order": _first_wrong(ascends, start=1),
        "label": _first_wrong(pc.and_(pc.greater_equal(label, 0), pc.less(label, count))),
        "path": _first_wrong(pc.invert(pc.match_substring_regex(path, _OUTSIDE))),
    }
    row = min(first.values())
    if row == _NONE:
        return
    key = clip[row].as_py()
    if first["key"] == row:
        raise DataError(f"clip {key!r}: a key has letters, digits, - and _ only")
    if first["order"] == row:
        previous = clip[row - 1].as_py()
        problem = "is there twice" if key == previous else f"comes after {previous}"
        raise DataError(f"clip {key} {problem}; clips must be sorted and different")
    if first["label"] == row:
        raise DataError(f"clip {key}: label {label[row]} must be 0 to {count - 1}")
    raise DataError(f"clip {key}: path {path[row].as_py()!r} must stay inside data.root")


def _first_wrong(good: pa.ChunkedArray, *, start: int = 0) -> int:
    """Return the row of the first that is not good, counted from `start`; _NONE if all are."""
    row: int = pc.index(good, False).as_py()
    return row + start if row >= 0 else _NONE
