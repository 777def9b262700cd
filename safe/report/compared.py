"""How does an experiment compare with another one, on the clips that both were tested on?

Differences are paired: a resample takes a clip with what both models say of it, so what is hard for
both cancels (safe/compare.py). n clips, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from safe.compare import Entry, difference, mcnemar_by_seed
from safe.metrics import summarize
from safe.predictions import Split
from safe.report.figure import Figure, interval
from safe.report.gather import Experiment
from safe.report.results import PLAIN, uar_of
from safe.resample import RECALL
from safe.statistics import Mcnemar

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
        x, y = _entry(ours.split, a), _entry(theirs.split, b)
        present = [ours.classes[k] for k in np.unique(ours.split.label[a])]
        keys = [*PLAIN, *(f"{RECALL}{name}" for name in present)]
        pairs = [_pair(key, x, y, ours.bins) for key in keys]
        if ours.calibrated or theirs.calibrated:
            scaled = (
                _entry(replace(ours.split, logits=ours.scaled), a),
                _entry(replace(theirs.split, logits=theirs.scaled), b),
            )
            pairs[len(PLAIN) : len(PLAIN)] = [
                _pair(key, *scaled, ours.bins, calibrated=True) for key in ("ece", "nll", "brier")
            ]
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


def _entry(split: Split, rows: list[int]) -> Entry:
    """Take some clips of a split as the one run of a table's row."""
    part = Split(
        clip=tuple(split.clip[i] for i in rows),
        label=split.label[rows],
        classes=split.classes,
        logits=split.logits[rows],
        embedding=split.embedding[rows],
        attention=split.attention[rows],
    )
    return Entry({0: part}, {})


def _pair(key: str, a: Entry, b: Entry, bins: int, *, calibrated: bool = False) -> Pair:
    name, unit, says = PLAIN.get(key, (f"Recall {key.removeprefix(RECALL)}", "%", ""))
    name = uar_of(a.splits[0]) if key == "uar" else name
    name = f"{name}, calibrated" if calibrated else name

    def side(entry: Entry) -> Figure:
        split = entry.splits[0]
        value = summarize(split.logits, split.label, bins, split.classes)[key]
        return Figure(name, value, *interval(key, split, bins), unit, says)

    point, low, high = difference(a, b, key, bins=bins)
    if low <= 0 <= high or np.isnan(low):
        verdict = "undecided"
    else:
        verdict = "better" if (point > 0) == key.startswith(HIGHER) else "worse"
    return Pair(name, side(a), side(b), Figure(name, point, low, high, unit), verdict)
