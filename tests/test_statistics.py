"""Intervals and tests against scipy, literal sums and simulation."""

import math
import tracemalloc

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from safe.errors import DataError
from safe.evaluation.intervals import (
    Mcnemar,
    bootstrap_interval,
    mcnemar,
    mean_and_deviation,
    paired_difference_interval,
    percentile_interval,
    resample_figure,
)
from safe.evaluation.metrics import confusion, summarize, uar, war
from safe.taxonomy import BASIC

K = len(BASIC)


def draw(seed: int, clips: int, accuracy: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Labels with frequencies like DFEW's, and predictions that are right that often."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(K, clips, p=[0.21, 0.16, 0.22, 0.19, 0.12, 0.02, 0.08])
    wrong = (labels + rng.integers(1, K, clips)) % K
    return labels, np.where(rng.random(clips) < accuracy, labels, wrong)


def other(predictions: np.ndarray, seed: int) -> np.ndarray:
    """Predictions that agree with these in three clips of four."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(predictions)) < 0.75, predictions, rng.permutation(predictions))


def fast_uar(labels: np.ndarray, predictions: np.ndarray) -> float:
    """UAR from clips, not from a matrix."""
    return np.mean([(predictions[labels == k] == k).mean() for k in np.unique(labels)])


def test_war_interval_is_that_of_scipy():
    labels, predictions = draw(0, 1000)
    right = (labels == predictions).astype(float)
    theirs = scipy.stats.bootstrap(
        (right,), np.mean, n_resamples=20_000, batch=500, method="percentile", rng=1
    ).confidence_interval
    ours = bootstrap_interval(labels, predictions, war, K, resamples=20_000)
    # an end has a standard error of 0.019 deviations; 5 of the difference of two, and one clip
    deviation = math.sqrt(right.mean() * (1 - right.mean()) / 1000)
    assert ours == pytest.approx(tuple(theirs), abs=5 * 0.019 * 2**0.5 * deviation + 0.001)
    assert ours[1] - ours[0] == pytest.approx(2 * 1.96 * deviation, rel=0.05)


def test_uar_intervals_are_those_of_resampling_clips_one_by_one():
    labels, a = draw(1, 400)
    b = other(a, 2)
    rng = np.random.default_rng(3)
    one, two = [], []
    for _ in range(3000):
        clips = rng.integers(0, len(labels), len(labels))
        one.append(fast_uar(labels[clips], a[clips]))
        two.append(one[-1] - fast_uar(labels[clips], b[clips]))
    for values, ours in [
        (one, bootstrap_interval(labels, a, uar, K, resamples=20_000)),
        (two, paired_difference_interval(labels, a, b, uar, K, resamples=20_000)),
    ]:
        expected = np.quantile(values, [0.025, 0.975])
        assert ours == pytest.approx(tuple(expected), abs=5 * 0.055 * np.std(values))


def test_paired_interval_is_that_of_scipy():
    labels, a = draw(4, 1000)
    b = other(a, 5)
    difference = (a == labels).astype(float) - (b == labels)
    theirs = scipy.stats.bootstrap(
        (difference,), np.mean, n_resamples=20_000, batch=500, method="percentile", rng=1
    ).confidence_interval
    ours = paired_difference_interval(labels, a, b, war, K, resamples=20_000)
    deviation = difference.std() / math.sqrt(1000)
    assert ours == pytest.approx(tuple(theirs), abs=5 * 0.019 * 2**0.5 * deviation + 0.001)


def test_pairing_narrows_the_interval_and_turns_its_sign_with_the_models():
    labels, a = draw(6, 1500)
    b = other(a, 7)
    low, high = paired_difference_interval(labels, a, b, uar, K)
    swapped = paired_difference_interval(labels, b, a, uar, K)
    assert swapped == pytest.approx((-high, -low), abs=0.3 * (high - low))
    assert 0 < low < high
    widths = [np.ptp(bootstrap_interval(labels, x, uar, K)) for x in (a, b)]
    assert high - low < 0.9 * np.hypot(*widths)
    assert paired_difference_interval(labels, a, a, uar, K) == (0, 0)


def test_a_95_percent_interval_holds_the_true_accuracy_about_95_times_in_100():
    inside = 0
    for trial in range(300):
        low, high = bootstrap_interval(*draw(trial, 300), war, K, resamples=400, seed=trial)
        inside += low <= 0.7 <= high
    assert 0.91 < inside / 300 < 0.98


def test_level_and_resamples_do_what_they_say():
    labels, predictions = draw(8, 500)
    widths = [np.ptp(bootstrap_interval(labels, predictions, war, K, level=x)) for x in (0.5, 0.9)]
    assert widths[1] / widths[0] == pytest.approx(1.645 / 0.674, rel=0.15)
    seen = []
    bootstrap_interval(labels, predictions, lambda m: seen.append(m.sum()) or 0.0, K, resamples=37)
    assert seen == [500] * 37


def test_the_seed_decides():
    labels, predictions = draw(9, 500)
    first = bootstrap_interval(labels, predictions, uar, K, seed=1)
    assert first == bootstrap_interval(labels, predictions, uar, K, seed=1)
    assert first != bootstrap_interval(labels, predictions, uar, K, seed=2)


def test_stratified_keeps_the_clips_of_each_class_and_no_empty_cell_is_filled():
    labels, predictions = draw(10, 60)
    matrix = confusion(labels, predictions, K)
    assert (matrix == 0).any()
    drawn = {True: [], False: []}
    for stratified, found in drawn.items():
        bootstrap_interval(
            labels,
            predictions,
            lambda m, found=found: found.append(m) or 0.0,
            K,
            resamples=200,
            stratified=stratified,
        )
        assert not any(m[matrix == 0].any() for m in found)
        assert np.mean(found, axis=0) == pytest.approx(matrix, abs=5 * np.sqrt(60 / 200 / 4))
    assert all((m.sum(1) == matrix.sum(1)).all() for m in drawn[True])
    assert any((m.sum(1) != matrix.sum(1)).any() for m in drawn[False])


def test_stratified_also_pairs():
    labels, a = draw(11, 300)
    sizes = confusion(labels, a, K).sum(1)
    seen = []
    paired_difference_interval(
        labels,
        a,
        other(a, 12),
        lambda m: seen.append(m) or 0.0,
        K,
        resamples=20,
        stratified=True,
    )
    assert len(seen) == 40
    assert all((m.sum(1) == sizes).all() for m in seen)


def test_resamples_without_the_figure_are_left_out():
    labels, predictions = np.array([0] * 9 + [5]), np.array([0] * 9 + [5])

    def recall_5(matrix):
        return float(matrix[5, 5] / matrix[5].sum()) if matrix[5].any() else float("nan")

    assert bootstrap_interval(labels, predictions, recall_5, K) == (1, 1)
    nowhere = bootstrap_interval(labels[:9], predictions[:9], recall_5, K)
    assert all(math.isnan(end) for end in nowhere)


def test_intervals_hold_the_figure_itself():
    labels, predictions = draw(13, 2000)
    low, high = bootstrap_interval(labels, predictions, uar, K)
    assert low < balanced_accuracy_score(labels, predictions) < high


def draw_seeds(seed: int, clips: int, seeds: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Labels [n] and logits [S, n, K] of seeds that find the same clips hard; 70 % are right."""
    labels, _ = draw(seed, clips)
    rng = np.random.default_rng(seed + 1000)
    same = rng.random((seeds, clips)) < 0.7
    hardness = np.where(same, rng.random(clips), rng.random((seeds, clips)))
    wrong = (labels + rng.integers(1, K, (seeds, clips))) % K
    said = np.where(hardness < 0.7, labels, wrong)
    return labels, rng.normal(size=(seeds, clips, K)) + 6 * np.eye(K)[said]


FIGURES = ["war", "uar", "ece", "nll", "brier", "recall.happy", "recall.disgust"]


@pytest.mark.parametrize("figure", FIGURES)
def test_a_resampled_figure_is_that_of_summarize_on_the_clips_drawn(figure):
    labels, logits = draw_seeds(9, 60)
    found = resample_figure(figure, labels, logits, BASIC, bins=7, resamples=25, seed=4)
    expected = []
    for clips in np.random.default_rng(4).integers(60, size=(25, 60)):
        values = [summarize(z[clips], labels[clips], 7, BASIC)[figure] for z in logits]
        expected.append(np.nan if values[0] is None else np.mean(values))
    assert found == pytest.approx(np.array(expected), rel=1e-12, nan_ok=True)
    assert np.nanstd(expected) > 0
    assert np.isnan(found).any() == (figure == "recall.disgust")  # three clips in 60


def test_a_confidence_on_the_edge_of_a_bin_counts_below_it_as_in_equation_12():
    labels = np.array([0] * 8 + [1] * 8)
    logits = np.full((1, 16, K), -800.0)
    logits[0, :, 0] = 0
    logits[0, :8, 1] = 0  # right, with a confidence of exactly 1 / 2; the others wrong, with 1
    found = resample_figure("ece", labels, logits, BASIC, bins=2, resamples=30, seed=1)
    drawn = np.random.default_rng(1).integers(16, size=(30, 16))
    # the gaps, 1 - 1/2 and 0 - 1, are in two bins, so they do not cancel
    assert found == pytest.approx(((drawn < 8) * 0.5 + (drawn >= 8) * 1.0).mean(1), rel=1e-12)


def test_many_clips_are_resampled_in_parts_that_make_one_whole():
    n = 400_000  # two resamples at once
    right = np.random.default_rng(0).random(n) < 0.7
    labels = np.zeros(n, dtype=int)
    logits = np.eye(K)[np.where(right, 0, 1)][None]
    found = resample_figure("war", labels, logits, BASIC, bins=15, resamples=5, seed=6)
    rng = np.random.default_rng(6)
    expected = [100 * right[rng.integers(n, size=n)].mean() for _ in range(5)]
    assert found == pytest.approx(expected, rel=1e-12)


def test_resampled_uar_of_three_seeds_has_the_interval_of_scipy():
    labels, logits = draw_seeds(1, 400)
    hit = (logits.argmax(2) == labels).mean(0)  # mean over the seeds, for each clip

    def mean_uar(clips, axis):
        y, h = labels[clips], hit[clips]
        of = [(y == k).sum(axis) for k in range(K)]
        hits = [np.where(y == k, h, 0).sum(axis) for k in range(K)]
        with np.errstate(invalid="ignore"):
            return 100 * np.nanmean(np.divide(hits, of), axis=0)

    theirs = scipy.stats.bootstrap(
        (np.arange(400),), mean_uar, n_resamples=5000, batch=500, method="percentile", rng=2
    )
    ours = resample_figure("uar", labels, logits, BASIC, bins=15, resamples=5000)
    interval = tuple(theirs.confidence_interval)
    error = 5 * 0.038 * 2**0.5 * theirs.standard_error  # of the difference of two ends
    assert percentile_interval(ours) == pytest.approx(interval, abs=error)
    assert ours.std() == pytest.approx(theirs.standard_error, rel=0.08)


def test_seeds_that_say_the_same_are_no_surer_than_one():
    labels, logits = draw_seeds(2, 300, seeds=1)
    for figure in ("war", "ece"):
        one, three = (
            resample_figure(figure, labels, np.repeat(logits, s, axis=0), BASIC, bins=15)
            for s in (1, 3)
        )
        assert three == pytest.approx(one, rel=1e-12)
        assert one.std() > 0


def test_only_clips_drawn_for_all_seeds_together_cover_the_truth():
    joint = apart = 0
    for trial in range(200):
        labels, logits = draw_seeds(trial, 200)
        settings = {"bins": 15, "resamples": 300}
        low, high = percentile_interval(
            resample_figure("war", labels, logits, BASIC, seed=trial, **settings)
        )
        joint += low <= 70 <= high
        alone = [
            resample_figure("war", labels, z[None], BASIC, seed=3 * trial + i, **settings)
            for i, z in enumerate(logits)
        ]
        low, high = percentile_interval(np.mean(alone, axis=0))
        apart += low <= 70 <= high
    assert 0.90 < joint / 200 < 0.985
    assert apart / 200 < 0.88


def test_each_class_has_a_recall_to_resample():
    labels = np.arange(K)
    logits = np.eye(K)[None].repeat(2, axis=0)
    logits[1, 3] = np.eye(K)[0]  # the second seed takes angry for happy
    for k, name in enumerate(BASIC):
        found = resample_figure(f"recall.{name}", labels, logits, BASIC, bins=15, resamples=50)
        assert set(found[~np.isnan(found)]) == {50.0 if k == 3 else 100.0}


def test_errors_are_one_clear_line():
    y = np.array([0, 1, 2])
    with pytest.raises(DataError, match="at least one clip"):
        bootstrap_interval([], [], war, K)
    for wrong in ([0, 1, 7], [0, 1, -1]):
        with pytest.raises(ValueError, match=r"must be in 0\.\.6"):
            paired_difference_interval(y, y, wrong, war, K)
    with pytest.raises(ValueError, match="same shape"):
        bootstrap_interval(y, y[:1], war, K)
    with pytest.raises(ValueError, match="resamples: 0"):
        bootstrap_interval(y, y, war, K, resamples=0)
    for level in (0, 1, 95):
        with pytest.raises(ValueError, match=f"level: {level}"):
            bootstrap_interval(y, y, war, K, level=level)
    with pytest.raises(ValueError, match="one length"):
        mcnemar([True], [True, False])
    with pytest.raises(DataError, match="at least one clip"):
        resample_figure("war", [], np.zeros((2, 0, K)), BASIC, bins=15)
    with pytest.raises(DataError, match="at least one clip"):
        resample_figure("war", y, np.zeros((0, 3, K)), BASIC, bins=15)
    for figure in ("f1", "recall.bored", "n", "happy"):
        with pytest.raises(ValueError, match=f"figure: {figure} must be war, uar"):
            resample_figure(figure, y, np.zeros((1, 3, K)), BASIC, bins=15)
    for shape in ((3, K), (1, 2, K), (1, 3, K + 1)):
        with pytest.raises(ValueError, match=r"logits must be \[seeds, 3, 7\]"):
            resample_figure("war", y, np.zeros(shape), BASIC, bins=15)
    with pytest.raises(ValueError, match="resamples: 0"):
        resample_figure("war", y, np.zeros((1, 3, K)), BASIC, bins=15, resamples=0)


def test_mcnemar_on_a_table_worked_by_hand():
    # 4 clips right in both, 1 in a alone, 6 in b alone, 2 in neither:
    # p = 2 * (C(7,0) + C(7,1)) / 2^7 = 16 / 128
    a = [True] * 4 + [True] * 1 + [False] * 6 + [False] * 2
    b = [True] * 4 + [False] * 1 + [True] * 6 + [False] * 2
    assert mcnemar(a, b) == Mcnemar(only_a=1, only_b=6, p=0.125)
    assert mcnemar(b, a) == Mcnemar(only_a=6, only_b=1, p=0.125)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 5))
