"""How does a clip of an object store get onto this disk, and off it again?

A clip with its path in the store goes in, the same clip with the path of a copy here comes out. The
store's failures are tried again with patience (safe/store.py); a clip that it does not have is one
that is missing, as on a disk.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile
from typing import IO, Any, Final

from safe.errors import DataError
from safe.store import BLOCK, MissingError, Store

_NOWHERE: Final = f"{os.devnull}/clip"
"""No file is ever there: who looks for the clip finds it missing, and says so in his words."""


def require_store(store: Store) -> None:
    """Raise DataError, one line, unless the store answers and something is there."""
    try:
        store.ask(str(store), lambda fs: fs.info(str(store)))
    except MissingError as error:
        raise DataError(f"runtime.clips: {store}: nothing is there") from error


@contextmanager
def fetched(clip: Any, *, store: Store) -> Iterator[Any]:
    """Give a clip as it is on this disk until the block is left.

    Args:
        clip: a dataclass with a field `path`, relative to the store.
        store: where it is; never more is taken from it than the size that it names first.

    Raises:
        DataError: one line, if the store fails for longer than its patience, or for good.
        OSError: if this disk is full.
    """
    with _temporary() as (file, path):
        try:
            _copy(store, clip.path, file)
        except MissingError:
            path = _NOWHERE
        yield replace(clip, path=path)


def _copy(store: Store, path: str, file: IO[bytes]) -> None:
    far = store / path
    size = far.size()
    for start in range(0, size, BLOCK):
        file.write(far.read(start, size))
    file.flush()


@contextmanager
def _temporary() -> Iterator[tuple[IO[bytes], str]]:
    """Give an empty file and a path under which children can open it."""
    if sys.platform == "linux":
        with TemporaryFile() as file:  # without a name: gone with this process, however that ends
            yield file, f"/proc/{os.getpid()}/fd/{file.fileno()}"
    else:
        with NamedTemporaryFile(prefix="safe-clip-") as named:
            yield named, str(Path(named.name).absolute())
