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
import hashlib
import io
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.datasets.clips import IMAGES, find_stored, read_text, require_some
from pipeline.manifest import Clip
from safe.config import Data
from safe.errors import DataError
from safe.labels import CLASSES, index_of
from safe.sample import KEY
from safe.store import Store

SYNONYMS: Final = {
    "happiness": "happy",
    "joy": "happy",
    "sadness": "sad",
    "anger": "angry",
    "surprised": "surprise",
    "disgusted": "disgust",
    "fearful": "fear",
}
"""Other words for the seven classes. There are no more: a word that is in neither is refused."""

PARTS: Final = ("train", "val", "test")
FOLDS: Final = ("1", "2", "3", "4", "5")

_COLUMNS: Final = ("path", "label", "split")
_SEPARATORS: Final = (",", ";", "\t")
_PLAIN: Final = re.compile(r"\w+(/\w+)*(\.mp4)?", re.ASCII)
_LONGEST: Final = 80  # characters of a key before its hash


@dataclass(frozen=True)
class _Row:
    """One line of the list, checked but for the file it names."""

    line: int
    path: str
    word: str  # the label as written, in lower case
    split: str
    key: str


def read_clips(
    data: Data, on_note: Callable[[str], None] | None = None, *, store: Store | None = None
) -> list[Clip]:
    """List every clip of the list, in its order.

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
    rows = _read_rows(root, file)
    _check_splits(root / file, rows, data.folds)
    if on_note is not None:
        for word, count in sorted(Counter(row.word for row in rows).items()):
            if word in SYNONYMS:
                on_note(f"label {word!r} is read as {SYNONYMS[word]} (lines: {count:,})")
    stored = None if store is None else find_stored(store, "")
    clips = []
    for row in rows:
        label = index_of(SYNONYMS.get(row.word, row.word))
        bucket = row.split if row.split in PARTS else f"fold{row.split}"
        size = _measure(root, row, data.source, file) if stored is None else stored.get(row.path)
        clips.append(Clip(row.key, row.path, label, bucket, size))
    require_some(clips, root, f"the paths of {file}, such as {clips[0].path}", store=store)
    return clips


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


def _read_rows(root: Path, file: Path) -> list[_Row]:
    """Read and check the list line by line. Raises DataError."""
    text, where = read_text(root, file), root / file
    if not text.strip():
        raise DataError(f"{where}: empty; its first line must be {','.join(_COLUMNS)}")
    separator, names = _read_header(text.partition("\n")[0].strip("\r"), where)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[_Row] = []
    paths: dict[str, int] = {}
    keys: dict[str, int] = {}
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
            row = _parse(values, reader.line_num, here)
            for what, value, seen in (("path", row.path, paths), ("clip", row.key, keys)):
                if value in seen:
                    raise DataError(
                        f"{here}: {what} {value!r} is also in line {seen[value]}; "
                        + ("keep one" if what == "path" else "every clip needs a key of its own")
                    )
                seen[value] = row.line
            rows.append(row)
    except csv.Error as error:
        raise DataError(f"{where}, line {reader.line_num}: {error}") from error
    if not rows:
        raise DataError(f"{where}: no line below the header; each clip needs one")
    return rows


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


def _parse(values: dict[str, str], line: int, here: str) -> _Row:
    """Check the values of one line. Raises DataError."""
    word, split = values["label"].lower(), values["split"].lower()
    if word not in CLASSES and word not in SYNONYMS:
        raise DataError(
            f"{here}: label {values['label']!r} must be one of {', '.join(CLASSES)} "
            f"(or {', '.join(SYNONYMS)})"
        )
    if split not in PARTS and split not in FOLDS:
        raise DataError(
            f"{here}: split {values['split']!r} must be train, val or test, or a fold's number, "
            "1 to 5"
        )
    path = _normalise(values["path"], here)
    key = values.get("clip") or make_key(path)
    if not KEY.fullmatch(key):
        raise DataError(
            f"{here}: clip {key[:120]!r} must be 1 to 95 letters, digits, - and _; an empty one is "
            "made from the path"
        )
    return _Row(line, path, word, split, key)


def _normalise(path: str, here: str) -> str:
    """Return a path without ./ and doubled /. Raises DataError if it may leave the root."""
    if not path or not path.isprintable():
        raise DataError(f"{here}: path {path[:120]!r} must be that of a file or folder")
    if "\\" in path:
        raise DataError(f"{here}: path {path!r} must have / between folders, not \\")
    if path.startswith(("/", "~")) or re.match(r"[A-Za-z]:", path):
        raise DataError(f"{here}: path {path!r} is absolute; it must be relative to data.root")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or not parts:
        raise DataError(f"{here}: path {path!r} leaves data.root; it must stay inside")
    return "/".join(parts)


def _check_splits(where: Path, rows: list[_Row], folds: list[int]) -> None:
    """Raise DataError unless the column split says what data.folds trains and tests on."""
    first = {row.split: row.line for row in reversed(rows)}
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


def _measure(root: Path, row: _Row, source: str, file: Path) -> int | None:
    """Return the bytes of a video or of a folder's images; None where there is none of them."""
    path = root / row.path
    if source == "frames" and path.is_dir():
        images = [entry for entry in path.iterdir() if entry.suffix.lower() in IMAGES]
        return sum(entry.stat().st_size for entry in images) if images else None
    if source == "video" and path.is_file():
        return path.stat().st_size
    if path.exists():
        kind, right = ("a folder", "frames") if source == "video" else ("a file", "video")
        raise DataError(
            f"{root / file}, line {row.line}: {row.path} is {kind}; data.source: {right} reads that"
        )
    return None
