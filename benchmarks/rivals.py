"""How do litdata, mosaicml-streaming and stock webdataset read the same JPEG strips?

Each holds the very bytes of our shards and gives batches of uint8 [B, T, crop, crop, 3], cropped
and flipped in its worker; its caller normalises them as we do. Each is set up as its documentation
says is fast: data on the local disk, shuffled, workers that live on from epoch to epoch.
A package that is not installed shows as an ImportError.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from safe.augment import MEAN, STD
from safe.sample import DEFAULT_FRAMES, decode_strip

_CHUNK = 1 << 26
"""Bytes of a file of litdata and of mosaicml-streaming, as both have by default."""
_BUFFER = 200
"""Clips that webdataset holds to shuffle; 786 kB each."""
_TARS = 10
"""As many as our shards, so that each worker has half of the clips."""


@dataclass(frozen=True)
class Task:
    """What every rival is to do."""

    strips: Sequence[bytes]  # the JPEG of each clip
    side: int  # pixels of a stored face
    crop: int
    batch: int
    workers: int


def cut(faces: Tensor, crop: int) -> Tensor:
    """Crop and flip one clip uint8 [T, S, S, 3] by a draw of its own: [T, crop, crop, 3]."""
    top, left = torch.randint(faces.shape[1] - crop + 1, (2,)).tolist()
    square = faces[:, top : top + crop, left : left + crop]
    return square.flip(2) if torch.rand(()) < 0.5 else square


def litdata_batches(task: Task, store: Path) -> Iterable[Tensor]:
    """Write the strips by BinaryWriter, read them by StreamingDataset and StreamingDataLoader."""
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    class Clips(StreamingDataset):
        def __getitem__(self, index: Any) -> Tensor:
            jpeg = super().__getitem__(index)["jpeg"]
            return cut(torch.from_numpy(decode_strip(jpeg, task.side)), task.crop)

    writer = BinaryWriter(str(store), chunk_bytes=_CHUNK)
    for number, strip in enumerate(task.strips):
        writer[number] = {"jpeg": strip}
    writer.done()
    writer.merge()
    return StreamingDataLoader(
        Clips(str(store), shuffle=True, drop_last=True),
        batch_size=task.batch,
        num_workers=task.workers,
        drop_last=True,
        persistent_workers=True,
    )


def streaming_batches(task: Task, store: Path) -> Iterable[Tensor]:
    """Write the strips by MDSWriter, read them by StreamingDataset and torch's DataLoader."""
    from streaming import MDSWriter, StreamingDataset

    class Clips(StreamingDataset):
        def __getitem__(self, index: Any) -> Tensor:
            jpeg = super().__getitem__(index)["jpeg"]
            return cut(torch.from_numpy(decode_strip(jpeg, task.side)), task.crop)

    with MDSWriter(out=str(store), columns={"jpeg": "bytes"}, size_limit=_CHUNK) as writer:
        for strip in task.strips:
            writer.write({"jpeg": strip})
    return DataLoader(
        Clips(local=str(store), shuffle=True, batch_size=task.batch),
        batch_size=task.batch,
        num_workers=task.workers,
        drop_last=True,
        persistent_workers=True,
    )


def webdataset_batches(task: Task, tars: Sequence[Path]) -> Iterable[Tensor]:
    """Read strips from tars as they are, decoded to arrays by PIL (`decode("rgb8")`)."""

    def clip(sample: dict[str, Any]) -> Tensor:
        faces = torch.from_numpy(sample["jpg"]).view(DEFAULT_FRAMES, task.side, task.side, 3)
        return cut(faces, task.crop)

    return _webdataset(task, tars, clip)


def webdataset_frame_batches(task: Task, store: Path) -> Iterable[Tensor]:
    """Read 16 JPEG files a clip, each decoded by PIL to an array, then as for strips."""

    def clip(sample: dict[str, Any]) -> Tensor:
        frames = np.stack([sample[f"{number:02d}.jpg"] for number in range(DEFAULT_FRAMES)])
        return cut(torch.from_numpy(frames), task.crop)

    return _webdataset(task, _frame_tars(task, store), clip)


def webdataset_documented_batches(task: Task, store: Path) -> Iterable[Tensor]:
    """Read 16 JPEG files a clip the documented way: PIL images and torchvision's transforms.

    Crop, flip, ToTensor and Normalize in the worker, with one draw a clip; gives float32 batches
    [B, 3, T, crop, crop] that need nothing more.
    """
    from torchvision.transforms import functional

    def clip(sample: dict[str, Any]) -> Tensor:
        images = [sample[f"{number:02d}.jpg"] for number in range(DEFAULT_FRAMES)]
        top, left = torch.randint(task.side - task.crop + 1, (2,)).tolist()
        images = [functional.crop(image, top, left, task.crop, task.crop) for image in images]
        if torch.rand(()) < 0.5:
            images = [functional.hflip(image) for image in images]
        tensors = [functional.normalize(functional.to_tensor(i), MEAN, STD) for i in images]
        return torch.stack(tensors, dim=1)

    return _webdataset(task, _frame_tars(task, store), clip, images="pil")


def _frame_tars(task: Task, store: Path) -> Sequence[Path]:
    """Write the frames of the strips as JPEG files of the same quality; once."""
    import webdataset

    if store.exists():
        return sorted(store.iterdir())
    store.mkdir()
    tars = []
    for rows in np.array_split(np.arange(len(task.strips)), _TARS):
        tars.append(store / f"{rows[0]:06d}.tar")
        with webdataset.TarWriter(str(tars[-1])) as writer:
            for row in rows:
                writer.write({"__key__": f"{row:06d}", **_frames(task, row)})
    return tars


def _frames(task: Task, row: int) -> dict[str, bytes]:
    files = {}
    for number, face in enumerate(decode_strip(task.strips[row], task.side)):
        file = BytesIO()
        Image.fromarray(face).save(file, "JPEG", quality=90)
        files[f"{number:02d}.jpg"] = file.getvalue()
    return files


def _webdataset(
    task: Task, tars: Sequence[Path], clip: Any, *, images: str = "rgb8"
) -> Iterable[Tensor]:
    import webdataset

    # Its arrays are not writable; `cut` only reads them. The workers inherit the filter.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    data = (
        webdataset.WebDataset([str(path) for path in tars], shardshuffle=len(tars), detshuffle=True)
        .shuffle(_BUFFER)
        .decode(images)
        .map(clip)
        .batched(task.batch, partial=False, collation_fn=torch.stack)
    )
    return webdataset.WebLoader(
        data, batch_size=None, num_workers=task.workers, persistent_workers=True
    )
