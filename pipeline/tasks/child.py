"""What does a child process do between its start and its end?

It sets itself up, then does one job after the other, under the limits of limits.py, and
answers each. The parent's side is engine.py.
"""

import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final

from pipeline.tasks.answer import send
from pipeline.tasks.limits import give_back, is_memory, limit_cpu, limit_memory
from pipeline.tasks.start import end_with_parent

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
