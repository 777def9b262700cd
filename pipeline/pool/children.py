"""A child process that may be killed: both ends of it, and what one task may take.

A video decoder can loop for ever or crash inside native code, where no exception and no thread
timeout reaches: so every task runs in a process that may be killed, and a killed one is replaced.
Each child has a pipe of its own: children share no lock that a dying one could leave locked
(pebble's pool does, and was seen to break when a child crashed just as the parent was busy).
"""

import ctypes
import math
import os
import resource
import signal
import struct
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from multiprocessing import forkserver, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from threading import Thread
from typing import Any, Final

from safe.errors import MachineError, ProcessError, SafeError, may_pass, of_machine

_HELD_UP: Final = (b"D", b"T", b"t")
"""States of a process, in /proc: it waits for a disk, is stopped, is held by a debugger."""

_FROM_OUTSIDE: Final = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
"""What ends a child by another's will: the system's, when memory runs out, or a person's."""

_SMALLER: Final = "out of memory? lower runtime.workers or runtime.memory"

NOT_YET: Final = object()
"""What a child has answered while it has not."""

_PATIENCE: Final = 120.0
"""Seconds that a child may take to start and set up, when the deadline of a task is shorter."""

_FAREWELL: Final = 10.0
"""Seconds from the end of a child's pipe to the end of its process, and from a kill to its end:
one that waits for a disk that does not answer takes no signal."""

_LONGEST: Final = 200
"""Characters of an exception's text in a reason."""

_TIDY: Final = 16
"""Jobs after which freed memory is given back, which takes a millisecond."""

_PACKAGES: Final = [
    *("av", "cv2", "onnxruntime", "pyarrow.compute", "pyarrow.parquet"),
    *("pydantic.main", "pydantic.types", "simplejpeg"),
]
"""What the fork server imports. Not decord, which must not see CUDA (pipeline/video/decode.py), and
nothing of this project: the server looks in its working folder first, where other code may lie."""


@dataclass(frozen=True)
class Failure:
    """The result of a task whose process did not survive it."""

    reason: str
    """"killed after 60 s", "took more memory than 4 GiB", "crashed (signal 11)" and the like."""


@dataclass(frozen=True)
class Trouble:
    """The result of a task that the machine failed: nothing is known of the task."""

    error: Exception
    """Of those that safe.errors.may_pass knows."""


@dataclass(frozen=True)
class Job:
    """What a child does next: one function of the task with that number."""

    number: int
    function: Callable[[Any], Any]
    after: float = 0.0
    """By time.monotonic(), when to begin it."""
    since: float | None = None
    """When the machine first failed it."""


