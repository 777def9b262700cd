"""The check that tars are what index.json and clips.parquet say.

Every tar is read once, in pieces: its checksum, and from the same bytes its members, which must be
exactly `<key>.jpg`, `<key>.cls` and `<key>.json` of the table's clips, in its order and at its
offsets. So a foreign member is found too where the checksums were made to fit. Nothing is extracted
or unpickled. What was found good is remembered, so that a terabyte is not read at every start.
"""

import hashlib
import json
import os
import tarfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from safe.errors import DataError
from safe.files import atomic_file, read_bounded
from safe.shards.folder import ShardFolder

THREADS: Final = 4
"""Tars read at the same time; hashlib and zlib let other threads run."""

_BLOCK = tarfile.BLOCKSIZE
_RECORD_BYTES = 2**20  # of `<key>.json`, which has some 1,500
_SEEN_BYTES = 2**27
_KEEP_EVERY = 30.0  # seconds
_KINDS = {
    b"1": "hard link",
    b"2": "symbolic link",
    b"3": "device",
    b"4": "device",
    b"5": "folder",
    b"6": "pipe",
    b"x": "pax header",
    b"g": "pax header",
    b"L": "GNU long name",
    b"K": "GNU long link",
}
Mark = list[int | str]
"""What a tar that was found good looked like: size, mtime and ctime in ns, inode, two sha256."""


def verify(folder: ShardFolder, *, seen: Path | None) -> None:
    """Read every tar that was not found good before and compare it with index and table.

    Args:
        folder: the shards, as open_shards gives them. Nothing is read here where their source
            checks each tar when it comes.
        seen: JSON file that remembers what was found good, by path, size, times, inode, checksum
            and rows of the table; a change of any of these means reading again. None: read all.

    Raises:
        DataError: one line with the first tar, in the order of index.json, that is not what it
            should be, and what is wrong.
    """
    if folder.source.checks:
        return
    good = _recall(seen)
    todo = []
    for number in range(len(folder.files)):
        mark = _mark(folder, number)
        if good.get(_name(folder, number)) != mark:
            todo.append((number, mark))
    if not todo:
        return
    kept = time.monotonic()
    pool = ThreadPoolExecutor(THREADS)
    try:
        checked = pool.map(lambda task: _check(folder, *task), todo)
        for (number, mark), _ in zip(todo, checked, strict=True):
            good[_name(folder, number)] = mark
            if time.monotonic() - kept > _KEEP_EVERY:
                _keep(seen, good)
                kept = time.monotonic()
    finally:
        pool.shutdown(cancel_futures=True)
        _keep(seen, good)


def _name(folder: ShardFolder, number: int) -> str:
    """Return a tar's real path: a workspace whose shards link to DVC's cache has the cache's."""
    return os.path.realpath(folder.root / str(folder.files[number]))


def _rows(folder: ShardFolder, number: int) -> range:
    """Return the rows of a tar, which stand together."""
    return range(*np.searchsorted(folder.shard, [number, number + 1]).tolist())


def _mark(folder: ShardFolder, number: int) -> Mark:
    """Describe a tar by what must be as it was for it to be the same."""
    path = folder.root / folder.files[number]
    try:
        about = path.stat()
    except OSError as error:
        raise _wrong(path, f"cannot be read ({error.strerror})") from error
    rows, digest = _rows(folder, number), hashlib.sha256()
    for column in (folder.clip, folder.label, folder.offset, folder.size, folder.crc32):
        digest.update(column[rows.start : rows.stop].tobytes())
    sha256 = str(folder.index["shards"]["sha256"][number])
    times = [about.st_mtime_ns, about.st_ctime_ns]  # no program can set the latter at will
    return [about.st_size, *times, about.st_ino, sha256, digest.hexdigest()]


def _check(folder: ShardFolder, number: int, before: Mark) -> None:
    """Read one tar. Raises DataError."""
    path = folder.root / folder.files[number]
    try:
        with path.open("rb") as file:
            check_tar(folder, number, file, path)
    except OSError as error:
        raise _wrong(path, f"cannot be read ({error.strerror})") from error
    if _mark(folder, number) != before:
        raise _wrong(path, "it was changed while it was read")


