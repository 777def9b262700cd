"""How does a table of an experiment read, ours beside the paper's?

In: the rows (safe.compare.Entry). Out: Markdown.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from safe.compare import Entry, Estimate, difference, estimate, judge, mcnemar_by_seed
from safe.errors import DataError
from safe.metrics import uar_name
from safe.predictions import Split

PERCENT = ("war", "uar", "recall.")
"""What the figures in percent begin with."""

PAIRED = ("war", "uar")
"""The figures in which a row is compared with its reference."""

SELECTION = {
    "last": "each run at its last epoch",
    "val": "epoch chosen on a selection split",
    "test": "EPOCH CHOSEN ON THE TEST CLIPS, as papers often do, so our figures are too high",
}
"""What train.select means, in words."""


def table_markdown(
    rows: Mapping[str, Entry],
    figures: Sequence[str],
    *,
    asked: int,
    dataset: str,
    paper_dataset: str,
    selection: str = "last",
    note: str = "",
    bins: int = 15,
    resamples: int = 1000,
) -> str:
    """Write the rows beside the paper's, then each row against its reference.

    Args:
        rows: by name, in order.
        figures: keys of safe.metrics.summarize but n.
        asked: seeds that each row should have.
        dataset: ours.
        paper_dataset: the paper's; if it is another, the text says what that forbids.
        selection: how the epoch was chosen: last, val or test, as train.select.
        note: a paragraph under the tables.
        bins: M of the ECE.
        resamples: R of the intervals.

    Returns:
        Markdown that ends with a newline. A row without runs says "missing", never 0 or nan; one
        that is not built says so; "no clip" is a recall of a class without test clips.

    Raises:
        DataError: if runs that are compared are not of the same clips, or a reference is no row.
    """
    for name, row in rows.items():
        if row.against is not None and row.against not in rows:
            raise DataError(f"row {name}: its reference {row.against} must be one of the rows")
    parts = [
        _preface(rows, dataset, paper_dataset, selection),
        _figures(rows, figures, asked=asked, bins=bins, resamples=resamples),
        "`±`: sample standard deviation over seeds (none for one seed). `95 %`: interval of the "
        f"mean over seeds, over clips (bootstrap of the clips, {resamples:,} resamples).",
    ]
    if any(row.against is not None for row in rows.values()):
        parts += [
            "### Pairs",
            _pairs(rows, bins=bins, resamples=resamples),
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


def _figures(
    rows: Mapping[str, Entry], figures: Sequence[str], *, asked: int, bins: int, resamples: int
) -> str:
    """The first table: each row beside the paper's."""
    header = ["row", "seeds"]
    lines = {
        name: [_escape(name), f"{len(row.splits)}/{asked}" if row.built else "-"]
        for name, row in rows.items()
    }
    for figure in figures:
        beside = any(figure in row.paper for row in rows.values())
        title = _title(figure)
        header += [title, "95 %", *([f"{title} paper", "ours - paper"] if beside else [])]
        for name, row in rows.items():
            found = estimate(row, figure, bins=bins, resamples=resamples, name=name)
            cells = _cells(row, found, figure)
            lines[name] += cells if beside else cells[:2]
    return _layout(header, lines.values(), left=1)


def _cells(row: Entry, found: Estimate, figure: str) -> list[str]:
    """Ours, its interval, the paper's, and ours - paper."""
    paper = "-" if found.paper is None else _show(figure, found.paper)
    if found.paper is not None and f"{figure}_std" in row.paper:
        paper += f" ± {_show(figure, row.paper[f'{figure}_std'])}"
    if not found.values:
        why = "not built here" if not row.built else "no clip" if row.splits else "missing"
        return [why, "-", paper, "-"]
    ours = _show(figure, found.mean)
    if len(found.values) > 1:
        ours += f" ± {_show(figure, found.deviation)}"
    gap = "-" if found.paper is None else _show(figure, found.mean - found.paper, "+")
    return [ours, _ends(figure, found.low, found.high), paper, gap]


def _pairs(rows: Mapping[str, Entry], *, bins: int, resamples: int) -> str:
    """The second table: each row against its reference."""
    header = ["row", "against"]
    for figure in PAIRED:
        header += [f"{_title(figure)} difference", "95 %", "paper", "verdict"]
    lines = [
        _pair(name, row, row.against, rows[row.against], bins=bins, resamples=resamples)
        for name, row in rows.items()
        if row.against is not None
    ]
    return _layout([*header, "McNemar"], lines, left=2)


def _pair(
    name: str, row: Entry, against: str, other: Entry, *, bins: int, resamples: int
) -> list[str]:
    """A line of the second table."""
    names, cells = (name, against), [_escape(name), _escape(against)]
    for figure in PAIRED:
        both = figure in row.paper and figure in other.paper
        paper = row.paper[figure] - other.paper[figure] if both else None
        beside = "-" if paper is None else _show(figure, paper, "+")
        if not (row.splits and other.splits):
            built = row.built and other.built
            cells += ["missing" if built else "not built here", "-", beside, "-"]
            continue
        point, low, high = difference(
            row, other, figure, bins=bins, resamples=resamples, names=names
        )
        ends = _ends(figure, low, high, "+")
        cells += [_show(figure, point, "+"), ends, beside, judge(point, low, high, paper)]
    tests = [
        f"seed {seed}: {test.only_a}/{test.only_b}, p {_p(test.p)}"
        for seed, test in mcnemar_by_seed(row, other, names=names).items()
    ]
    return [*cells, "; ".join(tests) or "-"]


def _title(figure: str) -> str:
    short = {"war": "WAR", "uar": "UAR", "ece": "ECE", "nll": "NLL", "brier": "Brier"}
    plain = figure.removesuffix("_calibrated")
    after = ", calibrated" if plain != figure else ""
    return short.get(plain, figure.removeprefix("recall.")) + after


def _show(figure: str, value: float, sign: str = "") -> str:
    digits = 2 if figure.startswith(PERCENT) else 4
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"  # + 0.0: never -0.00


def _ends(figure: str, low: float, high: float, sign: str = "") -> str:
    return f"[{_show(figure, low, sign)}, {_show(figure, high, sign)}]"


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
