"""What does a row of faces.parquet hold?

One row for every clip of the manifest, in its order: whether its face was found, where, and in
which frames.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

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
    pairs = zip(clips, rows, strict=True)
    with whole_file(out) as path, pq.ParquetWriter(path, SCHEMA) as file:
        while group := list(islice(pairs, _GROUP)):
            columns: dict[str, list[object]] = {"clip": [clip for clip, _ in group]}
            for name in SCHEMA.names[1:]:
                columns[name] = [getattr(row, name) for _, row in group]
            file.write_table(pa.table(columns, schema=SCHEMA))


def read_faces(path: Path) -> pa.Table:
    """Read a faces.parquet.

    Raises:
        DataError: if it is missing, not a parquet file, or has other columns.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} not found: run `safe-cli faces` first") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable parquet file; run `safe-cli faces`") from error
    if table.schema != SCHEMA:
        raise DataError(
            f"{path} has columns {', '.join(table.schema.names)}; expected those of "
            f"`safe-cli faces`: {', '.join(SCHEMA.names)}"
        )
    return table
