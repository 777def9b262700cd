"""The pool that runs tasks: guarded child processes of this machine, or a cluster's workers.

Tasks in, results out in the same order. What a stage knows of processes, limits, clips that must be
fetched and clusters is this one object.
"""

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
from pipeline.pool.children import NOT_YET, Child, Failure, Job, Trouble, serve
from safe.config import Runtime
from safe.errors import MachineError, ProcessError

_LOOK_AHEAD: Final = 8
"""Tasks a worker that may be under way or finished before their turn; bounds the memory."""

_TICK: Final = 1.0
"""Seconds from one look at the children to the next, at most; a tenth of a shorter deadline. Of a
time in which this process stood still, as while the machine slept, no more is counted."""

_LEAST: Final = 30.0
"""Seconds for which an error of the machine is waited for at the least, if patience allows it: a
run that has hardly begun is soon done again."""

_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 10.0
"""Seconds until a task is tried again: half as long as the trouble has lasted, within these."""

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
            of a child and the fetching of a clip are no part of a task, nor is time in which
            this process or the child was stopped, or the child waited for a disk.
        memory: GiB that a task may take besides what its process has after the set-up, on Linux;
            one that asks for more is a Failure. None: no limit.
        clips: a store where the clips are, which are the tasks; each is fetched before its turn.
        cluster: whose workers run the tasks, one child a thread of theirs, in place of `workers`.
        patience: seconds for which a task is tried again that the machine fails, or as long as the
            run has lasted before, if that is less and over half a minute.
    """

    deadline: float
    workers: int = 1
    memory: float | None = None
    clips: ClipStore | None = None
    cluster: Cluster | None = None
    patience: float = 300.0

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
            patience=runtime.patience,
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
            function: what to do with a task. A SafeError that it raises is raised here, at once; an
                error of the machine (safe.errors.of_machine) once patience is over, and that of a
                full disk at once; any other exception is a Failure.
            tasks: what to do it with.
            setup: called once in each child, before its first task.
            fallback: tried once, under the same limits, on a task that was killed or crashed.
            on_done: called with the number of results so far, before each is yielded.

        Raises:
            DataError: if the store of the clips fails for good.
            MachineError, OSError: if the machine fails a task for longer than the patience.
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
        crew = _Crew(max(self.workers, 1), self.deadline, self.patience, child)
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
                        if isinstance(result, Trouble):
                            todo.appendleft(crew.again(job, result))
                        elif failed and fallback is not None:
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

    def __init__(
        self, size: int, deadline: float, patience: float, serve: Callable[[Connection], None]
    ):
        self.size = size
        self._deadline = deadline
        self._patience = patience
        self._serve = serve
        self._children: list[Child] = []
        self._began = time.monotonic()
        self._start = _START

    def advance(self, todo: deque[Job], fetching: "_Fetching") -> list[tuple[Job, Any]]:
        """Hand out jobs from `todo`, wait until something happens, return what was finished."""
        self._hire(len(todo))
        self._hand_out(todo, fetching)
        ready = self._wait(glance=bool(todo))
        finished = []
        for child in list(self._children):
            result = child.answer() if child.pipe in ready else NOT_YET
            if result is NOT_YET and not child.idle and child.left <= 0:
                result = Failure(f"killed after {self._deadline:g} s")
            if result is NOT_YET:
                continue
            died = child.ended or (child.starting and isinstance(result, Trouble))
            if died or isinstance(result, Failure):
                child.kill()
                self._children.remove(child)
            if child.job is not None:
                finished.append((child.job, result))
            elif isinstance(result, Failure):
                raise ProcessError(f"a child process did not start: {result.reason}")
            elif isinstance(result, Trouble):
                self._start = self.again(self._start, result)
            else:
                self._start = _START
            child.job, child.starting = None, False
        return finished

    def again(self, job: Job, trouble: Trouble) -> Job:
        """Return a job that the machine failed, to be tried again; or raise what it failed by."""
        now = time.monotonic()
        since = now if job.since is None else job.since
        if now - since >= min(self._patience, max(_LEAST, since - self._began)):
            raise trouble.error
        pause = min(max(_PAUSE, (now - since) / 2), _LONGEST_PAUSE)
        return replace(job, since=since, after=now + pause)

    def _hire(self, waiting: int) -> None:
        busy = sum(child.job is not None for child in self._children)
        while (
            len(self._children) < min(self.size, waiting + busy)
            and self._start.after <= time.monotonic()
        ):
            try:
                self._children.append(Child(self._serve, self._deadline, self._patience))
            except (OSError, MachineError) as error:
                self._start = self.again(self._start, Trouble(error))

    def _hand_out(self, todo: deque[Job], fetching: "_Fetching") -> None:
        now = time.monotonic()
        for child in self._children:
            if child.idle:
                able = (job for job in todo if job.after <= now and fetching.is_ready(job.number))
                job = next(able, None)
                if job is None:
                    return
                todo.remove(job)
                child.give(job, fetching.take(job.number))

    def _wait(self, *, glance: bool) -> list[Any]:
        """Wait for an answer or a moment; let those that are busy spend it. Return ready pipes."""
        busy = [child for child in self._children if not child.idle]
        seconds = min(_TICK, self._deadline / 10, *(max(child.left, 0) for child in busy))
        if glance and len(busy) < self.size:
            seconds = min(seconds, _GLANCE)
        began = time.monotonic()
        ready = wait([child.pipe for child in self._children], seconds)
        spent = min(max(time.monotonic() - began, 0), seconds)
        for child in busy:
            child.spend(spent)
        return ready

    def stop(self) -> None:
        for child in self._children:
            child.kill()


_START: Final = Job(-1, bool)
"""The start of a child, as what may be tried again."""


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
