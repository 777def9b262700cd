"""Which faces does a video of any length show, window by window?

A video file goes in; out come, in the order of time, the faces that a model can judge, 16 frames
each, made by the code that makes the shards. Memory does not grow with the video: child processes
decode it stretch by stretch, and a stretch that cannot be decoded costs only itself.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.appear import Answer, Settings, Who, find_in_stretch, find_in_whole, prepare
from pipeline.face.detect import DETECTORS
from pipeline.people import People
from pipeline.stretch import Survey, cut_stretch, places, survey
from pipeline.tasks.engine import Failure, run_tasks
from safe.config import Faces, Shard
from safe.errors import DataError
from safe.sample import FRAMES

_SPAN: Final = 20.0
"""Seconds of video in a task; a key frame every 10 seconds, which is usual, makes it decode a
quarter more."""

_PIXELS: Final = 2e9
"""Pixels in a task: 20 seconds of 1920 x 1080 at 50 frames a second, about 10 seconds of work."""

_PARTS: Final = 8
"""Tasks of a video without time stamps, each of which is decoded from the start."""

_SLOW: Final = 100.0
"""Frames a second that decoding reaches at the least, for the deadline of such a task."""

_DISK: Final = 20e6
"""Bytes a second at which a file is read at the least, for the deadline of its survey."""


@dataclass(frozen=True)
class Film:
    """What is known of a video before its faces."""

    frames: int
    fps: float
    """Frames a second, above 0."""
    seconds: float
    width: int
    """Pixels of the upright frame."""
    height: int


@dataclass(frozen=True)
class FaceWindow:
    """One face in one window of a video."""

    face: int
    """Whose it is: 1, 2, ... in the order of appearance in the video."""
    start: float
    """Seconds in the video, of the span that the window stands for."""
    end: float
    indices: tuple[int, ...]
    """16 places of frames in the video."""
    boxes: NDArray[np.float32]
    """[16, 4]: x0, y0, x1, y1 in pixels of the upright frame, smoothed."""
    scores: NDArray[np.float32]
    """[16], 0 to 1; 0 where the frame has no detection or was not looked at."""
    strip: bytes
    """JPEG of the 16 faces below one another, as in a shard (safe/sample.py)."""
    flags: tuple[str, ...]
    """What may be wrong with it, of pipeline.quality.FLAGS."""


@dataclass(frozen=True)
class Gap:
    """A part of a video without any face to judge."""

    start: float
    """Seconds in the video."""
    end: float
    reason: str


def plan(frames: int, fps: float, *, window: float, hop: float) -> list[tuple[int, int]]:
    """Cut a video into windows that share frames.

    A window has a multiple of 16 frames and begins a multiple of a sixteenth of that after the one
    before it, so of the 16 frames of each, those in the part that two share are the same. The last
    one, which ends with the video, is the exception. A video no longer than one window is one.

    Args:
        frames: of the video.
        fps: frames a second.
        window: seconds, wanted length.
        hop: seconds, wanted distance from one window to the next.

    Returns:
        First frame of each window, and the one after its last.
    """
    step = max(1, round(window * fps / FRAMES))
    length, stride = FRAMES * step, step * max(1, round(hop * fps / step))
    if frames <= length:
        return [(0, frames)]
    starts = list(range(0, frames - length + 1, stride))
    if starts[-1] + length < frames:
        starts.append(frames - length)
    return [(start, start + length) for start in starts]


def find_windows(
    video: Path,
    *,
    faces: Faces,
    shard: Shard,
    window: float,
    hop: float,
    who: Who,
    workers: int,
    deadline: float,
    memory: float | None,
    on_film: Callable[[Film], None] | None = None,
    on_done: Callable[[int, int], None] | None = None,
) -> Iterator[FaceWindow | Gap]:
    """Find the faces of a video, window by window.

    Args:
        video: the file.
        faces: the section faces of the parameters that the model was trained with.
        shard: their section shard.
        window: seconds that a window is to span; it becomes a multiple of 16 frames.
        hop: seconds from one window to the next; becomes a multiple of a sixteenth of a window.
        who: "largest": in each window the one face that the shard stage would store; "all".
        workers: processes; changes no result.
        deadline: seconds after which the work on one stretch of the video is ended.
        memory: GiB that it may take; None: no limit.
        on_film: called once, before the first result.
        on_done: called with the number of windows done, and of how many.

    Returns:
        An iterator over faces and gaps in the order of time, faces of one window by their numbers.

    Raises:
        DataError: at once, if the video as a whole cannot be used: the reason, without its path.
    """
    DETECTORS[faces.detector].weights()  # missing: told here, once, not by every child
    film = _survey(video, deadline, memory)
    width, height = film.size
    spans = plan(film.length, film.fps, window=window, hop=hop)
    if on_film is not None:
        on_film(Film(film.length, film.fps, film.seconds(film.length), width, height))
    settings = Settings(faces, shard, who)
    prepared = partial(prepare, faces)
    if len(spans) == 1:
        groups = [spans]
        find = partial(find_in_whole, settings=settings)
        again = partial(find, decoder="pyav")
        answers = run_tasks(
            find,
            [video],
            workers=1,
            deadline=deadline,
            memory=memory,
            setup=prepared,
            fallback=again,
        )
    else:
        groups = _group(film, spans)
        answers = run_tasks(
            partial(find_in_stretch, settings=settings),
            [cut_stretch(video, film, group) for group in groups],
            workers=workers,
            deadline=deadline if len(film.stamps) else deadline + film.length / _SLOW,
            memory=memory,
            setup=prepared,
        )
    return _name(film, groups, answers, max_gap=faces.max_gap, on_done=on_done)


def _survey(video: Path, deadline: float, memory: float | None) -> Survey:
    """Survey a video in a child process. Raises DataError."""
    size = video.stat().st_size if video.is_file() else 0
    limit = deadline + size / _DISK
    (found,) = run_tasks(survey, [video], workers=1, deadline=limit, memory=memory)
    if isinstance(found, Failure):
        raise DataError(f"the list of its frames could not be read: {found.reason}")
    return found


def _group(film: Survey, spans: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Deal the windows to tasks; a last one that lies off the others' frames gets its own."""
    width, height = film.size
    most = min(_SPAN * film.fps, _PIXELS / (width * height))
    if not len(film.stamps):
        most = max(most, film.length / _PARTS)
    step = (spans[0][1] - spans[0][0]) // FRAMES
    regular = [span for span in spans if span[0] % step == 0]
    count = max(1, int(most // (spans[1][0] - spans[0][0])))
    groups = [regular[i : i + count] for i in range(0, len(regular), count)]
    return groups if len(regular) == len(spans) else [*groups, spans[-1:]]


def _name(
    film: Survey,
    groups: list[list[tuple[int, int]]],
    answers: Iterator[list[Answer] | Failure],
    *,
    max_gap: int,
    on_done: Callable[[int, int], None] | None,
) -> Iterator[FaceWindow | Gap]:
    """Give the faces of all windows their numbers, and the windows their times."""
    done, total = 0, sum(map(len, groups))
    step = max(1, (groups[0][0][1] - groups[0][0][0]) // FRAMES)
    people = People(step=step, max_gap=max_gap)
    for group, found in zip(groups, answers, strict=True):
        if isinstance(found, Failure):
            done += len(group)
            if on_done is not None:
                on_done(done, total)
            yield Gap(film.seconds(group[0][0]), film.seconds(group[-1][1]), found.reason)
            continue
        for span, answer in zip(group, found, strict=True):
            done += 1
            if on_done is not None:
                on_done(done, total)
            start, end = map(film.seconds, span)
            if isinstance(answer, str):
                yield Gap(start, end, answer)
                continue
            indices = places(span)
            numbers = people.number(indices, [face.track for face in answer])
            for number, face in sorted(zip(numbers, answer, strict=True), key=lambda pair: pair[0]):
                yield FaceWindow(
                    face=number,
                    start=start,
                    end=end,
                    indices=tuple(indices),
                    boxes=face.track.boxes,
                    scores=face.track.scores,
                    strip=face.strip,
                    flags=face.flags,
                )
