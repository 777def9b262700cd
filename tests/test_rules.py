"""Rules without a number, held by what comes out: who changes a rule gives it another name.

Each rule of the preprocessing id has here the digest of what it makes of fixed inputs. Another
digest under the same name fails; so does a name without one.
"""

import hashlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from support import drawn_faces, write_at

from pipeline.face.crop import CROP_RULE, crop_faces
from pipeline.face.detect import LOOK_RULE, detect_clip
from pipeline.face.preprocessing import SAMPLING_RULES
from pipeline.face.track import TRACK_RULE, all_tracks
from pipeline.video.decode import Decoded, frame_indices, read_video
from pipeline.video.frames import place_frames
from pipeline.video.picture import PICTURE_RULE, Pictures

T = 16


def digest(values: Any) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:12]


def sample_times(folder: Path) -> Any:
    """Places of the frames of clips at a constant and at a changing rate."""
    constant = [frame_indices(n, count) for n in (1, 7, 16, 17, 100) for count in (4, 16, 32)]
    moments = [40 * i for i in range(20)] + [800 + 120 * i for i in range(20)]
    path = write_at(folder / "a.mp4", drawn_faces(3, 40), moments)
    return constant, [read_video(path, frames=count).indices for count in (8, 16)]


def sample_numbers(folder: Path) -> Any:
    lists = (["1.jpg", "3.jpg", "4.jpg"], ["0.25.jpg", "0.5.jpg", "1.0.jpg"], ["b.jpg", "a.jpg"])
    return [place_frames(names) for names in lists]


def sample_strips(folder: Path) -> Any:
    return [frame_indices(n, T) for n in range(1, 70)]


def boxes_of(number: int) -> list[np.ndarray]:
    """Detections of a clip: two faces on their ways, with gaps, noise and jumps."""
    rng = np.random.default_rng(number)
    found = []
    for t in range(T):
        rows = []
        for face, (x, y, size) in enumerate(((60, 80, 40), (200, 90, 60))):
            if rng.random() < 0.8:
                x, y = x + 4 * t + (8 * number if face and t > 9 else 0), y + rng.normal(0, 2)
                rows.append([x, y, x + size, y + size + rng.normal(0, 2), 0.9 - 0.1 * face])
        found.append(np.array(rows, np.float32).reshape(-1, 5))
    return found


def track(folder: Path) -> Any:
    made = []
    for number in range(12):
        for each in all_tracks(boxes_of(number), max_gap=4, smooth=1.0):
            boxes = np.round(each.boxes.astype(float), 1) + 0.0
            made.append((boxes.tolist(), each.detected.tolist(), each.held.tolist(), each.cuts))
    one, two = drawn_faces(1, T), drawn_faces(5, T)
    box = [np.array([[24, 20, 72, 76, 0.9]], np.float32)] * T
    for frames in (one, np.concatenate([one[:7], two[7:]])):
        tracks = all_tracks(box, max_gap=4, smooth=0, frames=frames)
        made.append([(each.detected.tolist(), each.cuts) for each in tracks])
    return made


def look(folder: Path) -> Any:
    """In which frames the detector looks, in one shot and over a cut, with a face and without."""
    made = []
    one, two = drawn_faces(1, T), drawn_faces(5, T)
    for frames in (one, np.concatenate([one[:7], two[7:]])):
        for speed, score in ((0, 0.9), (0, 0.55), (0, 0.62), (1, 0.9), (2, 0.9), (4, 0.9), (0, 0)):
            seen: list[int] = []

            def detect(frame: np.ndarray, seen=seen, frames=frames, how=(speed, score)) -> Any:
                t = int(np.flatnonzero([np.shares_memory(frame, f) for f in frames])[0])
                seen.append(t)
                rows = [[24 + how[0] * t, 20, 72 + how[0] * t, 76, how[1]]] if how[1] else []
                return np.array(rows, np.float32).reshape(-1, 5)

            clip = Decoded(frames, list(range(T)), T, 25.0, 96, 96, "")
            boxes = detect_clip(clip, detect, every=4, threshold=0.5)
            made.append((seen, [np.round(each.astype(float), 2).tolist() for each in boxes]))
    return made


def crop(folder: Path) -> Any:
    """Means of the cells of crops, in steps that no rounding of a pixel crosses."""
    y, x = np.mgrid[0:120, 0:160]
    picture = np.stack([x, y, (x + y) // 2], -1).astype(np.uint8)
    frames = np.stack([np.roll(picture, t, 0) for t in range(4)])
    boxes = np.array([[40 + t, 30, 80 + t, 80 + 2 * t] for t in range(4)], np.float32)
    made = []
    for size, margin in ((16, 0.25), (64, 0.0), (112, 0.5)):
        faces = crop_faces(frames, boxes, size=size, margin=margin).astype(float)
        cells = faces.reshape(4, 4, size // 4, 4, size // 4, 3).mean((2, 4))
        made.append(np.round(cells / 2).astype(int).tolist())
    return made


def picture(folder: Path) -> Any:
    """What frames of some formats and shapes of pixels become."""
    made = []
    ramp = np.indices((96, 128)).sum(0)
    for form in ("yuv420p", "yuv422p10le", "yuvj420p", "gray", "rgb24"):
        for shape in (Fraction(1), Fraction(16, 11)):
            rgb = np.stack([ramp, 224 - ramp, ramp // 2], -1).clip(0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=form)
            shown = Pictures(shape).show(frame).astype(float)
            cells = [
                shown[y : y + 8, x : x + 8].mean((0, 1)) for y in (0, 40, 88) for x in (0, 64, 110)
            ]
            made.append((shown.shape, np.round(np.array(cells) / 4).astype(int).tolist()))
    return made


GOLDEN = {
    SAMPLING_RULES["video"]: (sample_times, "c028a6b021b3"),
    SAMPLING_RULES["frames"]: (sample_numbers, "4fd27feed3c5"),
    SAMPLING_RULES["strips"]: (sample_strips, "d15093f8e14c"),
    LOOK_RULE: (look, "333b2dcddb29"),
    TRACK_RULE: (track, "d636bd2bd627"),
    CROP_RULE: (crop, "6cda4b730f19"),
    PICTURE_RULE: (picture, "017930b984f8"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_rule_makes_what_its_name_stands_for(name: str, tmp_path: Path) -> None:
    make, expected = GOLDEN[name]
    assert digest(make(tmp_path)) == expected, f"the rule {name} has changed: give it a new name"
