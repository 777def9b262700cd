"""How good are the predictions of a whole split, and can their probabilities be trusted?

In: labels and logits of all clips of a split. Out: figures. Pure functions of numpy arrays; WAR,
UAR and the recalls come from ONE confusion matrix, never from a mean of batches. Shapes: n clips, K
classes.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from safe.errors import DataError, ModelError
from safe.taxonomy import Classes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def confusion(labels: ArrayLike, predictions: ArrayLike, k: int) -> Ints:
    """Count the clips of each label (row) and prediction (column): int64 [K, K].

    Args:
        labels: int [n], 0..K-1.
        predictions: int [n], 0..K-1.
        k: K.

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
    """Name UAR with the number of classes that it is over, where a class has no clips.

    Args:
        clips: [K], the clips of each class, or whether there are any.

    Returns:
        `UAR`, or e.g. `UAR over 6 of 7 classes`.
    """
    present = np.asarray(clips) > 0
    return "UAR" if present.all() else f"UAR over {present.sum()} of {len(present)} classes"


def softmax(logits: ArrayLike) -> Floats:
    """Turn logits [n, K] into probabilities, float64 [n, K]."""
    return np.exp(_log_softmax(logits))


def bin_of(confidence: Floats, bins: int) -> Ints:
    """Return the bin of each confidence [n], int [n]: of M equal ones, each with its upper end."""
    return np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)


def reliability(probabilities: Floats, labels: Ints, bins: int) -> list[tuple[float, float, int]]:
    """Compare confidence with accuracy, bin by bin: what a reliability diagram shows.

    Bin m = 1..M holds the clips whose top probability is in ((m - 1) / M, m / M].

    Args:
        probabilities: [n, K].
        labels: int [n], 0..K-1.
        bins: M, bins of equal width.

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

    Args and bins as there; n >= 1.
    """
    rows = reliability(probabilities, labels, bins)
    return sum(clips * abs(accuracy - confidence) for confidence, accuracy, clips in rows) / len(
        labels
    )


def nll(logits: ArrayLike, labels: Ints) -> float:
    """Negative log-likelihood in nats, equation (13): -1/n sum_i log p_{i, y_i}.

    From the logits [n, K], so that a probability that rounds to 0 still has its logarithm.
    """
    return float(-np.take_along_axis(_log_softmax(logits), labels[:, None], axis=1).mean())


def brier(probabilities: Floats, labels: Ints) -> float:
    """Brier score, equation (14), 0..2: 1/n sum_i sum_c (p_{i,c} - [y_i = c])^2."""
    target = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities - target) ** 2).sum(axis=1).mean())


def summarize(
    logits: ArrayLike, labels: ArrayLike, bins: int, classes: Classes
) -> dict[str, float | None]:
    """Return all figures of a split.

    Args:
        logits: float [n, K].
        labels: int [n], 0..K-1.
        bins: M of the ECE.
        classes: names, K of them.

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


def _log_softmax(logits: ArrayLike) -> Floats:
    """Log-probabilities by log-sum-exp in float64, [n, K]."""
    shifted = np.asarray(logits, dtype=np.float64)
    shifted = shifted - shifted.max(axis=1, keepdims=True)
    log_probabilities: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_probabilities
