"""Do the figures agree with scikit-learn, torchmetrics and hand-worked values?"""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    brier_score_loss,
    log_loss,
    recall_score,
)
from torchmetrics.functional.classification import multiclass_calibration_error

from safe.errors import DataError, ModelError
from safe.evaluation.metrics import (
    brier,
    confusion,
    ece,
    nll,
    recalls,
    reliability,
    softmax,
    summarize,
    uar,
    uar_name,
    war,
)
from safe.taxonomy import BASIC

K = len(BASIC)


def draw(seed: int, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Logits float64 [n, K] with some skill, and labels [n] in which every class appears."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate(
        [np.arange(K), rng.choice(K, count - K, p=[0.3, 0.3, 0.2] + [0.05] * 4)]
    )
    logits = rng.normal(size=(count, K)) * rng.uniform(0.5, 4)
    logits[np.arange(count), labels] += rng.uniform(0, 3)
    return logits, labels


@pytest.mark.parametrize("seed", range(20))
def test_figures_agree_with_scikit_learn_and_torchmetrics(seed: int) -> None:
    logits, labels = draw(seed)
    predictions, probabilities = logits.argmax(1), softmax(logits)
    matrix = confusion(labels, predictions, K)
    assert war(matrix) == pytest.approx(accuracy_score(labels, predictions))
    assert uar(matrix) == pytest.approx(balanced_accuracy_score(labels, predictions))
    np.testing.assert_allclose(
        recalls(matrix), recall_score(labels, predictions, average=None, labels=range(K))
    )
    assert nll(logits, labels) == pytest.approx(log_loss(labels, probabilities, labels=range(K)))
    assert brier(probabilities, labels) == pytest.approx(
        brier_score_loss(labels, probabilities, labels=range(K), scale_by_half=False)
    )
    for bins in (1, 10, 15):
        theirs = multiclass_calibration_error(
            torch.from_numpy(probabilities), torch.from_numpy(labels), K, n_bins=bins, norm="l1"
        )
        assert ece(probabilities, labels, bins) == pytest.approx(theirs.item(), abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, K - 1), st.integers(0, K - 1)), min_size=1, max_size=40))
def test_war_and_uar_of_any_predictions_with_absent_classes(pairs: list[tuple[int, int]]) -> None:
    labels, predictions = np.array(pairs).T
    matrix = confusion(labels, predictions, K)
    assert matrix.dtype == np.int64
    for label in range(K):
        for prediction in range(K):
            assert matrix[label, prediction] == pairs.count((label, prediction))
    present = sorted(set(labels.tolist()))
    expected = recall_score(labels, predictions, average=None, labels=present)
    found = recalls(matrix)
    np.testing.assert_allclose(found[present], expected)
    assert np.isnan(np.delete(found, present)).all()
    assert uar(matrix) == pytest.approx(expected.mean())
    assert war(matrix) == pytest.approx(np.mean(labels == predictions))


def test_one_matrix_is_not_a_mean_of_batches() -> None:
    labels, predictions = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    assert uar(confusion(labels, predictions, K)) == pytest.approx((2 / 3 + 1) / 2)
    halves = [uar(confusion(labels[s], predictions[s], K)) for s in (slice(2), slice(2, 4))]
    assert np.mean(halves) != pytest.approx((2 / 3 + 1) / 2)


def test_confusion_refuses_what_scikit_learn_would_leave_out() -> None:
    with pytest.raises(ValueError, match=r"2 clips is not in 0..6"):
        confusion([0, 1, 7, 2], [0, -1, 1, 2], K)


def test_ece_nll_and_brier_against_literal_loops() -> None:
    logits, labels = draw(3, count=50)
    probabilities = softmax(logits)
    bins = 15
    members: list[list[int]] = [[] for _ in range(bins)]
    for clip, row in enumerate(probabilities):
        for m in range(bins):
            if m / bins < row.max() <= (m + 1) / bins:
                members[m].append(clip)
    assert sum(map(len, members)) == 50
    total = 0.0
    for inside in members:
        if inside:
            accuracy = np.mean([probabilities[i].argmax() == labels[i] for i in inside])
            confidence = np.mean([probabilities[i].max() for i in inside])
            total += len(inside) / 50 * abs(accuracy - confidence)
    assert ece(probabilities, labels, bins) == pytest.approx(total)

    powers = [[math.exp(value) for value in row] for row in logits]
    p = [[value / sum(row) for value in row] for row in powers]
    expected = -sum(math.log(p[i][labels[i]]) for i in range(50)) / 50
    assert nll(logits, labels) == pytest.approx(expected)
    expected = sum((p[i][c] - (labels[i] == c)) ** 2 for i in range(50) for c in range(K)) / 50
    assert brier(probabilities, labels) == pytest.approx(expected)


