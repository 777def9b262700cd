"""Who runs these tasks, and what happens to one that hangs or crashes?

Tasks in, results out in the same order, on child processes of this machine. A video decoder can
loop for ever or crash inside native code, where no exception and no thread timeout reaches: so
every task runs in a process that may be killed, and a killed process is replaced. Each child has a
pipe of its own: children share no lock that a dying one could leave locked (pebble's pool does, and
was seen to break when a child crashed just as the parent was busy).
"""

import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final, TypeVar

from safe.process import die_with_parent

T = TypeVar("T")
R = TypeVar("R")

_LOOK_AHEAD: Final = 8
"""Tasks a worker that may be under way or finished before their turn; bounds the memory."""

_PATIENCE: Final = 120.0
"""Seconds that a child may take to start and set up, when the deadline of a task is shorter."""

_SPAWN: Final = get_context("spawn")
"""A forked child would inherit the locks of the threads of its parent."""


@dataclass(frozen=True)
class Failure:
    """The result of a task whose process did not survive it."""

    reason: str
    """For example "killed after 60 s" or "crashed (signal 11)"."""


def run_tasks(
    function: Callable[[T], R],
    tasks: Sequence[T],
    *,
    workers: int,
    deadline: float,
    setup: Callable[[], None] | None = None,
    fallback: Callable[[T], R] | None = None,
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
        deadline: seconds after which a task is killed. The start of a child is not part of a task.
        setup: called once in each child, before its first task.
        fallback: tried once, under the same deadline, on a task that was killed or crashed.
        on_done: called with the number of results so far, before each is yielded.

    Raises:
        RuntimeError: if a child process dies or hangs in its own start or set-up.
    """
    crew = _Crew(max(workers, 1), deadline, setup)
    todo: deque[_Job] = deque()
    finished: dict[int, R | Failure] = {}
    issued = 0
    try:
        for turn in range(len(tasks)):
            while turn not in finished:
                while issued < min(len(tasks), turn + _LOOK_AHEAD * crew.size):
                    todo.append(_Job(issued, function, tasks[issued]))
                    issued += 1
                for job, result in crew.advance(todo):
                    failed = isinstance(result, Failure) and job.function is not fallback
                    if failed and fallback is not None:
                        todo.appendleft(_Job(job.index, fallback, job.task))
                    else:
                        finished[job.index] = result
            if on_done is not None:
                on_done(turn + 1)
            yield finished.pop(turn)
    finally:
        crew.stop()


@dataclass(frozen=True)
class _Job:
    index: int
    function: Callable[[Any], Any]
    task: Any


class _Child:
    """One child process; it starts at once and answers once after its set-up, then once a job."""

    def __init__(self, setup: Callable[[], None] | None, patience: float):
        self.pipe, end = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_serve, args=(end, setup), daemon=True)
        self.process.start()
        end.close()  # now the pipe ends when the child does
        self.job: _Job | None = None
        self.starting = True
        self.due = time.monotonic() + patience

    @property
    def idle(self) -> bool:
        return self.job is None and not self.starting

    def give(self, job: _Job, deadline: float) -> None:
        self.job, self.due = job, time.monotonic() + deadline
        with suppress(BrokenPipeError):  # it has died: its answer will be a Failure
            self.pipe.send((job.function, job.task))

    def answer(self) -> Any:
        """Read the result that waits, or see that the process is dead. Raises what it raised."""
        try:
            fine, value = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode or 0
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            return Failure(f"crashed ({how})")
        if not fine:
            raise value
        return value

    def kill(self) -> None:
        self.process.kill()  # not SIGTERM: it may be deep in native code
        self.process.join()
        self.pipe.close()


class _Crew:
    """The children: handed jobs, watched, killed when late, replaced when dead."""

    def __init__(self, size: int, deadline: float, setup: Callable[[], None] | None):
        self.size = size
        self._deadline = deadline
        self._setup = setup
        self._children: list[_Child] = []

    def advance(self, todo: deque[_Job]) -> list[tuple[_Job, Any]]:
        """Hand out jobs from `todo`, wait until something happens, return what was finished."""
        busy = sum(child.job is not None for child in self._children)
        while len(self._children) < min(self.size, len(todo) + busy):
            self._children.append(_Child(self._setup, max(self._deadline, _PATIENCE)))
        for child in self._children:
            if child.idle and todo:
                child.give(todo.popleft(), self._deadline)
        due = min(child.due for child in self._children if not child.idle)
        ready = wait([child.pipe for child in self._children], max(due - time.monotonic(), 0))
        finished = []
        for child in list(self._children):
            if child.pipe in ready:
                result = child.answer()
            elif not child.idle and time.monotonic() >= child.due:
                result = Failure(f"killed after {self._deadline:g} s")
            else:
                continue
            if isinstance(result, Failure):
                child.kill()
                self._children.remove(child)
                if child.starting:
                    raise RuntimeError(f"a child process did not start: {result.reason}")
            if child.job is not None:
                finished.append((child.job, result))
            child.job, child.starting = None, False
        return finished

    def stop(self) -> None:
        for child in self._children:
            child.kill()


def _serve(pipe: Connection, setup: Callable[[], None] | None) -> None:
    """Be a child: set up, then do one job after the other until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    die_with_parent()
    import cv2  # here, because the parent has no need of it

    cv2.setNumThreads(1)  # the processes are the parallelism
    _send(pipe, setup if setup is not None else _nothing)
    while True:
        try:
            function, task = pipe.recv()
        except EOFError:
            return
        _send(pipe, partial(function, task))


def _nothing() -> None:
    """Be the set-up where none is wanted."""


def _send(pipe: Connection, work: Callable[[], Any]) -> None:
    """Send (True, what `work` returns) or (False, what it raised)."""
    try:
        reply = ForkingPickler.dumps((True, work()))
    except Exception as error:  # noqa: BLE001  every exception is raised again, in the parent
        error.add_note(traceback.format_exc())
        reply = ForkingPickler.dumps((False, error))
    pipe.send_bytes(reply)