class Child:
    """One child process; it starts at once and answers once after its set-up, then once a job."""

    def __init__(self, serve: Callable[[Connection], None], deadline: float, patience: float):
        """Start it. Raises OSError or MachineError, of which the next try may know nothing."""
        method = _start_method()
        self.pipe, end = method.Pipe()
        self.process = method.Process(target=serve, args=(end,), daemon=True)
        try:
            self.process.start()
        except BaseException as error:
            self.pipe.close()
            if isinstance(error, EOFError | ConnectionError):
                raise MachineError(
                    "a child process did not start: the one that forks it ended; out of memory, or "
                    "of processes (ulimit -u)? lower runtime.workers"
                ) from error
            raise
        finally:
            end.close()  # now the pipe ends when the child does
        self._deadline, self._patience = deadline, patience
        self._inbox = Inbox(self.pipe)
        self.job: Job | None = None
        self.starting = True
        self.ended = False
        """Whether its end of the pipe is closed."""
        self.left = max(deadline, _PATIENCE)
        """Seconds for what it does now."""
        self._held_up = 0.0

    @property
    def idle(self) -> bool:
        """Whether it waits for a job."""
        return self.job is None and not self.starting

    def give(self, job: Job, task: Any) -> None:
        """Hand it a job and the task as it is here."""
        self.job, self.left, self._held_up = job, self._deadline, 0.0
        with suppress(BrokenPipeError):  # it has died: its answer will be a Failure
            self.pipe.send((job.function, task))

    def spend(self, seconds: float) -> None:
        """Count time in which it was waited for and could run.

        One that waits for a disk, or was stopped, could not. Raises MachineError if that lasts.
        """
        if self._can_run():
            self.left -= seconds
            return
        self._held_up += seconds
        if self._held_up > self._patience:
            raise MachineError(
                f"a child process could do nothing for {self._patience:g} s: it was stopped, or "
                "waits for a disk that does not answer"
            )

    def _can_run(self) -> bool:
        """Say whether the kernel lets it run; as far as is known, where that cannot be asked."""
        try:
            about = Path(f"/proc/{self.process.pid}/stat").read_bytes()
        except OSError:
            return True
        return about.rpartition(b") ")[2][:1] not in _HELD_UP

    def answer(self) -> Any:
        """Return the result if all of it has come, else NOT_YET; or a Failure, or a Trouble.

        Raises what the task raised, if that is an error that a user can meet.
        """
        try:
            payload = self._inbox.read()
        except EOFError:
            self.ended = True
            return self._how_it_ended()
        except GarbledError:
            return Failure("sent something that is no answer")
        if payload is None:
            return NOT_YET
        fine, value = ForkingPickler.loads(payload)
        if not fine:
            raise value
        return value

    def _how_it_ended(self) -> Failure | Trouble:
        self.process.join(_FAREWELL)
        code = self.process.exitcode
        if code is None:
            return Failure("closed its pipe and went on")
        if code == -signal.SIGXCPU:
            return Failure(f"killed after {self._deadline:g} s of computing")
        if -code in _FROM_OUTSIDE:
            return Trouble(MachineError(f"a child process was killed (signal {-code}); {_SMALLER}"))
        if self.starting and code == 1:  # what Python says of it goes nowhere
            return Failure('crashed; a script must start it below `if __name__ == "__main__":`')
        return Failure(f"crashed (signal {-code})" if code < 0 else f"crashed (exit code {code})")

    def kill(self) -> None:
        """End it, whatever it does."""
        self.process.kill()  # not SIGTERM: it may be deep in native code
        self.process.join(_FAREWELL)
        self.pipe.close()


