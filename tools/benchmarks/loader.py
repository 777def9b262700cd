"""The rate at which batches come, beside the loaders that others use.

    python -m tools.benchmarks.loader [--quick]

Two workers; batches of 16 clips, float32 [16, 3, 16, 112, 112]. What is timed is one epoch from the
first batch received to the last, so that nobody's start counts. litdata and mosaicml-streaming are
timed where they are installed (tools/benchmarks/requirements.txt).
"""

import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any, Final

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import functional

from pipeline.faces import find_faces
from pipeline.index import build_index
from pipeline.pool.pool import Pool
from pipeline.shard import write_shards
from pipeline.synthesize import synthesize
from safe.params import load_config
from safe.sample import DEFAULT_FRAMES, decode_strip
from safe.shards.folder import ShardFolder, open_shards
from safe.shards.loader import Batch, load_batches
from safe.shards.order import TrainPlan
from safe.training.transforms import MEAN, STD, CropFlip, Transforms, normalize
from tools.harness import ROOT, arguments, interleaved, publish, ratio, spread

SIDE, CROP, BATCH, WORKERS = 128, 112, 16, 2
SHAPE: Final = (BATCH, 3, DEFAULT_FRAMES, CROP, CROP)
BARE = "a loop that only decodes, {} at once"
BYTES = "ours as bytes"
BOUNDS = {
    "the usual loader": 12,
    "the usual loader without colour jitter": 5,
    "litdata, same strips": 1.4,
    "mosaicml-streaming, same strips": 1.4,
    "stock webdataset with PIL": 4,
    "webdataset on the same strips": None,
    BARE.format("two"): 0.7,
    BARE.format("one"): None,
}
"""How many times faster than each ours is to be."""

Clips = Iterable[Tensor]


def main() -> None:
    """Make the data, time everybody in turn, print and keep the ratios."""
    quick = arguments(__doc__, "tiny, one round").parse_args().quick
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_shards(Path(scratch), clips=48 if quick else 600, workers=1 if quick else 2)
        strips = [read_strip(folder, row) for row in range(len(folder.label))]
        seconds = Laps(folder, strips, Path(scratch)).run(rounds=1 if quick else 5, warm=not quick)
    ours, two = seconds["ours"], BARE.format("two")
    measured = [
        spread("ours", [1 / s for s in ours], unit="clips/s"),
        *(
            ratio(f"ours to {name}", seconds[name], ours, least=least)
            for name, least in BOUNDS.items()
            if name in seconds
        ),
        ratio(f"{BYTES} to {two}", seconds[two], seconds[BYTES]),
    ]
    size = np.mean([len(strip) for strip in strips]) / 1024
    note = (
        f"{len(strips)} drawn clips of {DEFAULT_FRAMES} faces of {SIDE} pixels, one JPEG strip a "
        f"clip (quality 90, 4:2:0, {size:.0f} KB); the usual loader has each face as a JPEG file "
        f"of {FrameFolders.side} pixels, quality 95. {WORKERS} workers; all files in the page "
        "cache. The usual loader's tensors are not normalised, all others are, by the same code. "
        "Nobody mixes clips; ours crops and normalises in one pass, as training without TAM does. "
        "As bytes whole faces come, as a GPU is given them. `a loop that only decodes` decodes the "
        "strips from memory into one buffer, in one process or in two."
    )
    publish("loader", "Loader", measured, note=note, quick=quick)


def make_shards(folder: Path, *, clips: int, workers: int) -> ShardFolder:
    """Draw the faces and take them through the project's own index, faces and shard."""
    raw, made = folder / "raw", folder / "made"
    sets = [f"data.root={raw}", "data.source=strips", f"synthesize.clips={clips}"]
    sets += [f"synthesize.size={SIDE}", f"shard.size={SIDE}", "shard.clips=60"]
    config = load_config(ROOT / "params.yaml", sets)
    synthesize(raw, config.synthesize, source="strips", workers=workers)
    tables = (made / "manifest.parquet", made / "faces.parquet")
    build_index(config.data, tables[0])
    limits = {"pool": Pool(workers=workers, deadline=60)}
    find_faces(tables[0], raw, tables[1], settings=config.faces, **limits)
    stages = {"settings": config.shard, "faces_settings": config.faces}
    write_shards(*tables, raw, made / "shards", **stages, **limits)
    return open_shards(made / "shards")


