"""Files that appear whole, locks that keep a second run out, processes that end with their parent.

DVC leaves a stage running when DVC itself is killed, so a process of ours asks the kernel to be
ended with its parent (Linux; elsewhere this does nothing); those that decode have a way of their
own (pipeline/pool/children.py). What is written appears under its name when it is complete and on
disk; what holds a folder gives it back however it ends.
"""

import ctypes
import errno
import fcntl
import hashlib
import os
import re
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Final

from safe.errors import ProcessError, SafeError

_PR_SET_PDEATHSIG = 1

_NAME_MAX: Final = 255
"""Bytes of the longest name that the usual disks allow."""

_HOLDS, _WAITS = 0, 1
"""Bytes of a lock file: the first is locked by who holds it, the second shared by who waits."""

_TEMPORARY: Final = 16
"""Bytes around a file's name in that of its temporary one: two dots, up to 10 digits, `.tmp`."""


def die_with_parent() -> None:
    """Ask the kernel to send SIGTERM to this process when its parent ends."""
    if sys.platform != "linux":
        return
    from multiprocessing import parent_process  # here, so that `safe-cli --help` need not wait

    # A child of multiprocessing knows its parent; asking the kernel instead would take the process
    # that adopts orphans for the parent, if that one ended before this line.
    known = parent_process()
    parent = os.getppid() if known is None else known.pid
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # the parent ended before the kernel was asked
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def hold_lock(
    lock: Path, what: str, *, wait: Callable[[str], None] | None = None
) -> Iterator[Callable[[], bool]]:
    """Hold a lock file for this process. It is free again when the process ends, in any way.

    A record lock and not flock: forked children would hold that one on after a kill.

    The file stays, and holds the number of the process that had it last. Gives a function that says
    whether another process waits for the lock. Raises ProcessError, which says `what` is being
    made, if another process holds it; with `wait`, which is called with that line, waits for it.
    """
    with naming(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("ab+", buffering=0)
    with file:
        try:
            with naming(lock):
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _HOLDS)
        except (BlockingIOError, PermissionError) as error:  # POSIX allows either
            file.seek(0)
            holder = file.read().decode() or "of another run"
            if wait is None:
                raise ProcessError(
                    f"{what}: process {holder} is writing it; wait for it or stop it"
                ) from error
            wait(f"{what}: process {holder} is writing it; waiting for it")
            with naming(lock):
                fcntl.lockf(file, fcntl.LOCK_SH, 1, _WAITS)
                fcntl.lockf(file, fcntl.LOCK_EX, 1, _HOLDS)
                fcntl.lockf(file, fcntl.LOCK_UN, 1, _WAITS)
        with naming(lock):
            file.truncate(0)
            file.write(str(os.getpid()).encode())
        yield partial(_is_awaited, file)


def _is_awaited(file: FileIO) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _WAITS)
    except (BlockingIOError, PermissionError):
        return True
    fcntl.lockf(file, fcntl.LOCK_UN, 1, _WAITS)
    return False


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` if the block ends without an error.

    The folder is made where it is missing. The bytes are on disk before the rename, and the rename
    before the block is left, so a reader or a crash sees the old file or the whole new one. On an
    error the temporary file is removed; what a killed process left is removed by the next writer.

    Raises:
        OSError: with `path` as its filename, where the disk is full or cannot be written to.
    """
    temporary = path.with_name(f"{_beginning(path)}{os.getpid()}.tmp")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_stale(path)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            with suppress(OSError):  # a read-only disk refuses even this; the first error counts
                temporary.unlink(missing_ok=True)


def reserve(file: int, size: int) -> None:
    """Give an open file its size, and where the system can, the space on the disk for it.

    Raises:
        OSError: if there is no room; where it cannot be asked for, the writing will tell.
    """
    os.ftruncate(file, size)
    try:
        os.posix_fallocate(file, 0, size)
    except AttributeError:  # macOS
        return
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


def fitting(name: str, *, more: int) -> str:
    """Return a name to which `more` bytes can be added: itself, or its beginning and a digest."""
    left, room = name, _NAME_MAX - more
    if len(os.fsencode(name)) <= room:
        return name
    end = f"--{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"
    while len(os.fsencode(left)) > room - len(end):
        left = left[:-1]
    return left + end


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on disk: without this a power cut may undo a rename."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # no such thing on this disk
            raise
    finally:
        os.close(handle)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an error of the system that names no file the name `path`, as an OSError.

    `write` and `fsync` know no names; safetensors and PyAV raise errors of their own kind, with the
    system's number in the text or in `errno`.
    """
    try:
        yield
    except Exception as error:
        number = _system_number(error)
        name = str(getattr(error, "filename", None) or "")
        if number is None or (name and not Path(name).name.startswith(_beginning(path))):
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _system_number(error: Exception) -> int | None:
    """Return the errno that an error tells of; None if it is none of the system's."""
    number = getattr(error, "errno", None)
    if number is None and (said := re.search(r"\(os error (\d+)\)", str(error))):  # Rust's form
        number = int(said[1])
    return number if number in errno.errorcode else None


def _beginning(path: Path) -> str:
    """Return what the names of all temporary files for `path` begin with."""
    return f".{fitting(path.name, more=_TEMPORARY)}."


def _clear_stale(path: Path) -> None:
    """Remove the temporary files for `path` whose process has ended."""
    before = _beginning(path)
    for name in os.listdir(path.parent):  # noqa: PTH208  `glob` would read [1] in a name otherwise
        number = name.removeprefix(before).removesuffix(".tmp")
        if name == f"{before}{number}.tmp" and number.isdecimal() and not is_alive(int(number)):
            (path.parent / name).unlink(missing_ok=True)


def is_alive(number: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # someone else's; no process at all
        return True
    return True


def read_bounded(path: Path, *, most: int, error: type[SafeError]) -> bytes:
    """Read a regular file of at most `most` bytes.

    A folder, a pipe that nobody writes to, or a file of a terabyte is an error in one line and
    takes neither memory nor time.

    Args:
        path: the file; a link to one is followed, since DVC's cache may be linked.
        most: largest size in bytes.
        error: what to raise, in one line, if it is larger, no regular file or cannot be read.

    Raises:
        FileNotFoundError: if there is none; the caller knows what makes it.
    """
    try:
        # Without O_NONBLOCK the opening of a pipe would wait for its writer for ever.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise error(f"{path}: not a regular file")
            data = b"" if about.st_size > most else file.read(about.st_size + 1)
            if about.st_size > most or len(data) > most:  # the latter: it grew meanwhile
                raise error(f"{path}: larger than {most:,} bytes, the most that such a file needs")
            return data
    except FileNotFoundError:
        raise
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror})") from problem
