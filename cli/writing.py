"""Which files are written about one video, and what is told of it?"""

import hashlib
import json
import re
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from cli.answering import Look, Reader
from cli.videos import Job, identity
from pipeline.annotate import Colour, Mark, annotate
from pipeline.windows import FaceWindow, Film
from safe.errors import DataError, as_utf8
from safe.evaluation.answers import Answer, Format, Verdict, writing
from safe.files import whole_file
from safe.report.canvas import class_looks
from safe.report.timeline import Band, draw_timeline
from safe.sample import decode_strip
from safe.taxonomy import ABSTAIN, Classes

_UNSURE: Final = (150, 150, 150)
"""Colour of a face that gets no decision."""


@dataclass
class _Seen:
    """What is kept of a video while its rows go to the file: numbers, and a picture a face."""

    film: Film | None = None
    clips: int = 0
    abstained: int = 0
    gap: str = ""
    """Why there is no face, where there is none."""
    bands: dict[int, Band] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)

    def on_film(self, film: Film) -> None:
        self.film = film

    @property
    def seconds(self) -> float:
        """When the picture ends, on a player's clock."""
        return self.film.seconds if self.film else 0.0


def write_video(
    reader: Reader,
    job: Job,
    look: Look,
    endings: Sequence[str],
    *,
    on_done: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Answer for one video and write its files.

    Args:
        reader: the model.
        job: the video and where its files go.
        look: how to look.
        endings: jsonl or parquet; png for the timeline; mp4 for the annotated video.
        on_done: called with how much of the video is done, and of how much.

    Returns:
        Its entry in summary.json: status is ok, no face or unusable, the last two with a reason.
    """
    form: Format = "parquet" if "parquet" in endings else "jsonl"
    seen = _Seen()
    name = as_utf8(str(job.video))
    entry: dict[str, Any] = {"video": name, "status": "unusable", "reason": None}
    try:
        with writing(job.file(form), form, reader.classes) as write:
            rows = reader.answers(job.video, look, on_film=seen.on_film, on_done=on_done)
            for answer, window in rows:
                write(answer)
                _keep(seen, answer, window, reader, marks="mp4" in endings)
    except DataError as error:
        return entry | {"reason": str(error)} | _counts(_Seen())
    entry |= {"status": "ok" if seen.bands else "no face"} | _counts(seen)
    entry["table"] = job.file(form).name
    if not seen.bands:
        return entry | {"reason": seen.gap or "no face in any frame"}
    if "png" in endings:
        note = f"apparent expression by {reader.name}; {reader.reading()}"
        picture = job.file("png")
        draw_timeline(
            seen.bands,
            picture,
            classes=reader.classes,
            title=job.video.name,
            note=note,
            seconds=seen.seconds,
        )
        entry["timeline"] = picture.name
    if "mp4" in endings:
        try:
            annotate(
                job.video,
                job.file("mp4").absolute(),  # a:b.mp4 would be a protocol
                seen.marks,
                seconds=seen.seconds,
                pool=look.pool,
            )
            entry["annotated"] = job.file("mp4").name
        except DataError as error:
            entry["reason"] = f"not annotated: {error}"
    return entry


def _counts(seen: _Seen) -> dict[str, Any]:
    return {
        "begins": round(seen.film.start, 3) if seen.film else 0.0,
        "seconds": round(seen.seconds, 3),
        "video_streams": seen.film.streams if seen.film else 0,
        "faces": len(seen.bands),
        "clips": seen.clips,
        "abstained": seen.abstained,
        "table": None,
        "timeline": None,
        "annotated": None,
    }


def _keep(
    seen: _Seen, answer: Answer, window: FaceWindow | None, reader: Reader, *, marks: bool
) -> None:
    """Keep of one row what the counts, the timeline and the annotated video need."""
    if answer.verdict is None or window is None:
        seen.gap = answer.reason or seen.gap
        return
    seen.clips += 1
    seen.abstained += answer.verdict.decision == ABSTAIN
    if window.face not in seen.bands:
        shard = reader.shard
        strip = decode_strip(window.strip, shard.size, shard.frames)
        seen.bands[window.face] = Band(strip[shard.frames // 2].copy())
    seen.bands[window.face].add(answer)
    if marks:
        seen.marks.append(_mark(window, answer.verdict, reader.classes))


def _mark(window: FaceWindow, verdict: Verdict, classes: Classes) -> Mark:
    """Say in a few letters what is drawn beside the face."""
    k = int(np.argmax(verdict.probabilities))
    likely = _ascii(classes[k]) or f"class {k + 1}"
    sure = verdict.decision != ABSTAIN
    words = f"{likely} {verdict.top:.2f}" if sure else f"{ABSTAIN} ({likely} {verdict.top:.2f})"
    return Mark(
        face=window.face,
        indices=window.indices,
        boxes=window.boxes,
        text=f"{window.face}  {words}",
        colour=_rgb(class_looks(classes)[classes[k]][0]) if sure else _UNSURE,
    )


def _ascii(name: str) -> str:
    """Return the letters of a name without their accents; of other scripts there are none."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return plain if re.search("[A-Za-z0-9]", plain) else ""


def _rgb(colour: str) -> Colour:
    """Turn #rrggbb into three numbers, 0..255."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


# Which videos are finished in a folder of answers, and what does its summary.json say?
#
# In: summary.json as an earlier run left it, stopped at any moment or not, and entries as videos
# get
# done. Out: summary.json with an entry a video, whole at any moment. An entry says of which file it
# is (path, bytes, time of its last change) and what made it, so that a later run knows what is
# finished: the same file, the same model, settings and code, and all of its files still there.

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
