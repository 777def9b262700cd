"""Does a model doubt where people doubt?

A clip's label is what most of ten people chose; how many chose otherwise, it does not tell. So a
model's probabilities are held against the shares of the votes. Shapes: n clips, K classes.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import rel_entr, xlogy
from scipy.stats import spearmanr

from safe.errors import DataError
from safe.evaluation.intervals import percentile_interval
from safe.evaluation.metrics import Floats

FIGURES: Final = ("vote_kl", "vote_distance", "vote_agreement", "vote_confidence", "doubt_rank")


def vote_figures(
    probabilities: Floats, votes: ArrayLike, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Compare probabilities with the shares of people's votes.

    Args:
        probabilities: float [n, K].
        votes: int [n, K], how many people chose each class; at least one in each row.
        resamples: of the bootstrap over clips.
        seed: decides the resamples.

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
    doubt = np.stack([-xlogy(p, p).sum(axis=1) for p in (probabilities, shares)])
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(len(counts), size=len(counts)) for _ in range(resamples)]
    found: dict[str, Any] = {}
    for name, values in each.items():
        found[name] = float(values.mean())
        means = np.array([values[rows].mean() for rows in drawn])
        found[f"{name}_low"], found[f"{name}_high"] = percentile_interval(means)
    found["doubt_rank"] = _rank(doubt)
    ranks = [_rank(doubt[:, rows]) for rows in drawn] if found["doubt_rank"] is not None else []
    low, high = percentile_interval(np.array([np.nan if r is None else r for r in ranks]))
    found["doubt_rank_low"] = None if np.isnan(low) else low
    found["doubt_rank_high"] = None if np.isnan(high) else high
    found["people"] = float(shares.max(axis=1).mean())
    found["n"] = len(counts)
    return found


def _rank(doubt: Floats) -> float | None:
    """Spearman's correlation of the rows of [2, n]; None where one is constant."""
    if (np.ptp(doubt, axis=1) == 0).any():
        return None
    return float(spearmanr(doubt[0], doubt[1]).statistic)
