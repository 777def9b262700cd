"""The record: what a stage read, compared at its end, and again by whoever reads what it made.

DVC writes down parameters, code and inputs as they are after a stage, not as the stage read them.
So each stage looks at them when it begins and once more when it ends: what changed meanwhile is one
line and a failure, before anything is recorded. What a stage made also says what it was made of, by
checksums (`read` in the metadata of a parquet file, or in model.json); the next
verb, and doctor, compare that with what lies there now. Files are told apart by size, times and
inode first; their content is hashed once, and remembered.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safe.code import ROOT, code_of
from safe.config import Config
from safe.errors import ConfigError, DataError
from safe.files import atomic_file, read_bounded


@dataclass(frozen=True)
class Stage:
    """What a stage depends on beside files, as dvc.yaml has it."""

    module: str
    params: tuple[str, ...]
    """Sections of params.yaml, or single keys of them."""


STAGES: Final = {
    "synthesize": Stage(
        "pipeline.synthesize",
        ("data.name", "data.source", "shard.frames", "shard.margin", "synthesize"),
    ),
    "index": Stage("pipeline.index", ("data.classes", "data.name", "data.source")),
    "faces": Stage("pipeline.faces", ("faces", "shard.frames")),
    "shard": Stage("pipeline.shard", ("faces", "shard")),
    "train": Stage("safe.training.train", ("acl", "augment", "model", "seed", "tam", "train")),
    "calibrate": Stage("safe.evaluation.calibrate", ("calibrate",)),
    "eval": Stage("safe.evaluation.evaluate", ("eval",)),
    "summary": Stage("safe.evaluation.summary", ("data.folds", "data.name", "eval.bins")),
}

Stamp = list[int]
"""Of a file: size, time of change in ns, inode. Of a folder: of all its files."""


class ChangedError(DataError):
    """What a stage read is not what is there now."""


def values(config: Config, stage: str) -> dict[str, Any]:
    """Return the parameters that a stage depends on: dotted key -> plain value."""
    found: dict[str, Any] = {}
    for key in STAGES[stage].params:
        section, _, name = key.partition(".")
        block = getattr(config, section)
        if name:
            found[key] = getattr(block, name)
        elif hasattr(block, "model_dump"):
            found |= {f"{section}.{name}": value for name, value in block.model_dump().items()}
        else:
            found[key] = block
    return found


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say which values differ: `train.lr was 0.001, is 0.004`. A key of one side is none."""
    return [
        f"{key} was {_short(before[key])}, is {_short(now[key])}"
        for key in before
        if key in now and before[key] != now[key]
    ]


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:100]


# While a stage runs


@contextmanager
def recorded(
    stage: str,
    config: Config,
    again: Callable[[], Config],
    *,
    reads: Sequence[Path],
    makes: Sequence[Path],
    code: Mapping[str, int] | None = None,
) -> Iterator[Callable[[], None]]:
    """Hold a stage to what it read when it began.

    Gives the comparison, for a stage that wants to know before it writes. It is made in any case
    when the block ends without an error; where something changed, what the stage made is removed.

    Args:
        stage: its name.
        config: the parameters that it works with.
        again: reads them again.
        reads: its input files and folders; one may be missing.
        makes: its outputs.
        code: what read_code gave before the stage's modules were imported; None: now.

    Raises:
        ChangedError: one line with the first thing that changed.
    """
    loaded = read_code() if code is None else code
    before = {path: stamp(path) for path in reads}

    def compare() -> None:
        try:
            told = differences(values(config, stage), values(again(), stage))
        except ConfigError as error:
            told = [str(error)]
        told += [f"{path} is not as it was" for path in reads if stamp(path) != before[path]]
        now = read_code()
        if edited := {path for path in {*loaded, *now} if loaded.get(path) != now.get(path)}:
            used = code_of(STAGES[stage].module)
            told += [f"{path} was edited" for path in used if str(path) in edited]
        if told:
            raise ChangedError(
                f"{stage}: changed while it ran: {told[0]}; nothing is recorded: run it again"
            )

    yield compare
    try:
        compare()
    except ChangedError:
        for path in makes:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        raise


