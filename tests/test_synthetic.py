"""Is the embedded dataset laid out, split and drawn as it says?"""

import csv
import hashlib
from collections import Counter
from pathlib import Path

import decord
import numpy as np
import pytest

from pipeline.face.crop import crop_faces
from pipeline.face.detect import Detector
from pipeline.synthetic.plan import FAINT, count_classes, plan_clips, synthesize
from pipeline.synthetic.render import (
    CONFUSED,
    EXPRESSIONS,
    UNITS,
    Portrait,
    Pose,
    draw_clip,
    draw_faces,
    draw_person,
    move_units,
)
from pipeline.video.decode import frame_indices
from pipeline.video.frames import read_clip
from safe.config import Synthesize
from safe.errors import DataError
from safe.taxonomy import BASIC


def settings(**changes: object) -> Synthesize:
    small = dict(
        seed=0, clips=35, identities=10, size=128, fps=25, tail=0.35, ambiguity=0.2, faint=0.0
    )
    return Synthesize.model_validate(small | changes)


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset, written by one process."""
    out = tmp_path_factory.mktemp("synthetic") / "one"
    done: list[int] = []
    counts = synthesize(out, settings(), workers=1, on_clip=done.append)
    assert done == list(range(1, 36))
    assert counts == dict.fromkeys(BASIC, 5)  # 35 clips: the least a class everywhere
    return out


def test_layout_is_that_of_dfew(made: Path) -> None:
    names = sorted(path.name for path in (made / "Clip" / "original").iterdir())
    assert names == [f"{number:05d}.mp4" for number in range(1, 36)]
    for part in ("train", "test"):
        lists = made / "EmoLabel_DataSplit" / f"{part}(single-labeled)"
        assert sorted(p.name for p in lists.iterdir()) == [f"set_{k}.csv" for k in range(1, 6)]
        text = (lists / "set_1.csv").read_text(encoding="utf-8")
        assert text.startswith("video_name,label\n")
        assert all(not row["video_name"].startswith("0") for row in read_rows(lists / "set_1.csv"))
    assert [path.name for path in made.parent.iterdir()] == ["one"]  # no temporary folder stays


def test_split_lists_agree_with_people(made: Path) -> None:
    people = {int(row["clip"]): row for row in read_rows(made / "people.csv")}
    assert sorted(people) == list(range(1, 36))
    folder = made / "EmoLabel_DataSplit"
    seen: list[int] = []
    for fold in range(1, 6):
        test, train = (
            {
                int(row["video_name"]): int(row["label"])
                for row in read_rows(folder / f"{part}(single-labeled)" / f"set_{fold}.csv")
            }
            for part in ("test", "train")
        )
        assert test.keys() | train.keys() == people.keys()
        assert not test.keys() & train.keys()
        assert set(test.values()) == set(range(1, 8))
        assert all(people[clip]["fold"] == str(fold) for clip in test)
        for clip, label in (test | train).items():
            assert people[clip]["label"] == BASIC[label - 1]
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
    assert all(0.35 <= clip.peak <= 1 for clip in plan if clip.label != "neutral")


def test_confusion_is_symmetric() -> None:
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


def test_same_seed_same_bytes_with_any_number_of_workers(made: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "two", settings(), workers=2)
    first = digests(made)
    assert len(first) == 35 + 10 + 2  # lists, the digest of the clips, people.csv
    assert digests(tmp_path / "two") == first


def test_strips_hold_the_faces_of_the_clips(tmp_path: Path) -> None:
    small = settings(size=64)
    synthesize(tmp_path / "one", small, source="strips", workers=1)
    synthesize(tmp_path / "two", small, source="strips", workers=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert len(list((tmp_path / "one" / "Clip" / "strips").iterdir())) == 35
    clip = plan_clips(small)[0]
    read = read_clip(tmp_path / "one" / "Clip" / "strips" / f"{clip.key}.jpg", "strips")
    drawn = draw_faces(clip, small)
    assert read.frames.shape == drawn.shape == (16, 64, 64, 3)
    assert np.abs(read.frames.astype(float) - drawn).mean() < 4  # of 255: compression


def test_a_strip_shows_what_the_clip_shows() -> None:
    # The frames of the clip, cut out by the pipeline's own detector and crop, are an independent
    # way to the same faces: more like the clip's strip than like any other.
    large, small = settings(size=320), settings(size=64)
    detector = Detector(detect_size=320, threshold=0.5)
    clips = plan_clips(large)[:5]
    cuts = []
    for clip in clips:
        drawn = draw_clip(clip, large)
        frames = np.stack([drawn[i] for i in frame_indices(len(drawn))[::5]])
        boxes = np.array([detector(frame)[0][:4] for frame in frames], dtype=np.float32)
        cuts.append(crop_faces(frames, boxes, size=64, margin=0.1).mean(axis=3).ravel())
    strips = [draw_faces(clip, small)[::5].mean(axis=3).ravel() for clip in clips]
    alike = np.corrcoef(cuts, strips)[:5, 5:]
    assert list(alike.argmax(axis=0)) == list(alike.argmax(axis=1)) == [0, 1, 2, 3, 4]
    assert np.diag(alike).mean() > 0.7


def test_faint_clips_hardly_show() -> None:
    plain, some = plan_clips(settings(clips=400)), plan_clips(settings(clips=400, faint=0.5))
    changed = [two for one, two in zip(plain, some, strict=True) if one != two]
    assert all(FAINT[0] <= clip.peak <= FAINT[1] for clip in changed)
    # Half of the clips, but for plain neutral faces, which show nothing at all.
    assert 140 <= len(changed) <= 200
    assert [(c.label, c.identity, c.fold) for c in plain] == [
        (c.label, c.identity, c.fold) for c in some
    ]


def test_the_digest_beside_the_lists_follows_the_pixels(made: Path, tmp_path: Path) -> None:
    # DVC's stage index looks at the lists alone: other clips must change something there.
    synthesize(tmp_path / "smaller", settings(size=64), workers=2)
    one, two = (path / "EmoLabel_DataSplit" for path in (made, tmp_path / "smaller"))
    differ = [
        p.relative_to(one)
        for p in one.rglob("*")
        if p.is_file() and p.read_bytes() != (two / p.relative_to(one)).read_bytes()
    ]
    assert [str(path) for path in differ] == ["clips.sha256"]


def test_another_seed_differs(made: Path, tmp_path: Path) -> None:
    other = settings(seed=1)
    assert plan_clips(other) != plan_clips(settings())
    frames = draw_clip(plan_clips(settings())[0], other)
    assert not np.array_equal(frames[0], draw_clip(plan_clips(settings())[0], settings())[0])


def test_clips_decode_to_what_was_drawn(made: Path) -> None:
    lengths = []
    plan = plan_clips(settings())
    for clip in plan:
        path = made / "Clip" / "original" / f"{clip.key}.mp4"
        reader = decord.VideoReader(str(path), num_threads=1)
        assert reader[0].shape == (128, 128, 3)
        assert reader.get_avg_fps() == pytest.approx(25)
        lengths.append(len(reader))
    assert all(8 <= length <= 44 for length in lengths)
    drawn = np.stack(draw_clip(plan[-1], settings())).astype(float)
    decoded = reader.get_batch(range(len(reader))).asnumpy().astype(float)
    assert decoded.shape == drawn.shape
    assert np.abs(decoded - drawn).mean() < 8  # of 255: noise and compression


def test_short_clips_are_few() -> None:
    many = settings(clips=400)
    short = 0
    for clip in plan_clips(many):
        rng = np.random.default_rng([many.seed, 2, clip.number])
        short += rng.random() < 0.03
    assert 3 <= short <= 25
    # Each of them is shorter than the 16 frames of a sample.
    first = next(
        clip
        for clip in plan_clips(many)
        if np.random.default_rng([many.seed, 2, clip.number]).random() < 0.03
    )
    assert 8 <= len(draw_clip(first, many)) <= 15


@pytest.mark.parametrize("label", [name for name in BASIC if name != "neutral"])
def test_apex_differs_from_neutral_more_than_noise(label: str) -> None:
    rest = np.zeros(len(UNITS))
    apex = np.array([EXPRESSIONS[label][0].get(unit, 0.0) for unit in UNITS])
    home = Pose(x=0.5, y=0.515, scale=0.34, roll=0.0, yaw=0.0, pitch=0.0)
    rng = np.random.default_rng(3)
    portrait = Portrait(draw_person(rng), 160, home=home, rng=rng)
    neutral = portrait.draw(rest, home).astype(float)
    assert np.array_equal(neutral, portrait.draw(rest, home))  # a frame leaves no trace in the next
    changed = np.abs(portrait.draw(apex, home) - neutral).mean(axis=2) > 15  # 5 sigma of the noise
    assert 0.015 < changed.mean() < 0.5  # of the frame: the features move, the wall does not


def test_units_stay_in_range_and_rise_to_the_peak() -> None:
    target = np.array([EXPRESSIONS["surprise"][0].get(unit, 0.0) for unit in UNITS])
    for seed in range(20):
        rng = np.random.default_rng(seed)
        units = move_units(rng, target, peak=0.8, frames=40, fps=25)
        assert units.shape == (40, len(UNITS))
        assert units.min() >= -1
        assert units.max() <= 1
        raise_outer = units[:, UNITS.index("AU2")]
        assert raise_outer.max() >= 0.78
        assert raise_outer.max() - raise_outer.min() >= 0.5


def test_the_detector_finds_the_faces() -> None:
    detector = Detector(detect_size=320, threshold=0.5)
    drawn = settings(seed=11, identities=35, size=160)
    found = []
    for clip in plan_clips(drawn)[::2]:  # drawing takes the time
        frames = draw_clip(clip, drawn)
        found += [len(detector(frames[len(frames) * i // 5])) >= 1 for i in range(1, 5)]
    assert len(found) == 72
    assert np.mean(found) >= 0.98


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
