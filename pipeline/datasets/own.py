"""A list of one's own: a CSV file with a line for each clip.

data.splits names it, in data.root. It has the columns path, label and split in any order; other
columns are passed over. UTF-8, with or without a byte order mark; the columns are separated by
commas, semicolons or tabs, whichever the header uses.

    path,label,split
    clips/anna_01.mp4,happy,train
    clips/ben_07.mov,Surprised,test

A path is relative to data.root, with /: a video, told by its content and not by its name, or with
`data.source: frames` a folder of jpg or png images. `split` is train, val or test in every line, or
in every line the number of a fold, from 1. Labels are the classes' names, of which there may be 2
to 100; data.classes chooses and renames them. A column `clip` gives keys; without it they are made
from the paths. What a line may not say is one error that begins with where it stands.

A line as an object takes 700 bytes, as a row of columns 60; so the list is columns from the
beginning, and only lines that are odd are looked at one by one.
"""

import csv
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv
from numpy.typing import NDArray

from pipeline.clips import ClipStore
from pipeline.datasets.base import (
    SYNONYMS,
    Entry,
    Note,
    Spellings,
    choose_classes,
    find_stored,
    is_basic,
    read_text,
    require_some,
    silent,
    sum_frames,
)
from pipeline.manifest import BLOCK, SCHEMA, Clip, untabulate, with_classes
from safe.config import Data
from safe.errors import DataError, of_machine
from safe.sample import KEY
from safe.taxonomy import Classes

PARTS: Final = ("train", "val", "test")

_COLUMNS: Final = ("path", "label", "split")
_SEPARATORS: Final = (",", ";", "\t")
_SPLIT: Final = re.compile(r"train|val|test|[1-9][0-9]{0,8}")  # in lower case; or a fold's number
_PLAIN: Final = re.compile(r"\w+(/\w+)*(\.mp4)?", re.ASCII)
"""A path that is its own key but for - in place of / and without .mp4, if that is short enough."""
_LONGEST: Final = 80  # characters of a key before its hash
_CONTROL: Final = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")  # line ends, what moves a cursor
_CHUNK: Final = 2**22  # bytes of the list that are in work at a time

_WORD: Final = pa.dictionary(pa.int32(), pa.string())
LINES: Final = pa.schema(
    [
        ("line", pa.int64()),
        ("path", pa.string()),
        ("key", pa.string()),
        ("word", _WORD),
        ("split", _WORD),
    ]
)
"""Lines that are checked but for the files they name: number in the file from 1, path, key, the
label as it stands there, and the split in lower case."""

_RAW: Final = pa.schema(
    [("path", pa.string()), ("label", _WORD), ("split", _WORD), ("clip", pa.string())]
)
"""Lines as they stand in the list, but for blanks around a path that is not quoted."""


def read_clips(
    data: Data, *, store: ClipStore | None = None, on_note: Note | None = None
) -> Iterable[Clip]:
    """List every clip of the list, in its order. Raises DataError as read_table does."""
    return untabulate(read_table(data, store=store, on_note=on_note))


