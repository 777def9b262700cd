"""Which figures does the page show of one experiment, and how sure are they?

WAR, UAR, recalls and the figures before calibration come from the logits, as in
results/metrics.json; the others by way of the calibration. All over the test clips of all folds
together. Intervals are 95 %: Wilson's for shares of a class, else from a bootstrap over clips.
Shapes: n clips, K classes.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from safe.metrics import Floats, Ints, confusion, summarize, uar_name
from safe.predictions import Split
from safe.report.figure import Figure, interval, share
from safe.report.gather import Experiment
from safe.trust import pooled_figures

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
    figures = {}
    for key, (name, unit, says) in PLAIN.items():
        if key == "uar":
            name = uar_of(split)
        figures[key] = Figure(name, found[key], *interval(key, split, bins), unit, says)
    return figures


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
    """Return the figures of safe.trust over all folds, each read by its own calibration."""
    found = pooled_figures(
        experiment.scaled,
        experiment.split.label,
        sets=experiment.sets,
        abstains=experiment.abstains,
        bins=experiment.bins,
    )
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
    split = experiment.split
    matrix = confusion(split.label, split.predicted, len(split.classes))
    rows = []
    for k, name in enumerate(split.classes):
        clips, said, hits = int(matrix[k].sum()), int(matrix[:, k].sum()), int(matrix[k, k])
        rows.append(
            ByClass(name, clips, said, share("recall", hits, clips), share("precision", hits, said))
        )
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
            share("coverage", int(holds[own].sum()), int(own.sum())),
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
