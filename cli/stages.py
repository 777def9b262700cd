"""The verbs of the stages, and cost: one function of pipeline or safe each, and a line about it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.chain import check_chain, links
from cli.layout import (
    FORGOTTEN,
    RESULTS,
    SYNTHETIC,
    checkpoints,
    clip_store,
    lock,
    read,
    source,
)
from cli.progress import counts, note, progress, say
from cli.push import check_reach, push_made
from safe.config import Calibrate, Config
from safe.errors import ConfigError
from safe.files import hold_lock
from safe.record import ChangedError, read_code, recorded
from safe.taxonomy import BASIC

if TYPE_CHECKING:
    from pipeline.pool.pool import Pool
    from safe.training.ranks import Ranks


class Run:
    """The work of a verb: its parameters, read once, and each stage held to what it read."""

    def __init__(self, params: Path, overrides: list[str] | None) -> None:
        self._given, self._code = (params, overrides), read_code()
        self.config, self.layout = read(params, overrides)

    def _again(self) -> Config:
        return read(*self._given)[0]

    @contextmanager
    def stage(
        self, name: str, *, reads: Sequence[Path], makes: Sequence[Path], fold: int | None = None
    ) -> Iterator[Callable[[], None]]:
        """Keep others out of what a stage makes, the first of `makes`, and compare what it reads.

        Gives what compares in between, for a stage that wants to know before it writes.
        """
        folds = self.config.data.folds if name == "summary" else [fold] if fold else []
        out = RESULTS if name == "summary" else makes[0]
        with hold_lock(lock(out), str(out)):
            check_chain(self.config, self.layout, name, folds)
            with recorded(
                name, self.config, self._again, reads=reads, makes=makes, code=self._code
            ) as compare:
                yield compare


def run_synthesize(params: Path, overrides: list[str] | None) -> None:
    """Make the synthetic dataset; for another dataset only its empty folder, which DVC expects."""
    run = Run(params, overrides)
    config = run.config
    if config.data.name != "synthetic":
        SYNTHETIC.mkdir(parents=True, exist_ok=True)
        say(f"synthesize: nothing to do, data.name is {config.data.name}")
        return
    from pipeline.synthesize import synthesize

    settings, root = config.synthesize, Path(config.data.root)
    with (
        run.stage("synthesize", reads=[], makes=[root]),
        progress("synthesize", settings.clips) as done,
    ):
        made = synthesize(
            root,
            settings,
            source="strips" if config.data.source == "strips" else "video",
            frames=config.shard.frames,
            margin=config.shard.margin,
            workers=max(1, config.runtime.workers),
            on_clip=done,
        )
    say(counts(f"synthesize: {settings.clips} clips", made))


def run_index(params: Path, overrides: list[str] | None) -> None:
    """Write the manifest."""
    _index(Run(params, overrides))


def run_faces(params: Path, overrides: list[str] | None) -> None:
    """Write the face table."""
    _faces(Run(params, overrides))


def run_shard(params: Path, overrides: list[str] | None) -> None:
    """Write the shards, after index and faces where their tables are missing or older; send them.

    In a stage of DVC, which runs these by itself, an older table is an error.
    """
    run = Run(params, overrides)
    config, layout = run.config, run.layout
    from pipeline.manifest import read_manifest
    from pipeline.shard import write_shards

    for link, table, make in zip(
        links(config, layout, "shard"),
        (layout.manifest, layout.faces),
        (_index, _faces),
        strict=True,
    ):
        told = "" if table.exists() else f"{table} is missing"
        try:
            link()
        except ChangedError as error:
            if "DVC_STAGE" in os.environ:
                raise
            told = str(error).partition(";")[0]
        if told:
            say(f"shard: {told}, running {make.__name__[1:]} first")
            make(run)
    check_reach(config)
    total = read_manifest(layout.manifest).num_rows
    with (
        run.stage("shard", reads=[layout.manifest, layout.faces], makes=[layout.shards]),
        progress("shard", total) as done,
    ):
        made = write_shards(
            layout.manifest,
            layout.faces,
            Path(config.data.root),
            layout.shards,
            settings=config.shard,
            faces_settings=config.faces,
            pool=_pool(config, "shard"),
            cache=layout.strips,
            on_done=done,
        )
    say(counts("shard", made))
    push_made(config, layout)


def _index(run: Run) -> None:
    from pipeline.index import build_index

    config, layout = run.config, run.layout
    lists = Path(config.data.root, config.data.splits)
    with run.stage("index", reads=[lists, FORGOTTEN], makes=[layout.manifest, layout.factors]):
        made = build_index(
            config.data,
            layout.manifest,
            forgotten=FORGOTTEN,
            store=clip_store(config),
            on_note=lambda note: say(f"index: {note}"),
        )
    say(counts("index", made))


def _faces(run: Run) -> None:
    from pipeline.face.cache import StripCache
    from pipeline.faces import find_faces
    from pipeline.manifest import read_manifest

    config, layout = run.config, run.layout
    total = read_manifest(layout.manifest).num_rows
    with (
        run.stage("faces", reads=[layout.manifest], makes=[layout.faces]),
        progress("faces", total) as done,
    ):
        found = find_faces(
            layout.manifest,
            Path(config.data.root),
            layout.faces,
            settings=config.faces,
            frames=config.shard.frames,
            pool=_pool(config, "faces"),
            cache=StripCache(layout.strips, config.shard),
            on_done=done,
        )
    say(counts(f"faces: {total} clips", found))


def _pool(config: Config, verb: str) -> Pool:
    """Return who runs the tasks of a stage: this machine, or the cluster of runtime.engine."""
    from pipeline.pool.pool import Pool

    runtime, data, cluster = config.runtime, config.data, None
    if runtime.engine != "local":
        from pipeline.pool.cluster import Cluster

        # With the clips in a store, workers need no file of ours.
        witness = (Path(data.root) / data.splits).absolute() if runtime.clips is None else None
        cluster = Cluster(
            runtime.engine,
            witness=witness,
            retries=runtime.retries,
            patience=runtime.patience,
            on_note=lambda line: note(f"{verb}: {line}"),
        )
    return Pool.of(runtime, clips=clip_store(config), cluster=cluster)


def run_train(params: Path, overrides: list[str] | None, fold: int | None, nproc: int = 1) -> None:
    """Train one fold, or all of data.folds; with nproc, by that many processes of this machine."""
    run = Run(params, overrides)
    if nproc > 1:
        from cli.launch import launch_train

        launch_train(params, overrides, fold, nproc)
        return
    _load_torch()  # after the parameters: a wrong one is told at once
    from safe.training.ranks import joined

    with joined(run.config.runtime.device) as ranks:
        _train(run, _folds(run.config, fold), ranks)


def _folds(config: Config, fold: int | None) -> Sequence[int]:
    """Return the fold of --fold, or that of the stage of DVC, such as train@2; else data.folds.

    dvc.yaml gives no fold to the commands: what stands in params.yaml would reach a shell.
    """
    _, _, named = os.environ.get("DVC_STAGE", "").partition("@")
    if fold is None and named.isdecimal():
        fold = int(named)
    return config.data.folds if fold is None else [fold]


def _load_torch() -> None:
    """Import torch without looks for garbage: there is none, and they take time."""
    if "torch" in sys.modules:
        return
    gc.disable()
    import_module("torch")
    gc.freeze()
    gc.enable()


def _train(run: Run, folds: Sequence[int], ranks: Ranks) -> None:
    """Train folds as one of the ranks. The first alone speaks and holds the lock of the output."""
    from safe.training.train import train

    config, layout = run.config, run.layout
    reads = _local(run)
    reads += [Path(config.model.weights)] if config.model.weights else []
    for number in folds:

        def report(epoch: int, row: dict[str, float], number: int = number) -> None:
            select = f", select UAR {row['select_uar']:.1f}" if "select_uar" in row else ""
            say(
                f"train: fold {number}, epoch {epoch}/{config.train.epochs}: "
                f"loss {row['loss']:.3f}, "
                f"train UAR {row['train_uar']:.1f}{select}, {row['clips_per_s']:.1f} clips/s"
            )

        out = layout.trains / f"fold-{number}"
        held = run.stage("train", reads=reads, makes=[out], fold=number)
        with held if ranks.first else nullcontext(None) as compare:
            train(
                config,
                shards=source(config, layout),
                fold=number,
                out=out,
                checkpoints=checkpoints(),
                commit=_commit(),
                seen=layout.seen,
                on_epoch=report,
                on_note=lambda note: say(f"train: {note}"),
                before_save=compare,
                ranks=ranks,
            )
        if ranks.first:
            say(f"train: fold {number} is in {out}")


def run_calibrate(params: Path, overrides: list[str] | None, fold: int | None) -> None:
    """Calibrate one fold, or all of data.folds."""
    run = Run(params, overrides)
    config, layout = run.config, run.layout
    _load_torch()
    from safe.evaluation.calibrate import calibrate

    for number in _folds(config, fold):
        model, out = (at / f"fold-{number}" for at in (layout.trains, layout.calibrates))
        with run.stage("calibrate", reads=[*_local(run), model], makes=[out], fold=number):
            found = calibrate(
                model,
                shards=source(config, layout),
                fold=number,
                out=out,
                settings=config.calibrate,
                runtime=config.runtime,
                bins=config.eval.bins,
                seen=layout.seen,
            )
        say(f"calibrate: fold {number}: {_calibrated(found, config.calibrate)}")


def _calibrated(found: dict[str, Any], settings: Calibrate) -> str:
    """Say what came out on the clips of the selection split, or why that is worth nothing."""
    from safe.evaluation.calibrate import doubts

    if not found["clips"]:
        return "no clips were set apart (train.select: val does), so nothing is calibrated"
    parts = [f"{found['clips']} clips of the selection split"]
    if found["temperature"] is not None:
        parts.append(f"temperature {found['temperature']:.3f}")
    told = doubts(found["clips"], found["temperature"])
    if told:
        parts.append(f"not to be relied on: {'; '.join(told)}")
    else:
        parts.append(f"ECE {found['ece']:.3f} -> {found['ece_calibrated']:.3f}")
    if settings.level is not None:
        parts.append(
            f"sets of level {settings.level:g} hold the label of {100 * found['coverage']:.1f} % "
            f"and {found['set_size']:.2f} classes"
        )
    if settings.risk is not None:
        parts.append(_answered(found))
    return ", ".join(parts)


def _answered(found: dict[str, Any]) -> str:
    share = f"{100 * found['answered']:.1f} % answered"
    risk = found["selective_risk"]
    return share if risk is None else f"{share} with {100 * risk:.1f} % errors"


def run_eval(params: Path, overrides: list[str] | None, fold: int | None) -> None:
    """Evaluate one fold, or all of data.folds."""
    run = Run(params, overrides)
    config, layout = run.config, run.layout
    _load_torch()
    from safe.evaluation.evaluate import evaluate

    for number in _folds(config, fold):
        model, out = (at / f"fold-{number}" for at in (layout.calibrates, layout.evals))
        with run.stage("eval", reads=[*_local(run), model], makes=[out], fold=number):
            metrics = evaluate(
                model,
                shards=source(config, layout),
                fold=number,
                out=out,
                settings=config.eval,
                runtime=config.runtime,
                seen=layout.seen,
            )
        say(
            f"eval: fold {number}: WAR {metrics['war']:.2f}, {_uar(metrics)} {metrics['uar']:.2f}, "
            f"ECE {metrics['ece']:.3f}, n {metrics['n_test']}, left out {metrics['n_left_out']}, "
            f"selection {metrics['selection']}"
        )
        if metrics["calibrated_on"]:
            say(f"eval: fold {number}, calibrated: {_trusted(metrics)}")


def _uar(metrics: dict[str, Any]) -> str:
    """Name UAR, with how many classes it is over where some have no test clips."""
    from safe.evaluation.metrics import uar_name

    classes = sum(key.startswith("recall.") for key in metrics)
    return uar_name([k < metrics["uar_classes"] for k in range(classes)])


def _trusted(metrics: dict[str, Any]) -> str:
    """Say what the calibrated answers are worth."""
    parts = [_bounds(metrics, "ece_calibrated", "ECE", 1)]
    if metrics["coverage"] is not None:
        covered = _bounds(metrics, "coverage", "sets hold the label of", 100)
        parts.append(f"{covered} % ({metrics['set_size']:.2f} classes)")
    parts.append(_answered(metrics))
    parts.append(
        f"error of all {100 * metrics['error']:.1f} %, of the surest 80 % "
        f"{100 * metrics['risk_at_80']:.1f} %, AURC {metrics['aurc']:.3f}"
    )
    return ", ".join(parts)


def _bounds(metrics: dict[str, Any], key: str, title: str, factor: int) -> str:
    """Write a metric with its interval: `ECE 0.031 [0.022, 0.060]`."""
    digits = 1 if factor == 100 else 3
    value, low, high = (factor * metrics[k] for k in (key, f"{key}_low", f"{key}_high"))
    return f"{title} {value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _local(run: Run) -> list[Path]:
    """Return the folder of the shards, if they are read from this disk."""
    return [] if run.config.runtime.shards else [run.layout.shards]


def run_summary(params: Path, overrides: list[str] | None) -> None:
    """Bring data.folds together."""
    run = Run(params, overrides)
    config, layout = run.config, run.layout
    from cli.plots_page import write_missing_page
    from safe.evaluation.summary import MADE, summarize_folds

    stages = (layout.calibrates, layout.evals)
    reads = [at / f"fold-{fold}" for at in stages for fold in config.data.folds]
    with run.stage("summary", reads=reads, makes=[RESULTS / name for name in MADE]):
        result = summarize_folds(
            evals=layout.evals,
            models=layout.calibrates,
            folds=config.data.folds,
            dataset=config.data.name,
            bins=config.eval.bins,
            out=RESULTS,
        )
    write_missing_page()
    say(
        f"summary: {result['dataset']}, folds {config.data.folds}: WAR {result['war']:.2f} +- "
        f"{result['war_std']:.2f}, {_uar(result)} {result['uar']:.2f} +- {result['uar_std']:.2f}, "
        f"n {result['n_test']}, left out {result['n_left_out']}, selection {result['selection']}"
    )


def run_cost(params: Path, overrides: list[str] | None, *, measure: bool) -> None:
    """Print what the model of params.yaml costs, and the paper's baseline, and one pass.

    Of as many classes as the manifest has; of the basic seven where there is none yet.
    """
    config, layout = read(params, overrides)
    from pipeline.manifest import read_classes
    from safe.evaluation.cost import compare, table
    from safe.models.registry import refused

    classes = read_classes(layout.manifest) if layout.manifest.exists() else BASIC
    if reason := refused(config.model.name, config.model.window, config.shard.frames):
        raise ConfigError(f"{params}: {reason}")
    say(table(compare(config, classes=len(classes), timed=measure)))


def _commit() -> str:
    """Name the commit of the code that runs: `-dirty` after a change, `unknown` without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
