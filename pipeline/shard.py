"""How do the faces of all clips become WebDataset tars, and what is left out?

manifest.parquet and faces.parquet go in; out comes a folder of tars, index.json (what made them,
what is in each, which clips are left out and why) and clips.parquet (where each clip lies). Every
clip of the manifest is in a shard or left out with a reason, checked as arithmetic.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.cluster import Cluster
from pipeline.contents import write_index
from pipeline.decode import Decoder, Source, load_decoder, read_clip
from pipeline.engine import Failure, run_tasks
from pipeline.face_table import ClipFaces, read_faces
from pipeline.fetch import fetched
from pipeline.leftover import Leftover, made_by
from pipeline.manifest import read_manifest
from pipeline.preprocessing import preprocessing
from pipeline.strip import make_strip
from pipeline.tar import ShardWriter, whole_folder
from safe.config import Faces, Shard
from safe.errors import DataError
from safe.labels import CLASSES
from safe.store import Store


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
    memory: float | None = None,
    store: Store | None = None,
    cluster: Cluster | None = None,
    leftover: Path | None = None,
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
        memory: GiB that the work on one clip may take; None: no limit.
        store: where the clips are, in place of `root`. Changes no byte.
        cluster: Dask workers that do it, in place of processes here. Changes no byte.
        leftover: the strips that the stage faces made in passing; taken if they are what this stage
            would make, then deleted. Changes no byte.
        on_done: called with the number of clips finished so far, those left out among them.

    Returns:
        How many: clips (in shards), left_out, shards.

    Raises:
        DataError: if a table is missing or not readable, the two do not have the same clips, no
            clip can be stored, `out` is a folder of something else, or the store fails for good.
    """
    clips = _read_clips(manifest, faces)
    left_out = {
        clip.key: reason for clip in clips if (reason := clip.face.unusable(faces_settings.missing))
    }
    usable = sorted(
        (clip for clip in clips if clip.key not in left_out),
        key=lambda clip: (clip.bucket, clip.key),
    )
    made = preprocessing(clips[0].source, faces=faces_settings, shard=settings)
    ready = Leftover(leftover, made_by(faces, made))
    encode = partial(encode_clip, root=root.absolute(), settings=settings)
    encoded = run_tasks(
        encode,
        [clip for clip in usable if clip.key not in ready.keys],
        workers=workers,
        deadline=deadline,
        memory=memory,
        setup=load_decoder if any(clip.source == "video" for clip in usable) else None,
        fallback=partial(encode, decoder="pyav"),
        fetch=None if store is None else partial(fetched, store=store),
        cluster=cluster,
    )
    with whole_folder(out) as folder:
        writer = ShardWriter(folder, clips=settings.clips)
        for number, clip in enumerate(usable, start=len(left_out) + 1):
            strip = ready.read(clip.key) if clip.key in ready.keys else next(encoded)
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
            if on_done is not None:
                on_done(number)
        writer.close()
        _check_sums(clips, writer.rows, left_out)
        write_index(
            folder,
            shards=writer.shards,
            left_out=_left_out_list(clips, left_out),
            made=made,
            rows=writer.rows,
        )
    ready.remove()
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
    return make_strip(decoded, clip.face, source=clip.source, settings=settings)


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
