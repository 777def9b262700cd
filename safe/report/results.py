"""Which figures does the page show of one experiment, and how sure are they?

WAR, UAR, recalls and the figures before calibration come from the logits, as in
results/metrics.json; the others by way of the calibration. All over the test clips of all folds
together, with the 95 % intervals of safe.evaluation.intervals.
Shapes: n clips, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from safe.evaluation.calibration import pooled_figures
from safe.evaluation.compare import Entry, differences, estimates, mcnemar_by_seed
from safe.evaluation.intervals import RECALL, Mcnemar, intervals, share_interval
from safe.evaluation.metrics import Floats, Ints, confusion, summarize, uar_name
from safe.evaluation.predictions import Split
from safe.report.gather import Experiment

# What is a number with its 95 % interval, and how does it read?


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


def share(name: str, hits: Ints | NDArray[np.bool_]) -> Figure:
    """Return the share of clips [n] that are hits, in percent; not defined for none."""
    if not len(hits):
        return Figure(name, None, unit="%")
    return Figure(name, 100 * float(np.mean(hits)), *share_interval(hits, unit=100), "%")


PLAIN: Final = {
    "war": ("WAR", "%", "share of all clips that are right"),
    "uar": ("UAR", "%", "mean of the recalls of the classes"),
    "ece": ("ECE", "", "distance of confidence from accuracy"),
    "nll": ("NLL", "nats", "negative log-likelihood"),
    "brier": ("Brier", "", "squared error of the probabilities, 0 to 2"),
}
"""Figures of the logits: name, unit, what they are."""


def plain_figures(experiment: Experiment) -> dict[str, Figure]:
    """Return the figures of PLAIN, before any calibration."""
    split, bins = experiment.split, experiment.bins
    found = summarize(split.logits, split.label, bins, split.classes)
    ends = intervals(PLAIN, split.label, split.logits[None], bins=bins)
    return {
        key: Figure(uar_of(split) if key == "uar" else name, found[key], *ends[key], unit, says)
        for key, (name, unit, says) in PLAIN.items()
    }


def uar_of(split: Split) -> str:
    """Name UAR: with the number of classes that it is over, where a class has no clips."""
    return uar_name(np.bincount(split.label, minlength=len(split.classes)))


_TRUST: Final = {
    "ece_calibrated": ("ECE, calibrated", "", "after scaling the logits"),
    "nll_calibrated": ("NLL, calibrated", "nats", "after scaling the logits"),
    "brier_calibrated": ("Brier, calibrated", "", "after scaling the logits"),
    "aurc": ("AURC", "", "area under the risk-coverage curve"),
    "augrc": ("AUGRC", "", "area under the generalised curve"),
    "error": ("Error", "%", "of all clips"),
    "risk_at_80": ("Error at 80 %", "%", "of the 80 % surest clips"),
    "answered": ("Answered", "%", "clips that get a decision"),
    "selective_risk": ("Error where answered", "%", "among the clips that get a decision"),
    "coverage": ("Coverage", "%", "clips whose set holds the label"),
    "set_size": ("Set size", "classes", "mean number of classes in a set"),
}


def trust_figures(experiment: Experiment) -> dict[str, Figure]:
    """Return the figures of calibration over all folds, each read by its own calibration."""
    folds = [(f.calibration, f.split.logits, f.split.label) for f in experiment.folds.values()]
    found = pooled_figures(folds, bins=experiment.bins)
    figures = {}
    for key, (name, unit, says) in _TRUST.items():
        scale = 100 if unit == "%" else 1
        value, low, high = (
            None if (number := found.get(end)) is None else scale * number
            for end in (key, f"{key}_low", f"{key}_high")
        )
        figures[key] = Figure(name, value, low, high, unit, says)
    return figures


@dataclass(frozen=True)
class ByClass:
    """One class: its test clips, recall and precision in percent."""

    name: str
    clips: int
    said: int
    """Clips that are taken for it."""
    recall: Figure
    precision: Figure


def by_class(experiment: Experiment) -> list[ByClass]:
    """Return recall and precision of each class with intervals."""
    label, predicted = experiment.split.label, experiment.split.predicted
    rows = []
    for k, name in enumerate(experiment.classes):
        own, taken = label == k, predicted == k
        recall, precision = share("recall", taken[own]), share("precision", own[taken])
        rows.append(ByClass(name, int(own.sum()), int(taken.sum()), recall, precision))
    return rows


def by_fold(experiment: Experiment) -> list[dict[str, Any]]:
    """Return for each fold its clips, figures and the epoch that was chosen."""
    rows = []
    for number, fold in experiment.folds.items():
        figures = summarize(
            fold.split.logits, fold.split.label, experiment.bins, experiment.classes
        )
        chosen = fold.info.get("selection", {})
        history = fold.info.get("history", [])
        rows.append(
            {
                "fold": number,
                "n_test": len(fold.split.label),
                "n_left_out": fold.metrics.get("n_left_out"),
                "train_clips": fold.info.get("train_clips"),
                "epoch": chosen.get("epoch"),
                "rate": float(np.median([row["clips_per_s"] for row in history]))
                if history and "clips_per_s" in history[0]
                else None,
                "uar_name": uar_of(fold.split),
                **{
                    key: Figure(PLAIN[key][0], figures[key], unit=PLAIN[key][1])
                    for key in ("war", "uar", "ece", "nll")
                },
            }
        )
    return rows


@dataclass(frozen=True)
class Sets:
    """What the prediction sets of a class, or of all, are worth."""

    name: str
    clips: int
    coverage: Figure
    size: float
    """Mean number of classes in a set."""


def by_set(experiment: Experiment, overall: Figure) -> list[Sets]:
    """Return coverage and size of the sets for each class that has clips, then for all clips.

    `overall` is the coverage of all clips, as trust_figures gives it.
    """
    sets, label = experiment.sets, experiment.split.label
    if sets is None:
        return []
    holds, sizes = sets[np.arange(len(label)), label], sets.sum(axis=1)
    rows = [
        Sets(
            name,
            int(own.sum()),
            share("coverage", holds[own]),
            float(sizes[own].mean()),
        )
        for k, name in enumerate(experiment.classes)
        if (own := label == k).any()
    ]
    return [*rows, Sets("all", len(label), overall, float(sizes.mean()))]


def confusion_rows(experiment: Experiment) -> list[dict[str, Any]]:
    """Return the confusion matrix, a row a true class: name, clips and cells.

    A cell has its clips, its share of the row in percent (None for a class without clips) and that
    share in twentieths, for the shade.
    """
    split, classes = experiment.split, experiment.classes
    matrix: Ints = confusion(split.label, split.predicted, len(classes))
    rows = []
    for k, name in enumerate(classes):
        clips = int(matrix[k].sum())
        shares: Floats | None = 100 * matrix[k] / clips if clips else None
        cells = [
            {
                "clips": int(matrix[k, j]),
                "share": None if shares is None else float(shares[j]),
                "shade": 0 if shares is None else round(float(shares[j]) / 5),
                "hit": j == k,
            }
            for j in range(len(classes))
        ]
        rows.append({"name": name, "clips": clips, "cells": cells})
    return rows


# How does an experiment compare with another one, on the clips that both were tested on?
#
# Differences are paired: a resample takes a clip with what both models say of it, so what is hard
# for both cancels (safe/evaluation/compare.py). n clips, K classes.

HIGHER: Final = ("war", "uar", RECALL)
"""What figures of which more is better begin with."""


@dataclass(frozen=True)
class Pair:
    """One figure of both, and how the first differs from the second."""

    name: str
    ours: Figure
    theirs: Figure
    difference: Figure
    verdict: str
    """better, worse or undecided (the interval holds 0)."""


@dataclass(frozen=True)
class Comparison:
    """An experiment beside another."""

    other: Experiment
    same_classes: bool
    """Whether labels and logits of both mean the same; else nothing is compared."""
    clips: int
    """That both were tested on, with one label."""
    only_ours: int
    only_theirs: int
    pairs: tuple[Pair, ...]
    """Empty where no clip is common."""
    test: Mcnemar | None
    params: tuple[tuple[str, str, str], ...]
    """Key, ours, theirs, where they differ."""


def compare(ours: Experiment, theirs: Experiment) -> Comparison:
    """Compare two experiments on their common clips: figures, McNemar's test, params."""
    same = ours.classes == theirs.classes
    a, b = _common(ours, theirs) if same else ([], [])
    clips = len(a)
    pairs: list[Pair] = []
    test = None
    if clips:
        x, y = _entry(ours, a), _entry(theirs, b)
        present = [ours.classes[k] for k in np.unique(ours.split.label[a])]
        calibrated = [f"{key}_calibrated" for key in ("ece", "nll", "brier")]
        if not (ours.calibrated or theirs.calibrated):
            calibrated = []
        keys = [*PLAIN, *calibrated, *(f"{RECALL}{name}" for name in present)]
        pairs = _pairs(keys, x, y, ours.bins)
        test = mcnemar_by_seed(x, y)[0]
    return Comparison(
        theirs,
        same,
        clips,
        len(ours.split.clip) - clips,
        len(theirs.split.clip) - clips,
        tuple(pairs),
        test,
        tuple(differing(ours.params, theirs.params)),
    )


