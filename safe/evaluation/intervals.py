"""How sure is a figure, and is one model better than another on the same clips?

In: labels and predictions of the clips of a split. Out: intervals, tests, and means over seeds. An
interval says how much a figure would vary with other clips, not with another training: that is what
the deviation over seeds says.

A figure here is a function of the confusion matrix. A clip drawn at random, with replacement, falls
into a cell of the matrix with the probability clips-in-cell / n, and each draw is independent of
the others: so the counts of a resample of n clips ARE one multinomial draw over the cells. The
bootstrap draws the counts of the cells that hold a clip instead of n clips; the result has the same
distribution. Shapes: n clips, K classes, R resamples.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from safe.errors import DataError
from safe.evaluation.metrics import Floats, Ints, bin_of, softmax
from safe.taxonomy import Classes

Figure = Callable[[Ints], float]
"""From a confusion matrix int64 [K, K] (row: label) to a number, as safe.evaluation.metrics.war or
uar."""


def bootstrap_interval(
    labels: ArrayLike,
    predictions: ArrayLike,
    figure: Figure,
    k: int,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    stratified: bool = False,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a figure over clips.

    Args:
        labels: int [n], 0..K-1.
        predictions: int [n], 0..K-1.
        figure: e.g. safe.evaluation.metrics.uar.
        k: K.
        resamples: R, at least 1.
        level: share of the resamples inside the interval, 0..1 exclusive.
        seed: decides the resamples.
        stratified: whether each class keeps its number of clips.

    Returns:
        Lower and upper end in the figure's unit. Resamples in which the figure is not defined (a
        recall without clips of its class) are left out; nan if it is defined in none.

    Raises:
        DataError: if there is no clip.
        ValueError: if a label or prediction is out of range, or the lengths, resamples or level are
        wrong.
    """
    drawn = _resample(k, (labels, predictions), resamples, seed, stratified)
    return percentile_interval(np.array([figure(matrix) for (matrix,) in drawn]), level)


