"""The numbers of the page: metrics with intervals, comparisons, data, cost, params.

WAR, UAR, recalls and the metrics before calibration come from the logits, as in
results/metrics.json; the others by way of the calibration. All over the test clips of all folds
together, with the 95 % intervals of safe.evaluation.intervals.
Shapes: n clips, K classes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from safe.errors import DataError
from safe.evaluation.calibration import pooled_metrics
from safe.evaluation.compare import Entry, differences, estimates, mcnemar_by_seed
from safe.evaluation.groups import groups_of
from safe.evaluation.intervals import RECALL, Mcnemar, intervals, share_interval
from safe.evaluation.metrics import Ints, confusion, summarize, uar, uar_name
from safe.evaluation.predictions import Split
from safe.report.gather import Experiment, Sources
from safe.shards.folder import ShardFolder, open_shards


@dataclass(frozen=True)
class Metric:
    """A number with its 95 % interval."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    """"%", "nats", "classes", or nothing for a fraction."""
    says: str = ""
    """What it is, in a few words."""

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
        digits = {"%": 1, "classes": 2}.get(self.unit, 3)
        return f"{value:.{digits}f}".replace("-", "\u2212")  # as wide as a plus


# Of one experiment

_PLAIN: Final = {
    "war": ("WAR", "%", "share of all clips that are right"),
    "uar": ("UAR", "%", "mean of the recalls of the classes"),
    "ece": ("ECE", "", "distance of confidence from accuracy"),
    "nll": ("NLL", "nats", "negative log-likelihood"),
    "brier": ("Brier", "", "squared error of the probabilities, 0 to 2"),
}
"""Metrics of the logits: name, unit, what they are."""

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


def plain_metrics(split: Split, bins: int) -> dict[str, Metric]:
    """Return WAR, UAR, ECE, NLL and Brier score, before any calibration."""
    found = summarize(split.logits, split.label, bins, split.classes)
    ends = intervals(_PLAIN, split.label, split.logits[None], bins=bins)
    return {
        key: Metric(uar_of(split) if key == "uar" else name, found[key], *ends[key], unit, says)
        for key, (name, unit, says) in _PLAIN.items()
    }


def trust_metrics(experiment: Experiment) -> dict[str, Metric]:
    """Return the metrics of calibration over all folds, each read by its own calibration."""
    folds = [(f.calibration, f.split.logits, f.split.label) for f in experiment.folds.values()]
    found = pooled_metrics(folds, bins=experiment.bins)
    metrics = {}
    for key, (name, unit, says) in _TRUST.items():
        scale = 100 if unit == "%" else 1
        value, low, high = (
            None if (number := found.get(end)) is None else scale * number
            for end in (key, f"{key}_low", f"{key}_high")
        )
        metrics[key] = Metric(name, value, low, high, unit, says)
    return metrics


def share(name: str, hits: Ints | NDArray[np.bool_]) -> Metric:
    """Return the share of clips [n] that are hits, in percent; not defined for none."""
    if not len(hits):
        return Metric(name, None, unit="%")
    return Metric(name, 100 * float(np.mean(hits)), *share_interval(hits, unit=100), "%")


def uar_of(split: Split) -> str:
    """Name UAR: with the number of classes that it is over, where a class has no clips."""
    return uar_name(np.bincount(split.label, minlength=len(split.classes)))


class ByClass(NamedTuple):
    """One class: its test clips, recall and precision in percent, and its row of confusion."""

    name: str
    clips: int
    recall: Metric
    precision: Metric
    cells: list[tuple[int, float | None]]
    """For each class the clips that are taken for it, and their percent of the row."""


def by_class(split: Split) -> list[ByClass]:
    """Return recall, precision and confusion of each class."""
    matrix = confusion(split.label, split.predicted, len(split.classes))
    rows = []
    for k, name in enumerate(split.classes):
        clips, own, taken = int(matrix[k].sum()), split.label == k, split.predicted == k
        cells = [(int(n), 100 * float(n) / clips if clips else None) for n in matrix[k]]
        ratios = share("recall", taken[own]), share("precision", own[taken])
        rows.append(ByClass(name, clips, *ratios, cells))
    return rows


class ByGroup(NamedTuple):
    """The test clips that are alike in one factor."""

    name: str
    clips: int
    war: Metric
    uar: Metric
    confident: float
    """Mean confidence less WAR, in percent: above 0 the model is overconfident."""


