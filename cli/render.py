"""The table of an experiment and its pictures, from what DVC holds of its runs."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cli.experiments import Found, gather
from cli.layout import Layout, note_out
from cli.progress import say
from pipeline.datasets.registry import check_data
from safe.config import Config
from safe.errors import ConfigError, DataError
from safe.evaluation.compare import Entry, Estimate, estimates, table_markdown
from safe.evaluation.held import read_out
from safe.evaluation.sheet import Sheet, find_sheet, plan, read_settings
from safe.files import atomic_file
from safe.report.canvas import save
from safe.report.contact import cases_figure, choose_cases
from safe.report.pictures import confusion_figure, embedding_figure
from safe.report.tables import METRICS, calibration_figure, rows_figure, sweep_figure
from safe.sample import decode_strip

Results = Mapping[str, Mapping[int, Found]]
"""By row and seed, as cli.experiments.gather gives them."""

Pictures = dict[str, Figure]
"""By what follows the name of the sheet in the name of the file."""

CASES: Final = 6
"""Clips in the picture of cases."""


def run_table(name: str, settings: str | None, sets: list[str] | None, out: Path) -> None:
    """Write the table and the pictures of what DVC holds of a sheet; print the table."""
    sheet = find_sheet(name)
    planned = plan(sheet, settings=read_settings(settings), sets=sets or [], check=check_data)
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
    text = table_markdown(
        _entries(sheet, found),
        sheet.metrics,
        asked=len(sheet.seeds),
        dataset=_dataset(config.data.name, sheet.folds),
        paper_dataset=_dataset(sheet.dataset, sheet.folds),
        selection=config.train.select,
        note=sheet.note or "",
        bins=config.eval.bins,
    )
    pictures = []
    for suffix, figure in _DRAW[sheet.draw](sheet, found, config).items():
        pictures.append(out / f"{sheet.name}{suffix}.png")
        if sheet.draw == "cases":  # the others show dots and lines
            note_out("table", pictures[-1])
        save(figure, pictures[-1])
    parts = [
        f"# {sheet.paper}: {sheet.title}",
        text.strip(),
        *(f"![{sheet.paper}]({picture.name})" for picture in pictures),
        _commits(found),
    ]
    table = out / f"{sheet.name}.md"
    with atomic_file(table) as temporary:
        temporary.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return [table, *pictures]


def _entries(sheet: Sheet, found: Results) -> dict[str, Entry]:
    return {
        name: Entry(
            splits={seed: run.split for seed, run in found[name].items()},
            paper=row.paper,
            against=row.against,
            built=row.set is not None,
        )
        for name, row in sheet.rows.items()
    }


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


# The pictures; each function takes a sheet, what was found of it and the parameters of a run


def _draw_table(sheet: Sheet, found: Results, config: Config) -> Pictures:
    """Dots and intervals, a line a row."""
    return {"": rows_figure(_estimates(sheet, found, config))}


def _draw_sweep(sheet: Sheet, found: Results, config: Config) -> Pictures:
    """One picture a metric, one panel an axis."""
    estimates = _estimates(sheet, found, config)
    axes: dict[str, dict[float, dict[str, Estimate]]] = {}
    for name, row in sheet.rows.items():
        if row.axis is not None and row.at is not None:
            axes.setdefault(row.axis, {})[row.at] = estimates[name]
    return {f"-{metric}": sweep_figure(axes, metric) for metric in sheet.metrics}


def _estimates(sheet: Sheet, found: Results, config: Config) -> dict[str, dict[str, Estimate]]:
    return {
        name: estimates(entry, sheet.metrics, bins=config.eval.bins, name=name)
        for name, entry in _entries(sheet, found).items()
    }


def _draw_calibration(sheet: Sheet, found: Results, _: Config) -> Pictures:
    """The last row by epoch, as ratios to each other row: one picture a reference."""
    *references, ours = sheet.rows
    pictures = {}
    for reference in references:
        seeds = sorted(found[reference].keys() & found[ours].keys())
        if not seeds:
            continue
        curves = {
            name: {
                metric: [
                    [epoch[f"select_{metric}"] for epoch in model["history"]]
                    for seed in seeds
                    for model in found[name][seed].model.values()
                ]
                for metric in METRICS
            }
            for name in (reference, ours)
        }
        pictures[f"-{reference}"] = calibration_figure(curves, reference)
    return pictures


def _draw_cases(sheet: Sheet, found: Results, config: Config) -> Pictures:
    """The clips on which the first seed of two rows differs most."""
    two = _two(sheet, found)
    if not two:
        return {}
    models = {name: run.split for name, run in two.items()}
    first, second = models.values()
    rows = choose_cases(first, second, CASES)
    held = next(iter(list(two.values())[1].held.values()))
    figure = cases_figure(
        models,
        rows,
        _strips(held.rev, config, [first.clip[row] for row in rows]),
        window=config.model.window,
        stride=config.model.stride,
        frames=config.shard.frames,
    )
    return {"": figure}


def _draw_embedding(sheet: Sheet, found: Results, _: Config) -> Pictures:
    """The first seed of two rows, side by side."""
    two = _two(sheet, found)
    return {"": embedding_figure({name: run.split for name, run in two.items()})} if two else {}


def _draw_confusion(_: Sheet, found: Results, __: Config) -> Pictures:
    """Each fold of the first seed, and all of them."""
    runs = next(iter(found.values()))
    if not runs:
        return {}
    folds = runs[min(runs)].folds
    return {"": confusion_figure({f"fold {fold}": split for fold, split in folds.items()})}


_DRAW: Final[dict[str, Callable[[Sheet, Results, Config], Pictures]]] = {
    "table": _draw_table,
    "sweep": _draw_sweep,
    "calibration": _draw_calibration,
    "cases": _draw_cases,
    "embedding": _draw_embedding,
    "confusion": _draw_confusion,
}


def _two(sheet: Sheet, found: Results) -> dict[str, Found]:
    """The first seed that the first two rows both have, by row; nothing where there is none."""
    a, b = list(sheet.rows)[:2]
    both = found[a].keys() & found[b].keys()
    return {name: found[name][min(both)] for name in (a, b)} if both else {}


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