def read_table(
    data: Data, *, store: ClipStore | None = None, on_note: Note | None = None
) -> pa.Table:
    """List every clip of the list, in its order: the columns of the manifest.

    Args:
        data: where the list is.
        store: where the clips are, in place of data.root.
        on_note: told of each word of SYNONYMS that was read as another, and of what is left out.

    Raises:
        DataError: one line with the number of the line, if the list is not there, is no such list,
            or names a clip twice, an unknown split or a path outside the root; if train or test is
            empty; if data.classes does not fit; or if not one of the files is there.
    """
    root, file = Path(data.root), Path(data.splits)
    lines = _read_lines(root, file)
    _check_splits(root / file, lines, data.folds)
    classes, labels = _choose(lines["word"], data, on_note or silent)
    lines = lines.append_column("label", _replace(lines["word"], labels.get, pa.int8()))
    lines = lines.filter(pc.is_valid(lines["label"]))
    if not len(lines):
        raise DataError(f"{root / file}: no line has a class of data.classes")
    splits = pc.unique(lines["split"]).to_pylist()
    buckets = {split: split if split in PARTS else f"fold{split}" for split in splits}
    stored = None if store is None else find_stored(store, "")
    spellings = Spellings(root, stored)

    def measure(path: str, line: int) -> int | None:
        if stored is not None:
            return stored.get(path)
        return _measure(root, path, data.source, f"{root / file}, line {line}")

    batches = []
    for batch in lines.to_batches(max_chunksize=BLOCK):
        paths, sizes = _find(batch, measure, spellings)
        columns = {
            "clip": batch["key"],
            "path": paths,
            "label": batch["label"],
            "bucket": _replace(batch["split"], buckets.get, pa.string()),
            "source": pa.repeat(data.source, len(batch)),
            "bytes": sizes,
        }
        batches.append(pa.record_batch(columns, SCHEMA))
    table = with_classes(pa.Table.from_batches(batches, SCHEMA), classes)
    if not table["path"].equals(lines["path"]):  # two spellings of one file
        position = lines.schema.get_field_index("path")
        _check_once(lines.set_column(position, "path", table["path"]), root / file)
    there = len(table) - table["bytes"].null_count
    looked_for = f"the paths of {file}, such as {table['path'][0]}"
    require_some(there, len(table), root, looked_for, store=store)
    return table


# Reading


def _read_lines(root: Path, file: Path) -> pa.Table:
    """Read and check the list: a table of LINES. Raises DataError."""
    text, where = read_text(root, file), root / file
    if not text.strip():
        raise DataError(f"{where}: empty; its first line must be {','.join(_COLUMNS)}")
    separator, names = _read_header(text.partition("\n")[0].strip("\r"), where)
    table, wrong = None, None
    if '"' not in text:
        with suppress(pa.ArrowInvalid):
            table, wrong = check_rows(plain_rows(text, separator, names), where)
    if table is None or wrong:  # what it means, or in which line it is wrong, the csv module says
        table, wrong = check_rows(split_rows(text, separator, names, where), where)
    _check_once(table, where)  # what is wrong in an earlier line comes first
    if wrong:
        raise wrong
    if not len(table):
        raise DataError(f"{where}: no line below the header; each clip needs one")
    return table


def _read_header(line: str, where: Path) -> tuple[str, list[str]]:
    """Return the separator and the columns' names, in lower case. Raises DataError."""
    try:
        read = [(each, next(csv.reader([line], delimiter=each))) for each in _SEPARATORS]
    except csv.Error as error:  # a name of more than 131,072 characters
        raise DataError(f"{where}, line 1: {error}; it must name {', '.join(_COLUMNS)}") from error
    read = [(each, [name.strip().lower() for name in names]) for each, names in read]
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


def plain_rows(
    text: str, separator: str, names: list[str]
) -> Iterator[tuple[pa.RecordBatch, NDArray[np.int64]]]:
    r"""Yield the rows of a list without quotes and without blank lines but at its end.

    Args:
        text: the list, its header the first line, with \n between lines.
        separator: between the columns.
        names: of all columns, path, label, split and perhaps clip among them.

    Returns:
        Batches of _RAW with the numbers of the lines, [N].

    Raises:
        ArrowInvalid: in the middle or at the end, if the list is not so plain.
    """
    data = text.rstrip("\n").encode()
    wanted = [name for name in _RAW.names if name in names]
    columns = [str(names.index(name)) for name in wanted]  # other names may be there twice
    types = {column: _RAW.field(name).type for column, name in zip(columns, wanted, strict=True)}
    line = 2
    for batch in pv.open_csv(
        pa.BufferReader(data),
        pv.ReadOptions(
            use_threads=False,
            block_size=_CHUNK,
            skip_rows=1,
            column_names=[str(position) for position in range(len(names))],
        ),
        pv.ParseOptions(delimiter=separator, quote_char=False, double_quote=False),
        pv.ConvertOptions(column_types=types, include_columns=columns),
    ):
        raw = dict(zip(wanted, batch.columns, strict=True))
        raw = {"clip": pa.repeat("", len(batch))} | raw
        raw["path"] = pc.utf8_trim_whitespace(raw["path"])
        yield pa.record_batch(raw, _RAW), np.arange(line, line + len(batch))
        line += len(batch)
    if line - 2 != data.count(b"\n"):  # a blank line: numbers of lines would be wrong
        raise pa.ArrowInvalid("a blank line")


