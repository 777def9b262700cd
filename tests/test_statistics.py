"""Intervals and tests against scipy, literal sums and simulation."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from support import EVERY_CLASS, read_experiment, write_fold

from safe.errors import DataError
from safe.evaluation.calibration import trust_metrics
from safe.evaluation.compare import Entry, estimates
from safe.evaluation.intervals import (
    intervals,
    mcnemar,
    mean_and_deviation,
    percentile_interval,
    resampled,
    share_interval,
)
from safe.evaluation.metrics import aurc, risk_at, softmax, summarize
from safe.evaluation.predictions import read_predictions
from safe.evaluation.summary import summarize_folds
from safe.info import read_info
from safe.report.card import card_metrics
from safe.report.results import by_class, by_set, compare, plain_metrics
from safe.report.results import trust_metrics as shown_trust
from safe.taxonomy import BASIC

K = len(BASIC)


def draw(seed: int, clips: int, accuracy: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Labels with frequencies like DFEW's, and predictions that are right that often."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(K, clips, p=[0.21, 0.16, 0.22, 0.19, 0.12, 0.02, 0.08])
    wrong = (labels + rng.integers(1, K, clips)) % K
    return labels, np.where(rng.random(clips) < accuracy, labels, wrong)


@pytest.mark.parametrize(("hits", "clips"), [(0, 20), (1, 3), (27, 27), (700, 1000), (1, 1)])
def test_the_interval_of_a_share_is_wilsons(hits, clips):
    ends = scipy.stats.binomtest(hits, clips).proportion_ci(method="wilson")
    right = np.arange(clips) < hits
    assert share_interval(right) == pytest.approx((ends.low, ends.high), abs=1e-12)
    assert share_interval(right, unit=100) == pytest.approx((100 * ends.low, 100 * ends.high))
    assert all(math.isnan(end) for end in share_interval([]))


def test_an_interval_holds_the_true_accuracy_about_95_times_in_100():
    inside = 0
    for trial in range(300):
        labels, predictions = draw(trial, 300)
        low, high = share_interval(labels == predictions)
        inside += low <= 0.7 <= high
    assert 0.91 < inside / 300 < 0.98


def test_the_interval_of_uar_is_that_of_scipy():
    labels, predictions = draw(1, 400)
    right = (labels == predictions).astype(float)

    def uar(clips, axis):
        y, hit = labels[clips], right[clips]
        with np.errstate(invalid="ignore"):
            each = [np.where(y == k, hit, 0).sum(axis) / (y == k).sum(axis) for k in range(K)]
        return 100 * np.nanmean(each, axis=0)

    theirs = scipy.stats.bootstrap(
        (np.arange(400),), uar, n_resamples=10_000, batch=500, method="percentile", rng=1
    )
    ours = intervals(["uar"], labels, np.eye(K)[predictions][None], bins=15)["uar"]
    error = 5 * 0.027 * 2**0.5 * theirs.standard_error  # of the difference of two ends
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=error)
    value = summarize(np.eye(K)[predictions], labels, 15, BASIC)["uar"]
    assert ours[0] < value < ours[1]


def test_the_middle_95_percent_without_what_is_not_defined():
    values = np.arange(1001.0)
    assert percentile_interval(values) == pytest.approx((25, 975))
    assert percentile_interval(np.append(values, [np.nan] * 500)) == pytest.approx((25, 975))
    assert all(math.isnan(end) for end in percentile_interval(np.full(3, np.nan)))


def draw_seeds(seed: int, clips: int, seeds: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Labels [n] and logits [S, n, K] of seeds that find the same clips hard; 70 % are right."""
    labels, _ = draw(seed, clips)
    rng = np.random.default_rng(seed + 1000)
    same = rng.random((seeds, clips)) < 0.7
    hardness = np.where(same, rng.random(clips), rng.random((seeds, clips)))
    wrong = (labels + rng.integers(1, K, (seeds, clips))) % K
    said = np.where(hardness < 0.7, labels, wrong)
    return labels, rng.normal(size=(seeds, clips, K)) + 6 * np.eye(K)[said]


METRICS = ["war", "uar", "ece", "nll", "brier", "recall.happy", "recall.disgust"]


def resample(metric: str, labels, logits, classes=BASIC, *, bins: int = 15, **how) -> np.ndarray:
    return resampled([metric], labels, logits, classes, bins=bins, **how)[metric]


@pytest.mark.parametrize("metric", METRICS)
def test_a_resampled_metric_is_that_of_summarize_on_the_clips_drawn(metric):
    labels, logits = draw_seeds(9, 60)
    found = resample(metric, labels, logits, bins=7, resamples=25, seed=4)
    expected = []
    for clips in np.random.default_rng(4).integers(60, size=(25, 60)):
        values = [summarize(z[clips], labels[clips], 7, BASIC)[metric] for z in logits]
        expected.append(np.nan if values[0] is None else np.mean(values))
    assert found == pytest.approx(np.array(expected), rel=1e-12, nan_ok=True)
    assert np.nanstd(expected) > 0
    assert np.isnan(found).any() == (metric == "recall.disgust")  # three clips in 60


