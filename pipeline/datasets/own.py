"""Which clips does a list of one's own name, with which label, for training or for testing?

Reads data.splits, a CSV file in data.root with a line for each clip and the columns path, label and
split in any order; other columns are passed over. UTF-8, with or without a byte order mark; the
columns are separated by commas, semicolons or tabs, whichever the header uses.

    path,label,split
    clips/anna_01.mp4,happy,train
    clips/ben_07.mov,Surprised,test

A path is relative to data.root, with /: a video, told by its content and not by its name, or with
`data.source: frames` a folder of jpg or png images. `split` is train, val or test in every line, or
in every line the number of a fold, 1 to 5. A column `clip` gives keys; without it they are made
from the paths.
"""

import csv
import os
import re
from collections.abc import Callable, Iterator, Sequence
from errno import ELOOP, ENOENT, ENOTDIR
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Final

import numpy as np
import pyarrow as pa

from pipeline.datasets.clips import IMAGES, find_stored, read_text, require_some
from pipeline.datasets.own_columns import Lines, first_twice, read_plain
from pipeline.datasets.own_lines import (
    FOLDS,
    PARTS,
    SPLITS,
    SYNONYMS,
    WORDS,
    Line,
    parse_line,
)
from pipeline.manifest import SCHEMA, Clip, untabulate
from safe.config import Data
from safe.errors import DataError
from safe.labels import index_of
from safe.store import Store

_COLUMNS: Final = ("path", "label", "split")
_SEPARATORS: Final = (",", ";", "\t")
_LABELS: Final = np.array([index_of(SYNONYMS.get(word, word)) for word in WORDS], np.int8)
_BUCKETS: Final = [split if split in PARTS else f"fold{split}" for split in SPLITS]


def read_clips(data: Data, *, store: Store | None = None) -> Sequence[Clip]:
    """List every clip of the list, in its order. Raises DataError as read_table does."""
    return untabulate(read_table(data, store=store))


def read_table(
    data: Data, on_note: Callable[[str], None] | None = None, *, store: Store | None = None
) -> pa.Table:
    """List every clip of the list, in its order: the columns of the manifest.

    Args:
        data: where the list is.
        on_note: called with a line for each word of SYNONYMS that was found.
        store: where the clips are, in place of data.root.

    Raises:
        DataError: one line with the number of the line, if the list is not there, is no such list,
            or names a clip twice, an unknown label or split, or a path outside the root; if train
            or test is empty; or if not one of the files is there.
    """
    root, file = Path(data.root), Path(data.splits)
    lines = _read_lines(root, file)
    _check_splits(root / file, lines, data.folds)
    counts = np.bincount(lines["word"].to_numpy(), minlength=len(WORDS)).tolist()
    for word, count in sorted(zip(WORDS, counts, strict=True)):
        if count and word in SYNONYMS and on_note is not None:
            on_note(f"label {word!r} is read as {SYNONYMS[word]} (lines: {count:,})")
    labels, buckets = pa.array(_LABELS), pa.array(_BUCKETS)
    stored = None if store is None else find_stored(store, "")
    batches = []
    for batch in lines.to_batches():
        columns = {
            "clip": batch["key"],
            "path": batch["path"],
            "label": labels.take(batch["word"]),
            "bucket": buckets.take(batch["split"]),
            "source": pa.repeat(data.source, len(batch)),
            "bytes": _measure(root, batch, data.source, file)
            if stored is None
            else pa.array(map(stored.get, batch["path"].to_pylist()), pa.int64()),
        }
        batches.append(pa.record_batch(columns, SCHEMA))
    table = pa.Table.from_batches(batches, SCHEMA)
    there = len(table) - table["bytes"].null_count
    looked_for = f"the paths of {file}, such as {table['path'][0]}"
    require_some(there, len(table), root, looked_for, store=store)
    return table


def _read_lines(root: Path, file: Path) -> pa.Table:
    """Read and check the list. Raises DataError."""
    text, where = read_text(root, file), root / file
    if not text.strip():
        raise DataError(f"{where}: empty; its first line must be {','.join(_COLUMNS)}")
    separator, names = _read_header(text.partition("\n")[0].strip("\r"), where)
    table = read_plain(text, separator, names)
    if table is None:
        lines = Lines(_each_line(text, separator, names, where))
        try:
            lines.read()
        except DataError:
            _check_once(lines.table(), where)  # what is wrong in an earlier line comes first
            raise
        table = lines.table()
    _check_once(table, where)
    if not len(table):
        raise DataError(f"{where}: no line below the header; each clip needs one")
    return table


