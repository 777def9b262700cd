"""The one face of each clip, frame by frame.

manifest.parquet goes in, faces.parquet comes out, with one row for every clip of the manifest: a
clip that cannot be read, or shows no face, is a row with its status and reason, never a gap.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.content import RawClips, digest
from pipeline.face.cache import StripCache, add, filling, made_by, seal
from pipeline.face.crop import centre_square, make_strip
from pipeline.face.detect import DETECTORS, detect_clip, load_closer, load_detector, no_face
from pipeline.face.preprocessing import preprocessing
from pipeline.face.table import ClipFaces, Status, settings_of, write_faces
from pipeline.face.track import NEARLY_ALL, Track, choose_track
from pipeline.manifest import Rows, read_manifest
from pipeline.pool.children import Failure
from pipeline.pool.pool import Pool
from pipeline.video.decode import Decoded, Decoder, Source, load_decoder
from pipeline.video.frames import gone, read_clip
from safe.config import Faces, Shard
from safe.errors import DataError, MissingError
from safe.sample import DEFAULT_FRAMES


@dataclass(frozen=True)
class Clip:
    """What finding one clip's face needs of its row in the manifest."""

    path: str
    """Relative to data.root or runtime.clips."""
    source: Source
    bytes: int | None = None
    """Of its file when the index was made; None: there was none."""


@dataclass(frozen=True)
class Found:
    """What one clip gave."""

    faces: ClipFaces
    strip: bytes | None = None
    """Its strip, where one was to be made."""