def read_strip(folder: ShardFolder, row: int) -> bytes:
    """Return the JPEG of a clip."""
    with (folder.root / folder.files[folder.shard[row]]).open("rb") as file:
        file.seek(folder.offset[row])
        return file.read(folder.size[row])


class Laps:
    """All loaders over the same clips, and the seconds a clip that each takes."""

    def __init__(self, folder: ShardFolder, strips: list[bytes], scratch: Path) -> None:
        self.folder, self.strips = folder, strips
        self.pixels = torch.empty(BATCH, DEFAULT_FRAMES, CROP, CROP, 3)
        self.taken: dict[str, list[float]] = {}
        # First, so that the processes for the bare loop inherit little more than the strips.
        self.pool = multiprocessing.get_context("fork").Pool(2, _keep, (strips,))
        seeds = count()
        self.starts: dict[str, Callable[[], Clips]] = {
            "ours": partial(self._ours, seeds, torch.Generator().manual_seed(0)),
            BYTES: partial(self._faces, seeds),
        }
        for name, (make, finish) in self._others(scratch).items():
            try:
                self.starts[name] = partial(finish, make())
            except ImportError as error:
                print(f"{name}: not timed, {error.name} is not installed")

    def run(self, *, rounds: int, warm: int) -> dict[str, list[float]]:
        """Run every loader once a round, after `warm` rounds that do not count."""
        torch.set_num_threads(WORKERS)
        variants: dict[str, Callable[[], object]] = {
            name: partial(self._lap, name, start) for name, start in self.starts.items()
        }
        for word, processes in (("two", 2), ("one", 1)):
            variants[BARE.format(word)] = partial(self._bare, BARE.format(word), processes)
        with self.pool:
            interleaved(variants, rounds=rounds, warm=warm)
        return {name: seconds[warm:] for name, seconds in self.taken.items()}

    def _lap(self, name: str, start: Callable[[], Clips]) -> None:
        expected = torch.Size((BATCH, DEFAULT_FRAMES, SIDE, SIDE, 3) if name == BYTES else SHAPE)
        clips, first = 0, 0.0
        for batch in start():
            assert batch.shape == expected, name
            assert batch.dtype == (torch.uint8 if name == BYTES else torch.float32), name
            last = time.perf_counter()
            first = first or last
            clips += BATCH
        self.taken.setdefault(name, []).append((last - first) / (clips - BATCH))

    def _bare(self, name: str, processes: int) -> None:
        start = time.perf_counter()
        self.pool.map(_decode, [range(i, len(self.strips), processes) for i in range(processes)], 1)
        self.taken.setdefault(name, []).append((time.perf_counter() - start) / len(self.strips))

    def _read(self, seeds: Iterator[int]) -> Iterator[Batch]:
        rows = np.arange(len(self.strips))
        plan = TrainPlan(rows, self.folder.shard, batch=BATCH, epochs=1, seed=next(seeds))
        return load_batches(self.folder, plan, workers=WORKERS)

    def _faces(self, seeds: Iterator[int]) -> Iterator[Tensor]:
        return (batch["faces"] for batch in self._read(seeds))

    def _ours(self, seeds: Iterator[int], generator: torch.Generator) -> Iterator[Tensor]:
        prepare = Transforms([CropFlip(CROP, 0.5)])
        for batch in self._read(seeds):
            yield prepare(batch["faces"], batch["label"], generator)

    def _others(
        self, scratch: Path
    ) -> dict[str, tuple[Callable[[], Clips], Callable[[Clips], Clips]]]:
        """Return by name what makes a loader, and what is done with its batches."""
        frames, pictures = scratch / "frames", scratch / "pictures"
        tars = [self.folder.root / name for name in self.folder.files]

        def normalized(batches: Clips) -> Iterator[Tensor]:
            return (normalize(batch, out=self.pixels) for batch in batches)

        return {
            "the usual loader": (partial(usual, self.strips, frames, jitter=True), iter),
            "the usual loader without colour jitter": (
                partial(usual, self.strips, frames, jitter=False),
                iter,
            ),
            "litdata, same strips": (partial(litdata, self.strips, scratch / "lit"), normalized),
            "mosaicml-streaming, same strips": (
                partial(streaming, self.strips, scratch / "mds"),
                normalized,
            ),
            "stock webdataset with PIL": (partial(documented, self.strips, pictures), iter),
            "webdataset on the same strips": (partial(webdataset_strips, tars), normalized),
        }


