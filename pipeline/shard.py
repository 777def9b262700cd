"""How do the faces of all clips become WebDataset tars, and what is left out?

manifest.parquet and faces.parquet go in; out comes a folder of tars, index.json (what made them,
what is in each, which clips are left out and why) and clips.parquet (where each clip lies). Every
clip of the manifest is in a shard or left out with a reason, checked as arithmetic.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.contents import write_index
from pipeline.decode import Decoder, load_decoder, read_clip
from pipeline.face.leftover import Leftover, made_by
from pipeline.face.preprocessing import preprocessing
from pipeline.face.strip import make_strip
from pipeline.shard_plan import Clip, plan_shards
from pipeline.tar import ShardWriter, whole_folder
from pipeline.tasks.cluster import Cluster
from pipeline.tasks.engine import Failure, run_tasks
from pipeline.tasks.fetch import fetched
from safe.config import Faces, Shard
from safe.errors import DataError
from safe.store import Store
from safe.taxonomy import Classes


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
    plan = plan_shards(manifest, faces, missing=faces_settings.missing)
    left_out = dict(plan.left_out)
    made = preprocessing(plan.source, faces=faces_settings, shard=settings)
    ready = Leftover(leftover, made_by(faces, made))
    encode = partial(encode_clip, root=root.absolute(), settings=settings)
    encoded = run_tasks(
        encode,
        plan.without(ready.keys),
        workers=workers,
        deadline=deadline,
        memory=memory,
        setup=load_decoder if plan.has_videos else None,
        fallback=partial(encode, decoder="pyav"),
        fetch=None if store is None else partial(fetched, store=store),
        cluster=cluster,
    )
    with whole_folder(out) as folder:
        writer = ShardWriter(folder, clips=settings.clips, classes=plan.classes)
        for number, clip in enumerate(plan.clips, start=len(left_out) + 1):
            strip = ready.read(clip.key) if clip.key in ready.keys else next(encoded)
            if isinstance(strip, Failure):
                left_out[clip.key] = strip.reason
            else:
                writer.add(
                    clip.key,
                    bucket=clip.bucket,
                    label=clip.label,
                    strip=strip,
                    record=_record(clip, plan.classes),
                )
            if on_done is not None:
                on_done(number)
        writer.close()
        rows = writer.rows
        plan.check_sums(rows["clip"], left_out)
        write_index(
            folder,
            shards=writer.shards,
            left_out=plan.list_left_out(left_out),
            made=made,
            classes=plan.classes,
            frames=settings.frames,
            rows=rows,
        )
    ready.remove()
    return {"clips": len(rows), "left_out": len(left_out), "shards": len(writer.shards)}


def encode_clip(
    clip: Clip, *, root: Path, settings: Shard, decoder: Decoder = "decord"
) -> bytes | Failure:
    """Read a clip and encode its faces as a JPEG strip; a Failure says why it cannot be."""
    try:
        decoded = read_clip(root / clip.path, clip.source, decoder=decoder, frames=settings.frames)
    except DataError as error:
        return Failure(str(error))
    if tuple(decoded.indices) != clip.face.frame_index:
        return Failure("decodes to other frames than in faces.parquet; run `safe-cli faces` again")
    return make_strip(decoded, clip.face, source=clip.source, settings=settings)


def _record(clip: Clip, classes: Classes) -> dict[str, Any]:
    """Return what is known of a clip beside its pixels; boxes to 1/100 pixel.

    Every value has one type in all samples, so that others can read them as a table.
    """
    face = clip.face
    flags = face.guessed if face.status == "ok" else [face.status]
    return {
        "clip": clip.key,
        "label": classes[clip.label],
        "flags": ",".join(flags),
        "frame_index": face.frame_index,
        "box": [[round(side, 2) for side in box] for box in face.box],
        "score": [round(score, 4) for score in face.score],
        "n_frames": face.n_frames,
        "fps": face.fps,
        "width": face.width,
        "height": face.height,
    }
