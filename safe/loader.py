"""How do the clips of a plan become batches?

A map-style dataset reads each clip's JPEG by its offset, decodes it, and hands over uint8; torch's
DataLoader does the rest. Augmentation and normalisation happen on the device.
"""

import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, Final, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from safe.errors import DataError
from safe.process import die_with_parent
from safe.sample import FRAMES, decode_strip
from safe.shards import ShardFolder

_OPEN_FILES: Final = 16


class Batch(TypedDict):
    """One batch as it leaves the loader."""

    faces: Tensor  # uint8 [B, T, S, S, 3], RGB, 0..255
    label: Tensor  # int64 [B]
    row: Tensor  # int64 [B], of the shard folder's table


class ClipDataset(Dataset[Batch]):
    """Read batches of clips from a shard folder; the index is an array of rows."""

    def __init__(self, folder: ShardFolder) -> None:
        self.folder = folder
        self._open: OrderedDict[int, int] = OrderedDict()  # shard -> file descriptor

    def __getitem__(self, rows: NDArray[np.int64]) -> Batch:
        """Return the clips of `rows`. Raises DataError if one cannot be read as the table says."""
        size = self.folder.face_size
        faces = np.empty((len(rows), FRAMES, size, size, 3), dtype=np.uint8)
        for place, row in enumerate(rows):
            faces[place] = self._clip(int(row), size)
        return Batch(
            faces=torch.from_numpy(faces),
            label=torch.from_numpy(self.folder.label[rows]),
            row=torch.from_numpy(np.asarray(rows)),
        )

    def _clip(self, row: int, size: int) -> NDArray[np.uint8]:
        folder = self.folder
        shard = int(folder.shard[row])
        wanted = int(folder.size[row])
        jpeg = os.pread(self._file(shard), wanted, int(folder.offset[row]))
        try:
            if len(jpeg) != wanted:
                raise DataError("the shard ends too early")
            return decode_strip(jpeg, size)
        except DataError as error:
            raise DataError(
                f"{folder.root / folder.files[shard]}: clip {folder.clip[row]}: {error}; "
                "make the shards anew"
            ) from error

    def _file(self, shard: int) -> int:
        """Give an open descriptor of the shard; a few stay open, the longest unused is closed."""
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        if len(self._open) >= _OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        path = self.folder.root / self.folder.files[shard]
        try:
            self._open[shard] = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"{path}: cannot be opened ({error.strerror})") from error
        return self._open[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_open": OrderedDict()}  # descriptors belong to one process


def load_batches(
    folder: ShardFolder,
    plan: Iterable[NDArray[np.int64]],
    *,
    workers: int,
    pin: bool = False,
) -> Iterator[Batch]:
    """Give the plan's batches in the plan's order, for any number of worker processes.

    Raises:
        DataError: one line, also when a worker met it.
    """
    loader: DataLoader[Batch] = DataLoader(
        ClipDataset(folder),
        batch_size=None,
        sampler=plan,  # its elements are whole batches
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=2 if workers else None,
        worker_init_fn=_start_worker,
    )
    try:
        yield from loader
    except DataError as error:  # a worker's error arrives with its traceback as text
        raise DataError(str(error).strip().splitlines()[-1].split("DataError: ")[-1]) from error


def _start_worker(_: int) -> None:
    die_with_parent()
    torch.set_num_threads(1)
