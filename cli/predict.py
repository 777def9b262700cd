"""The verb predict: tables, timelines and annotated videos of one's own videos, and a summary."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from cli.progress import progress, say
from pipeline.pool.cluster import find_rules
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
from safe.errors import PARTLY_EXIT_CODE, DataError, printable
from safe.files import only_one
from safe.finding import number

if TYPE_CHECKING:
    from safe.api import Predictor, Settings

_LATE: Final = 0.1
"""Seconds of sound before the picture from which it is told."""

_SHOWN: Final = 40
"""Letters of a video's name beside the progress bar."""


def run_predict(
    videos: Sequence[str],
    model: Path,
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
    from safe.api import Settings, load_model, write_video  # torch, once the videos are there

    settings = Settings(**how)
    predictor = load_model(model, device=device, other_crops=other_crops)
    for note in (notes := [*notes, *predictor.notes()]):
        say(f"predict: {note}")
    entries: list[Entry] = []
    with only_one(out / LOCK, str(out)):
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
