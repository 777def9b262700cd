"""What does a row of faces.parquet hold?

One row for every clip of the manifest, in its order: whether its face was found, where, and in
which frames.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from safe.errors import DataError
from safe.process import whole_file

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
    ]
)
"""Columns of faces.parquet."""

_GROUP: Final = 250
"""Rows in a group of the file; a row that waits in memory takes 5 KB."""

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

    def unusable(self, missing: str) -> str:
        """Say why the clip is not to be stored under a policy of faces.missing; empty if it is."""
        if self.status == "error":
            return self.reason
        if self.status == "missing" and missing == "drop":
            return f"{self.reason} (faces.missing: drop)"
        return ""


def write_faces(clips: Sequence[str], rows: Iterable[ClipFaces], out: Path) -> None:
    """Write a faces.parquet: the keys of the clips and a row for each.

    Rows are written as they come, in groups, so that memory does not grow with the clips. There is
    a row for every clip, or `out` is not written.
    """
    pairs, size = zip(clips, rows, strict=True), max(_GROUP, -(-len(clips) // _GROUPS))
    with whole_file(out) as path, pq.ParquetWriter(path, SCHEMA) as file:
        while group := list(islice(pairs, size)):
            columns: dict[str, list[object]] = {"clip": [clip for clip, _ in group]}
            for name in SCHEMA.names[1:]:
                columns[name] = [getattr(row, name) for _, row in group]
            file.write_table(pa.table(columns, schema=SCHEMA))


def read_faces(path: Path) -> pa.Table:
    """Read a faces.parquet.

    Raises:
        DataError: if it is missing, not a parquet file, or has other columns.
    """
    return FaceFile(path).read(SCHEMA.names)


class FaceFile:
    """A faces.parquet that is read in parts: whole, ten million rows take 5 GB."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises DataError as read_faces does."""
        self._path = path
        with self._reading():
            self._file = pq.ParquetFile(path)
            if self._file.schema_arrow != SCHEMA:
                raise DataError(
                    f"{path} has columns {', '.join(self._file.schema_arrow.names)}; expected "
                    f"those of `safe-cli faces`: {', '.join(SCHEMA.names)}"
                )
            about = self._file.metadata
        sizes = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
        self._ends = np.cumsum(sizes, dtype=np.int64)

    def read(self, columns: list[str]) -> pa.Table:
        """Return some columns of all rows."""
        with self._reading():
            return self._file.read(columns)

    def rows(self, wanted: NDArray[np.int64]) -> list[ClipFaces]:
        """Return the rows of these numbers, which ascend. Reads the groups that hold them."""
        group = np.searchsorted(self._ends, wanted, side="right")
        groups, first = np.unique(group, return_index=True)
        found: list[ClipFaces] = []
        for part in np.split(np.arange(len(groups)), np.flatnonzero(np.diff(groups) > 1) + 1):
            start = first[part[0]]
            stop = first[part[-1] + 1] if part[-1] + 1 < len(groups) else len(wanted)
            with self._reading():
                table = self._file.read_row_groups(groups[part].tolist(), SCHEMA.names[1:])
            before = self._ends[groups[part[0]] - 1] if groups[part[0]] else 0
            found += _objects(table.combine_chunks().take(pa.array(wanted[start:stop] - before)))
        return found

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


def _objects(table: pa.Table) -> list[ClipFaces]:
    """Turn rows into objects; the lists by numpy, which is ten times as fast as Arrow."""
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    lists = []
    for name, shape in (("frame_index", ()), ("box", (4,)), ("score", ())):
        column = columns.pop(name)
        flat = column.flatten()
        flat = flat.flatten() if shape else flat
        values = flat.to_numpy().reshape(-1, *shape).tolist()
        ends = np.cumsum(pc.list_value_length(column).to_numpy()).tolist()
        lists.append([tuple(values[a:b]) for a, b in zip([0, *ends], ends, strict=False)])
    plain = (column.to_pylist() for column in columns.values())
    return [ClipFaces(*row) for row in zip(*plain, *lists, strict=True)]
