"""Clips of a shard folder, read one by one: each JPEG by its offset, with its checksum."""

import os
import zlib
from functools import partial

import numpy as np
from numpy.typing import NDArray

from safe.errors import DataError, MachineError, explain, of_machine
from safe.sample import decode_strip
from safe.shards.folder import ShardFolder
from safe.shards.source import Tars
from safe.shards.verify import check_tar

Faces = NDArray[np.uint8]
Rows = NDArray[np.int64]


class ClipReader:
    """Reads clips from a shard folder."""

    def __init__(self, folder: ShardFolder) -> None:
        self.folder = folder
        self._tars = open_tars(folder)

    def read(self, rows: Rows, out: Faces) -> None:
        """Decode the clips of `rows` into out, uint8 [B, T, S, S, 3].

        Raises DataError, or MachineError if the disk fails.
        """
        for row, faces in zip(rows.tolist(), out, strict=True):
            with self._tars.open(int(self.folder.shard[row])) as file:
                self._decode(file, row, faces)

    def _decode(self, file: int, row: int, out: Faces) -> None:
        folder, wanted = self.folder, int(self.folder.size[row])
        try:
            jpeg = os.pread(file, wanted, int(folder.offset[row]))
            if len(jpeg) != wanted:
                raise DataError("the shard ends too early")
            if zlib.crc32(jpeg) != folder.crc32[row]:  # 10 us of a clip's 870
                raise DataError("altered, its checksum is not that of clips.parquet")
            decode_strip(jpeg, folder.face_size, folder.frames, out=out)
        except (DataError, OSError) as error:
            mine = of_machine(error)
            told = explain(error) if mine else f"{error}; make the shards again"
            raise (MachineError if mine else DataError)(
                f"{folder.location / folder.files[folder.shard[row]]}: clip {folder.clip[row]}: "
                f"{told}"
            ) from error

    def close(self) -> None:
        """Close the shards."""
        self._tars.close()


def open_tars(folder: ShardFolder) -> Tars:
    """Return what opens the tars of a folder. Raises ConfigError if its source has no room."""
    return folder.source.tars(folder.index["shards"], partial(check_tar, folder))


def read_clips(folder: ShardFolder, rows: Rows) -> Faces:
    """Read the faces of some clips, uint8 [n, T, S, S, 3]. Raises DataError as ClipReader does."""
    side = folder.face_size
    faces = np.empty((len(rows), folder.frames, side, side, 3), np.uint8)
    reader = ClipReader(folder)
    try:
        reader.read(rows, faces)
    finally:
        reader.close()
    return faces
