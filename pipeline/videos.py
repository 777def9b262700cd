"""The videos of a folder of answers: which are meant, how their files are called, which are done.

In: names as a user writes them. Out: jobs, a video each, and summary.json with an entry a video,
whole at any moment. An entry says of which file it is (path, bytes, time of its last change) and
what made it, so that a later run knows what is finished: the same file, the same model, settings
and code, and all of its files still there.
"""

import filecmp
import glob
import hashlib
import json
import os
import re
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from pipeline.datasets.base import silent, walk_files
from safe.errors import ConfigError, DataError, as_utf8
from safe.files import atomic_file, fitting, read_bounded
from safe.finding import number, some

Entry = dict[str, Any]
"""Of one video in summary.json."""

SUMMARY: Final = "summary.json"

SUFFIXES: Final = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".avi", ".mkv", ".webm", ".flv", ".f4v"),
    *(".ts", ".mts", ".m2ts", ".m2t", ".mpg", ".mpeg", ".vob"),
)
"""What counts as a video in a folder. A file that is named itself may be called anything: what a
file is, its content decides (pipeline/video/container.py)."""

_SUMMARY_BYTES: Final = 2**28
"""Largest summary.json; a video takes some 600 bytes."""

LOCK: Final = ".lock"
"""File in the folder of the answers that says which process is writing there."""

_WRITTEN: Final = (".json", ".jsonl", ".parquet", ".png")

_WRITING: Final = 0.05
"""Part of the time that may go into writing the summary of many thousand videos again and again."""

_FILES: Final = {"jsonl": "table", "parquet": "table", "png": "timeline", "mp4": "annotated"}
"""Ending of a file about a video -> its key in the entry."""

_SUMS: Final = ("faces", "clips", "abstained", "seconds")


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


# What is finished


def known_names(folder: Path) -> dict[str, str]:
    """Return what the files about a video are called, by its identity, as far as they are there."""
    entries = _read(folder)
    tables = {key: Path(entry["table"]) for key, entry in entries.items() if entry["table"]}
    return {key: table.stem for key, table in tables.items() if (folder / table).is_file()}


def digest(made_by: dict[str, Any]) -> str:
    """Name what decides an answer: 16 hex digits of the sha256 of its canonical JSON."""
    text = json.dumps(made_by, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Record:
    """The entries of a folder, those of this run first."""

    def __init__(
        self, folder: Path, jobs: Sequence[Job], about: dict[str, Any], made_by: str
    ) -> None:
        """Read what is there.

        `about` is what summary.json says besides totals and videos, `made_by` the digest of the
        model, the settings and the code.
        """
        self._folder, self._about, self._made_by = folder, about, made_by
        self._keys = [identity(job.video) for job in jobs]
        self._before = _read(folder)
        self._entries: dict[str, Entry] = {}
        self._began = time.monotonic()
        self._next = 0.0
        self._seconds = 0.0  # of video, of this run
        self.others = 0
        """Videos that were done by another model, other settings or other code."""

    @property
    def speed(self) -> float:
        """Seconds of video a second of this run so far."""
        return self._seconds / max(time.monotonic() - self._began, 1e-3)

    def finished(self, job: Job, endings: Sequence[str]) -> Entry | None:
        """Return the entry of a video that need not be done; None if it must be."""
        key = identity(job.video)
        entry = self._before.get(key)
        if entry is None or entry["status"] == "unusable":
            return None
        if stamp(job.video) != {name: entry[name] for name in ("bytes", "modified")}:
            return None
        needed = endings if entry["status"] == "ok" else endings[:1]  # no face: a table only
        if any(entry[_FILES[ending]] != job.file(ending).name for ending in needed):
            return None
        if not all(job.file(ending).is_file() for ending in needed):
            return None
        if entry["made_by"] != self._made_by:
            self.others += 1
            return None
        self._entries[key] = entry
        return entry

    def add(self, job: Job, entry: Entry) -> Entry:
        """Take the entry of a video that is done, and write the summary if it is time."""
        entry = entry | {"path": identity(job.video), "made_by": self._made_by}
        self._entries[entry["path"]] = entry
        self._seconds += entry["seconds"]
        if time.monotonic() >= self._next:
            self.write()
        return entry

    def write(self) -> None:
        """Write summary.json; `left` in it is how many videos of this run are not done yet."""
        begun = time.monotonic()
        entries = [self._entries[key] for key in self._keys if key in self._entries]
        left = len(self._keys) - len(entries)
        entries += [
            entry
            for key, entry in self._before.items()
            if key not in self._entries
            and entry["table"]
            and (self._folder / entry["table"]).is_file()
        ]
        totals = {**total(entries), "speed": round(self.speed, 2)}
        whole = {**self._about, "left": left, "totals": totals, "videos": entries}
        with atomic_file(self._folder / SUMMARY) as temporary:
            text = json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False)
            temporary.write_text(as_utf8(text) + "\n", encoding="utf-8")
        now = time.monotonic()
        self._next = now + (now - begun) / _WRITING