def flat(params: Mapping[str, Any]) -> dict[str, Any]:
    """Write nested params as `section.key` to value."""
    found: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{inner}": each for inner, each in flat(value).items()}
        else:
            found[key] = value
    return found


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """List the keys of two nested params whose values differ: key, value in a, value in b.

    A key that only one of the two has is `not there` in the other.
    """
    first, second = flat(a), flat(b)
    keys = [*first, *(key for key in second if key not in first)]
    return [
        (key, told(first, key), told(second, key))
        for key in keys
        if told(first, key) != told(second, key)
    ]


def told(params: Mapping[str, Any], key: str) -> str:
    """Write a value as params.yaml does."""
    if key not in params:
        return "not there"
    value = params[key]
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _common(ours: Experiment, theirs: Experiment) -> tuple[list[int], list[int]]:
    """Find the clips that both have with one label: positions in ours, and in theirs."""
    place = {
        (clip, int(label)): i
        for i, (clip, label) in enumerate(zip(theirs.split.clip, theirs.split.label, strict=True))
    }
    pairs = [
        (i, place[clip, int(label)])
        for i, (clip, label) in enumerate(zip(ours.split.clip, ours.split.label, strict=True))
        if (clip, int(label)) in place
    ]
    return [i for i, _ in pairs], [j for _, j in pairs]


