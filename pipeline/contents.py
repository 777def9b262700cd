"""What do index.json and clips.parquet say of the tars beside them?

What lies in each tar and where goes in; the two files come out, clips.parquet first and its
checksum in index.json, so that a folder with an index.json is complete.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from pipeline.blocks import BLOCK, write_rows
from safe.process import whole_file
from safe.sample import CLIP_COLUMNS, DEFAULT_FRAMES, SHARD_FORMAT
from safe.taxonomy import Classes

SCHEMA: Final = pa.schema(list(CLIP_COLUMNS.items()))
"""Columns of clips.parquet; offset, bytes and crc32 are those of the JPEG inside the tar."""


class ClipRows:
    """The rows of clips.parquet as they come; as dicts they take ten times the memory."""

    def __init__(self) -> None:
        self._open: list[dict[str, Any]] = []
        self._batches: list[pa.RecordBatch] = []

    def add(self, row: dict[str, Any]) -> None:
        """Append a row: what SCHEMA names."""
        self._open.append(row)
        if len(self._open) == BLOCK:
            self._close()

    def table(self) -> pa.Table:
        """Return the rows so far, in their order."""
        self._close()
        return pa.Table.from_batches(self._batches, SCHEMA)

    def _close(self) -> None:
        if self._open:
            self._batches.append(pa.RecordBatch.from_pylist(self._open, SCHEMA))
            self._open = []


def write_index(
    folder: Path,
    *,
    shards: list[dict[str, Any]],
    left_out: list[dict[str, str]],
    made: dict[str, Any],
    classes: Classes,
    rows: pa.Table | list[dict[str, Any]],
    frames: int = DEFAULT_FRAMES,
) -> None:
    """Write clips.parquet and index.json; the same arguments give the same bytes.

    Args:
        folder: where the tars are.
        shards: of each tar file, bucket, sha256, bytes, clips, classes: ShardWriter.shards.
        left_out: of each clip without a sample clip, bucket, reason.
        made: what pipeline.face.preprocessing gives: id and made_from.
        classes: that labels are positions in.
        frames: T, frames of a clip.
        rows: of each clip the columns of SCHEMA: ShardWriter.rows. Those of a tar stand together,
            in the order of its members.
    """
    table = folder / "clips.parquet"
    columns = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, SCHEMA)
    with whole_file(table) as path:
        write_rows(columns, path, compression="snappy")
    with table.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    index = {
        "format": SHARD_FORMAT,
        "classes": classes,
        "frames": frames,
        "preprocessing": made,
        "shards": shards,
        "left_out": left_out,
        "table": {
            "file": table.name,
            "sha256": digest.hexdigest(),
            "bytes": table.stat().st_size,
        },
    }
    with whole_file(folder / "index.json") as path:
        path.write_text(json.dumps(index, sort_keys=True, indent=2) + "\n", encoding="utf-8")
