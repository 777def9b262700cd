"""The verbs of `safe-cli experiments`: the paper's runs into DVC's queue, and what came of them.

A sheet (safe/evaluation/sheet.py) says what to run; what DVC holds (safe/evaluation/held.py) is not
run again, and is what a table is made from.
"""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

from cli.layout import Layout
from cli.progress import say
from pipeline.datasets.registry import check_data
from safe.errors import DataError, SafeError
from safe.evaluation.calibration import Calibration
from safe.evaluation.held import Held, held, identity, known, matching, read_out
from safe.evaluation.predictions import Split, parse_predictions, pool
from safe.evaluation.sheet import (
    CALIBRATED,
    Planned,
    Sheet,
    find_sheet,
    plan,
    read_settings,
    sheet_names,
)
from safe.info import parse_info


@dataclass(frozen=True)
class Found:
    """What DVC holds of one row and seed: all its folds."""

    folds: dict[int, Split]
    """The predictions by fold."""
    held: dict[int, Held]
    """By fold."""
    model: dict[int, dict[str, Any]]
    """By fold, model.json with its `history`, a row an epoch; only for calibration, else empty."""

    @cached_property
    def split(self) -> Split:
        """The predictions of the folds, one after another."""
        return pool(list(self.folds.values()))


def run_list() -> None:
    """Print a line a sheet."""
    for name in sheet_names():
        sheet = find_sheet(name)
        runs = len(list(sheet.runs()))
        say(f"{name:8}  {sheet.paper:13}  {sheet.title:34}  {runs:3} runs")


def run_queue(name: str, settings: str | None, sets: list[str] | None, *, dry_run: bool) -> None:
    """Put the runs of a sheet that DVC does not hold into its queue, or print how."""
    planned = plan(
        find_sheet(name), settings=read_settings(settings), sets=sets or [], check=check_data
    )
    try:
        there = known(Path())
    except SafeError:
        if not dry_run:
            raise
        there = []  # the commands can be told without a repository
    done = [one for one in there if one.state == "done"]
    waiting = [one for one in there if one.state == "waiting"]
    counts = dict.fromkeys(("queued", "held", "waiting", "the same as another row", "refused"), 0)
    seen: set[tuple[str, int]] = set()
    for one in planned:
        if one.config is None:
            counts["refused"] += 1
            say(f"refused: {one.name}: {one.refused}")
        elif (key := (identity(one.config), one.run.fold)) in seen:
            counts["the same as another row"] += 1
        elif matching(one.config, done):
            counts["held"] += 1
        elif matching(one.config, waiting):
            counts["waiting"] += 1
        else:
            counts["queued"] += 1
            seen.add(key)
            if dry_run:
                say(shlex.join(one.command))
            else:
                _run(one.command)
                say(f"queued: {one.name}")
    told = ", ".join(f"{count} {what}" for what, count in counts.items())
    say(f"{'dry run' if dry_run else 'queue'}: {told}. Next: dvc queue start")


def _run(command: list[str]) -> None:
    """Run DVC by itself, since it speaks on stdout. Raises DataError with the reason it gives."""
    words = [sys.executable, "-m", *command]
    done = subprocess.run(words, capture_output=True, check=False, text=True, errors="replace")
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no reason given"]
        raise DataError(f"{' '.join(command[:4])}: {said[-1].removeprefix('ERROR: ')}")


def gather(
    sheet: Sheet, planned: Sequence[Planned], root: Path = Path()
) -> dict[str, dict[int, Found]]:
    """Collect what DVC holds of a sheet's runs, which are planned.

    Returns:
        For every row, in order, what was found by seed. A seed whose folds are not all held is left
        out, and so is one whose files are in no cache or damaged, which is told; a row of a model
        that is not built has none.

    Raises:
        DataError: if DVC fails.
    """
    done = held(root)
    configs = {(one.run.row, one.run.seed, one.run.fold): one.config for one in planned}
    wants = sheet.draw == "calibration" or not set(sheet.metrics).isdisjoint(CALIBRATED)
    read = lru_cache(partial(_read, root, with_model=wants))
    found: dict[str, dict[int, Found]] = {row: {} for row in sheet.rows}
    for row, seed in dict.fromkeys((one.run.row, one.run.seed) for one in planned):
        got = Found({}, {}, {})
        for fold in sheet.folds:
            config = configs[row, seed, fold]
            if config and (one := matching(config, done)):
                try:
                    split, model = read(Layout(config.data.name), one.rev, fold)
                except DataError as error:
                    say(f"missing: {row}, seed {seed}: {error}")
                    continue
                got.held[fold], got.folds[fold] = one, split
                got.model.update({fold: model} if model else {})
        if len(got.folds) == len(sheet.folds):
            found[row][seed] = got
    return found


def _read(
    root: Path, layout: Layout, rev: str, fold: int, *, with_model: bool
) -> tuple[Split, dict[str, Any]]:
    """Read a fold's predictions and, if asked, its model.json."""
    path = layout.evals / f"fold-{fold}" / "predictions.parquet"
    split = parse_predictions(read_out(root, rev, path.as_posix()), f"{path} of {rev[:7]}")
    if not with_model:
        return split, {}
    path = layout.calibrates / f"fold-{fold}" / "model.json"
    info = parse_info(read_out(root, rev, path.as_posix()), path)
    calibration = Calibration.from_info(info)
    scaled = calibration.scaled(split.logits) if calibration.clips else None
    return replace(split, scaled=scaled), info
