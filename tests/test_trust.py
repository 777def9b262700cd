"""Figures of calibrated answers: by hand, and against safe.evaluation.metrics and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import log_loss

from safe.evaluation.calibration import METRICS, Calibration, trust_metrics
from safe.evaluation.metrics import aurc, brier, ece, risk_at, softmax
from safe.taxonomy import BASIC

K = len(BASIC)


def logits_of(p):
    return np.log(np.array(p))


def test_by_hand():
    """Four clips; sets hold classes from 0.3 on; below 0.5 no decision."""
    rest = 0.1 / 5
    p = np.full((4, K), rest)
    p[0, :2] = 0.6, 0.3  # label 0: right, answered, set {0, 1} holds it
    p[1, :2] = 0.6, 0.3  # label 1: wrong, answered, set {0, 1} holds it
    p[2, :2] = 0.45, 0.45  # label 0: argmax takes the first: right, not answered
    p[3, :2] = 0.7, 0.2  # label 2: wrong, answered, set {0} does not hold it
    labels = [0, 1, 0, 2]
    read = Calibration("temperature", level=0.9, cutoffs=(0.299,) * K, threshold=0.5, clips=9)
    found = trust_metrics(logits_of(p), labels, read, bins=10, resamples=50)
    assert found["coverage"] == 0.75
    assert found["set_size"] == pytest.approx((2 + 2 + 2 + 1) / 4)
    assert found["answered"] == 0.75
    assert found["selective_risk"] == pytest.approx(2 / 3)
    assert found["error"] == 0.5
    # the surest 4 of 4 at 80 %; by confidence 0.7 wrong, then 0.6 twice with half an error each
    assert found["risk_at_80"] == 0.5
    assert found["aurc"] == pytest.approx((1 + 1.5 / 2 + 2 / 3 + 2 / 4) / 4)
    assert found["ece_calibrated"] == pytest.approx(ece(p, np.array(labels), 10))
    assert found["nll_calibrated"] == pytest.approx(log_loss(labels, p, labels=range(K)))
    assert found["brier_calibrated"] == pytest.approx(brier(p, np.array(labels)))
    for name in ("ece_calibrated", "coverage", "risk_at_80", "aurc"):
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]


def test_scale_and_bias_are_applied_before_anything_else():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (300, K)), rng.integers(K, size=300)
    scale, bias = np.linspace(0.5, 2, K), np.linspace(-1, 1, K)
    read = Calibration("vector", scale=tuple(scale), bias=tuple(bias), clips=1)
    found = trust_metrics(logits, labels, read, bins=15, resamples=10)
    p = softmax(logits * scale + bias)
    assert found["ece_calibrated"] == pytest.approx(ece(p, labels, 15))
    assert found["error"] == pytest.approx((p.argmax(1) != labels).mean())


def test_without_sets_or_decisions_there_is_no_figure():
    logits, labels = np.eye(K), list(range(K))
    plain = trust_metrics(logits, labels, Calibration(), bins=15, resamples=20)
    assert plain["coverage"] is plain["set_size"] is plain["coverage_low"] is None
    assert plain["answered"] == 1
    assert plain.keys() >= set(METRICS)
    silent = trust_metrics(logits, labels, Calibration(threshold=2.0), bins=15, resamples=20)
    assert silent["answered"] == 0
    assert silent["selective_risk"] is silent["selective_risk_high"] is None


def test_the_interval_covers_as_often_as_it_says():
    """Coverage of sets is a share: over 100 splits its interval holds the truth in about 95 %."""
    rng = np.random.default_rng(1)
    logits = np.zeros((100, K))
    held = 0
    for _ in range(100):
        labels = np.where(rng.random(100) < 0.8, 0, 1)
        read = Calibration(level=0.8, cutoffs=(0.0, *(1.0,) * (K - 1)), clips=1)  # set = {0}
        found = trust_metrics(logits, labels, read, bins=15, resamples=1)
        held += found["coverage_low"] <= 0.8 <= found["coverage_high"]
    assert 88 <= held <= 99


def test_the_intervals_are_those_of_drawing_clips_one_by_one():
    rng = np.random.default_rng(2)
    labels = rng.integers(K, size=300)
    logits = rng.normal(0, 1, (300, K)) + 1.5 * np.eye(K)[labels]
    read = Calibration(level=0.9, cutoffs=(0.1,) * K, threshold=0.4, clips=1)
    found = trust_metrics(logits, labels, read, bins=15, resamples=1000)
    p = softmax(logits)
    sure, wrong = p.max(1), p.argmax(1) != labels
    one_by_one = {"aurc": [], "risk_at_80": [], "selective_risk": [], "ece_calibrated": []}
    for _ in range(400):
        rows = rng.integers(300, size=300)
        one_by_one["aurc"].append(aurc(sure[rows], wrong[rows]))
        one_by_one["risk_at_80"].append(risk_at(sure[rows], wrong[rows], 0.8))
        one_by_one["selective_risk"].append(wrong[rows][sure[rows] >= 0.4].mean())
        one_by_one["ece_calibrated"].append(ece(p[rows], labels[rows], 15))
    for name, values in one_by_one.items():
        width = found[f"{name}_high"] - found[f"{name}_low"]
        ends = np.quantile(values, [0.025, 0.975])
        assert (found[f"{name}_low"], found[f"{name}_high"]) == pytest.approx(ends, abs=width / 8)


@pytest.mark.parametrize("count", [2, 8, 11, 100])
def test_any_classes_with_a_calibration_of_one_number_or_of_one_a_class(count):
    rng = np.random.default_rng(count)
    labels = rng.integers(count - 1, size=200)  # the last class has no clip
    logits = rng.normal(size=(200, count)) + 2 * np.eye(count)[labels]
    found = []
    for k in (1, count):
        read = Calibration("temperature", (0.5,) * k, (0.0,) * k, 0.9, (0.02,) * k, clips=9)
        found.append(trust_metrics(logits, labels, read, bins=15, resamples=20))
    assert found[0] == found[1]
    assert found[0]["ece_calibrated"] == pytest.approx(ece(softmax(logits / 2), labels, 15))
    assert 1 <= found[0]["set_size"] <= count
