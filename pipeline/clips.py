"""The clips of a dataset that lie elsewhere than in its folder: what the stages know of a store.

The one there is: pipeline.pool.fetch.StoredClips.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

T = TypeVar("T")


class ClipStore(Protocol):
    """Raw clips by their paths, relative to this place. Its text names it in errors."""

    def require(self) -> None:
        """Raise DataError, one line, unless the place answers and something is there."""

    def walk(self, folder: str) -> Iterator[tuple[str, int]]:
        """Yield path and bytes of each file below a folder; "" is all.

        Raises:
            DataError: one line, if it fails for good; MissingError if there is no such folder.
        """

    def fetch(self, clip: T) -> AbstractContextManager[T]:
        """Give a clip, a dataclass with a field `path`, as it is on this disk in the block.

        Raises:
            DataError: one line, if it fails for good. A clip that is not there is no error.
        """