def split_rows(
    text: str, separator: str, names: list[str], where: Path
) -> Iterator[tuple[pa.RecordBatch, NDArray[np.int64]]]:
    """Yield the rows of any list, as plain_rows does; then raise DataError if one cannot be."""
    raw, wrong = list[str](), list[str]()  # lines of the row that is read; what ends the reading

    def each_line() -> Iterator[str]:
        for found in re.finditer(r"[^\n]*\n|[^\n]+", text):  # StringIO: four times the memory
            raw.append(found[0])
            yield found[0]

    reader = csv.reader(each_line(), delimiter=separator, strict=True)
    path = names.index("path")

    def each_row() -> Iterator[tuple[Any, ...]]:
        try:
            next(reader)
            raw.clear()
            for fields in reader:
                if any(map(str.strip, fields)):
                    if len(fields) != len(names):
                        raise csv.Error(
                            f"{len(fields)} columns where the header has {len(names)}; put a value "
                            "that holds the separator between quotes"
                        )
                    values = {"clip": ""} | dict(zip(names, map(str.strip, fields), strict=True))
                    if values["path"] != fields[path] and _is_quoted("".join(raw), separator, path):
                        values["path"] = fields[path]
                    yield *(values[name] for name in _RAW.names), reader.line_num
                raw.clear()
        except csv.Error as error:
            wrong.append(f"{where}, line {reader.line_num}: {error}")

    rows = each_row()
    while block := list(islice(rows, BLOCK)):
        *columns, numbers = zip(*block, strict=True)
        arrays = [pa.array(each, kind) for each, kind in zip(columns, _RAW.types, strict=True)]
        yield pa.record_batch(arrays, schema=_RAW), np.array(numbers)
    if wrong:
        raise DataError(wrong[0])


def _is_quoted(row: str, separator: str, column: int) -> bool:
    """Whether a column of a row, as it stands in the list, is between quotes."""
    fields = re.findall(rf'(?:\A|{separator})("(?:[^"]|"")*"|[^{separator}]*)', row)
    return bool(fields[column].startswith('"'))


# Checking


def check_rows(
    rows: Iterable[tuple[pa.RecordBatch, NDArray[np.int64]]], where: Path
) -> tuple[pa.Table, DataError | None]:
    """Return a table of LINES up to the first line that is wrong, and what is wrong with it."""
    batches: list[pa.RecordBatch] = []
    wrong = None
    try:
        for raw, numbers in rows:
            checked, wrong = _check_batch(raw, numbers, where)
            batches.append(checked)
            if wrong:
                break
    except DataError as error:
        wrong = error
    return pa.Table.from_batches(batches, LINES).unify_dictionaries(), wrong


def _check_batch(
    raw: pa.RecordBatch, numbers: NDArray[np.int64], where: Path
) -> tuple[pa.RecordBatch, DataError | None]:
    path, given = raw["path"], raw["clip"]
    made = pc.replace_substring(pc.replace_substring(path, ".mp4", ""), "/", "-")
    key = pc.if_else(pc.equal(given, ""), made, given)
    word = _replace(raw["label"], str.strip)
    split = _replace(raw["split"], lambda word: word.strip().lower())
    plain = (
        pc.match_substring_regex(path, rf"\A(?:{_PLAIN.pattern})\z"),
        pc.match_substring_regex(key, rf"\A(?:{KEY.pattern})\z"),
        _replace(raw["label"], lambda word: bool(word.strip()), pa.bool_()),
        _replace(split, lambda word: bool(_SPLIT.fullmatch(word)), pa.bool_()),
    )
    odd = np.flatnonzero(~np.logical_and.reduce([mask.to_numpy(False) for mask in plain]))
    named, wrong, count = [], None, len(raw)
    values = (column.to_pylist() for column in raw.take(pa.array(odd)).columns)
    for row, *line in zip(odd.tolist(), *values, strict=True):
        try:
            named.append(_check_line(*line))
        except DataError as error:
            wrong, count = DataError(f"{where}, line {numbers[row]}: {error}"), row
            break
    if named:
        mask = np.isin(np.arange(len(raw)), odd[: len(named)])
        paths, keys = (pa.array(each, pa.string()) for each in zip(*named, strict=True))
        path = pc.replace_with_mask(path, mask, paths)
        key = pc.replace_with_mask(key, mask, keys)
    checked = pa.record_batch([pa.array(numbers), path, key, word, split], schema=LINES)
    return checked.slice(0, count), wrong


