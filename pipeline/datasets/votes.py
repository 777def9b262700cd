"""How did the ten people vote who looked at each clip of DFEW?

Reads Annotation/annotation.xlsx of the release: seven counts of votes, the clip's number, and the
label (0 where no class has enough votes).
"""

import zipfile
from pathlib import Path
from typing import Any, Final

from pipeline.datasets.dfew import CLASSES
from safe.errors import DataError

FILE: Final = Path("Annotation", "annotation.xlsx")
"""Where the release has it, below data.root."""

_MOST: Final = (
    2**26
)  # bytes of the sheet once unpacked; the release has 16,372 rows of nine numbers
_CLASSES: Final = len(CLASSES)


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
        cells = [_whole(cell) for cell in row[: _CLASSES + 2]]
        if number == 1 and cells[-1:] == [None]:
            continue  # the header
        if len(cells) < _CLASSES + 2 or None in cells:
            raise DataError(
                f"{path}: row {number} must be {_CLASSES} counts of votes, a clip's number, a label"
            )
        *counts, clip, label = (cell or 0 for cell in cells)
        if not 0 <= label <= _CLASSES or not 0 < clip <= 99_999 or min(counts) < 0:
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
        with zipfile.ZipFile(path) as packed:
            if sum(entry.file_size for entry in packed.infolist()) > _MOST:
                raise DataError(f"{path}: unpacks to more than {_MOST >> 20} MiB")
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
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
