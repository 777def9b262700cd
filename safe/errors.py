"""Errors that a user can meet, each one line: what, where, what would be right.

Every error that a user can cause or mend is a SafeError whose text is one line: what is wrong,
where, and what would be right. The command line prints that line and ends with the error's exit
code. Errors of the system, such as a full disk, stay OSError; `explain` makes a line of them.
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
_REMEDIES: Final = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EROFS: "mount it for writing or choose another folder, then run it again",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EIO: "the disk fails; check it and the system's log",
    errno.EMFILE: "too many files are open; raise `ulimit -n`",
    errno.EISDIR: "a folder is where a file is expected; move it away",
    errno.ENOTDIR: "a file is where a folder is expected; move it away",
    errno.ENOMEM: "free some memory, or use fewer processes (runtime.workers)",
}


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
    """A store answers, and has no such file."""


class ModelError(SafeError):
    """A model folder, weights file or checkpoint is missing, damaged or does not fit."""

    exit_code = 4


class ProcessError(SafeError, RuntimeError):
    """Another process holds what this one would write, or a child of this one was killed."""

    exit_code = 5


def explain(error: OSError) -> str:
    """Say in one line which file, what the system says of it, and what would be right."""
    words = os.strerror(error.errno) if error.errno else " ".join(str(error).split())
    name = error.filename
    where = "" if name is None else f"{os.fsdecode(name) if isinstance(name, bytes) else name}: "
    remedy = _REMEDIES.get(error.errno or 0)
    return printable(f"{where}{words}{f'; {remedy}' if remedy else ''}")
