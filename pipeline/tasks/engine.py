"""Who runs these tasks, and what happens to one that hangs or crashes?

Tasks in, results out in the same order, on child processes of this machine. A video decoder can
loop for ever or crash inside native code, where no exception and no thread timeout reaches: so
every task runs in a process that may be killed, and a killed process is replaced. Each child has a
pipe of its own: children share no lock that a dying one could leave locked (pebble's pool does, and
was seen to break when a child crashed just as the parent was busy). How a child starts is in
start.py, what it does in child.py, what is believed of its answer in answer.py.
"""

import math
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final, TypeVar

from pipeline.tasks.ahead import Ahead
from pipeline.tasks.answer import GarbledError, Inbox
from pipeline.tasks.child import Failure as Failure
from pipeline.tasks.child import serve
from pipeline.tasks.cluster import Cluster, run_batches
from pipeline.tasks.start import start_method
from safe.errors import ProcessError

T = TypeVar("T")
R = TypeVar("R")

_LOOK_AHEAD: Final = 8
"""Tasks a worker that may be under way or finished before their turn; bounds the memory."""

_PATIENCE: Final = 120.0
"""Seconds that a child may take to start and set up, when the deadline of a task is shorter."""

_STREAMS: Final = 2
"""Threads a worker that fetch tasks, where they must be fetched."""

_GLANCE: Final = 0.02
"""Seconds from one look for a task that is being fetched to the next, while a child is idle."""

_FAREWELL: Final = 10.0
"""Seconds from the end of a child's pipe to the end of its process."""

_NOT_YET: Final = object()


def run_tasks(
    function: Callable[[T], R],
    tasks: Sequence[T],
    *,
    workers: int,
    deadline: float,
    memory: float | None = None,
    setup: Callable[[], None] | None = None,
    fallback: Callable[[T], R] | None = None,
    fetch: Callable[[T], AbstractContextManager[T]] | None = None,
    cluster: Cluster | None = None,
    on_done: Callable[[int], None] | None = None,
) -> Iterator[R | Failure]:
    """Run `function` on each task in child processes; yield the results in the order of the tasks.

    Functions, tasks and results travel between processes: functions live at the top of a module,
    the rest can be pickled. Leaving the iterator early, by an exception or Ctrl-C, stops all
    children.

    Args:
        function: what to do with a task. An exception it raises is raised here, at once.
        tasks: what to do it with.
        workers: number of child processes; 0 counts as 1, because a task always needs a guard.
        deadline: seconds after which a task is killed, of wall clock and of computing. The start
            of a child is not part of a task.
        memory: GiB that a task may take besides what its process has after the set-up, on Linux;
            one that asks for more is a Failure. None: no limit.
        setup: called once in each child, before its first task.
        fallback: tried once, under the same limits, on a task that was killed or crashed.
        fetch: makes a task ready, in a thread and before its turn, outside of its deadline; what it
            gives is what `function` gets, and is left when the task is done. What it raises is
            raised here.
        cluster: whose workers run this, one child a thread of theirs, in place of `workers` here.
        on_done: called with the number of results so far, before each is yielded.

    Raises:
        ProcessError: if a child process dies or hangs in its own start or set-up, or the cluster
            fails for good (cluster.py).
    """
    if cluster is not None:
        limits: dict[str, Any] = {"deadline": deadline, "memory": memory, "setup": setup}
        work: Any = partial(
            run_tasks, function, workers=1, fallback=fallback, fetch=fetch, **limits
        )
        yield from run_batches(work, tasks, cluster=cluster, on_done=on_done)
        return
    crew = _Crew(
        max(workers, 1), deadline, partial(serve, (function, fallback), setup, deadline, memory)
    )
    ahead = Ahead(fetch, threads=_STREAMS * crew.size)
    todo: deque[_Job] = deque()
    finished: dict[int, R | Failure] = {}
    issued = 0
    try:
        for turn in range(len(tasks)):
            while turn not in finished:
                while issued < min(len(tasks), turn + _LOOK_AHEAD * crew.size):
                    ahead.begin(issued, tasks[issued])
                    todo.append(_Job(issued, function))
                    issued += 1
                for job, result in crew.advance(todo, ahead):
                    failed = isinstance(result, Failure) and job.function is not fallback
                    if failed and fallback is not None:
                        todo.appendleft(_Job(job.index, fallback))
                    else:
                        ahead.drop(job.index)
                        finished[job.index] = result
            if on_done is not None:
                on_done(turn + 1)
            yield finished.pop(turn)
    finally:
        crew.stop()
        ahead.stop()


