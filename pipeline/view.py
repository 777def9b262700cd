"""How does one clip look on its way into the model: which frames, which boxes, which faces?

For a person who wants to see it. The work is done as the stages faces and shard do it, by the same
functions, in a child process that may be killed.
"""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.face.crop import make_strip
from pipeline.face.table import ClipFaces
from pipeline.faces import locate, prepare
from pipeline.pool.children import Failure
from pipeline.pool.pool import Pool
from pipeline.video.decode import Decoder, Source
from pipeline.video.frames import read_clip
from safe.config import Config, Faces, Shard
from safe.errors import DataError

Kind = Literal["detected", "between looks", "interpolated", "held", "no face", "whole frame"]
"""How a box came about: by the detector; between two looks at a steady face; between two detections
of a face that was lost; from the nearest detection; the centre square; a face crop as released."""

SIDE: Final = 480
"""Pixels of a returned frame's longer side, at most."""


@dataclass(frozen=True)
class View:
    """What one clip gave."""

    frames: NDArray[np.uint8]
    """uint8 [T, h, w, 3], RGB: the chosen frames, shrunk to SIDE."""
    face: ClipFaces
    """Boxes are in pixels of the frames before they were shrunk."""
    strip: bytes
    """The faces as the stage shard would store them, a JPEG."""
    damage: str
    """What the decoder says of damage; empty if nothing."""
    times: tuple[float, ...]
    """Seconds of the frames from the first of the clip; empty where they are not known."""


def view_clip(
    path: Path, source: Source, *, config: Config, face: ClipFaces | None = None
) -> View | Failure:
    """Decode a clip in a child process, find its face and cut it out.

    Args:
        path: the video, the folder of frames or the strip.
        source: which of these it is.
        config: the sections faces, shard and runtime are used.
        face: its row of faces.parquet, if it has one; else the detector looks.

    Returns:
        What was seen, or why nothing can be.
    """
    look = partial(_look, source=source, face=face, faces=config.faces, shard=config.shard)
    detects = face is None and source == "video"
    results = Pool.of(config.runtime).run(
        look,
        [path],
        setup=partial(prepare, config.faces) if detects else None,
        fallback=partial(look, decoder="pyav"),
    )
    return next(iter(list(results)))


def _look(
    path: Path,
    *,
    source: Source,
    face: ClipFaces | None,
    faces: Faces,
    shard: Shard,
    decoder: Decoder = "decord",
) -> View | Failure:
    """Do the work of view_clip, in the child."""
    try:
        decoded = read_clip(path, source, decoder=decoder, frames=shard.frames)
    except DataError as error:
        return Failure(str(error))
    if face is None:
        face = locate(decoded, source=source, settings=faces)
    elif tuple(decoded.indices) != face.frame_index:
        return Failure("decodes to other frames than in faces.parquet; run `safe-cli faces` again")
    strip = make_strip(decoded, face, source=source, settings=shard)
    scale = min(1.0, SIDE / max(decoded.width, decoded.height))
    size = (max(1, round(decoded.width * scale)), max(1, round(decoded.height * scale)))
    small = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in decoded.frames]
    return View(np.stack(small).astype(np.uint8), face, strip, decoded.damage, decoded.times)


def box_kinds(face: ClipFaces, *, source: Source, max_gap: int) -> list[Kind]:
    """Say of each of a clip's T boxes how it came about.

    Where a face was lost all frames were looked at, and the reason counts them; so a frame without
    a score is one that was not looked at if it does not, else one without a detection, which
    pipeline/face/track.py fills by `max_gap`. Empty for a clip that could not be read.
    """
    count = len(face.score)
    if source != "video":
        return ["whole frame"] * count
    known = [t for t, score in enumerate(face.score) if score > 0]
    if not known:
        return ["no face"] * count
    kinds: list[Kind] = ["held"] * count  # before the first detection and after the last
    for before, after in pairwise(known):
        short = after - before - 1 <= max_gap
        filled: Kind = "interpolated" if short else "held"
        kinds[before:after] = [filled if face.lost else "between looks"] * (after - before)
    for t in known:
        kinds[t] = "detected"
    return kinds
