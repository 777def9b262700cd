"""How do the faces of all clips become WebDataset tars, and what is left out?

manifest.parquet and faces.parquet go in; out comes a folder of tars, index.json (what made them,
what is in each, which clips are left out and why) and clips.parquet (where each clip lies). Every
clip of the manifest is in a shard or left out with a reason, checked as arithmetic.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.crop import crop_faces
from pipeline.decode import Decoded, Decoder, Source, read_clip
from pipeline.engine import Failure, run_tasks
from pipeline.faces import ClipFaces, read_faces
from pipeline.manifest import read_manifest
from pipeline.preprocessing import preprocessing
from pipeline.tar import ShardWriter, whole_folder
from safe.config import Faces, Shard
from safe.errors import DataError
from safe.labels import CLASSES
from safe.process import whole_file
from safe.sample import SHARD_FORMAT, encode_strip

SCHEMA: Final = pa.schema(
    [
        ("clip", pa.string()),
        ("label", pa.int8()),
        ("bucket", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("bytes", pa.int64()),
        ("flags", pa.string()),
    ]
)
"""Columns of clips.parquet; offset and bytes are those of the JPEG inside the tar."""


@dataclass(frozen=True)
class Clip:
    """One clip on its way into a shard: its row of the manifest and of faces.parquet."""

    key: str
    path: str
    label: int
    bucket: str
    source: Source
    face: ClipFaces


def write_shards(
    manifest: Path,
    faces: Path,
    root: Path,
    out: Path,
    *,
    settings: Shard,
    faces_settings: Faces,
    workers: int,
    deadline: float,
    on_done: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Crop the faces of every clip and write the shard folder.

    Args:
        manifest: manifest.parquet of the index stage.
        faces: faces.parquet of the faces stage, of the same clips.
        root: the dataset's folder, which the manifest's paths are relative to.
        out: the folder to write. It appears whole; an earlier shard folder there is replaced.
        settings: the section shard of params.yaml.
        faces_settings: the section faces that `faces` was made with.
        workers: processes. Changes no byte.
        deadline: seconds after which the work on one clip is ended.
        on_done: called with the number of clips finished so far, those left out among them.

    Returns:
        How many: clips (in shards), left_out, shards.

    Raises:
        DataError: if a table is missing or not readable, the two do not have the same clips, no
            clip can be stored, or `out` is a folder of something else.
    """
    clips = _read_clips(manifest, faces)
    left_out = {
        clip.key: reason for clip in clips if (reason := _unusable(clip, faces_settings.missing))
    }
    usable = sorted(
        (clip for clip in clips if clip.key not in left_out),
        key=lambda clip: (clip.bucket, clip.key),
    )
    skipped = len(left_out)
    encode = partial(encode_clip, root=root, settings=settings)
    strips = run_tasks(
        encode,
        usable,
        workers=workers,
        deadline=deadline,
        fallback=partial(encode, decoder="pyav"),
        on_done=on_done and (lambda done: on_done(skipped + done)),
    )
    with whole_folder(out) as folder:
        writer = ShardWriter(folder, clips=settings.clips)
        for clip, strip in zip(usable, strips, strict=True):
            if isinstance(strip, Failure):
                left_out[clip.key] = strip.reason
            else:
                writer.add(
                    clip.key,
                    bucket=clip.bucket,
                    label=clip.label,
                    strip=strip,
                    record=_record(clip),
                )
        writer.close()
        _check_sums(clips, writer.rows, left_out)
        made = preprocessing(clips[0].source, faces=faces_settings, shard=settings)
        _write_index(folder, writer.shards, _left_out_list(clips, left_out), made)
        with whole_file(folder / "clips.parquet") as path:
            pq.write_table(pa.Table.from_pylist(writer.rows, SCHEMA), path)
    return {"clips": len(writer.rows), "left_out": len(left_out), "shards": len(writer.shards)}


def encode_clip(
    clip: Clip, *, root: Path, settings: Shard, decoder: Decoder = "decord"
) -> bytes | Failure:
    """Read a clip and encode its faces as a JPEG strip; a Failure says why it cannot be."""
    try:
        decoded = read_clip(root / clip.path, clip.source, decoder=decoder)
    except DataError as error:
        return Failure(str(error))
    if tuple(decoded.indices) != clip.face.frame_index:
        return Failure("decodes to other frames than in faces.parquet; run `safe-cli faces` again")
    faces = cut_faces(decoded, clip.face, source=clip.source, settings=settings)
    return encode_strip(faces, settings.quality, settings.chroma)