def _check_line(path: str, label: str, split: str, clip: str) -> tuple[str, str]:
    """Return the path of a line as it is kept, and its key. Raises DataError."""
    if not label.strip():
        raise DataError("no label; it must be the name of a class")
    if not _SPLIT.fullmatch(split.strip().lower()):
        raise DataError(
            f"split {split.strip()!r} must be train, val or test, or a fold's number from 1"
        )
    path = _normalise(path)
    key = clip.strip() or make_key(path)
    if not KEY.fullmatch(key):
        raise DataError(
            f"clip {key[:120]!r} must be 1 to 95 letters, digits, - and _; an empty one is made "
            "from the path"
        )
    return path, key


def make_key(path: str) -> str:
    """Make a clip's key from its path alone, so that no other line can ever change it.

    Letters, digits and _ with the ending .mp4 or none become the key with - for /. Any other path
    becomes something like it, followed by -- and eight digits of its SHA-256.
    """
    plain = path.removesuffix(".mp4").replace("/", "-")
    if _PLAIN.fullmatch(path) and KEY.fullmatch(plain):
        return plain
    stem = re.sub(r"[^A-Za-z0-9_]+", "-", re.sub(r"\.\w{2,4}$", "", path)).strip("-")
    return f"{stem[:_LONGEST]}--{hashlib.sha256(path.encode()).hexdigest()[:8]}"


def _normalise(path: str) -> str:
    """Return a path without ./ and doubled /. Raises DataError if it may leave the root."""
    if not path or _CONTROL.search(path):
        raise DataError(f"path {path[:120]!r} must be that of a file or folder")
    if "\\" in path:
        raise DataError(f"path {path!r} must have / between folders, not \\")
    if path.startswith(("/", "~")) or re.match(r"[A-Za-z]:", path):
        raise DataError(f"path {path!r} is absolute; it must be relative to data.root")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or not parts:
        raise DataError(f"path {path!r} leaves data.root; it must stay inside")
    return "/".join(parts)


def _check_once(lines: pa.Table, where: Path) -> None:
    """Raise DataError if a path or a key is there twice."""
    if found := first_twice(lines):
        line, before, what, value = found
        raise DataError(
            f"{where}, line {line}: {what} {value!r} is also in line {before}; "
            + ("keep one" if what == "path" else "every clip needs a key of its own")
        )


def first_twice(table: pa.Table) -> tuple[int, int, str, str] | None:
    """Return the first line that says again what a line before says; None if there is none.

    Returns:
        Its number, that of the line before, what it repeats (path or clip), and that itself.
    """
    found = []
    for order, (what, column) in enumerate((("path", "path"), ("clip", "key"))):
        before: dict[str, int] = {}
        for row in _suspects(table[column]).tolist():
            value, line = table[column][row].as_py(), table["line"][row].as_py()
            if value in before:
                found.append((line, order, before[value], what, value))
                break
            before[value] = line
    line, _, earlier, what, value = min(found, default=(0, 0, 0, "", ""))
    return (line, earlier, what, value) if found else None


