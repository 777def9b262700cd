"""The embedded data set: clips of drawn heads in DFEW's layout, and a table of all that was drawn.

In: settings and a seed. Out: `Clip/original/00001.mp4` ... (H.264), or, without videos
and so faster, `Clip/strips/00001.jpg` ..., the T faces that stand for each clip; and in
`EmoLabel_DataSplit/` five folds of split lists, no person in two folds, and factors.parquet
(pipeline/synthetic/factors.py). The same seed gives the same bytes, with any number of workers.
"""

import csv
import hashlib
import multiprocessing
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Final, Literal

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.synthetic.clip import draw_clip
from pipeline.synthetic.factors import FACTORS, Row, factors_of, write_factors
from pipeline.synthetic.plan import FOLDS, Planned, plan_clips
from safe.config import Synthesize
from safe.errors import DataError, ProcessError
from safe.files import die_with_parent, fitting, naming
from safe.sample import DEFAULT_FRAMES, encode_strip
from safe.taxonomy import BASIC

LISTS: Final = "EmoLabel_DataSplit"

_STRIP_QUALITY: Final = 92  # the shards encode them again
# No mbtree: with it, x264 core 165 now and then made other bytes of the same frames, which changed
# with what fresh memory held (glibc's MALLOC_PERTURB_); not so with asm=avx2, nor without mbtree.
_ENCODER: Final = {"preset": "veryfast", "crf": "25", "threads": "1", "x264-params": "mbtree=0"}


def synthesize(
    out: Path,
    settings: Synthesize,
    *,
    source: Literal["video", "strips"] = "video",
    frames: int = DEFAULT_FRAMES,
    margin: float = 0.1,
    workers: int,
    on_clip: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Write the data set.

    Args:
        out: the folder to make; it must not exist or be empty.
        settings: the section `synthesize` of params.yaml.
        source: what to write a clip as: an mp4 video, or the strip of its faces.
        frames: T, of a strip.
        margin: of the face's box on each of its sides, of a strip.
        workers: processes; up to 1 all is done in this one. Changes no byte.
        on_clip: called with the number of clips done.

    Returns:
        Clips a class, in the order of BASIC.

    Raises:
        DataError: if `out` is a file or a folder that holds something.
        ProcessError: if a process was killed.
        OSError: if a file cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not an empty folder: remove it or give another one")
    clips = plan_clips(settings)
    # One name, not one for each process: what a killed run left is cleared by the next.
    name = fitting(out.absolute().name, more=len("..tmp"))
    temporary = out.absolute().with_name(f".{name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        folder = temporary / "Clip" / ("original" if source == "video" else "strips")
        folder.mkdir(parents=True)
        write = partial(_write_clip, folder, settings, frames if source == "strips" else 0, margin)
        rows: list[Row] = []
        for own in _run(write, clips, workers):
            rows += own
            if on_clip:
                on_clip(len(rows))
        _write_lists(temporary, clips)
        write_factors(rows, temporary / LISTS / FACTORS)
        if out.exists():
            out.rmdir()
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    counts = Counter(clip.label for clip in clips)
    return {name: counts[name] for name in BASIC}


def _write_clip(
    folder: Path, settings: Synthesize, frames: int, margin: float, clip: Planned
) -> Row:
    """Draw and write a clip, a strip of `frames` faces or else a video; return its factors."""
    drawn = draw_clip(clip, settings)
    if frames:
        strip = encode_strip(drawn.faces(settings.size, frames, margin), _STRIP_QUALITY, "444")
        path = folder / f"{clip.key}.jpg"
        with naming(path):
            path.write_bytes(strip)
    else:
        path = folder / f"{clip.key}.mp4"
        _encode(drawn.frames(settings.size), settings.fps, path)
    return factors_of(drawn, hashlib.sha256(path.read_bytes()).hexdigest())


def _encode(images: NDArray[np.uint8], fps: int, path: Path) -> None:
    """Encode frames as H.264. One thread and no dates, so that the bytes are always the same."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=fps, options=_ENCODER)
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def _write_lists(folder: Path, clips: list[Planned]) -> None:
    """Write the split lists: as DFEW, ids without leading zeros, labels 1..7."""
    for fold in range(1, FOLDS + 1):
        for part in ("train", "test"):
            rows = [
                (clip.number, BASIC.index(clip.listed) + 1)
                for clip in clips
                if (clip.fold == fold) == (part == "test")
            ]
            path = folder / LISTS / f"{part}(single-labeled)" / f"set_{fold}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            with naming(path), path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerows([("video_name", "label"), *rows])


def _run(
    write: Callable[[Planned], Row], clips: list[Planned], workers: int
) -> Iterable[list[Row]]:
    """Write the clips; yield the rows of one person's after another's, who is drawn but once."""
    by_person = sorted(clips, key=lambda clip: (clip.identity, clip.number))
    people = [list(own) for _, own in groupby(by_person, key=lambda clip: clip.identity)]
    if workers <= 1:
        yield from ([write(clip) for clip in own] for own in people)
        return
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
            yield from pool.map(partial(_write_all, write), people)
    except BrokenProcessPool as error:
        raise ProcessError(
            "a process that draws clips was killed (out of memory?); see runtime.workers"
        ) from error


def _write_all(write: Callable[[Planned], Row], clips: list[Planned]) -> list[Row]:
    return [write(clip) for clip in clips]


def _start_worker() -> None:
    die_with_parent()
    cv2.setNumThreads(1)
