"""The order of an epoch: each clip once, from (seed, epoch) alone, resumable at any step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe.errors import ConfigError
from safe.shards.order import TrainPlan, epoch_order, hold_out


def table(clips: int, shards: int, seed: int = 0) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).integers(0, shards, clips))


@given(st.integers(0, 60))
@settings(max_examples=61, deadline=None)
def test_starting_later_gives_the_remaining_batches(start):
    shard = table(53, 5)
    rows = np.arange(53)
    whole = list(TrainPlan(rows, shard, batch=4, epochs=5, seed=3))
    rest = list(TrainPlan(rows, shard, batch=4, epochs=5, seed=3, start=start))
    assert len(rest) == len(whole) - start
    assert all(np.array_equal(a, b) for a, b in zip(whole[start:], rest, strict=True))


def test_a_position_is_an_epoch_and_a_batch_and_its_step_leads_back():
    plan = TrainPlan(np.arange(53), table(53, 5), batch=4, epochs=5, seed=3)
    assert [plan.position(step) for step in (0, 12, 13, 64)] == [(0, 0), (0, 12), (1, 0), (4, 12)]
    epoch, batch = plan.position(30)
    rest = TrainPlan(
        plan.rows, plan.shard, batch=4, epochs=5, seed=3, start=epoch * plan.steps + batch
    )
    assert np.array_equal(next(iter(rest)), list(plan)[30])


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
