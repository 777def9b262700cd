"""Shards of an object store, with a cache of their tars on this disk and a process that prefetches.

A tar that is needed is fetched whole, read against index.json and clips.parquet, and only then
gets its name, `<sha256>.tar`. Before it is fetched the least recently used make room, so the folder
stays within its bound, files that are just being fetched included. Processes share the folder,
those of other runs too, by locks on the files themselves: who reads a tar holds it shared, who
fetches or removes one holds it alone. A lock ends with its process, however that ends.
"""

import fcntl
import multiprocessing
import os
import time
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from safe.errors import ConfigError, DataError, explain
from safe.files import die_with_parent, reserve
from safe.shards.order import WINDOW
from safe.shards.source import Check
from safe.shards.store import BLOCK, Store

AHEAD: Final = 4
"""Tars that are fetched before they are needed."""

STREAMS: Final = 4
"""Tars that are fetched at the same time."""

_LOOK_EVERY = 0.02  # seconds, while another process fetches or all is in use

T = TypeVar("T")


@dataclass(frozen=True)
class StoredShards(Store):
    """A shard folder of an object store: a Source (safe.shards.source).

    Attributes:
        cache: local folder in which tars of it may lie.
        room: bytes that this folder may take.
    """

    cache: Path
    room: int
    checks = True

    @property
    def root(self) -> Path:
        """The cache."""
        return self.cache

    def read(self, name: str, *, most: int) -> bytes:
        """Read a small file. Raises DataError."""
        return (self / name).read_whole(most=most, error=DataError)

    def tars(self, tars: NDArray[Any], check: Check) -> "TarCache":
        """Return what fetches and opens tars. Raises ConfigError if the room is too small."""
        return TarCache(self, tars, check)


