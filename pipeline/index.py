"""The index: which clips exist, with which label, in which bucket.

The official lists and the folder of a dataset in, one table out: data/<name>/manifest.parquet, with
a row for every clip that the lists name. A clip whose file is missing keeps its row, so that the
official denominator stays; its `bytes` are null.
"""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.clips import ClipStore
from pipeline.datasets.base import LIST_BYTES, Note, choose_classes
from pipeline.datasets.registry import ENTRIES
from pipeline.manifest import (
    ROW_GROUP,
    SCHEMA,
    check_rows,
    classes_of,
    tabulate,
    with_classes,
    write_rows,
)
from safe.config import Data
from safe.errors import DataError
from safe.files import atomic_file, read_bounded
from safe.record import ChangedError, Digests, differences, encode_read, read_of
from safe.sample import KEY
from safe.taxonomy import Classes, encode

FACTORS: Final = "factors.parquet"


def build_index(
    data: Data,
    out: Path,
    *,
    forgotten: Path | None = None,
    store: ClipStore | None = None,
    on_note: Note | None = None,
) -> dict[str, int]:
    """List the clips of a dataset and write the manifest to the file `out`.

    Beside it factors.parquet: what the data set's own table says of each of them; the column clip
    alone where it has none.

    Clips that the file `forgotten` names are left out, as if the lists did not name them. The rows
    are sorted by clip; the same files and lists give the same bytes, wherever they are.
    With a `store`, which files are there is what its listing says; the lists stay in data.root.
    `on_note` is called with a line for what a person should know, such as a class without clips.

    Classes are those of the data set, or what data.classes makes of them (choose_classes);
    clips of a class that is left out have no row, and are told.

    Returns:
        Counts: clips, missing, forgotten (clips of the lists that were left out), then clips of
        each class by name and of each bucket by name.

    Raises:
        DataError: one line that says what was looked for and where.
    """
    read = {"params": _params(data), "lists": Digests().of(Path(data.root, data.splits))}
    gone = read_forgotten(forgotten, data.name) if forgotten else set()
    listed = list_clips(data, store=store, on_note=on_note)
    names = classes_of(listed)
    table = _sort(listed.filter(_not_among(listed["clip"], gone)) if gone else listed)
    check_rows(table)
    table = table.replace_schema_metadata(encode(names) | encode_read(read))
    buckets, classes = _count(table["bucket"]), _count(table["label"])
    if on_note is not None:
        for note in _find_gaps(table, data.folds, names):
            on_note(note)
    with atomic_file(out) as temporary:
        write_rows(table, temporary, compression="zstd")
    with atomic_file(out.with_name(FACTORS)) as temporary:
        write_rows(_read_factors(data, table["clip"]), temporary, compression="zstd")
    return {
        "clips": len(table),
        "missing": table["bytes"].null_count,
        "forgotten": len(listed) - len(table),
        **{name: classes.get(label, 0) for label, name in enumerate(names)},
        **{name: buckets[name] for name in sorted(buckets)},
    }


def check_manifest(manifest: Path, data: Data, *, forgotten: Path, digests: Digests) -> None:
    """Compare a manifest with the lists and the section data of today, where it says what it read.

    Raises:
        ChangedError: one line, if they are others. Lists that are not here are not compared.
    """
    read, lists = read_of(manifest), Path(data.root, data.splits)
    told = differences(read.get("params", {}), _params(data))
    if not told and read.get("lists") not in (None, now := digests.of(lists)) and now:
        told = [f"{lists} is not the list that it was made from"]
    if not told and (gone := read_forgotten(forgotten, data.name)):
        there = pq.read_table(manifest, columns=["clip"])["clip"].to_pylist()
        told = [f"it has {clip}, which {forgotten} names" for clip in there if clip in gone]
    if told:
        raise ChangedError(f"{manifest}: {told[0]}; run `safe-cli index` and what follows again")


def _params(data: Data) -> dict[str, Any]:
    return {f"data.{name}": getattr(data, name) for name in ("classes", "name", "source")}


def list_clips(
    data: Data, *, store: ClipStore | None = None, on_note: Note | None = None
) -> pa.Table:
    """Return the manifest of a data set before it is sorted, without what is to be forgotten.

    Raises DataError as build_index does.
    """
    entry = ENTRIES[data.name]
    if entry.read_table is not None:
        return entry.read_table(data, store=store, on_note=on_note)
    given = entry.classes
    listed = tabulate(entry.read_clips(data, store=store, on_note=on_note), data.source, given)
    classes, labels = choose_classes(given, data.classes, owner=data.name)
    counts = _count(listed["label"])
    for label, name in enumerate(given):
        if labels[label] is None and on_note is not None:
            on_note(f"class {name} is left out by data.classes (clips: {counts.get(label, 0):,})")
    chosen = pa.array(labels, pa.int8()).take(listed["label"].combine_chunks())
    position = SCHEMA.get_field_index("label")
    table = listed.set_column(position, SCHEMA.field("label"), chosen)
    return with_classes(table.filter(pc.is_valid(chosen)), classes)


def _read_factors(data: Data, clips: pa.ChunkedArray) -> pa.Table:
    """Return the rows that a data set's own table has of some clips, in its order."""
    name = ENTRIES[data.name].factors
    path = Path(data.root, data.splits, name)
    if not (name and path.is_file()):
        return pa.table({"clip": clips})
    try:
        table = pq.read_table(path)
        return table.filter(pc.is_in(table["clip"], clips.combine_chunks()))
    except (OSError, KeyError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is no table with a column clip: {reason}") from error


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


def _find_gaps(table: pa.Table, folds: list[int], classes: Classes) -> Iterator[str]:
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
            absent = [name for label, name in enumerate(classes) if label not in labels]
            if absent:
                yield f"fold {fold} has no clip of {', '.join(absent)} to {use}"


# forgotten.csv in the project's root: the dataset and the key of each clip that must never come
# back, nothing else. It belongs into git, so that no other copy of the project takes such a clip up
# again.

HEADER: Final = ["dataset", "clip"]


def read_forgotten(path: Path, dataset: str) -> set[str]:
    """Return the forgotten keys of a dataset; none where the file is missing.

    Raises:
        DataError: if a line is not a known dataset and a key. A typing error there would let a
            clip back in, so it is not passed over.
    """
    return {clip for name, clip in _read(path) if name == dataset}


def add_forgotten(path: Path, dataset: str, clips: Iterable[str]) -> None:
    """Add the keys of a dataset's clips; the lines are sorted, each is there once."""
    before = _read(path)
    after = before | {(dataset, clip) for clip in clips}
    if after == before:
        return
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADER, *sorted(after)])


def _read(path: Path) -> set[tuple[str, str]]:
    try:
        data = read_bounded(path, most=LIST_BYTES, error=DataError)
        lines = data.decode("utf-8").splitlines()
    except FileNotFoundError:
        return set()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if lines[:1] != [",".join(HEADER)]:
        raise DataError(f"{path}: the first line must be {','.join(HEADER)}")
    found = set()
    for number, line in enumerate(lines[1:], start=2):
        dataset, _, clip = line.partition(",")
        if dataset not in ENTRIES or not KEY.fullmatch(clip):
            raise DataError(
                f"{path}, line {number}: {line[:120]!r} must be one of {', '.join(ENTRIES)}, a "
                "comma, and a clip's key"
            )
        found.add((dataset, clip))
    return found
