"""Entries: what the project knows of a data set; and the files of a data set, walked once.

An entry is a module of this folder that ends in an Entry, and its name in the table of registry.py.

A walk of tens of thousands of clips takes about a second, a search for each of them would take
minutes. With the clips in a store, its listing is the walk. What cannot be read, such as a link to
nothing, is passed over; a folder of that kind is told to `on_note`.
"""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final, Protocol

import pyarrow as pa

from pipeline.clips import ClipStore
from pipeline.manifest import Clip
from safe.config import Data
from safe.errors import DataError, MissingError, as_utf8, of_machine, printable
from safe.files import read_bounded
from safe.sample import is_frame
from safe.taxonomy import BASIC, Classes, check_classes

LIST_BYTES: Final = 2**30
"""Largest list: ten million lines of 100 bytes."""

Note = Callable[[str], None]
"""Takes a line for what a person should know."""

Counts = dict[str, tuple[int, ...]]
"""By bucket: clips of each class, in the order of the classes."""


class ReadClips(Protocol):
    """Lists the clips of a data set in any order, whose files are in data.root or in a store.

    Raises DataError in one line where a list is wrong, or no file of it is there.
    """

    def __call__(  # noqa: D102
        self, data: Data, *, store: ClipStore | None = None, on_note: Note | None = None
    ) -> Iterable[Clip]: ...


class ReadTable(Protocol):
    """Lists them as the columns of the manifest, data.classes heeded: for lists of millions."""

    def __call__(  # noqa: D102
        self, data: Data, *, store: ClipStore | None = None, on_note: Note | None = None
    ) -> pa.Table: ...


@dataclass(frozen=True)
class Entry:
    """A data set that data.name can name."""

    read_clips: ReadClips
    classes: Classes = ()
    """In the order of their labels; none where they are the words of a list (read_table)."""
    splits: str = ""
    """What data.splits must be; empty: any CSV file in data.root."""
    sources: tuple[str, ...] = ("video", "frames")
    """What data.source may be."""
    one_split: bool = False
    """Whether there is one official split and no fold but 1."""
    official: Counts = field(default_factory=dict)
    """How many clips the released lists have, for doctor: a label map that exchanges two classes,
    or a list of another release, shows before anything is trained. Empty: nobody has counted."""
    read_table: ReadTable | None = None
    factors: str = ""
    """A parquet file beside the split lists that says more of each clip, in its column `clip`."""


def silent(line: str) -> None:
    """Be a Note that tells nobody."""