class TarCache:
    """The tars of one shard folder in a store, as far as they lie on this disk."""

    def __init__(self, store: StoredShards, tars: NDArray[Any], check: Check) -> None:
        """Look whether the room suffices.

        Raises:
            ConfigError: if it does not hold the tars of a window and of the prefetching.
        """
        self._store, self._tars, self._check = store, tars, check
        count = min(len(tars), WINDOW + AHEAD)
        need = count * int(tars["bytes"].max())
        if store.room < need:
            raise ConfigError(
                f"params: runtime.cache = {store.room / 2**30:.3g} GiB: must be at least "
                f"{need / 2**30:.3g}, for {count} tars: {WINDOW} are read together, {AHEAD} ahead"
            )

    def path(self, number: int) -> Path:
        """Return where a tar lies, if it does."""
        return self._store.cache / f"{self._tars['sha256'][number]}.tar"

    @contextmanager
    def open(self, number: int) -> Iterator[int]:
        """Give a file descriptor of a tar, fetched if need be; nobody removes it in this block.

        A tar in which the block finds an error is removed, so that the next run fetches it again.

        Raises:
            DataError: one line, if the store or this disk fails, or the tar is not the right one.
        """
        asked = time.monotonic()
        with _telling(self._store.cache):
            while (file := self._hold(number)) is None:
                self._fetch(number, asked)
            os.utime(file)
        try:
            yield file
        except DataError:
            self.path(number).unlink(missing_ok=True)
            raise
        finally:
            os.close(file)

    def prefetch(
        self, plan: Iterable[NDArray[np.int64]], batches: Iterator[T]
    ) -> Generator[T, None, None]:
        """Give `batches`, while a process fetches the tars of `plan`.

        Never more than a window and AHEAD before the batch that is in use. It only saves time: a
        tar that is not there yet is fetched, or waited for, by who needs it, and who needs it meets
        the error that this process kept to itself. The plan may be an iterator that `batches` will
        use up: a forked process has a copy of it.
        """
        context = multiprocessing.get_context("fork")
        passed = context.Value("q", 0, lock=False)
        process = context.Process(target=self._walk, args=(plan, passed), daemon=True)
        process.start()
        try:
            for batch in batches:
                yield batch
                passed.value += 1
        finally:
            process.terminate()
            process.join()

    def close(self) -> None:
        """Do nothing: a tar is held for one clip only, so that what nobody reads can make room."""

    def _walk(self, plan: Iterable[NDArray[np.int64]], passed: Any) -> None:
        """Fetch what the batches from number `passed` on need; the process's whole life."""
        die_with_parent()
        most = WINDOW + AHEAD
        needed: dict[int, int] = {}  # tar -> the last batch, of those looked at, that needs it
        with suppress(KeyboardInterrupt), ThreadPoolExecutor(STREAMS) as pool:
            for number, part in enumerate(plan):
                tars = list(dict.fromkeys(part.tolist()))[:most]
                while True:
                    needed = {tar: last for tar, last in needed.items() if last >= passed.value}
                    if not needed or len(needed.keys() | set(tars)) <= most:
                        break
                    time.sleep(_LOOK_EVERY)
                new = [tar for tar in tars if tar not in needed]
                needed |= dict.fromkeys(tars, number)
                for tar in new:
                    for kept in needed:  # one that waits for its turn must not be the oldest
                        with suppress(FileNotFoundError):
                            os.utime(self.path(kept))
                    pool.submit(self._bring, tar)

    def _bring(self, number: int) -> None:
        with suppress(DataError), self.open(number):
            pass

    def _hold(self, number: int) -> int | None:
        """Open a tar and hold it; None if it is not there."""
        path = self.path(number)
        try:
            file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        fcntl.flock(file, fcntl.LOCK_SH)
        about = os.fstat(file)
        if about.st_nlink and about.st_size == self._tars["bytes"][number]:
            return file
        if about.st_nlink:  # cut off by someone
            path.unlink(missing_ok=True)
        os.close(file)
        return None

    def _fetch(self, number: int, asked: float) -> None:
        """Bring a tar here, or wait until another process has, or has given up.

        `asked` is the time.monotonic() since when it is waited for. Raises DataError and OSError.
        """
        path = self.path(number)
        part = path.with_suffix(".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(part, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            while not _lock(file):
                silent = time.time() - os.fstat(file).st_mtime  # it is written block by block
                self._check_patience(min(time.monotonic() - asked, silent))
                time.sleep(_LOOK_EVERY)
            if not os.fstat(file).st_nlink:  # another process had it, and is done
                return
            try:
                if not path.exists():
                    self._make_room(file, int(self._tars["bytes"][number]), asked)
                    self._download(file, number, asked)
                    part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        finally:
            os.close(file)

    def _download(self, file: int, number: int, asked: float) -> None:
        name, size = self._store / self._tars["file"][number], int(self._tars["bytes"][number])
        since = asked  # patience counts from the last block that came
        for start in range(0, size, BLOCK):
            os.pwrite(file, name.read(start, size, since=since), start)
            since = time.monotonic()
        with os.fdopen(os.dup(file), "rb") as tar:
            tar.seek(0)
            self._check(number, tar, name)
        os.fsync(file)

    def _make_room(self, file: int, size: int, asked: float) -> None:
        """Give `file` its size once the folder has room for it."""
        os.ftruncate(file, 0)  # what a killed process left
        while True:
            with (self._store.cache / "lock").open("wb") as only:
                fcntl.flock(only, fcntl.LOCK_EX)
                if self._removed(size):
                    reserve(file, size)
                    return
            self._check_patience(time.monotonic() - asked)
            time.sleep(_LOOK_EVERY)

    def _removed(self, size: int) -> bool:
        """Remove what was not used for longest until `size` more bytes fit; say if they do."""
        found = []
        for path in self._store.cache.iterdir():
            if path.suffix in (".tar", ".part"):
                with suppress(FileNotFoundError):
                    about = path.stat()
                    found.append((about.st_mtime_ns, about.st_size, path))
        free = self._store.room - sum(taken for _, taken, _ in found)
        for _, taken, path in sorted(found):
            if free >= size:
                break
            if _remove_unused(path):
                free += taken
        return free >= size

    def _check_patience(self, waited: float) -> None:
        store = self._store
        if waited > store.patience:
            raise DataError(
                f"{store.cache}: for {store.patience:g} s (runtime.patience) other "
                "processes fetched a tar or filled the cache; stop them or raise runtime.cache"
            )


def _lock(file: int) -> bool:
    """Take a file for this descriptor alone; False if another has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_unused(path: Path) -> bool:
    """Remove a file unless someone reads or fetches it; say if it is gone."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        if not _lock(file):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(file)


@contextmanager
def _telling(cache: Path) -> Iterator[None]:
    """Turn an error of this disk into a DataError, which crosses from a loader's process."""
    try:
        yield
    except OSError as error:
        name = error.filename or cache
        raise DataError(explain(OSError(error.errno, error.strerror, str(name)))) from error
