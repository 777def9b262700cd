"""Temperature, vector scaling and cutoffs: against known truths, scikit-learn and MAPIE."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from safe.evaluation.calibrate import MOST, class_cutoffs, fit_temperature, fit_vector
from safe.evaluation.metrics import nll, softmax

K = 7


class Logits(ClassifierMixin, BaseEstimator):
    """A classifier whose features are its logits."""

    classes_ = np.arange(K)

    def fit(self, x, y):
        return self

    def decision_function(self, x):
        return x

    def predict(self, x):
        return x.argmax(axis=1)

    def __sklearn_is_fitted__(self):
        return True


def drawn(n, seed=0, spread=2.0, k=K):
    """Logits, and labels drawn from their own softmax: calibrated by construction."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (n, k))
    labels = np.array([rng.choice(k, p=p) for p in softmax(logits)])
    return logits, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_spoilt_the_logits_is_found(temperature):
    logits, labels = drawn(20_000)
    scale, bias = fit_temperature(logits * temperature, labels)
    assert np.ptp(scale) == 0
    assert not bias.any()
    assert 1 / scale[0] == pytest.approx(temperature, rel=0.03)


def test_no_temperature_is_better_on_the_same_clips():
    logits, labels = drawn(300, spread=1.0)
    logits = logits * 4
    best = nll(logits * fit_temperature(logits, labels)[0], labels)
    for t in np.geomspace(1 / MOST, MOST, 400):
        assert best <= nll(logits / t, labels) + 1e-9


def test_temperature_agrees_with_scikit_learn():
    """Its CalibratedClassifierCV(method="temperature") scales what decision_function gives."""
    logits, labels = drawn(2000)
    logits = logits * 2.5
    theirs = CalibratedClassifierCV(FrozenEstimator(Logits()), method="temperature", cv=None)
    theirs.fit(logits, labels)
    ours = softmax(logits * fit_temperature(logits, labels)[0])
    # They search for 1 / T to a tolerance of their own.
    assert np.abs(theirs.predict_proba(logits) - ours).max() < 2e-3


def test_a_split_without_an_error_or_without_a_hit_gives_a_bounded_temperature():
    logits, labels = 5 * np.eye(K), np.arange(K)
    assert 1 / MOST <= 1 / fit_temperature(logits, labels)[0][0] < 1
    assert 1 / fit_temperature(logits, np.roll(labels, 1))[0][0] == pytest.approx(MOST, rel=1e-3)


def test_vector_scaling_undoes_a_bias_and_a_scale_a_class():
    logits, labels = drawn(20_000)
    bias = np.array([1.0, -1, 0.5, 0, -0.5, 2, -2])
    stretch = np.array([1.0, 2, 0.5, 1, 1.5, 1, 0.8])
    spoilt = (logits - bias) / stretch
    scale, found = fit_vector(spoilt, labels)
    assert found.sum() == pytest.approx(0, abs=1e-9)
    assert found == pytest.approx(bias - bias.mean(), abs=0.2)
    assert scale == pytest.approx(stretch, rel=0.15)
    assert nll(spoilt * scale + found, labels) <= nll(logits, labels)  # as good as the truth
    temperature, _ = fit_temperature(spoilt, labels)
    assert nll(spoilt * scale + found, labels) < nll(spoilt * temperature, labels)


def test_a_class_without_clips_keeps_a_finite_bias():
    logits, labels = drawn(400)
    kept = labels != 5
    _, bias = fit_vector(logits[kept], labels[kept])
    assert np.abs(bias).max() < 10


def test_cutoffs_by_hand():
    """Nine clips of class 0: at level 0.8 the floor(10 * 0.2) = second smallest p counts."""
    p = np.zeros((13, K))
    p[:9, 0] = [0.9, 0.2, 0.3, 0.8, 0.7, 0.6, 0.5, 0.4, 0.1]
    p[9:, 1] = [0.5, 0.6, 0.7, 0.8]  # four: floor(5 * 0.2) = the smallest
    labels = np.array([0] * 9 + [1] * 4)
    assert class_cutoffs(p, labels, level=0.8).tolist() == [0.2, 0.5, 0, 0, 0, 0, 0]
    # floor(5 * 0.1) = 0: four clips cannot promise 0.9, so the class is in every set
    assert class_cutoffs(p, labels, level=0.9)[:2].tolist() == [0.1, 0]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), level=st.sampled_from([0.7, 0.8, 0.9]))
def test_every_class_is_covered_as_promised(seed, level):
    """Over many splits the mean coverage of a class is from level to level + 1 / (n_c + 1)."""
    rng = np.random.default_rng(seed)
    covered, per_class, splits = np.zeros(K), 30, 40
    for _ in range(splits):
        labels = np.repeat(np.arange(K), 2 * per_class)
        logits = rng.normal(0, 1, (len(labels), K)) + 1.5 * np.eye(K)[labels]
        p = softmax(logits)
        fit = np.arange(len(labels)) % 2 == 0
        cutoffs = class_cutoffs(p[fit], labels[fit], level=level)
        own = p[~fit][np.arange((~fit).sum()), labels[~fit]]
        covered += np.bincount(labels[~fit], own >= cutoffs[labels[~fit]]) / per_class / splits
    # a split's coverage of a class varies by some 0.08; the mean of 280 of them by 0.005
    assert level - 0.02 < covered.mean() < level + 1 / (per_class + 1) + 0.02


def test_marginal_cutoff_agrees_with_mapie():
    """With one class only, class-conditional is marginal: MAPIE's LAC scores give the same sets."""
    from mapie.conformity_scores import LACConformityScore

    rng = np.random.default_rng(0)
    p = softmax(rng.normal(0, 1, (99, K)))
    labels = np.zeros(99, dtype=np.int64)
    score = LACConformityScore()
    score.set_external_attributes(classes=np.arange(K), random_state=0)
    scores = score.get_conformity_scores(labels, p, y_enc=labels)
    for level in (0.8, 0.9, 0.95):
        rank = int(np.ceil((len(labels) + 1) * level)) - 1
        expected = 1 - np.sort(scores.ravel())[rank]
        assert class_cutoffs(p, labels, level=level)[0] == pytest.approx(expected)


@pytest.mark.parametrize("k", [2, 8, 11])
def test_other_numbers_of_classes_one_of_them_without_clips(k):
    logits, labels = drawn(4000, k=k)
    kept = labels != k - 1 if k > 2 else labels >= 0
    logits, labels = 2 * logits[kept], labels[kept]
    for fit in (fit_temperature, fit_vector):
        scale, bias = fit(logits, labels)
        assert scale.shape == bias.shape == (k,)
        assert nll(logits * scale + bias, labels) < nll(logits, labels)
    cutoffs = class_cutoffs(softmax(logits), labels, level=0.9)
    assert (cutoffs > 0).tolist() == [True] * (k - 1) + [k == 2]
