"""The strip cache: what `faces` leaves for `shard`, so that no clip is decoded twice.

Finding a face needs the decoded frames, and so does cutting it out, and decoding is most of the
work. So `faces` also makes the strips that `shard` will ask for, in the same pass, and leaves them
in a file outside DVC's sight: a zip of JPEGs. `shard` takes them if they were made by the rules and
from the face table that it works with, and decodes itself otherwise. Its output is the same, byte
for byte, with the file and without; so either stage can run alone, and a change of shard.size asks
for no detection.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile, ZipFile, ZipInfo

import numpy as np

from pipeline.content import Stamps
from safe.config import Shard
from safe.files import atomic_file

_MADE: Final = "made.json"
_STAMPS: Final = "stamps.i64"


@dataclass(frozen=True)
class StripCache:
    """The strip cache: which strips `faces` makes in passing, and where."""

    path: Path
    """The file; it appears whole, and replaces an older one."""
    settings: Shard
    """The section shard of params.yaml."""


def made_by(table: Path, made: dict[str, Any]) -> dict[str, Any]:
    """Say what decides a strip of the cache: the face table's bytes and the rules for its pixels.

    Args:
        table: faces.parquet.
        made: what pipeline.face.preprocessing says.
    """
    with table.open("rb") as file:
        return {"faces.parquet": hashlib.file_digest(file, "sha256").hexdigest(), "rules": made}


@contextmanager
def filling(cache: StripCache | None) -> Iterator[ZipFile | None]:
    """Give the file that strips are to be written to; None where none are to be left.

    Whoever writes them does it by `add`, and ends with `seal`.
    """
    if cache is None:
        yield None
    else:
        with atomic_file(cache.path) as temporary, ZipFile(temporary, "w") as file:
            yield file


def add(file: ZipFile, key: str, strip: bytes) -> None:
    """Write the strip of a clip."""
    # Without a date, which would stay in memory, a quarter of what a clip does; a zip has none
    # before 1980 or after 2107.
    file.writestr(ZipInfo(key), strip)


def seal(file: ZipFile, made: dict[str, Any], stamps: Stamps | None = None) -> None:
    """Write last what made_by says, and the stamps of all clips of the table, if there are any."""
    if stamps is not None:
        add(file, _STAMPS, stamps.tobytes())
    add(file, _MADE, json.dumps(made, sort_keys=True).encode())


class Leftover:
    """The strips of a cache; none where it is missing, damaged, or made otherwise."""

    def __init__(self, path: Path | None, made: dict[str, Any]) -> None:
        self._path = path
        self._file: ZipFile | None = None
        try:
            file = ZipFile(path or "")
            if json.loads(file.read(_MADE)) == made and file.testzip() is None:
                self._file = file
        except (OSError, BadZipFile, KeyError, ValueError):
            pass  # nothing is lost: `shard` decodes
        names = set(self._file.namelist()) if self._file else set()
        self.keys = names - {_MADE, _STAMPS}
        self.stamps: Stamps | None = None
        """Of all clips of the table, as `faces` found them on this disk; None if it did not say."""
        if _STAMPS in names:
            self.stamps = np.frombuffer(self.read(_STAMPS), np.int64)

    def read(self, key: str) -> bytes:
        """Return the strip of a key in `keys`."""
        assert self._file is not None
        return self._file.read(key)

    def remove(self) -> None:
        """Delete the file, if it was of use."""
        if self._file is not None and self._path is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)