def _each_line(text: str, separator: str, names: list[str], where: Path) -> Iterator[Line]:
    """Check the lines below the header one by one. Raises DataError."""
    each = (found[0] for found in re.finditer(r"[^\n]*\n|[^\n]+", text))  # StringIO: four times it
    reader = csv.reader(each, delimiter=separator, strict=True)
    try:
        next(reader)
        for fields in reader:
            if not any(map(str.strip, fields)):
                continue
            here = f"{where}, line {reader.line_num}"
            if len(fields) != len(names):
                raise DataError(
                    f"{here}: {len(fields)} columns where the header has {len(names)}; put a "
                    "value that holds the separator between quotes"
                )
            values = dict(zip(names, map(str.strip, fields), strict=True))
            yield parse_line(values, reader.line_num, here)
    except csv.Error as error:
        raise DataError(f"{where}, line {reader.line_num}: {error}") from error


def _check_once(lines: pa.Table, where: Path) -> None:
    """Raise DataError if a path or a key is there twice."""
    if found := first_twice(lines):
        line, before, what, value = found
        raise DataError(
            f"{where}, line {line}: {what} {value!r} is also in line {before}; "
            + ("keep one" if what == "path" else "every clip needs a key of its own")
        )


def _read_header(line: str, where: Path) -> tuple[str, list[str]]:
    """Return the separator and the columns' names, in lower case. Raises DataError."""
    read = [
        (
            separator,
            [name.strip().lower() for name in next(csv.reader([line], delimiter=separator))],
        )
        for separator in _SEPARATORS
    ]
    separator, names = max(read, key=lambda one: len(set(_COLUMNS) & set(one[1])))
    missing = [name for name in _COLUMNS if name not in names]
    if missing:
        raise DataError(
            f"{where}: no column {' and no column '.join(missing)} in the first line, "
            f"{line[:120]!r}; it must name {', '.join(_COLUMNS)}, separated by commas, semicolons "
            "or tabs"
        )
    twice = [name for name in (*_COLUMNS, "clip") if names.count(name) > 1]
    if twice:
        raise DataError(f"{where}: the first line names the column {twice[0]} twice; keep one")
    return separator, names


def _check_splits(where: Path, table: pa.Table, folds: list[int]) -> None:
    """Raise DataError unless the column split says what data.folds trains and tests on."""
    lowest = table.select(["split", "line"]).group_by("split").aggregate([("line", "min")])
    pairs = zip(lowest["split"].to_pylist(), lowest["line_min"].to_pylist(), strict=True)
    first = {SPLITS[split]: line for split, line in pairs}
    names, numbers = first.keys() & set(PARTS), first.keys() & set(FOLDS)
    if names and numbers:
        name, number = min(names, key=first.__getitem__), min(numbers, key=first.__getitem__)
        raise DataError(
            f"{where}: split is {name} in line {first[name]} and {number} in line {first[number]}; "
            "use train, val and test in every line, or the numbers of folds in every line"
        )
    for part in ("train", "test"):
        if names and part not in names:
            raise DataError(f"{where}: no line has split {part}; both train and test need clips")
    if names and folds != [1]:
        raise DataError(f"data.folds: {folds} must be [1] when {where} has train and test")
    if numbers and len(numbers) < 2:
        raise DataError(f"{where}: all lines are of fold {min(numbers)}; at least two are needed")
    for fold in folds if numbers else []:
        if str(fold) not in numbers:
            raise DataError(
                f"data.folds: {fold} has no clips in {where}; it has folds "
                f"{', '.join(sorted(numbers))}"
            )


def _measure(root: Path, lines: pa.RecordBatch, source: str, file: Path) -> pa.Array:
    """Return the bytes of each clip: int64, null where its file is missing. Raises DataError."""
    start, frames = f"{root}/", source == "frames"
    sizes: list[int | None] = []
    for row, path in enumerate(lines["path"].to_pylist()):
        try:
            about = os.stat(start + path)  # noqa: PTH116  a Path for each would take longer
        except OSError as error:
            if error.errno not in (ENOENT, ENOTDIR, ELOOP):
                raise
            sizes.append(None)
            continue
        if frames and S_ISDIR(about.st_mode):
            sizes.append(_sum_images(start + path))
        elif not frames and S_ISREG(about.st_mode):
            sizes.append(about.st_size)
        else:
            kind, right = ("a file", "video") if frames else ("a folder", "frames")
            raise DataError(
                f"{root / file}, line {lines['line'][row]}: {path} is {kind}; "
                f"data.source: {right} reads that"
            )
    return pa.array(sizes, pa.int64())


def _sum_images(folder: str) -> int | None:
    """Return the bytes of a folder's images; None where there is none."""
    images = [entry for entry in Path(folder).iterdir() if entry.suffix.lower() in IMAGES]
    return sum(entry.stat().st_size for entry in images) if images else None
