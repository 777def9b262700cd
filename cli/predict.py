"""The verb predict: tables, timelines and annotated videos of one's own videos, and a summary."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from cli.layout import note_out
from cli.progress import progress, say
from pipeline.annotate import Mark, annotate
from pipeline.pool.cluster import find_rules
from pipeline.stretch import Survey
from pipeline.videos import (
    LOCK,
    SUMMARY,
    Entry,
    Job,
    Record,
    digest,
    find_videos,
    known_names,
    stamp,
    total,
)
from pipeline.windows import FaceWindow
from safe.errors import PARTLY_EXIT_CODE, DataError, as_utf8, printable
from safe.files import hold_lock
from safe.finding import number
from safe.sample import decode_strip
from safe.taxonomy import ABSTAIN, Classes

if TYPE_CHECKING:
    from safe.api import Predictor, Settings
    from safe.evaluation.answers import Verdict
    from safe.report.timeline import Band

_LATE: Final = 0.1
"""Seconds of sound before the picture from which it is told."""

_UNSURE: Final = (150, 150, 150)
"""Colour of a face that gets no decision."""

_SHOWN: Final = 40
"""Letters of a video's name beside the progress bar."""


def run_predict(
    videos: Sequence[str],
    model: Path | None,
    out: Path,
    *,
    form: Literal["jsonl", "parquet"],
    timeline: bool,
    video: bool,
    device: str,
    other_crops: bool,
    again: bool = False,
    **how: Any,
) -> int:
    """Answer for all videos, write the files, and say in a line what came out.

    Videos that are finished in `out` are left as they are, unless `again`. `how` are the fields of
    safe.api.Settings.

    Returns:
        The exit code: PARTLY_EXIT_CODE if some of the videos cannot be used, else 0.

    Raises:
        DataError: if none can be used, or as find_videos.
    """
    endings = [form, *["png"] * timeline, *["mp4"] * video]
    notes: list[str] = []
    names = known_names(out)
    jobs = find_videos(videos, out=out, endings=endings, known=names, on_note=notes.append)
    from safe.api import Settings, load_model  # torch, once the videos are there

    settings = Settings(**how)
    predictor = load_model(model, device=device, other_crops=other_crops)
    for note in (notes := [*notes, *predictor.notes()]):
        say(f"predict: {note}")
    entries: list[Entry] = []
    with hold_lock(note_out("predict", out) / LOCK, str(out)):
        about, made_by = _describe(predictor, settings, notes), _decisive(predictor, settings)
        record = Record(out, jobs, about, digest(made_by))
        done = {} if again else {job: record.finished(job, endings) for job in jobs}
        if record.others:
            what = "done before with another model, other settings or another version"
            say(f"predict: {number(record.others, 'video')} {what}: done again")
        try:
            record.write()
            for count, job in enumerate(jobs, start=1):
                entry = done.get(job)
                if entry is None:
                    before = stamp(job.video)
                    with progress(f"{count} of {len(jobs)}: {_short(job)}", None) as on_done:
                        entry = write_video(predictor, job, settings, endings, on_done=on_done)
                    entry = record.add(job, entry | before)
                entries.append(entry)
        except BaseException:
            with suppress(OSError):  # the disk may be full; the first error counts
                record.write()
            raise
        record.write()
    return _conclude(entries, out, finished=sum(map(bool, done.values())), speed=record.speed)


