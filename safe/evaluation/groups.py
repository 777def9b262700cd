"""Groups of clips: by age, pose, light, or whatever a table beside the clips says of them.

In: a factor table, factors.parquet, a row a clip. A column whose metadata has a `title` is one to
group by: words, or numbers with `edges` between the groups, a JSON list, and a `unit`. Out: groups
of test clips.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from safe.errors import DataError
from safe.evaluation.predictions import CLIPS
from safe.files import read_bounded
from safe.reader import Column, parse_json, read_columns

FACTOR_BYTES: Final = 2**30
"""Largest factor table."""

LEAST: Final = 5
"""Clips that a group has at least to be shown."""


@dataclass(frozen=True)
class Group:
    """The test clips that are alike in one factor."""

    factor: str
    """Its title."""
    name: str
    """Which, in words: `female`, `18 to 30 years`."""
    rows: NDArray[np.int64]
    """Positions among the clips asked for, ascending."""


def read_factors(path: Path) -> pa.Table:
    """Read the columns to group by, and `clip`. Raises DataError where it is no factor table."""
    try:
        data = read_bounded(path, most=FACTOR_BYTES, error=DataError)
        schema = pq.read_schema(pa.BufferReader(data))
        about = {field.name: field.metadata for field in schema if _is_factor(field)}
        kinds = {name: schema.field(name).type for name in ("clip", *about)}
        columns = {name: Column(kind, differs=name == "clip") for name, kind in kinds.items()}
        table = read_columns(data, columns, rows=CLIPS, others=True)
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} is no factor table: {' '.join(str(error).split())}") from error
    if len(set(table["clip"].to_pylist())) != len(table):
        raise DataError(f"{path}: a clip has several rows")
    fields = [schema.field(name) for name in columns]
    return pa.table(table.columns, schema=pa.schema(fields))


def _is_factor(field: pa.Field) -> bool:
    """Whether a column is one to group by. Raises ValueError if what it says of itself is wrong."""
    about = field.metadata or {}
    if b"title" not in about:
        return False
    edges = parse_json(about.get(b"edges", b"[]"))
    texts = [about.get(key, b"").decode() for key in (b"title", b"unit")]
    numbers = isinstance(edges, list) and all(isinstance(edge, int | float) for edge in edges)
    if not numbers or edges != sorted(edges) or len(edges) > 100 or max(map(len, texts)) > 100:
        raise ValueError(f"{field.name}: edges must be a few ascending numbers, a title short")
    plain = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
    if not (plain or (not edges and field.type in (pa.string(), pa.bool_()))):
        raise ValueError(f"{field.name}: must be numbers, or words without edges")
    return True


def groups_of(table: pa.Table, clips: Sequence[str]) -> list[Group]:
    """Group clips by every factor that parts them.

    Args:
        table: of read_factors.
        clips: keys; those that the table does not have are in no group.

    Returns:
        Groups of LEAST clips or more, factor by factor in the order of the columns; no factor in
        which all clips are alike.
    """
    row_of = {clip: row for row, clip in enumerate(table["clip"].to_pylist())}
    known = np.array([i for i, clip in enumerate(clips) if clip in row_of], dtype=np.int64)
    rows = np.array([row_of[clips[i]] for i in known], dtype=np.int64)
    found = []
    for field in table.schema:
        about = field.metadata or {}
        if b"title" not in about:
            continue
        values = table[field.name].to_numpy()[rows]
        names, which = _part(values, about)
        parts = [(name, known[which == k]) for k, name in enumerate(names)]
        title = about[b"title"].decode()
        kept = [Group(title, name, part) for name, part in parts if len(part) >= LEAST]
        found += kept if len(kept) > 1 else []
    return found


def _part(values: NDArray[Any], about: dict[bytes, bytes]) -> tuple[list[str], NDArray[np.int64]]:
    """Return the names of the groups and which of them each value is in."""
    edges = parse_json(about.get(b"edges", b"[]"))
    if not edges:
        kinds, which = np.unique(values.astype(str), return_inverse=True)
        words = {"True": "yes", "False": "no"}
        return [words.get(str(kind), str(kind)) for kind in kinds], which
    unit = f" {about.get(b'unit', b'').decode()}".rstrip()
    middle = [f"{a:g} to {b:g}{unit}" for a, b in pairwise(edges)]
    names = [f"below {edges[0]:g}{unit}", *middle, f"from {edges[-1]:g}{unit}"]
    return names, np.searchsorted(edges, values, side="right").astype(np.int64)
