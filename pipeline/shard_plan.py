"""Which clips go into the shards, in which order, and which are left out from the start?

manifest.parquet and faces.parquet go in. The order, and what is known of every clip but its face,
are columns; the faces, most of the bytes, are read a block of clips at a time when they are due.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.blocks import Blocks
from pipeline.decode import Source
from pipeline.face.face_table import ClipFaces, FaceFile
from pipeline.manifest import classes_of, read_manifest
from safe.errors import DataError
from safe.taxonomy import Classes


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
