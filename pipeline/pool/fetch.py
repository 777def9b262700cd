"""How does a clip of an object store get onto this disk, and off it again?

A clip with its path in the store goes in, the same clip with the path of a copy here comes out. The
store's failures are tried again with patience (safe/shards/store.py); a clip that it does not have
is one that is missing, as on a disk.
"""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from tempfile import NamedTemporaryFile, TemporaryFile
from threading import Thread
from typing import IO, Any, Final, Generic, TypeVar

from safe.errors import DataError
from safe.shards.store import BLOCK, MissingError, Store

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


# Which tasks are made ready before their turn, and when is what they took given back?
#
# Fetching waits for a network where decoding waits for a processor, so it runs in threads of this
# process while children decode, and its time is no part of a task's deadline.

T = TypeVar("T")

_Work = tuple[T, "Future[tuple[T, ExitStack]]"]


class Ahead(Generic[T]):
    """Tasks by number, each in the context that `fetch` gives it."""

    def __init__(
        self, fetch: Callable[[T], AbstractContextManager[T]] | None, *, threads: int
    ) -> None:
        """Without `fetch`, every task is ready as it is."""
        self._fetch = fetch
        self._held: dict[int, Future[tuple[T, ExitStack]]] = {}
        self._todo: SimpleQueue[_Work[T] | None] = SimpleQueue()
        self._threads = threads if fetch is not None else 0
        for _ in range(self._threads):
            # Of concurrent.futures, Ctrl-C would have to wait for the patience with a store.
            Thread(target=self._work, daemon=True).start()

    def begin(self, number: int, task: T) -> None:
        """Let a task be made ready, after those that were begun before."""
        future: Future[tuple[T, ExitStack]] = Future()
        self._held[number] = future
        if self._fetch is None:
            future.set_result((task, ExitStack()))
        else:
            self._todo.put((task, future))

    def is_ready(self, number: int) -> bool:
        """Say whether `take` need not wait."""
        return self._held[number].done()

    def take(self, number: int) -> T:
        """Return a task as it shall be done. Raises what fetching it raised."""
        return self._held[number].result()[0]

    def drop(self, number: int) -> None:
        """Give back what a task that is done took."""
        self._held.pop(number).result()[1].close()

    def stop(self) -> None:
        """Give back everything; what a thread is fetching, as soon as it has it."""
        for future in self._held.values():
            if not future.cancel() and future.done() and future.exception() is None:
                future.result()[1].close()
        self._held.clear()
        for _ in range(self._threads):
            self._todo.put(None)

    def _work(self) -> None:
        while (item := self._todo.get()) is not None:
            task, future = item
            if self._fetch is None or not future.set_running_or_notify_cancel():
                continue
            stack = ExitStack()
            try:
                ready = stack.enter_context(self._fetch(task))
            except BaseException as error:  # noqa: BLE001 - it is raised in `take`
                future.set_exception(error)
            else:
                future.set_result((ready, stack))
            del item, task, future, stack  # an idle thread keeps no clip on the disk