def _start_method() -> ForkServerContext | SpawnContext:
    """Return how this process starts children, without a second of imports where that can be.

    On Linux they are forked from multiprocessing's fork server: a process that has imported what
    tasks need and does nothing else, so that no lock of a thread comes along. Where there is no
    such server each child is a new Python.
    """
    if sys.platform == "linux":
        server = get_context("forkserver")
        server.set_forkserver_preload(_PACKAGES)
        with suppress(OSError):  # no temporary folder for its socket, or one of too long a name
            with _without_stderr():
                forkserver.ensure_running()
            return server
    return get_context("spawn")


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Let what is started in the block say nothing; what children have to say has their pipes.

    A server that may not fork ends in a traceback, and decoders print what a Failure says.
    """
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


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
    send(pipe, _reply(partial(_set_up, setup, memory)))
    for done in count(1):
        try:
            function, task = pipe.recv()
        except EOFError:
            return
        _limit_cpu(deadline)
        send(pipe, _reply(partial(function, task), memory))
        if done % _TIDY == 0:
            give_back()


def _set_up(setup: Callable[[], None] | None, memory: float | None) -> None:
    """Become a child that can do jobs."""
    _end_with_parent()
    import cv2  # here, because the parent has no need of it

    cv2.setNumThreads(1)  # the processes are the parallelism
    if setup is not None:
        setup()
    _limit_memory(memory)


def _reply(work: Callable[[], Any], memory: float | None = None) -> bytes:
    """Pickle (True, what `work` returns) or (False, what it raised, if a user can mend that).

    What else it raised, whatever that is, is a Failure or, if the machine raised it, a Trouble.
    """
    try:
        return bytes(ForkingPickler.dumps((True, work())))
    except Exception as error:  # noqa: BLE001  nothing that a task raises ends the others
        return bytes(ForkingPickler.dumps(_judge(error, memory)))


def _judge(error: Exception, memory: float | None) -> tuple[bool, Any]:
    """Say what an exception makes of its task."""
    if _is_memory(error):
        most = "there is" if memory is None else f"{memory:g} GiB"
        return True, Failure(f"took more memory than {most}")
    if may_pass(error):
        if isinstance(error, OSError):  # as the system says it: a library's own may not travel
            error = OSError(error.errno, os.strerror(error.errno or 0), error.filename)
        return True, Trouble(error)
    if isinstance(error, SafeError) or of_machine(error):
        error.add_note(traceback.format_exc())
        return False, error
    text = " ".join(str(error).split())[:_LONGEST]
    *_, last = traceback.extract_tb(error.__traceback__)
    where = f"{Path(last.filename).name}, line {last.lineno}"
    return True, Failure(f"{type(error).__name__}: {text} ({where})")


def _end_with_parent() -> None:
    """Have this child end, whatever it does, when the process that asked for it has ended.

    By a thread: the kernel would tell of the end of the server, which outlives its children.
    """
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


# Limits of one task, which the kernel keeps while the parent does something else: one that asks
# for more memory gets none, one that computes for too long is ended by SIGXCPU.

_GIB: Final = 2**30

# How the libraries say it where they raise no MemoryError: OpenCV, C++ and FFmpeg.
_WORDS: Final = ("Insufficient memory", "bad_alloc", "Cannot allocate memory")


def _limit_memory(memory: float | None) -> None:
    """Let this process grow by `memory` GiB of address space from now on; None sets no limit.

    What is mapped already does not count: libraries map gigabytes that they never touch. On other
    systems than Linux, whose kernels keep no such limit, nothing is set. A crash leaves no core
    file, which would hold the faces and fill the disk.

    Raises ProcessError if the system allows less.
    """
    _lower(resource.RLIMIT_CORE, 0)
    if memory is not None and sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + round(memory * _GIB)
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        if most not in (resource.RLIM_INFINITY, max(most, limit)):
            raise ProcessError(  # else clips would be left out here that are not elsewhere
                f"a child process needs {limit / _GIB:.1f} GiB of address space, runtime.memory "
                f"among them, and the system allows {most / _GIB:.1f}; raise `ulimit -v` or lower "
                "runtime.memory"
            )
        _lower(resource.RLIMIT_AS, limit)


def _limit_cpu(seconds: float) -> None:
    """Let this process compute for that long from now on, all its threads together.

    One to two seconds more are given: the kernel counts whole ones, and a task that only computes
    is to be ended by the wall clock, which says so.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    allowed = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
    _lower(resource.RLIMIT_CPU, allowed)


def _lower(what: int, limit: int) -> None:
    """Set a soft limit, not above the hard one, which stays: the soft one is moved again."""
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _is_memory(error: BaseException) -> bool:
    """Tell whether an exception says that there was no memory for what a task wanted."""
    if isinstance(error, OSError) and error.filename is not None:
        return False  # the system had none for itself
    return isinstance(error, MemoryError) or any(word in str(error) for word in _WORDS)


def give_back() -> None:
    """Give memory that was freed back to the system, where that is glibc's to do.

    It keeps what lies between pieces in use: 13 MB after 3,000 clips, a tenth of a child's memory.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


# Answers: a child may die or hang in the middle of one, and native code gone wrong may write
# anything into any file it has open. So an answer has a header with its length and its checksum,
# the parent takes what has come without ever waiting for more, and a length is not believed until
# the bytes are there.

_HEADER: Final = struct.Struct("!4sIQ")  # mark, CRC-32 and length of what follows
_MARK: Final = b"SAFE"

_MAX_BYTES: Final = 2**28
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
        if length > _MAX_BYTES or missing < 0:
            raise GarbledError
        if missing:
            return None
        payload = bytes(self._got[_HEADER.size :])
        self._got.clear()
        if zlib.crc32(payload) != checksum:
            raise GarbledError
        return payload
