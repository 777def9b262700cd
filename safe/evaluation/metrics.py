"""Metrics of a whole split: how often a model is right, and what its probabilities are worth.

In: labels and logits of all clips. Out: numbers. Pure functions of numpy arrays; WAR, UAR and the
recalls come from ONE confusion matrix, never from a mean of batches. Shapes: n clips, K classes, M
bins.
"""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax

from safe.errors import DataError, ModelError
from safe.taxonomy import Classes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

COVERAGE_SHOWN: Final = 0.8
"""The share of clips, the surest first, whose error is compared with that of all."""


def summarize(
    logits: ArrayLike, labels: ArrayLike, bins: int, classes: Classes
) -> dict[str, float | None]:
    """Return the metrics of logits [n, K] of a split with labels int [n].

    Returns:
        war, uar and recall.<class> in percent (None for a class without clips: JSON has no nan),
        ece and brier as fractions, nll in nats; n, the number of clips, and uar_classes, that of
        the classes that have clips, over which UAR is.

    Raises:
        DataError: if there is no clip.
        ModelError: if a logit is not finite.
    """
    logits = np.asarray(logits, dtype=np.float64)
    labels = np.asarray(labels, dtype=np.int64)
    if not len(labels):
        raise DataError("metrics: no predictions; the split holds no clip")
    broken = int((~np.isfinite(logits)).any(axis=1).sum())
    if broken:
        raise ModelError(
            f"metrics: the logits of {broken} of {len(labels)} clips are not finite; "
            "the training diverged, or the weights are damaged"
        )
    matrix = confusion(labels, logits.argmax(axis=1), len(classes))
    probabilities = softmax(logits)
    found = dict(zip(classes, 100 * recalls(matrix), strict=True))
    return {
        "war": 100 * war(matrix),
        "uar": 100 * uar(matrix),
        "ece": ece(probabilities, labels, bins),
        "nll": nll(logits, labels),
        "brier": brier(probabilities, labels),
        **{f"recall.{k}": None if np.isnan(v) else float(v) for k, v in found.items()},
        "n": len(labels),
        "uar_classes": int((matrix.sum(axis=1) > 0).sum()),
    }


def confusion(labels: ArrayLike, predictions: ArrayLike, k: int) -> Ints:
    """Count the clips of each label (row) and prediction (column), int [n] each: int64 [K, K].

    Raises:
        ValueError: if the two are not of one length, or a label or prediction is not in 0..K-1.
    """
    pairs = np.array([labels, predictions], dtype=np.int64).reshape(2, -1)
    outside = int(((pairs < 0) | (pairs >= k)).any(axis=0).sum())
    if outside:
        raise ValueError(f"the label or prediction of {outside} clips is not in 0..{k - 1}")
    return np.bincount(pairs[0] * k + pairs[1], minlength=k * k).reshape(k, k)


def recalls(matrix: Ints) -> Floats:
    """Return the recall of each class, float64 [K], 0..1; nan for a class without clips."""
    clips = matrix.sum(axis=1)
    found = np.full(len(matrix), np.nan)
    np.divide(np.diag(matrix), clips, out=found, where=clips > 0)
    return found


def war(matrix: Ints) -> float:
    """Weighted average recall: the share of all clips that are right, 0..1; nan without clips."""
    clips = matrix.sum()
    return float(np.trace(matrix) / clips) if clips else float("nan")


def uar(matrix: Ints) -> float:
    """Unweighted average recall, 0..1: the mean of the recalls of the classes that have clips."""
    present = recalls(matrix)[matrix.sum(axis=1) > 0]
    return float(present.mean()) if len(present) else float("nan")


def uar_name(clips: ArrayLike) -> str:
    """Name UAR, of classes with so many clips [K] (or whether any): `UAR over 6 of 7 classes`."""
    present = np.asarray(clips) > 0
    return "UAR" if present.all() else f"UAR over {present.sum()} of {len(present)} classes"


def softmax(logits: ArrayLike) -> Floats:
    """Turn logits [n, K] into probabilities, float64 [n, K]."""
    return np.exp(_log_p(logits))


def bin_of(confidence: Floats, bins: int) -> Ints:
    """Return the bin of each confidence [n], int [n]: of M equal ones, each with its upper end."""
    return np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)


