"""What is known of one clip, and how does it look to the model?"""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cli.facts import Answers, Facts, find_answers
from cli.inspect_shard import check_label, read_strips
from cli.layout import Layout, source
from pipeline.face.table import ClipFaces, read_faces
from pipeline.manifest import read_classes, read_manifest
from pipeline.pool.children import Failure
from pipeline.video.decode import Source
from pipeline.view import View, box_kinds, view_clip
from safe.config import Config
from safe.errors import DataError, as_utf8
from safe.report.contact import Frames, Row, contact_figure
from safe.sample import decode_strip, is_frame
from safe.shards.folder import open_shards

_SIDES: Final = ("x0", "y0", "x1", "y1")


@dataclass(frozen=True)
class _Clip:
    """One clip: a row of the manifest, or a file that is in none."""

    key: str
    path: Path
    source: Source
    label: str | None = None
    """Its class."""
    bucket: str | None = None


def inspect_clip(
    what: str, config: Config, layout: Layout, *, draw: bool, label: str | None = None
) -> tuple[Facts, Figure | None]:
    """Gather what is known of a clip, and draw its contact sheet.

    Args:
        what: a key of the manifest, or the path of a video file or of a folder of frames.
        config: where the data are, and by which settings a file is made into faces.
        layout: where the tables, shards and predictions of the dataset are.
        draw: whether to draw.
        label: a class that must be there; of one clip it chooses nothing.

    Returns:
        The facts, and the sheet; None where there is neither a frame nor a face to draw.

    Raises:
        ConfigError: if `label` is no class of the manifest.
        DataError: if there is no such clip; a key that is not there names the nearest ones.
    """
    if layout.manifest.exists():
        check_label(label, read_classes(layout.manifest))
    clip = _find(what, config, layout)
    listed = _face(clip, layout)
    seen = view_clip(
        clip.path, clip.source, config=config, face=listed if listed and listed.box else None
    )
    view = seen if isinstance(seen, View) else None
    face = listed or (view.face if view else None)
    faces, where = _stored(clip, config, layout) if clip.label is not None else (None, {})
    answers = find_answers(clip.key, layout) if clip.label is not None else []
    times = view.times if view else ()
    facts: Facts = {
        "clip": {
            "clip": clip.key,
            "label": clip.label,
            "bucket": clip.bucket,
            "file": as_utf8(str(clip.path)),
            "source": clip.source,
            "bytes": clip.path.stat().st_size if clip.path.is_file() else None,
            **_face_facts(face),
            "decoding": _decoding(seen),
        },
        "shard": where,
        "frames": _frame_rows(face, clip.source, config, times) if face else [],
    }
    facts |= {f"said by {each.name}": each.facts(i) for each, i in answers}
    made = f"faces as stored in {where.get('tar')}"
    if faces is None and view:
        faces = decode_strip(view.strip, config.shard.size, len(view.frames))
        made = "faces cut out as by shard"
    if not draw or faces is None:
        return facts, None
    rows = [_row(f"{made}. {_sentence(each, i)}", faces, each, i) for each, i in answers]
    parts = (clip.key, clip.label, clip.bucket)
    return facts, contact_figure(
        " · ".join(part for part in parts if part),
        _note(face, seen, attends=bool(answers)),
        rows or [Row(f"{made}, {faces.shape[1]} pixels wide", faces)],
        frames=_frames(view, clip.source, config) if view else None,
    )


def _find(what: str, config: Config, layout: Layout) -> _Clip:
    """Look a clip up in the manifest, by its key or its file; else take the file for itself."""
    path, root = Path(what), Path(config.data.root)
    rows: list[dict[str, Any]] = []
    if layout.manifest.exists():
        rows = read_manifest(layout.manifest).to_pylist()
    there = path.resolve() if path.exists() else None
    for row in rows:
        file = root / row["path"]
        if row["clip"] == what or (there and file.name == path.name and file.resolve() == there):
            name = read_classes(layout.manifest)[row["label"]]
            return _Clip(row["clip"], file, row["source"], name, row["bucket"])
    if path.is_file():
        return _Clip(as_utf8(path.stem), path, "video")
    if path.is_dir() and any(is_frame(file.name) for file in path.iterdir()):
        return _Clip(as_utf8(path.name), path, "frames")
    if path.is_dir():
        raise DataError(f"{what}: a folder without index.json, model.json or jpg and png frames")
    if not rows:
        raise DataError(
            f"{what}: no such file or folder, and no {layout.manifest} to look a key up; "
            "`safe-cli index` makes it"
        )
    near = difflib.get_close_matches(what, [row["clip"] for row in rows], n=3, cutoff=0.5)
    told = f"the nearest keys: {', '.join(near)}" if near else f"a key is like {rows[0]['clip']}"
    raise DataError(f"{what}: no such file or folder, and no clip of {layout.manifest}; {told}")


