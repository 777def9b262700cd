"""The pool that runs tasks: guarded child processes of this machine, or a cluster's workers.

Tasks in, results out in the same order. What a stage knows of processes, limits, clips that must be
fetched and clusters is this one object.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, Protocol, Self, TypeVar

from pipeline.clips import ClipStore
from pipeline.pool.children import NOT_YET, Child, Failure, Job, serve
from safe.config import Runtime
from safe.errors import ProcessError

_LOOK_AHEAD: Final = 8
"""Tasks a worker that may be under way or finished before their turn; bounds the memory."""

_STREAMS: Final = 2
"""Threads a worker that fetch tasks, where they must be fetched."""

_GLANCE: Final = 0.02
"""Seconds from one look for a task that is being fetched to the next, while a child is idle."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R")


class Tasks(Protocol[T_co]):
    """Tasks whose number is known; a list, or rows that are made while they are walked through."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[T_co]: ...


class Cluster(Protocol):
    """Other machines whose workers do batches of tasks (pipeline.pool.cluster)."""

    def run(self, work: Callable[[list[T]], Iterable[R]], tasks: Tasks[T]) -> Iterator[R]:
        """Do `work`, one result a task, on batches of the tasks; give the results in order."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Who runs tasks, and what each may take. Only what a task is allowed changes a result.

    Attributes:
        workers: child processes; 0 counts as 1, because a task always needs a guard.
        deadline: seconds after which a task is killed, of wall clock and of computing. The start
            of a child and the fetching of a clip are no part of a task.
        memory: GiB that a task may take besides what its process has after the set-up, on Linux;
            one that asks for more is a Failure. None: no limit.
        clips: a store where the clips are, which are the tasks; each is fetched before its turn.
        cluster: whose workers run the tasks, one child a thread of theirs, in place of `workers`.
    """

    deadline: float
    workers: int = 1
    memory: float | None = None
    clips: ClipStore | None = None
    cluster: Cluster | None = None

    @classmethod
    def of(
        cls, runtime: Runtime, *, clips: ClipStore | None = None, cluster: Cluster | None = None
    ) -> Self:
        """Return the pool of the section runtime."""
        return cls(
            deadline=runtime.deadline,
            workers=runtime.workers,
            memory=runtime.memory,
            clips=clips,
            cluster=cluster,
        )

    def require(self) -> None:
        """Raise DataError, one line, where the clips are to come from a store that is not there."""
        if self.clips is not None:
            self.clips.require()

    def run(
        self,
        function: Callable[[T], R],
        tasks: Tasks[T],
        *,
        setup: Callable[[], None] | None = None,
        fallback: Callable[[T], R] | None = None,
        on_done: Callable[[int], None] | None = None,
    ) -> Iterator[R | Failure]:
        """Run `function` on each task; yield the results in the order of the tasks.

        Functions, tasks and results travel between processes: functions live at the top of a
        module, the rest can be pickled. Leaving the iterator early, by an exception or Ctrl-C,
        stops all children.

        Args:
            function: what to do with a task. An exception it raises is raised here, at once.
            tasks: what to do it with.
            setup: called once in each child, before its first task.
            fallback: tried once, under the same limits, on a task that was killed or crashed.
            on_done: called with the number of results so far, before each is yielded.

        Raises:
            DataError: if the store of the clips fails for good.
            ProcessError: if a child process dies or hangs in its own start or set-up, or the
                cluster fails for good.
        """
        results: Any
        if self.cluster is None:
            results = self._run_here(function, tasks, setup, fallback)
        else:
            there = replace(self, workers=1, cluster=None)
            work = partial(there.run, function, setup=setup, fallback=fallback)
            results = self.cluster.run(work, tasks)
        with closing(results):
            for done, result in enumerate(results, start=1):
                if on_done is not None:
                    on_done(done)
                yield result

    def _run_here(
        self,
        function: Callable[[T], R],
        tasks: Tasks[T],
        setup: Callable[[], None] | None,
        fallback: Callable[[T], R] | None,
    ) -> Iterator[R | Failure]:
        child = partial(serve, (function, fallback), setup, self.deadline, self.memory)
        crew = _Crew(max(self.workers, 1), self.deadline, child)
        fetching = _Fetching(self.clips, threads=_STREAMS * crew.size)
        todo: deque[Job] = deque()
        finished: dict[int, R | Failure] = {}
        left = enumerate(tasks)
        try:
            for turn in range(len(tasks)):
                for number, task in islice(left, 1 if turn else _LOOK_AHEAD * crew.size):
                    fetching.begin(number, task)
                    todo.append(Job(number, function))
                while turn not in finished:
                    for job, result in crew.advance(todo, fetching):
                        failed = isinstance(result, Failure) and job.function is not fallback
                        if failed and fallback is not None:
                            todo.appendleft(Job(job.number, fallback))
                        else:
                            fetching.drop(job.number)
                            finished[job.number] = result
                yield finished.pop(turn)
        finally:
            crew.stop()
            fetching.stop()


class _Crew:
    """The children: handed jobs, watched, killed when late, replaced when dead."""

    def __init__(self, size: int, deadline: float, serve: Callable[[Connection], None]):
        self.size = size
        self._deadline = deadline
        self._serve = serve
        self._children: list[Child] = []

    def advance(self, todo: deque[Job], fetching: "_Fetching") -> list[tuple[Job, Any]]:
        """Hand out jobs from `todo`, wait until something happens, return what was finished."""
        busy = sum(child.job is not None for child in self._children)
        while len(self._children) < min(self.size, len(todo) + busy):
            self._children.append(Child(self._serve, self._deadline))
        for child in self._children:
            if child.idle and todo and fetching.is_ready(todo[0].number):
                job = todo.popleft()
                child.give(job, fetching.take(job.number))
        due = min((child.due for child in self._children if not child.idle), default=math.inf)
        if todo and any(child.idle for child in self._children):
            due = min(due, time.monotonic() + _GLANCE)
        ready = wait([child.pipe for child in self._children], max(due - time.monotonic(), 0))
        finished = []
        for child in list(self._children):
            result = child.answer() if child.pipe in ready else NOT_YET
            if result is NOT_YET and not child.idle and time.monotonic() >= child.due:
                result = Failure(f"killed after {self._deadline:g} s")
            if result is NOT_YET:
                continue
            if isinstance(result, Failure):
                child.kill()
                self._children.remove(child)
                if child.starting:
                    raise ProcessError(f"a child process did not start: {result.reason}")
            if child.job is not None:
                finished.append((child.job, result))
            child.job, child.starting = None, False
        return finished

    def stop(self) -> None:
        for child in self._children:
            child.kill()


class _Fetching:
    """Tasks by number, each in the context that a fetch gives it; without `clips`, as they are.

    Fetching waits for a network where decoding waits for a processor, so it runs in threads of this
    process while children decode.
    """

    def __init__(self, clips: ClipStore | None, *, threads: int) -> None:
        self._fetch: Callable[[Any], AbstractContextManager[Any]] | None
        self._fetch = None if clips is None else clips.fetch
        self._held: dict[int, Future[tuple[Any, ExitStack]]] = {}
        self._todo: SimpleQueue[tuple[Any, Future[tuple[Any, ExitStack]]] | None] = SimpleQueue()
        self._threads = threads if clips is not None else 0
        for _ in range(self._threads):
            # Of concurrent.futures, Ctrl-C would have to wait for the patience with a store.
            Thread(target=self._work, daemon=True).start()

    def begin(self, number: int, task: Any) -> None:
        """Let a task be made ready, after those that were begun before."""
        future: Future[tuple[Any, ExitStack]] = Future()
        self._held[number] = future
        if self._fetch is None:
            future.set_result((task, ExitStack()))
        else:
            self._todo.put((task, future))

    def is_ready(self, number: int) -> bool:
        """Say whether `take` need not wait."""
        return self._held[number].done()

    def take(self, number: int) -> Any:
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
