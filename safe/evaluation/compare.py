"""Comparison of the rows of an experiment's table, over seeds and over clips, and its Markdown.

In: the predictions of each row, a split a seed, and what the paper gives. Out: estimates, paired
differences, tests, and the table. Two kinds of doubt, never mixed: the DEVIATION is over seeds
(another training, the same clips), the 95 % INTERVAL is over clips (the same trainings, other clips
like these; safe/evaluation/intervals.py). Metrics and units: safe.evaluation.metrics.summarize, and
<metric>_calibrated of the scaled logits.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from safe.errors import DataError
from safe.evaluation.intervals import (
    RECALL,
    RESAMPLES,
    Interval,
    Mcnemar,
    intervals,
    mcnemar,
    mean_and_deviation,
    percentile_interval,
    resampled,
)
from safe.evaluation.metrics import Floats, summarize, uar_name
from safe.evaluation.predictions import Split

_CALIBRATED = "_calibrated"


@dataclass(frozen=True)
class Estimate:
    """One metric of one row of a table."""

    values: tuple[float, ...]
    """One a seed; empty without runs, and of a recall without clips."""
    low: float
    high: float
    """95 % interval over clips of the mean over the seeds; nan without values."""
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
    """What the paper gives, by metric; its own deviation as <metric>_std."""
    against: str | None = None
    """The row that this one is compared with."""
    built: bool = True
    """False for a published model that is not built here: it has numbers of the paper only."""


def estimates(
    entry: Entry, metrics: Sequence[str], *, bins: int = 15, name: str = "row"
) -> dict[str, Estimate]:
    """Estimate metrics of a row, which an error calls `name`.

    Raises:
        DataError: if the seeds are not of the same classes, or of the same clips in the same order;
            if a recall is that of a class which they have not, or they are not calibrated.
        ValueError: if a metric is not known.
    """
    _check_pair(entry, entry, (name, name))
    ends = _of_logits(intervals, entry, metrics, bins, name)
    nothing: Interval = (float("nan"), float("nan"))
    return {
        metric: Estimate(_values(entry, metric, bins), low, high, entry.paper.get(metric))
        for metric in metrics
        for low, high in [ends.get(metric, nothing)]
    }


def differences(
    entry: Entry,
    other: Entry,
    metrics: Sequence[str],
    *,
    bins: int = 15,
    names: tuple[str, str] = ("row", "reference"),
) -> dict[str, tuple[float, float, float]]:
    """Return metric(entry) - metric(other), each a mean over the seeds that both have.

    Paired: a resample takes each clip with the predictions of all seeds of both, so what is hard
    for both cancels.

    Returns:
        Mean difference and the ends of its 95 % interval; nan if the two have no seed in common.

    Raises:
        As estimates, for all runs of the two.
    """
    _check_pair(entry, other, names)
    both = [seed for seed in entry.splits if seed in other.splits]
    a, b = (replace(row, splits={k: row.splits[k] for k in both}) for row in (entry, other))
    drawn_a, drawn_b = (
        _of_logits(resampled, row, metrics, bins, name)
        for row, name in zip((a, b), names, strict=True)
    )
    found = {}
    for metric in metrics:
        ours, theirs = _values(a, metric, bins), _values(b, metric, bins)
        if ours and theirs:
            ends = percentile_interval(drawn_a[metric] - drawn_b[metric])
            found[metric] = (float(np.mean(ours) - np.mean(theirs)), *ends)
        else:
            found[metric] = (float("nan"),) * 3
    return found


def mcnemar_by_seed(
    entry: Entry, other: Entry, *, names: tuple[str, str] = ("row", "reference")
) -> dict[int, Mcnemar]:
    """Test, for each seed that both have, whether the two are right equally often.

    A seed is one pair of runs on the same clips: only_a counts the clips that `entry` alone has
    right. The seeds share the clips, so their p are not independent and must not be combined.

    Raises:
        DataError: as differences.
    """
    _check_pair(entry, other, names)
    both = sorted(entry.splits.keys() & other.splits.keys())
    pairs = {seed: (entry.splits[seed], other.splits[seed]) for seed in both}
    return {
        seed: mcnemar(a.predicted == a.label, b.predicted == b.label)
        for seed, (a, b) in pairs.items()
    }


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


def _values(entry: Entry, metric: str, bins: int) -> tuple[float, ...]:
    """The metric of each seed that has it."""
    splits = entry.splits.values()
    found = [summarize(_logits(s, metric), s.label, bins, s.classes) for s in splits]
    plain = metric.removesuffix(_CALIBRATED)
    return tuple(value for each in found if (value := each.get(plain)) is not None)


def _of_logits(
    function: Callable[..., dict[str, Any]],
    entry: Entry,
    metrics: Sequence[str],
    bins: int,
    name: str,
) -> dict[str, Any]:
    """Call intervals() or resampled() with the logits of all seeds; of the scaled ones apart."""
    found: dict[str, Any] = {}
    splits = list(entry.splits.values())
    for scaled in (False, True) if splits else ():
        chosen = [m for m in metrics if m.endswith(_CALIBRATED) == scaled]
        if not chosen:
            continue
        logits = np.stack([_logits(split, chosen[0]) for split in splits])
        labels, classes = splits[0].label, splits[0].classes
        for metric in chosen:
            if metric.startswith(RECALL) and metric.removeprefix(RECALL) not in classes:
                known = ", ".join(classes)
                raise DataError(f"{name}: {metric}: the runs have only the classes {known}")
        plain = [metric.removesuffix(_CALIBRATED) for metric in chosen]
        drawn = function(plain, labels, logits, classes, bins=bins)
        found |= {metric: drawn[key] for metric, key in zip(chosen, plain, strict=True)}
    return found


def _logits(split: Split, metric: str) -> Floats:
    """The logits that a metric is made of: <metric>_calibrated is of the scaled ones."""
    if not metric.endswith(_CALIBRATED):
        return split.logits
    if split.scaled is None:
        raise DataError(f"{metric}: the model was not calibrated; run it with train.select: val")
    return split.scaled


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


PERCENT = ("war", "uar", "recall.")
"""What the metrics in percent begin with."""

PAIRED = ("war", "uar")
"""The metrics in which a row is compared with its reference."""

SELECTION = {
    "last": "each run at its last epoch",
    "val": "epoch chosen on a selection split",
    "test": "EPOCH CHOSEN ON THE TEST CLIPS, as papers often do, so our metrics are too high",
}
"""What train.select means, in words."""


def table_markdown(
    rows: Mapping[str, Entry],
    metrics: Sequence[str],
    *,
    asked: int,
    dataset: str,
    paper_dataset: str,
    selection: str = "last",
    note: str = "",
    bins: int = 15,
) -> str:
    """Write the rows, by name, beside the paper's, then each row against its reference.

    Args:
        rows: by name, in order.
        metrics: which metrics.
        asked: seeds that each row should have.
        dataset: ours.
        paper_dataset: the paper's; if it is another, the text says what that forbids.
        selection: train.select.
        note: a paragraph under the tables.
        bins: M of the ECE.

    Returns:
        Markdown. A row without runs says "missing", never 0 or nan; one that is not built says so;
        "no clip" is a recall of a class without test clips.

    Raises:
        DataError: if runs that are compared are not of the same clips, or a reference is no row.
    """
    for name, row in rows.items():
        if row.against is not None and row.against not in rows:
            raise DataError(f"row {name}: its reference {row.against} must be one of the rows")
    parts = [
        _preface(rows, dataset, paper_dataset, selection),
        _metrics(rows, metrics, asked=asked, bins=bins),
        "`±`: sample standard deviation over seeds (none for one seed). `95 %`: interval of the "
        "mean over seeds, over clips: Wilson's for WAR and recalls, else and for differences a "
        f"bootstrap of the clips ({RESAMPLES:,} resamples).",
    ]
    if any(row.against is not None for row in rows.values()):
        parts += [
            "### Pairs",
            _pairs(rows, bins=bins),
            "Row minus reference on the same clips. Verdict: undecided where the interval holds 0, "
            "else whether the sign is the paper's. McNemar: clips that the row alone / its "
            "reference alone has right, and the exact two-sided p of that seed. Both are about "
            "clips; whether other seeds would turn a small difference, the ± above tells.",
        ]
    return "\n\n".join([*parts, *([note.strip()] if note.strip() else [])]) + "\n"


def _preface(rows: Mapping[str, Entry], dataset: str, paper_dataset: str, selection: str) -> str:
    splits = [split for row in rows.values() for split in row.splits.values()]
    sizes = {len(split.clip) for split in splits}
    clips = " to ".join(f"{size:,}" for size in sorted({min(sizes), max(sizes)})) if sizes else "no"
    text = f"Ours: {dataset}, {clips} test clips, {SELECTION[selection]}. Paper: {paper_dataset}."
    text += "".join(dict.fromkeys(_over(splits)))
    if dataset.lower() != paper_dataset.lower():
        text += (
            f"\n\n**Our column and the paper's are of different data ({dataset}, {paper_dataset}): "
            "only the differences between rows can be compared.**"
        )
    return text


def _over(splits: Iterable[Split]) -> Iterator[str]:
    """Say over how many classes UAR is, where splits have no clip of some."""
    for split in splits:
        clips = np.bincount(split.label, minlength=len(split.classes))
        lost = [name for name, count in zip(split.classes, clips, strict=True) if not count]
        if lost:
            yield f" {uar_name(clips)}: no test clip of {', '.join(lost)}."


def _metrics(rows: Mapping[str, Entry], metrics: Sequence[str], *, asked: int, bins: int) -> str:
    """The first table: each row beside the paper's."""
    beside = [metric for metric in metrics if any(metric in row.paper for row in rows.values())]
    header = ["row", "seeds"]
    for metric in metrics:
        title = _title(metric)
        header += [title, "95 %", *([f"{title} paper", "ours - paper"] * (metric in beside))]
    lines = []
    for name, row in rows.items():
        lines.append([_escape(name), f"{len(row.splits)}/{asked}" if row.built else "-"])
        for metric, found in estimates(row, metrics, bins=bins, name=name).items():
            cells = _cells(row, found, metric)
            lines[-1] += cells if metric in beside else cells[:2]
    return _layout(header, lines, left=1)


