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

import numpy as np
from numpy.typing import ArrayLike

from safe.errors import DataError
from safe.metrics import Floats, Ints

Figure = Callable[[Ints], float]
"""From a confusion matrix int64 [K, K] (row: label) to a number, as safe.metrics.war or uar."""


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
        figure: e.g. safe.metrics.uar.
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
