"""The table faces.parquet: a row for every clip of the manifest, in its order.

It says whether the clip's face was found, where, and in which frames.
"""

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.manifest import Rows
from safe.config import Faces
from safe.errors import DataError
from safe.files import atomic_file
from safe.record import ChangedError, differences

Status = Literal["ok", "partial", "missing", "error"]

SCHEMA: Final = pa.schema(
    [
        ("clip", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("n_frames", pa.int32()),
        ("fps", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("frame_index", pa.list_(pa.int32())),
        ("box", pa.list_(pa.list_(pa.float32(), 4))),
        ("score", pa.list_(pa.float32())),
        ("sha256", pa.string()),
        ("settings", pa.string()),
    ]
)
"""Columns of faces.parquet. `sha256` is that of the clip's content, empty where it was not read to
its end; `settings` the parameters that the row was made with, as JSON, the same in every row."""

_GUESSED: Final = re.compile(r"\b\d+ of \d+ frames (interpolated|held)\b")
_FOUND: Final = re.compile(r"\bface in \d+ of \d+ frames\b")

_LISTS: Final[dict[str, Any]] = {"frame_index": np.int32, "box": np.float32, "score": np.float32}

_GROUP: Final = 250
"""Rows in a group of the file; a row that waits in memory takes 5 KB."""

_WORDS: Final = ["status", "reason", "settings"]
"""Columns that have a dictionary. Of numbers hardly one is there twice: with one of theirs the file
is a quarter larger and takes twice the time to write."""

_GROUPS: Final = 2_000
"""Groups of the file, from half a million clips on: the description of each takes 10 KB."""


@dataclass(frozen=True)
class ClipFaces:
    """One row of faces.parquet, but for the clip's key."""

    status: Status
    reason: str
    n_frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    frame_index: tuple[int, ...] = ()
    box: tuple[tuple[float, ...], ...] = ()
    score: tuple[float, ...] = ()
    sha256: str = ""
    settings: str = ""

    @property
    def guessed(self) -> list[str]:
        """How the boxes came about of frames of an ok clip without the face: interpolated, held.

        Read from the reason, which may say other things too.
        """
        return _GUESSED.findall(self.reason)

    @property
    def lost(self) -> bool:
        """Whether the face was lost in some frames: then all were looked at (look.py)."""
        return bool(self.guessed or _FOUND.search(self.reason))

    def unusable(self, missing: str) -> str:
        """Say why the clip is not to be stored under a policy of faces.missing; empty if it is."""
        if self.status == "error":
            return self.reason
        if self.status == "missing" and missing == "drop":
            return f"{self.reason} (faces.missing: drop)"
        return ""


def write_faces(clips: Sequence[str] | Rows[str], rows: Iterable[ClipFaces], out: Path) -> None:
    """Write a faces.parquet: the keys of the clips and a row for each.

    Rows are written as they come, in groups, so that memory does not grow with the clips. There is
    a row for every clip, or `out` is not written.
    """
    pairs, size = zip(clips, rows, strict=True), _group_size(len(clips))
    with atomic_file(out) as path, pq.ParquetWriter(path, SCHEMA, use_dictionary=_WORDS) as file:
        while group := list(islice(pairs, size)):
            columns = {"clip": [clip for clip, _ in group]}
            for name in SCHEMA.names[1:]:
                values = [getattr(row, name) for _, row in group]
                columns[name] = _nest(values, name) if name in _LISTS else values
            file.write_table(pa.table(columns, schema=SCHEMA))


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table of SCHEMA with the bytes that write_faces gives its rows."""
    size = _group_size(len(table))
    pq.write_table(table.combine_chunks(), path, row_group_size=size, use_dictionary=_WORDS)


def _group_size(rows: int) -> int:
    return max(_GROUP, -(-rows // _GROUPS))


def _nest(rows: list[Any], name: str) -> pa.Array:
    """Make a column of lists from flat numbers, in a tenth of the time Arrow takes for tuples."""
    kind, flat, side = _LISTS[name], chain.from_iterable(rows), 4 if name == "box" else 1
    values = np.fromiter(chain.from_iterable(flat) if side == 4 else flat, kind)
    starts = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    assert len(values) == starts[-1] * side, f"a {name} has too many or too few numbers"
    inner = pa.array(values)
    if side == 4:
        inner = pa.FixedSizeListArray.from_arrays(inner, type=SCHEMA.field(name).type.value_type)
    return pa.ListArray.from_arrays(pa.array(starts), inner, type=SCHEMA.field(name).type)


def read_faces(path: Path) -> pa.Table:
    """Read a faces.parquet.

    Raises:
        DataError: if it is missing, not a parquet file, or has other columns.
    """
    return FaceFile(path).read(SCHEMA.names)


def settings_of(faces: Faces, frames: int) -> str:
    """Write the parameters that decide a row, for its column `settings`."""
    return json.dumps({**faces.model_dump(), "shard.frames": frames}, sort_keys=True)


def check_faces(path: Path, faces: Faces, frames: int) -> None:
    """Compare a face table with the parameters of today.

    Raises:
        ChangedError: one line, if it was made with others.
        DataError: as read_faces does.
    """
    rows = FaceFile(path)
    said = rows.rows(np.zeros(1, np.int64))[0].settings if len(rows) else ""
    if told := differences(json.loads(said or "{}"), json.loads(settings_of(faces, frames))):
        told = [line if line.startswith("shard.") else f"faces.{line}" for line in told]
        raise ChangedError(f"{path}: {told[0]}; run `safe-cli faces` again")


class FaceFile:
    """A faces.parquet that is read in parts: whole, ten million rows take 5 GB."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises DataError as read_faces does."""
        self._path = path
        with self._reading():
            if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  a pipe would be waited for
                raise OSError("not a regular file")
            self._file = pq.ParquetFile(path)
            if self._file.schema_arrow != SCHEMA:
                raise DataError(
                    f"{path} has columns {', '.join(self._file.schema_arrow.names)}; expected "
                    f"those of `safe-cli faces`: {', '.join(SCHEMA.names)}"
                )
            about = self._file.metadata
        sizes = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
        self._ends = np.cumsum(sizes, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, columns: list[str]) -> pa.Table:
        """Return some columns of all rows."""
        with self._reading():
            return self._file.read(columns)

    def rows(self, wanted: NDArray[np.int64]) -> "FaceRows":
        """Return the rows of these numbers, which ascend. Reads the groups that hold them."""
        group = np.searchsorted(self._ends, wanted, side="right")
        groups, first = np.unique(group, return_index=True)
        tables = []
        for part in np.split(np.arange(len(groups)), np.flatnonzero(np.diff(groups) > 1) + 1):
            start = first[part[0]]
            stop = first[part[-1] + 1] if part[-1] + 1 < len(groups) else len(wanted)
            with self._reading():
                table = self._file.read_row_groups(groups[part].tolist(), SCHEMA.names[1:])
            before = self._ends[groups[part[0]] - 1] if groups[part[0]] else 0
            tables.append(table.combine_chunks().take(pa.array(wanted[start:stop] - before)))
        return FaceRows(pa.concat_tables(tables))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise DataError(f"{self._path} not found: run `safe-cli faces` first") from error
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{self._path} is not a readable parquet file; run `safe-cli faces`"
            ) from error


class FaceRows:
    """Rows as columns; each becomes an object, ten times as large, when it is asked for.

    A row's boxes are lists of four numbers, not tuples.
    """

    def __init__(self, table: pa.Table) -> None:
        """Take the columns of SCHEMA but clip, in its order."""
        columns = {name: table[name].combine_chunks() for name in SCHEMA.names[1:]}
        plain = [name for name in columns if name not in _LISTS]
        self._names = [*plain, *_LISTS]
        self._plain = list(zip(*(columns[name].to_pylist() for name in plain), strict=True))
        self._lists = []
        for column in (columns[name] for name in _LISTS):
            values = column.flatten()
            if pa.types.is_fixed_size_list(values.type):
                numbers = values.flatten().to_numpy().reshape(-1, 4)
            else:
                numbers = values.to_numpy()
            starts = column.offsets.to_numpy() - column.offsets[0].as_py()
            self._lists.append((numbers, starts.tolist()))

    def __getitem__(self, row: int) -> ClipFaces:
        """Return a row."""
        lists = (
            tuple(numbers[starts[row] : starts[row + 1]].tolist())
            for numbers, starts in self._lists
        )
        return ClipFaces(**dict(zip(self._names, (*self._plain[row], *lists), strict=True)))
