"""A folder of an object store: its files are read and written, with retries.

A URL of fsspec, such as s3://bucket/prefix, goes in; bytes come out. What a store does wrong for
a moment is tried again, with growing random pauses, for a bounded time; a request that does not end
is given up; what it does wrong for good is one DataError. Credentials are where the store's own
tools look for them: in the environment or in their usual files. What a store's library says may
hold them: its words never reach an error.
"""

import errno
import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from operator import methodcaller
from pathlib import Path
from typing import Any, Final, TypeVar

from safe.errors import DataError, MissingError, SafeError

BLOCK: Final = 2**23
"""Bytes of one request: 120 a second of 8 MiB fill a network of 10 Gbit/s."""

_LONGEST_PAUSE = 10.0  # seconds
_REQUEST = 60.0  # seconds that a request may take, and more for what it carries:
_SLOWEST = 2**17  # bytes a second
_LISTING = 600.0  # seconds for all names of a folder: a request for each 1,000
_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    # One try a request, of at most 20 s: how often it is tried again is decided here.
    "s3": {"config_kwargs": {"retries": {"max_attempts": 0}}},
    "file": {"auto_mkdir": True},
}
_FOR_GOOD = (
    *(FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError),
    *(ImportError, ValueError, TypeError, AttributeError, NotImplementedError),
)
_FOR_GOOD_BY_NAME = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"}
_RIGHTS = "credentials come from the environment or the store's usual files; are they right?"

T = TypeVar("T")


@dataclass(frozen=True)
class Store:
    """A folder of an object store. It opens nothing itself, so it may go to other processes.

    Attributes:
        url: of the folder, as runtime.shards and runtime.clips in safe.config.
        patience: seconds for which a request that fails is tried again.
    """

    url: str
    patience: float

    def __str__(self) -> str:
        return self.url.rstrip("/")

    def __truediv__(self, name: object) -> "StoreFile":
        return StoreFile(self, str(name))

    def sizes(self) -> dict[str, int]:
        """Return the names of the files in the folder and their sizes in bytes. Raises DataError.

        One request finds 1,000 of them.
        """

        def look(fs: Any) -> Any:
            try:  # not by find: it takes what a store does wrong for an empty folder
                return _call(fs, "ls", str(self), detail=True, seconds=_LISTING)
            except FileNotFoundError:
                return []

        files = [about for about in self.ask(str(self), look) if about["type"] == "file"]
        found = {str(about["name"]).rsplit("/", 1)[-1]: about["size"] for about in files}
        # A web server's page has names alone.
        return {n: (self / n).size() if size is None else int(size) for n, size in found.items()}

    def walk(self, folder: str) -> Iterator[tuple[str, int]]:
        """Yield path, relative to the store, and bytes of each file below a folder; "" is all.

        Raises:
            DataError: as `ask`; MissingError if there is no such folder.
        """
        todo = [folder]
        while todo:
            here = todo.pop()
            where = f"{self}/{here}".rstrip("/")
            itself = where.partition("://")[2].strip("/")
            for found in self.ask(where, methodcaller("ls", where, detail=True)):
                name = found["name"].strip("/")
                path = f"{here}/{name.rpartition('/')[2]}".lstrip("/")
                if name == itself:  # a store may keep an empty file for a folder
                    continue
                if found["type"] == "directory":
                    todo.append(path)
                else:
                    yield path, int(found["size"])

    def ask(self, what: str, do: Callable[[Any], T], *, since: float | None = None) -> T:
        """Return do(filesystem), tried again until `patience` seconds after `since` (or now).

        Raises:
            DataError: one line that begins with `what`, if it cannot work, or did not in this time;
                MissingError where the store answers that there is no such thing.
        """
        began, pause = time.monotonic() if since is None else since, 0.1
        while True:
            try:
                return do(_filesystem(self.url.partition("://")[0], os.getpid()))
            except Exception as error:  # noqa: BLE001 - each store has errors of its own
                reason, left = _reason(error), began + self.patience - time.monotonic()
                if isinstance(error, _FOR_GOOD) or type(error).__name__ in _FOR_GOOD_BY_NAME:
                    kind = MissingError if isinstance(error, FileNotFoundError) else DataError
                    raise kind(f"{what}: {reason}") from None  # its words may hold secrets
            if left <= 0:
                raise DataError(
                    f"{what}: {reason}, and again for {self.patience:g} s (runtime.patience); "
                    "is the store up and reachable?"
                )
            time.sleep(min(left, pause * random.uniform(0.5, 1.5)))
            pause = min(2 * pause, _LONGEST_PAUSE)


