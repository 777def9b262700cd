"""Which files are written about one video, and what is told of it?"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from cli.answering import Look, Reader
from cli.videos import Job
from pipeline.annotate import Colour, Mark, annotate
from pipeline.windows import FaceWindow, Film
from safe.answers import Answer, Format, Verdict, writing
from safe.errors import DataError, as_utf8
from safe.figures.canvas import class_looks
from safe.figures.timeline import Band, draw_timeline
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
                deadline=look.deadline,
                memory=look.memory,
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