@dataclass(frozen=True)
class _Job:
    index: int
    function: Callable[[Any], Any]


class _Child:
    """One child process; it starts at once and answers once after its set-up, then once a job."""

    def __init__(self, serve: Callable[[Connection], None], deadline: float):
        method = start_method()
        self.pipe, end = method.Pipe()
        self.process = method.Process(target=serve, args=(end,), daemon=True)
        try:
            try:
                self.process.start()
            except ConnectionRefusedError:  # an interrupted start ended the server: a new one forks
                time.sleep(0.2)
                self.process = method.Process(target=serve, args=(end,), daemon=True)
                self.process.start()
        except (EOFError, ConnectionError) as error:
            raise ProcessError(
                "a child process did not start: the one that forks it was killed (out of memory?)"
            ) from error
        end.close()  # now the pipe ends when the child does
        self._deadline = deadline
        self._inbox = Inbox(self.pipe)
        self.job: _Job | None = None
        self.starting = True
        self.due = time.monotonic() + max(deadline, _PATIENCE)

    @property
    def idle(self) -> bool:
        return self.job is None and not self.starting

    def give(self, job: _Job, task: Any) -> None:
        self.job, self.due = job, time.monotonic() + self._deadline
        with suppress(BrokenPipeError):  # it has died: its answer will be a Failure
            self.pipe.send((job.function, task))

    def answer(self) -> Any:
        """Return the result if all of it has come, else _NOT_YET, or how the child failed.

        Raises what the task raised.
        """
        try:
            payload = self._inbox.read()
        except EOFError:
            return self._how_it_ended()
        except GarbledError:
            return Failure("sent something that is no answer")
        if payload is None:
            return _NOT_YET
        fine, value = ForkingPickler.loads(payload)
        if not fine:
            raise value
        return value

    def _how_it_ended(self) -> Failure:
        self.process.join(_FAREWELL)
        code = self.process.exitcode
        if code is None:
            return Failure("closed its pipe and went on")
        if code == -signal.SIGXCPU:
            return Failure(f"killed after {self._deadline:g} s of computing")
        return Failure(f"crashed (signal {-code})" if code < 0 else f"crashed (exit code {code})")

    def kill(self) -> None:
        self.process.kill()  # not SIGTERM: it may be deep in native code
        self.process.join()
        self.pipe.close()


class _Crew:
    """The children: handed jobs, watched, killed when late, replaced when dead."""

    def __init__(self, size: int, deadline: float, serve: Callable[[Connection], None]):
        self.size = size
        self._deadline = deadline
        self._serve = serve
        self._children: list[_Child] = []

    def advance(self, todo: deque[_Job], ahead: Ahead[Any]) -> list[tuple[_Job, Any]]:
        """Hand out jobs from `todo`, wait until something happens, return what was finished."""
        busy = sum(child.job is not None for child in self._children)
        while len(self._children) < min(self.size, len(todo) + busy):
            self._children.append(_Child(self._serve, self._deadline))
        for child in self._children:
            if child.idle and todo and ahead.is_ready(todo[0].index):
                job = todo.popleft()
                child.give(job, ahead.take(job.index))
        due = min((child.due for child in self._children if not child.idle), default=math.inf)
        if todo and any(child.idle for child in self._children):
            due = min(due, time.monotonic() + _GLANCE)
        ready = wait([child.pipe for child in self._children], max(due - time.monotonic(), 0))
        finished = []
        for child in list(self._children):
            result = child.answer() if child.pipe in ready else _NOT_YET
            if result is _NOT_YET and not child.idle and time.monotonic() >= child.due:
                result = Failure(f"killed after {self._deadline:g} s")
            if result is _NOT_YET:
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
