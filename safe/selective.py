"""How many errors are left when a model may abstain from the clips that it is least sure of?

Confidence and right or wrong of n clips go in. Clips of equal confidence cannot be told apart, so
each of them counts as wrong by their share of errors: the order in which they come changes nothing.
"""

import numpy as np
from numpy.typing import ArrayLike

from safe.metrics import Floats


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