def _cells(row: Entry, found: Estimate, metric: str) -> list[str]:
    """Ours, its interval, the paper's, and ours - paper."""
    paper = "-" if found.paper is None else _show(metric, found.paper)
    if found.paper is not None and f"{metric}_std" in row.paper:
        paper += f" ± {_show(metric, row.paper[f'{metric}_std'])}"
    if not found.values:
        why = "not built here" if not row.built else "no clip" if row.splits else "missing"
        return [why, "-", paper, "-"]
    ours = _show(metric, found.mean)
    if len(found.values) > 1:
        ours += f" ± {_show(metric, found.deviation)}"
    gap = "-" if found.paper is None else _show(metric, found.mean - found.paper, "+")
    return [ours, _ends(metric, found.low, found.high), paper, gap]


def _pairs(rows: Mapping[str, Entry], *, bins: int) -> str:
    """The second table: each row against its reference."""
    header = ["row", "against"]
    for metric in PAIRED:
        header += [f"{_title(metric)} difference", "95 %", "paper", "verdict"]
    lines = [
        _pair((name, row.against), row, rows[row.against], bins)
        for name, row in rows.items()
        if row.against is not None
    ]
    return _layout([*header, "McNemar"], lines, left=2)


def _pair(names: tuple[str, str], row: Entry, other: Entry, bins: int) -> list[str]:
    """A line of the second table."""
    cells = [_escape(name) for name in names]
    apart = differences(row, other, PAIRED, bins=bins, names=names)
    for metric, (point, low, high) in apart.items():
        both = metric in row.paper and metric in other.paper
        paper = row.paper[metric] - other.paper[metric] if both else None
        beside = "-" if paper is None else _show(metric, paper, "+")
        if not (row.splits and other.splits):
            built = row.built and other.built
            cells += ["missing" if built else "not built here", "-", beside, "-"]
            continue
        ends = _ends(metric, low, high, "+")
        cells += [_show(metric, point, "+"), ends, beside, judge(point, low, high, paper)]
    tests = [
        f"seed {seed}: {test.only_a}/{test.only_b}, p {_p(test.p)}"
        for seed, test in mcnemar_by_seed(row, other, names=names).items()
    ]
    return [*cells, "; ".join(tests) or "-"]


def _title(metric: str) -> str:
    short = {"war": "WAR", "uar": "UAR", "ece": "ECE", "nll": "NLL", "brier": "Brier"}
    plain = metric.removesuffix("_calibrated")
    after = ", calibrated" if plain != metric else ""
    return short.get(plain, metric.removeprefix("recall.")) + after


def _show(metric: str, value: float, sign: str = "") -> str:
    digits = 2 if metric.startswith(PERCENT) else 4
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"  # + 0.0: never -0.00


def _ends(metric: str, low: float, high: float, sign: str = "") -> str:
    return f"[{_show(metric, low, sign)}, {_show(metric, high, sign)}]"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:#.2g}"


def _escape(name: str) -> str:
    return name.replace("|", r"\|")


def _layout(header: list[str], lines: Iterable[list[str]], *, left: int) -> str:
    """Lay cells out as a Markdown table whose columns also line up as text."""
    table = [header, *lines]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join(
        "| "
        + " | ".join(
            cell.ljust(w) if i < left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        + " |"
        for cells in [header, rule, *table[1:]]
    )
