"""The faces of a video of any length, window by window.

In: a video file. Out, in the order of time: the faces that a model can judge, T frames each, made
by the code that makes the shards. A window is so many seconds of the presentation, whatever the
frame rate does in them, and none reaches over a pause. Memory does not grow with the video: child
processes decode it stretch by stretch, and a stretch that cannot be decoded costs only itself.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from heapq import merge
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.face.crop import crop_faces, crop_side
from pipeline.face.detect import DETECTORS, Seen, detect_clip, load_closer, load_detector, no_face
from pipeline.face.track import Track, all_tracks
from pipeline.faces import prepare
from pipeline.people import People, find_flags
from pipeline.pool.children import Failure
from pipeline.pool.pool import Pool
from pipeline.stretch import Stretch, Survey, cut_stretch, read_windows, survey
from pipeline.video.decode import Decoded, Decoder, clip_indices, read_video
from safe.config import Faces, Shard
from safe.errors import DataError
from safe.sample import DEFAULT_FRAMES, encode_strip

Who = Literal["largest", "all"]
"""Of each window the one face that the shard stage would store, or all of them."""

SHORT: Final = "short"
"""Flag of a window that is much shorter than was asked for, since the picture pauses around it."""

_SPAN: Final = 20.0
"""Seconds of video in a task; a key frame every 10 seconds, which is usual, makes it decode a
quarter more."""

_PIXELS: Final = 2e9
"""Pixels in a task: 20 seconds of 1920 x 1080 at 50 frames a second, about 10 seconds of work."""

_PARTS: Final = 8
"""Tasks of a video without time stamps, each of which is decoded from the start."""

_SLOW: Final = 100.0
"""Frames a second that decoding reaches at the least, for the deadline of such a task."""

_STILL: Final = 1.0
"""Seconds without a new frame that are a pause; a quarter of a window where that is less."""

_PERIODS: Final = 4.0
"""Frame periods, medians, that a pause is longer than."""

_FULL: Final = 0.75
"""Part of the wanted length from which a window is not called short."""

_SECTOR: Final = 512  # bytes of the unit of st_blocks

_DISK: Final = 20e6
"""Bytes a second at which a file is read at the least, for the deadline of its survey."""

_SEEN: Final = 0.5
"""Share of the frames that must show a face besides the largest: else most boxes would be
guesses."""


@dataclass(frozen=True)
class FaceWindow:
    """One face in one window of a video."""

    face: int
    """Whose it is: 1, 2, ... in the order of appearance in the video."""
    start: float
    """Seconds in the video, of the span that the window stands for."""
    end: float
    indices: tuple[int, ...]
    """T places of frames in the video."""
    boxes: NDArray[np.float32]
    """[T, 4]: x0, y0, x1, y1 in pixels of the upright frame, smoothed."""
    strip: bytes
    """JPEG of the T faces below one another, as in a shard (safe/sample.py)."""
    flags: tuple[str, ...]
    """What may be wrong with it, of pipeline.people.FLAGS."""


@dataclass(frozen=True)
class Gap:
    """A part of a video without any face to judge."""

    start: float
    """Seconds in the video."""
    end: float
    reason: str


def find_windows(
    video: Path,
    *,
    faces: Faces,
    shard: Shard,
    window: float,
    hop: float,
    who: Who,
    pool: Pool,
    on_film: Callable[[Survey], None] | None = None,
    on_done: Callable[[int, int], None] | None = None,
) -> Iterator[FaceWindow | Gap]:
    """Find the faces of a video, window by window.

    Args:
        video: the file.
        faces: the section faces of the parameters that the model was trained with.
        shard: their section shard.
        window: seconds that a window spans.
        hop: seconds from one window to the next; becomes a multiple of a window / T.
        who: "largest": in each window the one face that the shard stage would store; "all".
        pool: who decodes and finds faces; a task is one stretch of the video.
        on_film: called with the survey once, before the first result.
        on_done: called with the number of windows done, and of how many.

    Returns:
        An iterator over faces and gaps in the order of time, faces of one window by their numbers.

    Raises:
        DataError: at once, if the video as a whole cannot be used: the reason, without its path.
    """
    DETECTORS[faces.detector].weights()  # missing: told here, once, not by every child
    film = _survey(video, pool)
    windows, pauses = plan(film, window=window, hop=hop, frames=shard.frames)
    if on_film is not None:
        on_film(film)
    setup = partial(prepare, faces)
    if len(windows) == 1:
        windows = [replace(windows[0], indices=tuple(clip_indices(film.listing, shard.frames)))]
        groups = [windows]
        find = partial(find_in_whole, faces=faces, shard=shard, who=who)
        answers = pool.run(find, [video], setup=setup, fallback=partial(find, decoder="pyav"))
    else:
        groups = group_windows(film, windows)
        counting = 0.0 if film.listing.by_stamp else film.length / _SLOW
        answers = replace(pool, deadline=pool.deadline + counting).run(
            partial(find_in_stretch, faces=faces, shard=shard, who=who),
            [cut_stretch(video, film, [one.indices for one in group]) for group in groups],
            setup=setup,
        )
    cell = min((one.end - one.start) / shard.frames for one in windows)
    people = People(step=max(1, round(1000 * cell)), max_gap=faces.max_gap, frames=shard.frames)
    found = _name(film, groups, answers, people=people, on_done=on_done)
    return merge(pauses, found, key=lambda one: one.start)


def _survey(video: Path, pool: Pool) -> Survey:
    """Survey a video in a child process. Raises DataError."""
    size = video.stat().st_blocks * _SECTOR if video.is_file() else 0  # holes take no time to read
    (found,) = replace(pool, deadline=pool.deadline + size / _DISK).run(survey, [video])
    if isinstance(found, Failure):
        raise DataError(f"the list of its frames could not be read: {found.reason}")
    return found


# Which windows


@dataclass(frozen=True)
class Window:
    """A stretch of time, and the T frames that stand for it."""

    start: float
    """Seconds on a player's clock."""
    end: float
    indices: tuple[int, ...]
    """T places of frames, not descending."""
    aligned: bool = True
    """Whether its frames are on the grid of the window before."""
    short: bool = False
    """Whether it is much shorter than was asked for."""


