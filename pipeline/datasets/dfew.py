"""DFEW, and every data set in its layout: its clips, their folds, and how ten people voted on each.

Reads EmoLabel_DataSplit/{train,test}(single-labeled)/set_{1..5}.csv and looks for the raw clips
anywhere below Clip/original, or for the face frames in Clip/clip_224x224. The test sets are
disjoint and train(k) is everything outside test(k); both are checked, because the shards are
written in buckets that rely on it.
"""

import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from pipeline.clips import ClipStore
from pipeline.datasets.base import (
    Entry,
    Note,
    find_files,
    find_frame_folders,
    name_place,
    read_lines,
    require_some,
    safe_number,
)
from pipeline.manifest import Clip
from safe.config import Data
from safe.errors import DataError
from safe.files import read_bounded
from safe.taxonomy import BASIC

CLASSES: Final = BASIC
"""DFEW's classes; its lists number them from 1 in this order."""

_SPELLINGS: Final = ("single-labeled", "single_labeled")
_FILES: Final = {
    "video": ("Clip/original", ".mp4", "**/"),
    "strips": ("Clip/strips", ".jpg", ""),  # of the synthetic set
}
_FRAMES: Final = ("Clip/clip_224x224", "Clip/clip_224x224_16f")


def read_clips(
    data: Data, *, store: ClipStore | None = None, on_note: Note | None = None
) -> list[Clip]:
    """List every clip of the test sets, in no special order.

    Raises:
        DataError: one line, if the root, a list or the clips' folder is not there, a list has a
            wrong header, line or label, or the lists do not fit one another.
    """
    root = Path(data.root)
    labels, folds = _read_folds(root, data.splits)
    if data.source == "frames":
        folder = next((name for name in _FRAMES if (root / name).is_dir()), _FRAMES[0])
        ending, looked_for = "", f"{folder}/<5-digit id>/*.jpg"
        found = _find_frames(root, folder, on_note)
    else:
        folder, ending, below = _FILES[data.source]
        looked_for = f"{folder}/{below}<id>{ending}"
        found = _number(find_files(root, folder, ending, store=store, on_note=on_note), root, store)
    clips = []
    for number, label in labels.items():
        missing = (f"{folder}/{number:05d}{ending}", None)
        path, size = found.get(number, missing)
        clips.append(Clip(f"{number:05d}", path, label, f"fold{folds[number]}", size))
    there = sum(clip.bytes is not None for clip in clips)
    require_some(there, len(clips), root, looked_for, store=store)
    return clips


def _read_folds(root: Path, splits: str) -> tuple[dict[int, int], dict[int, int]]:
    """Return each clip's label and the fold whose test set it is in. Raises DataError."""
    tests = {fold: _read_set(root, splits, "test", fold) for fold in _find_sets(root, splits)}
    labels: dict[int, int] = {}
    folds: dict[int, int] = {}
    for fold, test in tests.items():
        for number in test.keys() & folds.keys():
            raise DataError(
                f"{splits}: clip {number} is in the test sets of folds {folds[number]} and {fold}; "
                f"a clip may be in one only"
            )
        labels |= test
        folds |= dict.fromkeys(test, fold)
    for fold, test in tests.items():
        train = _read_set(root, splits, "train", fold)
        rest = {number: label for number, label in labels.items() if number not in test}
        if train != rest:
            wrong = len(train.items() ^ rest.items())
            raise DataError(
                f"{splits}: train set_{fold}.csv must be all {len(rest):,} clips outside test "
                f"set_{fold}.csv, with the same labels; it has {len(train):,} clips, {wrong:,} "
                f"entries differ"
            )
    return labels, folds


def _find_sets(root: Path, splits: str) -> list[int]:
    """Return the numbers of the test sets whose lists are there; at least 1."""
    found = {1}
    for spelling in _SPELLINGS:
        for path in (root / splits / f"test({spelling})").glob("set_*.csv"):
            number = path.stem.removeprefix("set_")
            if number.isascii() and number.isdecimal() and number[0] != "0":
                found.add(int(number))
    return sorted(found)


def _read_set(root: Path, splits: str, part: str, fold: int) -> dict[int, int]:
    """Read one list: number of the clip -> label, a position in CLASSES. Raises DataError."""
    names = [Path(splits, f"{part}({spelling})", f"set_{fold}.csv") for spelling in _SPELLINGS]
    file = next((name for name in names if (root / name).is_file()), names[0])
    header, *lines = read_lines(root, file) or [""]
    if header != "video_name,label":
        raise DataError(
            f"{root / file}: the first line must be video_name,label, not {header[:120]!r}"
        )
    labels: dict[int, int] = {}
    for line in lines:
        name, _, code = line.partition(",")
        number = safe_number(name)
        if number is None or number > 99_999:
            raise DataError(
                f"{root / file}: {line[:120]!r} must be a clip's number, a comma, a label"
            )
        if not (len(code) == 1 and code in "1234567"):
            raise DataError(
                f"{root / file}: label {code[:40]!r} of clip {number} must be 1 to {len(CLASSES)}"
            )
        if number in labels:
            raise DataError(f"{root / file}: clip {number} is listed twice")
        labels[number] = int(code) - 1
    return labels


