"""A shard folder being written: tars with the same bytes anywhere and at any time, and their index.

Samples go in one by one, a folder of ustar files comes out: members in the order given, no time, no
user, one mode. Where each JPEG lies is known while writing, so a reader needs no scan. First comes
clips.parquet, then index.json, which has its checksum: a folder with an index.json is complete.
"""

import hashlib
import json
import os
import shutil
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from pipeline.manifest import BLOCK, write_rows
from safe.errors import DataError
from safe.files import atomic_file, fitting, naming, sync_folder
from safe.sample import CLIP_COLUMNS, DEFAULT_FRAMES, SHARD_FORMAT
from safe.taxonomy import Classes

SCHEMA: Final = pa.schema(list(CLIP_COLUMNS.items()))
"""Columns of clips.parquet; offset, bytes and crc32 are those of the JPEG inside the tar."""

_BLOCK = tarfile.BLOCKSIZE


class ShardWriter:
    """Tars `<bucket>-<6 digits>.tar`: a new one for each bucket, and after `clips` clips of it."""

    def __init__(self, folder: Path, *, clips: int, classes: Classes) -> None:
        self._folder = folder
        self._clips = clips
        self._classes = classes
        self._tar: TarWriter | None = None
        self._bucket = ""
        self._labels: list[int] = []  # of the clips in the open tar
        self.shards: list[dict[str, Any]] = []
        """Of each closed tar: file, bucket, sha256, bytes, clips, classes."""
        self._numbers: Counter[str] = Counter()  # of tars, by bucket
        self._rows = ClipRows()

    @property
    def rows(self) -> pa.Table:
        """Of each clip: clip, label, bucket, shard, offset, bytes, crc32, flags."""
        return self._rows.table()

    def add(
        self, key: str, *, bucket: str, label: int, strip: bytes, record: dict[str, Any]
    ) -> None:
        """Append one sample; the clips of one bucket come one after the other.

        `strip` becomes `<key>.jpg`, `record` `<key>.json`; the record's flags go into the row too.
        safe.sample.KEY keeps a key short enough for a ustar header.
        """
        if bucket != self._bucket or len(self._labels) == self._clips:
            self.close()
        if self._tar is None:
            self._tar = TarWriter(self._folder / f"{bucket}-{self._numbers[bucket]:06d}.tar")
            self._numbers[bucket] += 1
            self._bucket = bucket
        offset = self._tar.add(f"{key}.jpg", strip)
        self._tar.add(f"{key}.cls", str(label).encode())
        text = json.dumps(record, sort_keys=True, separators=(",", ":")) + "\n"
        self._tar.add(f"{key}.json", text.encode())
        self._labels.append(label)
        self._rows.add(
            {
                "clip": key,
                "label": label,
                "bucket": bucket,
                "shard": self._tar.path.name,
                "offset": offset,
                "bytes": len(strip),
                "crc32": zlib.crc32(strip),
                "flags": record["flags"],
            }
        )

    def close(self) -> None:
        """End the open tar, if there is one."""
        if self._tar is None:
            return
        self._tar.close()
        self.shards.append(
            describe(self._tar, bucket=self._bucket, labels=self._labels, classes=self._classes)
        )
        self._tar, self._labels = None, []


class TarWriter:
    """A ustar file being written; `close` adds the end-of-archive marker."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        """Bytes written so far."""
        self._file = path.open("wb")
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Hex digest of the bytes written so far."""
        return self._digest.hexdigest()

    def add(self, name: str, data: bytes) -> int:
        """Append a member and return the offset of its bytes; ValueError for too long a name."""
        header = tarfile.TarInfo(name)  # all else as it starts: mtime 0, uid 0, gid 0, mode 0644
        header.size = len(data)
        self._write(header.tobuf(tarfile.USTAR_FORMAT))
        offset = self.size
        self._write(data + bytes(-len(data) % _BLOCK))
        return offset

    def close(self) -> None:
        """Add the end-of-archive marker, two empty blocks, and put the bytes on disk."""
        self._write(bytes(2 * _BLOCK))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)


def describe(tar: TarWriter, *, bucket: str, labels: list[int], classes: Classes) -> dict[str, Any]:
    """Say what index.json says of a closed tar: bucket, labels and classes are given."""
    counts = Counter(classes[label] for label in labels)
    return {
        "file": tar.path.name,
        "bucket": bucket,
        "sha256": tar.sha256,
        "bytes": tar.size,
        "clips": len(labels),
        "classes": {name: counts[name] for name in classes},
    }


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
        shards: ShardWriter.shards.
        left_out: of each clip without a sample clip, bucket, reason.
        made: what pipeline.face.preprocessing gives.
        classes: that labels are positions in.
        frames: T, frames of a clip.
        rows: ShardWriter.rows. Those of a tar stand together, in the order of its members.
    """
    table = folder / "clips.parquet"
    columns = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, SCHEMA)
    with atomic_file(table) as path:
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
    with atomic_file(folder / "index.json") as path:
        path.write_text(json.dumps(index, sort_keys=True, indent=2) + "\n", encoding="utf-8")


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Give an empty folder beside `out` that takes its place if the block ends without an error.

    Killed at any moment, it leaves the old folder, the new one, or none; where none, the old one
    is back after the next call, or after `clear_beside`.

    Raises:
        DataError: if `out` is a file, or a folder that holds something else than shards.
    """
    temporary, old = clear_beside(out)
    if out.exists() and (
        not out.is_dir() or (any(out.iterdir()) and not (out / "index.json").is_file())
    ):
        raise DataError(f"{out} holds something else than shards; give an empty or a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary.mkdir()
    try:
        with naming(out):
            yield temporary
        if out.exists():
            out.rename(old)
        temporary.rename(out)
        sync_folder(out.parent)
    finally:
        clear_beside(out)


def clear_beside(out: Path) -> tuple[Path, Path]:
    """Clear what a killed `atomic_folder` left beside `out`; return the two places it uses.

    They have one name, not one for each process, so that the next run finds them.
    """
    name = fitting(out.name, more=len("..tmp"))
    temporary, old = (out.with_name(f".{name}.{word}") for word in ("tmp", "old"))
    if old.exists() and not out.exists():  # killed between the two renames
        old.rename(out)
    for rest in (temporary, old):
        shutil.rmtree(rest, ignore_errors=True)
    return temporary, old