def plan(
    film: Survey, *, window: float, hop: float, frames: int = DEFAULT_FRAMES
) -> tuple[list[Window], list[Gap]]:
    """Cut a video into windows that share frames.

    The clock is cut into cells, T to a window, and the frame on the screen in the
    middle of a cell stands for it. A window begins a whole number of cells after the one before it,
    so in the part that two share their frames are the same. The last one ends with the picture,
    and its cells may lie between the others'. A video no longer than one window is one.

    Where no new frame comes for longer than a pause, the clock stops: windows end before it and
    begin again after it, and what is too short for a window is one all the same, and is told.

    Args:
        film: the video.
        window: seconds, the length of a window.
        hop: seconds, wanted distance from one window to the next.
        frames: T, of a window.

    Returns:
        The windows, and the pauses between them, each in the order of time.
    """
    windows: list[Window] = []
    runs, pauses = _runs(film, window)
    for start, end in runs:
        whole = end - start < window * (1 + 1 / (2 * frames))  # to half a cell
        cell = (end - start if whole else window) / frames
        stride = max(1, round(hop / cell))
        count = int((end - start) / cell + 1e-6)
        for first in range(0, max(1, count - frames + 1), stride):
            windows.append(_window(film, start + first * cell, cell, frames, aligned=first > 0))
        if windows[-1].end < end - cell / 2:
            windows.append(_window(film, end - frames * cell, cell, frames, aligned=False))
        if len(runs) > 1 and end - start < _FULL * window:
            windows[-1] = replace(windows[-1], short=True)
    return windows, pauses


def _runs(film: Survey, window: float) -> tuple[list[tuple[float, float]], list[Gap]]:
    """Return the stretches of time in which new frames come, and the pauses between them."""
    stamps = film.listing.stamps
    times = film.listing.start + (stamps - stamps[0]) * film.listing.tick
    end = film.end
    if len(times) < 2:
        return [(float(times[0]), end)], []
    apart = np.diff(times)
    period = float(np.median(apart))
    longest = max(_PERIODS * period, min(window / 4, _STILL))
    runs, pauses, start = [], [], float(times[0])
    for at in np.flatnonzero(apart > longest):
        stop, again = float(times[at]) + period, float(times[at + 1])
        runs.append((start, stop))
        reason = f"a pause: no new frame for {apart[at]:.1f} seconds"
        pauses.append(Gap(stop, again, reason))
        start = again
    return [*runs, (start, end)], pauses


def _window(film: Survey, start: float, cell: float, frames: int, *, aligned: bool) -> Window:
    centres = start + (np.arange(frames) + 0.5) * cell
    return Window(start, start + frames * cell, tuple(film.positions(centres)), aligned)


def group_windows(film: Survey, windows: list[Window]) -> list[list[Window]]:
    """Deal the windows to tasks; one that lies off the frames of those before begins a new one."""
    width, height = film.size
    most = min(_SPAN * film.fps, _PIXELS / (width * height))
    if not film.listing.by_stamp:
        most = max(most, film.length / _PARTS)
    groups: list[list[Window]] = []
    for one in windows:
        full = groups and one.indices[0] - groups[-1][0].indices[0] > most
        if not groups or full or not one.aligned:
            groups.append([])
        groups[-1].append(one)
    return groups