def paired_difference_interval(
    labels: ArrayLike,
    predictions_a: ArrayLike,
    predictions_b: ArrayLike,
    figure: Figure,
    k: int,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    stratified: bool = False,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of figure(a) - figure(b) on the same clips.

    A resample takes a clip with both its predictions, so what is hard for both models cancels. It
    is a draw over the K * K * K cells (label, prediction of a, prediction of b).

    Args:
        labels: int [n], 0..K-1.
        predictions_a: int [n], 0..K-1; the interval is above 0 where a's figure is the higher one.
        predictions_b: int [n], 0..K-1.
        figure: as in bootstrap_interval, and so are the others.
        k: K.
        resamples: R.
        level: share of the resamples inside the interval.
        seed: decides the resamples.
        stratified: whether each class keeps its number of clips.

    Returns and raises:
        As bootstrap_interval.
    """
    columns = (labels, predictions_a, predictions_b)
    drawn = _resample(k, columns, resamples, seed, stratified)
    return percentile_interval(np.array([figure(a) - figure(b) for a, b in drawn]), level)


def percentile_interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """Return the quantiles (1 - level) / 2 and (1 + level) / 2 of a figure over resamples.

    Args:
        values: float [R]; nan where the figure is not defined, which is left out.
        level: share of the resamples inside the interval, 0..1 exclusive.

    Returns:
        Both ends in the figure's unit; nan if it is defined in no resample.

    Raises:
        ValueError: if the level is out of range.
    """
    if not 0 < level < 1:
        raise ValueError(f"level: {level} must be between 0 and 1")
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Mcnemar:
    """What McNemar's exact test finds."""

    only_a: int  # clips that a alone has right
    only_b: int  # clips that b alone has right
    p: float  # two-sided, 0..1


def mcnemar(right_a: ArrayLike, right_b: ArrayLike) -> Mcnemar:
    """Test whether two models are right equally often on the same clips.

    Were they, each clip that one alone has right would be a fair coin (McNemar, 1947): with m of
    the m + M such clips on the rarer side,

        p = min(1, 2 * sum_{i <= m} C(m + M, i) / 2^(m + M)),

    the exact two-sided binomial test. In whole numbers until the one division at the end.

    Args:
        right_a: bool [n], whether model a is right on each clip.
        right_b: bool [n], the same for model b.

    Raises:
        ValueError: if the two are not of one length.
    """
    a, b = np.asarray(right_a, dtype=bool), np.asarray(right_b, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"right_a and right_b must be of one length: {a.shape} and {b.shape}")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    n = only_a + only_b
    ways = tail = 1  # C(n, 0)
    for i in range(1, min(only_a, only_b) + 1):
        ways = ways * (n - i + 1) // i
        tail += ways
    return Mcnemar(only_a, only_b, min(1.0, 2 * tail / 2**n))


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation (n - 1; 0 for one value), e.g. over seeds.

    Raises:
        ValueError: if there is no value.
    """
    if not len(values):
        raise ValueError("a mean needs at least one value")
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _resample(
    k: int, columns: Sequence[ArrayLike], resamples: int, seed: int, stratified: bool
) -> Iterator[list[Ints]]:
    """Draw clips anew, as counts of the combinations of the columns int [n] that occur.

    Yields:
        For each resample the confusion matrices of the first column, the labels, with each other.
    """
    if resamples < 1:
        raise ValueError(f"resamples: {resamples} must be at least 1")
    table = np.stack([np.asarray(column, dtype=np.int64) for column in columns])
    if not table.size:
        raise DataError("statistics: no predictions; an interval needs at least one clip")
    if table.min() < 0 or table.max() >= k:
        raise ValueError(f"labels and predictions must be in 0..{k - 1}")
    shape = (k,) * len(table)
    held, clips = np.unique(np.ravel_multi_index(tuple(table), shape), return_counts=True)
    cells = np.unravel_index(held, shape)  # in the order of the labels
    strata = cells[0] if stratified else np.zeros(len(clips), np.int64)
    rng = np.random.default_rng(seed)
    parts = [clips[strata == stratum] for stratum in np.unique(strata)]
    drawn = [rng.multinomial(part.sum(), part / part.sum(), size=resamples) for part in parts]
    places = [cells[0] * k + predictions for predictions in cells[1:]]
    for times in np.concatenate(drawn, axis=1):
        yield [np.bincount(p, times, k * k).astype(np.int64).reshape(k, k) for p in places]


# How does a figure vary with the clips, for all seeds of a model together?
#
# In: the logits of each seed on the same clips. Out: the figure on resamples of the clips. Unlike
# safe.evaluation.intervals, also for the figures that no confusion matrix gives. Shapes: n clips,
# K classes, R resamples, S seeds, Q sums.

RECALL: Final = "recall."
"""What the name of a figure that is the recall of one class begins with."""


def resample_figure(
    figure: str,
    labels: ArrayLike,
    logits: ArrayLike,
    classes: Classes,
    *,
    bins: int,
    resamples: int = 1000,
    seed: int = 0,
) -> Floats:
    """Return a figure on resamples of the clips, each the mean over the seeds of a model.

    The seeds saw the same clips, so ONE resample is applied to all of them: what makes a clip hard
    for one seed makes it hard for the next, and resampling each apart would average that away and
    give too narrow an interval. The draws follow from (n, resamples, seed) alone, so two models on
    the same clips get the same resamples, and the difference of their results is paired.

    Each figure is made of sums over clips (hits and clips a class; accuracy minus confidence a
    bin; -log p; squared error), so that a resample is one row of a matrix product with the number
    of times each clip was drawn.

    Args:
        figure: war, uar, recall.<class>, ece, nll or brier.
        labels: int [n], 0..K-1.
        logits: float [S, n, K], one entry a seed.
        classes: names, K of them.
        bins: M of the ECE.
        resamples: R, at least 1.
        seed: decides the resamples.

    Returns:
        float64 [R] in the units of safe.evaluation.metrics.summarize; nan where the figure is not
        defined (a recall without clips of its class).

    Raises:
        DataError: if there is no clip or no seed.
        ValueError: if the figure is not one of these, or resamples or a shape is wrong.
    """
    y, z = np.asarray(labels, dtype=np.int64), np.asarray(logits, dtype=np.float64)
    if not z.size:
        raise DataError("statistics: no predictions; an interval needs at least one clip")
    if z.ndim != 3 or z.shape[1:] != (len(y), len(classes)):
        raise ValueError(f"logits must be [seeds, {len(y)}, {len(classes)}]: {z.shape}")
    if resamples < 1:
        raise ValueError(f"resamples: {resamples} must be at least 1")
    n = len(y)
    terms = np.stack([_terms(figure, y, each, bins, classes) for each in z], axis=1)  # [n, S, Q]
    parts = []
    for times in draws(n, resamples=resamples, seed=seed):
        sums = times @ terms.reshape(n, -1)
        parts.append(_from_sums(figure, sums.reshape(-1, *terms.shape[1:]), n).mean(axis=1))
    return np.concatenate(parts)


def draws(clips: int, *, resamples: int, seed: int) -> Iterator[Floats]:
    """Draw as many clips as there are, with replacement, again and again.

    Args:
        clips: n.
        resamples: R.
        seed: decides them.

    Yields:
        How often each clip was drawn, float64 [some, n], R rows in all; some 20 MB at a time.
    """
    rng = np.random.default_rng(seed)
    at_once = max(1, 2**20 // clips)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = rng.integers(clips, size=(rows, clips)) + clips * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * clips).reshape(rows, clips).astype(float)


def _terms(figure: str, labels: Ints, logits: Floats, bins: int, classes: Classes) -> Floats:
    """What each clip adds to the sums of a figure: [n], logits [n, K] to float64 [n, Q]."""
    hit = logits.argmax(axis=1) == labels
    truth = np.eye(len(classes))[labels]
    terms: Floats
    if figure == "war":
        terms = hit[:, None].astype(np.float64)
    elif figure == "uar" or (figure.startswith(RECALL) and figure[len(RECALL) :] in classes):
        own = truth if figure == "uar" else truth[:, [classes.index(figure[len(RECALL) :])]]
        terms = np.concatenate([own * hit[:, None], own], axis=1)
    elif figure == "nll":
        terms = np.logaddexp.reduce(logits, axis=1)[:, None] - logits[truth == 1][:, None]
    elif figure == "brier":
        terms = ((softmax(logits) - truth) ** 2).sum(axis=1, keepdims=True)
    elif figure == "ece":
        confidence = softmax(logits).max(axis=1)
        terms = (hit - confidence)[:, None] * np.eye(bins)[bin_of(confidence, bins)]
    else:
        raise ValueError(
            f"figure: {figure} must be war, uar, ece, nll, brier, or recall. before one of "
            f"{', '.join(classes)}"
        )
    return terms


def _from_sums(figure: str, sums: Floats, clips: int) -> Floats:
    """Return the figure from the sums of its terms over so many clips: [..., Q] to [...]."""
    found: Floats
    if figure in ("war", "nll", "brier"):
        found = sums[..., 0] / clips * (100 if figure == "war" else 1)
    elif figure == "ece":
        found = np.abs(sums).sum(axis=-1) / clips
    else:
        hits, of = np.split(sums, 2, axis=-1)
        recall = 100 * np.divide(hits, of, out=np.full_like(hits, np.nan), where=of > 0)
        found = np.nanmean(recall, axis=-1) if figure == "uar" else recall[..., 0]
    return found
