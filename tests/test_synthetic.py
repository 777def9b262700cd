"""Is the embedded data set laid out, split and drawn as it says?"""

import csv
import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from support import ROOT, small_config

from pipeline.face.crop import crop_faces
from pipeline.face.detect import Detector
from pipeline.synthesize import synthesize
from pipeline.synthetic.anatomy import INDEX, UNITS, unit_weights
from pipeline.synthetic.clip import HUES, draw_clip
from pipeline.synthetic.expressions import EXPRESSIONS
from pipeline.synthetic.factors import FACTORS, draw_again
from pipeline.synthetic.motion import draw_envelope, draw_motion
from pipeline.synthetic.plan import CONFUSED, FAINT, PEAK, count_classes, plan_clips
from pipeline.synthetic.traits import linear
from pipeline.video.decode import frame_indices
from pipeline.video.frames import read_clip
from safe.config import Synthesize
from safe.errors import DataError
from safe.sample import encode_strip
from safe.taxonomy import BASIC

LISTS = "EmoLabel_DataSplit"


def settings(**changes: object) -> Synthesize:
    small = {"clips": 35, "identities": 10, "size": 64, "ambiguity": 0.2}
    return Synthesize.model_validate(small | changes)


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def factors(root: Path) -> list[dict]:
    return pq.read_table(root / LISTS / FACTORS).to_pylist()


@pytest.fixture(scope="module")
def made(project: Path) -> Path:
    """A small data set of videos."""
    return project / "data" / "raw" / "synthetic"


DRAWN = small_config(ROOT).synthesize
"""The settings of `made`."""
FEW = 4
"""Frames of a strip."""
VARIED = {"variety": 1.0, "occlusion": 0.5, "seed": 3}


