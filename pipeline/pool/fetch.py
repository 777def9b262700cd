"""Clips of an object store, each copied to this disk for as long as it is needed.

The store's failures are tried again with patience (safe/shards/store.py); a clip that it does not
have is one that is missing, as on a disk.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile
from typing import IO, Any, Final

from safe.errors import DataError, MissingError
from safe.shards.store import BLOCK, Store

_NOWHERE: Final = os.devnull
"""No file is ever below it: who looks for the clip finds it missing, and says so in his words."""


class StoredClips(Store):
    """The folder of a store that the paths of clips are relative to (pipeline.clips.ClipStore)."""

    def require(self) -> None:
        """Raise DataError, one line, unless the store answers and something is there."""
        try:
            self.ask(str(self), lambda fs: fs.info(str(self)))
        except MissingError as error:
            raise DataError(f"runtime.clips: {self}: nothing is there") from error

    @contextmanager
    def fetch(self, clip: Any) -> Iterator[Any]:
        """Give a clip as it is on this disk until the block is left.

        Never more is taken from the store than the size that it names first.

        Raises:
            DataError: one line, if the store fails for longer than its patience, or for good.
            OSError: if this disk is full.
        """
        with _temporary() as (file, path):
            try:
                far = self / clip.path
                size = far.size()
                for start in range(0, size, BLOCK):
                    file.write(far.read(start, size))
                file.flush()
            except MissingError:
                path = f"{_NOWHERE}/{clip.path}"
            yield replace(clip, path=path)


@contextmanager
def _temporary() -> Iterator[tuple[IO[bytes], str]]:
    """Give an empty file and a path under which children can open it."""
    if sys.platform == "linux":
        with TemporaryFile() as file:  # without a name: gone with this process, however that ends
            yield file, f"/proc/{os.getpid()}/fd/{file.fileno()}"
    else:
        with NamedTemporaryFile(prefix="safe-clip-") as named:
            yield named, str(Path(named.name).absolute())
