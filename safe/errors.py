"""Errors that a user can meet, each one line: what, where, what would be right.

Every error that a user can cause or mend is a SafeError whose text is one line: what is wrong,
where, and what would be right. The command line prints that line and ends with the error's exit
code. Errors of the system, such as a full disk, stay OSError; `explain` makes a line of them.
Which errors tell of the machine, and which of a file's own content or name, stands here alone:
`of_machine`.
"""

import errno
import os
import re
from typing import Final

DISK_EXIT_CODE: Final = 6
"""Of a command that an OSError ended."""

PARTLY_EXIT_CODE: Final = 7
"""Of a command that is done, but could not use some of the files that it was given."""

_END: Final = 2000
"""Letters of a text that are shown of its beginning, and of its end."""

_SPACE = "free some space or choose another folder, then run it again"
_RIGHTS = "check the owner and the permissions of the file and of its folders"
_AWAY = "the disk or the share does not answer; is it there and mounted?"
_FEWER = "the system refuses more processes or threads; raise `ulimit -u` or lower runtime.workers"
_REMEDIES: Final = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EROFS: "mount it for writing or choose another folder, then run it again",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EIO: "the disk fails; check it and the system's log",
    errno.EMFILE: "too many files are open; raise `ulimit -n`",
    errno.ENFILE: "too many files are open on this machine; close some",
    **dict.fromkeys((errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN), _AWAY),
    errno.EAGAIN: _FEWER,
    errno.EISDIR: "a folder is where a file is expected; move it away",
    errno.ENOTDIR: "a file is where a folder is expected; move it away",
    errno.ENOMEM: "free some memory, or use fewer processes (runtime.workers)",
}

_OF_THE_FILE: Final = frozenset(
    {
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
        *(errno.ENXIO, errno.EINVAL, errno.EILSEQ),  # no file but a socket; no name on this disk
    }
)
"""What the system says of a name alone. All else it says of itself: EIO, EACCES, EMFILE, ..."""

_FOR_GOOD: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
"""What does not pass by itself."""


def as_utf8(name: str) -> str:
    """Return a name with the bytes that are no UTF-8 as in a URL: caf%E9.mp4."""
    return re.sub("[\ud800-\udfff]", lambda found: f"%{ord(found[0]) & 0xFF:02X}", name)


def printable(text: str) -> str:
    """Return a line with what a terminal would act on, such as a line end, written out.

    What may be a password or a signature in a URL is left out.
    """
    text = as_utf8(text)
    text = re.sub(r"(://)[^/\s@]*@", r"\1***@", text)
    text = re.sub(r"(://[^\s?]*\?)\S+", r"\1***", text)
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


class SafeError(Exception):
    """Something the user can mend. The text is one line."""

    exit_code = 1

    def __str__(self) -> str:
        """Return the text as `printable` has it; of a very long one the ends."""
        text = super().__str__()
        if len(text) > 2 * _END:  # a file may hold a name of megabytes
            text = f"{text[:_END]} ... {text[-_END:]}"
        return printable(text)


class ConfigError(SafeError):
    """A key in params.yaml or an override is unknown, of the wrong type or out of range."""

    exit_code = 2


class DataError(SafeError):
    """A dataset, manifest, face table or shard folder is missing, damaged or does not fit."""

    exit_code = 3


class MissingError(DataError):
    """A store or a disk answers, and has no such file."""


class ModelError(SafeError):
    """A model folder, weights file or checkpoint is missing, damaged or does not fit."""

    exit_code = 4


class ProcessError(SafeError, RuntimeError):
    """Another process holds what this one would write, or a child of this one was killed."""

    exit_code = 5


class MachineError(SafeError):
    """The machine fails where the file that was asked for may be fine: a disk that is away."""

    exit_code = DISK_EXIT_CODE


def of_machine(error: BaseException) -> bool:
    """Say whether an error tells of the machine, and nothing of the file that it was met at.

    What a clip is recorded as must not depend on it. A file that is not there is of the list that
    names it; who knows that it was there raises MachineError.
    """
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in _OF_THE_FILE
    if isinstance(error, RuntimeError):
        return "start new thread" in str(error)
    return isinstance(error, MachineError | MemoryError)


def may_pass(error: BaseException) -> bool:
    """Say whether an error of the machine is worth another try."""
    return of_machine(error) and getattr(error, "errno", None) not in _FOR_GOOD


def explain(error: BaseException) -> str:
    """Say in one line which file, what the system says of it, and what would be right."""
    if isinstance(error, MemoryError):
        return f"no memory is left; {_REMEDIES[errno.ENOMEM]}"
    if not isinstance(error, OSError):
        text = " ".join(str(error).split())
        return f"{text}; {_FEWER}" if isinstance(error, RuntimeError) else text
    words = os.strerror(error.errno) if error.errno else " ".join(str(error).split())
    name = error.filename
    where = "" if name is None else f"{os.fsdecode(name) if isinstance(name, bytes) else name}: "
    remedy = _REMEDIES.get(error.errno or 0)
    return printable(f"{where}{words}{f'; {remedy}' if remedy else ''}")
