"""Which clips does a list of one's own name, with which label, for training or for testing?

Reads data.splits, a CSV file in data.root with a line for each clip and the columns path, label and
split in any order; other columns are passed over. UTF-8, with or without a byte order mark; the
columns are separated by commas, semicolons or tabs, whichever the header uses.

    path,label,split
    clips/anna_01.mp4,happy,train
    clips/ben_07.mov,Surprised,test

A path is relative to data.root, with /: a video, told by its content and not by its name, or with
`data.source: frames` a folder of jpg or png images. `split` is train, val or test in every line, or
in every line the number of a fold, from 1. Labels are the classes' names, of which there may be 2
to 100; data.classes chooses and renames them. A column `clip` gives keys; without it they are made
from the paths.
"""

import csv
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from errno import EACCES, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EPERM
from functools import partial
from itertools import islice, repeat
from operator import attrgetter
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv
from numpy.typing import NDArray

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
from safe.errors import DataError
from safe.sample import KEY
from safe.shards.store import Store
from safe.taxonomy import Classes

# What may one line of a list of one's own say, and which key does its path give?
#
# A path loses ./ and doubled /, and every line has a key. Any word may be a label. What a line may
# not say is one error that begins with where it stands.

PARTS: Final = ("train", "val", "test")

SPLIT: Final = re.compile(r"train|val|test|[1-9][0-9]{0,8}")
"""What may stand for a split, in lower case: a part, or the number of a fold."""

PLAIN: Final = r"\w+(/\w+)*(\.mp4)?"
"""A path that is its own key but for - in place of / and without .mp4, if that is short enough."""

_PLAIN: Final = re.compile(PLAIN, re.ASCII)
_LONGEST: Final = 80  # characters of a key before its hash
_CONTROL: Final = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")  # line ends, what moves a cursor


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the list, checked but for the file it names."""

    line: int
    """Its number in the file, from 1."""
    path: str
    key: str
    word: str
    """The label, as it stands there."""
    split: str
    """In lower case; of SPLIT."""


def parse_line(values: dict[str, str], line: int, here: str) -> Line:
    """Check the values of one line, by column; spaces around them count. Raises DataError."""
    word, split = values["label"], values["split"].lower()
    if not word:
        raise DataError(f"{here}: no label; it must be the name of a class")
    if not SPLIT.fullmatch(split):
        raise DataError(
            f"{here}: split {values['split']!r} must be train, val or test, or a fold's number "
            "from 1"
        )
    path, key = name_clip(values["path"], values.get("clip", ""), here)
    return Line(line, path, key, word, split)


def name_clip(path: str, clip: str, here: str) -> tuple[str, str]:
    """Return the path as it is kept, and its key if `clip` gives none. Raises DataError."""
    path = _normalise(path, here)
    key = clip or make_key(path)
    if not KEY.fullmatch(key):
        raise DataError(
            f"{here}: clip {key[:120]!r} must be 1 to 95 letters, digits, - and _; an empty one is "
            "made from the path"
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


def _normalise(path: str, here: str) -> str:
    """Return a path without ./ and doubled /. Raises DataError if it may leave the root."""
    if not path or _CONTROL.search(path):
        raise DataError(f"{here}: path {path[:120]!r} must be that of a file or folder")
    if "\\" in path:
        raise DataError(f"{here}: path {path!r} must have / between folders, not \\")
    if path.startswith(("/", "~")) or re.match(r"[A-Za-z]:", path):
        raise DataError(f"{here}: path {path!r} is absolute; it must be relative to data.root")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or not parts:
        raise DataError(f"{here}: path {path!r} leaves data.root; it must stay inside")
    return "/".join(parts)


# How is a list of ten million lines kept, read where it is plain, and is a line there twice?
#
# A line as an object takes 700 bytes, as a row of columns 60. A list without quotes is read and
# checked column by column; that and line by line give the same (tests/test_columns.py).

LINES: Final = pa.schema(
    [
        ("line", pa.int64()),
        ("path", pa.string()),
        ("key", pa.string()),
        ("word", pa.dictionary(pa.int32(), pa.string())),
        ("split", pa.dictionary(pa.int32(), pa.string())),
    ]
)
"""What is kept of a line: own_lines.Line."""

_WORDED: Final = ("word", "split")
_CHUNK: Final = 2**22  # bytes of the list that are in work at a time
_CODED: Final = pa.dictionary(pa.int32(), pa.string())


class Lines:
    """Lines as they come, kept as columns; what came before an error can still be asked for."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines, self._open = lines, list[Line]()
        self._batches: list[pa.RecordBatch] = []

    def read(self) -> None:
        """Take all lines. Raises what they raise."""
        while True:
            for line in islice(self._lines, BLOCK):
                self._open.append(line)
            if not self._close():
                return

    def table(self) -> pa.Table:
        """Return the lines so far, in their order: a table of LINES."""
        self._close()
        return pa.Table.from_batches(self._batches, LINES).unify_dictionaries()

    def _close(self) -> bool:
        rows, self._open = self._open, []
        if rows:
            columns = {name: list(map(attrgetter(name), rows)) for name in LINES.names}
            coded = {name: pa.array(columns[name]).dictionary_encode() for name in _WORDED}
            self._batches.append(pa.record_batch(columns | coded, LINES))
        return bool(rows)


