"""Can a model's calibrated answers on a split be believed?

That is its probabilities, its prediction sets, and what it leaves unanswered. Labels and logits of
clips go in, with the Calibration by which they are read; figures with 95 % intervals over clips
(percentile bootstrap) come out.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from safe.calibration import Calibration
from safe.metrics import Floats, Ints, bin_of, brier, ece, nll, softmax
from safe.resample import draws
from safe.selective import augrc, aurc, risk_at
from safe.statistics import percentile_interval

COVERAGE_SHOWN: Final = 0.8
"""The share of clips whose error is compared with that of all."""

FIGURES: Final = (
    *("ece_calibrated", "nll_calibrated", "brier_calibrated", "coverage", "set_size"),
    *("answered", "selective_risk", "risk_at_80", "error", "aurc", "augrc"),
)
"""What trust_figures gives: errors, risks, coverage and answered are fractions."""

_WITH_INTERVAL: Final = ("ece_calibrated", "coverage", "selective_risk", "risk_at_80", "aurc")


def trust_figures(
    logits: ArrayLike,
    labels: ArrayLike,
    calibration: Calibration,
    *,
    bins: int,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, float | None]:
    """Return the figures of a split, read by a calibration.

    Args:
        logits: float [n, K], as the model gives them.
        labels: int [n].
        calibration: how they are read.
        bins: M of the ECE.
        resamples: of the bootstrap.
        seed: decides the resamples.

    Returns:
        FIGURES, and `<figure>_low` and `_high` of some. ece, nll, brier: as in safe.metrics, of the
        calibrated probabilities. coverage: share of clips whose set holds the label; set_size: mean
        number of classes in it (both None without sets). answered: share of clips that get a
        decision; selective_risk: share of errors among them (None if there are none). risk_at_80:
        share of errors among the 80 % surest; error: among all. aurc, augrc: safe.selective.
    """
    scaled = calibration.scaled(logits)
    return pooled_figures(
        scaled,
        np.asarray(labels, dtype=np.int64),
        sets=None if calibration.level is None else calibration.sets(softmax(scaled)),
        abstains=calibration.abstains(softmax(scaled)),
        bins=bins,
        resamples=resamples,
        seed=seed,
    )


def pooled_figures(
    scaled: Floats,
    labels: Ints,
    *,
    sets: Any,
    abstains: Any,
    bins: int,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, float | None]:
    """Return what trust_figures does, of clips of several folds, each read by its own calibration.

    Args:
        scaled: float64 [n, K], logits after scale and bias.
        labels: int64 [n].
        sets: bool [n, K], or None.
        abstains: bool [n].
        bins: as in trust_figures.
        resamples: as there.
        seed: as there.
    """
    p = softmax(scaled)
    confidence, wrong = p.max(axis=1), p.argmax(axis=1) != labels
    holds = None if sets is None else sets[np.arange(len(labels)), labels]
    found: dict[str, float | None] = {
        "ece_calibrated": ece(p, labels, bins),
        "nll_calibrated": nll(scaled, labels),
        "brier_calibrated": brier(p, labels),
        "coverage": None if holds is None else float(holds.mean()),
        "set_size": None if sets is None else float(sets.sum(axis=1).mean()),
        "answered": float((~abstains).mean()),
        "selective_risk": None if abstains.all() else float(wrong[~abstains].mean()),
        "risk_at_80": risk_at(confidence, wrong, COVERAGE_SHOWN),
        "error": float(wrong.mean()),
        "aurc": aurc(confidence, wrong),
        "augrc": augrc(confidence, wrong),
    }
    gaps = (~wrong - confidence)[:, None] * np.eye(bins)[bin_of(confidence, bins)]
    counted = np.zeros(len(labels), dtype=bool) if holds is None else holds
    terms = np.column_stack([gaps, counted, ~abstains, wrong & ~abstains])
    parts = [
        _resampled(times, terms, confidence, wrong)
        for times in draws(len(labels), resamples=resamples, seed=seed)
    ]
    values = np.concatenate(parts) if parts else np.empty((0, len(_WITH_INTERVAL)))
    for column, name in enumerate(_WITH_INTERVAL):
        low, high = percentile_interval(values[:, column])
        known = found[name] is not None and not np.isnan(low)
        found[f"{name}_low"], found[f"{name}_high"] = (low, high) if known else (None, None)
    return found


def _resampled(times: Floats, terms: Floats, confidence: Floats, wrong: Any) -> Floats:
    """Return the figures of _WITH_INTERVAL on resamples.

    A clip that was drawn twice is answered, or not, both times at once.

    Args:
        times: how often each clip was drawn, [R, n].
        terms: what a clip adds to the sums, [n, M + 3]: accuracy minus confidence in its bin;
            whether its set holds the label; whether it is answered; whether answered and wrong.
        confidence: [n].
        wrong: bool [n].

    Returns:
        float64 [R, 5]; nan where there is none.
    """
    n = len(confidence)
    sums = times @ terms
    answered, errors = sums[:, -2], sums[:, -1]
    risk = np.divide(errors, answered, out=np.full(len(times), np.nan), where=answered > 0)
    order = np.argsort(-confidence, kind="stable")
    drawn = times[:, order]
    so_far = np.cumsum(drawn, axis=1)
    risks = np.cumsum(drawn * wrong[order], axis=1) / np.maximum(so_far, 1)
    enough = (so_far >= COVERAGE_SHOWN * n - 1e-9).argmax(axis=1)
    return np.column_stack(
        [
            np.abs(sums[:, :-3]).sum(axis=1) / n,
            sums[:, -3] / n,
            risk,
            risks[np.arange(len(times)), enough],
            (drawn * risks).sum(axis=1) / n,
        ]
    )
