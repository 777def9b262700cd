"""How do the rows of an experiment's table compare, over seeds and over clips?

In: the predictions of each row, a split a seed, and what the paper gives. Out: estimates, paired
differences and tests. Two kinds of doubt, never mixed: the DEVIATION is over seeds (another
training, the same clips), the 95 % INTERVAL is over clips (the same trainings, other clips like
these). Figures are those of safe.metrics.summarize, in its units.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from safe.errors import DataError
from safe.metrics import Floats, summarize
from safe.predictions import Split
from safe.resample import RECALL, resample_figure
from safe.statistics import Mcnemar, mcnemar, mean_and_deviation, percentile_interval

_CALIBRATED = "_calibrated"


@dataclass(frozen=True)
class Estimate:
    """One figure of one row of a table."""

    values: tuple[float, ...]
    """One a seed; empty where no run is there. Percent for war, uar and recalls."""
    low: float
    high: float
    """95 % interval of the mean over the seeds, from a bootstrap over clips; nan without runs."""
    paper: float | None
    """What the paper gives, or None."""

    @property
    def mean(self) -> float:
        """Mean over the seeds; nan without runs."""
        return mean_and_deviation(self.values)[0] if self.values else float("nan")

    @property
    def deviation(self) -> float:
        """Sample standard deviation over the seeds; 0 for one, nan without runs."""
        return mean_and_deviation(self.values)[1] if self.values else float("nan")


@dataclass(frozen=True)
class Entry:
    """One row of a table: what was found of it."""

    splits: Mapping[int, Split]
    """By seed: the test clips of all its folds, pooled. Empty: missing; some seeds: partial."""
    paper: Mapping[str, float]
    """What the paper gives, by figure; its own deviation as <figure>_std."""
    against: str | None = None
    """The row that this one is compared with."""
    built: bool = True
    """False for a published model that is not built here: it has figures of the paper only."""


def estimate(
    entry: Entry,
    figure: str,
    *,
    bins: int = 15,
    resamples: int = 1000,
    seed: int = 0,
    name: str = "row",
) -> Estimate:
    """Estimate a figure of a row.

    The interval is of the mean over the seeds: each resample of the clips is applied to all seeds
    together (safe.statistics.resample_figure), and the ends are percentiles of the R means. Its
    width does not hold the doubt from having few seeds: that is the deviation's. The ECE of a
    resample is on average above that of the clips (a resample adds noise, whose absolute value
    counts), so where the ECE is small its interval lies high; differences suffer less.

    Args:
        entry: the row.
        figure: one of safe.sheet.FIGURES, or recall.<class>.
        bins: M of the ECE.
        resamples: R.
        seed: decides the resamples; not a seed of the training.
        name: what an error calls the row.

    Returns:
        The estimate; without values if there is no run, or no clip of the class of a recall.

    Raises:
        DataError: if the seeds are not of the same classes, or of the same clips in the same order;
            or if the recall is that of a class which they have not.
        ValueError: if the figure is not known.
    """
    interval = percentile_interval(_resampled(entry, figure, bins, resamples, seed, name))
    return Estimate(_values(entry, figure, bins), *interval, entry.paper.get(figure))


def difference(
    entry: Entry,
    other: Entry,
    figure: str,
    *,
    bins: int = 15,
    resamples: int = 1000,
    seed: int = 0,
    names: tuple[str, str] = ("row", "reference"),
) -> tuple[float, float, float]:
    """Return figure(entry) - figure(other), each a mean over the seeds that both have.

    Paired: a resample takes each clip with the predictions of all seeds of both, so what is hard
    for both cancels. Args as in estimate.

    Returns:
        Mean difference and the ends of its 95 % interval; nan if the two have no seed in common.

    Raises:
        DataError: as estimate, for all runs of the two.
        ValueError: if the figure is not known.
    """
    _check_pair(entry, other, names)
    both = [seed for seed in entry.splits if seed in other.splits]
    pair = [
        replace(row, splits={seed: row.splits[seed] for seed in both}) for row in (entry, other)
    ]
    a, b = (
        _resampled(row, figure, bins, resamples, seed, name)
        for row, name in zip(pair, names, strict=True)
    )
    ours, theirs = (_values(row, figure, bins) for row in pair)
    point = float(np.mean(ours) - np.mean(theirs)) if ours and theirs else float("nan")
    return point, *percentile_interval(a - b)


def mcnemar_by_seed(
    entry: Entry, other: Entry, *, names: tuple[str, str] = ("row", "reference")
) -> dict[int, Mcnemar]:
    """Test, for each seed that both have, whether the two are right equally often.

    A seed is one pair of runs on the same clips: only_a counts the clips that `entry` alone has
    right. The seeds share the clips, so their p are not independent and must not be combined.

    Raises:
        DataError: as difference.
    """
    _check_pair(entry, other, names)
    right = [{k: s.predicted == s.label for k, s in row.splits.items()} for row in (entry, other)]
    return {k: mcnemar(right[0][k], right[1][k]) for k in sorted(right[0].keys() & right[1].keys())}


def judge(point: float, low: float, high: float, paper: float | None) -> str:
    """Say how a difference and its interval stand to the paper's difference.

    Returns:
        "undecided" if the interval holds 0; else "agrees" where the sign is the paper's, "against
        the paper" where it is not (or the paper's is 0), "-" where the paper gives none.
    """
    if low <= 0 <= high:
        return "undecided"
    if paper is None:
        return "-"
    return "agrees" if point * paper > 0 else "against the paper"


def _values(entry: Entry, figure: str, bins: int) -> tuple[float, ...]:
    """The figure of each seed that has it."""
    plain = figure.removesuffix(_CALIBRATED)
    splits = entry.splits.values()
    found = [summarize(_logits(s, figure), s.label, bins, s.classes) for s in splits]
    return tuple(value for each in found if (value := each.get(plain)) is not None)


def _logits(split: Split, figure: str) -> Floats:
    """The logits that a figure is made of: <figure>_calibrated is of the scaled ones."""
    if not figure.endswith(_CALIBRATED):
        return split.logits
    if split.scaled is None:
        raise DataError(f"{figure}: the model was not calibrated; run it with train.select: val")
    return split.scaled


def _resampled(
    entry: Entry, figure: str, bins: int, resamples: int, seed: int, name: str
) -> Floats:
    """The mean over the seeds on each resample, float64 [R]; nan without runs."""
    _check_pair(entry, entry, (name, name))
    splits = list(entry.splits.values())
    if not splits:
        return np.full(resamples, np.nan)
    logits = np.stack([_logits(split, figure) for split in splits])
    labels, classes = splits[0].label, splits[0].classes
    if figure.startswith(RECALL) and figure.removeprefix(RECALL) not in classes:
        raise DataError(f"{name}: {figure}: the runs have only the classes {', '.join(classes)}")
    plain = figure.removesuffix(_CALIBRATED)
    return resample_figure(
        plain, labels, logits, classes, bins=bins, resamples=resamples, seed=seed
    )


def _check_pair(entry: Entry, other: Entry, names: tuple[str, str]) -> None:
    """Raise DataError if two runs are not of the same classes and clips in the same order."""
    runs = [
        (name, seed, split)
        for name, row in zip(names, (entry, other), strict=True)
        for seed, split in row.splits.items()
    ]
    for name, seed, split in runs[1:]:
        first, first_seed, reference = runs[0]
        if split.classes != reference.classes:
            raise DataError(
                f"{name}, seed {seed}, is of the classes {', '.join(split.classes)}, but {first}, "
                f"seed {first_seed}, of {', '.join(reference.classes)}; evaluate both on the same "
                "shards"
            )
        if split.clip != reference.clip or not np.array_equal(split.label, reference.label):
            raise DataError(
                f"{name}, seed {seed}, and {first}, seed {first_seed}: not the same clips in the "
                "same order with the same labels; evaluate both on the same shards and folds"
            )