def _keep(strips: list[bytes]) -> None:
    """Give a process of the bare loop its strips (by inheritance) and one buffer."""
    global _STRIPS, _BUFFER
    _STRIPS, _BUFFER = strips, np.empty((DEFAULT_FRAMES * SIDE, SIDE, 3), np.uint8)


def _decode(rows: range) -> None:
    for row in rows:
        simplejpeg.decode_jpeg(_STRIPS[row], "RGB", buffer=_BUFFER)


# The usual loader of the field, written again from its description: a folder a clip with its 16
# frames as JPEG files; PIL opens each, torchvision's transforms go over each, drawn once a clip.


class FrameFolders(Dataset):
    """The clips below a folder, one folder each; a sample is float32 [3, T, crop, crop], 0..1."""

    side = 224
    """Pixels of a stored frame."""

    def __init__(self, root: Path, *, jitter: bool) -> None:
        self.folders = sorted(path for path in root.iterdir() if path.is_dir())
        self.crop = transforms.RandomResizedCrop(CROP)
        self.jitter = transforms.ColorJitter(0.4, 0.4, 0.4, 0.4) if jitter else None

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, index: int) -> Tensor:
        images = []
        for path in sorted(self.folders[index].iterdir()):
            with Image.open(path) as image:
                images.append(image.convert("RGB"))
        box = self.crop.get_params(images[0], self.crop.scale, self.crop.ratio)
        images = [functional.resized_crop(image, *box, self.crop.size) for image in images]
        if torch.rand(()) < 0.5:
            images = [functional.hflip(image) for image in images]
        if self.jitter is not None:
            images = self._jitter(images)
        return torch.stack([functional.to_tensor(image) for image in images], dim=1)

    def _jitter(self, images: list[Image.Image]) -> list[Image.Image]:
        """Change all frames by one draw, as ColorJitter.forward does for one."""
        jitter, names = self.jitter, ("brightness", "contrast", "saturation", "hue")
        order, *factors = jitter.get_params(*(getattr(jitter, name) for name in names))
        for which in order.tolist():
            change = getattr(functional, f"adjust_{names[which]}")
            images = [change(image, factors[which]) for image in images]
        return images


def usual(strips: Sequence[bytes], root: Path, *, jitter: bool) -> DataLoader:
    """Write the frames, scaled up, once; give float32 batches [B, 3, T, crop, crop]."""
    for row, strip in enumerate(strips if not root.exists() else ()):
        folder = root / f"{row:05d}"
        folder.mkdir(parents=True)
        for number, face in enumerate(decode_strip(strip, SIDE)):
            size = (FrameFolders.side,) * 2
            image = Image.fromarray(face).resize(size, Image.Resampling.BICUBIC)
            image.save(folder / f"{number:02d}.jpg", quality=95)
    return _loader(FrameFolders(root, jitter=jitter), shuffle=True)


# litdata, mosaicml-streaming and stock webdataset on the very bytes of our shards, each set up as
# its documentation says is fast: data on the local disk, shuffled, workers that live on from epoch
# to epoch. They give batches of uint8 [B, T, crop, crop, 3], cropped and flipped in the worker.


def cut(faces: Tensor) -> Tensor:
    """Crop and flip one clip uint8 [T, S, S, 3] by a draw of its own: [T, crop, crop, 3]."""
    top, left = torch.randint(SIDE - CROP + 1, (2,)).tolist()
    square = faces[:, top : top + CROP, left : left + CROP]
    return square.flip(2) if torch.rand(()) < 0.5 else square


def cut_strip(jpeg: bytes) -> Tensor:
    """Decode, crop and flip a strip."""
    return cut(torch.from_numpy(decode_strip(jpeg, SIDE)))