def read_plain(text: str, separator: str, names: list[str]) -> pa.Table | None:
    r"""Read a plain list: no quote, no blank line but at its end, and nothing wrong.

    Args:
        text: the list, its header the first line, with \n between lines.
        separator: between the columns.
        names: of all columns, path, label, split and perhaps clip among them.

    Returns:
        A table of LINES in the list's order; None where the list is not plain: whoever reads it
        line by line finds what it means or what is wrong with it.
    """
    if '"' in text:
        return None
    data = text.rstrip("\n").encode()
    wanted = [name for name in ("path", "label", "split", "clip") if name in names]
    columns = [str(names.index(name)) for name in wanted]  # other names may be there twice
    types = {
        column: _CODED if name in ("label", "split") else pa.string()
        for column, name in zip(columns, wanted, strict=True)
    }
    batches, line = [], 2
    try:
        for batch in pv.open_csv(
            pa.BufferReader(data),
            pv.ReadOptions(
                use_threads=False,
                block_size=_CHUNK,
                skip_rows=1,
                column_names=[str(place) for place in range(len(names))],
            ),
            pv.ParseOptions(delimiter=separator, quote_char=False, double_quote=False),
            pv.ConvertOptions(column_types=types, include_columns=columns),
        ):
            batches.append(_check(batch.rename_columns(wanted), line))
            line += len(batch)
    except (pa.ArrowInvalid, KeyError, DataError):
        return None
    if line - 2 != data.count(b"\n"):  # a blank line: numbers of lines would be wrong
        return None
    return pa.Table.from_batches(batches, LINES).unify_dictionaries()


def _check(batch: pa.RecordBatch, line: int) -> pa.RecordBatch:
    """Turn some of the list's lines into LINES. Raises KeyError or DataError if one is wrong."""
    path, given = batch["path"], batch["clip"] if "clip" in batch.schema.names else None
    key = given
    if given is None:
        key = pc.replace_substring(pc.replace_substring(path, ".mp4", ""), "/", "-")
    plain = pc.and_(
        pc.match_substring_regex(path, rf"\A(?:{PLAIN})\z"),
        pc.match_substring_regex(key, rf"\A(?:{KEY.pattern})\z"),
    )
    if not pc.all(plain).as_py():
        odd = pc.invert(plain)
        paths = path.filter(odd).to_pylist()
        keys = repeat("", len(paths)) if given is None else given.filter(odd).to_pylist()
        named = [name_clip(a.strip(), b.strip(), "") for a, b in zip(paths, keys, strict=True)]
        path = pc.replace_with_mask(path, odd, pa.array([one for one, _ in named], pa.string()))
        key = pc.replace_with_mask(key, odd, pa.array([one for _, one in named], pa.string()))
    number = pa.array(np.arange(line, line + len(batch)))
    word, split = _strip(batch["label"]), _lower(batch["split"])
    return pa.record_batch([number, path, key, word, split], schema=LINES)


def _strip(column: pa.DictionaryArray) -> pa.DictionaryArray:
    """Return labels without spaces around them. Raises KeyError where one is empty."""
    words = [word.strip() for word in column.dictionary.to_pylist()]
    if not all(words):
        raise KeyError("")
    return _coded(column, words)


def _lower(column: pa.DictionaryArray) -> pa.DictionaryArray:
    """Return splits in lower case. Raises KeyError where a value is none."""
    words = [word.strip().lower() for word in column.dictionary.to_pylist()]
    if not all(map(SPLIT.fullmatch, words)):
        raise KeyError("")
    return _coded(column, words)


def _coded(column: pa.DictionaryArray, words: list[str]) -> pa.DictionaryArray:
    """Put other words in the place of a column's; two may become one."""
    return pa.array(words, pa.string()).take(column.indices).dictionary_encode()


def first_twice(table: pa.Table) -> tuple[int, int, str, str] | None:
    """Return the first line that says again what a line before says; None if there is none.

    Paths and keys are compared by a 64-bit hash of each, which is sorted once; two that fall
    together are then looked at themselves.

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
    if not found:
        return None
    line, _, earlier, what, value = min(found)
    return line, earlier, what, value


def _suspects(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return the rows, ascending, whose hash another row has too."""
    hashes = np.empty(len(column), np.int64)
    start = 0
    for chunk in column.chunks:
        hashes[start : start + len(chunk)] = list(map(hash, chunk.to_pylist()))
        start += len(chunk)
    ordered = np.sort(hashes)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    return np.flatnonzero(np.isin(hashes, twice)) if len(twice) else np.empty(0, np.int64)


