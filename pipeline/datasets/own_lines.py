"""What may one line of a list of one's own say, and which key does its path give?

A path loses ./ and doubled /, and every line has a key. Any word may be a label. What a line may
not say is one error that begins with where it stands.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from safe.errors import DataError
from safe.sample import KEY

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