@pytest.fixture(scope="module")
def strips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set of strips, drawn as widely as can be, written by two processes."""
    out = tmp_path_factory.mktemp("strips") / "one"
    done: list[int] = []
    counts = synthesize(
        out, settings(**VARIED), source="strips", frames=FEW, workers=2, on_clip=done.append
    )
    assert done[-1] == 35
    assert done == sorted(done)
    assert counts == dict.fromkeys(BASIC, 5)  # 35 clips: the least a class everywhere
    assert [path.name for path in out.parent.iterdir()] == ["one"]  # no temporary folder stays
    return out


def test_layout_is_that_of_dfew(made: Path) -> None:
    names = sorted(path.name for path in (made / "Clip" / "original").iterdir())
    assert names == [f"{number:05d}.mp4" for number in range(1, 71)]
    for part in ("train", "test"):
        lists = made / LISTS / f"{part}(single-labeled)"
        assert sorted(p.name for p in lists.iterdir()) == [f"set_{k}.csv" for k in range(1, 6)]
        text = (lists / "set_1.csv").read_text(encoding="utf-8")
        assert text.startswith("video_name,label\n")
        assert all(not row["video_name"].startswith("0") for row in read_rows(lists / "set_1.csv"))


def test_split_lists_agree_with_the_factors(made: Path) -> None:
    people = {int(row["clip"]): row["plan"] for row in factors(made)}
    assert sorted(people) == list(range(1, 71))
    seen: list[int] = []
    for fold in range(1, 6):
        test, train = (
            {
                int(row["video_name"]): int(row["label"])
                for row in read_rows(made / LISTS / f"{part}(single-labeled)" / f"set_{fold}.csv")
            }
            for part in ("test", "train")
        )
        assert test.keys() | train.keys() == people.keys()
        assert not test.keys() & train.keys()
        assert set(test.values()) == set(range(1, 8))
        assert all(people[clip]["fold"] == fold for clip in test)
        for clip, label in (test | train).items():
            assert people[clip]["label"] == people[clip]["listed"] == BASIC[label - 1]
        seen += test
    assert sorted(seen) == sorted(people)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("clips", "identities", "tail"), [(35, 5, 1.0), (203, 17, 0.5), (900, 60, 0)]
)
def test_plan_splits_by_identity(seed: int, clips: int, identities: int, tail: float) -> None:
    plan = plan_clips(settings(seed=seed, clips=clips, identities=identities, tail=float(tail)))
    assert [clip.number for clip in plan] == list(range(1, clips + 1))
    folds_of: dict[int, set[int]] = {}
    for clip in plan:
        folds_of.setdefault(clip.identity, set()).add(clip.fold)
    assert all(len(folds) == 1 for folds in folds_of.values())
    assert set(folds_of) <= set(range(identities))
    cells = Counter((clip.fold, clip.label) for clip in plan)
    for label in BASIC:
        per_fold = [cells[fold, label] for fold in range(1, 6)]
        assert min(per_fold) >= 1
        assert max(per_fold) - min(per_fold) <= 1


def test_every_person_shows_several_classes() -> None:
    plan = plan_clips(settings(clips=900, identities=60))
    shown: dict[int, set[str]] = {}
    for clip in plan:
        shown.setdefault(clip.identity, set()).add(clip.label)
    assert len(shown) == 60
    assert min(len(labels) for labels in shown.values()) >= 5


def test_blends_are_of_confused_classes_and_leave_the_frequencies() -> None:
    plan = plan_clips(settings(clips=2000, identities=60, ambiguity=0.5, tail=0.0))
    blends = [clip for clip in plan if clip.blend]
    assert len(blends) == 1000
    assert all(clip.blend in CONFUSED[clip.label] for clip in blends)
    shares = np.array([clip.share for clip in blends])
    assert shares.min() >= 0.3
    assert shares.max() <= 0.7
    # the mean of w under a density proportional to w on [0.3, 0.7], by a slow sum
    grid = np.linspace(0.3, 0.7, 4001)
    assert shares.mean() == pytest.approx((grid * grid).sum() / grid.sum(), abs=0.012)
    assert all(clip.peak == 0 for clip in plan if clip.label == "neutral" and not clip.blend)
    assert all(PEAK[0] <= clip.peak <= PEAK[1] for clip in plan if clip.label != "neutral")
    assert all(one in CONFUSED[other] for one, others in CONFUSED.items() for other in others)


def test_class_counts() -> None:
    balanced = count_classes(900, 0.0)
    assert sum(balanced) == 900
    assert max(balanced) - min(balanced) <= 1
    tail = count_classes(9356, 1.0)
    assert tail == [1956, 1515, 2135, 1738, 1175, 116, 721]  # DFEW fd1 itself
    small = count_classes(60, 1.0)  # disgust would have 0.7 clips
    assert sum(small) == 60
    assert min(small) == small[BASIC.index("disgust")] == 5


def test_same_seed_same_bytes_with_any_number_of_workers(strips: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "one", settings(**VARIED), source="strips", frames=FEW, workers=1)
    first = digests(strips)
    assert len(first) == 35 + 10 + 1  # lists and factors
    assert digests(tmp_path / "one") == first


def test_the_factors_are_what_was_drawn(strips: Path, made: Path) -> None:
    rows = factors(strips)
    kinds = Counter(row["covered"] for row in rows)
    assert 8 <= 35 - kinds["nothing"] <= 27
    assert {row["pixels"] > 0 for row in rows} == {False, True}
    for row in rows[::6]:
        again = draw_again(row, settings(**VARIED)).faces(64, FEW, 0.1)
        assert hashlib.sha256(encode_strip(again, 92, "444")).hexdigest() == row["sha256"]
        assert sum(row["mixture"]) == pytest.approx(1)
        assert len(row["units"][0]) == len(UNITS)
    plan = {clip.key: clip for clip in plan_clips(DRAWN)}
    for row in factors(made)[::30]:
        again = draw_again(row, DRAWN)
        assert np.array_equal(again.frames(64), draw_clip(plan[row["clip"]], DRAWN).frames(64))


def test_strips_hold_the_faces_of_the_clips(strips: Path) -> None:
    clip = plan_clips(settings(**VARIED))[0]
    read = read_clip(strips / "Clip" / "strips" / f"{clip.key}.jpg", "strips", frames=FEW)
    drawn = draw_clip(clip, settings(**VARIED)).faces(64, FEW, 0.1)
    assert read.frames.shape == drawn.shape == (FEW, 64, 64, 3)
    assert np.abs(read.frames.astype(float) - drawn).mean() < 4  # of 255: compression


def test_a_strip_shows_what_the_clip_shows() -> None:
    # The frames of the clip, cut out by the pipeline's own detector and crop, are an independent
    # way to the same faces: more like the clip's strip than like any other.
    detector = Detector(detect_size=320, threshold=0.5)
    cuts, strips, found = [], [], []
    for plan in plan_clips(settings())[:6]:
        clip = draw_clip(plan, settings())
        drawn = clip.frames(128)
        chosen = frame_indices(len(drawn))[::5]
        seen = [detector(drawn[i]) for i in chosen]
        found += [len(boxes) >= 1 for boxes in seen]
        boxes = np.array([one[0][:4] for one in seen], dtype=np.float32)
        cuts.append(crop_faces(drawn[chosen], boxes, size=64, margin=0.25).mean(axis=3).ravel())
        strips.append(clip.faces(64, 16, 0.25)[::5].mean(axis=3).ravel())
    assert all(found)
    alike = np.corrcoef(cuts, strips)[:6, 6:]
    own, other = np.diag(alike), alike[~np.eye(6, dtype=bool)]
    assert own.mean() > 0.5
    assert own.mean() > other.mean() + 0.3
    assert (own > other.reshape(6, 5).mean(axis=1)).all()


def test_faint_clips_hardly_show() -> None:
    plain, some = plan_clips(settings(clips=400)), plan_clips(settings(clips=400, faint=0.5))
    changed = [two for one, two in zip(plain, some, strict=True) if one != two]
    assert all(FAINT[0] <= clip.peak <= FAINT[1] for clip in changed)
    # Half of the clips, but for plain neutral faces, which show nothing at all.
    assert 140 <= len(changed) <= 200
    assert [(c.label, c.identity, c.fold) for c in plain] == [
        (c.label, c.identity, c.fold) for c in some
    ]


def test_wrong_labels_are_in_the_training_folds_alone(tmp_path: Path) -> None:
    plan = plan_clips(settings(clips=1000, noise=0.3))
    wrong = [clip for clip in plan if clip.listed != clip.label]
    assert {clip.fold for clip in wrong} == {2, 3, 4, 5}
    assert 0.8 * 300 * 0.8 < len(wrong) < 0.8 * 300 * 1.2
    plain = plan_clips(settings(clips=1000))
    assert [replace(clip, listed=clip.label) for clip in plan] == plain
    # What the lists say is the wrong label; what was drawn stays in the factors.
    noisy = settings(noise=0.5, size=32)
    synthesize(tmp_path / "noisy", noisy, source="strips", frames=1, workers=1)
    lists = tmp_path / "noisy" / LISTS / "train(single-labeled)" / "set_1.csv"
    listed = {int(row["video_name"]): BASIC[int(row["label"]) - 1] for row in read_rows(lists)}
    shown = {clip.number: clip for clip in plan_clips(noisy)}
    assert all(shown[number].listed == name for number, name in listed.items())
    assert any(shown[number].label != name for number, name in listed.items())


def test_a_cue_goes_with_the_class_in_the_training_folds_alone() -> None:
    look = settings(clips=700, cue="background")
    plan = plan_clips(look)
    assert all(clip.cue == BASIC.index(clip.label) for clip in plan if clip.fold > 1)
    told = np.mean([clip.cue == BASIC.index(clip.label) for clip in plan if clip.fold == 1])
    assert abs(told - 1 / 7) < 0.1
    for clip in plan[:4]:
        scene = draw_clip(clip, look).scene
        assert scene.background == linear(HUES[clip.cue])
    light = settings(clips=700, cue="light")
    sides = {clip.cue: draw_clip(clip, light).scene.azimuth for clip in plan_clips(light)[:60]}
    assert list(sides[k] for k in sorted(sides)) == sorted(sides.values())
    assert min(sides.values()) < -1 < 1 < max(sides.values())


@pytest.mark.parametrize("shown", [0.25, 0.5])
def test_an_expression_shows_in_as_many_frames_as_it_should(shown: float) -> None:
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(200):
        envelope = draw_envelope(rng, 30, shown)
        assert envelope.max() > 0.9
        counts.append((envelope[frame_indices(30)] > 0.5).sum())
    assert np.mean(counts) == pytest.approx(16 * shown, rel=0.15)
    clip = plan_clips(settings())[0]
    usual, brief = draw_clip(clip, settings()), draw_clip(clip, settings(shown=shown))
    assert (usual.motion.envelope != brief.motion.envelope).any()
    assert usual.scene == brief.scene
    assert (usual.motion.turns == brief.motion.turns).all()
    assert (usual.places == brief.places).all()


def test_another_seed_draws_other_people() -> None:
    assert plan_clips(settings(seed=1)) != plan_clips(settings())
    clip = plan_clips(settings())[0]
    one, two = draw_clip(clip, settings()), draw_clip(clip, settings(seed=1))
    assert one.person.traits != two.person.traits
    assert np.abs(one.person.rest - two.person.rest).max() > 0.01


def test_clips_decode_to_what_was_drawn(made: Path) -> None:
    lengths = []
    plan = plan_clips(DRAWN)
    for clip in plan:
        with av.open(str(made / "Clip" / "original" / f"{clip.key}.mp4")) as container:
            assert container.streams.video[0].average_rate == 25
            decoded = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
        lengths.append(len(decoded))
    assert all(8 <= length <= 28 for length in lengths)
    drawn = draw_clip(plan[-1], DRAWN).frames(96).astype(float)
    assert decoded.shape == drawn.shape
    assert np.abs(decoded - drawn).mean() < 8  # of 255: noise and compression


def test_a_face_rises_to_its_apex_and_rests_before() -> None:
    target = unit_weights(EXPRESSIONS["surprise"][0])
    for seed in range(20):
        rng = np.random.default_rng(seed)
        motion = draw_motion(rng, target, peak=0.8, frames=40, fps=25, unrest=0.0)
        assert motion.units.shape == (40, len(UNITS))
        brow = motion.units[:, INDEX["browOuterUpLeft"]]
        assert brow.max() == pytest.approx(
            0.8 * EXPRESSIONS["surprise"][0]["browOuterUp"], rel=0.05
        )
        assert np.allclose(motion.units, motion.envelope[:, None] * 0.8 * target, atol=1e-6)
        assert not motion.turns.any()


def test_speech_gaze_and_blinks_are_no_expression() -> None:
    none = np.zeros(len(UNITS), np.float32)
    seen = {"speech": 0, "blink": 0, "gaze": 0}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        motion = draw_motion(rng, none, peak=0.0, frames=40, fps=25)
        jaw, lids = (motion.units[:, INDEX[n]] for n in ("jawOpen", "eyeBlinkLeft"))
        seen["speech"] += motion.speech
        assert motion.speech or not jaw.any()
        seen["blink"] += lids.max() > 0.8
        seen["gaze"] += motion.units[:, INDEX["eyeLookInLeft"]].max() > 0.1
    assert all(10 <= count <= 50 for count in seen.values()), seen


@pytest.mark.parametrize("kind", ["file", "full"])
def test_what_is_there_is_not_overwritten(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("precious")
    else:
        out.mkdir()
        (out / "precious").write_text("precious")
    with pytest.raises(DataError, match="not an empty folder") as error:
        synthesize(out, settings(), workers=1)
    assert "\n" not in str(error.value)
    assert [path.read_text() for path in tmp_path.rglob("*") if path.is_file()] == ["precious"]


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "out", settings(), workers=1, on_clip=stop)
    assert list(tmp_path.iterdir()) == []
