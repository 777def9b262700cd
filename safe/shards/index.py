"""index.json and clips.parquet, read as if an enemy had written them.

Their size is limited before they are read; types, ranges, names and sums are checked before
anything is used. What does not fit is one line with the file, the place in it and what is wrong.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from safe.errors import DataError
from safe.reader import Column, Plain, Sha256, first_wrong, parse_json, read_columns
from safe.sample import CLIP_COLUMNS, KEY, MOST_FRAMES, SHARD_FORMAT
from safe.shards.source import Source, as_source
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

_AGAIN = "make the shards again"

Key = Annotated[str, Field(pattern=f"^{KEY.pattern}$")]
Bucket = Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,40}$")]
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
    __pydantic_extra__: dict[str, Plain]
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


def read_index(root: Path | Source) -> Index:
    """Read and check index.json. Raises DataError, one line."""
    source = as_source(root)
    path, data = source / "index.json", source.read("index.json", most=INDEX_BYTES)
    try:
        version = _Format.model_validate_json(data, strict=True).format
        if version != SHARD_FORMAT:
            raise DataError(
                f"{path}: shard format {version}, this version reads {SHARD_FORMAT}; run "
                "`safe-cli index`, `safe-cli faces` and `safe-cli shard` again"
            )
        raw = parse_json(data)
        outside = _Outside.model_validate(raw)
        del raw, data
        return _columns(outside)
    except ValidationError as error:
        raise DataError(f"{path}: damaged or altered: {first_wrong(error)}; {_AGAIN}") from error
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: damaged or altered: {reason}; {_AGAIN}") from error


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
            raise ValueError(f"shards.{number}.{first_wrong(error)}") from error
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


# clips.parquet: the checksum that index.json gives is compared before Arrow parses a byte; then
# columns, types and packing (safe/reader.py); then every row against the tars.

_COLUMNS: Final = {
    name: Column(pa.type_for_alias(kind), differs=name == "clip")
    for name, kind in CLIP_COLUMNS.items()
}
_READ: Final = [name for name in CLIP_COLUMNS if name != "flags"]  # which nothing here asks for
TEXTS: Final = 10_000
"""Texts that are Python's at a time."""


def read_table(root: Path | Source, index: Index) -> pa.Table:
    """Read and check clips.parquet: columns of CLIP_COLUMNS but flags, rows in order of the tars.

    Raises DataError, one line.
    """
    source = as_source(root)
    path, data = source / index.table.file, source.read(index.table.file, most=TABLE_BYTES)
    if len(data) != index.table.bytes or hashlib.sha256(data).hexdigest() != index.table.sha256:
        raise DataError(f"{path}: altered, its checksum is not that of index.json; {_AGAIN}")
    try:
        rows = int(index.classes.sum())
        table = read_columns(data, _COLUMNS, rows=rows, exactly=True, wanted=_READ)
        _check_rows(table, index)
    except (pa.ArrowException, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: {reason}; {_AGAIN}") from error
    return table


def _check_rows(table: pa.Table, index: Index) -> None:
    """Raise ValueError unless the rows are clips of the tars of `index`, in their order."""
    side = index.face_size
    most = (
        2 * index.frames * side * side * 3 + 2**16
    )  # twice the pixels; noise at quality 100 takes 1.3
    text, label, offset, size = (
        table[name].combine_chunks() for name in ("clip", "label", "offset", "bytes")
    )
    _all(pc.match_substring_regex(text, rf"\A(?:{KEY.pattern})\z"), "clip: not a key")
    files = pa.array(index.tars["file"].tolist())
    shard = pc.index_in(table["shard"].combine_chunks(), files)
    _all(pc.is_valid(shard), "shard: no tar of index.json")
    bucket = pc.utf8_slice_codeunits(files, 0, -11).take(shard)  # without -000000.tar
    _all(pc.equal(table["bucket"].combine_chunks(), bucket), "bucket: not that of its tar")
    last = len(index.names) - 1
    _all(_between(label, 0, last), f"label: outside 0..{last} ({', '.join(index.names)})")
    _all(_between(size, 1, most), f"bytes: outside 1..{most:,}, for faces of {side} pixels")
    end = pa.array(index.tars["bytes"]).take(shard)
    room = pc.less_equal(offset, pc.subtract(end, size))
    _all(pc.and_(_between(offset, 512, TAR_BYTES), room), "offset: not in its tar")
    before, after = shard.slice(0, len(shard) - 1), shard.slice(1)
    ahead = pc.less_equal(pc.add(offset, size).slice(0, len(shard) - 1), offset.slice(1))
    ordered = pc.or_(pc.less(before, after), pc.and_(pc.equal(before, after), ahead))
    _all(ordered, "offset: the next row is not behind it")
    _check_sums(text, label, shard, index)


def _check_sums(clip: pa.Array, label: pa.Array, shard: pa.Array, index: Index) -> None:
    """Raise ValueError unless every clip is there once, and the counts are index.json's."""
    if not _all_differ(clip):
        raise ValueError("clip: a key is there twice")
    left_out = pa.array([entry["clip"] for entry in index.about["left_out"]], pa.string())
    _all(pc.invert(pc.is_in(clip, left_out)), "clip: also among those left out")
    classes = len(index.names)
    cells = shard.to_numpy().astype(np.int64) * classes + label.to_numpy()
    counted = np.bincount(cells, minlength=index.classes.size).reshape(-1, classes)
    wrong = np.flatnonzero((counted != index.classes).any(axis=1))
    if len(wrong):
        name = index.tars["file"][wrong[0]]
        raise ValueError(f"shard: the clips of {name} are not those that index.json counts")


def _all_differ(texts: pa.Array) -> bool:
    """Say whether no text is there twice: by hashes of 8 bytes, since Arrow's table takes 130."""
    hashes = np.empty(len(texts), np.int64)
    for start in range(0, len(texts), TEXTS):
        some = texts.slice(start, TEXTS).to_pylist()
        hashes[start : start + TEXTS] = list(map(hash, some))
    hashes.sort()
    if (hashes[1:] != hashes[:-1]).all():
        return True
    return bool(pc.count_distinct(texts).as_py() == len(texts))  # two of one hash may differ


def _between(values: Any, low: int, high: int) -> Any:
    return pc.and_(pc.greater_equal(values, low), pc.less_equal(values, high))


def _all(good: Any, what: str) -> None:
    """Raise ValueError with the first row that is not good."""
    if not pc.all(good, min_count=0).as_py():
        raise ValueError(f"row {pc.index(good, False).as_py()}: {what}")