def _face(clip: _Clip, layout: Layout) -> ClipFaces | None:
    """Return the clip's row of faces.parquet; None where it has none."""
    if clip.label is None or not layout.faces.exists():
        return None
    table = read_faces(layout.faces)
    rows = table.filter(np.asarray(table["clip"]) == clip.key).to_pylist()
    if not rows:
        return None
    row: dict[str, Any] = rows[0]
    row |= {name: tuple(row[name]) for name in ("frame_index", "box", "score")}
    del row["clip"]
    return ClipFaces(**row)


def _stored(
    clip: _Clip, config: Config, layout: Layout
) -> tuple[NDArray[np.uint8] | None, dict[str, Any]]:
    """Read the clip's faces from its shard, uint8 [T, S, S, 3], and say where they lie."""
    place = source(config, layout)
    if isinstance(place, Path) and not place.exists():
        return None, {"tar": None, "why": f"no {place}; `safe-cli shard` makes it"}
    folder = open_shards(place)
    rows = np.flatnonzero(folder.clip == clip.key)
    if not len(rows):
        reasons = [e["reason"] for e in folder.index["left_out"] if e["clip"] == clip.key]
        return None, {
            "tar": None,
            "why": reasons[0]
            if reasons
            else "not in the shards, nor left out; `safe-cli shard` again",
        }
    row = int(rows[0])
    where = {
        "tar": str(folder.place / folder.files[folder.shard[row]]),
        "offset": int(folder.offset[row]),
        "bytes": int(folder.size[row]),
        "crc32": f"{folder.crc32[row]:08x}, as in clips.parquet",  # read_strips compares it
        "face size": folder.face_size,
        "preprocessing": folder.preprocessing_id,
    }
    return read_strips(folder, rows)[0], where


def _face_facts(face: ClipFaces | None) -> dict[str, Any]:
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


def _decoding(seen: View | Failure) -> str:
    if isinstance(seen, Failure):
        return f"nothing: {seen.reason}"
    return seen.damage or f"{len(seen.frames)} of {len(seen.frames)} frames, no damage seen"


def _frame_rows(
    face: ClipFaces, source: Source, config: Config, times: tuple[float, ...]
) -> list[dict[str, Any]]:
    """Return a row for each of the T frames; boxes in pixels of the source frame.

    Without `times` (the clip cannot be read now) the seconds are those of the mean rate.
    """
    kinds = box_kinds(face, source=source, max_gap=config.faces.max_gap)
    mean = [index / face.fps if face.fps else None for index in face.frame_index]
    seconds = times if face.fps and times else mean
    places = zip(face.frame_index, seconds, face.box, face.score, kinds, strict=True)
    return [
        {
            "place": t,
            "frame": index,
            "second": None if second is None else round(second, 3),
            **{name: round(side, 2) for name, side in zip(_SIDES, box, strict=True)},
            "score": round(score, 4) or None,
            "box": kind,
        }
        for t, (index, second, box, score, kind) in enumerate(places, start=1)
    ]


def _note(face: ClipFaces | None, seen: View | Failure, *, attends: bool) -> str:
    """Say below the title of the sheet what is special about the clip."""
    parts = [f"source frames not shown: {seen.reason}"] if isinstance(seen, Failure) else []
    if face:
        parts.append(f"status {face.status}{f': {face.reason}' if face.reason else ''}")
        parts.append(f"{face.width} x {face.height} pixels, {face.n_frames} frames")
        parts += [f"{face.fps:.4g} frames a second"] if face.fps else []
    parts += ["below the faces: attention over the windows, in %"] if attends else []
    return " · ".join(parts)


def _frames(view: View, source: Source, config: Config) -> Frames:
    """Return what the sheet shows of the source frames."""
    face = view.face
    size = [face.width, face.height, face.width, face.height]
    captions = [
        f"{t}: frame {index}" + (f" · {score:.2f}" if score > 0 and source == "video" else "")
        for t, (index, score) in enumerate(zip(face.frame_index, face.score, strict=True), start=1)
    ]
    kinds = box_kinds(face, source=source, max_gap=config.faces.max_gap)
    return Frames(view.frames, np.array(face.box) / size, kinds, captions)


def _row(title: str, faces: NDArray[np.uint8], answers: Answers, i: int) -> Row:
    split = answers.split
    return Row(
        title, faces, int(split.label[i]), answers.said(i),
        wrong=bool(answers.predicted[i] != split.label[i]),
    )  # fmt: skip


def _sentence(answers: Answers, i: int) -> str:
    """Say what one model said."""
    says = int(answers.predicted[i])
    right = "right" if says == answers.split.label[i] else "wrong"
    told = f"{answers.split.classes[says]}, {answers.chances[i, says]:.2f}"
    return f"{answers.name} says {told}: {right}"
