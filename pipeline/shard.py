"""How do the faces of all clips become WebDataset tars, and what is left out?

manifest.parquet and faces.parquet go in; out comes a folder of tars, index.json (what made them,
what is in each, which clips are left out and why) and clips.parquet (where each clip lies). Every
clip of the manifest is in a shard or left out with a reason, checked as arithmetic.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.face.cache import Leftover, made_by
from pipeline.face.crop import make_strip
from pipeline.face.preprocessing import preprocessing
from pipeline.face.table import ClipFaces, FaceFile
from pipeline.manifest import Blocks, classes_of, read_manifest
from pipeline.pool.children import Failure, run_tasks
from pipeline.pool.cluster import Cluster
from pipeline.pool.fetch import fetched
from pipeline.tars import ShardWriter, whole_folder, write_index
from pipeline.video.decode import Decoder, Source, load_decoder
from pipeline.video.frames import read_clip
from safe.config import Faces, Shard
from safe.errors import DataError
from safe.shards.store import Store
from safe.taxonomy import Classes

# Which clips go into the shards, in which order, and which are left out from the start?
#
# manifest.parquet and faces.parquet go in. The order, and what is known of every clip but its face,
# are columns; the faces, most of the bytes, are read a block of clips at a time when they are due.


@dataclass(frozen=True)
class Clip:
    """One clip on its way into a shard: its row of the manifest and of faces.parquet."""

    key: str
    path: str
    label: int
    bucket: str
    source: Source
    face: ClipFaces


class Plan:
    """The clips to store, by bucket and then by key, and those that are not."""

    def __init__(
        self,
        listed: pa.Table,
        faces: FaceFile,
        left_out: dict[str, str],
        order: NDArray[np.int64],
        classes: Classes,
    ) -> None:
        self._listed, self._faces, self._order = listed, faces, order
        self.classes = classes
        """That labels are positions in."""
        self.left_out = left_out
        """Why each clip that is not to be stored is not; in order of the key."""
        self.clips: Sequence[Clip] = self._lazily(order)
        """The clips to store; made as they are asked for."""

    @property
    def source(self) -> Source:
        """What the clips are: video, frames or strips."""
        source: Source = self._listed["source"][0].as_py()
        return source

    @property
    def has_videos(self) -> bool:
        """Whether a clip that is to be stored is a video."""
        return bool(pc.any(pc.equal(self._listed["source"].take(self._order), "video")).as_py())

    def without(self, keys: Iterable[str]) -> Sequence[Clip]:
        """Return the clips to store but those of `keys`; the same sequence where there are none."""
        known = pa.array(list(keys), pa.string())
        if not len(known):
            return self.clips
        new = pc.invert(pc.is_in(self._listed["clip"], known)).to_numpy()
        return self._lazily(self._order[new[self._order]])

    def list_left_out(self, left_out: Mapping[str, str]) -> list[dict[str, str]]:
        """Return clip, bucket and reason of each clip that is left out, in order of the key."""
        chosen = self._among(left_out)
        pairs = zip(
            self._listed["clip"].filter(chosen).to_pylist(),
            self._listed["bucket"].filter(chosen).to_pylist(),
            strict=True,
        )
        return [{"clip": key, "bucket": bucket, "reason": left_out[key]} for key, bucket in pairs]

    def check_sums(self, stored: pa.ChunkedArray, left_out: Mapping[str, str]) -> None:
        """Raise DataError unless each clip is in a shard or left out, and one at least stored.

        Args:
            stored: the keys in the shards, in their order.
            left_out: of each other clip the reason.
        """
        clip, gone = self._listed["clip"], self._among(left_out)
        right = self._order[~gone.to_numpy()[self._order]]
        sums = len(stored) + len(left_out) == len(clip)
        if not sums or not stored.equals(clip.take(pa.array(right))):
            raise DataError(
                f"{len(stored)} clips in shards and {len(left_out)} left out are not the "
                f"{len(clip)} clips of the manifest"
            )
        if not len(stored):
            first = clip[0].as_py()
            raise DataError(f"no clip can be stored; the first, {first}: {left_out[first]}")

    def _among(self, keys: Iterable[str]) -> pa.ChunkedArray:
        return pc.is_in(self._listed["clip"], pa.array(list(keys), pa.string()))

    def _lazily(self, order: NDArray[np.int64]) -> Blocks[Clip]:
        def load(start: int, stop: int) -> Sequence[Clip]:
            return _Part(self._listed, self._faces, order[start:stop])

        return Blocks(len(order), load)


class _Part(Sequence[Clip]):
    """Some clips, each made when it is asked for; nothing but columns stays in memory."""

    def __init__(self, listed: pa.Table, faces: FaceFile, rows: NDArray[np.int64]) -> None:
        ascending = np.argsort(rows, kind="stable")  # where one bucket ends and the next begins
        self._face_of = np.argsort(ascending).tolist()
        self._faces = faces.rows(rows[ascending])
        self._rows = list(zip(*listed.take(pa.array(rows)).to_pydict().values(), strict=True))

    def __len__(self) -> int:
        return len(self._face_of)

    def __getitem__(self, place: Any) -> Any:
        """Return a clip. Raises IndexError."""
        key, path, label, bucket, source = self._rows[place]
        return Clip(key, path, label, bucket, source, self._faces[self._face_of[place]])


def plan_shards(manifest: Path, faces: Path, *, missing: str) -> Plan:
    """Join the two tables.

    Args:
        manifest: manifest.parquet of the index stage.
        faces: faces.parquet of the faces stage, of the same clips.
        missing: faces.missing of params.yaml.

    Raises:
        DataError: if a table is missing or not readable, lists no clip, or the two do not have the
            same clips.
    """
    columns = ["clip", "path", "label", "bucket", "source"]
    whole = read_manifest(manifest)
    listed = whole.select(columns).combine_chunks()
    file = FaceFile(faces)
    found = file.read(["clip", "status", "reason"])
    if not listed["clip"].equals(found["clip"]):
        raise DataError(
            f"{faces} has other clips than {manifest} ({len(found)} and {len(listed)}): "
            "run `safe-cli faces` again"
        )
    if not len(listed):
        raise DataError(
            f"{manifest} lists no clip: run `safe-cli index` on a dataset that has some"
        )
    left_out = {}
    doubtful = pc.is_in(found["status"], pa.array(["error", "missing"]))
    for clip, status, reason in zip(*found.filter(doubtful).to_pydict().values(), strict=True):
        if told := ClipFaces(status, reason).unusable(missing):
            left_out[clip] = told
    usable = pc.invert(pc.is_in(found["clip"], pa.array(list(left_out), pa.string()))).to_numpy()
    bucket = listed["bucket"]
    order = [
        np.flatnonzero(usable & pc.equal(bucket, name).to_numpy())
        for name in sorted(pc.unique(bucket).to_pylist())
    ]
    return Plan(listed, file, left_out, np.concatenate(order), classes_of(whole))


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