def reliability(probabilities: Floats, labels: Ints, bins: int) -> list[tuple[float, float, int]]:
    """Compare confidence with accuracy, bin by bin: what a reliability diagram shows.

    Bin m = 1..M holds the clips whose top probability is in ((m - 1) / M, m / M].

    Returns:
        conf(B_m), acc(B_m) and |B_m| of each bin that holds a clip, lowest first.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bin_ = bin_of(confidence, bins)
    each = (bin_ == index for index in np.unique(bin_))
    return [
        (float(confidence[inside].mean()), float(correct[inside].mean()), int(inside.sum()))
        for inside in each
    ]


def ece(probabilities: Floats, labels: Ints, bins: int) -> float:
    """Return the expected calibration error, 0..1, equation (12), over the bins of reliability().

    ECE = sum_m |B_m| / n * |acc(B_m) - conf(B_m)|
    """
    rows = reliability(probabilities, labels, bins)
    return sum(clips * abs(acc - conf) for conf, acc, clips in rows) / len(labels)


def nll(logits: ArrayLike, labels: Ints) -> float:
    """Negative log-likelihood in nats, equation (13): -1/n sum_i log p_{i, y_i}.

    From the logits [n, K], so that a probability that rounds to 0 still has its logarithm.
    """
    return float(-np.take_along_axis(_log_p(logits), labels[:, None], axis=1).mean())


def brier(probabilities: Floats, labels: Ints) -> float:
    """Brier score, equation (14), 0..2: 1/n sum_i sum_c (p_{i,c} - [y_i = c])^2."""
    target = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities - target) ** 2).sum(axis=1).mean())


def risk_coverage(confidence: ArrayLike, wrong: ArrayLike) -> tuple[Floats, Floats]:
    """Return the risk-coverage curve (Geifman and El-Yaniv 2017) of confidence [n], wrong bool [n].

    Clips of equal confidence cannot be told apart: each counts as wrong by their share of errors,
    so that their order changes nothing.

    Returns:
        Coverage k / n, and the share of errors among the k surest clips, for k = 1..n: float64 [n].
    """
    errors = _errors(confidence, wrong)
    answered = np.arange(1, len(errors) + 1)
    return answered / len(errors), np.cumsum(errors) / answered


def aurc(confidence: ArrayLike, wrong: ArrayLike) -> float:
    """Area under the risk-coverage curve, 0..1, lower is better: the mean of its n risks."""
    return float(risk_coverage(confidence, wrong)[1].mean())


def augrc(confidence: ArrayLike, wrong: ArrayLike) -> float:
    """Area under the generalised risk-coverage curve, 0..0.5 (Traub et al. 2024).

    The generalised risk at k is the share of ALL n clips that are answered and wrong: unlike AURC,
    it does not weigh the errors among the few surest clips above all others.
    """
    errors = _errors(confidence, wrong)
    return float((np.cumsum(errors) / len(errors)).mean())


def risk_at(confidence: ArrayLike, wrong: ArrayLike, coverage: float) -> float:
    """Return the share of errors among the ceil(coverage * n) surest clips."""
    risk = risk_coverage(confidence, wrong)[1]
    return float(risk[max(1, int(np.ceil(coverage * len(risk) - 1e-9))) - 1])


def threshold_for(confidence: ArrayLike, wrong: ArrayLike, *, risk: float) -> float:
    """Find the lowest confidence from which on the share of errors is at most `risk`.

    Where even the surest clips are wrong more often, the threshold is 2: nothing is answered.
    """
    sure = np.sort(np.asarray(confidence, dtype=np.float64))[::-1]
    risks = risk_coverage(confidence, wrong)[1]
    ends = np.append(sure[1:] < sure[:-1], True)  # clips of equal confidence: all or none
    good = np.flatnonzero(ends & (risks <= risk))
    return float(sure[good[-1]]) if len(good) else 2.0


def _errors(confidence: ArrayLike, wrong: ArrayLike) -> Floats:
    """Errors float64 [n], the surest clip first, even over clips of equal confidence."""
    sure = np.asarray(confidence, dtype=np.float64)
    order = np.argsort(-sure, kind="stable")
    _, group = np.unique(-sure[order], return_inverse=True)
    errors = np.asarray(wrong, dtype=np.float64)[order]
    share: Floats = np.bincount(group, errors) / np.bincount(group)
    return share[group]


def _log_p(logits: ArrayLike) -> Floats:
    """Log-probabilities by log-sum-exp in float64, [n, K]."""
    found: Floats = log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    return found