def find_faces(
    manifest: Path,
    root: Path,
    out: Path,
    *,
    settings: Faces,
    frames: int = DEFAULT_FRAMES,
    pool: Pool,
    cache: StripCache | None = None,
    on_done: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Find the face of every clip of the manifest and write faces.parquet.

    Args:
        manifest: manifest.parquet of the index stage.
        root: the dataset's folder, which the manifest's paths are relative to.
        out: the faces.parquet to write; it appears whole. Its bytes depend on clips and
            settings alone.
        settings: the section faces of params.yaml.
        frames: T, of a clip: shard.frames of params.yaml.
        pool: who decodes and looks. Changes no byte.
        cache: which strips to make in passing, for the stage shard (pipeline/face/cache.py).
        on_done: called with the number of clips finished so far.

    Returns:
        How many clips have each status: ok, partial, missing, error.

    Raises:
        DataError: if the manifest is missing or not readable, the detector is not installed, or the
            store fails for good.
        MachineError, OSError: if the machine fails for longer than the pool's patience; a clip that
            is not there any more counts as that.
    """
    table = read_manifest(manifest)
    keys: Rows[str] = Rows(table.select(["clip"]), str)
    detects = pc.any(pc.equal(table["source"], "video")).as_py()
    if detects:
        DETECTORS[settings.detector].weights()  # missing: told here, once, not by every child
    pool.require()
    strip = None if cache is None else cache.settings
    raw = None if pool.clips else RawClips(root, Rows(table.select(["path"]), str))
    made = settings_of(settings, frames)
    find = partial(find_clip, root=root.absolute(), settings=settings, frames=frames, strip=strip)
    results = pool.run(
        find,
        Rows(table.select(["path", "source", "bytes"]), Clip),
        setup=partial(prepare, settings) if detects else None,
        fallback=partial(find, decoder="pyav"),
        on_done=on_done,
    )
    counts: Counter[str] = Counter()

    def rows() -> Iterator[ClipFaces]:
        for clip, found in zip(keys, results, strict=True):
            if isinstance(found, Failure):
                found = Found(ClipFaces(status="error", reason=found.reason))
            if file is not None and found.strip is not None:
                add(file, clip, found.strip)
            counts[found.faces.status] += 1
            yield replace(found.faces, settings=made)
        if raw is not None:
            raw.check()

    with filling(cache) as file:
        write_faces(keys, rows(), out)
        if cache is not None and file is not None and len(table):
            rules = preprocessing(table["source"][0].as_py(), faces=settings, shard=cache.settings)
            seal(file, made_by(out, rules), None if raw is None else raw.stamps)
    return {status: counts[status] for status in ("ok", "partial", "missing", "error")}


def prepare(settings: Faces) -> None:
    """Load the detector and the video decoder once in each child."""
    load_decoder()
    load_detector(settings.detector, settings.detect_size, settings.threshold)


def find_clip(
    clip: Clip,
    *,
    root: Path,
    settings: Faces,
    frames: int = DEFAULT_FRAMES,
    strip: Shard | None = None,
    decoder: Decoder = "decord",
) -> Found:
    """Read one clip and find its face. A clip that cannot be read has status error and a reason.

    With the settings of a strip, the strip is made too, unless the clip is not to be stored.
    """
    path = root / clip.path
    try:
        decoded = read_clip(path, clip.source, decoder=decoder, frames=frames)
    except MissingError as error:
        if clip.bytes is not None:
            raise gone(path) from error
        return Found(ClipFaces(status="error", reason=str(error)))
    except DataError as error:
        return Found(ClipFaces(status="error", reason=str(error), sha256=digest(path)))
    faces = locate(decoded, source=clip.source, settings=settings)
    faces = replace(faces, sha256=digest(path))
    if strip is None or faces.unusable(settings.missing):
        return Found(faces)
    return Found(faces, make_strip(decoded, faces, source=clip.source, settings=strip))


def locate(decoded: Decoded, *, source: Source, settings: Faces) -> ClipFaces:
    """Find the one face of a decoded clip.

    A clip of face crops (`source` frames or strips) is a face already: its box is the whole frame.
    A clip without a face gets the centre square of its frames; using it or not is up to the shard
    stage (faces.missing).

    The status is ok if the face is detected in at least three quarters of the frames, is nowhere
    lost for more than max_gap of them, no cut parts them, and no frame is damaged; else partial.

    A box with score 0 is no detection. Where the face was lost, `reason` counts those frames, and
    all frames were looked at: boxes between two detections are interpolated, those before the first
    and after the last are held. Where the face is steady and frames between were not looked at
    (pipeline/face/detect.py), `reason` counts nothing. No clip has both.
    """
    count = len(decoded.indices)
    height, width = decoded.frames.shape[1:3]
    reasons = [decoded.damage] if decoded.damage else []
    status: Status = "partial" if decoded.damage else "ok"
    if source != "video":
        box, score = _repeat((0, 0, width, height), count), np.ones(count, dtype=np.float32)
    else:
        detector = load_detector(settings.detector, settings.detect_size, settings.threshold)
        detections = detect_clip(
            decoded,
            detector,
            every=settings.every,
            threshold=settings.threshold,
            closer=load_closer(width, height, settings),
        )
        track = choose_track(
            detections, max_gap=settings.max_gap, smooth=settings.smooth, frames=decoded.frames
        )
        if track is None:
            status = "missing"
            reasons.append(no_face(width, height, settings))
            box = _repeat(centre_square(height, width), count)
            score = np.zeros(count, dtype=np.float32)
        else:
            box, score = track.boxes, track.scores
            there, told = _presence(track, settings.max_gap)
            status = status if there else "partial"
            reasons += told
    reasons += decoded.notes
    return ClipFaces(
        status=status,
        reason="; ".join(reasons),
        n_frames=decoded.n_frames,
        fps=decoded.fps,
        width=width,
        height=height,
        frame_index=tuple(decoded.indices),
        box=tuple(map(tuple, box.tolist())),
        score=tuple(score.tolist()),
    )


def _presence(track: Track, max_gap: int) -> tuple[bool, list[str]]:
    """Say whether nearly all frames show the face in one shot, and what speaks against it."""
    count, found = len(track.detected), int(track.detected.sum())
    told = []
    if track.cuts:
        frames = " and ".join(map(str, track.cuts))  # a cut before frame t of 0.. is after t of 1..
        one = len(track.cuts) == 1
        told.append(f"{'a cut after frame' if one else 'cuts after frames'} {frames} of {count}")
    gaps = [len(list(run)) for seen, run in groupby(track.detected.tolist()) if not seen]
    there = found >= NEARLY_ALL * count and max(gaps, default=0) <= max_gap
    if not there:
        told.append(f"face in {found} of {count} frames")
    else:
        held = int(track.held.sum())
        guessed = {"interpolated": count - found - held, "held": held}
        told += [f"{n} of {count} frames {how}" for how, n in guessed.items() if n]
    return there and not track.cuts, told


def _repeat(box: tuple[float, ...], count: int) -> NDArray[np.float32]:
    return np.tile(np.array(box, dtype=np.float32), (count, 1))
