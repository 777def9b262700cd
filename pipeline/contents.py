"""What do index.json and clips.parquet say of the tars beside them?

What lies in each tar and where goes in; the two files come out, clips.parquet first and its
checksum in index.json, so that a folder with an index.json is complete.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from safe.process import whole_file
from safe.sample import CLIP_COLUMNS, SHARD_FORMAT

SCHEMA: Final = pa.schema(list(CLIP_COLUMNS.items()))
"""Columns of clips.parquet; offset, bytes and crc32 are those of the JPEG inside the tar."""


def write_index(
    folder: Path,
    *,
    shards: list[dict[str, Any]],
    left_out: list[dict[str, str]],
    made: dict[str, Any],
    rows: list[dict[str, Any]],
) -> None:
    """Write clips.parquet and index.json; the same arguments give the same bytes.

    Args:
        folder: where the tars are.
        shards: of each tar file, bucket, sha256, bytes, clips, classes: ShardWriter.shards.
        left_out: of each clip without a sample clip, bucket, reason.
        made: what pipeline.preprocessing gives: id and made_from.
        rows: of each clip the columns of SCHEMA: ShardWriter.rows. Those of a tar stand together,
            in the order of its members.
    """
    table = folder / "clips.parquet"
    with whole_file(table) as path:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)
    data = table.read_bytes()
    index = {
        "format": SHARD_FORMAT,
        "preprocessing": made,
        "shards": shards,
        "left_out": left_out,
        "table": {
            "file": table.name,
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
        },
    }
    with whole_file(folder / "index.json") as path:
        path.write_text(json.dumps(index, sort_keys=True, indent=2) + "\n", encoding="utf-8")