def test_resampled_risks_are_those_of_the_clips_drawn():
    labels, logits = draw_seeds(10, 60, seeds=1)
    for metric in ("aurc", "risk_at_80"):
        found = resample(metric, labels, logits, resamples=25, seed=4)
        expected = []
        for clips in np.random.default_rng(4).integers(60, size=(25, 60)):
            sure, wrong = softmax(logits[0]).max(1), logits[0].argmax(1) != labels
            one = aurc(sure[clips], wrong[clips]), risk_at(sure[clips], wrong[clips], 0.8)
            expected.append(one[metric == "risk_at_80"])
        # a clip that was drawn twice is answered both times at once, so the cut is not as sharp
        assert found == pytest.approx(np.array(expected), abs=0.06)
        assert found.mean() == pytest.approx(np.mean(expected), abs=0.01)


def test_a_confidence_on_the_edge_of_a_bin_counts_below_it_as_in_equation_12():
    labels = np.array([0] * 8 + [1] * 8)
    logits = np.full((1, 16, K), -800.0)
    logits[0, :, 0] = 0
    logits[0, :8, 1] = 0  # right, with a confidence of exactly 1 / 2; the others wrong, with 1
    found = resample("ece", labels, logits, bins=2, resamples=30, seed=1)
    drawn = np.random.default_rng(1).integers(16, size=(30, 16))
    # the gaps, 1 - 1/2 and 0 - 1, are in two bins, so they do not cancel
    assert found == pytest.approx(((drawn < 8) * 0.5 + (drawn >= 8) * 1.0).mean(1), rel=1e-12)


def test_many_clips_are_resampled_in_parts_that_make_one_whole():
    n = 400_000  # two resamples at once
    right = np.random.default_rng(0).random(n) < 0.7
    labels = np.zeros(n, dtype=int)
    logits = np.eye(K)[np.where(right, 0, 1)][None]
    found = resample("war", labels, logits, resamples=5, seed=6)
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
    ours = resample("uar", labels, logits, resamples=5000)
    interval = tuple(theirs.confidence_interval)
    error = 5 * 0.038 * 2**0.5 * theirs.standard_error  # of the difference of two ends
    assert percentile_interval(ours) == pytest.approx(interval, abs=error)
    assert ours.std() == pytest.approx(theirs.standard_error, rel=0.08)


def test_seeds_that_say_the_same_are_no_surer_than_one():
    labels, logits = draw_seeds(2, 300, seeds=1)
    metrics = ["war", "uar", "ece", "recall.happy"]
    one, three = (
        intervals(metrics, labels, np.repeat(logits, s, axis=0), BASIC, bins=15) for s in (1, 3)
    )
    assert three == {metric: pytest.approx(ends, rel=1e-12) for metric, ends in one.items()}
    assert all(low < high for low, high in one.values())


def test_only_the_clips_of_all_seeds_together_cover_the_truth():
    joint = apart = 0
    for trial in range(200):
        labels, logits = draw_seeds(trial, 200)
        low, high = intervals(["war"], labels, logits, bins=15)["war"]
        joint += low <= 70 <= high
        low, high = share_interval((logits.argmax(2) == labels).ravel(), unit=100)
        apart += low <= 70 <= high
    assert 0.90 < joint / 200 < 0.985
    assert apart / 200 < 0.88


def test_each_class_has_a_recall_to_resample():
    labels = np.arange(K)
    logits = np.eye(K)[None].repeat(2, axis=0)
    logits[1, 3] = np.eye(K)[0]  # the second seed takes angry for happy
    for k, name in enumerate(BASIC):
        found = resample(f"recall.{name}", labels, logits, resamples=50)
        assert set(found[~np.isnan(found)]) == {50.0 if k == 3 else 100.0}


def test_errors_are_one_clear_line():
    y = np.array([0, 1, 2])
    with pytest.raises(ValueError, match="one length"):
        mcnemar([True], [True, False])
    for labels, logits in (([], np.zeros((2, 0, K))), (y, np.zeros((0, 3, K)))):
        with pytest.raises(DataError, match="at least one clip"):
            intervals(["war"], labels, logits, bins=15)
    for metric in ("f1", "recall.bored", "n", "happy"):
        with pytest.raises(ValueError, match=f"metric: {metric} must be war, uar"):
            intervals([metric], y, np.zeros((1, 3, K)), BASIC, bins=15)
    for shape in ((3, K), (1, 2, K)):
        with pytest.raises(ValueError, match=r"logits must be \[seeds, 3, classes\]"):
            resample("war", y, np.zeros(shape))