def by_group(experiment: Experiment, factors: pa.Table | None) -> dict[str, list[ByGroup]]:
    """Return for each factor how the model does in its groups; none without a table of factors."""
    split = experiment.split
    rows: dict[str, list[ByGroup]] = {}
    confidence = experiment.probabilities.max(axis=1)
    for group in groups_of(factors, split.clip) if factors is not None else []:
        part = _part(split, group.rows.tolist())
        war = share("WAR", part.predicted == part.label)
        uar = Metric(uar_of(part), 100 * _uar(part), unit="%")
        gap = 100 * float(confidence[group.rows].mean()) - float(war.value or 0)
        row = ByGroup(group.name, len(group.rows), war, uar, gap)
        rows.setdefault(group.factor, []).append(row)
    return rows


def _uar(split: Split) -> float:
    return uar(confusion(split.label, split.predicted, len(split.classes)))


def by_fold(experiment: Experiment) -> list[dict[str, Any]]:
    """Return for each fold its clips, metrics, speed and the epoch that was chosen."""
    rows = []
    for number, fold in experiment.folds.items():
        split, info = fold.split, fold.info
        values = summarize(split.logits, split.label, experiment.bins, split.classes)
        rates = [row["clips_per_s"] for row in info.get("history", ()) if "clips_per_s" in row]
        rows.append(
            {
                "fold": number,
                "n_test": len(split.label),
                "n_left_out": fold.metrics.get("n_left_out"),
                "train_clips": info.get("train_clips"),
                "epoch": info.get("selection", {}).get("epoch"),
                "rate": float(np.median(rates)) if rates else None,
                "uar_name": uar_of(split),
                **{
                    key: Metric(_PLAIN[key][0], values[key], unit=_PLAIN[key][1])
                    for key in ("war", "uar", "ece", "nll")
                },
            }
        )
    return rows


class BySet(NamedTuple):
    """What the prediction sets of a class, or of all, are worth."""

    name: str
    clips: int
    coverage: Metric
    size: float
    """Mean number of classes in a set."""


def by_set(experiment: Experiment, overall: Metric) -> list[BySet]:
    """Return coverage and size of the sets for each class that has clips, then for all clips.

    `overall` is the coverage of all clips, as trust_metrics gives it.
    """
    sets, label = experiment.sets, experiment.split.label
    if sets is None:
        return []
    holds, sizes = sets[np.arange(len(label)), label], sets.sum(axis=1)
    rows = []
    for k in np.unique(label):
        own = label == k
        covered = share("coverage", holds[own])
        rows.append(BySet(experiment.classes[k], int(own.sum()), covered, float(sizes[own].mean())))
    return [*rows, BySet("all", len(label), overall, float(sizes.mean()))]


# Of two: paired, a resample takes a clip with what both models say of it


class Pair(NamedTuple):
    """One metric of both, and how the first differs from the second."""

    name: str
    ours: Metric
    theirs: Metric
    difference: Metric
    verdict: str
    """better, worse or undecided (the interval holds 0)."""


class Comparison(NamedTuple):
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
    params: list[tuple[str, str, str]]
    """Key, ours, theirs, where they differ."""


def compare(ours: Experiment, theirs: Experiment) -> Comparison:
    """Compare two experiments on their common clips: metrics, McNemar's test, params."""
    same = ours.classes == theirs.classes
    clips, others = (
        {pair: i for i, pair in enumerate(zip(s.clip, s.label.tolist(), strict=True))}
        for s in (ours.split, theirs.split)
    )
    rows = [(i, others[pair]) for pair, i in clips.items() if same and pair in others]
    pairs: list[Pair] = []
    test = None
    if rows:
        a, b = zip(*rows, strict=True)
        x, y = _part(ours.split, a), _part(theirs.split, b)
        keys = list(_PLAIN)
        if ours.calibrated or theirs.calibrated:
            keys += [f"{key}_calibrated" for key in ("ece", "nll", "brier")]
        keys += [f"{RECALL}{ours.classes[k]}" for k in np.unique(x.label)]
        first, second = Entry({0: x}, {}), Entry({0: y}, {})
        pairs = _pairs(keys, first, second, ours.bins)
        test = mcnemar_by_seed(first, second)[0]
    return Comparison(
        theirs,
        same,
        len(rows),
        len(ours.split.clip) - len(rows),
        len(theirs.split.clip) - len(rows),
        tuple(pairs),
        test,
        differing(ours.params, theirs.params),
    )


def _part(split: Split, rows: Sequence[int]) -> Split:
    """Take some clips of a split."""
    at = list(rows)
    names = ("label", "logits", "embedding", "attention", "scaled")
    arrays = {name: getattr(split, name)[at] for name in names}
    return replace(split, clip=tuple(split.clip[i] for i in at), **arrays)