def test_mcnemar_is_the_exact_binomial_test(only_a, only_b, both):
    a = [True] * only_a + [False] * only_b + [True] * both
    b = [False] * only_a + [True] * only_b + [True] * both
    found = mcnemar(a, b)
    assert (found.only_a, found.only_b) == (only_a, only_b)
    n = only_a + only_b
    if n == 0:
        assert found.p == 1
        return
    assert found.p == pytest.approx(scipy.stats.binomtest(only_a, n, 0.5).pvalue, rel=1e-9)
    terms = [math.comb(n, i) for i in range(n + 1)]
    as_rare = sum(t for t in terms if t <= terms[only_a])  # all outcomes no likelier than this
    assert found.p == pytest.approx(as_rare / 2**n, rel=1e-12)


def test_mcnemar_of_a_whole_dataset_is_quick_and_may_vanish():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 11_697)) < 0.5
    found = mcnemar(a, b)
    theirs = scipy.stats.binomtest(found.only_a, found.only_a + found.only_b).pvalue
    assert found.p == pytest.approx(theirs, rel=1e-6)
    assert mcnemar(np.ones(5000, bool), np.zeros(5000, bool)).p == 0  # 2^-4999


def test_mean_and_deviation_over_seeds():
    # 72, 74, 76: deviations -2, 0, 2; 8 / (3 - 1) = 4
    assert mean_and_deviation([72, 74, 76]) == (74, 2)
    assert mean_and_deviation([72.5]) == (72.5, 0)
    with pytest.raises(ValueError, match="at least one"):
        mean_and_deviation([])


