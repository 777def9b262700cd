"""Is the chosen track one face, filled and smoothed by the rules?"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.face.track import Track, choose_track, link, smooth_boxes

T = 16


def face(x: float, y: float, size: float, score: float = 0.9) -> list[float]:
    return [x - size / 2, y - size / 2, x + size / 2, y + size / 2, score]


def frames(*rows: list[list[float]]) -> list[NDArray[np.float32]]:
    return [np.array(row, dtype=np.float32).reshape(-1, 5) for row in rows]


def choose(detections: list[NDArray[np.float32]], max_gap: int = 4, smooth: float = 0.0) -> Track:
    track = choose_track(detections, max_gap=max_gap, smooth=smooth)
    assert track is not None
    assert track.boxes.shape == (len(detections), 4)
    assert track.boxes.dtype == track.scores.dtype == np.float32
    np.testing.assert_array_equal(track.scores > 0, track.detected)
    return track


def test_no_detection_no_track() -> None:
    assert choose_track(frames(*[[]] * T), max_gap=4, smooth=1.0) is None


def test_gap_is_interpolated_by_hand() -> None:
    found = frames([face(10, 20, 8)], [], [], [], [face(14, 16, 12)])
    track = choose(found, max_gap=3)
    assert track.boxes[1].tolist() == [6.5, 14.5, 15.5, 23.5]  # centre (11, 19), size 9
    assert track.boxes[2].tolist() == [7, 13, 17, 23]  # centre (12, 18), size 10
    assert track.boxes[3].tolist() == [7.5, 11.5, 18.5, 22.5]  # centre (13, 17), size 11
    assert track.detected.tolist() == [True, False, False, False, True]
    assert not track.held.any()


def test_longer_gap_holds_the_nearest_box() -> None:
    first, last = face(10, 20, 8), face(12, 20, 8)
    track = choose(frames([first], [], [], [], [last]), max_gap=2)
    assert track.held.tolist() == [False, True, True, True, False]
    for t, expected in enumerate([first, first, first, last, last]):
        assert track.boxes[t].tolist() == expected[:4]


def test_ends_hold_and_are_a_guess_however_short() -> None:
    rows = [[]] * 3 + [[face(10, 20, 8)]] * 2 + [[]]
    track = choose(frames(*rows), max_gap=2)
    assert track.held.tolist() == [True, True, True, False, False, True]
    assert (track.boxes == track.boxes[3]).all()
    assert track.scores.tolist() == pytest.approx([0, 0, 0, 0.9, 0.9, 0])


def test_the_larger_of_two_faces_wins_and_so_does_the_longer() -> None:
    small, large = face(20, 20, 10), face(80, 20, 30)
    assert choose(frames(*[[small, large]] * T)).boxes[0].tolist() == large[:4]
    same = face(80, 20, 10)
    rows = [[small, same]] * 6 + [[small]] * 10
    assert choose(frames(*rows)).boxes[0].tolist() == small[:4]
    glimpse = [[small, large]] * 2 + [[small]] * 14  # 16 * 10 beats 2 * 30
    assert choose(frames(*glimpse)).boxes[0].tolist() == small[:4]


def test_a_cut_to_another_person_ends_the_track() -> None:
    rows = [[face(100, 100, 60)]] * 10 + [[face(300, 100, 60)]] * 6
    track = choose(frames(*rows), smooth=1.0)
    assert track.detected.tolist() == [True] * 10 + [False] * 6
    assert track.held.tolist() == [False] * 10 + [True] * 6
    np.testing.assert_allclose(track.boxes, np.tile(face(100, 100, 60)[:4], (T, 1)), rtol=1e-6)
    # another size at the same place is another person too
    rows = [[face(100, 100, 60)]] * 10 + [[face(100, 100, 20)]] * 6
    assert choose(frames(*rows)).detected.sum() == 10


def test_a_face_that_moves_far_between_the_frames_is_followed() -> None:
    rows = [[face(50 + 45 * t, 100, 60)] for t in range(T)]
    assert choose(frames(*rows), smooth=1.0).detected.all()


def test_after_a_long_loss_only_a_near_face_is_the_same() -> None:
    before = [[face(100, 100, 60)]] * 4
    near = before + [[]] * 6 + [[face(120, 100, 60)]] * 6
    far = before + [[]] * 6 + [[face(145, 100, 60)]] * 6
    assert choose(frames(*near), max_gap=2).detected.sum() == 10
    assert choose(frames(*far), max_gap=2).detected.sum() == 6


people = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "sizes": st.tuples(st.floats(40, 80), st.floats(40, 80)),
        "apart": st.floats(1.6, 4),
        "lost": st.floats(0, 0.4),
    }
)


@given(people)
def test_two_people_are_never_mixed(case: dict[str, object]) -> None:
    """Two heads wander by a third of a face around places that are 1.6 faces or more apart."""
    rng = np.random.default_rng(case["seed"])
    sizes, apart = case["sizes"], case["apart"]
    places = [(200.0, 200.0), (200.0 + apart * max(sizes), 200.0)]
    detections, owners = [], []
    for _ in range(T):
        row = []
        for person in (0, 1):
            if rng.random() >= case["lost"]:
                x, y = places[person] + rng.uniform(-0.16, 0.16, 2) * sizes[person]
                row.append((person, face(x, y, sizes[person] * rng.uniform(0.9, 1.1))))
        rng.shuffle(row)
        detections.append(np.array([box for _, box in row], dtype=np.float32).reshape(-1, 5))
        owners.append([person for person, _ in row])
    tracks = link(detections, max_gap=4)
    assert sum(map(len, tracks)) == sum(map(len, detections))
    totals = []
    for track in tracks:
        persons = {owners[t][i] for t, i in track.items()}
        assert len(persons) == 1
        totals.append(sum(np.sqrt(np.prod(detections[t][i][2:4] - detections[t][i][:2]))
                          for t, i in track.items()))  # fmt: skip
    assert len(tracks) == len({person for row in owners for person in row})
    if tracks:
        best = tracks[int(np.argmax(totals))]
        track = choose(detections)
        assert set(np.flatnonzero(track.detected)) == set(best)
        for t, i in best.items():
            np.testing.assert_allclose(track.boxes[t], detections[t][i][:4], rtol=1e-6)


@given(
    st.lists(st.floats(1, 500), min_size=4, max_size=4),
    st.integers(1, T),
    st.just(0.0) | st.floats(0.01, 8),
)
def test_smoothing_a_constant_is_the_constant(sides: list[float], count: int, sigma: float) -> None:
    x, y, width, height = sides
    boxes = np.tile([x, y, x + width, y + height], (count, 1))
    np.testing.assert_allclose(smooth_boxes(boxes, sigma=sigma), boxes, rtol=1e-9)


def test_smoothing_follows_the_literal_sum() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([face(100, 100, 50)[:4]] * 7) + rng.uniform(-2, 2, (7, 4))
    for t, row in enumerate(smooth_boxes(boxes, sigma=1.5)):
        weights = [np.exp(-((t - s) ** 2) / (2 * 1.5**2)) for s in range(7)]
        expected = sum(w * box for w, box in zip(weights, boxes, strict=True)) / sum(weights)
        np.testing.assert_allclose(row, expected)


def test_smoothing_does_not_pull_across_a_jump() -> None:
    boxes = np.array([face(100, 100, 50)[:4]] * 4 + [face(140, 100, 50)[:4]] * 4)
    np.testing.assert_allclose(smooth_boxes(boxes, sigma=2.0), boxes)


def test_smoothing_steadies_a_trembling_box() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([face(100, 100, 50)[:4]] * T) + rng.normal(0, 1, (T, 4))
    assert smooth_boxes(boxes, sigma=1.0).std(axis=0).max() < 0.8 * boxes.std(axis=0).min()
