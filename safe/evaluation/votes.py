"""Comparison of a model's doubt with people's: its probabilities beside the shares of their votes.

A clip's label is what most of ten people chose; how many chose otherwise, it does not tell.
Shapes: n clips, K classes.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import rel_entr, xlogy
from scipy.stats import spearmanr

from safe.errors import DataError
from safe.evaluation.intervals import RESAMPLES, Z, draws, percentile_interval
from safe.evaluation.metrics import Floats


def vote_metrics(
    probabilities: Floats, votes: ArrayLike, *, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Compare probabilities [n, K] with votes int [n, K], how many people chose each class.

    Returns:
        Means over the clips, each with its 95 % interval as <figure>_low and _high:
        vote_kl, nats: KL divergence of the model's probabilities from the votes' shares, 0 best;
        vote_distance, 0..1: total variation distance of the two, 0 best;
        vote_agreement, 0..1: share of the people who chose the model's class;
        vote_confidence, 0..1: the model's probability of it, which should be the same;
        doubt_rank, -1..1: Spearman's correlation of the two entropies, 1 where the model doubts
        most just where people do (None where one of them is the same for all clips).
        And people, 0..1: the mean share of votes of the most chosen class, which no model that
        answers one class can exceed in vote_agreement; n, the number of clips.

    Raises:
        DataError: if there is no clip, or one without votes.
    """
    counts = np.asarray(votes, dtype=np.float64)
    if not len(counts) or counts.shape != probabilities.shape:
        raise DataError("votes: none of the clips that were predicted has votes")
    if (counts.sum(axis=1) <= 0).any():
        raise DataError("votes: a clip without a single vote cannot be compared")
    shares = counts / counts.sum(axis=1, keepdims=True)
    chosen = probabilities.argmax(axis=1)[:, None]
    each = {
        "vote_kl": rel_entr(shares, np.maximum(probabilities, 1e-12)).sum(axis=1),
        "vote_distance": np.abs(shares - probabilities).sum(axis=1) / 2,
        "vote_agreement": np.take_along_axis(shares, chosen, axis=1)[:, 0],
        "vote_confidence": np.take_along_axis(probabilities, chosen, axis=1)[:, 0],
    }
    table = np.column_stack(list(each.values()))
    drawn = np.concatenate([times @ table for times in draws(len(table), resamples=resamples)])
    found: dict[str, Any] = {}
    for name, values, means in zip(each, table.T, drawn.T / len(table), strict=True):
        found[name] = float(values.mean())
        found[f"{name}_low"], found[f"{name}_high"] = percentile_interval(means)
    found |= _rank(*(-xlogy(p, p).sum(axis=1) for p in (probabilities, shares)))
    return found | {"people": float(shares.max(axis=1).mean()), "n": len(counts)}


def _rank(ours: Floats, theirs: Floats) -> dict[str, float | None]:
    """Spearman's correlation with the interval of Bonett and Wright (2000); None where undefined.

    arctanh(r) is about normal with the variance (1 + r^2 / 2) / (n - 3).
    """
    names, n = ("doubt_rank", "doubt_rank_low", "doubt_rank_high"), len(ours)
    if np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return dict.fromkeys(names)
    r = float(spearmanr(ours, theirs).statistic)
    if n <= 3:
        return dict.fromkeys(names) | {"doubt_rank": r}
    half = Z * np.sqrt((1 + r**2 / 2) / (n - 3))
    with np.errstate(divide="ignore"):  # of r = 1, whose ends are 1 too
        ends = np.tanh(np.arctanh(r) + half * np.array([-1, 1]))
    return dict(zip(names, (r, *map(float, ends)), strict=True))
