"""How does a figure vary with the clips, for all seeds of a model together?

In: the logits of each seed on the same clips. Out: the figure on resamples of the clips. Unlike
safe.statistics, also for the figures that no confusion matrix gives. Shapes: n clips, K classes, R
resamples, S seeds, Q sums.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from safe.errors import DataError
from safe.metrics import Floats, Ints, bin_of, softmax
from safe.taxonomy import Classes

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
        float64 [R] in the units of safe.metrics.summarize; nan where the figure is not defined (a
        recall without clips of its class).

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
