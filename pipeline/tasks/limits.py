"""How much memory and processor time may one task take?

The wall clock is the parent's to watch (engine.py). What is set here is kept by the
kernel, also while the parent does something else: a task that asks for more memory gets none, one
that computes for too long is ended by SIGXCPU.
"""

import ctypes
import math
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

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
