"""How fast do batches come, beside the loaders that others use?

    python -m tools.benchmarks.loader [--quick]

Two workers; batches of 16 clips, float32 [16, 3, 16, 112, 112]. What is timed is one epoch from the
first batch received to the last, so that nobody's start counts. litdata and mosaicml-streaming are
timed where they are installed (tools/benchmarks/requirements.txt).
"""

import argparse
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from pipeline.faces import find_faces
from pipeline.index import build_index
from pipeline.pool.pool import Pool
from pipeline.shard import write_shards
from pipeline.synthetic.plan import synthesize
from safe.params import load_config
from safe.sample import DEFAULT_FRAMES, decode_strip
from safe.shards.folder import ShardFolder, open_shards
from safe.shards.loader import Batch, load_batches
from safe.shards.order import TrainPlan
from safe.training.transforms import MEAN, STD, CropFlip, Transforms, normalize
from tools.benchmarks import loader as rivals
from tools.benchmarks.report import Figure, interleaved, publish, ratio, spread
from tools.benchmarks.usual_loader import usual_loader, write_frames

ROOT = Path(__file__).parents[2]
SIDE, CROP, BATCH, WORKERS = 128, 112, 16, 2
BARE = "a loop that only decodes, {} at once"
BYTES = "ours as bytes"
BOUNDS = {
    "the usual loader": 12,
    "the usual loader without colour jitter": 5,
    "litdata, same strips": 1.4,
    "mosaicml-streaming, same strips": 1.4,
    "stock webdataset with PIL": 4,
    "stock webdataset with PIL, then our crop and normalisation": None,
    "the same on the same strips": None,
    BARE.format("two"): 0.7,
    BARE.format("one"): None,
}
"""How many times faster than each ours is to be."""


def main() -> None:
    """Make the data, time everybody in turn, print and keep the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny, kept nowhere")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_shards(Path(scratch), clips=48 if quick else 600, workers=1 if quick else 2)
        strips = [read_strip(folder, row) for row in range(len(folder.label))]
        seconds = Laps(folder, strips, Path(scratch)).run(
            rounds=1 if quick else 5, warm=0 if quick else 1
        )
    figures = [
        spread("ours", [1 / s for s in seconds["ours"]], unit="clips/s"),
        *(
            ratio(f"ours to {name}", seconds[name], seconds["ours"], least=least)
            for name, least in BOUNDS.items()
            if name in seconds
        ),
        ratio(f"{BYTES} to {BARE.format('two')}", seconds[BARE.format("two")], seconds[BYTES]),
    ]
    size = np.mean([len(strip) for strip in strips]) / 1024
    note = (
        f"{len(strips)} drawn clips of {DEFAULT_FRAMES} faces of {SIDE} pixels, one JPEG strip a "
        f"clip (quality 90, 4:2:0, {size:.0f} KB); the usual loader has each face as a JPEG file "
        f"of 224 pixels, quality 95. {WORKERS} workers; all files in the page cache. The usual "
        "loader's tensors are not normalised, all others are, by the same code. Nobody mixes "
        "clips; ours crops and normalises in one pass, as training without TAM does. As bytes "
        "whole faces come, as a GPU is given them. `a loop that only decodes` decodes the strips "
        "from memory into one buffer, in one process or in two."
    )
    if quick:
        print_quickly(figures)
    else:
        publish("loader", "Loader", figures, note=note)


def print_quickly(figures: Sequence[Figure]) -> None:
    """Print what a trial run gave."""
    for figure in figures:
        print(f"{figure.value:8.2f} {figure.unit:8} {figure.what}")


def make_shards(folder: Path, *, clips: int, workers: int) -> ShardFolder:
    """Draw the faces and take them through the project's own index, faces and shard."""
    raw, made = folder / "raw", folder / "made"
    config = load_config(
        ROOT / "params.yaml",
        [
            f"data.root={raw}",
            "data.source=strips",
            f"synthesize.clips={clips}",
            f"synthesize.size={SIDE}",
            f"shard.size={SIDE}",
            "shard.clips=60",
        ],
    )
    synthesize(raw, config.synthesize, source="strips", workers=workers)
    tables = (made / "manifest.parquet", made / "faces.parquet")
    build_index(config.data, tables[0])
    find_faces(
        tables[0], raw, tables[1], settings=config.faces, pool=Pool(workers=workers, deadline=60)
    )
    write_shards(
        *tables,
        raw,
        made / "shards",
        settings=config.shard,
        faces_settings=config.faces,
        pool=Pool(workers=workers, deadline=60),
    )
    return open_shards(made / "shards")


def read_strip(folder: ShardFolder, row: int) -> bytes:
    """Return the JPEG of a clip."""
    with (folder.root / folder.files[folder.shard[row]]).open("rb") as file:
        file.seek(folder.offset[row])
        return file.read(folder.size[row])


