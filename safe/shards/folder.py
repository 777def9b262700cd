"""The table of a shard folder, and the clips that belong to a fold.

A shard folder is tars, index.json and clips.parquet (ARCHITECTURE.md, contracts). It is all that
crosses from data preparation to training.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from safe.errors import DataError
from safe.shards.index import TEXTS, Index, read_index, read_table
from safe.shards.source import Source, as_source
from safe.taxonomy import Classes


@dataclass(frozen=True)
class ShardFolder:
    """The table of a shard folder: one row a clip; columns are arrays of the same length n.

    Attributes:
        source: where index.json, clips.parquet and the tars are.
        index: index.json; its `shards` are an array here, of their `file`, `sha256` and `bytes`,
            since 10,000 of them as dicts take 8 MB.
        clip: keys, [n] strings.
        label: int64 [n], positions in `classes`.
        bucket: [n] strings.
        shard: int64 [n], position of the clip's tar in `files`.
        offset: int64 [n], of the JPEG inside its tar, in bytes.
        size: int64 [n], of the JPEG, in bytes.
        crc32: uint32 [n], of the JPEG.
        files: [number of tars] strings, their names.
    """

    source: Source
    index: dict[str, Any]
    clip: NDArray[np.str_]
    label: NDArray[np.int64]
    bucket: NDArray[np.str_]
    shard: NDArray[np.int64]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    crc32: NDArray[np.uint32]
    files: NDArray[np.str_]

    @property
    def location(self) -> Source:
        """Where the shards are, as errors name it."""
        return self.source

    @property
    def root(self) -> Path:
        """The folder on this disk: the shards', or that of their cache."""
        return self.source.root

    @property
    def classes(self) -> Classes:
        """The classes that labels are positions in; K is their number."""
        return tuple(self.index["classes"])

    @property
    def frames(self) -> int:
        """T, frames of a clip."""
        return int(self.index["frames"])

    @property
    def preprocessing_id(self) -> str:
        """The id of the preprocessing that made the shards."""
        return str(self.index["preprocessing"]["id"])

    @property
    def face_size(self) -> int:
        """S, the side of the stored faces in pixels."""
        return int(self.index["preprocessing"]["made_from"]["size"])

    @cached_property
    def buckets(self) -> set[str]:
        """The buckets that have clips."""
        return set(self.bucket.tolist())

    def split(self, fold: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the training and of the test split of a fold.

        Buckets `fold1`, `fold2`, ...: fold k tests on bucket k and trains on the others. Buckets
        `train` and `test`, and perhaps `val`: there is fold 1 only, and val belongs to training
        unless train.select sets it apart (safe/training/split.py).

        Raises:
            DataError: if the fold is not there, or a split is empty.
        """
        name = self.test_bucket(fold)
        test = self.bucket == name
        if not test.any() or test.all():
            raise DataError(
                f"{self.location}: fold {fold} has no clips to "
                f"{'train' if test.any() else 'test'} on"
            )
        return np.flatnonzero(~test), np.flatnonzero(test)

    def test_bucket(self, fold: int) -> str:
        """Name of the bucket that fold `fold` tests on."""
        name = "test" if fold == 1 and self.buckets <= {"train", "val", "test"} else f"fold{fold}"
        if name not in self.buckets:
            raise DataError(
                f"{self.location}: no bucket for fold {fold}; "
                f"it has {', '.join(sorted(self.buckets))}"
            )
        return name

    def digest(self, fold: int) -> str:
        """Return a sha256 over what a fold is trained on and selected by: all but its test split.

        Of each clip key, label, bucket and checksum, in their order. Raises DataError as split.
        """
        rows, digest = self.split(fold)[0], hashlib.sha256()
        for column in (self.clip, self.bucket):
            digest.update("\n".join(column[rows].tolist()).encode())
        for numbers in (self.label, self.crc32):
            digest.update(numbers[rows].tobytes())
        return digest.hexdigest()

    def left_out(self, bucket: str) -> int:
        """How many clips of a bucket the manifest has and the shards have not."""
        return sum(entry["bucket"] == bucket for entry in self.index["left_out"])

    def class_counts(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many clips of each class are among `rows`: int64 [K]."""
        return np.bincount(self.label[rows], minlength=len(self.classes))


@contextmanager
def _system_memory() -> Iterator[None]:
    """Let Arrow use the C library's allocator and give back what is free at the end.

    Its own keeps 20 MB of what 10,000 shards pass through it.
    """
    usual, system = pa.default_memory_pool(), pa.system_memory_pool()
    pa.set_memory_pool(system)
    try:
        yield
    finally:
        pa.set_memory_pool(usual)
        system.release_unused()


@_system_memory()
def open_shards(root: Path | Source) -> ShardFolder:
    """Read index.json and clips.parquet and check that they and the tars fit together.

    The tars' contents are read by verify.py, or when they come (cache.py).

    Raises:
        DataError: one line, if a file is missing, of another format version or size, or holds what
            it may not (index.py).
    """
    source = as_source(root)
    index = read_index(source)
    table = read_table(source, index)
    sizes = source.sizes()
    for name, _, size in index.tars.tolist():
        if sizes.get(name) != size:
            raise DataError(
                f"{source / name}: missing or not of {size} bytes; make the shards again"
            )
    return _folder(source, index, table)


def _folder(source: Source, index: Index, table: pa.Table) -> ShardFolder:
    """Turn rows and entries into arrays: as Python strings and dicts they take five times that."""
    bucket = table["bucket"].combine_chunks().dictionary_encode()
    shard = pc.index_in(table["shard"], pa.array(index.tars["file"].tolist()))
    return ShardFolder(
        source=source,
        index=index.about | {"shards": index.tars},
        clip=_texts(table["clip"]),
        label=table["label"].to_numpy().astype(np.int64),
        bucket=np.array(bucket.dictionary.to_pylist(), np.str_)[bucket.indices.to_numpy()],
        shard=shard.to_numpy().astype(np.int64),
        offset=table["offset"].to_numpy().astype(np.int64),
        size=table["bytes"].to_numpy().astype(np.int64),
        crc32=table["crc32"].to_numpy().astype(np.uint32),
        files=index.tars["file"],
    )


def _texts(column: pa.ChunkedArray) -> NDArray[np.str_]:
    """Return [n] strings; as Python's, all at once, they would take as much again."""
    longest = pc.max(pc.utf8_length(column)).as_py() or 1
    texts = np.empty(len(column), f"U{longest}")
    for start in range(0, len(column), TEXTS):
        texts[start : start + TEXTS] = column.slice(start, TEXTS).to_pylist()
    return texts