def _number(
    files: dict[str, int], root: Path, store: ClipStore | None
) -> dict[int, tuple[str, int]]:
    """Return number -> path and bytes of every clip. Raises DataError if one is there twice."""
    found: dict[int, tuple[str, int]] = {}
    for path, size in sorted(files.items()):
        number = safe_number(path.rpartition("/")[2].rpartition(".")[0])
        if number is None:
            continue
        if number in found:
            raise DataError(
                f"clip {number} is in {name_place(root, store)} twice: {found[number][0]} and "
                f"{path}; keep one"
            )
        found[number] = (path, size)
    return found


def _find_frames(root: Path, folder: str, on_note: Note | None) -> dict[int, tuple[str, int]]:
    """Return number -> path and bytes of every folder of frames."""
    found = {}
    for path, size in find_frame_folders(root, folder, depth=1, on_note=on_note).items():
        name = path.rpartition("/")[2]
        number = safe_number(name)
        if number is not None and name == f"{number:05d}":
            found[number] = (path, size)
    return found


FILE: Final = Path("Annotation", "annotation.xlsx")
"""The votes, below data.root: seven counts, the clip's number, and the label (0 where no class has
enough votes)."""

_MOST: Final = 2**26  # bytes of it once unpacked; the release has 16,372 rows of nine numbers


def read_votes(root: Path) -> dict[str, tuple[int, ...]]:
    """Read the votes of every clip that has one label.

    Args:
        root: the dataset's folder.

    Returns:
        Key of the clip -> votes for each of CLASSES, in this order.

    Raises:
        DataError: one line with the row, if the file is missing, no such table, or a row is not
            seven counts, a clip's number and a label from 0 to 7 that has the most votes.
    """
    path = root / FILE
    votes: dict[str, tuple[int, ...]] = {}
    for number, row in enumerate(_rows(path), start=1):
        cells = [_whole(cell) for cell in row[: len(CLASSES) + 2]]
        if number == 1 and cells[-1:] == [None]:
            continue  # the header
        if len(cells) < len(CLASSES) + 2 or None in cells:
            raise DataError(
                f"{path}: row {number} must be {len(CLASSES)} counts of votes, a clip's number, "
                "a label"
            )
        *counts, clip, label = (cell or 0 for cell in cells)
        if not 0 <= label <= len(CLASSES) or not 0 < clip <= 99_999 or min(counts) < 0:
            raise DataError(
                f"{path}: row {number}: a count, clip or label is out of range: {cells}"
            )
        if label == 0:
            continue
        if counts[label - 1] != max(counts):
            raise DataError(
                f"{path}: row {number}: label {label} has {counts[label - 1]} votes, another class "
                f"has {max(counts)}; are the columns in the release's order?"
            )
        key = f"{clip:05d}"
        if key in votes:
            raise DataError(f"{path}: row {number}: clip {clip} is there twice")
        votes[key] = tuple(counts)
    return votes


def _rows(path: Path) -> list[tuple[Any, ...]]:
    """Return the cells of the first sheet."""
    import openpyxl  # slow to import, and only DFEW has such a file

    try:
        data = BytesIO(read_bounded(path, most=_MOST, error=DataError))
        with zipfile.ZipFile(data) as packed:
            if sum(entry.file_size for entry in packed.infolist()) > _MOST:
                raise DataError(f"{path}: unpacks to more than {_MOST >> 20} MiB")
        book = openpyxl.load_workbook(data, read_only=True, data_only=True)
        return list(book.worksheets[0].iter_rows(values_only=True))
    except FileNotFoundError as error:
        raise DataError(f"no {FILE} in data.root {path.parents[1].absolute()}") from error
    except (OSError, ValueError, KeyError, IndexError, SyntaxError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable xlsx table") from error


def _whole(cell: Any) -> int | None:
    """Return a whole number, also where the sheet holds it as text or as 3.0; None for another."""
    try:
        return int(cell) if float(cell) == int(float(cell)) else None
    except (TypeError, ValueError, OverflowError):
        return None


SYNTHETIC: Final = Entry(  # drawn in DFEW's layout
    read_clips,
    CLASSES,
    splits="EmoLabel_DataSplit",
    sources=("video", "strips"),
    factors="factors.parquet",
)
ENTRY: Final = Entry(
    read_clips,
    CLASSES,
    splits="EmoLabel_DataSplit",
    official={  # the five test sets; fold 1 trains on 9,356 clips and tests on 2,341
        "fold1": (489, 379, 534, 435, 294, 29, 181),
        "fold2": (489, 379, 534, 435, 294, 29, 181),
        "fold3": (489, 379, 534, 435, 294, 29, 180),
        "fold4": (489, 379, 534, 434, 294, 29, 180),
        "fold5": (489, 378, 533, 434, 293, 29, 180),
    },
)
