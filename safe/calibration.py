"""What does a model's answer mean: which probability, which set of classes, or none at all?

A Calibration turns logits into probabilities, into sets of classes that hold the label as often as
promised, and into abstention. It is fitted on the selection split (safe/calibrate.py) and kept in
model.json. Shapes: n clips, K classes.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from safe.metrics import Floats, softmax

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
