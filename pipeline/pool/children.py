"""Who runs these tasks, and what happens to one that hangs or crashes?

Tasks in, results out in the same order, on child processes of this machine. A video decoder can
loop for ever or crash inside native code, where no exception and no thread timeout reaches: so
every task runs in a process that may be killed, and a killed process is replaced. Each child has a
pipe of its own: children share no lock that a dying one could leave locked (pebble's pool does, and
was seen to break when a child crashed just as the parent was busy). How a child starts is in
start.py, what it does in child.py, what is believed of its answer in answer.py.
"""

import ctypes
import math
import os
import resource
import signal
import struct
import sys
import time
import traceback
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from multiprocessing import forkserver, get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from threading import Thread
from typing import Any, Final, TypeVar

from pipeline.pool.cluster import Cluster, run_batches
from pipeline.pool.fetch import Ahead
from safe.errors import ProcessError

# Is what came through a child's pipe one whole answer?
#
# A child may die or hang in the middle of an answer, and native code gone wrong may write anything
# into any file it has open. So an answer has a header with its length and its checksum, the parent
# takes what has come without ever waiting for more, and a length is not believed until the bytes
# are there.

_HEADER: Final = struct.Struct("!4sIQ")  # mark, CRC-32 and length of what follows
_MARK: Final = b"SAFE"

MAX_BYTES: Final = 2**28
"""Longest answer. That of a clip is its boxes and a strip, below 50 MB at the largest settings."""


class GarbledError(Exception):
    """What came is no answer."""


def send(pipe: Connection, payload: bytes) -> None:
    """Send one answer; returns when all of it is in the pipe."""
    view = memoryview(_HEADER.pack(_MARK, zlib.crc32(payload), len(payload)) + payload)
    while view:
        view = view[os.write(pipe.fileno(), view) :]


class Inbox:
    """What has come from one child and is not a whole answer yet."""

    def __init__(self, pipe: Connection):
        self._pipe = pipe
        self._got = bytearray()

    def read(self) -> bytes | None:
        """Take what waits in the pipe; return the answer if it is whole now, else None.

        To be called when the pipe is ready, since it waits where it is not.

        Raises:
            EOFError: if the child has closed the pipe, by its end as a rule.
            GarbledError: if what came is no answer, or more than one.
        """
        try:
            part = os.read(self._pipe.fileno(), 2**20)
        except ConnectionResetError:
            part = b""
        if not part:
            raise EOFError
        self._got += part
        if not self._got.startswith(_MARK[: len(self._got)]):
            raise GarbledError
        if len(self._got) < _HEADER.size:
            return None
        _, checksum, length = _HEADER.unpack_from(self._got)
        missing = _HEADER.size + length - len(self._got)
        if length > MAX_BYTES or missing < 0:
            raise GarbledError
        if missing:
            return None
        payload = bytes(self._got[_HEADER.size :])
        self._got.clear()
        if zlib.crc32(payload) != checksum:
            raise GarbledError
        return payload


# How much memory and processor time may one task take?
#
# The wall clock is the parent's to watch (engine.py). What is set here is kept by the
# kernel, also while the parent does something else: a task that asks for more memory gets none, one
# that computes for too long is ended by SIGXCPU.

_GIB: Final = 2**30

# How the libraries say it where they raise no MemoryError: OpenCV, C++ and FFmpeg.
_WORDS: Final = ("Insufficient memory", "bad_alloc", "Cannot allocate memory")


def limit_memory(memory: float | None) -> None:
    """Let this process grow by `memory` GiB of address space from now on; None sets no limit.

    What is mapped already does not count: libraries map gigabytes that they never touch. On other
    systems than Linux, whose kernels keep no such limit, nothing is set. A crash leaves no core
    file, which would hold the faces and fill the disk.
    """
    _lower(resource.RLIMIT_CORE, 0)
    if memory is not None and sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + round(memory * _GIB))


