"""How does an adapter see which lists and files are there?

Every adapter has one function, read_clips(data, store=None) -> Sequence[Clip]. Folders are walked
once: a walk of tens of thousands of clips takes about a second, a search for each of them would
take minutes. With the clips in a store, its listing is the walk.
"""

import os
import re
from pathlib import Path
from typing import Final

from safe.errors import DataError
from safe.store import MissingError, Store

IMAGES: Final = (".jpg", ".jpeg", ".png")
"""Endings of the frames of a folder, in lower case."""


def read_text(root: Path, file: Path) -> str:
    """Return the text of a list of clips, which is UTF-8, with or without a byte order mark.

    Raises:
        DataError: if the root or the list is not there, or is no text.
    """
    if not root.is_dir():
        raise DataError(f"data.root: no folder {root.absolute()} (looked for {file} in it)")
    try:
        return (root / file).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(
            f"no {file} in data.root {root.absolute()}: is this the dataset's folder?"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{root.absolute() / file} cannot be read: {error}") from error


def read_lines(root: Path, file: Path) -> list[str]:
    """Return the lines of a split list that are not blank, without their line ends.

    Raises:
        DataError: as read_text.
    """
    return [line.strip() for line in read_text(root, file).splitlines() if line.strip()]


def find_files(
    root: Path, folder: str, ending: str, *, store: Store | None = None
) -> dict[str, int]:
    """Walk `folder` of the root or store; return path in it and bytes of each `ending` file.

    Links to folders are followed, each folder is entered once. Raises DataError if it is not there.
    """
    if store is not None:
        return find_stored(store, folder, ending)
    _require_folder(root, folder, f"*{ending}")
    found: dict[str, int] = {}
    seen: set[tuple[int, int]] = set()
    todo = [folder]
    while todo:
        here = todo.pop()
        status = (root / here).stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(root / here) as entries:
            for entry in entries:
                if entry.is_dir():
                    todo.append(f"{here}/{entry.name}")
                elif entry.name.lower().endswith(ending) and entry.is_file():
                    found[f"{here}/{entry.name}"] = entry.stat().st_size
    return found


def find_stored(store: Store, folder: str, ending: str = "") -> dict[str, int]:
    """Return path, relative to the store, and bytes of each `ending` file below a folder of it.

    Raises:
        DataError: if there is no such folder, or the store fails for good.
    """
    try:
        return {path: size for path, size in store.walk(folder) if path.lower().endswith(ending)}
    except MissingError as error:
        raise DataError(
            f"no folder {folder or 'of that name'} in runtime.clips {store}: looked for *{ending} "
            "in it"
        ) from error


def find_frame_folders(root: Path, folder: str, *, depth: int) -> dict[str, int]:
    """Return the folders `depth` levels below `folder` that hold images, and the bytes of those.

    Paths are relative to root. Raises DataError if `folder` is not there.
    """
    _require_folder(root, folder, "folders of *.jpg")
    level = [folder]
    for _ in range(depth):
        below = []
        for here in level:
            with os.scandir(root / here) as entries:
                below += [f"{here}/{entry.name}" for entry in entries if entry.is_dir()]
        level = below
    found = {}
    for here in level:
        with os.scandir(root / here) as entries:
            sizes = [e.stat().st_size for e in entries if e.name.lower().endswith(IMAGES)]
        if sizes:
            found[here] = sum(sizes)
    return found


def require_some(
    there: int, clips: int, root: Path, looked_for: str, *, store: Store | None = None
) -> None:
    """Raise DataError if not one clip's file is there: that is a wrong folder, not damage."""
    if not there:
        raise DataError(
            f"none of the {clips:,} clips of the lists is in {name_place(root, store)}: "
            f"looked for {looked_for}"
        )


def name_place(root: Path, store: Store | None) -> str:
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
