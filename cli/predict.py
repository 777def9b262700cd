"""What does a model say about one's own videos?

`safe-cli predict` writes a table, a timeline and, on request, an annotated video for each of them,
and a summary of all. In Python, one line does the same for one video, without files:

    from cli.predict import predict
    answers = predict("video.mp4", model="runs/synthetic")

What comes out is the apparent expression of a face, not what a person feels.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Literal

from cli.progress import progress, say
from cli.videos import find_videos
from safe.errors import DataError
from safe.process import only_one, whole_file

if TYPE_CHECKING:  # torch is loaded when the videos are known to be there
    from cli.answering import Look, Reader

WINDOW: Final = 2.8
"""Seconds: the median clip of DFEW, 70 frames at 25 a second. A model is asked about stretches as
long as those that it was trained on."""


def predict(
    video: str | Path,
    *,
    model: "str | Path | Reader",
    face: Literal["largest", "all"] = "all",
    window: float = WINDOW,
    hop: float | None = None,
    batch: int = 16,
    workers: int = 2,
    device: str = "auto",
    deadline: float = 60.0,
    memory: float = 4.0,
) -> list[dict[str, Any]]:
    """Return what a model says about a video: rows with the keys of safe.answers.SCHEMA.

    Args:
        video: the file.
        model: a model folder, a run such as runs/synthetic, or a cli.answering.Reader, which is
            loaded once for many videos.
        face: look at all faces, or at the one that is the largest for most of the video.
        window: seconds that a row is about.
        hop: seconds from one window to the next; half a window by default.
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
    look = Look(face, window, hop, batch, workers, deadline, memory)
    reader = model if isinstance(model, Reader) else Reader(Path(model), device=device)
    with _script_stays_out():
        return [answer.record() for answer, _ in reader.answers(Path(video), look)]


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
    **how: Any,
) -> None:
    """Answer for all videos, write the files, and say in a line what came out.

    `how` are the fields of cli.answering.Look; a hop of None is half a window.
    """
    endings = [form, *["png"] * timeline, *["mp4"] * video]
    jobs = find_videos(videos, out=out, endings=endings)
    from cli.answering import Look, Reader
    from cli.writing import write_video

    look = Look(**{**how, "hop": how["window"] / 2 if how["hop"] is None else how["hop"]})
    reader = Reader(model, device=device, other_crops=other_crops)
    for note in reader.notes():
        say(f"predict: {note}")
    entries = []
    with only_one(out / ".lock", str(out)):
        began = time.monotonic()
        for number, job in enumerate(jobs, start=1):
            with progress(f"{number} of {len(jobs)}: {job.video.name}", None) as done:
                entries.append(write_video(reader, job, look, endings, on_done=done))
        totals = _totals(entries, time.monotonic() - began)
        _summarise(out / "summary.json", reader, look, totals, entries)
    for entry in entries:
        if entry["reason"]:
            say(f"predict: {entry['video']}: {entry['status']}: {entry['reason']}")
    if totals["unusable"] == len(jobs):
        raise DataError(f"predict: no video could be used; {out / 'summary.json'} says why")
    say(
        f"predict: {_many(len(jobs), 'video')}, {totals['with_faces']} with faces: "
        f"{_many(totals['faces'], 'face')}, {_many(totals['clips'], 'clip')}, "
        f"{totals['abstained']} abstained from; {totals['speed']:.1f} seconds of video a second; "
        f"in {out}"
    )


def _many(count: float, thing: str) -> str:
    return f"{count} {thing}{'s' * (count != 1)}"


def _totals(entries: list[dict[str, Any]], took: float) -> dict[str, float]:
    """Add up the entries; `took` is in seconds."""
    sums = {
        name: sum(entry[name] for entry in entries)
        for name in ("faces", "clips", "abstained", "seconds")
    }
    return {
        "videos": len(entries),
        "with_faces": sum(entry["status"] == "ok" for entry in entries),
        "unusable": sum(entry["status"] == "unusable" for entry in entries),
        **sums,
        "speed": round(sums["seconds"] / max(took, 1e-3), 2),
    }


def _summarise(
    path: Path,
    reader: "Reader",
    look: "Look",
    totals: dict[str, float],
    entries: list[dict[str, Any]],
) -> None:
    """Write summary.json: which model, how it looked, the sums, an entry a video."""
    whole = {
        "what": "apparent expression of faces; not what a person feels",
        "model": {
            "folder": str(reader.folder),
            "sha256": reader.info["weights"]["sha256"],
            "preprocessing": reader.info["preprocessing"]["id"],
            "calibration": reader.calibration.method,
            "threshold": reader.calibration.threshold,
            "level": reader.calibration.level,
            "own_crops": reader.own_crops,
        },
        "look": {"face": look.who, "window": look.window, "hop": look.hop},
        "totals": totals,
        "videos": entries,
    }
    with whole_file(path) as temporary:
        text = json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


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
