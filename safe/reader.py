"""The reader of what is read back: JSON and Parquet, bounded, then parsed, then validated.

In: the bytes of a file that somebody else may have written. Out: a pydantic model, or an Arrow
table whose rows, texts and lists are within limits that the caller states. The limits are compared
with what the file's own description says before a column takes memory: three kilobytes of Parquet
can say a billion equal numbers. What does not fit is a ValueError in a few words; the caller knows
the file's name and what makes it again.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from safe.errors import SafeError
from safe.files import read_bounded
from safe.footer import Chunk, read_footer

M = TypeVar("M", bound=BaseModel)

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Plain = None | bool | Whole | float | Annotated[str, Field(max_length=1000)]
"""A value that a person can read in one line."""


class Block(BaseModel):
    """A JSON object that is read back: no type is guessed, no number is NaN or infinite.

    Keys that it does not name are passed over: newer versions may write more.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


_VALUES: Final = 2**23
"""Values in a JSON file: an empty list takes three bytes there and sixty-four in memory."""


def parse_json(data: bytes) -> Any:
    """Return what JSON says. Raises ValueError, also where it is nested hundreds deep."""
    if sum(map(data.count, (b",", b"[", b"{"))) > _VALUES:
        raise ValueError(f"more than {_VALUES:,} values")
    return from_json(data, cache_strings="keys")


def parse_model(data: bytes, kind: type[M]) -> M:
    """Return a JSON object as a model of `kind`. Raises ValueError: where and what is wrong."""
    try:
        return kind.model_validate(parse_json(data))
    except ValidationError as error:
        raise ValueError(first_wrong(error)) from error


def read_model(path: Path, kind: type[M], *, most: int, error: type[SafeError], again: str) -> M:
    """Read a JSON object of at most `most` bytes as a model of `kind`.

    Raises:
        FileNotFoundError: if there is none.
        SafeError: one line, of the type `error`, that ends in `again`: what makes the file.
    """
    data = read_bounded(path, most=most, error=error)
    try:
        return parse_model(data, kind)
    except ValueError as problem:
        raise error(f"{path}: damaged or altered: {problem}; {again}") from problem


