"""Are the drawn heads people who move as their units say, and the same in every process?"""

import hashlib
import os
import subprocess
import sys
from dataclasses import asdict, replace
from functools import cache

import numpy as np
import pytest

from pipeline.face.detect import Detector
from pipeline.synthetic.anatomy import BODY, COUNT, INDEX, LIPS, MEAN, UNITS, move, unit_weights
from pipeline.synthetic.expressions import EXPRESSIONS, blend, unit_vector
from pipeline.synthetic.folds import FOLDS, fold_weights
from pipeline.synthetic.heads import face_places, render_heads
from pipeline.synthetic.person import draw_person, make_person
from pipeline.synthetic.raster import rasterise
from pipeline.synthetic.scene import Scene, draw_scene
from pipeline.synthetic.traits import Traits, draw_traits
from safe.taxonomy import BASIC

SIZE = 64
STILL = np.zeros((1, 3), np.float32)


def plain(**changes: float) -> Scene:
    """A scene without anything that hides what a test looks for."""
    scene = draw_scene(np.random.default_rng(0))
    straight = dict(yaw=0.0, pitch=0.0, roll=0.0, azimuth=0.0, elevation=0.3, blur=0.0, noise=0.0)
    return replace(scene, **straight | changes)


def shown(units: np.ndarray, scene: Scene, identity: int = 3, **options) -> np.ndarray:
    return render_heads(draw_person(5, identity), scene, units, STILL, SIZE, **options)[0]


@cache
def loop(seed: int) -> tuple[np.ndarray, ...]:
    """A random scene of triangles and what every pixel shows, found one pixel at a time."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-4, 24, (30, 3)).astype(np.float32)
    points[:10, 1] = np.round(points[:10, 1])  # some edges run along the rows
    faces = rng.integers(0, 30, (40, 3)).astype(np.int32)
    face, weights = np.full((19, 21), -1), np.zeros((19, 21, 3))
    depth = np.full((19, 21), -np.inf)
    for k, corners in enumerate(faces):
        matrix = np.vstack([points[corners, :2].T.astype(float), np.ones(3)])
        if np.linalg.det(matrix) > -1e-9:  # seen from behind, or a line
            continue
        inverse = np.linalg.inv(matrix)
        for i in range(19):
            for j in range(21):
                w = inverse @ (j + 0.5, i + 0.5, 1)
                z = np.float32(w @ points[corners, 2])
                if w.min() >= 0 and z >= depth[i, j]:
                    face[i, j], weights[i, j], depth[i, j] = k, w, z
    return points, faces, face, weights, depth


@pytest.mark.parametrize("seed", range(12))
def test_rasteriser_agrees_with_a_loop_over_pixels(seed):
    points, faces, face, weights, depth = loop(seed)
    seen = rasterise(points, faces, 19, 21)
    found = np.full(19 * 21, -1)
    found[seen.pixel] = seen.face
    assert (face >= 0).mean() > 0.5
    assert np.array_equal(found.reshape(19, 21), face)
    np.testing.assert_allclose(seen.weights, weights.reshape(-1, 3)[seen.pixel], atol=1e-5)
    np.testing.assert_allclose(seen.depth, depth.ravel()[seen.pixel], atol=1e-4)


def test_rasteriser_shows_both_sides_where_asked():
    points = np.array([[2, 2, 0], [2, 12, 0], [12, 2, 0]], np.float32)
    front, back = np.array([[0, 1, 2]], np.int32), np.array([[0, 2, 1]], np.int32)
    assert len(rasterise(points, back, 16, 16).pixel) == 0
    one, other = (rasterise(points, f, 16, 16, two_sided=True).pixel for f in (front, back))
    assert np.array_equal(one, other)
    assert len(one) > 40


DRAW = """
import hashlib, numpy as np
from pipeline.synthetic.expressions import unit_vector
from pipeline.synthetic.heads import render_heads
from pipeline.synthetic.person import draw_person
from pipeline.synthetic.scene import draw_scene
rng = np.random.default_rng(1)
scene, units = draw_scene(rng), unit_vector("fear", rng)[None]
for seed in SEEDS:
    for who in range(3):
        frames = render_heads(draw_person(seed, who), scene, units, np.zeros((1, 3), "f4"), 64)
        print(hashlib.sha256(frames.tobytes()).hexdigest())