def _entry(experiment: Experiment, rows: list[int]) -> Entry:
    """Take some clips of an experiment as the one run of a table's row."""
    split = experiment.split
    part = Split(
        clip=tuple(split.clip[i] for i in rows),
        label=split.label[rows],
        classes=split.classes,
        logits=split.logits[rows],
        embedding=split.embedding[rows],
        attention=split.attention[rows],
        scaled=experiment.scaled[rows],
    )
    return Entry({0: part}, {})


def _pairs(keys: list[str], a: Entry, b: Entry, bins: int) -> list[Pair]:
    ours, theirs = estimates(a, keys, bins=bins), estimates(b, keys, bins=bins)
    apart = differences(a, b, keys, bins=bins)
    pairs = []
    for key in keys:
        plain = key.removesuffix("_calibrated")
        name, unit, says = PLAIN.get(plain, (f"Recall {key.removeprefix(RECALL)}", "%", ""))
        name = uar_of(a.splits[0]) if key == "uar" else name
        name = name if plain == key else f"{name}, calibrated"
        point, low, high = apart[key]
        if low <= 0 <= high or np.isnan(low):
            verdict = "undecided"
        else:
            verdict = "better" if (point > 0) == key.startswith(HIGHER) else "worse"
        first, second = (
            Figure(name, each.values[0], each.low, each.high, unit, says)
            for each in (ours[key], theirs[key])
        )
        pairs.append(Pair(name, first, second, Figure(name, point, low, high, unit), verdict))
    return pairs