def check_tar(folder: ShardFolder, number: int, file: BinaryIO, name: object) -> None:
    """Read a tar, by its position in index.json, and compare it with index and table.

    Raises:
        DataError: one line, if it is not what it should be; `name` is what that calls it.
        OSError: if it cannot be read.
    """
    tar = _Tar(file, name)
    for row in _rows(folder, number):
        _check_sample(tar, folder, row)
    if tar.take(_BLOCK, "its end") != bytes(_BLOCK):
        raise _wrong(name, f"holds {_describe(tar.last)} where its end belongs")
    if tar.take(_BLOCK, "its end") != bytes(_BLOCK) or file.read(1):
        raise _wrong(name, "holds something behind its end")
    if tar.sha256 != folder.index["shards"]["sha256"][number]:
        raise _wrong(name, "its checksum is not that of index.json")


def _check_sample(tar: "_Tar", folder: ShardFolder, row: int) -> None:
    """Read the three members of a clip. Raises DataError."""
    key, size = str(folder.clip[row]), int(folder.size[row])
    tar.member(f"{key}.jpg", most=size)
    place = tar.position
    strip = tar.body()
    if place != folder.offset[row] or len(strip) != size:
        raise _wrong(tar.path, f"{key}.jpg is not where clips.parquet says")
    if zlib.crc32(strip) != folder.crc32[row]:
        raise _wrong(tar.path, f"{key}.jpg: its checksum is not that of clips.parquet")
    tar.member(f"{key}.cls", most=2)
    if tar.body() != str(folder.label[row]).encode():
        raise _wrong(tar.path, f"{key}.cls is not the label of clips.parquet")
    tar.member(f"{key}.json", most=_RECORD_BYTES)
    tar.body()


class _Tar:
    """A tar that is read from its start to its end, and hashed in passing."""

    def __init__(self, file: BinaryIO, path: object) -> None:
        self.path = path
        self.position = 0
        self.last = b""
        """What `take` gave."""
        self._file = file
        self._size = 0
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Hex digest of the bytes read so far."""
        return self._digest.hexdigest()

    def take(self, count: int, what: str) -> bytes:
        """Return the next bytes, all of them. Raises DataError."""
        self.last = self._file.read(count)
        if len(self.last) != count:
            raise _wrong(self.path, f"ends where {what} belongs")
        self._digest.update(self.last)
        self.position += count
        return self.last

    def member(self, name: str, *, most: int) -> None:
        """Read a header, which must be byte for byte that of the file `name`. Raises DataError."""
        header = self.take(_BLOCK, name)
        right = tarfile.TarInfo(name)  # as pipeline.tars writes it: no time, no user, one mode
        with suppress(ValueError):  # no number: then the header is not the right one either
            right.size = max(0, int(header[124:135], 8))
        if header != right.tobuf(tarfile.USTAR_FORMAT):
            told = _describe(header)
            if told == f"a file {name!r}":
                raise _wrong(self.path, f"the header of {name} is not as it was written")
            raise _wrong(self.path, f"holds {told} where the file {name!r} belongs")
        if right.size > most:
            raise _wrong(self.path, f"{name} has {right.size} bytes, at most {most} are right")
        self._size = right.size

    def body(self) -> bytes:
        """Return the bytes of the member whose header was read. Raises DataError."""
        padded = self.take(self._size + -self._size % _BLOCK, "a member's rest")
        return padded[: self._size]


def _describe(header: bytes) -> str:
    """Name the member that a header tells of, in a few characters that are safe to print."""
    try:
        tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return "no readable member"
    prefix, name = (part.split(b"\0")[0] for part in (header[345:500], header[:100]))
    shown = ascii(b"/".join(filter(None, (prefix, name))).decode("utf-8", "replace"))
    return f"a {_KINDS.get(header[156:157], 'file')} {shown}"


def _wrong(path: object, what: str) -> DataError:
    return DataError(f"{path}: damaged or altered: {what}; make the shards again")


def _recall(seen: Path | None) -> dict[str, Mark]:
    """Read what was found good; nothing where the file is missing or damaged."""
    if seen is None:
        return {}
    with suppress(FileNotFoundError, DataError, ValueError, RecursionError):
        found = json.loads(read_bounded(seen, most=_SEEN_BYTES, error=DataError))
        if isinstance(found, dict):
            return found
    return {}


def _keep(seen: Path | None, good: dict[str, Mark]) -> None:
    """Write what was found good and is still there; where it cannot be written, do without."""
    if seen is None:
        return
    there = {name: mark for name, mark in good.items() if Path(name).exists()}
    with suppress(OSError), atomic_file(seen) as path:
        path.write_text(json.dumps(there), encoding="utf-8")
