"""Can a model's calibrated answers on a split be believed?

That is its probabilities, its prediction sets, and what it leaves unanswered. Labels and logits of
clips go in, with the Calibration by which they are read; figures with 95 % intervals over clips
(percentile bootstrap) come out.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from safe.calibration import Calibration
from safe.metrics import Floats, Ints, brier, ece, nll, softmax
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

    def share(values: Any, rows: Any) -> float | None:
        chosen = values[rows]
        return float(chosen.mean()) if len(chosen) else None

    figures: dict[str, Callable[[Any], float | None]] = {
        "ece_calibrated": lambda rows: ece(p[rows], labels[rows], bins),
        "nll_calibrated": lambda rows: nll(scaled[rows], labels[rows]),
        "brier_calibrated": lambda rows: brier(p[rows], labels[rows]),
        "coverage": lambda rows: None if holds is None else share(holds, rows),
        "set_size": lambda rows: None if sets is None else share(sets.sum(axis=1), rows),
        "answered": lambda rows: share(~abstains, rows),
        "selective_risk": lambda rows: share(wrong, rows[~abstains[rows]]),
        "risk_at_80": lambda rows: risk_at(confidence[rows], wrong[rows], COVERAGE_SHOWN),
        "error": lambda rows: share(wrong, rows),
        "aurc": lambda rows: aurc(confidence[rows], wrong[rows]),
        "augrc": lambda rows: augrc(confidence[rows], wrong[rows]),
    }
    n = len(labels)
    found = {name: figure(np.arange(n)) for name, figure in figures.items()}
    shown = [name for name in _WITH_INTERVAL if found[name] is not None]
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(n, size=n) for _ in range(resamples))
    values = [[figures[name](rows) for name in shown] for rows in drawn]
    table = np.array(values, dtype=np.float64).reshape(resamples, len(shown))
    for name in _WITH_INTERVAL:
        column = table[:, shown.index(name)] if name in shown else np.array([])
        low, high = percentile_interval(column)
        found[f"{name}_low"] = None if np.isnan(low) else low
        found[f"{name}_high"] = None if np.isnan(high) else high
    return found