def read_code() -> dict[str, int]:
    """Return a hash of the content of each module that a stage may run, by its path from ROOT."""
    found = {}
    for room in ("pipeline", "safe"):
        for folder, _, names in os.walk(ROOT / room):  # pathlib would take ten times as long
            for path in (f"{folder}/{name}" for name in names if name.endswith(".py")):
                with open(path, "rb") as file:  # noqa: PTH123
                    found[path.removeprefix(f"{ROOT}/")] = hash(file.read())
    return found


def stamp(path: Path) -> Stamp | None:
    """Tell a file, or all files below a folder, from what else may be there; None where nothing is.

    Raises:
        OSError: if it cannot be looked at.
    """
    try:
        about = path.stat()
    except FileNotFoundError:
        return None
    if not path.is_dir():
        return [about.st_size, about.st_mtime_ns, about.st_ino]
    return [number for file in files_of(path) for number in stamp(file) or [0]]


def files_of(path: Path) -> list[Path]:
    """Return a file itself, or the files below a folder, sorted."""
    if not path.is_dir():
        return [path]
    return sorted(Path(folder, name) for folder, _, names in os.walk(path) for name in names)


# What was made says what it was made of

READ: Final = b"read"
"""Key in the metadata of an Arrow schema."""

_MOST: Final = 2**24


def encode_read(read: Mapping[str, Any]) -> dict[bytes, bytes]:
    """Return the metadata of an Arrow schema that says what a table was made of."""
    return {READ: json.dumps(read, sort_keys=True).encode()}


def read_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file holds; nothing if it is missing or damaged: who reads it tells."""
    with suppress(OSError, ValueError, RecursionError, DataError):
        found = json.loads(read_bounded(path, most=_MOST, error=DataError))
        if isinstance(found, dict):
            return found
    return {}


def read_of(path: Path) -> dict[str, Any]:
    """Return what a parquet or JSON file says that it was made of; nothing as read_json does."""
    if path.suffix == ".json":
        found = read_json(path).get("read")
        return found if isinstance(found, dict) else {}
    import pyarrow as pa
    import pyarrow.parquet as pq

    with suppress(OSError, ValueError, RecursionError, pa.ArrowException):
        if path.is_file():
            found = json.loads((pq.read_schema(path).metadata or {}).get(READ, b"{}"))
            return found if isinstance(found, dict) else {}
    return {}


class Digests:
    """The sha256 of files and folders, each hashed once for as long as it is the same file."""

    def __init__(self, memory: Path | None = None) -> None:
        """`memory`: a JSON file that keeps them, which may be deleted; None: no memory."""
        self._memory = memory
        self._known = read_json(memory) if memory else {}
        self._hashed = 0  # files, by this object

    def of(self, path: Path) -> str | None:
        """Return the sha256 of a file; of a folder, that of its files' names and sha256s.

        None where nothing is.

        Raises:
            OSError: if it cannot be read.
        """
        before = self._hashed
        digest = self._of(path)
        if self._hashed > before:
            self._keep()
        return digest

    def _of(self, path: Path) -> str | None:
        if path.is_dir():
            parts = [f"{file.relative_to(path)}\0{self._of(file)}\n" for file in files_of(path)]
            return hashlib.sha256("".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
        mark, name = stamp(path), os.path.realpath(path)
        if mark is None:
            return None
        known = self._known.get(name)
        if isinstance(known, list) and known[:1] == [mark]:
            return str(known[1])
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._known[name] = [mark, digest]
        self._hashed += 1
        return digest

    def _keep(self) -> None:
        if self._memory is None:
            return
        there = {name: mark for name, mark in self._known.items() if Path(name).exists()}
        with suppress(OSError), atomic_file(self._memory) as path:
            path.write_text(json.dumps(there), encoding="utf-8")
