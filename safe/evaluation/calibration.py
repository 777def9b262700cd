"""Calibration: how logits become probabilities, sets of classes and decisions, and their worth.

In: logits. Out: probabilities, sets of classes that hold the label as often as promised, and
abstention; and the metrics of these on a split. A Calibration is fitted on the selection split
(safe/evaluation/calibrate.py) and kept in model.json. Shapes: n clips, K classes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from safe.evaluation.intervals import RESAMPLES, intervals, share_interval
from safe.evaluation.metrics import (
    COVERAGE_SHOWN,
    Floats,
    augrc,
    aurc,
    brier,
    ece,
    nll,
    risk_at,
    softmax,
)

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


METRICS: Final = (
    *("ece_calibrated", "nll_calibrated", "brier_calibrated", "coverage", "set_size"),
    *("answered", "selective_risk", "risk_at_80", "error", "aurc", "augrc"),
)
"""What trust_metrics gives: errors, risks, coverage and answered are fractions."""

_DRAWN: Final = {"ece": "ece_calibrated", "risk_at_80": "risk_at_80", "aurc": "aurc"}
_WITH_INTERVAL: Final = (*_DRAWN.values(), "coverage", "selective_risk")


def trust_metrics(
    logits: ArrayLike,
    labels: ArrayLike,
    calibration: Calibration,
    *,
    bins: int,
    resamples: int = RESAMPLES,
) -> dict[str, float | None]:
    """Return the metrics of calibrated answers: logits [n, K] of labels [n], read by a calibration.

    Returns:
        METRICS, and `<metric>_low` and `_high` of some. ece, nll, brier (of the calibrated
        probabilities), aurc and augrc: as in safe.evaluation.metrics. coverage: share of clips
        whose set holds the label; set_size: mean number of classes in it (both None without sets).
        answered: share of clips that get a decision; selective_risk: share of errors among them
        (None if there are none). risk_at_80: share of errors among the 80 % surest; error: among
        all. Without resamples the intervals are None.
    """
    return pooled_metrics([(calibration, logits, labels)], bins=bins, resamples=resamples)


def pooled_metrics(
    folds: Sequence[tuple[Calibration, ArrayLike, ArrayLike]],
    *,
    bins: int,
    resamples: int = RESAMPLES,
) -> dict[str, float | None]:
    """Return what trust_metrics does, of several folds: calibration, logits and labels of each."""
    scaled = np.concatenate([read.scaled(logits) for read, logits, _ in folds])
    labels = np.concatenate([np.asarray(y, dtype=np.int64) for _, _, y in folds])
    each = [(read, read.probabilities(logits)) for read, logits, _ in folds]
    p = softmax(scaled)
    sure, wrong = p.max(axis=1), p.argmax(axis=1) != labels
    answered = ~np.concatenate([read.abstains(part) for read, part in each])
    has_sets = all(read.level is not None for read, _ in each)
    sets = np.concatenate([read.sets(part) for read, part in each])
    holds = sets[np.arange(len(labels)), labels]
    found: dict[str, float | None] = {
        "ece_calibrated": ece(p, labels, bins),
        "nll_calibrated": nll(scaled, labels),
        "brier_calibrated": brier(p, labels),
        "coverage": float(holds.mean()) if has_sets else None,
        "set_size": float(sets.sum(axis=1).mean()) if has_sets else None,
        "answered": float(answered.mean()),
        "selective_risk": float(wrong[answered].mean()) if answered.any() else None,
        "risk_at_80": risk_at(sure, wrong, COVERAGE_SHOWN),
        "error": float(wrong.mean()),
        "aurc": aurc(sure, wrong),
        "augrc": augrc(sure, wrong),
    }
    ends = dict.fromkeys(_WITH_INTERVAL, (np.nan, np.nan))
    if resamples:
        drawn = intervals(_DRAWN, labels, scaled[None], bins=bins, resamples=resamples)
        ends |= {_DRAWN[name]: drawn[name] for name in _DRAWN}
        ends["selective_risk"] = share_interval(wrong[answered])
        ends["coverage"] = share_interval(holds if has_sets else [])
    for name, (low, high) in ends.items():
        found[f"{name}_low"] = None if np.isnan(low) else low
        found[f"{name}_high"] = None if np.isnan(high) else high
    return found