"""


def test_bytes_depend_on_the_seed_alone():
    def draw(seeds: str, hashing: str, threads: str) -> list[str]:
        more = {"PYTHONHASHSEED": hashing, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-c", DRAW.replace("SEEDS", seeds)]
        done = subprocess.run(command, env=os.environ | more, capture_output=True, check=True)
        return done.stdout.decode().split()

    found = draw("(6, 5)", "1", "1")
    assert found[3:] == draw("(5,)", "2", "2")
    assert len(set(found)) == 6  # other people, each of them


def test_a_clip_is_the_same_whatever_was_drawn_before():
    units, scene = unit_vector("happy", np.random.default_rng(0))[None], plain(noise=2.0)
    before = shown(units, scene)
    shown(units * 0, scene, identity=8)
    assert np.array_equal(before, shown(units, scene))


def test_no_weight_moves_nothing_and_units_are_linear():
    assert len(UNITS) == 52
    assert not move(np.zeros((1, 52), np.float32)).any()
    weights = np.random.default_rng(0).uniform(0, 1, (3, 52)).astype(np.float32)
    assert move(weights).shape == (3, COUNT, 3)
    np.testing.assert_allclose(move(2 * weights), 2 * move(weights), atol=1e-5)


def test_units_move_what_they_name():
    def moved(**mix: float) -> np.ndarray:
        return move(unit_weights(mix)[None])[0]

    lips = np.flatnonzero(LIPS > 0.5)
    lower = lips[MEAN[lips, 1] < np.median(MEAN[lips, 1]) - 0.02]
    left, right = lips[MEAN[lips, 0].argmax()], lips[MEAN[lips, 0].argmin()]
    assert moved(jawOpen=1)[lower, 1].mean() < -0.1  # dm
    smile = moved(mouthSmileLeft=1)
    assert smile[left, 1] > 0.05
    assert abs(smile[right, 1]) < 0.005
    assert moved(mouthFrown=1)[[left, right], 1].max() < -0.02
    brows = BODY & (np.abs(MEAN[:, 1] - 7.5) < 0.08) & (MEAN[:, 2] > 0.9)
    assert moved(browInnerUp=1)[brows, 1].max() > 0.03
    assert moved(browDown=1)[brows, 1].min() < -0.03


def test_sides_are_mirrored():
    """The mesh is symmetric, and so are Left and Right of each unit."""
    mirrored = MEAN[BODY] * (-1, 1, 1)
    distance = ((mirrored[:, None, :2] - MEAN[BODY][None, ::7, :2]) ** 2).sum(-1)
    partner = distance.argmin(0)  # of every seventh point
    exact = np.flatnonzero(distance.min(0) < 1e-6)
    assert len(exact) > 300
    for name in ("mouthSmile", "browDown", "eyeBlink", "noseSneer"):
        left = move(unit_weights({f"{name}Left": 1})[None])[0][BODY]
        right = move(unit_weights({f"{name}Right": 1})[None])[0][BODY]
        ours = np.abs(left[::7]).sum(0)
        assert ours.sum() > 0.1
        np.testing.assert_allclose(ours, np.abs(right[partner]).sum(0), rtol=0.15)


def test_expressions_are_units_that_there_are():
    rng = np.random.default_rng(0)
    assert EXPRESSIONS.keys() == set(BASIC)
    for name, ways in EXPRESSIONS.items():
        for way in ways:  # an unknown name is a KeyError
            assert (unit_weights(way) != 0).sum() >= len(way)
        drawn = [unit_vector(name, rng) for _ in range(60)]
        sets = {tuple(np.flatnonzero(units)) for units in drawn}
        assert len(sets) == len({tuple(np.flatnonzero(unit_weights(way))) for way in ways})
        assert drawn[0].dtype == np.float32
    happy, mixed = EXPRESSIONS["happy"], blend({"happy": 0.5, "sad": 0.5}, rng)
    least = min(way["mouthSmile"] for way in happy) * 0.5 * 0.7
    assert mixed[INDEX["mouthSmileLeft"]] > least
    assert mixed[INDEX["browInnerUp"]] > 0.5


def test_folds_are_made_by_units_side_by_side():
    bare = fold_weights(np.zeros((1, 52), np.float32), old=0.0, strength=1.0)[0]
    left = fold_weights(unit_weights({"mouthSmileLeft": 1})[None], old=0.0, strength=1.0)[0]
    nasolabial = FOLDS.index("nasolabial")
    assert left[nasolabial, 0] > bare[nasolabial, 0] + 0.5
    assert left[nasolabial, 1] == bare[nasolabial, 1]
    assert (fold_weights(np.zeros((1, 52), np.float32), old=1.0, strength=1.0)[0] >= bare).all()


def test_light_comes_from_where_the_scene_says():
    rest = np.zeros((1, 52), np.float32)
    for azimuth, sign in ((-1.0, 1), (1.0, -1)):
        face = shown(rest, plain(azimuth=azimuth, fill=0.05)).astype(float)
        cheeks = face[30:44, 12:26].mean() - face[30:44, -26:-12].mean()
        assert sign * cheeks > 10


def test_poses_and_places_put_the_face():
    rest = np.zeros((1, 52), np.float32)
    upright, leaning = shown(rest, plain()), shown(rest, plain(roll=0.4))
    assert np.abs(upright.astype(int) - leaning).mean() > 5
    poses = np.array([[0.0, 0.0, 0.4]], np.float32)
    posed = render_heads(draw_person(5, 3), plain(), rest, poses, SIZE)[0]
    assert np.array_equal(posed[:20], leaning[:20])
    detect = Detector(detect_size=320, threshold=0.5)
    for x, y, share in ((0.4, 0.45, 0.3), (0.6, 0.5, 0.45)):
        frame = render_heads(
            draw_person(5, 3), plain(), rest, STILL, 192, places=np.array([[x, y, share]])
        )[0]
        (box,) = detect(frame)[:, :4]
        assert abs((box[0] + box[2]) / 2 / 192 - x) < 0.15 * share
        assert abs((box[3] - box[1]) / 192 / share - 1.14) < 0.25


def test_the_box_follows_the_face_only_where_asked():
    units = np.stack([np.zeros(52, np.float32), unit_weights({"jawOpen": 1})])
    options = {"places": face_places(2)}
    first, second = (
        render_heads(draw_person(5, 3), plain(), units, np.zeros((2, 3), np.float32), SIZE,
                     follow=follow, **options)
        for follow in (True, False)
    )  # fmt: skip
    brow = slice(8, 20)  # does not move with the jaw: only the box does
    still = np.abs(second[0, brow].astype(int) - second[1, brow]).mean()
    assert np.abs(first[0, brow].astype(int) - first[1, brow]).mean() > 2 * still + 1


def test_faces_are_found_by_the_detector():
    detect = Detector(detect_size=320, threshold=0.5)
    for who, name in enumerate(BASIC):
        rng = np.random.default_rng(who)
        scene, units = draw_scene(rng), unit_vector(name, rng)[None]
        place = np.array([[0.5, 0.45, 0.4]])
        frame = render_heads(draw_person(6, who), scene, units, STILL, 160, places=place)[0]
        assert len(detect(frame)) == 1


def test_traits_are_a_row_of_a_table_and_may_be_forced():
    traits = [draw_traits(np.random.default_rng(n), n) for n in range(200)]
    assert all(isinstance(value, (int, float, str, bool, tuple)) for t in traits
               for value in asdict(t).values())  # fmt: skip
    assert all(abs(t.african + t.asian + t.caucasian - 1) < 1e-9 for t in traits)
    assert {t.sex for t in traits} == {"female", "male"}
    assert {t.ancestry for t in traits} == {"african", "asian", "caucasian"}
    assert all(13 <= t.age <= 80 for t in traits)
    person = draw_person(5, 3)
    forced = make_person(replace(person.traits, glasses=not person.traits.glasses), 5)
    assert len(forced.wear) == len(person.wear) + (1 if forced.traits.glasses else -1)
    assert np.array_equal(forced.rest, person.rest)


def test_a_persons_rest_is_as_wide_as_asked():
    strict, wide = draw_person(5, 3, rest=0.0), draw_person(5, 3, rest=1.0)
    assert strict.traits == wide.traits
    assert 0.005 < np.abs(strict.rest - wide.rest).max() < 0.5


def digest(person) -> str:
    return hashlib.sha256(person.rest.tobytes() + person.albedo.tobytes()).hexdigest()


def test_people_differ():
    assert len({digest(draw_person(seed, who)) for seed in (1, 2) for who in range(4)}) == 8
    assert isinstance(draw_person(1, 0).traits, Traits)