def _suspects(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return the rows, ascending, whose 64-bit hash another row has too."""
    each = (hash(value) for chunk in column.chunks for value in chunk.to_pylist())
    hashes = np.fromiter(each, np.int64, len(column))
    ordered = np.sort(hashes)
    return np.flatnonzero(np.isin(hashes, ordered[1:][ordered[1:] == ordered[:-1]]))


def _check_splits(where: Path, table: pa.Table, folds: list[int]) -> None:
    """Raise DataError unless the column split says what data.folds trains and tests on."""
    lowest = table.group_by("split").aggregate([("line", "min")])
    first = dict(zip(lowest["split"].to_pylist(), lowest["line_min"].to_pylist(), strict=True))
    names, numbers = first.keys() & set(PARTS), first.keys() - set(PARTS)
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
                f"{', '.join(sorted(numbers, key=int))}"
            )


# Classes and files


def _choose(
    words: pa.ChunkedArray, data: Data, note: Note
) -> tuple[Classes, dict[str, int | None]]:
    """Return the classes, and of each word its label, None if it is left out. Raises DataError."""
    counts = {one["values"]: one["counts"] for one in pc.value_counts(words).to_pylist()}
    names = {word.casefold(): word for word in reversed(counts)}  # as a class is spelled first
    given = list(names.values())[::-1]
    classes, labels = choose_classes(given, data.classes, owner=data.splits, own=True)
    by_name = {name.casefold(): label for name, label in zip(given, labels, strict=True)}
    basic = isinstance(data.classes, list) and is_basic(data.classes)
    use = ""
    if isinstance(data.classes, list):
        use = "; to use it, add it there, or name the class that it is: {contempt: disgust, ...}"
    for word, count in sorted(counts.items()):
        if by_name[word.casefold()] is None:
            note(f"label {word!r} is left out by data.classes (lines: {count:,}){use}")
        elif basic and word.casefold() in SYNONYMS:
            note(f"label {word!r} is read as {SYNONYMS[word.casefold()]} (lines: {count:,})")
    return classes, {word: by_name[word.casefold()] for word in counts}


def _replace(column: Any, by: Callable[[str], Any], kind: pa.DataType = _WORD) -> Any:
    """Return a column, of words, with other values in their place."""
    if isinstance(column, pa.ChunkedArray):
        return pa.chunked_array([_replace(chunk, by, kind) for chunk in column.chunks], kind)
    values = pa.array(
        list(map(by, column.dictionary.to_pylist())), pa.string() if kind is _WORD else kind
    ).take(column.indices)
    return values.dictionary_encode() if kind is _WORD else values


def _find(
    lines: pa.RecordBatch, measure: Callable[[str, int], int | None], spellings: Spellings
) -> tuple[pa.Array, pa.Array]:
    """Return the path of each clip as it is there, and its bytes: int64, null where it is missing.

    Raises DataError.
    """
    paths, sizes = lines["path"].to_pylist(), list[int | None]()
    for row, (path, line) in enumerate(zip(paths, lines["line"].to_pylist(), strict=True)):
        size = measure(path, line)
        if size is None and (there := spellings.find(path)):
            size = measure(there, line)
            paths[row] = path if size is None else there
        sizes.append(size)
    return pa.array(paths, pa.string()), pa.array(sizes, pa.int64())


def _measure(root: Path, path: str, source: str, here: str) -> int | None:
    """Return the bytes of a video or a folder's frames; None if missing. Raises DataError."""
    try:
        about = os.stat(f"{root}/{path}")  # noqa: PTH116  a Path for each would take longer
    except OSError as error:
        if of_machine(error):
            raise
        return None
    frames = source == "frames"
    if S_ISDIR(about.st_mode) and frames:
        return sum_frames(f"{root}/{path}")
    if S_ISREG(about.st_mode) and not frames:
        return about.st_size
    if not S_ISREG(about.st_mode) and not S_ISDIR(about.st_mode):  # a pipe, a device
        return None
    kind, right = ("a file", "video") if frames else ("a folder", "frames")
    raise DataError(f"{here}: {path} is {kind}; data.source: {right} reads that")


ENTRY: Final = Entry(read_clips, read_table=read_table)