def total(entries: list[Entry]) -> dict[str, float]:
    """Add up entries."""
    return {
        "videos": len(entries),
        "with_faces": sum(entry["status"] == "ok" for entry in entries),
        "unusable": sum(entry["status"] == "unusable" for entry in entries),
        **{name: sum(entry[name] for entry in entries) for name in _SUMS},
    }


def stamp(video: Path) -> dict[str, int | None]:
    """Return what tells one version of a file from the next; to be taken before it is read."""
    try:
        about = video.stat()
    except OSError:
        return {"bytes": None, "modified": None}
    return {"bytes": about.st_size, "modified": about.st_mtime_ns}


# Videos that are to be forgotten


def answered(folder: Path, videos: Iterable[Path]) -> list[str]:
    """Return the identities of those of `videos` that something in a folder is about, sorted.

    A video counts by its path, by its bytes under another name, and by its name, since a killed run
    leaves files without an entry.

    Raises:
        DataError: if summary.json is there and cannot be read: then no one knows whose files these
            are.
    """
    found = set()
    entries = _entries(folder)
    for video in videos:
        about = [e["path"] for e in entries if identity(video) == e["path"] or _equal(video, e)]
        found |= {*about, *[identity(video)] * bool(_files(folder, identity(video), entries))}
    return sorted(found)


def remove_answers(folder: Path, videos: Set[str]) -> None:
    """Delete the files about videos, named by identity, and then their entries in summary.json."""
    entries = _entries(folder)
    for video in videos:
        for path in _files(folder, video, entries):
            path.unlink()
    kept = [entry for entry in entries if entry["path"] not in videos]
    if len(kept) < len(entries):
        whole = json.loads((folder / SUMMARY).read_text("utf-8"))
        totals = {**whole.get("totals", {}), **total([e for e in kept if _is_entry(e)])}
        text = json.dumps({**whole, "totals": totals, "videos": kept}, indent=1, ensure_ascii=False)
        with atomic_file(folder / SUMMARY) as temporary:
            temporary.write_text(as_utf8(text) + "\n", encoding="utf-8")


def _entries(folder: Path) -> list[Entry]:
    """Return the entries of summary.json, those of older versions too. Raises DataError."""
    path = folder / SUMMARY
    try:
        whole = json.loads(path.read_text("utf-8"))
        return [{**entry, "path": os.fspath(entry.get("path") or "")} for entry in whole["videos"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path}: damaged, so no one can tell whose answers are there; delete the folder"
        ) from error


def _equal(video: Path, entry: Entry) -> bool:
    """Whether an entry is about a file of the same bytes elsewhere; no, where one is gone."""
    other = Path(entry["path"])
    try:
        same = video.stat().st_size == entry.get("bytes") and not video.is_dir()
        return same and filecmp.cmp(video, other, shallow=False)
    except OSError:
        return False


def _files(folder: Path, video: str, entries: Sequence[Entry]) -> list[Path]:
    """Return the files in a folder about a video, the table last.

    They are those of its entry, and those beside a table that is called like it and no one's.
    """
    there = {path.name: path for path in folder.iterdir()} if folder.is_dir() else {}
    named = {str(entry.get(key)): entry["path"] for entry in entries for key in _FILES.values()}
    found = {name for name, of in named.items() if of == video}
    stem = re.escape(fitting(as_utf8(Path(video).stem), more=len(".parquet")))
    for name in there.keys() - named.keys():
        if table := re.fullmatch(rf"({stem}(-\d+)?)\.(jsonl|parquet)", name):
            found |= {f"{table[1]}.{ending}" for ending in _FILES} - named.keys()
    files = [there[name] for name in sorted(found & there.keys())]
    files = [path for path in files if identity(path) != video]
    return sorted(files, key=lambda path: _FILES[path.suffix[1:]] == "table")


def _read(folder: Path) -> dict[str, Entry]:
    """Return the entries of summary.json by path; none if it is not there, or not of this form."""
    try:
        data = read_bounded(folder / SUMMARY, most=_SUMMARY_BYTES, error=DataError)
        entries = json.loads(data)["videos"]
        return {entry["path"]: entry for entry in entries if _is_entry(entry)}
    except (OSError, DataError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _is_entry(entry: Entry) -> bool:
    """Whether an entry has all that is read of it; those of older versions have not."""
    texts = (entry["path"], entry["made_by"], entry["status"])
    files = [entry[key] for key in {*_FILES.values()}]
    return (
        all(isinstance(text, str) for text in texts)
        and all(
            name is None or (isinstance(name, str) and name == Path(name).name) for name in files
        )
        and all(isinstance(entry[name], int | float) and 0 <= entry[name] < 1e12 for name in _SUMS)
        and {"bytes", "modified", "reason", "video"} <= entry.keys()
    )