@dataclass(frozen=True)
class StoreFile:
    """One file of a store."""

    store: Store
    name: str

    def __str__(self) -> str:
        return f"{self.store}/{self.name}"

    def size(self) -> int:
        """Return its bytes. Raises DataError."""
        size = self.store.ask(
            str(self), lambda fs: _call(fs, "info", str(self), seconds=_REQUEST)["size"]
        )
        if size is None:
            raise DataError(f"{self}: the server does not say how large it is; use another one")
        return int(size)

    def read_whole(self, *, most: int, error: type[SafeError]) -> bytes:
        """Read all of it. Raises `error` if it has more than `most` bytes, else DataError."""
        size = self.size()
        if size > most:
            raise error(f"{self}: larger than {most:,} bytes, the most that such a file needs")
        return b"".join(self.read(start, size) for start in range(0, size, BLOCK))

    def read(self, start: int, size: int, *, since: float | None = None) -> bytes:
        """Read a block from byte `start` on, of a file of `size` bytes.

        Raises:
            DataError: if the store did not give it, within patience after `since`, or the file is
                shorter.
        """
        stop = min(start + BLOCK, size)
        within = _REQUEST + (stop - start) / _SLOWEST

        def get(fs: Any) -> Any:
            return _call(fs, "cat_file", str(self), start=start, end=stop, seconds=within)

        piece = self.store.ask(str(self), get, since=since)
        if len(piece) == size:  # a web server that knows no ranges sends all of it
            piece = piece[start:stop]
        if len(piece) != stop - start:
            raise DataError(f"{self}: not of {size} bytes any more; bring it there again")
        return bytes(piece)

    def sha256(self, size: int) -> str:
        """Return the hex digest of its first `size` bytes, all read back. Raises DataError."""
        digest = hashlib.sha256()
        for start in range(0, size, BLOCK):
            digest.update(self.read(start, size))
        return digest.hexdigest()

    def write(self, path: Path) -> None:
        """Make it a copy of a local file. Raises DataError; OSError if the local one is not there.

        It appears whole, as object stores do it.
        """
        within = _REQUEST + path.stat().st_size / _SLOWEST
        names = (str(path), str(self))
        self.store.ask(str(self), lambda fs: _call(fs, "put_file", *names, seconds=within))


@lru_cache(maxsize=8)
def _filesystem(protocol: str, process: int) -> Any:
    """Return fsspec's filesystem. Each process has its own: a fork breaks its event loop."""
    import fsspec  # here: it takes a tenth of a second

    options = _OPTIONS.get(protocol, {})
    made = fsspec.filesystem(
        protocol, skip_instance_cache=True, use_listings_cache=False, **options
    )
    if hasattr(made, "retries"):  # s3fs: as above
        made.retries = 1
    return made


def _call(fs: Any, name: str, *args: Any, seconds: float, **kwargs: Any) -> Any:
    """Call a method of a filesystem. One that works asynchronously is ended after `seconds`.

    s3fs limits by itself how long a server may be silent, but not how long it may take nothing.
    """
    if not fs.async_impl:
        return getattr(fs, name)(*args, **kwargs)
    from fsspec.asyn import sync

    return sync(fs.loop, getattr(fs, f"_{name}"), *args, timeout=seconds, **kwargs)


def _reason(error: Exception) -> str:
    """Say in a few words of our own what went wrong."""
    if isinstance(error, FileNotFoundError):
        return "not found; `safe-cli push-shards` brings shards there"
    if isinstance(error, ImportError):
        return "a package for such URLs is missing; `pip install 'safe-dfer[scale]'` has s3fs"
    if isinstance(error, ValueError):
        return "fsspec does not know such a URL"
    if isinstance(error, PermissionError):
        return f"access is denied; {_RIGHTS}"
    if type(error).__name__ in _FOR_GOOD_BY_NAME:
        return f"no credentials ({type(error).__name__}); {_RIGHTS}"
    if "Timeout" in type(error).__name__:
        return "no answer in time"
    number: Any = getattr(error, "errno", None)
    known = isinstance(number, int) and number in errno.errorcode
    return os.strerror(number) if known else type(error).__name__
