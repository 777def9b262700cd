"""tools/benchmarks/scale*: the sums by hand, what must hold for any rates, the measuring."""

import json
from dataclasses import replace
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import write_video

from pipeline.face.table import ClipFaces
from tools.benchmarks import scale, scale_model
from tools.benchmarks.scale import (
    FACES,
    Clip,
    clip_rates,
    count_detections,
    driver_rates,
    read,
    row_rate,
    time_clips,
)
from tools.benchmarks.scale_model import (
    UNITS,
    Machines,
    Work,
    answers,
    bytes_table,
    check_table,
    clip_seconds,
    duration,
    faces,
    hours_table,
    index,
    limits,
    push,
    read_rates,
    requests,
    shard,
    strip_mb,
    train,
)

RATES = dict.fromkeys(UNITS, 0.0) | {
    **{"row": 1e-4, "open": 0.01, "decode": 0.002, "detect": 0.01, "strip": 0.1, "cache": 1e-3},
    **{"pack": 2e-3, "pack_mb": 0.1, "relay_mb": 0.02, "load": 0.005},
    **{"index": 5e-4, "table": 5e-5, "strip_mb": 0.25},
}
# A strip of 16 faces of 250 pixels is one megapixel, so sums can be done in the head.
SHAPE = {"frames": 50, "megapixels": 0.5, "detections": 5, "raw_mb": 0.02, "size": 250}
WORK = Work(name="w", clips=1000, trained=600, **SHAPE)
NODE = Machines(cores=10, network=100.0, gradient_mb=0.0)


def test_a_clip_by_hand():
    assert WORK.strip == 1.0
    assert clip_seconds(RATES, WORK) == pytest.approx(0.01 + 25 * 0.002 + 5 * 0.01 + 0.1)
    assert strip_mb(RATES, WORK) == 0.25
    assert WORK.tars == 5


def test_one_node_shares_its_cores_with_the_driver():
    stage = faces(RATES, WORK, NODE)
    assert stage.bound == "cores"
    assert stage.seconds == pytest.approx((210 + 1) / 10)  # 0.21 s a clip, 1 ms of the driver


@pytest.mark.parametrize(
    ("nodes", "network", "seconds", "bound"),
    [
        (2, 100.0, 210 / 20, "cores"),
        (4, 100.0, 1 + 1000 * 0.25 * 0.02, "driver"),  # what it writes, and what comes to it
        (4, 10.0, 1000 * 0.25 / 10, "network"),  # all strips go to one node ...
        (2, 10.0, 500 * 1.0 / 10, "network"),  # ... and to each its share of the videos
    ],
)
def test_several_nodes_by_hand(nodes, network, seconds, bound):
    stage = faces(RATES, WORK, replace(NODE, nodes=nodes, network=network))
    assert (stage.bound, stage.seconds) == (bound, pytest.approx(seconds))


def test_index_and_shard_are_one_process():
    assert index(RATES, WORK).seconds == pytest.approx(0.1)
    assert shard(RATES, WORK).seconds == pytest.approx(1000 * (2e-3 + 0.25 * 0.1))


def test_training_by_hand():
    gpu = replace(NODE, gpu_rate=100.0, batch=30, gradient_mb=40.0)
    one = train(RATES, WORK, gpu)
    assert (one.bound, one.seconds) == ("GPU", pytest.approx(6.0))
    two = train(RATES, replace(WORK, epochs=3, folds=2), replace(gpu, nodes=2, network=1000.0))
    exchange = 600 * 3 / 2 / 1000 + 10 * 2 * 40 / 2 / 1000  # half of the faces; 10 steps
    assert (two.bound, two.seconds) == ("GPU", pytest.approx(6 * (3.0 + exchange)))
    slow = train(RATES, WORK, replace(gpu, nodes=2, network=100.0))
    assert (slow.bound, slow.seconds) == ("network", pytest.approx(3.0 + 10 * exchange))
    unknown = train(RATES, WORK, NODE)  # what all else takes
    assert (unknown.bound, unknown.seconds) == ("cores", pytest.approx(600 * 0.005 / 10))


def test_a_push_by_hand():
    assert push(RATES, WORK, NODE) == pytest.approx(2 * 250 / 100)  # there and back
    # 200 clips of 0.25 MB are 50 MB: six blocks of 8 MiB. Five tars, three of them to learn from.
    assert requests(RATES, WORK, replace(NODE, nodes=4)) == (5 * (1 + 1 + 6), 4 * 3 * 6)


def test_limits_are_where_the_two_sides_are_equal():
    packing, driver, files, loader, gather, gradients = limits(
        RATES, WORK, replace(NODE, gradient_mb=40.0)
    ).values()
    cores = clip_seconds(RATES, WORK) / 10
    assert packing == f"{cores / (2e-3 + 0.25 * 0.1):.1f} nodes"
    assert driver == f"{cores / (1e-3 + 0.25 * 0.02):.0f} nodes"
    assert files == "21 million clips"  # 2**30 / 5e-5 of clips.parquet, the sooner one
    assert (loader, gather, gradients) == ("2,000 clips/s", "33 clips/s of all GPUs", "0.8 s")


POSITIVE = st.floats(1e-6, 1e2)
ANY_RATES = st.fixed_dictionaries(dict.fromkeys(UNITS, POSITIVE))
ANY_WORK = st.builds(
    replace,
    st.just(WORK),
    clips=st.integers(1, 10**8),
    detections=st.floats(1, 16),
    raw_mb=st.floats(0, 100),
    size=st.sampled_from([16, 80, 128, 224]),
    trained=st.integers(1, 10**8),
)
SLACK = 1 + 1e-9


