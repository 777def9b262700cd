"""Which tasks are made ready before their turn, and when is what they took given back?

Fetching waits for a network where decoding waits for a processor, so it runs in threads of this
process while children decode, and its time is no part of a task's deadline.
"""

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack
from queue import SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

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
