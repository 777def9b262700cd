"""How is a small file read whole when it may be anything?

A path goes in, bytes come out, never more than the caller allows: a folder, a pipe that nobody
writes to, or a file of a terabyte is an error in one line and takes neither memory nor time.
"""

import os
import stat
from pathlib import Path

from safe.errors import SafeError
from safe.store import StoreFile


def read_bounded(path: Path | StoreFile, *, most: int, error: type[SafeError]) -> bytes:
    """Read a regular file of at most `most` bytes.

    Args:
        path: the file; a link to one is followed, since DVC's cache may be linked. One of a store
            gives DataError where it is missing or the store fails.
        most: largest size in bytes.
        error: what to raise, in one line, if it is larger, no regular file or cannot be read.

    Raises:
        FileNotFoundError: if there is none; the caller knows what makes it.
    """
    if isinstance(path, StoreFile):
        return path.read_whole(most=most, error=error)
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