@settings(max_examples=100, deadline=None)
@given(rates=ANY_RATES, work=ANY_WORK, nodes=st.integers(2, 500), cores=st.integers(1, 128))
def test_more_nodes_or_a_faster_network_never_make_preparation_slower(rates, work, nodes, cores):
    some = Machines(nodes=nodes, cores=cores, network=1e3)
    stage = faces(rates, work, some)
    assert faces(rates, work, replace(some, nodes=nodes + 1)).seconds <= stage.seconds * SLACK
    assert faces(rates, work, replace(some, network=2e3)).seconds <= stage.seconds * SLACK
    assert stage.seconds * nodes * cores >= work.clips * clip_seconds(rates, work) / SLACK


@settings(max_examples=100, deadline=None)
@given(rates=ANY_RATES, work=ANY_WORK, nodes=st.integers(1, 500), rate=st.floats(1, 1e4))
def test_training_takes_at_least_what_its_gpus_need(rates, work, nodes, rate):
    some = Machines(nodes=nodes, cores=8, network=1e3, gpu_rate=rate, gradient_mb=100)
    stage = train(rates, work, some)
    assert stage.seconds * nodes >= work.trained / rate / SLACK
    free = replace(some, network=inf)
    assert train(rates, work, free).seconds <= stage.seconds * SLACK
    assert train(rates, work, replace(free, nodes=nodes + 1)).seconds <= (
        train(rates, work, free).seconds * SLACK
    )


FACE = ClipFaces(
    status="ok",
    reason="",
    n_frames=16,
    fps=25.0,
    width=64,
    height=48,
    frame_index=tuple(range(16)),
    box=((1.0, 2.0, 30.0, 31.0),) * 16,
    score=(0.9, 0, 0, 0, 0.9, 0, 0, 0, 0.9, 0, 0, 0, 0.9, 0, 0, 0.9),
)


def test_detections_are_counted_from_the_face_table():
    assert count_detections(FACE) == 5
    assert count_detections(replace(FACE, reason="4 of 16 frames interpolated")) == 16
    assert count_detections(replace(FACE, status="missing", reason="no face in any frame")) == 16


def test_rates_are_found_again_in_clips_made_from_them():
    megapixels = sum(16 * side**2 for side in FACES) / 1e6
    clips = [
        Clip(FACE, 0.01 + 0.002 * area, area, 5 * 0.008, 5, megapixels * 0.1, [b"x" * 3000], 0.4)
        for area in (1.0, 2.0, 5.0)
    ]
    found = clip_rates(clips)
    expected = {"open": 0.01, "decode": 0.002, "detect": 0.008, "strip": 0.1}
    expected |= {"load": 0.4 / megapixels, "strip_mb": 0.003 / megapixels}
    assert found == pytest.approx(expected)


def test_a_real_clip_is_timed_and_one_that_cannot_be_read_is_left_out(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), dtype=np.uint8)
    good, bad = write_video(tmp_path / "good.mp4", frames), tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    (clip,) = time_clips([bad, good], config=read([]))
    assert clip.megapixels == pytest.approx(20 * 48 * 64 / 1e6)
    assert clip.detections == 16  # no face in noise
    assert min(clip.read, clip.detect, clip.strip) > 0
    assert len(clip.strips) == len(FACES)


def test_the_driver_is_measured_by_its_own_code(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "alone", lambda do, *words: do(*words))
    config = read(["shard.clips=50"])
    found = driver_rates(config, tmp_path, FACE, many=100)
    assert min(found.values()) >= 0
    # A tar more in index.json: its name, sha256, three numbers and seven classes, indented.
    assert 0.2 < found["index"] * 1e3 < 1
    assert 0 <= row_rate(config, tmp_path, many=100) < 0.1


def test_the_page_has_all_datasets_and_nodes_and_a_gpu_that_was_measured_or_not():
    hours, sizes = hours_table(RATES, NODE), bytes_table(RATES, NODE)
    assert len(hours.splitlines()) == 2 + 3 * 3
    assert len(sizes.splitlines()) == 2 + 3
    for lines in (hours.splitlines(), sizes.splitlines()):
        assert len({line.count("|") for line in lines}) == 1
    assert "train, at least" in hours
    assert "at least" not in hours_table(RATES, replace(NODE, gpu_rate=50.0))
    assert "(50 clips a second)" in answers(RATES, replace(NODE, gpu_rate=50.0))
    assert "| faces | 3.0 s | 1.5 s | 2.00 |" in check_table({"faces": [3.0, 1.5]})


@pytest.mark.parametrize(
    ("seconds", "said"), [(5, "5 s"), (90, "1.5 min"), (7200, "2 h"), (864_000, "10 d")]
)
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_kept_rates_are_read_in_seconds_and_mb(tmp_path, monkeypatch):
    rows = [{"what": f"`{name}`", "value": 2 * factor} for name, (_, factor, _) in UNITS.items()]
    assert read_rates({"metrics": rows}) == dict.fromkeys(UNITS, 2.0)
    monkeypatch.setattr(scale_model, "BENCHMARKS", tmp_path)
    assert scale_model.gpu_rate() == inf
    row = {"what": scale_model.GPU_RATE, "value": 123.0}
    (tmp_path / "gpu.json").write_text(json.dumps({"parts": [{"metrics": []}, {"metrics": [row]}]}))
    assert scale_model.gpu_rate() == 123
