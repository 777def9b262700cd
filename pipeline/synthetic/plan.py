"""The embedded data set of animated faces: who shows what in which clip, written in DFEW's layout.

In: settings and a seed. Out: `Clip/original/00001.mp4` ... (H.264), or, without videos
and so faster, `Clip/strips/00001.jpg` ..., the 16 faces that stand for each clip; five folds of
split lists in `EmoLabel_DataSplit/`, no person in two folds; and `people.csv`: who shows what in
which clip. The same seed gives the same bytes, with any number of workers.
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
from pathlib import Path
from typing import Final, Literal

import av
import cv2
import numpy as np

from pipeline.synthetic.render import CONFUSED, Clip, draw_clip, draw_faces
from safe.config import Synthesize
from safe.errors import DataError, ProcessError
from safe.files import die_with_parent, fitting, naming
from safe.sample import DEFAULT_FRAMES, encode_strip
from safe.taxonomy import BASIC

FOLDS: Final = 5
LISTS: Final = "EmoLabel_DataSplit"
DFEW_TRAIN: Final = (1956, 1515, 2135, 1738, 1175, 116, 721)
"""Clips a class in DFEW's train list of fold 1: the long tail."""

FAINT: Final = (0.12, 0.35)  # intensity at the apex of a faint clip
_LEAST: Final = FOLDS  # clips a class: one in each fold
# No mbtree: with it, x264 core 165 now and then made other bytes of the same frames, which changed
# with what fresh memory held (glibc's MALLOC_PERTURB_); not so with asm=avx2, nor without mbtree.
_STRIP_QUALITY: Final = 92  # the shards encode them again
_ENCODER: Final = {"preset": "veryfast", "crf": "25", "threads": "1", "x264-params": "mbtree=0"}


def synthesize(
    out: Path,
    settings: Synthesize,
    *,
    source: Literal["video", "strips"] = "video",
    frames: int = DEFAULT_FRAMES,
    workers: int,
    on_clip: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Write the dataset.

    Args:
        out: the folder to make; it must not exist or be empty.
        settings: the section `synthesize` of params.yaml.
        source: what to write a clip as: an mp4 video, or the strip of its faces.
        frames: T, of a strip.
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
        _write_lists(temporary, clips)
        write = (
            partial(_write_clip, folder, settings)
            if source == "video"
            else partial(_write_strip, folder, settings, frames)
        )
        digests = hashlib.sha256()
        for done, digest in enumerate(_run(write, clips, workers), start=1):
            digests.update(digest)
            if on_clip:
                on_clip(done)
        # Beside the lists, the one thing of the dataset that DVC's stage index looks at.
        (temporary / LISTS / "clips.sha256").write_text(digests.hexdigest() + "\n")
        if out.exists():
            out.rmdir()
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    counts = Counter(clip.label for clip in clips)
    return {name: counts[name] for name in BASIC}


def count_classes(clips: int, tail: float) -> list[int]:
    """Return the clips a class [K]: (1 - tail) balanced + tail * DFEW, at least 5 each.

    By largest remainders; `clips`, their sum, is at least 5 K.
    """
    dfew = np.array(DFEW_TRAIN) / sum(DFEW_TRAIN)
    ideal = clips * ((1 - tail) / len(BASIC) + tail * dfew)
    counts = np.floor(ideal).astype(int)
    counts[np.argsort(counts - ideal, kind="stable")[: clips - counts.sum()]] += 1
    while counts.min() < _LEAST:
        counts[counts.argmin()] += 1
        counts[counts.argmax()] -= 1
    return [int(count) for count in counts]


def plan_clips(settings: Synthesize) -> list[Clip]:
    """Decide who shows what in which clip; sorted by number.

    The clips, class by class, are dealt to the folds in turn, and those of a fold to its people in
    turn: so every fold has every class, and a person's face says nothing about the class.
    """
    rng = np.random.default_rng([settings.seed, 0])
    counts = count_classes(settings.clips, settings.tail)
    labels = [name for name, count in zip(BASIC, counts, strict=True) for _ in range(count)]
    people = rng.permutation(settings.identities)
    numbers = rng.permutation(settings.clips) + 1
    blended = set(rng.permutation(settings.clips)[: round(settings.ambiguity * settings.clips)])
    order = np.random.default_rng([settings.seed, 3]).permutation(settings.clips)
    faint = set(order[: round(settings.faint * settings.clips)])
    clips = []
    for i, label in enumerate(labels):
        own = people[i % FOLDS :: FOLDS]
        others = CONFUSED[label]
        blend = others[rng.integers(len(others))] if i in blended else ""
        # A blend shows a share w, uniform on 0.3..0.7, of one class and is labelled with it with
        # probability w. Given the label, the density of its share is therefore proportional to w.
        share = rng.uniform(0.3**2, 0.7**2) ** 0.5 if blend else 1.0
        peak = rng.uniform(*FAINT) if i in faint else rng.uniform(0.35, 1.0) ** 0.7
        clips.append(
            Clip(
                number=int(numbers[i]),
                identity=int(own[i // FOLDS % len(own)]),
                fold=i % FOLDS + 1,
                label=label,
                blend=blend,
                share=share,
                peak=peak if blend or label != "neutral" else 0.0,
            )
        )
    return sorted(clips, key=lambda clip: clip.number)


def _write_clip(folder: Path, settings: Synthesize, clip: Clip) -> bytes:
    """Encode a clip as H.264, and return the file's sha256.

    One thread and no dates, so that its bytes are always the same.
    """
    path = folder / f"{clip.key}.mp4"
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=settings.fps, options=_ENCODER)
        stream.width = stream.height = settings.size
        stream.pix_fmt = "yuv420p"
        for image in draw_clip(clip, settings):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return hashlib.sha256(path.read_bytes()).digest()


def _write_strip(folder: Path, settings: Synthesize, frames: int, clip: Clip) -> bytes:
    """Encode a clip's faces as one JPEG, and return the file's sha256."""
    strip = encode_strip(draw_faces(clip, settings, frames), _STRIP_QUALITY, "444")
    path = folder / f"{clip.key}.jpg"
    with naming(path):
        path.write_bytes(strip)
    return hashlib.sha256(strip).digest()


def _write_lists(folder: Path, clips: list[Clip]) -> None:
    """Write people.csv and the split lists: as DFEW, ids without leading zeros, labels 1..7."""
    for fold in range(1, FOLDS + 1):
        for part in ("train", "test"):
            rows = [
                (clip.number, BASIC.index(clip.label) + 1)
                for clip in clips
                if (clip.fold == fold) == (part == "test")
            ]
            path = folder / LISTS / f"{part}(single-labeled)" / f"set_{fold}.csv"
            _write_csv(path, ("video_name", "label"), rows)
    header = ("clip", "identity", "fold", "label", "blend", "peak")
    people = [(c.key, c.identity, c.fold, c.label, c.blend, f"{c.peak:.3f}") for c in clips]
    _write_csv(folder / "people.csv", header, people)


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def _run(write: Callable[[Clip], bytes], clips: list[Clip], workers: int) -> Iterable[bytes]:
    """Write the clips; yield the digest of each, in their order."""
    if workers <= 1:
        yield from map(write, clips)
        return
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
            yield from pool.map(write, clips, chunksize=4)
    except BrokenProcessPool as error:
        raise ProcessError(
            "a process that draws clips was killed (out of memory?); see runtime.workers"
        ) from error


def _start_worker() -> None:
    die_with_parent()
    cv2.setNumThreads(1)