_COLUMNS: Final = ("path", "label", "split")
_SEPARATORS: Final = (",", ";", "\t")
_MISSING: Final = (ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG, EACCES, EPERM)
"""What the system says of a file that is not there, or not for this user; else the disk fails."""


def read_clips(
    data: Data, *, store: Store | None = None, on_note: Note | None = None
) -> Sequence[Clip]:
    """List every clip of the list, in its order. Raises DataError as read_table does."""
    return untabulate(read_table(data, store=store, on_note=on_note))


def read_table(data: Data, *, store: Store | None = None, on_note: Note | None = None) -> pa.Table:
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
    classes, label_of = _choose(lines["word"], data, on_note or silent)
    lines = _label(lines, label_of)
    if not len(lines):
        raise DataError(f"{root / file}: no line has a class of data.classes")
    splits = pc.unique(lines["split"]).to_pylist()
    buckets = {split: split if split in PARTS else f"fold{split}" for split in splits}
    stored = None if store is None else find_stored(store, "")
    measure = partial(_measure_file, root, data.source, file, stored)
    spellings = Spellings(root, stored)
    batches = []
    for batch in lines.to_batches():
        paths, sizes = _measure(batch, measure, spellings)
        columns = {
            "clip": batch["key"],
            "path": paths,
            "label": batch["label"],
            "bucket": _replace(batch["split"], buckets, pa.string()),
            "source": pa.repeat(data.source, len(batch)),
            "bytes": sizes,
        }
        batches.append(pa.record_batch(columns, SCHEMA))
    table = with_classes(pa.Table.from_batches(batches, SCHEMA), classes)
    if not table["path"].equals(lines["path"]):  # two spellings of one file
        place = lines.schema.get_field_index("path")
        _check_once(lines.set_column(place, "path", table["path"]), root / file)
    there = len(table) - table["bytes"].null_count
    looked_for = f"the paths of {file}, such as {table['path'][0]}"
    require_some(there, len(table), root, looked_for, store=store)
    return table


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
    for word, count in sorted(counts.items()):
        if by_name[word.casefold()] is None:
            note(f"label {word!r} is left out by data.classes (lines: {count:,})")
        elif basic and word.casefold() in SYNONYMS:
            note(f"label {word!r} is read as {SYNONYMS[word.casefold()]} (lines: {count:,})")
    return classes, {word: by_name[word.casefold()] for word in counts}


def _label(lines: pa.Table, label_of: dict[str, int | None]) -> pa.Table:
    """Add the column label; leave out the lines without one."""
    labels = pa.chunked_array(
        [_replace(chunk, label_of, pa.int8()) for chunk in lines["word"].chunks], pa.int8()
    )
    return lines.append_column("label", labels).filter(pc.is_valid(labels))


def _replace(column: pa.DictionaryArray, by: Mapping[str, Any], kind: pa.DataType) -> pa.Array:
    return pa.array([by.get(word) for word in column.dictionary.to_pylist()], kind).take(
        column.indices
    )


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
    raw = list[str]()  # of the row that is read

    def each() -> Iterator[str]:
        for found in re.finditer(r"[^\n]*\n|[^\n]+", text):  # StringIO: four times the memory
            raw.append(found[0])
            yield found[0]

    reader = csv.reader(each(), delimiter=separator, strict=True)
    path = names.index("path")
    try:
        next(reader)
        raw.clear()
        for fields in reader:
            if not any(map(str.strip, fields)):
                raw.clear()
                continue
            here = f"{where}, line {reader.line_num}"
            if len(fields) != len(names):
                raise DataError(
                    f"{here}: {len(fields)} columns where the header has {len(names)}; put a "
                    "value that holds the separator between quotes"
                )
            values = dict(zip(names, map(str.strip, fields), strict=True))
            if values["path"] != fields[path] and _is_quoted("".join(raw), separator, path):
                values["path"] = fields[path]
            raw.clear()
            yield parse_line(values, reader.line_num, here)
    except csv.Error as error:
        raise DataError(f"{where}, line {reader.line_num}: {error}") from error


def _is_quoted(row: str, separator: str, column: int) -> bool:
    """Whether a column of a row, as it stands in the list, is between quotes."""
    fields = re.findall(rf'(?:\A|{separator})("(?:[^"]|"")*"|[^{separator}]*)', row)
    return bool(fields[column].startswith('"'))


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
    first = dict(pairs)
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


def _measure(
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


def _measure_file(
    root: Path, source: str, file: Path, stored: dict[str, int] | None, path: str, line: int
) -> int | None:
    """Return the bytes of a video or a folder's frames; None if missing. Raises DataError."""
    if stored is not None:
        return stored.get(path)
    try:
        about = os.stat(f"{root}/{path}")  # noqa: PTH116  a Path for each would take longer
    except OSError as error:
        if error.errno not in _MISSING:
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
    raise DataError(
        f"{root / file}, line {line}: {path} is {kind}; data.source: {right} reads that"
    )


ENTRY: Final = Entry(read_clips, read_table=read_table)
