"""What does a row of the manifest hold, and is a manifest sound?

data/<name>/manifest.parquet has a row for every clip that the official lists name, sorted by clip.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from safe.errors import DataError
from safe.labels import K
from safe.sample import KEY

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
is missing, and the sum over the frames where `source` is frames."""


@dataclass(frozen=True)
class Clip:
    """One clip that a dataset's official lists name, whether its file is there or not."""

    key: str
    """Unique; letters, digits, - and _ only."""
    path: str
    """Relative to data.root, with /: a video file or a folder of frames."""
    label: int
    """Position in safe.labels.CLASSES."""
    bucket: str
    """The test set that it is in, "fold1" to "fold5"; or its part: train, val or test."""
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
    rows = table.select(["clip", "path", "label", "bucket", "bytes"]).to_pydict()
    try:
        check_clips([Clip(*row) for row in zip(*rows.values(), strict=True)])
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return table


def check_clips(clips: list[Clip]) -> None:
    """Raise DataError unless keys ascend and are well formed, labels exist, paths stay inside."""
    previous = ""
    for clip in clips:
        if not KEY.fullmatch(clip.key):
            raise DataError(f"clip {clip.key!r}: a key has letters, digits, - and _ only")
        if clip.key <= previous:
            problem = "is there twice" if clip.key == previous else f"comes after {previous}"
            raise DataError(f"clip {clip.key} {problem}; clips must be sorted and different")
        previous = clip.key
        if not 0 <= clip.label < K:
            raise DataError(f"clip {clip.key}: label {clip.label} must be 0 to {K - 1}")
        parts = clip.path.split("/")
        if "" in parts or ".." in parts or "\\" in clip.path:
            raise DataError(f"clip {clip.key}: path {clip.path!r} must stay inside data.root")