def cut_faces(
    decoded: Decoded, face: ClipFaces, *, source: Source, settings: Shard
) -> NDArray[np.uint8]:
    """Cut the faces of a decoded clip out: uint8 [T, size, size, 3], RGB.

    Only a box round a detected face gets a margin: a centre square and a release's own crop do not.
    """
    has_face_box = source == "video" and face.status != "missing"
    boxes = np.array(face.box, dtype=np.float32)
    margin = settings.margin if has_face_box else 0.0
    return crop_faces(decoded.frames, boxes, size=settings.size, margin=margin)


def _read_clips(manifest: Path, faces: Path) -> list[Clip]:
    """Join the two tables; in order of the key."""
    listed, found = read_manifest(manifest), read_faces(faces)
    if listed["clip"].to_pylist() != found["clip"].to_pylist():
        raise DataError(
            f"{faces} has other clips than {manifest} ({len(found)} and {len(listed)}): "
            "run `safe-cli faces` again"
        )
    if not len(listed):
        raise DataError(
            f"{manifest} lists no clip: run `safe-cli index` on a dataset that has some"
        )
    clips = []
    for row, face in zip(listed.to_pylist(), found.to_pylist(), strict=True):
        key = face.pop("clip")
        face |= {name: tuple(face[name]) for name in ("frame_index", "box", "score")}
        clips.append(
            Clip(
                key=key,
                path=row["path"],
                label=row["label"],
                bucket=row["bucket"],
                source=row["source"],
                face=ClipFaces(**face),
            )
        )
    return clips


def _unusable(clip: Clip, missing: str) -> str:
    """Say why a clip is not to be stored; empty if it is."""
    if clip.face.status == "error":
        return clip.face.reason
    if clip.face.status == "missing" and missing == "drop":
        return f"{clip.face.reason} (faces.missing: drop)"
    return ""


def _record(clip: Clip) -> dict[str, Any]:
    """Return what is known of a clip beside its pixels; boxes to 1/100 pixel."""
    face = clip.face
    flags: list[str] = [] if face.status == "ok" else [face.status]
    if face.status == "ok" and face.reason:  # the face was lost in some frames
        flags.append("interpolated")
    return {
        "clip": clip.key,
        "label": CLASSES[clip.label],
        "flags": flags,
        "frame_index": face.frame_index,
        "box": [[round(side, 2) for side in box] for box in face.box],
        "score": [round(score, 4) for score in face.score],
        "n_frames": face.n_frames,
        "fps": face.fps,
        "width": face.width,
        "height": face.height,
    }


def _left_out_list(clips: list[Clip], left_out: dict[str, str]) -> list[dict[str, str]]:
    return [
        {"clip": clip.key, "bucket": clip.bucket, "reason": left_out[clip.key]}
        for clip in clips
        if clip.key in left_out
    ]


def _check_sums(clips: list[Clip], rows: list[dict[str, Any]], left_out: dict[str, str]) -> None:
    """Raise DataError unless each clip is in a shard or left out, and one at least stored."""
    stored = Counter([*(row["clip"] for row in rows), *left_out])
    if stored != Counter(clip.key for clip in clips):
        raise DataError(
            f"{len(rows)} clips in shards and {len(left_out)} left out are not the "
            f"{len(clips)} clips of the manifest"
        )
    if not rows:
        first = clips[0].key
        raise DataError(f"no clip can be stored; the first, {first}: {left_out[first]}")


def _write_index(
    folder: Path,
    shards: list[dict[str, Any]],
    left_out: list[dict[str, str]],
    made: dict[str, Any],
) -> None:
    index = {
        "format": SHARD_FORMAT,
        "preprocessing": made,
        "shards": shards,
        "left_out": left_out,
    }
    with whole_file(folder / "index.json") as path:
        path.write_text(json.dumps(index, sort_keys=True, indent=2) + "\n", encoding="utf-8")
