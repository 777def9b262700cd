"""Intervals and tests: how far a metric would move with other clips, and whether two models differ.

In: labels and logits of the clips of a split, of one training or of several (seeds) on the same
clips. Out: 95 % intervals and p. One method a metric, wherever it is shown:

- WAR, recall, precision, coverage of sets, selective risk: a share of clips, Wilson's interval;
- UAR, ECE, NLL, Brier, AURC, risk at 80 %: percentiles of a bootstrap over clips;
- the difference of two models: the same bootstrap, paired;
- whether two models are right equally often: McNemar's exact test.

An interval is over CLIPS, for all seeds together: the same trainings on other clips like these. How
far another training would move a metric, the deviation over seeds says. The ECE of a resample is on
average above that of the clips (resampling adds noise, whose absolute value counts), so where the
ECE is small its interval lies high; differences suffer less.

Shapes: n clips, K classes, S seeds, R resamples, M bins.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest, norm

from safe.errors import DataError
from safe.evaluation.metrics import COVERAGE_SHOWN, Floats, Ints, bin_of, softmax
from safe.taxonomy import Classes

LEVEL: Final = 0.95

Z: Final = float(norm.ppf((1 + LEVEL) / 2))
"""1.96: the ends of that share of a normal distribution, in deviations."""

RESAMPLES: Final = 10_000
"""Of 1,000 the end of an interval would keep 0.05 points of noise, enough to turn a verdict."""

RECALL: Final = "recall."
"""What the name of a metric that is the recall of one class begins with."""

Interval = tuple[float, float]
"""Lower and upper end; nan where the metric is not defined."""


def intervals(
    metrics: Iterable[str],
    labels: ArrayLike,
    logits: ArrayLike,
    classes: Classes = (),
    *,
    bins: int,
    resamples: int = RESAMPLES,
) -> dict[str, Interval]:
    """Return the interval of each metric, of its mean over the seeds.

    Args:
        metrics: war, uar, recall.<class>, ece, nll, brier, aurc or risk_at_80.
        labels: int [n], 0..K-1.
        logits: float [S, n, K].
        classes: names, K of them; needed for recalls only.
        bins: M of the ECE.
        resamples: R.

    Returns:
        By metric, in the units of safe.evaluation.metrics.summarize.

    Raises:
        DataError: if there is no clip or no seed.
        ValueError: if a metric is not one of these, or the shapes do not fit.
    """
    y, z = _checked(labels, logits)
    hits = (z.argmax(axis=2) == y).mean(axis=0)
    found, others = {}, []
    for metric in metrics:
        if metric == "war":
            found[metric] = share_interval(hits, unit=100)
        elif metric.startswith(RECALL) and metric[len(RECALL) :] in classes:
            own = y == classes.index(metric[len(RECALL) :])
            found[metric] = share_interval(hits[own], unit=100)
        else:
            others.append(metric)
    drawn = resampled(others, y, z, classes, bins=bins, resamples=resamples)
    return found | {metric: percentile_interval(values) for metric, values in drawn.items()}


def share_interval(scores: ArrayLike, *, unit: float = 1) -> Interval:
    """Return Wilson's interval (1927) of a share of clips, times `unit`; nan without clips.

    A bootstrap of 27 right clips of 27 gives 100 % every time, as if there were no doubt; this goes
    from 88 % to 100 %. scipy's takes whole numbers of hits, so no mean over seeds.

    Args:
        scores: bool [n]; of several seeds float [n], the share of them that is right. These vary
            less than hits, and the interval is that of n p (1 - p) / var(scores) clips (the design
            effect of survey sampling), which of one seed are n.
        unit: 100 for percent.
    """
    x = np.asarray(scores, dtype=np.float64)
    if not len(x):
        return float("nan"), float("nan")
    p, spread = x.mean(), x.var()
    n = len(x) * (p * (1 - p) / spread if spread > 0 else 1)
    centre, half = p + Z**2 / (2 * n), Z * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    low, high = (min(max((centre + side) / (1 + Z**2 / n), 0), 1) for side in (-half, half))
    return unit * float(low), unit * float(high)


def percentile_interval(values: Floats) -> Interval:
    """Return the ends of the middle 95 % of a metric on resamples [R], without those that are nan.

    A resample without clips of a class, for one, has no recall of it.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def resampled(
    metrics: Sequence[str],
    labels: ArrayLike,
    logits: ArrayLike,
    classes: Classes = (),
    *,
    bins: int,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Floats]:
    """Return metrics on resamples of the clips, float64 [R] each, the mean over the seeds.

    The seeds saw the same clips, so ONE resample is applied to all of them: what makes a clip hard
    for one makes it hard for the next, and resampling each apart would average that away. The
    draws follow from (n, resamples, seed) alone, so the difference of two results is paired.

    Args, units and errors as in intervals(); nan where a metric is not defined.
    """
    y, z = _checked(labels, logits)
    of_times = {
        metric: [_weighted(metric, y, one, classes, bins) for one in z] for metric in metrics
    }
    parts: dict[str, list[Floats]] = {metric: [] for metric in metrics}
    for times in draws(len(y), resamples=resamples, seed=seed) if metrics else ():
        for metric, seeds in of_times.items():
            parts[metric].append(np.mean([value(times) for value in seeds], axis=0))
    return {metric: np.concatenate(part) for metric, part in parts.items()}


