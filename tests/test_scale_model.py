"""benchmarks/scale_parts: the model's sums by hand, what must hold for any rates, and its page."""

from dataclasses import fields, replace
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import write_video

from pipeline.face.table import ClipFaces
from tools.benchmarks.scale_model import (
    Machines,
    Rates,
    Work,
    breaks,
    clip_seconds,
    faces,
    here,
    index,
    push,
    requests,
    shard,
    strip_mb,
    train,
)
from tools.benchmarks.scale_run import (
    FACES,
    Clip,
    clip_rates,
    count_looks,
    driver_rates,
    read,
    row_rate,
    time_clips,
)

START = {name: 0.0 for name in ("index", "faces", "shard", "train", "calibrate", "eval")}
RATES = Rates(
    start=START,
    row=1e-4,
    open=0.01,
    decode=0.002,
    look=0.01,
    strip=0.1,
    leave=1e-3,
    leave_mb=0.0,
    pack=2e-3,
    pack_mb=0.1,
    relay_mb=0.02,
    memory=0.005,
    index=5e-4,
    table=5e-5,
    strip_mb=0.25,
    load=0.005,
    step=0.02,
    infer=0.004,
    turn=0.5,
)
# A strip of 16 faces of 250 pixels is one megapixel, so sums can be done in the head.
WORK = Work(
    name="w", clips=1000, frames=50, megapixels=0.5, looks=5, raw_mb=1.0, size=250, trained=600
)
NODE = Machines(nodes=1, cores=10, network=100.0)


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
    many = replace(NODE, nodes=64)
    assert index(RATES, WORK, NODE) == index(RATES, WORK, many)
    assert shard(RATES, WORK, many).seconds == pytest.approx(1000 * (2e-3 + 0.25 * 0.1))


def test_training_by_hand():
    gpu = replace(NODE, gpu_rate=100.0, batch=30, gradient_mb=40.0)
    one = train(RATES, WORK, gpu)
    assert (one.bound, one.seconds) == ("GPU", pytest.approx(6.0))
    two = train(RATES, replace(WORK, epochs=3, folds=2), replace(gpu, nodes=2, network=1000.0))
    exchange = 600 * 3 / 2 / 1000 + 10 * 2 * 40 / 2 / 1000  # half of the faces; 10 steps
    assert (two.bound, two.seconds) == ("GPU", pytest.approx(6 * (3.0 + exchange)))
    slow = train(RATES, WORK, replace(gpu, nodes=2, network=100.0))
    assert (slow.bound, slow.seconds) == ("network", pytest.approx(3.0 + 10 * exchange))


def test_without_a_measured_gpu_training_takes_what_all_else_takes():
    stage = train(RATES, WORK, NODE)
    assert (stage.bound, stage.seconds) == ("cores", pytest.approx(600 * 0.005 / 10))


def test_a_push_by_hand():
    assert push(RATES, WORK, NODE) == pytest.approx(2 * 250 / 100)  # there and back
    # 200 clips of 0.25 MB are 50 MB: six blocks of 8 MiB. Five tars, three of them to learn from.
    assert requests(RATES, WORK, replace(NODE, nodes=4)) == (5 * (1 + 1 + 6), 4 * 3 * 6)


def test_breaks_are_where_the_two_sides_are_equal():
    found = breaks(RATES, WORK, NODE)
    cores = clip_seconds(RATES, WORK) / 10
    assert cores / found.nodes == pytest.approx(RATES.leave + 0.25 * RATES.relay_mb)
    assert cores / found.packing == pytest.approx(2e-3 + 0.25 * 0.1)
    assert found.memory == pytest.approx(64e3 / 0.005)
    assert found.index == pytest.approx(2**30 / 1e6 / 5e-5)  # of clips.parquet, the sooner one
    assert found.loader == pytest.approx(10 / 0.005)
    assert breaks(RATES, WORK, replace(NODE, gradient_mb=40.0)).summing == pytest.approx(0.8)
    assert found.gather == pytest.approx(100 / 3)
    assert breaks(replace(RATES, memory=0.0), WORK, NODE).memory == inf


def test_a_run_here_adds_starts_and_selection():
    work = replace(WORK, epochs=2, selected=200, tested=100)
    rates = replace(RATES, start={name: 1.0 for name in START})
    found = here(rates, work, cores=2)
    assert found["train"] == pytest.approx(1 + 2 * (600 * 0.02 + 0.5 + 200 * 0.004))
    assert found["eval"] == pytest.approx(1 + 0.5 + 100 * 0.004)
    assert found["faces"] == pytest.approx(1 + 211 / 2)


POSITIVE = st.floats(1e-6, 1e2)
ANY_RATES = st.builds(
    Rates,
    start=st.just(START),
    **{field.name: POSITIVE for field in fields(Rates)[1:]},
)
ANY_WORK = st.builds(
    replace,
    st.just(WORK),
    clips=st.integers(1, 10**8),
    looks=st.floats(1, 16),
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


def test_looks_are_counted_from_the_face_table():
    assert count_looks(FACE) == 5
    assert count_looks(replace(FACE, reason="4 of 16 frames interpolated")) == 16
    assert count_looks(replace(FACE, status="missing", reason="no face in any frame")) == 16


def test_rates_are_found_again_in_clips_made_from_them():
    megapixels = sum(16 * side**2 for side in FACES) / 1e6
    clips = [
        Clip(FACE, 0.01 + 0.002 * area, area, 5 * 0.008, 5, megapixels * 0.1, [b"x" * 3000], 0.4)
        for area in (1.0, 2.0, 5.0)
    ]
    found = clip_rates(clips)
    expected = {"open": 0.01, "decode": 0.002, "look": 0.008, "strip": 0.1}
    expected |= {"load": 0.4 / megapixels, "strip_mb": 0.003 / megapixels}
    assert found == pytest.approx(expected)


def test_a_real_clip_is_timed_and_one_that_cannot_be_read_is_left_out(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), dtype=np.uint8)
    good, bad = write_video(tmp_path / "good.mp4", frames), tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    (clip,) = time_clips([bad, good], config=read([]))
    assert clip.megapixels == pytest.approx(20 * 48 * 64 / 1e6)
    assert clip.looks == 16  # no face in noise
    assert min(clip.read, clip.detect, clip.strip) > 0
    assert len(clip.strips) == len(FACES)


def test_the_driver_is_measured_by_its_own_code(tmp_path):
    config = read(["shard.clips=50"])
    found = driver_rates(config, tmp_path, FACE, many=300, held=(50, 500))
    assert min(found.values()) >= 0
    assert found["memory"] > 1e-3  # within a block a row is 16 boxes of four floats, each an object
    # A tar more in index.json: its name, sha256, three numbers and seven classes, indented.
    assert 0.2 < found["index"] * 1e3 < 1
    assert 0 <= row_rate(config, tmp_path, many=200) < 0.1
