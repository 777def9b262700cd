"""What is a number with its 95 % interval, and how does it read?"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from safe.metrics import confusion, uar, war
from safe.predictions import Split
from safe.resample import RECALL, resample_figure
from safe.statistics import bootstrap_interval, percentile_interval


@dataclass(frozen=True)
class Figure:
    """A number with its 95 % interval."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    """"%", "nats", "classes", or nothing for a fraction."""
    says: str = ""
    """What the figure is, in a few words."""

    @property
    def digits(self) -> int:
        """Behind the point: one for percentages, two for classes, three otherwise."""
        return {"%": 1, "classes": 2}.get(self.unit, 3)

    @property
    def text(self) -> str:
        """The number as it is shown."""
        return self._told(self.value)

    @property
    def interval(self) -> str:
        """`68.9 to 81.1`, or nothing where there is none."""
        if self.low is None or self.high is None:
            return ""
        return f"{self._told(self.low)} to {self._told(self.high)}"

    @property
    def signed(self) -> str:
        """The number with its sign: a difference."""
        return f"+{self.text}" if self.value is not None and self.value > 0 else self.text

    def _told(self, value: float | None) -> str:
        if value is None:
            return "not defined"
        return f"{value:.{self.digits}f}".replace("-", "\u2212")  # as wide as a plus


def interval(key: str, split: Split, bins: int) -> tuple[float | None, float | None]:
    """Return the 95 % interval of a figure of safe.metrics.summarize, in its unit.

    That of WAR and UAR is the very one of results/metrics.json, a recall's that of share().
    """
    if key in ("war", "uar"):
        figure = {"war": war, "uar": uar}[key]
        low, high = bootstrap_interval(split.label, split.predicted, figure, len(split.classes))
        return 100 * low, 100 * high
    if key.startswith(RECALL):
        name = key.removeprefix(RECALL)
        k = split.classes.index(name)
        row = confusion(split.label, split.predicted, len(split.classes))[k]
        found = share(name, int(row[k]), int(row.sum()))
        return found.low, found.high
    values = resample_figure(key, split.label, split.logits[None], split.classes, bins=bins)
    low, high = percentile_interval(values)
    return (None, None) if np.isnan(low) else (low, high)


def share(name: str, hits: int, of: int) -> Figure:
    """Return hits / of in percent with Wilson's interval (1927); not defined for `of` 0.

    A bootstrap of 27 right clips of 27 gives 100 % every time, as if there were no doubt; Wilson's
    interval, of a binomial share, then goes from 88 % to 100 %.
    """
    if not of:
        return Figure(name, None, unit="%")
    ends = binomtest(hits, of).proportion_ci(method="wilson")
    return Figure(name, 100 * hits / of, 100 * float(ends.low), 100 * float(ends.high), "%")
