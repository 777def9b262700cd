"""Which clips exist, with which label, in which bucket?

The official lists and the folder of a dataset in, one table out: data/<name>/manifest.parquet, with
a row for every clip that the lists name. A clip whose file is missing keeps its row, so that the
official denominator stays; its `bytes` are null.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.blocks import ROW_GROUP, write_rows
from pipeline.datasets import dfew, ferv39k, own
from pipeline.datasets.clips import Note
from pipeline.forgotten import read_forgotten
from pipeline.manifest import (
    Clip,
    check_rows,
    tabulate,
)
from safe.config import Data
from safe.labels import CLASSES
from safe.process import whole_file
from safe.store import Store


class Adapter(Protocol):
    """Lists the clips of a dataset, whose files are in data.root or in a store."""

    def __call__(  # noqa: D102
        self, data: Data, *, store: Store | None = None, on_note: Note | None = None
    ) -> Sequence[Clip]: ...


ADAPTERS: Final[dict[str, Adapter]] = {
    "synthetic": dfew.read_clips,  # drawn in DFEW's layout
    "dfew": dfew.read_clips,
    "ferv39k": ferv39k.read_clips,
    "own": own.read_clips,
}


def build_index(
    data: Data,
    out: Path,
    *,
    forgotten: Path | None = None,
    store: Store | None = None,
    on_note: Note | None = None,
) -> dict[str, int]:
    """List the clips of a dataset and write the manifest to the file `out`.

    Clips that the file `forgotten` names are left out, as if the lists did not name them. The rows
    are sorted by clip; the same files and lists give the same bytes, wherever they are.
    With a `store`, which files are there is what its listing says; the lists stay in data.root.
    `on_note` is called with a line for what a person should know, such as a class without clips.

    Returns:
        Counts: clips, missing, forgotten (clips of the lists that were left out), then clips of
        each class by name and of each bucket by name.

    Raises:
        DataError: one line that says what was looked for and where.
    """
    gone = read_forgotten(forgotten, data.name) if forgotten else set()
    if data.name == "own":
        listed = own.read_table(data, store=store, on_note=on_note)
    else:
        clips = ADAPTERS[data.name](data, store=store, on_note=on_note)
        listed = tabulate(clips, data.source)
    table = _sort(listed.filter(_not_among(listed["clip"], gone)) if gone else listed)
    check_rows(table)
    buckets, classes = _count(table["bucket"]), _count(table["label"])
    if on_note is not None:
        for note in _find_gaps(table, data.folds):
            on_note(note)
    with whole_file(out) as temporary:
        write_rows(table, temporary, compression="zstd")
    return {
        "clips": len(table),
        "missing": table["bytes"].null_count,
        "forgotten": len(listed) - len(table),
        **{name: classes.get(label, 0) for label, name in enumerate(CLASSES)},
        **{name: buckets[name] for name in sorted(buckets)},
    }


def _not_among(clip: pa.ChunkedArray, gone: set[str]) -> pa.ChunkedArray:
    return pc.invert(pc.is_in(clip, pa.array(sorted(gone), pa.string())))


def _sort(table: pa.Table) -> pa.Table:
    """Sort by clip, one column after the other, so that two copies of one are the most."""
    order = pc.sort_indices(table["clip"])
    return pa.table([_take(column, order) for column in table.columns], schema=table.schema)


def _take(column: pa.ChunkedArray, order: pa.Array) -> pa.ChunkedArray:
    """Return the rows of `order`, in pieces, since Arrow's texts end at 2 GiB a piece."""
    kind = column.type
    whole = column.cast(pa.large_string() if kind == pa.string() else kind).combine_chunks()
    parts = [
        whole.take(order.slice(start, ROW_GROUP)).cast(kind)
        for start in range(0, len(order), ROW_GROUP)
    ]
    return pa.chunked_array(parts, kind)


def _count(column: pa.ChunkedArray) -> dict[Any, int]:
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist()}


def _find_gaps(table: pa.Table, folds: list[int]) -> Iterator[str]:
    """Yield a line for each fold whose training or test split lacks classes."""
    pairs = table.select(["bucket", "label"]).group_by(["bucket", "label"]).aggregate([])
    cells = list(zip(*pairs.to_pydict().values(), strict=True))
    for fold in folds:
        tests = {f"fold{fold}"} if any(bucket[:4] == "fold" for bucket, _ in cells) else {"test"}
        seen = {
            "train on": {label for bucket, label in cells if bucket not in {*tests, "val"}},
            "test on": {label for bucket, label in cells if bucket in tests},
        }
        for use, labels in seen.items():
            absent = [name for label, name in enumerate(CLASSES) if label not in labels]
            if absent:
                yield f"fold {fold} has no clip of {', '.join(absent)} to {use}"
