"""What does a model's answer mean: which probability, which set of classes, or none at all?

A Calibration turns logits into probabilities, into sets of classes that hold the label as often as
promised, and into abstention. It is fitted on the selection split (safe/evaluation/calibrate.py)
and kept in model.json. Shapes: n clips, K classes.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from safe.evaluation.intervals import draws, percentile_interval
from safe.evaluation.metrics import Floats, Ints, bin_of, brier, ece, nll, softmax

Method = Literal["none", "temperature", "vector"]


@dataclass(frozen=True)
class Calibration:
    """How logits are read.

    p = softmax(scale * logits + bias), class by class. Temperature scaling (Guo et al. 2017) has
    one scale, 1 / T, and no bias; vector scaling has a scale and a bias a class.
    """

    method: Method = "none"
    scale: tuple[float, ...] = (1.0,)
    """[K], above 0; here as below, one number is that of all classes."""
    bias: tuple[float, ...] = (0.0,)
    """[K]."""
    level: float | None = None
    """Share of the clips of each class whose set shall hold their label; None: no sets."""
    cutoffs: tuple[float, ...] = (0.0,)
    """[K], 0..1: class k is in the set where p_k is at least cutoffs[k]."""
    risk: float | None = None
    """Share of errors that is wanted among the clips that get a decision; None: not asked."""
    threshold: float = 0.0
    """0..1: a clip whose highest p is below gets no decision. Above 1: none gets one."""
    clips: int = 0
    """Size of the selection split that all this was fitted on."""

    def scaled(self, logits: ArrayLike) -> Floats:
        """Return scale * logits + bias, float64 [n, K]."""
        scaled: Floats = np.asarray(logits, np.float64) * np.array(self.scale) + np.array(self.bias)
        return scaled

    def probabilities(self, logits: ArrayLike) -> Floats:
        """Turn logits [n, K] into probabilities, float64 [n, K]."""
        return softmax(self.scaled(logits))

    def sets(self, probabilities: Floats) -> NDArray[np.bool_]:
        """Say which classes are in each clip's prediction set, bool [n, K]; all without a level."""
        return np.asarray(probabilities >= np.array(self.cutoffs))

    def abstains(self, probabilities: Floats) -> NDArray[np.bool_]:
        """Say which clips get no decision, bool [n]."""
        return np.asarray(probabilities.max(axis=1) < self.threshold)

    def record(self) -> dict[str, Any]:
        """Return the block `calibration` of model.json; lists and numbers only."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_info(cls, info: dict[str, Any]) -> "Calibration":
        """Read the block `calibration` of a checked model.json; without one nothing is changed."""
        block: dict[str, Any] = info.get("calibration") or {}
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in block.items()
        }
        return cls(**values)


# How many errors are left when a model may abstain from the clips that it is least sure of?
#
# Confidence and right or wrong of n clips go in. Clips of equal confidence cannot be told apart, so
# each of them counts as wrong by their share of errors: the order in which they come changes
# nothing.


def risk_coverage(confidence: ArrayLike, wrong: ArrayLike) -> tuple[Floats, Floats]:
    """Return the risk-coverage curve (Geifman and El-Yaniv 2017), the surest clips first.

    Args:
        confidence: float [n], n >= 1.
        wrong: bool [n].

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


# Can a model's calibrated answers on a split be believed?
#
# That is its probabilities, its prediction sets, and what it leaves unanswered. Labels and logits
# of
# clips go in, with the Calibration by which they are read; figures with 95 % intervals over clips
# (percentile bootstrap) come out.

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
        FIGURES, and `<figure>_low` and `_high` of some. ece, nll, brier: as in
        safe.evaluation.metrics, of the
        calibrated probabilities. coverage: share of clips whose set holds the label; set_size: mean
        number of classes in it (both None without sets). answered: share of clips that get a
        decision; selective_risk: share of errors among them (None if there are none). risk_at_80:
        share of errors among the 80 % surest; error: among all. aurc, augrc:
        safe.evaluation.calibration.
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
