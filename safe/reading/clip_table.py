"""What may clips.parquet hold?

The checksum that index.json gives is compared before Arrow parses a byte; then columns, types and
packing by the file's own description; then every row against the tars of index.json. What does not
fit is one line with the file, the row and what is wrong.
"""

import hashlib
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from safe.errors import DataError
from safe.reading.bounded import read_bounded
from safe.reading.shard_index import TABLE_BYTES, TAR_BYTES, Index
from safe.sample import CLIP_COLUMNS, KEY
from safe.store import Store

_SCHEMA: Final = pa.schema(list(CLIP_COLUMNS.items()))
_GROUPS = 10_000  # row groups; the writer makes one of a million clips
# With these a byte becomes some 30 at most, so the limit on the file is one on the memory.
_CODECS = {"SNAPPY", "UNCOMPRESSED"}
_ENCODINGS = {"PLAIN", "RLE", "BIT_PACKED", "PLAIN_DICTIONARY", "RLE_DICTIONARY"}
_WORDED: Final = ("clip", "bucket", "shard")
_TEXTS: Final = 10_000  # texts that are Python's at a time
_ANEW = "make the shards anew"


def read_table(root: Path | Store, index: Index) -> pa.Table:
    """Read and check clips.parquet: columns of CLIP_COLUMNS but flags, rows in order of the tars.

    Raises:
        DataError: one line, if it is missing, not the file that `index` means, or holds what it may
            not.
    """
    path = root / index.table.file
    try:
        data = read_bounded(path, most=TABLE_BYTES, error=DataError)
    except FileNotFoundError as error:
        raise DataError(f"{path}: not found; `safe-cli shard` makes it") from error
    if len(data) != index.table.bytes or hashlib.sha256(data).hexdigest() != index.table.sha256:
        raise DataError(f"{path}: altered, its checksum is not that of index.json; {_ANEW}")
    try:
        table = _parse(data, int(index.classes.sum()))
        _check_rows(table, index)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: {reason}; {_ANEW}") from error
    return table


def _parse(data: bytes, clips: int) -> pa.Table:
    """Check what the file's own description says, then read it. Raises ValueError or Arrow's."""
    file = pq.ParquetFile(
        pa.BufferReader(data), read_dictionary=list(_WORDED), thrift_string_size_limit=2**24
    )
    about = file.metadata
    if not pq.ParquetFile(pa.BufferReader(data)).schema_arrow.equals(_SCHEMA):
        raise ValueError(f"its columns are not {', '.join(CLIP_COLUMNS)} of the right types")
    if about.num_rows != clips:
        raise ValueError(f"{about.num_rows} clips, but {clips} in index.json")
    if about.num_row_groups > _GROUPS:
        raise ValueError(f"{about.num_row_groups} row groups")
    for group in range(about.num_row_groups):
        for number in range(about.num_columns):
            column = about.row_group(group).column(number)
            if column.compression not in _CODECS or not _ENCODINGS.issuperset(column.encodings):
                raise ValueError(f"column {column.path_in_schema} is packed in a foreign way")
    names = [name for name in CLIP_COLUMNS if name != "flags"]  # which nothing here asks for
    table = file.read(names, use_threads=False)
    if table.num_rows != clips:
        raise ValueError(f"{table.num_rows} clips, but {clips} in index.json")
    for name in names:
        column = table[name]
        if column.null_count:
            raise ValueError(f"{name}: empty in a row")
        if name in _WORDED:  # a long text that many rows share takes no memory yet
            lengths = [
                pc.max(pc.binary_length(chunk.dictionary)).as_py() for chunk in column.chunks
            ]
            if max((length or 0 for length in lengths), default=0) > 100:
                raise ValueError(f"{name}: longer than 100 bytes")
            plain = column.cast(pa.string()).combine_chunks()
            table = table.set_column(table.column_names.index(name), name, plain)
    return table


def _check_rows(table: pa.Table, index: Index) -> None:
    """Raise ValueError unless the rows are clips of the tars of `index`, in their order."""
    side = index.face_size
    most = (
        2 * index.frames * side * side * 3 + 2**16
    )  # twice the pixels; noise at quality 100 takes 1.3
    text, label, offset, size = (
        table[name].combine_chunks() for name in ("clip", "label", "offset", "bytes")
    )
    _all(pc.match_substring_regex(text, rf"\A(?:{KEY.pattern})\z"), "clip: not a key")
    files = pa.array(index.tars["file"].tolist())
    shard = pc.index_in(table["shard"].combine_chunks(), files)
    _all(pc.is_valid(shard), "shard: no tar of index.json")
    bucket = pc.utf8_slice_codeunits(files, 0, -11).take(shard)  # without -000000.tar
    _all(pc.equal(table["bucket"].combine_chunks(), bucket), "bucket: not that of its tar")
    last = len(index.names) - 1
    _all(_between(label, 0, last), f"label: outside 0..{last} ({', '.join(index.names)})")
    _all(_between(size, 1, most), f"bytes: outside 1..{most:,}, for faces of {side} pixels")
    end = pa.array(index.tars["bytes"]).take(shard)
    room = pc.less_equal(offset, pc.subtract(end, size))
    _all(pc.and_(_between(offset, 512, TAR_BYTES), room), "offset: not in its tar")
    before, after = shard.slice(0, len(shard) - 1), shard.slice(1)
    ahead = pc.less_equal(pc.add(offset, size).slice(0, len(shard) - 1), offset.slice(1))
    ordered = pc.or_(pc.less(before, after), pc.and_(pc.equal(before, after), ahead))
    _all(ordered, "offset: the next row is not behind it")
    _check_sums(text, label, shard, index)


def _check_sums(clip: pa.Array, label: pa.Array, shard: pa.Array, index: Index) -> None:
    """Raise ValueError unless every clip is there once, and the counts are index.json's."""
    if not _all_differ(clip):
        raise ValueError("clip: a key is there twice")
    left_out = pa.array([entry["clip"] for entry in index.about["left_out"]], pa.string())
    _all(pc.invert(pc.is_in(clip, left_out)), "clip: also among those left out")
    classes = len(index.names)
    cells = shard.to_numpy().astype(np.int64) * classes + label.to_numpy()
    counted = np.bincount(cells, minlength=index.classes.size).reshape(-1, classes)
    wrong = np.flatnonzero((counted != index.classes).any(axis=1))
    if len(wrong):
        name = index.tars["file"][wrong[0]]
        raise ValueError(f"shard: the clips of {name} are not those that index.json counts")


def _all_differ(texts: pa.Array) -> bool:
    """Say whether no text is there twice: by hashes of 8 bytes, since Arrow's table takes 130."""
    hashes = np.empty(len(texts), np.int64)
    for start in range(0, len(texts), _TEXTS):
        some = texts.slice(start, _TEXTS).to_pylist()
        hashes[start : start + _TEXTS] = list(map(hash, some))
    hashes.sort()
    if (hashes[1:] != hashes[:-1]).all():
        return True
    return bool(pc.count_distinct(texts).as_py() == len(texts))  # two of one hash may differ


def _between(values: Any, low: int, high: int) -> Any:
    return pc.and_(pc.greater_equal(values, low), pc.less_equal(values, high))


def _all(good: Any, what: str) -> None:
    """Raise ValueError with the first row that is not good."""
    if not pc.all(good, min_count=0).as_py():
        raise ValueError(f"row {pc.index(good, False).as_py()}: {what}")