class Laps:
    """All loaders over the same clips, and the seconds a clip that each takes."""

    def __init__(self, folder: ShardFolder, strips: list[bytes], scratch: Path) -> None:
        self.strips = strips
        self.pixels = torch.empty(BATCH, DEFAULT_FRAMES, CROP, CROP, 3)
        self.taken: dict[str, list[float]] = {}
        # First, so that the processes for the bare loop inherit little more than the strips.
        self.pool = multiprocessing.get_context("fork").Pool(2, _keep, (strips,))
        self.loaders = {
            "ours": self._ours(folder),
            BYTES: partial(self._faces, folder, count()),
            **self._others(folder, scratch),
        }

    def run(self, *, rounds: int, warm: int) -> dict[str, list[float]]:
        """Run every loader once a round, after `warm` rounds that do not count."""
        torch.set_num_threads(WORKERS)
        variants: dict[str, Callable[[], object]] = {
            name: partial(self._lap, name, start) for name, start in self.loaders.items()
        }
        variants[BARE.format("two")] = partial(self._bare, BARE.format("two"), 2)
        variants[BARE.format("one")] = partial(self._bare, BARE.format("one"), 1)
        with self.pool:
            interleaved(variants, rounds=rounds, warm=warm)
        return {name: seconds[warm:] for name, seconds in self.taken.items()}

    def _lap(self, name: str, start: Callable[[], Iterable[Tensor]]) -> None:
        clips, first = 0, 0.0
        for batch in start():
            if name == BYTES:
                assert batch.shape == (BATCH, DEFAULT_FRAMES, SIDE, SIDE, 3)
            else:
                assert batch.shape == (BATCH, 3, DEFAULT_FRAMES, CROP, CROP), name
            assert batch.dtype == (torch.uint8 if name == BYTES else torch.float32), name
            last = time.perf_counter()
            first = first or last
            clips += BATCH
        self.taken.setdefault(name, []).append((last - first) / (clips - BATCH))

    def _bare(self, name: str, processes: int) -> None:
        start = time.perf_counter()
        self.pool.map(_decode, [range(i, len(self.strips), processes) for i in range(processes)], 1)
        self.taken.setdefault(name, []).append((time.perf_counter() - start) / len(self.strips))

    def _read(self, folder: ShardFolder, seeds: Iterator[int]) -> Iterator[Batch]:
        rows = np.arange(len(self.strips))
        plan = TrainPlan(rows, folder.shard, batch=BATCH, epochs=1, seed=next(seeds))
        return load_batches(folder, plan, workers=WORKERS)

    def _faces(self, folder: ShardFolder, seeds: Iterator[int]) -> Iterator[Tensor]:
        return (batch["faces"] for batch in self._read(folder, seeds))

    def _ours(self, folder: ShardFolder) -> Callable[[], Iterator[Tensor]]:
        seeds, generator = count(), torch.Generator().manual_seed(0)
        prepare = Transforms([CropFlip(CROP, 0.5)])

        def batches() -> Iterator[Tensor]:
            for batch in self._read(folder, seeds):
                yield prepare(batch["faces"], batch["label"], generator)

        return batches

    def _others(
        self, folder: ShardFolder, scratch: Path
    ) -> dict[str, Callable[[], Iterable[Tensor]]]:
        frames = scratch / "frames"
        for row, strip in enumerate(self.strips):
            write_frames(frames / f"{row:05d}", decode_strip(strip, SIDE))
        usual = partial(usual_loader, frames, crop=CROP, batch=BATCH, workers=WORKERS)
        tars = [folder.root / name for name in folder.files]
        task = rivals.Task(self.strips, SIDE, CROP, BATCH, WORKERS)
        others = {
            "litdata, same strips": partial(rivals.litdata_batches, task, scratch / "lit"),
            "mosaicml-streaming, same strips": partial(
                rivals.streaming_batches, task, scratch / "mds"
            ),
            "stock webdataset with PIL, then our crop and normalisation": partial(
                rivals.webdataset_frame_batches, task, scratch / "wds"
            ),
            "the same on the same strips": partial(rivals.webdataset_batches, task, tars),
        }
        loaders: dict[str, Callable[[], Iterable[Tensor]]] = {
            "the usual loader": partial(iter, usual(jitter=True)),
            "the usual loader without colour jitter": partial(iter, usual(jitter=False)),
            "stock webdataset with PIL": partial(
                iter, rivals.webdataset_documented_batches(task, scratch / "wds")
            ),
        }
        for name, make in others.items():
            try:
                loaders[name] = partial(self._normalized, make())
            except ImportError as error:
                print(f"{name}: no figure, {error.name} is not installed")
        return loaders

    def _normalized(self, loader: Iterable[Tensor]) -> Iterator[Tensor]:
        return (normalize(batch, out=self.pixels) for batch in loader)


def _keep(strips: list[bytes]) -> None:
    """Give a process of the bare loop its strips (by inheritance) and one buffer."""
    global _STRIPS, _BUFFER
    _STRIPS, _BUFFER = strips, np.empty((DEFAULT_FRAMES * SIDE, SIDE, 3), np.uint8)


def _decode(rows: range) -> None:
    for row in rows:
        simplejpeg.decode_jpeg(_STRIPS[row], "RGB", buffer=_BUFFER)


if __name__ == "__main__":
    main()


# How do litdata, mosaicml-streaming and stock webdataset read the same JPEG strips?
#
# Each holds the very bytes of our shards and gives batches of uint8 [B, T, crop, crop, 3], cropped
# and flipped in its worker; its caller normalises them as we do. Each is set up as its
# documentation
# says is fast: data on the local disk, shuffled, workers that live on from epoch to epoch.
# A package that is not installed shows as an ImportError.

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
