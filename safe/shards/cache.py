"""Which tars of a store lie on this disk?

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
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from safe.errors import ConfigError, DataError, explain
from safe.files import die_with_parent
from safe.shards.folder import ShardFolder
from safe.shards.order import WINDOW
from safe.shards.store import BLOCK, Store
from safe.shards.verify import check_tar

AHEAD: Final = 4
"""Tars that are fetched before they are needed (safe.shards.cache)."""

_LOOK_EVERY = 0.02  # seconds, while another process fetches or all is in use


class TarCache:
    """The tars of one shard folder in a store, as far as they lie on this disk."""

    def __init__(self, folder: ShardFolder, store: Store) -> None:
        """Look whether the room suffices.

        Raises:
            ConfigError: if it does not hold the tars of a window and of the read-ahead.
        """
        self.folder, self.store = folder, store
        self._tars = folder.index["shards"]
        count = min(len(self._tars), WINDOW + AHEAD)
        need = count * int(self._tars["bytes"].max())
        if store.room < need:
            raise ConfigError(
                f"params: runtime.cache = {store.room / 2**30:.3g} GiB: must be at least "
                f"{need / 2**30:.3g}, for {count} tars: {WINDOW} are read together, {AHEAD} ahead"
            )

    def path(self, number: int) -> Path:
        """Return where a tar lies, if it does; its position in index.json goes in."""
        return self.store.cache / f"{self._tars['sha256'][number]}.tar"

    @contextmanager
    def open(self, number: int) -> Iterator[int]:
        """Give a file descriptor of a tar, fetched if need be; nobody removes it in this block.

        A tar in which the block finds an error is removed, so that the next run fetches it anew.

        Raises:
            DataError: one line, if the store or this disk fails, or the tar is not the right one.
        """
        asked = time.monotonic()
        with _telling(self.store.cache):
            while (file := self._hold(number)) is None:
                self.fetch(number, asked=asked)
            os.utime(file)
        try:
            yield file
        except DataError:
            self.path(number).unlink(missing_ok=True)
            raise
        finally:
            os.close(file)

    def touch(self, number: int) -> None:
        """Make a tar, if it is there, the last one to be removed."""
        with suppress(FileNotFoundError):
            os.utime(self.path(number))

    def fetch(self, number: int, *, asked: float) -> None:
        """Bring a tar here, or wait until another process has, or has given up.

        Args:
            number: its position in index.json.
            asked: time.monotonic() since when it is waited for.

        Raises:
            DataError, OSError: as in `open`.
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

    def _download(self, file: int, number: int, asked: float) -> None:
        name, size = self.store / self.folder.files[number], int(self._tars["bytes"][number])
        since = asked  # patience counts from the last block that came
        for start in range(0, size, BLOCK):
            os.pwrite(file, name.read(start, size, since=since), start)
            since = time.monotonic()
        with os.fdopen(os.dup(file), "rb") as tar:
            tar.seek(0)
            check_tar(self.folder, number, tar, name)
        os.fsync(file)

    def _make_room(self, file: int, size: int, asked: float) -> None:
        """Give `file` its size once the folder has room for it."""
        os.ftruncate(file, 0)  # what a killed process left
        while True:
            with (self.store.cache / "lock").open("wb") as only:
                fcntl.flock(only, fcntl.LOCK_EX)
                if self._removed(size):
                    os.posix_fallocate(file, 0, size)
                    return
            self._check_patience(time.monotonic() - asked)
            time.sleep(_LOOK_EVERY)

    def _removed(self, size: int) -> bool:
        """Remove what was not used for longest until `size` more bytes fit; say if they do."""
        found = []
        for path in self.store.cache.iterdir():
            if path.suffix in (".tar", ".part"):
                with suppress(FileNotFoundError):
                    about = path.stat()
                    found.append((about.st_mtime_ns, about.st_size, path))
        free = self.store.room - sum(taken for _, taken, _ in found)
        for _, taken, path in sorted(found):
            if free >= size:
                break
            if _remove_unused(path):
                free += taken
        return free >= size

    def _check_patience(self, waited: float) -> None:
        if waited > self.store.patience:
            raise DataError(
                f"{self.store.cache}: for {self.store.patience:g} s (runtime.patience) other "
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


# Which tars of a store will be needed next, and are they on this disk by then?
#
# A process of its own walks through the plan before the loader and fetches its tars into the cache,
# never more than a window and the read-ahead before the batch that is in use. It only saves time: a
# tar that is not there yet is fetched, or waited for, by who needs it, and who needs it meets the
# error that this process kept to itself.

STREAMS: Final = 4
"""Tars that are fetched at the same time."""


T = TypeVar("T")


def reading_ahead(
    cache: TarCache, plan: Iterable[NDArray[np.int64]], batches: Iterator[T]
) -> Generator[T, None, None]:
    """Give `batches`, while a process fetches the tars of `plan`, the rows that they are made of.

    The plan may be an iterator that `batches` will use up: a forked process has a copy of it.
    """
    context = multiprocessing.get_context("fork")
    passed = context.Value("q", 0, lock=False)
    process = context.Process(target=_run, args=(cache, plan, passed), daemon=True)
    process.start()
    try:
        for batch in batches:
            yield batch
            passed.value += 1
    finally:
        process.terminate()
        process.join()


def _run(cache: TarCache, plan: Iterable[NDArray[np.int64]], passed: Any) -> None:
    """Fetch what the batches from number `passed` on need; the process's whole life."""
    die_with_parent()
    most = WINDOW + AHEAD
    needed: dict[int, int] = {}  # tar -> the last batch, of those looked at, that needs it
    with suppress(KeyboardInterrupt), ThreadPoolExecutor(STREAMS) as pool:
        for number, rows in enumerate(plan):
            tars = list(dict.fromkeys(cache.folder.shard[rows].tolist()))[:most]
            while True:
                needed = {tar: last for tar, last in needed.items() if last >= passed.value}
                if not needed or len(needed.keys() | set(tars)) <= most:
                    break
                time.sleep(_LOOK_EVERY)
            new = [tar for tar in tars if tar not in needed]
            needed |= dict.fromkeys(tars, number)
            for tar in new:
                for kept in needed:  # one that waits for its turn must not be the oldest
                    cache.touch(kept)
                pool.submit(_fetch, cache, tar)


def _fetch(cache: TarCache, tar: int) -> None:
    with suppress(DataError), cache.open(tar):
        pass
