"""What may index.json hold?

It is read as if an enemy had written it: its size is limited before it is read, its types, ranges,
names and sums checked before anything is used. What does not fit is one line with the file, the
place and what is wrong.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from safe.errors import DataError
from safe.reading.bounded import read_bounded
from safe.sample import KEY, MOST_FRAMES, SHARD_FORMAT
from safe.store import Store
from safe.taxonomy import MOST, Classes, check_classes

INDEX_BYTES: Final = 2**26
"""Largest index.json. A tar takes 500 bytes in it and a clip that is left out 150, so 10 million
clips in 50,000 tars leave room for 200,000 left out."""

TABLE_BYTES: Final = 2**30
"""Largest clips.parquet: 10 million clips at 100 bytes; those with short keys take 30."""

CLIPS: Final = 10_000_000
"""Most clips of a shard folder."""

TAR_BYTES: Final = 2**40
"""Largest tar."""

_ANEW = "make the shards anew"

Key = Annotated[str, Field(pattern=f"^{KEY.pattern}$")]
Bucket = Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,40}$")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=CLIPS)]


class _Block(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Tar(_Block):
    """One tar: `<bucket>-<6 digits>.tar`, a name and no path."""

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}-[0-9]{6}\.tar$")]
    bucket: Bucket
    sha256: Sha256
    bytes: Annotated[int, Field(ge=1024, le=TAR_BYTES, multiple_of=512)]
    clips: Annotated[int, Field(ge=1, le=CLIPS)]
    classes: dict[str, Count]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if sum(self.classes.values()) != self.clips:
            raise ValueError("classes must add up to clips")
        if self.file[:-11] != self.bucket:
            raise ValueError(f"file: {self.file} is not of bucket {self.bucket}")
        return self


class LeftOut(_Block):
    """One clip that is in no tar."""

    clip: Key
    bucket: Bucket
    reason: str


class Table(_Block):
    """What clips.parquet must be."""

    file: Literal["clips.parquet"]
    sha256: Sha256
    bytes: Annotated[int, Field(ge=1, le=TABLE_BYTES)]


class MadeFrom(BaseModel):
    """What decides the pixels: the side of a face, and rules and numbers under short names."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, Annotated[str, Field(max_length=200)] | int | float | None]
    size: Annotated[int, Field(ge=16, le=512, multiple_of=16)]


class Preprocessing(_Block):
    """pipeline.face.preprocessing's record and its id."""

    id: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    made_from: MadeFrom


class _Outside(_Block):
    """index.json but for what its tars say of themselves."""

    format: int
    classes: Annotated[list[str], Field(max_length=MOST)]
    frames: Annotated[int, Field(ge=1, le=MOST_FRAMES)]
    preprocessing: Preprocessing
    shards: Annotated[list[Any], Field(min_length=1, max_length=CLIPS)]
    left_out: Annotated[list[LeftOut], Field(max_length=CLIPS)]
    table: Table


@dataclass(frozen=True)
class Index:
    """index.json. Its tars are columns: 10,000 of them as objects take 25 MB."""

    about: dict[str, Any]
    """All but its tars."""
    table: Table
    tars: NDArray[Any]
    """[n], with the fields file, sha256 and bytes."""
    classes: NDArray[np.int64]
    """[n, K], clips of each class in each tar."""
    names: Classes
    """[K], the classes."""

    @property
    def frames(self) -> int:
        """T, frames of a clip."""
        return int(self.about["frames"])

    @property
    def face_size(self) -> int:
        """S, the side of the stored faces in pixels."""
        return int(self.about["preprocessing"]["made_from"]["size"])


class _Format(BaseModel):
    format: int


def read_index(root: Path | Store) -> Index:
    """Read and check index.json.

    Raises:
        DataError: one line, if it is missing, too large, damaged, of another format version, or
            holds what it may not.
    """
    path = root / "index.json"
    try:
        data = read_bounded(path, most=INDEX_BYTES, error=DataError)
        version = _Format.model_validate_json(data, strict=True).format
        if version != SHARD_FORMAT:
            raise DataError(
                f"{path}: shard format {version}, this version reads {SHARD_FORMAT}; run "
                "`safe-cli index`, `safe-cli faces` and `safe-cli shard` again"
            )
        raw = json.loads(data)
        outside = _Outside.model_validate(raw)
        del raw, data
        return _columns(outside)
    except FileNotFoundError as error:
        raise DataError(f"{path}: not found; `safe-cli shard` makes it") from error
    except ValidationError as error:
        raise DataError(f"{path}: damaged or altered: {_first(error)}; {_ANEW}") from error
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: damaged or altered: {reason}; {_ANEW}") from error


def _columns(outside: _Outside) -> Index:
    """Check every tar and turn all into columns. Raises ValueError."""
    names = check_classes(outside.classes)
    count, width = len(outside.shards), max(len(_name(entry)) for entry in outside.shards)
    fields = [("file", f"U{width}"), ("sha256", "U64"), ("bytes", np.int64)]
    tars, classes = np.empty(count, fields), np.empty((count, len(names)), np.int64)
    for number, entry in enumerate(outside.shards):
        try:
            tar = Tar.model_validate(entry)
        except ValidationError as error:
            raise ValueError(f"shards.{number}.{_first(error)}") from error
        tars[number] = (tar.file, tar.sha256, tar.bytes)
        if tar.classes.keys() != set(names):
            raise ValueError(f"shards.{number}: classes must be those of the folder")
        classes[number] = [tar.classes[name] for name in names]
    left_out = [entry.clip for entry in outside.left_out]
    for what, texts in (("shards.file", tars["file"].tolist()), ("left_out.clip", left_out)):
        if len(set(texts)) != len(texts):
            raise ValueError(f"{what}: {Counter(texts).most_common(1)[0][0]} is there twice")
    if classes.sum() > CLIPS:
        raise ValueError(f"shards.clips: more than {CLIPS:,} clips in all")
    about = outside.model_dump(exclude={"shards"})
    return Index(about, outside.table, tars, classes, names)


def _name(entry: Any) -> str:
    """Return a tar's name, or nothing where it has none that can be right."""
    name = entry.get("file") if isinstance(entry, dict) else None
    return name if isinstance(name, str) and len(name) <= 51 else " "


def _first(error: ValidationError) -> str:
    """Say in a few words where and what: the value itself may be long, or a name."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:100]
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"[:300].removeprefix(": ")
