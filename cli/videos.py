"""Which videos does the user mean, and what are the files called that are written about each?"""

import glob
import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from pipeline.datasets.base import silent, walk_files
from safe.errors import ConfigError, DataError, as_utf8
from safe.files import fitting
from safe.finding import number, some

SUFFIXES: Final = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".avi", ".mkv", ".webm", ".flv", ".f4v"),
    *(".ts", ".mts", ".m2ts", ".m2t", ".mpg", ".mpeg", ".vob"),
)
"""What counts as a video in a folder. A file that is named itself may be called anything: what a
file is, its content decides (pipeline/video/container.py)."""

LOCK: Final = ".lock"
"""File in the folder of the answers that says which process is writing there."""

_WRITTEN: Final = (".json", ".jsonl", ".parquet", ".png")


@dataclass(frozen=True)
class Job:
    """One video, and where its files go."""

    video: Path
    base: Path
    """Path of each file about it, without the ending; no two jobs share one."""

    def file(self, ending: str) -> Path:
        """Return the file with this ending, such as `png`."""
        return self.base.with_name(f"{self.base.name}.{ending}")


def find_videos(
    named: Sequence[str],
    *,
    out: Path,
    endings: Sequence[str],
    known: Mapping[str, str] | None = None,
    on_note: Callable[[str], None] = silent,
) -> list[Job]:
    """List the videos that are meant, each once, in the order given.

    Args:
        named: files; folders, for all videos below them, sorted, links followed; patterns such as
            `clips/*.mp4`, in which `**` stands for any folders.
        out: folder of what will be written; what is in it already is no video to look at.
        endings: of the files that will be written about each video.
        known: by `identity`, what the files about a video are called from before.
        on_note: told of the files of each folder that are passed over.

    Raises:
        DataError: if nothing has such a name, a pattern matches nothing, or a folder holds no
            video.
        ConfigError: if a file would be written over one of the videos.
    """
    known = known or {}
    videos: dict[str, Path] = {}
    for name in named:
        for path in _expand(name, out, on_note):
            videos.setdefault(identity(path), path)
    taken = {_fold(name) for key, name in known.items()}
    jobs: list[Job] = []
    for key, video in videos.items():
        name, count = known.get(key) or _name(video, 1, endings), 1
        while key not in known and _fold(name) in taken:
            count += 1
            name = _name(video, count, endings)
        taken.add(_fold(name))
        jobs.append(Job(video, out / name))
    for job in jobs:
        for path in map(job.file, endings):
            if identity(path) in videos:
                raise ConfigError(
                    f"--out {out}: {path} is one of the videos and would be written over; "
                    "choose another folder"
                )
    return jobs


def identity(path: Path) -> str:
    """Return the one path of a file, whatever links lead to it, as text that can be kept."""
    return as_utf8(os.path.realpath(path))  # Path.resolve raises for a link to itself


def _fold(name: str) -> str:
    """Return what names have in common that some disks take for one."""
    return unicodedata.normalize("NFC", name).casefold()


def _name(video: Path, count: int, endings: Sequence[str]) -> str:
    """Return what files about a video are called: its name without ending, and a number."""
    end = "" if count == 1 else f"-{count}"
    room = len(end) + 1 + max(map(len, endings))
    return fitting(as_utf8(video.stem), more=room) + end


def _expand(name: str, out: Path, on_note: Callable[[str], None]) -> list[Path]:
    """Return the videos that one word of the user means, at least one."""
    path = Path(name)
    found, pattern = [path], not path.exists() and glob.has_magic(name)  # a[1].mp4 may be a file
    if pattern:
        found = sorted(_matches(name))
    if not any(each.exists() for each in found):
        told = "matches no file and no folder" if pattern else "no such file or folder"
        raise DataError(f"{name}: {told}")
    videos = [
        video
        for each in found
        for video in (_below(each, out, on_note) if each.is_dir() else [each])
    ]
    if not videos:
        raise DataError(f"{name}: no video below this folder ({', '.join(SUFFIXES)})")
    return videos


def _matches(pattern: str) -> Iterator[Path]:
    """Yield what a pattern matches; through `**` each folder is entered once, links followed."""
    first, deep, rest = pattern.rstrip("/").partition("**/")
    if not deep or (first and not first.endswith("/")):
        yield from map(Path, glob.glob(pattern))  # noqa: PTH207  Path.glob takes none from /
        return
    wanted = ["**", *rest.split("/")]
    for top in glob.glob(first) if first else [""]:  # noqa: PTH207
        folders = list[str]()

        def enter(path: str, seen: list[str] = folders) -> bool:
            seen.append(path)
            return not _hidden(path)

        files = [path for path, _ in walk_files(top or ".", enter=enter)]
        yield from (Path(top, p) for p in files + folders if _fits(p.split("/"), wanted))


def _fits(parts: list[str], pattern: list[str]) -> bool:
    """Whether the parts of a path are those of a pattern."""
    if not pattern or not parts:
        return not pattern and not parts
    if pattern[0] == "**":
        return _fits(parts, pattern[1:]) or _fits(parts[1:], pattern)
    hidden = parts[0].startswith(".") and not pattern[0].startswith(".")
    return not hidden and fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def _below(folder: Path, out: Path, on_note: Callable[[str], None]) -> list[Path]:
    """Return the videos below a folder, sorted, but none that is hidden or below it in `out`."""
    mine = identity(out)
    inside = mine != identity(folder)
    hidden, others, videos = list[str](), list[str](), list[Path]()

    def enter(path: str) -> bool:
        if _hidden(path):
            hidden.append(f"{path}/")
        return not _hidden(path) and identity(folder / path) != mine

    for path, _ in walk_files(str(folder), enter=enter, on_note=on_note):
        if path == LOCK and not inside:
            continue
        video = Path(path).suffix.lower() in SUFFIXES
        if _hidden(path):
            hidden.append(path)
        elif video:
            videos.append(folder / path)
        elif inside or Path(path).suffix not in _WRITTEN:
            others.append(path)
    told = [
        f"{number(len(names), 'file')} {why} ({some(sorted(map(as_utf8, names)))})"
        for why, names in (("not called like a video", others), ("hidden", hidden))
        if names
    ]
    if told:
        on_note(f"{as_utf8(str(folder))}: passed over {' and '.join(told)}")
    return sorted(videos)


def _hidden(path: str) -> bool:
    return path.rpartition("/")[2].startswith(".")
