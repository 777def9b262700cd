"""Each clip exactly once, in one order: for any shards, workers and ranks, and after a stop.

The order is compared with `described`, which says ARCHITECTURE.md's words in plain lists.
"""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from safe.shards.folder import open_shards
from safe.shards.loader import load_batches
from safe.shards.order import TrainPlan, epoch_order, in_order
from tools.benchmarks.memory import write

SHARDS = {
    "one shard": [23],
    "one clip a shard": [1] * 26,
    "uneven": [1, 9, 2, 30, 5, 17],
    "more than a window": [3] * 19,
}
"""Clips in each shard of the folders that are really read."""


def described(rows: list[int], shard: list[int], seed: int, epoch: int) -> list[int]:
    """Permute the shards; of each eight in that order permute the clips; one after the other."""
    generator = np.random.default_rng([seed, epoch])
    files = generator.permutation(sorted({shard[row] for row in rows})).tolist()
    order = []
    while files:
        window, files = files[:8], files[8:]
        order += generator.permutation([row for row in rows if shard[row] in window]).tolist()
    return order


def merged(shares: list[list[list[int]]]) -> list[int]:
    """Lay the ranks' shares of each batch together again: first clip of each, second of each..."""
    batches = zip(*shares, strict=True)
    return [row for batch in batches for clips in zip(*batch, strict=True) for row in clips]


@st.composite
def settings_of_a_run(draw):
    """(clips, shards, ranks, batch, epoch, seed), with the cases at the edges made frequent."""
    ranks = draw(st.integers(1, 5))
    share = draw(st.integers(1, 12))
    batch = ranks * share
    clips = draw(
        st.one_of(
            st.just(batch),
            st.integers(1, 12).map(lambda steps: steps * batch),
            st.integers(batch, batch + 250),
        )
    )
    shards = draw(st.one_of(st.just(1), st.just(clips), st.integers(1, 60)))
    return clips, shards, ranks, batch, draw(st.integers(0, 400)), draw(st.integers(0, 2**31))


