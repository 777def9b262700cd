"""Which clips must never come back?

forgotten.csv in the project's root has a line for each: its dataset and its key, nothing else. It
belongs into git, so that no other copy of the project takes such a clip up again; the stage index
leaves them out.
"""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Final, get_args

from safe.config import Data
from safe.errors import DataError
from safe.process import whole_file
from safe.sample import KEY

HEADER: Final = ["dataset", "clip"]
DATASETS: Final = get_args(Data.model_fields["name"].annotation)


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
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADER, *sorted(after)])


def _read(path: Path) -> set[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return set()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if lines[:1] != [",".join(HEADER)]:
        raise DataError(f"{path}: the first line must be {','.join(HEADER)}")
    found = set()
    for number, line in enumerate(lines[1:], start=2):
        dataset, _, clip = line.partition(",")
        if dataset not in DATASETS or not KEY.fullmatch(clip):
            raise DataError(
                f"{path}, line {number}: {line[:120]!r} must be one of {', '.join(DATASETS)}, a "
                "comma, and a clip's key"
            )
        found.add((dataset, clip))
    return found