def read_text(root: Path, file: Path) -> str:
    """Return the text of a list, UTF-8, with or without a byte order mark. Raises DataError."""
    if not root.is_dir():
        raise DataError(f"data.root: no folder {root.absolute()} (looked for {file} in it)")
    try:
        data = read_bounded(root / file, most=LIST_BYTES, error=DataError)
        text = data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(
            f"no {file} in data.root {root.absolute()}: is this the dataset's folder?"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{root.absolute() / file} cannot be read: {error}") from error
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def read_lines(root: Path, file: Path) -> list[str]:
    """Return the lines of a list that are not blank, stripped. Raises DataError."""
    return [line.strip() for line in read_text(root, file).splitlines() if line.strip()]


def find_files(
    root: Path,
    folder: str,
    ending: str,
    *,
    store: ClipStore | None = None,
    on_note: Note | None = None,
) -> dict[str, int]:
    """Walk `folder` of the root or store; return path in it and bytes of each `ending` file.

    Links are followed as in walk_files. Raises DataError if `folder` is not there.
    """
    if store is not None:
        return find_stored(store, folder, ending)
    _require_folder(root, folder, f"*{ending}")
    found: dict[str, int] = {}
    for below, entry in walk_files(str(root / folder), on_note=on_note):
        path = f"{folder}/{below}"
        size = _size(entry) if entry.name.lower().endswith(ending) else None
        if size is not None and _is_text(path, on_note):
            found[path] = size
    return found


def walk_files(
    folder: str,
    *,
    enter: Callable[[str], bool] = lambda path: True,
    on_note: Note | None = None,
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield all below a folder that is no folder, with its path from there, in no special order.

    Links to folders are followed. Each folder is entered once, if `enter` says so of its path, by a
    path without links if it has one; links are then entered by name, so that the same files give
    the same paths. `on_note` is told of folders that cannot be read.
    """
    seen: set[tuple[int, int]] = set()
    todo, links = [""], list[str]()
    while todo or links:
        if not todo:
            links.sort(reverse=True)
            todo.append(links.pop())
        here = todo.pop()
        full = os.path.join(folder, here)  # noqa: PTH118  a Path for each would take longer
        try:
            status = os.stat(full)  # noqa: PTH116
        except OSError as error:  # gone since
            _check(error, folder)
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in list_folder(full, on_note, top=folder):
            path = f"{here}/{entry.name}" if here else entry.name
            if not _is_folder(entry):
                yield path, entry
            elif enter(path):
                (links if entry.is_symlink() else todo).append(path)


def list_folder(
    folder: str, on_note: Note | None = None, *, top: str = ""
) -> list[os.DirEntry[str]]:
    """Return what is in a folder: nothing, and a note, if it is not for this user.

    Raises OSError where the disk fails, and if `top`, which it is below, is not there any more.
    """
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        if not isinstance(error, PermissionError):
            _check(error, top)
        (on_note or silent)(f"folder {printable(folder)} is passed over: {error.strerror}")
        return []


def _check(error: OSError, top: str = "") -> None:
    """Raise an error of the machine, or that of a folder that went away while it was walked."""
    if of_machine(error):
        raise error
    if top:
        os.stat(top)  # noqa: PTH116


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # a link to itself
        _check(error)
        return False


def _size(entry: os.DirEntry[str]) -> int | None:
    """Return the bytes of a file; None if it is no file that can be looked at."""
    try:
        return entry.stat().st_size if entry.is_file() else None
    except OSError as error:
        _check(error, os.path.dirname(entry.path))  # noqa: PTH120
        return None


def _is_text(path: str, on_note: Note | None) -> bool:
    """Whether a path can stand in a table; if not, it is told."""
    if (told := as_utf8(path)) == path:
        return True
    (on_note or silent)(f"{printable(told)} is passed over: its name is not UTF-8; rename it")
    return False


def find_stored(store: ClipStore, folder: str, ending: str = "") -> dict[str, int]:
    """Return path in the store and bytes of each `ending` file below a folder. Raises DataError."""
    try:
        return {path: size for path, size in store.walk(folder) if path.lower().endswith(ending)}
    except MissingError as error:
        raise DataError(
            f"no folder {folder or 'of that name'} in runtime.clips {store}: looked for *{ending} "
            "in it"
        ) from error


def find_frame_folders(
    root: Path, folder: str, *, depth: int, on_note: Note | None = None
) -> dict[str, int]:
    """Return the folders `depth` levels below `folder` that hold images, and the bytes of those.

    Paths are relative to root. Raises DataError if `folder` is not there.
    """
    _require_folder(root, folder, "folders of *.jpg")
    level = [folder]
    for _ in range(depth):
        below = []
        for here in level:
            entries = list_folder(f"{root}/{here}", on_note)
            paths = [f"{here}/{entry.name}" for entry in entries if _is_folder(entry)]
            below += [path for path in paths if _is_text(path, on_note)]
        level = below
    sizes = {here: sum_frames(f"{root}/{here}", on_note) for here in level}
    return {here: size for here, size in sizes.items() if size is not None}


def sum_frames(folder: str, on_note: Note | None = None) -> int | None:
    """Return the bytes of a folder's frames; None where there is none."""
    entries = [entry for entry in list_folder(folder, on_note) if is_frame(entry.name)]
    sizes = [size for entry in entries if (size := _size(entry)) is not None]
    return sum(sizes) if sizes else None


class Spellings:
    """What is there under a name that is written otherwise in Unicode: é is one sign or two."""

    def __init__(self, root: Path, stored: Iterable[str] | None = None) -> None:
        """Look in a folder, or among the paths of a store."""
        self._root = root
        self._stored = stored
        self._names = cache(self._list)

    def find(self, path: str) -> str | None:
        """Return the one path there that is `path` but for its spelling; None if there is none."""
        if path.isascii():
            return None
        here = ""
        for name in path.split("/") if self._stored is None else [path]:
            names = self._names(here)[unicodedata.normalize("NFC", name)]
            if len(names) != 1 and name not in names:
                return None
            here = f"{here}/{name if name in names else names[0]}".removeprefix("/")
        return here

    def _list(self, folder: str) -> dict[str, list[str]]:
        """Return the names in a folder, or all paths of the store, by their NFC form."""
        names = self._stored
        if names is None:
            names = [entry.name for entry in list_folder(f"{self._root}/{folder}")]
        found = defaultdict[str, list[str]](list)
        for name in names:
            found[unicodedata.normalize("NFC", name)].append(name)
        return found


def require_some(
    there: int, clips: int, root: Path, looked_for: str, *, store: ClipStore | None = None
) -> None:
    """Raise DataError if not one clip's file is there: that is a wrong folder, not damage."""
    if not there:
        where = name_place(root, store)
        raise DataError(
            f"none of the {clips:,} clips of the lists is in {where}: looked for {looked_for}"
        )


def name_place(root: Path, store: ClipStore | None) -> str:
    """Return what the place of the files is called in an error."""
    return f"data.root {root.absolute()}" if store is None else f"runtime.clips {store}"


def _require_folder(root: Path, folder: str, what: str) -> None:
    if not (root / folder).is_dir():
        raise DataError(
            f"no folder {folder} in data.root {root.absolute()}: looked for {what} in it"
        )


def safe_number(text: str) -> int | None:
    """Return the number that a name is, with or without leading zeros; None if it is no number."""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


SYNONYMS: Final = {
    "happiness": "happy",
    "joy": "happy",
    "sadness": "sad",
    "anger": "angry",
    "surprised": "surprise",
    "disgusted": "disgust",
    "fearful": "fear",
}
"""Other words for the basic seven, in lists of one's own whose data.classes asks for these."""


def choose_classes(
    given: Sequence[str],
    wanted: Sequence[str] | Mapping[str, str | None] | None,
    *,
    owner: str,
    own: bool = False,
) -> tuple[Classes, list[int | None]]:
    """Return the classes, and of each given one its label, or None if it is left out.

    Names are compared without regard to case.

    Args:
        given: names of the classes of the data set, in its order.
        wanted: data.classes. A list: these, in this order, and no others. A mapping: other names,
            of which two may be one; None leaves a class out. None: those given.
        owner: name of the data set, for errors.
        own: whether the classes are the words of a list: then they are in alphabetical order, and a
            wanted one may be without clips.

    Raises:
        DataError: if a class is wanted that the data set does not have, or what comes out are no 2
            to 100 well-formed, different names.
    """
    positions = {name.casefold(): position for position, name in enumerate(given)}
    names: list[str | None] = list(given)
    for name in wanted or () if isinstance(wanted, Mapping) or not own else ():
        if name.casefold() not in positions:
            known = ", ".join(positions)
            raise DataError(f"data.classes: {name!r} is no class of {owner}, which has {known}")
    if isinstance(wanted, Mapping):
        for name, other in wanted.items():
            names[positions[name.casefold()]] = other
        kept = list({name.casefold(): name for name in reversed(names) if name}.values())[::-1]
        chosen = sorted(kept, key=str.casefold) if own else kept
    elif wanted is not None:
        chosen = list(wanted)
        if own and is_basic(chosen):
            names = [SYNONYMS.get(name.casefold(), name) for name in given]
    else:
        chosen = sorted(given, key=str.casefold) if own else list(given)
    try:
        classes = check_classes(chosen)
    except ValueError as error:
        raise DataError(f"classes of {owner}: {error}; see data.classes") from error
    labels = {name.casefold(): label for label, name in enumerate(classes)}
    return classes, [labels.get(name.casefold()) if name else None for name in names]


def is_basic(names: Sequence[str]) -> bool:
    """Say whether names are the basic seven, in any order."""
    return {name.casefold() for name in names} == set(BASIC)