# What a child does


@dataclass(frozen=True)
class Appearance:
    """One face in one window; whose it is has yet to be found out."""

    track: Track
    strip: bytes
    """JPEG of its T faces."""
    flags: tuple[str, ...]


Answer = list[Appearance] | str
"""The faces of a window, the largest first; or why there is none."""


def find_in_whole(
    video: Path, *, faces: Faces, shard: Shard, who: Who, decoder: Decoder = "decord"
) -> list[Answer]:
    """Find the faces of a video that is one window, read as the faces stage would read it."""
    try:
        decoded = read_video(video, decoder=decoder, frames=shard.frames)
    except DataError as error:
        return [str(error)]
    return [_find(decoded, faces=faces, shard=shard, who=who, seen={})]


def find_in_stretch(stretch: Stretch, *, faces: Faces, shard: Shard, who: Who) -> list[Answer]:
    """Find the faces of each window of a stretch."""
    answers: list[Answer] = []
    seen: Seen = {}
    try:
        for decoded in read_windows(stretch):
            if decoded is None:
                answers.append("no frame could be decoded")
            else:
                answers.append(_find(decoded, faces=faces, shard=shard, who=who, seen=seen))
    except DataError as error:  # what came before it counts
        answers += [str(error)] * (len(stretch.windows) - len(answers))
    return answers


def _find(decoded: Decoded, *, faces: Faces, shard: Shard, who: Who, seen: Seen) -> Answer:
    """Find the faces of a window; detections in it are added to those of other windows, `seen`.

    Where all faces are wanted and a look met more than one, every frame is looked at: beside a
    steady face much smaller ones would go unseen (pipeline/face/detect.py).
    """
    detect = load_detector(faces.detector, faces.detect_size, faces.threshold)
    closer = load_closer(decoded.width, decoded.height, faces)
    look = partial(
        detect_clip, decoded, detect, threshold=faces.threshold, closer=closer, seen=seen
    )
    detections = look(every=faces.every)
    several = any(len(seen.get((False, position), ())) > 1 for position in decoded.indices)
    if who == "all" and several:
        detections = look(every=1)
    tracks = all_tracks(
        detections, max_gap=faces.max_gap, smooth=faces.smooth, frames=decoded.frames
    )
    if not tracks:
        return no_face(decoded.width, decoded.height, faces)
    others = tracks[1:] if who == "all" else []
    chosen = [tracks[0], *(track for track in others if track.detected.mean() >= _SEEN)]
    return [_appear(decoded, track, faces=faces, shard=shard) for track in chosen]


def _appear(decoded: Decoded, track: Track, *, faces: Faces, shard: Shard) -> Appearance:
    """Cut one face out, encode it, and say what may be wrong with it."""
    crops = crop_faces(decoded.frames, track.boxes, size=shard.size, margin=shard.margin)
    found = find_flags(
        crops,
        track,
        side=crop_side(track.boxes, margin=shard.margin),
        damaged=bool(decoded.damage),
    )
    strip = encode_strip(crops, shard.quality, shard.chroma)
    return Appearance(track, strip, (*found, *decoded.notes))


# Whose faces they are, and when


def _name(
    film: Survey,
    groups: list[list[Window]],
    answers: Iterator[list[Answer] | Failure],
    *,
    people: People,
    on_done: Callable[[int, int], None] | None,
) -> Iterator[FaceWindow | Gap]:
    """Give the faces of all windows their numbers, and the windows their times."""
    done, total = 0, sum(map(len, groups))
    for group, found in zip(groups, answers, strict=True):
        if isinstance(found, Failure):
            done += len(group)
            if on_done is not None:
                on_done(done, total)
            yield Gap(group[0].start, group[-1].end, found.reason)
            continue
        for window, answer in zip(group, found, strict=True):
            done += 1
            if on_done is not None:
                on_done(done, total)
            if isinstance(answer, str):
                yield Gap(window.start, window.end, answer)
                continue
            moments = [round(1000 * film.seconds(position)) for position in window.indices]
            numbers = people.number(moments, [face.track for face in answer])
            for number, face in sorted(zip(numbers, answer, strict=True), key=lambda pair: pair[0]):
                yield FaceWindow(
                    face=number,
                    start=window.start,
                    end=window.end,
                    indices=window.indices,
                    boxes=face.track.boxes,
                    strip=face.strip,
                    flags=(*face.flags, SHORT) if window.short else face.flags,
                )