def draws(clips: int, *, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[Floats]:
    """Draw as many clips as there are, with replacement, again and again.

    Yields:
        How often each clip was drawn, float64 [some, n], R rows in all; 8 MB at a time.
    """
    rng = np.random.default_rng(seed)
    at_once = max(1, 2**20 // clips)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = rng.integers(clips, size=(rows, clips)) + clips * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * clips).reshape(rows, clips).astype(float)


class Mcnemar(NamedTuple):
    """What McNemar's exact test finds."""

    only_a: int
    """Clips that a alone has right."""
    only_b: int
    p: float
    """Two-sided, 0..1."""


def mcnemar(right_a: ArrayLike, right_b: ArrayLike) -> Mcnemar:
    """Test whether two models are right equally often on the same clips, bool [n] each.

    Were they, each clip that one alone has right would be a fair coin (McNemar, 1947).
    """
    a, b = np.asarray(right_a, dtype=bool), np.asarray(right_b, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"right_a and right_b must be of one length: {a.shape} and {b.shape}")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    p = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return Mcnemar(only_a, only_b, float(p))


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation (n - 1; 0 for one value), e.g. over seeds.

    Raises:
        ValueError: if there is no value.
    """
    if not len(values):
        raise ValueError("a mean needs at least one value")
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _checked(labels: ArrayLike, logits: ArrayLike) -> tuple[Ints, Floats]:
    y, z = np.asarray(labels, dtype=np.int64), np.asarray(logits, dtype=np.float64)
    if not z.size:
        raise DataError("statistics: no predictions; an interval needs at least one clip")
    if z.ndim != 3 or z.shape[1] != len(y):
        raise ValueError(f"logits must be [seeds, {len(y)}, classes]: {z.shape}")
    return y, z


def _weighted(
    metric: str, labels: Ints, logits: Floats, classes: Classes, bins: int
) -> Callable[[Floats], Floats]:
    """Return the metric as a function of how often each clip was drawn, [r, n] to [r].

    All but the last two are made of sums over clips, so that r resamples are a product of matrices.
    """
    n, k = logits.shape
    hit, truth = logits.argmax(axis=1) == labels, np.eye(k)[labels]
    p = softmax(logits)
    sure = p.max(axis=1)
    if metric == "war":
        return lambda times: 100 * (times @ hit) / n
    if metric == "uar":
        return lambda times: np.nanmean(_recalls(times, hit, truth), axis=1)
    if metric.startswith(RECALL) and metric[len(RECALL) :] in classes:
        own = truth[:, [classes.index(metric[len(RECALL) :])]]
        return lambda times: _recalls(times, hit, own)[:, 0]
    if metric == "nll":
        surprise = np.logaddexp.reduce(logits, axis=1) - logits[truth == 1]
        return lambda times: times @ surprise / n
    if metric == "brier":
        errors = ((p - truth) ** 2).sum(axis=1)
        return lambda times: times @ errors / n
    if metric == "ece":
        gaps = (hit - sure)[:, None] * np.eye(bins)[bin_of(sure, bins)]
        return lambda times: np.abs(times @ gaps).sum(axis=1) / n
    order = np.argsort(-sure, kind="stable")
    wrong = ~hit[order]
    if metric == "aurc":
        return lambda times: (times[:, order] * _risks(times[:, order], wrong)[1]).sum(axis=1) / n
    if metric == "risk_at_80":
        return lambda times: _risk_at(times[:, order], wrong, COVERAGE_SHOWN)
    raise ValueError(
        f"metric: {metric} must be war, uar, ece, nll, brier, aurc, risk_at_80, or recall. before "
        f"one of {', '.join(classes)}"
    )


def _recalls(times: Floats, hit: Ints, of: Floats) -> Floats:
    """Recalls in percent, [r, classes of `of`]; nan where a resample has no clip of a class."""
    clips = times @ of
    hits = times @ (of * hit[:, None])
    return 100 * np.divide(hits, clips, out=np.full_like(hits, np.nan), where=clips > 0)


def _risks(times: Floats, wrong: Ints) -> tuple[Floats, Floats]:
    """Clips so far, and the share of them that is wrong, the surest first: [r, n] each."""
    so_far = np.cumsum(times, axis=1)
    return so_far, np.cumsum(times * wrong, axis=1) / np.maximum(so_far, 1)


def _risk_at(times: Floats, wrong: Ints, coverage: float) -> Floats:
    so_far, risks = _risks(times, wrong)
    enough = (so_far >= coverage * times.shape[1] - 1e-9).argmax(axis=1)
    return np.take_along_axis(risks, enough[:, None], axis=1)[:, 0]
