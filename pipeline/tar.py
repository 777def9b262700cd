"""How do samples become tars whose bytes are the same anywhere and at any time?

Samples go in one by one, a folder of ustar files comes out: members in the order given, no time, no
user, one mode. Where each JPEG lies is known while writing, so a reader needs no scan.
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
from typing import Any

import pyarrow as pa

from pipeline.contents import ClipRows
from safe.errors import DataError
from safe.process import fitting, naming, sync_folder
from safe.taxonomy import Classes

_BLOCK = tarfile.BLOCKSIZE


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
        """Append a member and return the offset of its bytes in the tar.

        Raises:
            ValueError: if the name does not fit a ustar header.
        """
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

        Args:
            key: the clip's key; safe.sample.KEY keeps it short enough for a ustar header.
            bucket: the bucket whose shard it goes into.
            label: index into the classes.
            strip: the JPEG, member `<key>.jpg`.
            record: member `<key>.json`; its `flags`, a string, go into the row too.
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


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
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
    """Clear what a killed `whole_folder` left beside `out`; return the two places it uses.

    They have one name, not one for each process, so that the next run finds them.
    """
    name = fitting(out.name, more=len("..tmp"))
    temporary, old = (out.with_name(f".{name}.{word}") for word in ("tmp", "old"))
    if old.exists() and not out.exists():  # killed between the two renames
        old.rename(out)
    for rest in (temporary, old):
        shutil.rmtree(rest, ignore_errors=True)
    return temporary, old
