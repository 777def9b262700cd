"""WebDataset tars of the faces of all clips, and the record of what is left out.

manifest.parquet and faces.parquet go in; out comes a folder of tars, index.json (what made them,
what is in each, which clips are left out and why) and clips.parquet (where each clip lies). Every
clip of the manifest is in a shard or left out with a reason, checked as arithmetic.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.content import RawClips, digest, replaced
from pipeline.face.cache import Leftover, made_by
from pipeline.face.crop import make_strip
from pipeline.face.preprocessing import preprocessing
from pipeline.face.table import ClipFaces, FaceFile, FaceRows
from pipeline.manifest import BLOCK, classes_of, read_manifest
from pipeline.pool.children import Failure
from pipeline.pool.pool import Pool
from pipeline.tars import ShardWriter, atomic_folder, write_index
from pipeline.video.decode import Decoder, Source, load_decoder
from pipeline.video.frames import gone, read_clip
from safe.config import Faces, Shard
from safe.errors import DataError, MissingError
from safe.record import Digests, encode_read
from safe.taxonomy import Classes


def write_shards(
    manifest: Path,
    faces: Path,
    root: Path,
    out: Path,
    *,
    settings: Shard,
    faces_settings: Faces,
    pool: Pool,
    cache: Path | None = None,
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
        pool: who decodes. Changes no byte.
        cache: the strips that the stage faces made in passing; taken if they are what this stage
            would make, then deleted. Changes no byte.
        on_done: called with the number of clips finished so far, those left out among them.

    Returns:
        How many: clips (in shards), left_out, shards.

    Raises:
        DataError: if a table is missing or not readable, the two do not have the same clips, no
            clip can be stored, `out` is a folder of something else, or the store fails for good.
        MachineError, OSError: if the machine fails for longer than the pool's patience; a clip that
            is not there any more counts as that.
    """
    plan = plan_shards(manifest, faces, missing=faces_settings.missing)
    made = preprocessing(plan.source, faces=faces_settings, shard=settings)
    read = {"manifest": Digests().of(manifest), "faces": Digests().of(faces)}
    ready = Leftover(cache, made_by(faces, made))
    raw = None if pool.clips else RawClips(root, plan.clips.listed["path"].to_pylist())
    if raw is not None and ready.stamps is not None:
        raw.compare(ready.stamps, plan.sha256.to_pylist())
    encode = partial(encode_clip, root=root.absolute(), settings=settings)
    encoded = pool.run(
        encode,
        plan.without(ready.keys),
        setup=load_decoder if plan.source == "video" else None,
        fallback=partial(encode, decoder="pyav"),
    )
    left_out = dict(plan.left_out)
    with atomic_folder(out) as folder:
        writer = ShardWriter(folder, clips=settings.clips, classes=plan.classes)
        for number, clip in enumerate(plan.clips, start=len(left_out) + 1):
            strip = ready.read(clip.key) if clip.key in ready.keys else next(encoded)
            if isinstance(strip, Replaced):
                raise replaced(f"{root}/{clip.path}: {strip.reason}")
            if isinstance(strip, Failure):
                left_out[clip.key] = strip.reason
            else:
                record = _record(clip, plan.classes)
                writer.add(
                    clip.key, bucket=clip.bucket, label=clip.label, strip=strip, record=record
                )
            if on_done is not None:
                on_done(number)
        writer.close()
        if raw is not None:
            raw.check()
        rows = writer.rows
        write_index(
            folder,
            shards=writer.shards,
            left_out=plan.settle(rows["clip"], left_out),
            made=made,
            classes=plan.classes,
            frames=settings.frames,
            rows=rows.replace_schema_metadata(encode_read(read)),
        )
    ready.remove()
    return {"clips": len(rows), "left_out": len(left_out), "shards": len(writer.shards)}


@dataclass(frozen=True)
class Clip:
    """One clip on its way into a shard: its row of the manifest and of faces.parquet."""

    key: str
    path: str
    label: int
    bucket: str
    source: Source
    face: ClipFaces


class Clips:
    """Clips of a manifest with their faces, each made when it is due.

    Of ten million clips the columns are in memory, not the faces, which are most of the bytes: they
    are read a block at a time, and two blocks are kept, since tasks are read ahead of their tars.
    """

    def __init__(self, listed: pa.Table, faces: FaceFile, parts: list[NDArray[np.int64]]) -> None:
        """Take the columns of Clip but face, and rows of both tables, ascending in each part."""
        self.listed, self.faces, self.parts = listed, faces, parts
        self._block = lru_cache(maxsize=2)(self._read)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __iter__(self) -> Iterator[Clip]:
        for number, part in enumerate(self.parts):
            for start in range(0, len(part), BLOCK):
                rows, faces = self._block(number, start)
                for position, (key, path, label, bucket, source) in enumerate(rows):
                    yield Clip(key, path, label, bucket, source, faces[position])

    def _read(self, part: int, start: int) -> tuple[list[tuple[Any, ...]], FaceRows]:
        rows = self.parts[part][start : start + BLOCK]
        columns = self.listed.take(pa.array(rows)).to_pydict().values()
        return list(zip(*columns, strict=True)), self.faces.rows(rows)


