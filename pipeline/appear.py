"""Which faces do the frames of a window show, and how would they be stored?

A stretch of a video goes in, with the settings that a model was trained with; for each of its
windows its faces come out, found, cut out and encoded by the code that makes the shards. This is
what the child processes of pipeline/windows.py do.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

from pipeline.decode import Decoded, Decoder, load_decoder, read_video
from pipeline.face.crop import crop_faces, crop_side
from pipeline.face.detect import load_detector
from pipeline.face.look import Seen, detect_clip, load_closer, no_face
from pipeline.face.track import Track, all_tracks
from pipeline.quality import find_flags
from pipeline.stretch import Stretch, read_windows
from safe.config import Faces, Shard
from safe.errors import DataError
from safe.sample import encode_strip

Who = Literal["largest", "all"]
"""Of each window the one face that the shard stage would store, or all of them."""

_SEEN: Final = 0.5
"""Share of the frames that must show a face besides the largest: else most boxes would be
guesses."""


@dataclass(frozen=True)
class Settings:
    """What decides which faces are found in given frames, and how they are stored."""

    faces: Faces
    shard: Shard
    who: Who


@dataclass(frozen=True)
class Appearance:
    """One face in one window; whose it is has yet to be found out."""

    track: Track
    strip: bytes
    """JPEG of its 16 faces."""
    flags: tuple[str, ...]


Answer = list[Appearance] | str
"""The faces of a window, the largest first; or why there is none."""


def prepare(settings: Faces) -> None:
    """Load the detector and the video decoder once in a child."""
    load_decoder()
    load_detector(settings.detector, settings.detect_size, settings.threshold)


def find_in_whole(video: Path, *, settings: Settings, decoder: Decoder = "decord") -> list[Answer]:
    """Find the faces of a video that is one window, read as the faces stage would read it."""
    try:
        decoded = read_video(video, decoder=decoder, frames=settings.shard.frames)
    except DataError as error:
        return [str(error)]
    return [find_in_window(decoded, settings=settings, seen={})]


def find_in_stretch(stretch: Stretch, *, settings: Settings) -> list[Answer]:
    """Find the faces of each window of a stretch."""
    answers: list[Answer] = []
    seen: Seen = {}
    try:
        for decoded in read_windows(stretch):
            if decoded is None:
                answers.append("no frame could be decoded")
            else:
                answers.append(find_in_window(decoded, settings=settings, seen=seen))
    except DataError as error:  # what came before it counts
        answers += [str(error)] * (len(stretch.windows) - len(answers))
    return answers


def find_in_window(decoded: Decoded, *, settings: Settings, seen: Seen) -> Answer:
    """Find the faces of a window.

    Where all faces are wanted and a look met more than one, every frame is looked at: beside a
    steady face much smaller ones would go unseen (pipeline/face/look.py).

    Args:
        decoded: its frames.
        settings: of faces and strips.
        seen: detections in other windows of the video; those made here are added.
    """
    faces, shard = settings.faces, settings.shard
    detect = load_detector(faces.detector, faces.detect_size, faces.threshold)
    closer = load_closer(decoded.width, decoded.height, faces)
    look = partial(
        detect_clip, decoded, detect, threshold=faces.threshold, closer=closer, seen=seen
    )
    detections = look(every=faces.every)
    several = any(len(seen.get((False, place), ())) > 1 for place in decoded.indices)
    if settings.who == "all" and several:
        detections = look(every=1)
    tracks = all_tracks(
        detections, max_gap=faces.max_gap, smooth=faces.smooth, frames=decoded.frames
    )
    if not tracks:
        return no_face(decoded.width, decoded.height, faces)
    others = tracks[1:] if settings.who == "all" else []
    chosen = [tracks[0], *(track for track in others if track.detected.mean() >= _SEEN)]
    return [_appear(decoded, track, faces=faces, shard=shard) for track in chosen]


def _appear(decoded: Decoded, track: Track, *, faces: Faces, shard: Shard) -> Appearance:
    """Cut one face out, encode it, and say what may be wrong with it."""
    crops = crop_faces(decoded.frames, track.boxes, size=shard.size, margin=shard.margin)
    found = find_flags(
        crops,
        track,
        side=crop_side(track.boxes, margin=shard.margin),
        damaged=bool(decoded.damage),
    )
    strip = encode_strip(crops, shard.quality, shard.chroma)
    return Appearance(track, strip, (*found, *decoded.notes))
