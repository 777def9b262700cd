"""One clip as a person may see it: what the tables say of it, its frames, its boxes, its faces.

The work is done as the stages faces and shard do it, by the same functions, in a child process that
may be killed.
"""

import difflib
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.face.crop import make_strip
from pipeline.face.table import ClipFaces, read_faces
from pipeline.faces import locate, prepare
from pipeline.manifest import read_classes, read_manifest
from pipeline.pool.children import Failure
from pipeline.pool.pool import Pool
from pipeline.video.decode import Decoder, Source
from pipeline.video.frames import read_clip
from safe.config import Config, Faces, Shard
from safe.errors import DataError, as_utf8
from safe.sample import is_frame

Kind = Literal["detected", "between looks", "interpolated", "held", "no face", "whole frame"]
"""How a box came about: by the detector; between two looks at a steady face; between two detections
of a face that was lost; from the nearest detection; the centre square; a face crop as released."""

_SIDES: Final = ("x0", "y0", "x1", "y1")

SIDE: Final = 480
"""Pixels of a returned frame's longer side, at most."""


@dataclass(frozen=True)
class Clip:
    """One clip: a row of the manifest, or a file that is in none."""

    key: str
    path: Path
    source: Source
    label: str | None = None
    """Its class, where the manifest has it."""
    bucket: str | None = None


def look_up(what: str, manifest: Path, root: Path) -> Clip:
    """Look a clip up in the manifest, by its key or its file; else take the file for itself.

    Args:
        what: a key, or the path of a video file or of a folder of frames.
        manifest: manifest.parquet, which need not be there.
        root: data.root.

    Raises:
        DataError: if there is no such clip; a key that is not there names the nearest ones.
    """
    path = Path(what)
    rows: list[dict[str, Any]] = read_manifest(manifest).to_pylist() if manifest.exists() else []
    there = path.resolve() if path.exists() else None
    for row in rows:
        file = root / row["path"]
        if row["clip"] == what or (there and file.name == path.name and file.resolve() == there):
            name = read_classes(manifest)[row["label"]]
            return Clip(row["clip"], file, row["source"], name, row["bucket"])
    if path.is_file():
        return Clip(as_utf8(path.stem), path, "video")
    if path.is_dir() and any(is_frame(file.name) for file in path.iterdir()):
        return Clip(as_utf8(path.name), path, "frames")
    if path.is_dir():
        raise DataError(f"{what}: a folder without index.json, model.json or jpg and png frames")
    if not rows:
        raise DataError(
            f"{what}: no such file or folder, and no {manifest} to look a key up; "
            "`safe-cli index` makes it"
        )
    near = difflib.get_close_matches(what, [row["clip"] for row in rows], n=3, cutoff=0.5)
    told = f"the nearest keys: {', '.join(near)}" if near else f"a key is like {rows[0]['clip']}"
    raise DataError(f"{what}: no such file or folder, and no clip of {manifest}; {told}")


def face_of(clip: Clip, faces: Path) -> ClipFaces | None:
    """Return a clip's row of faces.parquet; None where it has none."""
    if clip.label is None or not faces.exists():
        return None
    table = read_faces(faces)
    rows = table.filter(np.asarray(table["clip"]) == clip.key).to_pylist()
    if not rows:
        return None
    row: dict[str, Any] = rows[0]
    row |= {name: tuple(row[name]) for name in ("frame_index", "box", "score")}
    del row["clip"]
    return ClipFaces(**row)


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
    """Decode a clip in a child process, find its face and cut it out; or say why nothing can be.

    With `face`, its row of faces.parquet, the detector does not look. Of the config the sections
    faces, shard and runtime are used.
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


def face_facts(face: ClipFaces | None) -> dict[str, Any]:
    """Say in words and numbers what was found of a clip's face."""
    if face is None:
        return {"status": None}
    scores = [score for score in face.score if score > 0]
    return {
        "status": face.status,
        "reason": face.reason or None,
        "size": f"{face.width} x {face.height}",
        "fps": face.fps or None,
        "frames": face.n_frames,
        "lowest score": round(min(scores), 4) if scores else None,
    }


def frame_rows(
    face: ClipFaces, kinds: list[Kind], times: tuple[float, ...]
) -> list[dict[str, Any]]:
    """Return a row for each of the T frames; boxes in pixels of the source frame.

    Without `times` (the clip cannot be read now) the seconds are those of the mean rate.
    """
    mean = [index / face.fps if face.fps else None for index in face.frame_index]
    seconds = times if face.fps and times else mean
    columns = zip(face.frame_index, seconds, face.box, face.score, kinds, strict=True)
    return [
        {
            "position": t,
            "frame": index,
            "second": None if second is None else round(second, 3),
            **{name: round(side, 2) for name, side in zip(_SIDES, box, strict=True)},
            "score": round(score, 4) or None,
            "box": kind,
        }
        for t, (index, second, box, score, kind) in enumerate(columns, start=1)
    ]