def test_mcnemar_on_a_table_worked_by_hand():
    # 4 clips right in both, 1 in a alone, 6 in b alone, 2 in neither:
    # p = 2 * (C(7,0) + C(7,1)) / 2^7 = 16 / 128
    a = [True] * 4 + [True] * 1 + [False] * 6 + [False] * 2
    b = [True] * 4 + [False] * 1 + [True] * 6 + [False] * 2
    assert mcnemar(a, b) == (1, 6, pytest.approx(0.125))
    assert mcnemar(b, a) == (6, 1, pytest.approx(0.125))


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
    terms = [math.comb(n, i) for i in range(n + 1)]
    as_rare = sum(t for t in terms if t <= terms[only_a])  # all outcomes no likelier than this
    assert found.p == pytest.approx(as_rare / 2**n, rel=1e-9)


def test_mcnemar_of_a_whole_dataset_is_quick_and_may_vanish():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 11_697)) < 0.5
    assert 0 < mcnemar(a, b).p < 1
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
    predictions = np.where(rng.random(400) < 0.6, labels, rng.integers(count, size=400))
    logits = np.eye(count)[predictions]
    value = summarize(logits, labels, 15, classes)["uar"]
    metrics = ["uar", f"recall.{classes[-1]}"]
    found = intervals(metrics, labels, logits[None], classes, bins=15, resamples=200)
    low, high = found["uar"]
    assert low < high
    assert low - 5 < value < high + 5  # a class of few clips is missing in some resamples
    assert all(math.isnan(end) for end in found[metrics[1]])
    assert np.isnan(resample(metrics[1], labels, logits[None], classes, resamples=9)).all()


@pytest.fixture
def stored(tmp_path):
    """What one evaluated and calibrated fold leaves behind, as the stages write it."""
    write_fold(tmp_path, 1, n=120)
    run = tmp_path / "runs/synthetic"
    split = read_predictions(run / "eval/fold-1/predictions.parquet")
    info = read_info(run / "calibrate/fold-1/model.json")
    path = run / "eval/fold-1/metrics.json"
    metrics = json.loads(path.read_text()) | summarize(split.logits, split.label, 10, BASIC)
    metrics |= trust_metrics(split.logits, split.label, EVERY_CLASS, bins=10)
    metrics |= {"weights": info["weights"]["sha256"], "severity": 0, "precision": "float32"}
    path.write_text(json.dumps(metrics))
    return tmp_path, info, metrics


def test_a_metric_has_one_interval_wherever_it_is_shown(stored):
    """metrics.json of the fold and of the folds, the table, the card, the page, its comparison."""
    folder, info, of_fold = stored
    evals, models = folder / "runs/synthetic/eval", folder / "runs/synthetic/calibrate"
    summary = summarize_folds(
        evals=evals, models=models, folds=[1], dataset="synthetic", bins=10, out=folder / "results"
    )
    card = card_metrics(evals / "fold-1", info, EVERY_CLASS)
    split = read_predictions(evals / "fold-1" / "predictions.parquet")
    split = replace(split, scaled=EVERY_CLASS.scaled(split.logits))
    recalls = [f"recall.{name}" for name in BASIC]
    plain = ["war", "uar", "ece", "nll", "brier"]
    scaled = [f"{name}_calibrated" for name in ("ece", "nll", "brier")]
    table = estimates(Entry({0: split}, {}), [*plain, *recalls, *scaled], bins=10)
    experiment = read_experiment(folder, folds=(1,))
    page = {
        key: (one.low, one.high)
        for key, one in plain_metrics(experiment.split, experiment.bins).items()
    }
    page |= {
        f"recall.{row.name}": (row.recall.low, row.recall.high)
        for row in by_class(experiment.split)
    }
    compared = compare(experiment, experiment).pairs
    beside = dict(zip([*plain, *scaled, *recalls], compared, strict=True))
    for key in table:
        ends = (table[key].low, table[key].high)
        assert (beside[key].ours.low, beside[key].ours.high) == ends
        assert key in scaled or page[key] == ends
        for found in (of_fold, card["plain"], card["after"]):
            if f"{key}_low" in found:
                assert (found[f"{key}_low"], found[f"{key}_high"]) == ends
        if f"{key}_low" in summary:  # which is rounded
            ours = (summary[f"{key}_low"], summary[f"{key}_high"])
            assert ours == pytest.approx(ends, abs=6e-5)
    before = card["before"]
    assert (before["ece_calibrated_low"], before["ece_calibrated_high"]) == page["ece"]
    shown = shown_trust(experiment)
    for key in ("ece_calibrated", "coverage", "selective_risk", "risk_at_80", "aurc"):
        unit = 100 if shown[key].unit == "%" else 1
        for end in ("low", "high"):
            value = of_fold[f"{key}_{end}"]
            assert card["after"][f"{key}_{end}"] == value
            assert summary[f"{key}_{end}"] == pytest.approx(value, abs=6e-5)
            assert getattr(shown[key], end) == unit * value
    covered = by_set(experiment, shown["coverage"])[-1].coverage
    assert (covered.low, covered.high) == (shown["coverage"].low, shown["coverage"].high)
