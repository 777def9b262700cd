"""Does the same face keep its number from window to window, and no two share one?"""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.face.track import Track
from pipeline.people import People

STEP = 3  # frames of the video between two of a window's frames
LENGTH = 16 * STEP
MAX_GAP = 4

Path = Callable[[int], tuple[float, float] | None]
"""Where the centre of a face is in frame n of the video; None: nowhere."""


def still(x: float, y: float = 100, *, since: int = 0, until: int = 10**6) -> Path:
    return lambda n: (x, y) if since <= n < until else None


def track(path: Path, indices: list[int], size: float = 40) -> Track | None:
    """Return the track of a face as pipeline.face.track would: held where there is no detection."""
    centres = [path(n) for n in indices]
    known = [i for i, centre in enumerate(centres) if centre is not None]
    if not known:
        return None
    nearest = [min(known, key=lambda k: abs(k - i)) for i in range(len(indices))]
    xy = np.array([centres[k] for k in nearest], np.float32)
    detected = np.isin(np.arange(len(indices)), known)
    boxes = np.concatenate([xy - size / 2, xy + size / 2], axis=1)
    return Track(boxes, detected.astype(np.float32), detected, ~detected)


def watch(
    paths: list[Path], *, windows: int, hop: int = 8 * STEP, order: int = 0
) -> list[dict[int, int]]:
    """Return for each window {face: its number}; `order` changes the order of its tracks."""
    people = People(step=STEP, max_gap=MAX_GAP)
    seen = []
    for w in range(windows):
        indices = [w * hop + STEP // 2 + STEP * i for i in range(16)]
        there = [(i, one) for i, path in enumerate(paths) if (one := track(path, indices))]
        there = there[::-1] if (w + order) % 2 else there
        numbers = people.number(indices, [one for _, one in there])
        assert len(set(numbers)) == len(numbers)
        seen.append({i: number for (i, _), number in zip(there, numbers, strict=True)})
    return seen


@pytest.mark.parametrize("hop", [STEP, 8 * STEP, LENGTH, 2 * LENGTH])
@pytest.mark.parametrize("order", [0, 1])
def test_two_still_faces_keep_their_numbers(hop: int, order: int) -> None:
    seen = watch([still(60), still(160)], windows=6, hop=hop, order=order)
    assert seen == [{0: 1, 1: 2}] * 6  # from left to right, whichever track comes first


def test_faces_that_change_sides_keep_their_numbers() -> None:
    paths: list[Path] = [lambda n: (60 + n, 60), lambda n: (260 - n, 160)]
    assert watch(paths, windows=8) == [{0: 1, 1: 2}] * 8


def test_a_second_person_comes_and_the_first_goes() -> None:
    seen = watch([still(60, until=100), still(160, since=60)], windows=8)
    assert seen[0] == {0: 1, 1: 2} or seen[0] == {0: 1}
    assert {number for window in seen for face, number in window.items() if face == 0} == {1}
    assert {number for window in seen for face, number in window.items() if face == 1} == {2}
    assert seen[-1] == {1: 2}


def test_a_face_lost_for_a_window_comes_back_where_it_was() -> None:
    def gone(n: int) -> tuple[float, float] | None:
        return None if 100 <= n < 180 else (60.0, 100.0)

    seen = watch([gone], windows=12)
    assert {} in seen
    assert {number for window in seen for number in window.values()} == {1}


def test_elsewhere_or_much_later_it_is_somebody_else() -> None:
    elsewhere = watch([still(60, until=100), still(120, since=180)], windows=12)
    assert elsewhere[0] == {0: 1}
    assert elsewhere[-1] == {1: 2}
    later = watch([still(60, until=100), still(60, since=100 + 5 * LENGTH)], windows=20)
    assert later[0] == {0: 1}
    assert later[-1] == {1: 2}


def test_a_lost_face_is_met_where_its_way_leads() -> None:
    """It passes behind something: lost for 36 frames, in which it moves by nearly a face."""

    def passing(n: int) -> tuple[float, float] | None:
        return None if 60 <= n < 96 else (40.0 + n, 100.0)

    hop = LENGTH  # no frame is shared, so only the way tells
    assert watch([passing], windows=4, hop=hop) == [{0: 1}] * 4


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    faces=st.integers(1, 5),
    hop=st.integers(1, 20).map(lambda k: k * STEP),
)
def test_no_number_is_given_twice_whatever_happens(seed: int, faces: int, hop: int) -> None:
    rng = np.random.default_rng(seed)
    people = People(step=STEP, max_gap=MAX_GAP)
    highest = 0
    for w in range(6):
        indices = [w * hop + 1 + STEP * i for i in range(16)]
        tracks = []
        for _ in range(faces):
            corner = rng.uniform(0, 100, (16, 2))
            boxes = np.concatenate([corner, corner + rng.uniform(5, 60)], axis=1)
            seen = rng.random(16) < 0.5
            seen[rng.integers(16)] = True
            tracks.append(Track(boxes.astype(np.float32), seen.astype(np.float32), seen, ~seen))
        numbers = people.number(indices, tracks)
        assert len(set(numbers)) == faces
        assert min(numbers) >= 1
        new = [number for number in numbers if number > highest]
        assert sorted(new) == list(range(highest + 1, highest + 1 + len(new)))  # none left out
        highest = max(highest, *numbers)


def test_a_face_that_a_short_video_repeats() -> None:
    people = People(step=1, max_gap=MAX_GAP)
    indices = [i // 4 for i in range(16)]
    one = track(still(60), indices)
    assert one is not None
    assert people.number(indices, [one]) == [1]