def give_back() -> None:
    """Give memory that was freed back to the system, where that is glibc's to do.

    It keeps what lies between pieces in use: 13 MB after 3,000 clips, a tenth of a child's memory.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def limit_cpu(seconds: float) -> None:
    """Let this process compute for that long from now on, all its threads together.

    One to two seconds more are given: the kernel counts whole ones, and a task that only computes
    is to be ended by the wall clock, which says so.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    allowed = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
    _lower(resource.RLIMIT_CPU, allowed)


def is_memory(error: BaseException) -> bool:
    """Tell whether an exception says that there was no memory."""
    return isinstance(error, MemoryError) or any(word in str(error) for word in _WORDS)


def _lower(what: int, limit: int) -> None:
    """Set a soft limit, not above the hard one, which stays: the soft one is moved again."""
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


# How does a child process start without a second of imports, and end with its parent?
#
# On Linux it is forked from multiprocessing's fork server: a process, started with the first child,
# that has imported what tasks need and does nothing else, so that no lock of a thread comes along.
# Where there is no such server each child is a new Python.

_PACKAGES: Final = [
    *("av", "cv2", "onnxruntime", "pyarrow.compute", "pyarrow.parquet"),
    *("pydantic.main", "pydantic.types", "simplejpeg"),
]
"""What the server imports. Not decord, which must not see CUDA (pipeline/video/decode.py), and
nothing of
this project: the server looks in its working folder first, where other code may lie."""


@cache
def start_method() -> ForkServerContext | SpawnContext:
    """Return how this process starts children; a server is started for it."""
    if sys.platform == "linux":
        server = get_context("forkserver")
        server.set_forkserver_preload(_PACKAGES)
        with suppress(OSError):  # no temporary folder for its socket, or one of too long a name
            forkserver.ensure_running()
            return server
    return get_context("spawn")


def end_with_parent() -> None:
    """Have this child end, whatever it does, when the process that asked for it has ended.

    By a thread: the kernel would tell of the end of the server, which outlives its children.
    """
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


# What does a child process do between its start and its end?
#
# It sets itself up, then does one job after the other, under the limits of limits.py, and
# answers each. The parent's side is engine.py.

_TIDY: Final = 16
"""Jobs after which freed memory is given back, which takes a millisecond."""


@dataclass(frozen=True)
class Failure:
    """The result of a task whose process did not survive it."""

    reason: str
    """"killed after 60 s", "took more memory than 4 GiB", "crashed (signal 11)" and the like."""


def serve(
    functions: tuple[Callable[[Any], Any] | None, ...],
    setup: Callable[[], None] | None,
    deadline: float,
    memory: float | None,
    pipe: Connection,
) -> None:
    """Be a child: set up, then do one job after the other until the parent closes the pipe.

    Args:
        functions: what the jobs will call. They are sent with the jobs again; that they came here
            has loaded their modules, whose time is then no part of the first job's deadline.
        setup: called once, before the first job.
        deadline: seconds of computing after which the kernel ends a job.
        memory: GiB that a job may take; None: no limit.
        pipe: for each job (function, task) comes in, its pickled answer goes out.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    end_with_parent()
    import cv2  # here, because the parent has no need of it

    cv2.setNumThreads(1)  # the processes are the parallelism
    send(pipe, _reply(setup if setup is not None else _nothing))
    limit_memory(memory)
    for done in count(1):
        try:
            function, task = pipe.recv()
        except EOFError:
            return
        limit_cpu(deadline)
        send(pipe, _reply(partial(function, task), memory))
        if done % _TIDY == 0:
            give_back()


def _nothing() -> None:
    """Be the set-up where none is wanted."""


def _reply(work: Callable[[], Any], memory: float | None = None) -> bytes:
    """Pickle (True, what `work` returns) or (False, what it raised); a Failure at the limit."""
    try:
        return bytes(ForkingPickler.dumps((True, work())))
    except Exception as error:  # noqa: BLE001  every other exception is raised again, in the parent
        if is_memory(error):
            most = "there is" if memory is None else f"{memory:g} GiB"
            failure = Failure(f"took more memory than {most}")
            return bytes(ForkingPickler.dumps((True, failure)))
        error.add_note(traceback.format_exc())
        return bytes(ForkingPickler.dumps((False, error)))


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