def first_wrong(error: ValidationError) -> str:
    """Say in a few words where and what: the value itself may be long, or a name."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:100]
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"[:300].removeprefix(": ")


# Parquet


@dataclass(frozen=True)
class Column:
    """What a column of a Parquet file may hold; no cell is empty, no number is NaN or infinite."""

    kinds: pa.DataType | tuple[pa.DataType, ...]
    """Its type, or those that it may have: all numbers, all texts or all lists."""
    longest: int = 100
    """Bytes of a text; numbers of a list, of which all in a column have as many, at least one."""
    differs: bool = False
    """Whether no two rows have the same value. Then as many rows need as many bytes."""

    @property
    def kind(self) -> pa.DataType:
        """The first of its types."""
        return self.kinds[0] if isinstance(self.kinds, tuple) else self.kinds


_GROUPS: Final = 10_000  # row groups; the writer makes one of a million rows
# With these a byte becomes some 30 at most, so a limit on the file is one on what it packs.
_CODECS: Final = {"SNAPPY", "UNCOMPRESSED"}
_THRIFT: Final = 2**24
_UNPACKED: Final = 2**31
_SMALL: Final = 2**24
"""Numbers in lists that any file may hold: with what Arrow and numpy make of them 400 MB."""
_PACKED: Final = 8
"""Numbers in lists to a byte of the file beyond that; floats that differ take four bytes each."""


def read_columns(
    data: bytes,
    columns: Mapping[str, Column],
    *,
    rows: int,
    exactly: bool = False,
    others: bool = False,
    wanted: Collection[str] | None = None,
) -> pa.Table:
    """Read columns of a Parquet file.

    Args:
        data: the file.
        columns: what each may hold, in their order.
        others: whether the file may have more columns, which are not read, and be packed by zstd.
        rows: how many there may be; there must be one.
        exactly: whether there must be so many.
        wanted: names of those to read; all by default.

    Returns:
        The columns in their order, each in one piece, with the file's metadata.

    Raises:
        ValueError: a few words about what is wrong.
    """
    texts = [name for name, column in columns.items() if column.kind == pa.string()]
    chunks = list(read_footer(data, groups=_GROUPS))
    try:
        file = pq.ParquetFile(
            pa.BufferReader(data),
            read_dictionary=texts,  # a long text that many rows share takes no memory so
            thrift_string_size_limit=_THRIFT,
        )
        schema = pq.ParquetFile(pa.BufferReader(data), thrift_string_size_limit=_THRIFT)
        _check_schema(schema.schema_arrow, columns, others=others)
        codecs = _CODECS | ({"ZSTD"} if others else set())
        _check_rows(file.metadata, rows, exactly=exactly)
        _check_packing(chunks, columns, file.metadata.num_rows, len(data), codecs)
        names = [name for name in columns if wanted is None or name in wanted]
        found: dict[str, pa.Array] = {}
        for name in sorted(names, key=lambda name: not columns[name].differs):  # cheapest to refuse
            column = file.read([name], use_threads=False)[name]
            if len(column) != file.metadata.num_rows:
                raise ValueError(f"{name}: {len(column)} rows, not {file.metadata.num_rows}")
            found[name] = _check_column(name, column, columns[name])
    except (pa.ArrowException, OSError, KeyError) as error:  # the last: a name that it looked for
        raise ValueError(" ".join(str(error).split())[:200]) from error
    metadata = schema.schema_arrow.metadata
    return pa.table({name: found[name] for name in names}).replace_schema_metadata(metadata)


def _check_schema(schema: pa.Schema, columns: Mapping[str, Column], *, others: bool) -> None:
    names = [name for name in schema.names if name in columns] if others else schema.names
    if sorted(names) != sorted(columns) or (not others and names != list(columns)):
        raise ValueError(f"its columns are not {', '.join(columns)}")
    is_right = (
        schema.field(name).type in (each.kinds if isinstance(each.kinds, tuple) else (each.kinds,))
        for name, each in columns.items()
    )
    if not all(is_right):
        raise ValueError(f"its columns are not {', '.join(columns)} of the right types")


def _check_rows(about: pq.FileMetaData, rows: int, *, exactly: bool) -> None:
    count = about.num_rows
    if not 1 <= count <= rows or (exactly and count != rows):
        raise ValueError(f"{count:,} rows; there must be {'' if exactly else '1 to '}{rows:,}")


def _check_packing(
    chunks: list[Chunk],
    columns: Mapping[str, Column],
    rows: int,
    size: int,
    codecs: Collection[str],
) -> None:
    """Compare what a file says of its columns with what they may hold."""
    values = dict.fromkeys(columns, 0)
    for chunk in chunks:
        name = chunk.column
        if name not in columns:
            continue
        if chunk.codec not in codecs or "unknown" in chunk.encodings:
            raise ValueError(f"column {name} is packed in a foreign way")
        if chunk.values < 0 or not 0 <= chunk.unpacked <= _UNPACKED:
            raise ValueError(f"column {name} has no size that can be")
        values[name] += chunk.values
    lists = 0
    for name, column in columns.items():
        is_list = pa.types.is_list(column.kind)
        lists += values[name] if is_list else 0
        if values[name] > rows * (column.longest if is_list else 1):
            raise ValueError(f"{name}: {values[name]:,} values in {rows:,} rows")
    if lists > max(_SMALL, _PACKED * size):
        raise ValueError(f"{lists:,} numbers in {size:,} bytes")


def _check_column(name: str, column: pa.ChunkedArray, right: Column) -> pa.Array:
    """Return a column in one piece. Raises ValueError with the first row that is not right."""
    if column.null_count:
        raise ValueError(f"{name}: empty in a row")
    if right.kind == pa.string():
        return _check_texts(name, column, right)
    whole = column.combine_chunks()
    numbers = whole
    if pa.types.is_list(right.kind):
        lengths = pc.unique(whole.value_lengths()).to_pylist()
        if len(lengths) != 1 or not 1 <= lengths[0] <= right.longest:
            raise ValueError(f"{name}: lists must be of one length, 1 to {right.longest:,}")
        numbers = whole.flatten()
        if numbers.null_count:
            raise ValueError(f"{name}: holds an empty number")
    if pa.types.is_floating(numbers.type) and not pc.all(pc.is_finite(numbers)).as_py():
        raise ValueError(f"{name}: holds numbers that are not finite")
    return whole


def _check_texts(name: str, column: pa.ChunkedArray, right: Column) -> pa.Array:
    """Look at the texts that there are before each row gets its own copy."""
    different = 0
    for chunk in column.chunks:
        different += len(chunk.dictionary)
        lengths = pc.binary_length(chunk.dictionary)
        if (pc.max(lengths).as_py() or 0) > right.longest:
            raise ValueError(f"{name}: longer than {right.longest} bytes")
    if right.differs and different < len(column):
        raise ValueError(f"{name}: the same in two rows")
    return column.cast(pa.string()).combine_chunks()
