"""How does what DVC holds of a sheet become a Markdown table and its pictures?"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cli.experiments import Found, gather
from cli.layout import Layout
from cli.progress import say
from safe.config import Config
from safe.errors import ConfigError, DataError
from safe.evaluation.compare import Entry, Estimate, estimates, table_markdown
from safe.evaluation.held import read_out
from safe.evaluation.sheet import Sheet, find_sheet, plan, read_settings
from safe.files import whole_file
from safe.report.contact import choose_cases, draw_cases, draw_rows, draw_sweep
from safe.report.pictures import draw_calibration, draw_confusion, draw_embedding
from safe.sample import decode_strip

Results = Mapping[str, Mapping[int, Found]]
"""By row and seed, as cli.experiments.gather gives them."""

CASES: Final = 6
"""Clips in the figure of cases."""


@dataclass(frozen=True)
class _Job:
    """What a picture is made from, and where it goes."""

    sheet: Sheet
    found: Results
    entries: Mapping[str, Entry]
    config: Config
    out: Path

    @property
    def picture(self) -> Path:
        """Of a sheet that has one."""
        return self.out / f"{self.sheet.name}.png"


def run_table(name: str, settings: str | None, sets: list[str] | None, out: Path) -> None:
    """Write the table and the pictures of what DVC holds of a sheet; print the table."""
    sheet = find_sheet(name)
    planned = plan(sheet, settings=read_settings(settings), sets=sets or [])
    for one in planned:
        if one.refused:
            say(f"refused: {one.name}: {one.refused}")
    config = next((one.config for one in planned if one.config), None)
    if config is None:
        raise ConfigError(f"{name}: every run is refused, see above")
    table, *pictures = render(sheet, gather(sheet, planned), config, out)
    say(table.read_text(encoding="utf-8"))
    for path in (table, *pictures):
        say(f"table: {path}")


def render(sheet: Sheet, found: Results, config: Config, out: Path) -> list[Path]:
    """Write <name>.md and the pictures of a sheet into the folder `out`.

    Args:
        sheet: the experiment.
        found: what DVC holds of it.
        config: of any of its runs: dataset, selection rule, bins, windows.
        out: the folder.

    Returns:
        The files, the table first. A picture that needs runs which are missing is left out.

    Raises:
        DataError: if runs that are compared are not of the same clips.
    """
    entries = {
        name: Entry(
            splits={seed: run.split for seed, run in found[name].items()},
            paper=row.paper,
            against=row.against,
            built=row.set is not None,
        )
        for name, row in sheet.rows.items()
    }
    text = table_markdown(
        entries,
        sheet.figures,
        asked=len(sheet.seeds),
        dataset=_dataset(config.data.name, sheet.folds),
        paper_dataset=_dataset(sheet.dataset, sheet.folds),
        selection=config.train.select,
        note=sheet.note or "",
        bins=config.eval.bins,
    )
    pictures = _DRAW[sheet.draw](_Job(sheet, found, entries, config, out))
    parts = [
        f"# {sheet.paper}: {sheet.title}",
        text.strip(),
        *(f"![{sheet.paper}]({picture.name})" for picture in pictures),
        _commits(found),
    ]
    table = out / f"{sheet.name}.md"
    with whole_file(table) as temporary:
        temporary.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return [table, *pictures]


def _dataset(name: str, folds: list[int]) -> str:
    """Name a dataset and its folds as the paper does: dfew fd5."""
    return f"{name} fd{','.join(map(str, folds))}" if name != "ferv39k" else name


def _commits(found: Results) -> str:
    """Say which code made the runs."""
    commits: dict[str, int] = {}
    for by_seed in found.values():
        for run in by_seed.values():
            for held in run.held.values():
                commits[held.commit[:7]] = commits.get(held.commit[:7], 0) + 1
    told = ", ".join(f"{commit} ({count} runs)" for commit, count in commits.items())
    return f"Code: commit {told}." if told else ""


def _estimates(job: _Job) -> dict[str, dict[str, Estimate]]:
    return {
        name: estimates(entry, job.sheet.figures, bins=job.config.eval.bins, name=name)
        for name, entry in job.entries.items()
    }


def _draw_table(job: _Job) -> list[Path]:
    """Dots and intervals, a line a row."""
    draw_rows(_estimates(job), job.picture)
    return [job.picture]


def _draw_sweep(job: _Job) -> list[Path]:
    """One picture a figure, one panel an axis."""
    estimates = _estimates(job)
    axes: dict[str, dict[float, dict[str, Estimate]]] = {}
    for name, row in job.sheet.rows.items():
        if row.axis is not None and row.at is not None:
            axes.setdefault(row.axis, {})[row.at] = estimates[name]
    pictures = []
    for figure in job.sheet.figures:
        pictures.append(job.out / f"{job.sheet.name}-{figure}.png")
        draw_sweep(axes, figure, pictures[-1])
    return pictures


def _draw_calibration(job: _Job) -> list[Path]:
    """The last row by epoch, as ratios to each other row: one picture a reference."""
    *references, ours = job.sheet.rows
    pictures = []
    for reference in references:
        seeds = sorted(job.found[reference].keys() & job.found[ours].keys())
        if not seeds:
            continue
        curves = {
            name: {
                figure: [
                    [epoch[f"select_{figure}"] for epoch in model["history"]]
                    for seed in seeds
                    for model in job.found[name][seed].model.values()
                ]
                for figure in ("ece", "nll", "brier")
            }
            for name in (reference, ours)
        }
        pictures.append(job.out / f"{job.sheet.name}-{reference}.png")
        draw_calibration(curves, reference, pictures[-1])
    return pictures


def _draw_cases(job: _Job) -> list[Path]:
    """The clips on which the first seed of two rows differs most."""
    first, second = _two(job)
    if first is None or second is None:
        return []
    rows = choose_cases(first.split, second.split, CASES)
    one = next(iter(second.held.values()))
    strips = _strips(one.rev, job.config, [first.split.clip[row] for row in rows])
    names = tuple(job.sheet.rows)
    draw_cases(
        (names[0], names[1]),
        first.split,
        second.split,
        rows,
        strips,
        job.picture,
        window=job.config.model.window,
        stride=job.config.model.stride,
        frames=job.config.shard.frames,
    )
    return [job.picture]


def _draw_embedding(job: _Job) -> list[Path]:
    """The first seed of two rows, side by side."""
    first, second = _two(job)
    if first is None or second is None:
        return []
    names = tuple(job.sheet.rows)
    draw_embedding({names[0]: first.split, names[1]: second.split}, job.picture)
    return [job.picture]


def _draw_confusion(job: _Job) -> list[Path]:
    """Each fold of the first seed, and all of them."""
    runs = next(iter(job.found.values()))
    if not runs:
        return []
    first = runs[min(runs)]
    draw_confusion({f"fold {fold}": split for fold, split in first.folds.items()}, job.picture)
    return [job.picture]


_DRAW: Final[dict[str, Callable[[_Job], list[Path]]]] = {
    "table": _draw_table,
    "sweep": _draw_sweep,
    "calibration": _draw_calibration,
    "cases": _draw_cases,
    "embedding": _draw_embedding,
    "confusion": _draw_confusion,
}


def _two(job: _Job) -> tuple[Found | None, Found | None]:
    """The first seed that the first two rows both have; None where there is none."""
    a, b = (job.found[name] for name in list(job.sheet.rows)[:2])
    both = sorted(a.keys() & b.keys())
    return (a[both[0]], b[both[0]]) if both else (None, None)


def _strips(rev: str, config: Config, clips: list[str]) -> dict[str, NDArray[np.uint8]]:
    """Read the faces of some clips from the shards of a revision; none where DVC lost them."""
    shards = Layout(config.data.name).shards.as_posix()
    try:
        table = pq.read_table(io.BytesIO(read_out(Path(), rev, f"{shards}/clips.parquet")))
        places = {row["clip"]: row for row in table.to_pylist() if row["clip"] in set(clips)}
        tars = {
            name: read_out(Path(), rev, f"{shards}/{name}")
            for name in {row["shard"] for row in places.values()}
        }
    except DataError:
        return {}
    found = {}
    for clip, row in places.items():
        jpeg = tars[row["shard"]][row["offset"] : row["offset"] + row["bytes"]]
        found[clip] = decode_strip(jpeg, config.shard.size, config.shard.frames)
    return found
