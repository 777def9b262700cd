"""What does a model say about one's own videos?

`safe-cli predict` writes a table, a timeline and, on request, an annotated video for each of them,
and a summary of all. In Python, one line does the same for one video, without files:

    from cli.predict import predict
    answers = predict("video.mp4", model="runs/synthetic")

What comes out is the apparent expression of a face, not what a person feels.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Literal

from cli.progress import progress, say
from cli.videos import LOCK, Job, find_videos
from cli.writing import SUMMARY, Entry, Record, digest, known_names, stamp, total
from pipeline.pool.cluster import find_rules
from safe.errors import PARTLY_EXIT_CODE, DataError, printable
from safe.files import only_one

if TYPE_CHECKING:  # torch is loaded when the videos are known to be there
    from cli.answering import Look, Reader

_LATE: Final = 0.1
"""Seconds of sound before the picture from which it is told."""

WINDOW: Final = 2.8
"""Seconds: the median clip of DFEW, 70 frames at 25 a second. A model is asked about stretches as
long as those that it was trained on."""

_SHOWN: Final = 40
"""Letters of a video's name beside the progress bar."""


def predict(
    video: str | Path,
    *,
    model: "str | Path | Reader",
    face: Literal["largest", "all"] = "all",
    window: float = WINDOW,
    hop: float | None = None,
    detect_size: int | None = None,
    batch: int = 16,
    workers: int = 2,
    device: str = "auto",
    deadline: float = 60.0,
    memory: float = 4.0,
) -> list[dict[str, Any]]:
    """Return what a model says about a video: rows with the keys of safe.evaluation.answers.schema.

    Args:
        video: the file.
        model: a model folder, a run such as runs/synthetic, or a cli.answering.Reader, which is
            loaded once for many videos.
        face: look at all faces, or at the one that is the largest for most of the video.
        window: seconds that a row is about.
        hop: seconds from one window to the next; half a window by default.
        detect_size: pixels, longest side of the frame that the face detector sees; as the model's
            by default.
        batch: windows that the model sees at once.
        workers: processes that decode and find faces.
        device: auto, cpu, cuda or cuda:N, for a model that is loaded here.
        deadline: seconds after which the decoding of a piece of the video is killed.
        memory: GiB that it may take.

    Raises:
        ConfigError, ModelError, DataError: one line.
    """
    if not Path(video).is_file():
        raise DataError(f"{video}: no such file")
    from cli.answering import Look, Reader

    hop = window / 2 if hop is None else hop
    look = Look(face, window, hop, batch, workers, deadline, memory, detect_size)
    reader = model if isinstance(model, Reader) else Reader(Path(model), device=device)
    with _script_stays_out():
        return [answer.record(reader.classes) for answer, _ in reader.answers(Path(video), look)]


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
    cli.answering.Look; a hop of None is half a window.

    Returns:
        The exit code: PARTLY_EXIT_CODE if some of the videos cannot be used, else 0.

    Raises:
        DataError: if none can be used, or as find_videos.
    """
    endings = [form, *["png"] * timeline, *["mp4"] * video]
    notes: list[str] = []
    names = known_names(out)
    jobs = find_videos(videos, out=out, endings=endings, known=names, on_note=notes.append)
    from cli.answering import Look, Reader
    from cli.writing import write_video

    look = Look(**{**how, "hop": how["window"] / 2 if how["hop"] is None else how["hop"]})
    reader = Reader(model, device=device, other_crops=other_crops)
    for note in (notes := [*notes, *reader.notes()]):
        say(f"predict: {note}")
    entries: list[Entry] = []
    with only_one(out / LOCK, str(out)):
        record = Record(out, jobs, _describe(reader, look, notes), digest(_decisive(reader, look)))
        done = {} if again else {job: record.finished(job, endings) for job in jobs}
        if record.others:
            what = "done before with another model, other settings or another version"
            say(f"predict: {_many(record.others, 'video')} {what}: done again")
        try:
            record.write()
            for number, job in enumerate(jobs, start=1):
                entry = done.get(job)
                if entry is None:
                    before = stamp(job.video)
                    with progress(f"{number} of {len(jobs)}: {_short(job)}", None) as on_done:
                        entry = write_video(reader, job, look, endings, on_done=on_done)
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
    say(
        f"predict: {_many(len(entries), 'video')}{before}, {totals['with_faces']} with faces: "
        f"{_many(totals['faces'], 'face')}, {_many(totals['clips'], 'clip')}, "
        f"{totals['abstained']} abstained from{unusable}"
        f"{f'; {speed:.1f} seconds of video a second' if finished < len(entries) else ''}; in {out}"
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


def _many(count: float, thing: str) -> str:
    return f"{count} {thing}{'s' * (count != 1)}"


def _describe(reader: "Reader", look: "Look", notes: list[str]) -> dict[str, Any]:
    """Say in summary.json which model it was, how it looked, and what was passed over."""
    return {
        "what": "apparent expression of faces; not what a person feels",
        "model": {
            "folder": str(reader.folder),
            "sha256": reader.info["weights"]["sha256"],
            "classes": list(reader.classes),
            "preprocessing": reader.info["preprocessing"]["id"],
            "calibration": reader.calibration.method,
            "threshold": reader.calibration.threshold,
            "level": reader.calibration.level,
            "own_crops": reader.own_crops,
        },
        "look": {
            "face": look.who,
            "window": look.window,
            "hop": look.hop,
            "detect_size": look.detect_size or reader.faces.detect_size,
        },
        "notes": notes,
    }


def _decisive(reader: "Reader", look: "Look") -> dict[str, Any]:
    """Return all that an answer depends on besides the video."""
    same = ("batch", "workers", "deadline", "memory")  # change no answer
    how = {name: value for name, value in asdict(look).items() if name not in same}
    model = {"model": reader.info["sha256"], "own_crops": reader.own_crops}
    return {**model, **how, **find_rules()}


@contextmanager
def _script_stays_out() -> Iterator[None]:
    """Keep child processes from running the caller's script anew.

    A child imports the script that called, to have its functions; ours need none of them. A script
    of one line without `if __name__ == "__main__"` would start children without end.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script
