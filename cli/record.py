"""Which videos are finished in a folder of answers, and what does its summary.json say?

In: summary.json as an earlier run left it, stopped at any moment or not, and entries as videos get
done. Out: summary.json with an entry a video, whole at any moment. An entry says of which file it
is (path, bytes, time of its last change) and what made it, so that a later run knows what is
finished: the same file, the same model, settings and code, and all of its files still there.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cli.videos import Job, identity
from safe.errors import as_utf8
from safe.process import whole_file

Entry = dict[str, Any]

SUMMARY: Final = "summary.json"

_WRITING: Final = 0.05
"""Part of the time that may go into writing the summary of many thousand videos again and again."""

_FILES: Final = {"jsonl": "table", "parquet": "table", "png": "timeline", "mp4": "annotated"}
"""Ending of a file about a video -> its key in the entry."""

_SUMS: Final = ("faces", "clips", "abstained", "seconds")


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

        Args:
            folder: of the answers.
            jobs: the videos of this run.
            about: what summary.json says besides totals and videos.
            made_by: digest of the model, the settings and the code.
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

    def finished(self, job: Job, endings: list[str]) -> Entry | None:
        """Return the entry of a video that need not be done; None if it must be."""
        key = identity(job.video)
        entry = self._before.get(key)
        if entry is None or entry["status"] == "unusable" or not _is_same(entry, job.video):
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
        with whole_file(self._folder / SUMMARY) as temporary:
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


def _is_same(entry: Entry, video: Path) -> bool:
    return stamp(video) == {name: entry[name] for name in ("bytes", "modified")}


def _read(folder: Path) -> dict[str, Entry]:
    """Return the entries of summary.json by path; none if it is not there, or not of this form."""
    try:
        entries = json.loads((folder / SUMMARY).read_text("utf-8"))["videos"]
        return {entry["path"]: entry for entry in entries if _is_entry(entry)}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
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
        and all(isinstance(entry[name], int | float) for name in _SUMS)
        and {"bytes", "modified", "reason", "video"} <= entry.keys()
    )