def test_hand_worked_values() -> None:
    # Four clips, each sure to 3/4, three of them right: perfectly calibrated.
    probabilities = np.full((4, K), 0.25 / (K - 1))
    probabilities[:, 0] = 0.75
    labels = np.array([0, 0, 0, 1])
    assert ece(probabilities, labels, 15) == pytest.approx(0)
    assert reliability(probabilities, labels, 15) == [(0.75, 0.75, 4)]
    assert ece(probabilities, np.array([1, 1, 1, 1]), 15) == pytest.approx(0.75)
    # A bin is open below and closed above; confidence 1 has a bin.
    edges = np.array([[0.4, 0.3, 0.3], [0.6, 0.4, 0.0], [1.0, 0.0, 0.0]])
    rows = reliability(edges, np.array([0, 0, 1]), 5)
    assert [(row[1], row[2]) for row in rows] == [(1.0, 1), (1.0, 1), (0.0, 1)]
    # Uniform: log K nats, and (K - 1) / K.
    flat = np.zeros((3, K))
    assert nll(flat, np.array([0, 3, 6])) == pytest.approx(math.log(K))
    assert brier(softmax(flat), np.array([0, 3, 6])) == pytest.approx((K - 1) / K)


def test_extreme_logits_keep_finite_figures() -> None:
    logits = np.zeros((2, K), dtype=np.float32)
    logits[:, 0] = [3000, -3000]
    labels = np.array([1, 0])
    assert nll(logits, labels) == pytest.approx((3000 + 3000 + math.log(K - 1)) / 2)
    probabilities = softmax(logits)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert brier(probabilities, labels) == pytest.approx((2 + 1 + 1 / (K - 1)) / 2)
    assert 0 <= ece(probabilities, labels, 15) <= 1


def test_summarize_holds_every_figure_in_its_unit() -> None:
    logits, labels = draw(0)
    figures = summarize(logits.astype(np.float32), labels.astype(np.int8), bins=15, classes=BASIC)
    names = ["war", "uar", "ece", "nll", "brier", *(f"recall.{name}" for name in BASIC)]
    names += ["n", "uar_classes"]
    assert list(figures) == names
    assert (figures["n"], figures["uar_classes"]) == (200, 7)
    assert figures["war"] == pytest.approx(100 * accuracy_score(labels, logits.argmax(1)))
    assert figures["uar"] == pytest.approx(np.mean([figures[f"recall.{name}"] for name in BASIC]))
    assert figures["recall.disgust"] == pytest.approx(
        100 * np.mean(logits.argmax(1)[labels == BASIC.index("disgust")] == 5)
    )
    assert figures["nll"] == pytest.approx(nll(logits, labels), rel=1e-6)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_a_class_without_clips_is_left_out_of_uar() -> None:
    logits = np.eye(K)[[0, 1, 1]]
    figures = summarize(logits, [0, 1, 2], bins=15, classes=BASIC)
    assert figures["recall.fear"] is None
    assert figures["uar"] == pytest.approx(200 / 3)
    assert figures["uar_classes"] == 3
    json.dumps(figures, allow_nan=False)


def test_broken_predictions_are_refused() -> None:
    with pytest.raises(DataError, match="no clip"):
        summarize(np.zeros((0, K)), [], bins=15, classes=BASIC)
    logits = np.zeros((3, K))
    logits[1, 2] = np.nan
    with pytest.raises(ModelError, match="1 of 3 clips are not finite"):
        summarize(logits, [0, 1, 2], bins=15, classes=BASIC)


@pytest.mark.parametrize("count", [2, 8, 11, 100])
def test_any_classes_one_of_them_without_clips(count: int) -> None:
    classes = tuple(f"class {number}" for number in range(count))
    rng = np.random.default_rng(count)
    labels, logits = rng.integers(count - 1, size=500), rng.normal(size=(500, count))
    predictions = logits.argmax(1)
    matrix = confusion(labels, predictions, count)
    assert matrix.shape == (count, count)
    assert uar(matrix) == pytest.approx(
        recall_score(labels, predictions, labels=np.unique(labels), average="macro")
    )
    figures = summarize(logits, labels, 15, classes)
    assert figures["uar"] == 100 * uar(matrix)
    assert figures["uar_classes"] == count - 1
    assert figures[f"recall.class {count - 1}"] is None
    assert sum(key.startswith("recall.") for key in figures) == count
    assert uar_name(matrix.sum(1)) == f"UAR over {count - 1} of {count} classes"
    assert uar_name([3, 1]) == uar_name([True, True]) == "UAR"