@pytest.mark.parametrize("count", [2, 11])
def test_intervals_of_any_classes_one_of_them_without_clips(count):
    classes = tuple(f"class {number}" for number in range(count))
    rng = np.random.default_rng(count)
    labels = rng.integers(count - 1, size=400)
    a, b = (np.where(rng.random(400) < 0.6, labels, rng.integers(count, size=400)) for _ in "ab")
    figure = uar(confusion(labels, a, count))
    low, high = bootstrap_interval(labels, a, uar, count, resamples=200)
    assert low < high
    assert low - 0.05 < figure < high + 0.05  # a class of few clips is missing in some resamples
    low, high = paired_difference_interval(labels, a, b, war, count, resamples=200)
    assert low < (a == labels).mean() - (b == labels).mean() < high
    logits = np.eye(count)[a][None]
    found = resample_figure("uar", labels, logits, classes, bins=15, resamples=200)
    assert abs(found.mean() - 100 * figure) < 5
    absent = resample_figure(f"recall.{classes[-1]}", labels, logits, classes, bins=15)
    assert np.isnan(absent).all()
    with pytest.raises(ValueError, match=f"must be in 0..{count - 1}"):
        bootstrap_interval(labels, np.full(400, count), war, count)


def test_a_pair_of_a_hundred_classes_takes_no_million_cells():
    tracemalloc.start()
    labels, a, b = np.random.default_rng(0).integers(100, size=(3, 500))
    paired_difference_interval(labels, a, b, war, 100)
    assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    tracemalloc.stop()