def write_video(
    predictor: "Predictor",
    job: Job,
    settings: "Settings",
    endings: Sequence[str],
    *,
    on_done: Callable[[int, int], None] | None = None,
) -> Entry:
    """Answer for one video, and write a file about it for each of `endings`.

    They are jsonl or parquet; png for the timeline; mp4 for the annotated video. `on_done` is
    called with how much of the video is done, and of how much.

    Returns:
        Its entry in summary.json: status is ok, no face or unusable, the last two with a reason.
    """
    from safe.evaluation.answers import writing
    from safe.report.timeline import Band, draw_timeline

    form: Literal["parquet", "jsonl"] = "parquet" if "parquet" in endings else "jsonl"
    shard, gap = predictor.crops.shard, ""
    films, bands, marks = list[Survey](), dict[int, Band](), list[Mark]()
    entry: Entry = {"video": as_utf8(str(job.video)), "status": "unusable", "reason": None}
    try:
        with writing(job.file(form), form, predictor.classes) as write:
            for answer, window in predictor.answers(
                job.video, settings, on_film=films.append, on_done=on_done
            ):
                write(answer)
                if answer.verdict is None or window is None:
                    gap = answer.reason or gap
                    continue
                if window.face not in bands:
                    strip = decode_strip(window.strip, shard.size, shard.frames)
                    bands[window.face] = Band(strip[shard.frames // 2].copy())
                bands[window.face].add(answer)
                if "mp4" in endings:
                    marks.append(_mark(window, answer.verdict, predictor.classes))
    except DataError as error:
        return entry | {"reason": str(error)} | _counts(None, [])
    film, found = films[0], list(bands.values())
    entry |= {"status": "ok" if bands else "no face"} | _counts(film, found)
    entry["table"] = job.file(form).name
    if not bands:
        return entry | {"reason": gap or "no face in any frame"}
    if "png" in endings:
        draw_timeline(
            bands,
            job.file("png"),
            classes=predictor.classes,
            title=job.video.name,
            note=f"apparent expression by {predictor.name}; {predictor.reading()}",
            seconds=film.end,
        )
        entry["timeline"] = job.file("png").name
    if "mp4" in endings:
        try:
            annotate(
                job.video,
                job.file("mp4").absolute(),  # a:b.mp4 would be a protocol
                marks,
                seconds=film.end,
                pool=settings.pool,
            )
            entry["annotated"] = job.file("mp4").name
        except DataError as error:
            entry["reason"] = f"not annotated: {error}"
    return entry


def _counts(film: Survey | None, bands: "list[Band]") -> Entry:
    """Return what an entry says in numbers; of files there is none yet."""
    decisions = [decision for band in bands for decision in band.decisions]
    return {
        "begins": round(film.start, 3) if film else 0.0,
        "seconds": round(film.end, 3) if film else 0.0,
        "video_streams": film.listing.streams if film else 0,
        "faces": len(bands),
        "clips": len(decisions),
        "abstained": decisions.count(ABSTAIN),
        **dict.fromkeys(("table", "timeline", "annotated")),
    }


def _mark(window: FaceWindow, verdict: "Verdict", classes: Classes) -> Mark:
    """Say in a few letters what is drawn beside the face."""
    from safe.report.canvas import class_looks

    k = int(np.argmax(verdict.probabilities))
    likely = _ascii(classes[k]) or f"class {k + 1}"
    sure = verdict.decision != ABSTAIN
    red, green, blue = bytes.fromhex(class_looks(classes)[classes[k]][0].removeprefix("#"))
    words = f"{likely} {verdict.top:.2f}" if sure else f"{ABSTAIN} ({likely} {verdict.top:.2f})"
    return Mark(
        face=window.face,
        indices=window.indices,
        boxes=window.boxes,
        text=f"{window.face}  {words}",
        colour=(red, green, blue) if sure else _UNSURE,
    )


def _ascii(name: str) -> str:
    """Return the letters of a name without their accents; of other scripts there are none."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return plain if re.search("[A-Za-z0-9]", plain) else ""


def _conclude(entries: list[Entry], out: Path, *, finished: int, speed: float) -> int:
    """Say what came out; return the exit code. Raises DataError if no video could be used."""
    for entry in entries:
        if entry["reason"]:
            say(f"predict: {printable(entry['video'])}: {entry['status']}: {entry['reason']}")
        for told in _about(entry):
            say(f"predict: {printable(entry['video'])}: {told}")
    totals = total(entries)
    if totals["unusable"] == len(entries):
        raise DataError(f"predict: no video could be used; {out / SUMMARY} says why")
    before = f" ({finished} finished before; --again does them again)" if finished else ""
    unusable = f", {totals['unusable']} unusable" if totals["unusable"] else ""
    pace = f"; {speed:.1f} seconds of video a second" if finished < len(entries) else ""
    say(
        f"predict: {number(len(entries), 'video')}{before}, {totals['with_faces']} with faces: "
        f"{number(int(totals['faces']), 'face')}, {number(int(totals['clips']), 'clip')}, "
        f"{totals['abstained']} abstained from{unusable}{pace}; in {out}"
    )
    return PARTLY_EXIT_CODE if totals["unusable"] else 0


def _about(entry: Entry) -> Iterator[str]:
    """Yield what must be known of a video to read its times and boxes."""
    if entry["begins"] >= _LATE:
        yield f"its picture begins at {entry['begins']:.2f} s, and so do the rows"
    if entry["video_streams"] > 1:
        yield f"holds {entry['video_streams']} video streams; FFmpeg's best of them is read"


def _short(job: Job) -> str:
    """Name a video beside the bar, which needs the rest of the line."""
    name = printable(job.video.name)
    return name if len(name) <= _SHOWN else f"{name[: _SHOWN // 2]}…{name[-_SHOWN // 2 :]}"


def _describe(predictor: "Predictor", settings: "Settings", notes: list[str]) -> dict[str, Any]:
    """Say in summary.json which model it was, how it looked, and what was passed over."""
    return {
        "what": "apparent expression of faces; not what a person feels",
        "model": {
            "folder": str(predictor.folder),
            "sha256": predictor.info["weights"]["sha256"],
            "classes": list(predictor.classes),
            "preprocessing": predictor.info["preprocessing"]["id"],
            "calibration": predictor.calibration.method,
            "threshold": predictor.calibration.threshold,
            "level": predictor.calibration.level,
            "own_crops": predictor.crops.own,
        },
        "look": {
            "face": settings.face,
            "window": settings.window,
            "hop": settings.hop,
            "detect_size": settings.detect_size or predictor.crops.faces.detect_size,
        },
        "notes": notes,
    }


def _decisive(predictor: "Predictor", settings: "Settings") -> dict[str, Any]:
    """Return all that an answer depends on besides the video."""
    same = ("batch", "workers", "deadline", "memory")  # change no answer
    how = {name: value for name, value in asdict(settings).items() if name not in same}
    model = {"model": predictor.info["sha256"], "own_crops": predictor.crops.own}
    return {**model, **how, **find_rules()}