@dataclass(frozen=True)
class Plan:
    """The clips to store, by bucket and then by key, and those that are not."""

    clips: Clips
    left_out: dict[str, str]
    """Why each clip that is not to be stored is not; in order of the key."""
    classes: Classes
    """That labels are positions in."""
    sha256: pa.ChunkedArray
    """Of the content of each clip of the manifest, when its face was found; empty if not known."""

    @property
    def source(self) -> Source:
        """What the clips are: video, frames or strips."""
        source: Source = self.clips.listed["source"][0].as_py()
        return source

    def without(self, keys: Collection[str]) -> Clips:
        """Return the clips to store but those of `keys`; the same object where there are none."""
        if not keys:
            return self.clips
        new = ~_among(self.clips.listed, keys)
        parts = [part[new[part]] for part in self.clips.parts]
        return Clips(self.clips.listed, self.clips.faces, parts)

    def settle(self, stored: pa.ChunkedArray, left_out: Mapping[str, str]) -> list[dict[str, str]]:
        """Check that each clip is in a shard or left out, and say which are left out.

        Args:
            stored: the keys in the shards, in their order.
            left_out: of each other clip the reason.

        Returns:
            Clip, bucket and reason of each clip that is left out, in order of the key.

        Raises:
            DataError: if a clip is in neither or in both, or none is stored.
        """
        listed = self.clips.listed
        gone = _among(listed, left_out)
        kept = np.concatenate([part[~gone[part]] for part in self.clips.parts])
        sums = len(stored) + len(left_out) == len(listed)
        if not sums or not stored.equals(listed["clip"].take(pa.array(kept))):
            raise DataError(
                f"{len(stored)} clips in shards and {len(left_out)} left out are not the "
                f"{len(listed)} clips of the manifest"
            )
        if not len(stored):
            first = listed["clip"][0].as_py()
            raise DataError(f"no clip can be stored; the first, {first}: {left_out[first]}")
        entries: list[dict[str, str]] = listed.select(["clip", "bucket"]).filter(gone).to_pylist()
        return [entry | {"reason": left_out[entry["clip"]]} for entry in entries]


def plan_shards(manifest: Path, faces: Path, *, missing: str) -> Plan:
    """Join the two tables; `missing` is faces.missing of params.yaml.

    Raises:
        DataError: if a table is missing or not readable, lists no clip, or the two do not have the
            same clips.
    """
    whole, file = read_manifest(manifest), FaceFile(faces)
    listed = whole.select(["clip", "path", "label", "bucket", "source"]).combine_chunks()
    found = file.read(["clip", "status", "reason", "sha256"])
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
    doubtful = found.filter(pc.is_in(found["status"], pa.array(["error", "missing"])))
    doubtful = doubtful.drop_columns(["sha256"])
    for clip, status, reason in zip(*doubtful.to_pydict().values(), strict=True):
        if told := ClipFaces(status, reason).unusable(missing):
            left_out[clip] = told
    usable, bucket = ~_among(found, left_out), listed["bucket"]
    parts = [
        np.flatnonzero(usable & pc.equal(bucket, name).to_numpy())
        for name in sorted(pc.unique(bucket).to_pylist())
    ]
    return Plan(Clips(listed, file, parts), left_out, classes_of(whole), found["sha256"])


def _among(table: pa.Table, keys: Iterable[str]) -> NDArray[np.bool_]:
    """Say of each row whether its clip is one of `keys`."""
    found = pc.is_in(table["clip"], pa.array(list(keys), pa.string()))
    return np.asarray(found.to_numpy(), dtype=np.bool_)


def encode_clip(
    clip: Clip, *, root: Path, settings: Shard, decoder: Decoder = "decord"
) -> bytes | Failure:
    """Read a clip and encode its faces as a JPEG strip; a Failure says why it cannot be.

    Raises MachineError if it is not there, since the stage faces has read it.
    """
    path = root / clip.path
    if clip.face.sha256 and digest(path) not in (clip.face.sha256, ""):
        return Replaced("not the one that `faces` looked at")
    try:
        decoded = read_clip(path, clip.source, decoder=decoder, frames=settings.frames)
    except MissingError as error:
        raise gone(path) from error
    except DataError as error:
        return Failure(str(error))
    if tuple(decoded.indices) != clip.face.frame_index:
        return Failure("decodes to other frames than in faces.parquet; run `safe-cli faces` again")
    return make_strip(decoded, clip.face, source=clip.source, settings=settings)


class Replaced(Failure):
    """The clip is another one than faces.parquet tells of."""


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