def _loader(data: Any, loader: Any = DataLoader, **more: Any) -> Any:
    options = {"num_workers": WORKERS, "drop_last": True, "persistent_workers": True}
    return loader(data, batch_size=BATCH, **options, **more)


def litdata(strips: Sequence[bytes], store: Path) -> Clips:
    """Write the strips by BinaryWriter, read them by StreamingDataset and StreamingDataLoader."""
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    class Strips(StreamingDataset):
        def __getitem__(self, index: Any) -> Tensor:
            return cut_strip(super().__getitem__(index)["jpeg"])

    writer = BinaryWriter(str(store), chunk_bytes=1 << 26)
    for number, strip in enumerate(strips):
        writer[number] = {"jpeg": strip}
    writer.done()
    writer.merge()
    return _loader(Strips(str(store), shuffle=True, drop_last=True), StreamingDataLoader)


def streaming(strips: Sequence[bytes], store: Path) -> Clips:
    """Write the strips by MDSWriter, read them by StreamingDataset and torch's DataLoader."""
    from streaming import MDSWriter, StreamingDataset

    class Strips(StreamingDataset):
        def __getitem__(self, index: Any) -> Tensor:
            return cut_strip(super().__getitem__(index)["jpeg"])

    with MDSWriter(out=str(store), columns={"jpeg": "bytes"}, size_limit=1 << 26) as writer:
        for strip in strips:
            writer.write({"jpeg": strip})
    return _loader(Strips(local=str(store), shuffle=True, batch_size=BATCH))


def webdataset_strips(tars: Sequence[Path]) -> Clips:
    """Read strips from our tars, decoded to arrays by PIL (`decode("rgb8")`)."""

    def clip(sample: dict[str, Any]) -> Tensor:
        return cut(torch.from_numpy(sample["jpg"]).view(DEFAULT_FRAMES, SIDE, SIDE, 3))

    # Its arrays are not writable; `cut` only reads them. The workers inherit the filter.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    return _webdataset(tars, clip, "rgb8")


def documented(strips: Sequence[bytes], store: Path) -> Clips:
    """Read 16 JPEG files a clip the documented way: PIL images and torchvision's transforms.

    Crop, flip, ToTensor and Normalize in the worker, with one draw a clip; gives float32 batches
    [B, 3, T, crop, crop] that need nothing more.
    """
    import webdataset

    def clip(sample: dict[str, Any]) -> Tensor:
        images = [sample[f"{number:02d}.jpg"] for number in range(DEFAULT_FRAMES)]
        top, left = torch.randint(SIDE - CROP + 1, (2,)).tolist()
        images = [functional.crop(image, top, left, CROP, CROP) for image in images]
        if torch.rand(()) < 0.5:
            images = [functional.hflip(image) for image in images]
        tensors = [functional.normalize(functional.to_tensor(i), MEAN, STD) for i in images]
        return torch.stack(tensors, dim=1)

    store.mkdir()
    tars = []
    for rows in np.array_split(np.arange(len(strips)), 10):
        tars.append(store / f"{rows[0]:06d}.tar")
        with webdataset.TarWriter(str(tars[-1])) as writer:
            for row in rows:
                faces = decode_strip(strips[row], SIDE)
                files = {f"{n:02d}.jpg": _jpeg(face) for n, face in enumerate(faces)}
                writer.write({"__key__": f"{row:06d}", **files})
    return _webdataset(tars, clip, "pil")


def _jpeg(face: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(face).save(file, "JPEG", quality=90)
    return file.getvalue()


def _webdataset(tars: Sequence[Path], clip: Callable[[Any], Tensor], images: str) -> Clips:
    import webdataset

    data = (
        webdataset.WebDataset([str(path) for path in tars], shardshuffle=len(tars), detshuffle=True)
        .shuffle(200)
        .decode(images)
        .map(clip)
        .batched(BATCH, partial=False, collation_fn=torch.stack)
    )
    options = {"num_workers": WORKERS, "persistent_workers": True}
    return webdataset.WebLoader(data, batch_size=None, **options)


if __name__ == "__main__":
    main()
