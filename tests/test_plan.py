"""The order of an epoch: each clip once, from (seed, epoch) alone, resumable at any step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe.errors import ConfigError
from safe.shards.order import WINDOW, TrainPlan, epoch_order, hold_out, in_order


def table(clips: int, shards: int, seed: int = 0) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).integers(0, shards, clips))


@given(
    st.integers(1, 300),
    st.integers(1, 40),
    st.integers(0, 10),
    st.integers(0, 5),
    st.integers(1, 9),
)
@settings(max_examples=150, deadline=None)
def test_an_epoch_is_a_permutation_and_batches_are_its_slices(clips, shards, seed, epoch, batch):
    shard = table(clips, shards)
    rows = np.flatnonzero(np.random.default_rng(seed).random(clips) < 0.7)
    if len(rows) < batch:
        return
    order = epoch_order(rows, shard, seed=seed, epoch=epoch)
    assert np.array_equal(np.sort(order), rows)
    plan = TrainPlan(rows, shard, batch=batch, epochs=epoch + 1, seed=seed, start=0)
    batches = list(plan)
    assert len(batches) == len(plan) == (epoch + 1) * (len(rows) // batch)
    last = np.concatenate(batches[-plan.steps :])
    assert np.array_equal(last, order[: plan.steps * batch])
    assert plan.left_out + plan.steps * batch == len(rows)


@given(st.integers(0, 60))
@settings(max_examples=61, deadline=None)
def test_starting_later_gives_the_remaining_batches(start):
    shard = table(53, 5)
    rows = np.arange(53)
    whole = list(TrainPlan(rows, shard, batch=4, epochs=5, seed=3))
    rest = list(TrainPlan(rows, shard, batch=4, epochs=5, seed=3, start=start))
    assert len(rest) == len(whole) - start
    assert all(np.array_equal(a, b) for a, b in zip(whole[start:], rest, strict=True))


def order_until_version_0_1(rows, shard, *, seed, epoch):
    """The order as it was first written: runs under way and their checkpoints rely on it."""
    generator = np.random.default_rng([seed, epoch])
    mine = shard[rows]
    files = generator.permutation(np.unique(mine))
    order = [
        generator.permutation(rows[np.isin(mine, files[start : start + WINDOW])])
        for start in range(0, len(files), WINDOW)
    ]
    return np.concatenate(order)


@given(st.integers(1, 400), st.integers(1, 120), st.integers(0, 10), st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_the_order_is_still_that_of_the_first_version(clips, shards, seed, epoch):
    generator = np.random.default_rng(seed)
    shard = generator.integers(0, shards, clips)  # not sorted, some shards empty
    rows = np.flatnonzero(generator.random(clips) < 0.9)
    if not len(rows):
        return
    expected = order_until_version_0_1(rows, shard, seed=seed, epoch=epoch)
    found = epoch_order(rows, shard, seed=seed, epoch=epoch)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)


def test_a_position_is_an_epoch_and_a_batch_and_its_step_leads_back():
    plan = TrainPlan(np.arange(53), table(53, 5), batch=4, epochs=5, seed=3)
    assert [plan.position(step) for step in (0, 12, 13, 64)] == [(0, 0), (0, 12), (1, 0), (4, 12)]
    epoch, batch = plan.position(30)
    rest = TrainPlan(
        plan.rows, plan.shard, batch=4, epochs=5, seed=3, start=epoch * plan.steps + batch
    )
    assert np.array_equal(next(iter(rest)), list(plan)[30])


def test_epochs_and_seeds_differ_and_repeat():
    shard, rows = table(200, 10), np.arange(200)
    first = epoch_order(rows, shard, seed=0, epoch=0)
    assert np.array_equal(first, epoch_order(rows, shard, seed=0, epoch=0))
    assert not np.array_equal(first, epoch_order(rows, shard, seed=0, epoch=1))
    assert not np.array_equal(first, epoch_order(rows, shard, seed=1, epoch=0))


def test_what_the_last_batch_leaves_out_changes_from_epoch_to_epoch():
    shard, rows = table(37, 4), np.arange(37)
    seen = set()
    for epoch in range(20):
        order = epoch_order(rows, shard, seed=0, epoch=epoch)
        seen |= set(order[32:].tolist())
    assert len(seen) > 25


def test_reads_stay_within_a_window_of_shards():
    shard = np.repeat(np.arange(40), 10)
    order = epoch_order(np.arange(400), shard, seed=0, epoch=0)
    for start in range(0, 400, 80):
        assert len(set(shard[order[start : start + 80]])) == 8


def test_a_batch_larger_than_the_split_is_refused():
    with pytest.raises(ConfigError, match=r"train\.batch = 8: must be at most the 5 clips"):
        TrainPlan(np.arange(5), np.zeros(5, int), batch=8, epochs=1, seed=0)


def test_a_batch_that_ranks_cannot_share_is_refused():
    with pytest.raises(ConfigError, match=r"train\.batch = 8: must be a multiple of the 3 ranks"):
        TrainPlan(np.arange(9), np.zeros(9, int), batch=8, epochs=1, seed=0, ranks=3)


def test_evaluation_order_is_every_row_once():
    rows = np.arange(3, 20)
    batches = in_order(rows, 5)
    assert [len(batch) for batch in batches] == [5, 5, 5, 2]
    assert np.array_equal(np.concatenate(batches), rows)


@given(st.lists(st.integers(2, 60), min_size=1, max_size=7), st.floats(0.01, 0.99))
@settings(max_examples=100, deadline=None)
def test_held_out_clips_are_stratified(counts, fraction):
    label = np.repeat(np.arange(len(counts)), counts)
    rows = np.arange(len(label))
    kept, held = hold_out(rows, label, fraction=fraction, seed=0)
    assert np.array_equal(np.sort(np.concatenate([kept, held])), rows)
    for value, count in enumerate(counts):
        share = int((label[held] == value).sum())
        assert 1 <= share <= count - 1
        assert abs(share - fraction * count) <= 1