@given(settings_of_a_run(), st.integers(0, 300))
@settings(max_examples=200, deadline=None)
def test_each_clip_once_an_epoch_and_every_rank_as_many_steps(run, others):
    clips, shards, ranks, batch, epoch, seed = run
    generator = np.random.default_rng(seed)
    every = clips + others  # the table also has clips of the test split
    shard = np.arange(every) if shards == clips else generator.integers(0, shards, every)
    rows = np.sort(generator.choice(every, clips, replace=False))
    # Workers have no say here: each reads whole batches of its rank's plan, as is tested below.
    event(f"left out: {bool(clips % batch)}, a rank alone: {ranks == 1}")

    shares = []
    for rank in range(ranks):
        plan = TrainPlan(
            rows,
            shard,
            batch=batch,
            epochs=epoch + 1,
            seed=seed,
            start=epoch * (clips // batch),
            rank=rank,
            ranks=ranks,
        )
        assert plan.position(plan.start) == (epoch, 0)
        assert plan.left_out == clips % batch
        share = [part.tolist() for part in plan]
        assert len(share) == len(plan) == clips // batch
        assert {len(part) for part in share} == {batch // ranks}
        shares.append(share)
    seen = merged(shares)
    assert len(set(seen)) == len(seen) == clips - clips % batch
    assert set(seen) <= set(rows.tolist())
    assert seen == described(rows.tolist(), shard.tolist(), seed, epoch)[: len(seen)]

    dealt = [in_order(rows, batch, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert Counter(row for share in dealt for part in share for row in part.tolist()) == Counter(
        rows.tolist()
    )
    counts = [len(share) for share in dealt]
    assert max(counts) - min(counts) <= 1
    assert all(0 < len(part) <= batch for share in dealt for part in share)


@given(settings_of_a_run())
@settings(max_examples=50, deadline=None)
def test_what_is_left_out_differs_from_epoch_to_epoch(run):
    clips, shards, _, batch, epoch, seed = run
    shard = np.random.default_rng(seed).integers(0, shards, clips)
    rows = np.arange(clips)
    kept = clips - clips % batch
    orders = [epoch_order(rows, shard, seed=seed, epoch=epoch + more) for more in range(24)]
    left_out = {tuple(sorted(order[kept:])) for order in orders}
    assert len(left_out) > 1 if clips % batch else left_out == {()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Shard folders by the project's own writer; each clip's strip is another noise."""
    home = tmp_path_factory.mktemp("exactness")
    for name, counts in SHARDS.items():
        write(home / name, counts)
    return {name: open_shards(home / name) for name in SHARDS}


def plan_of(folder, *, batch=6, epochs=3, seed=5, **options):
    rows = np.flatnonzero(np.arange(len(folder.label)) % 10 != 3)
    return TrainPlan(rows, folder.shard, batch=batch, epochs=epochs, seed=seed, **options)


def read(folder, plan, workers) -> list[tuple[list[int], list[int], bytes]]:
    """All batches that the real loader gives: rows, labels, the bytes of the faces."""
    return [
        (found["row"].tolist(), found["label"].tolist(), found["faces"].numpy().tobytes())
        for found in load_batches(folder, plan, workers=workers)
    ]


@pytest.mark.parametrize("name", SHARDS)
def test_batches_are_the_same_bytes_for_any_workers_in_the_order_described(folders, name):
    folder = folders[name]
    plan = plan_of(folder)
    alone = read(folder, plan, 0)
    order = []
    for epoch in range(3):
        rows = described(plan.rows.tolist(), folder.shard.tolist(), 5, epoch)
        order += rows[: len(rows) - len(rows) % 6]
    assert [row for rows, _, _ in alone for row in rows] == order
    assert len({faces for _, _, faces in alone}) == len(alone) > 6
    for workers in (1, 3):
        assert read(folder, plan_of(folder), workers) == alone


@given(st.data())
@settings(max_examples=5, deadline=None)
def test_ranks_with_any_workers_read_the_global_sequence(folders, data):
    folder = folders[data.draw(st.sampled_from(sorted(SHARDS)))]
    ranks = data.draw(st.integers(1, 3))
    batch = ranks * data.draw(st.integers(1, 5))
    seed, start = data.draw(st.integers(0, 1000)), data.draw(st.integers(0, 2))
    options = {"batch": batch, "epochs": 2, "seed": seed, "start": start}
    whole = read(folder, plan_of(folder, **options), 0)
    workers = [data.draw(st.sampled_from([0, 0, 1, 2, 4])) for _ in range(ranks)]
    shares = [
        read(folder, plan_of(folder, **options, rank=rank, ranks=ranks), workers[rank])
        for rank in range(ranks)
    ]
    assert {len(share) for share in shares} == {len(whole)}
    for (rows, labels, faces), *parts in zip(whole, *shares, strict=True):
        each = len(faces) // batch
        for rank, (mine, marked, pixels) in enumerate(parts):
            assert mine == rows[rank::ranks]
            assert marked == labels[rank::ranks]
            places = range(rank * each, len(faces), ranks * each)
            assert pixels == b"".join(faces[place : place + each] for place in places)


def test_a_run_stopped_anywhere_goes_on_with_the_same_batches_and_other_workers(folders):
    generator = np.random.default_rng(7)
    whole = {name: read(folder, plan_of(folder), 0) for name, folder in folders.items()}
    middles = 0
    for name in sorted(SHARDS) * 2:
        folder, expected = folders[name], whole[name]
        plan, stop = plan_of(folder), int(generator.integers(1, len(expected)))
        before, after = generator.choice([0, 1, 2, 4], 2, replace=False)
        stopped = load_batches(folder, plan, workers=before)
        first = [
            (part["row"].tolist(), bytes(part["faces"].numpy())) for part in islice(stopped, stop)
        ]
        stopped.close()  # what its workers had read ahead is lost
        assert first == [(rows, faces) for rows, _, faces in expected[:stop]]
        epoch, batch = plan.position(stop)
        middles += batch > 0
        rest = plan_of(folder, start=epoch * plan.steps + batch)
        assert read(folder, rest, after) == expected[stop:]
    assert middles >= 5


@pytest.mark.parametrize("name", SHARDS)
def test_evaluation_reads_each_clip_once_as_the_stock_reader_does(folders, name):
    wds = pytest.importorskip("webdataset")
    folder = folders[name]
    urls = [str(folder.root / file) for file in folder.files]
    stock = sorted(sample["__key__"] for sample in wds.WebDataset(urls, shardshuffle=False))
    rows = np.arange(len(folder.clip))
    for ranks, workers in ((1, 2), (3, 0)):
        found = [
            row
            for rank in range(ranks)
            for batch, _, _ in read(folder, in_order(rows, 4, rank=rank, ranks=ranks), workers)
            for row in batch
        ]
        assert sorted(folder.clip[found].tolist()) == stock
    trained = [folder.clip[row] for rows, _, _ in read(folder, plan_of(folder), 2) for row in rows]
    assert set(trained) <= set(stock)
