"""What does a clip take on its way from a video to faces in memory, part by part?

Each part is timed where it runs: in two children of the engine at once.
"""

import time
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.decode import read_clip
from pipeline.face.face_table import ClipFaces
from pipeline.face.strip import make_strip
from pipeline.faces import locate, prepare
from pipeline.tasks.engine import Failure, run_tasks
from safe.config import Config
from safe.errors import DataError
from safe.sample import DEFAULT_FRAMES, decode_strip

FACES: Final = (80, 128)
"""Pixels, sides of a stored face: the demo's and the paper's."""


class Clip(NamedTuple):
    """What one clip took: seconds, and how much it was."""

    faces: ClipFaces
    read: float
    megapixels: float
    detect: float
    looks: int
    strip: float
    strips: list[bytes]
    load: float


def time_clip(path: Path, *, config: Config) -> Clip | None:
    """Do what `faces` does with a clip, and note what each part takes. In a child of the engine."""
    marks = [time.process_time()]
    try:
        decoded = read_clip(path, "video")
    except DataError:
        return None
    marks.append(time.process_time())
    found = locate(decoded, source="video", settings=config.faces)
    marks.append(time.process_time())
    sides = [config.shard.model_copy(update={"size": size}) for size in FACES]
    strips = [make_strip(decoded, found, source="video", settings=side) for side in sides]
    marks.append(time.process_time())
    for jpeg, size in zip(strips, FACES, strict=True):
        decode_strip(jpeg, size, out=_buffer(size))
    marks.append(time.process_time())
    read, detect, strip, load = np.diff(marks).tolist()
    area = decoded.n_frames * decoded.width * decoded.height / 1e6
    return Clip(found, read, area, detect, count_looks(found), strip, strips, load)


@cache
def _buffer(size: int) -> NDArray[np.uint8]:
    return np.zeros(
        (DEFAULT_FRAMES, size, size, 3), dtype=np.uint8
    )  # not empty: its pages must be there


def count_looks(found: ClipFaces) -> int:
    """Return in how many frames the detector looked (pipeline/face/look.py)."""
    steady = found.status == "ok" and not found.lost
    return sum(score > 0 for score in found.score) if steady else DEFAULT_FRAMES


def time_clips(videos: Sequence[Path], *, config: Config) -> list[Clip]:
    """Time the clips on two children at once, as in a run. What cannot be read is left out."""
    results = run_tasks(
        partial(time_clip, config=config),
        [path.absolute() for path in videos],
        workers=2,
        deadline=60.0,
        setup=partial(prepare, config.faces),
    )
    return [clip for clip in results if clip is not None and not isinstance(clip, Failure)]


def clip_rates(clips: Sequence[Clip]) -> dict[str, float]:
    """Return open, decode, look, strip, load and strip_mb. The first two are a line through all."""
    area = np.array([clip.megapixels for clip in clips])
    read = np.array([clip.read for clip in clips])
    decode, start = np.polyfit(area, read, 1)
    strips = len(clips) * DEFAULT_FRAMES * sum(size**2 for size in FACES) / 1e6
    return {
        "open": max(float(start), 0.0),
        "decode": float(decode),
        "look": sum(clip.detect for clip in clips) / sum(clip.looks for clip in clips),
        "strip": sum(clip.strip for clip in clips) / strips,
        "load": sum(clip.load for clip in clips) / strips,
        "strip_mb": sum(len(jpeg) for clip in clips for jpeg in clip.strips) / 1e6 / strips,
    }
