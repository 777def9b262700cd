"""Content of raw clips: its checksum, and whether a clip is still the one that was read.

A clip is a file, or a folder whose frames count. Checksums go into faces.parquet, and every stage
that reads the clip again compares them. Stamps (size, time, inode) tell without reading; they are
those of this disk, so they are kept beside the strips only.
"""

import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from safe.errors import of_machine
from safe.record import ChangedError
from safe.sample import is_frame

Stamps = NDArray[np.int64]
"""[n], of each clip a hash of what the disk says of it; 0 where nothing is there."""


def digest(path: Path) -> str:
    """Return the sha256 of a file; of a folder, that of its frames' in their order.

    Nothing where nothing is there.

    Raises:
        OSError: if it cannot be read.
    """
    try:
        if path.is_dir():
            frames = (file for file in sorted(path.iterdir()) if is_frame(file.name))
            texts = [digest(file) for file in frames if _is_file(file)]
            return hashlib.sha256("".join(texts).encode()).hexdigest()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        if of_machine(error):
            raise
        return ""


def stamp(path: str) -> int:
    """Return what tells a clip from another at the same path; 0 where nothing is there.

    Raises:
        OSError: if it cannot be looked at.
    """
    try:
        about = [("", os.stat(path))]  # noqa: PTH116  a Path for each of ten million takes minutes
        if stat.S_ISDIR(about[0][1].st_mode):
            frames = (entry for entry in os.scandir(path) if is_frame(entry.name))
            about = sorted((entry.name, entry.stat()) for entry in frames if _is_file(entry))
    except OSError as error:
        if of_machine(error):
            raise
        return 0
    told = repr([(name, one.st_size, one.st_mtime_ns, one.st_ino) for name, one in about])
    return int.from_bytes(hashlib.blake2b(told.encode(), digest_size=7).digest()) + 1


def _is_file(path: Path | os.DirEntry[str]) -> bool:
    """Whether a file can be read there; nothing of it may be, a pipe or a broken link."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116
    except OSError as error:
        if of_machine(error):
            raise
        return False


class RawClips:
    """Raw clips of a stage, as they lie on this disk when it begins."""

    def __init__(self, root: Path, paths: Sequence[str] | Iterable[str]) -> None:
        """Look at each of the paths, which are relative to `root`. Raises OSError as stamp does."""
        self._root, self._paths = root, paths
        self.stamps = self._look()

    def _look(self) -> Stamps:
        return np.fromiter((stamp(f"{self._root}/{path}") for path in self._paths), np.int64)

    def check(self) -> None:
        """Raise ChangedError unless all are as they were."""
        self._tell(np.flatnonzero(self._look() != self.stamps), "changed while the stage ran")

    def compare(self, before: Stamps | None, sha256: Sequence[str]) -> None:
        """Raise ChangedError unless they are those of these stamps, or else of these checksums.

        Without stamps all that are there are read.
        """
        other = self.stamps != (0 if before is None else before)
        changed = []
        for row, path in enumerate(self._paths) if other.any() else ():
            if not other[row]:
                continue
            if sha256[row]:
                differs = digest(self._root / path) != sha256[row]
            else:  # never read to its end: is it there, or not, as it was?
                differs = before is not None and 0 in (before[row], self.stamps[row])
            if differs:
                changed.append(row)
        self._tell(np.array(changed, np.int64), "not the one that `faces` looked at")

    def _tell(self, rows: NDArray[np.int64], what: str) -> None:
        if not len(rows):
            return
        first = next(path for row, path in enumerate(self._paths) if row == rows[0])
        more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
        raise replaced(f"{self._root}/{first}{more}: {what}")


def replaced(told: str) -> ChangedError:
    """Say what to do of a raw clip that is another one now."""
    return ChangedError(
        f"{told}; put it back, or run `safe-cli faces` again (with DVC: `dvc repro -f -s faces`)"
    )