def _pairs(keys: list[str], a: Entry, b: Entry, bins: int) -> list[Pair]:
    ours, theirs = estimates(a, keys, bins=bins), estimates(b, keys, bins=bins)
    apart = differences(a, b, keys, bins=bins)
    pairs = []
    for key in keys:
        plain = key.removesuffix("_calibrated")
        name, unit, says = _PLAIN.get(plain, (f"Recall {key.removeprefix(RECALL)}", "%", ""))
        name = uar_of(a.splits[0]) if key == "uar" else name
        name = name if plain == key else f"{name}, calibrated"
        point, low, high = apart[key]
        if low <= 0 <= high or np.isnan(low):
            verdict = "undecided"
        else:
            verdict = "better" if (point > 0) == (unit == "%") else "worse"
        first, second = (
            Metric(name, each.values[0], each.low, each.high, unit, says)
            for each in (ours[key], theirs[key])
        )
        pairs.append(Pair(name, first, second, Metric(name, point, low, high, unit), verdict))
    return pairs


# Params


def params(
    experiment: Experiment, sources: Sources
) -> tuple[list[tuple[str, str]], list[tuple[str, str, str]] | None]:
    """Return all params of the run, and those that differ from the defaults (None without any).

    Only sections that the run knows are compared: those of data preparation on another machine,
    and `runtime`, decide no metric.
    """
    run = _flat(experiment.params)
    every = [(key, _told(run, key)) for key in run]
    if sources.defaults is None or not run:
        return every, None
    known = {k: v for k, v in sources.defaults.items() if k in experiment.params}
    return every, differing(experiment.params, known)


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """List the keys of two nested params whose values differ: key, value in a, value in b.

    A key that only one of the two has is `not there` in the other.
    """
    first, second = _flat(a), _flat(b)
    told = [(key, _told(first, key), _told(second, key)) for key in {**first, **second}]
    return [(key, ours, theirs) for key, ours, theirs in told if ours != theirs]


def _flat(params: Mapping[str, Any]) -> dict[str, Any]:
    """Write nested params as `section.key` to value."""
    found: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{inner}": each for inner, each in _flat(value).items()}
        else:
            found[key] = value
    return found


def _told(params: Mapping[str, Any], key: str) -> str:
    """Write a value as params.yaml does."""
    if key not in params:
        return "not there"
    value = params[key]
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


# Data and cost


class Data(NamedTuple):
    """The receipts of the data, and the folder to read faces from."""

    folder: ShardFolder | None
    problem: str
    """Why there is no folder; empty if there is one."""
    rows: list[tuple[str, int]]
    """What and how many clips, from the manifest to the shards."""
    buckets: Sequence[tuple[str, int, int]] = ()
    """Bucket, clips in shards, clips left out."""
    left_out: Sequence[tuple[str, int]] = ()
    """Reason and clips, the most frequent first."""


def data(sources: Sources) -> Data:
    """Count what came of the clips, from the manifest to the shards."""
    rows: list[tuple[str, int]] = []
    if sources.manifest is not None:
        rows.append(("clips in the manifest", sources.manifest))
    rows += [(f"faces: {status}", count) for status, count in sources.statuses.items()]
    if sources.shards is None:
        return Data(None, "The shards of this experiment are not at hand.", rows)
    try:
        folder = open_shards(sources.shards)
    except (DataError, OSError) as error:
        return Data(None, f"The shards cannot be read: {error}.", rows)
    left = folder.index["left_out"]
    rows += [("clips in shards", len(folder.clip)), ("clips left out of the shards", len(left))]
    inside = Counter(folder.bucket.tolist())
    outside = Counter(entry["bucket"] for entry in left)
    buckets = [(name, inside[name], outside[name]) for name in sorted(inside | outside)]
    reasons = Counter(_kind(entry["reason"]) for entry in left)
    return Data(folder, "", rows, buckets, reasons.most_common())


def _kind(reason: str) -> str:
    """Cut what is of one clip off a reason, so that alike ones are counted together."""
    return reason.partition(": ")[0] if len(reason) > 80 else reason


def cost(experiment: Experiment) -> tuple[list[tuple[str, str, str]], str]:
    """Return the model's parts: name, parameters, multiply-adds in G, the whole model first.

    As training counted them (safe/evaluation/cost.py): to build a stranger's network for it takes
    as much memory as they like. The second value says for which input, or why there is no count.
    """
    info = experiment.first.info
    if not info:
        return [], "The cost is not known: there is no model.json."
    if not (whole := info.get("cost")):
        return [], "The cost is not known: model.json does not tell; `safe-cli cost` counts it."
    rows = [
        (name, f"{part['parameters']:,}", f"{part['multiply_adds'] / 1e9:.3f}")
        for name, part in {"whole model": whole, **whole["parts"]}.items()
    ]
    shape = f"{info['frames']} frames of {info['crop']} x {info['crop']} pixels"
    return rows, f"One clip of {shape}; half of the operations that torch counts."
