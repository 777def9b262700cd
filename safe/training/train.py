"""Training of one fold, from shards to a model folder, also after a stop.

A run that goes on from a checkpoint equals one that never stopped, bit for bit on the CPU: see
safe/training/loop.py for why. Several ranks may train it together (safe/training/ranks.py), and
other than those that began it: the first one alone writes.
"""

import hashlib
import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safe.code import hash_of
from safe.config import Config
from safe.errors import ConfigError
from safe.evaluation.cost import describe
from safe.files import atomic_file, hold_lock, naming
from safe.models.registry import refused
from safe.saved import file_digest, save_model
from safe.shards.folder import ShardFolder, open_shards
from safe.shards.loader import Batch, load_batches, started
from safe.shards.source import Source
from safe.shards.verify import verify
from safe.training.checkpoint import (
    LOCK,
    fingerprint,
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from safe.training.device import pick_device, pick_precision
from safe.training.loop import SELECTION_METRIC, Trainer, make_plan
from safe.training.ranks import ALONE, Ranks
from safe.training.split import choose_rows


def train(
    config: Config,
    *,
    shards: Path | Source,
    fold: int,
    out: Path,
    checkpoints: Path,
    commit: str,
    seen: Path | None = None,
    stop_after: int | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    before_save: Callable[[], None] | None = None,
    ranks: Ranks = ALONE,
) -> bool:
    """Train one fold and write its model folder; go on from a checkpoint of the same run.

    Args:
        config: all of params.yaml.
        shards: the shard folder, here or in a store.
        fold: whose training split is learnt.
        out: the model folder, with the metrics of the epochs in `live/`.
        checkpoints: folder outside DVC's outputs; a run's lie in a subfolder, by its fingerprint.
        commit: of the code, for model.json.
        seen: the memory of shards that safe.shards.verify found good; None: all are read.
        stop_after: leave a checkpoint and return after this step, unless the run ended before.
        on_epoch: called by the first rank with the epoch's number (from 1) and its metrics.
        on_note: called by it with a line: a damaged checkpoint is passed over, nothing compiles.
        before_save: called by it when all steps are done; what it raises leaves the model unwritten
            and the last checkpoint there.
        ranks: which train together. All see the folder of checkpoints.

    Returns:
        True if the run is complete and the model written; False if it stopped at `stop_after`.

    Raises:
        SafeError: DataError, ConfigError or ModelError in one line; ProcessError if another
            process trains this very run with several ranks; without, it is waited for.
        OSError: if a file cannot be written; the run goes on from its last checkpoint.
    """
    folder = _open(config, shards)
    name = _fingerprint(config, folder, fold)
    home = checkpoints / name
    # Two experiments that differ in what comes after share their training: the second waits, and
    # finds the last checkpoint. Ranks cannot wait for one of them.
    wait = (on_note or _nowhere) if ranks.count == 1 else None
    alone = hold_lock(home / LOCK, f"training state {home}", wait=wait)
    with alone if ranks.first else nullcontext(_nobody) as awaited:
        if ranks.local == 0:  # once a machine, which may have shards of its own
            verify(folder, seen=seen)
        found = load_checkpoint(home, on_note if ranks.first else None)
        trainer, batches = _begin(config, folder, fold, name, found, ranks, on_note)
        if not _run(trainer, batches, home, out, stop_after, on_epoch):
            return False
        if ranks.first:
            if before_save is not None:
                before_save()
            _save(trainer, out, fold, commit)
            if not awaited():
                remove_checkpoints(home)
    return True


def _open(config: Config, shards: Path | Source) -> ShardFolder:
    """Open the shards. Raises ConfigError if their faces or classes do not fit the parameters."""
    folder = open_shards(shards)
    if config.augment.crop > folder.face_size:
        raise ConfigError(
            f"params: augment.crop = {config.augment.crop}: the faces in {shards} have "
            f"{folder.face_size} pixels"
        )
    settings = config.model
    if reason := refused(settings.name, settings.window, folder.frames):
        raise ConfigError(f"params: {reason}, in {shards}")
    count = len(folder.classes)
    if config.acl.top_k >= count:
        raise ConfigError(
            f"params: acl.top_k = {config.acl.top_k}: must be at most K - 1 = {count - 1}, since "
            f"the shards in {shards} have {count} classes"
        )
    return folder


def _begin(
    config: Config,
    folder: ShardFolder,
    fold: int,
    name: str,
    found: tuple[dict[str, Tensor], dict[str, Any]] | None,
    ranks: Ranks,
    on_note: Callable[[str], None] | None,
) -> tuple[Trainer, Iterable[Batch]]:
    """Make a rank's trainer and its batches, from the start or from what a checkpoint holds."""
    device = ranks.device(config.runtime.device)
    start = 0 if found is None else found[1]["step"]
    ranks.check_same(name, start, device)
    rows, _ = choose_rows(folder, fold, settings=config.train, seed=config.seed)
    plan = make_plan(config, folder, rows, start=start, ranks=ranks)
    # Asked for a batch before the model is built, the loader's processes read on while this
    # one imports what an optimizer needs, which takes longer than a second.
    batches = started(load_batches(folder, plan, workers=config.runtime.workers, device=device))
    trainer = Trainer(config, folder, fold, ranks, on_note if ranks.first else None)
    if found is not None:
        trainer.restore(*found)
    return trainer, batches


def _run(
    trainer: Trainer,
    batches: Iterable[Batch],
    home: Path,
    out: Path,
    stop_after: int | None,
    on_epoch: Callable[[int, dict[str, float]], None] | None,
) -> bool:
    """Step through the rest of the run; False if it stopped at `stop_after`."""
    runtime, first_rank = trainer.config.runtime, trainer.ranks.first
    with _live(out / "live") if first_rank else nullcontext(_nowhere) as log:
        for row in trainer.history:  # DVC emptied the folder: write the past epochs again
            log(row)
        began = saved = time.monotonic()
        first = trainer.step
        for batch in batches:
            trainer.train_step(batch)
            ended, stopped = trainer.step % trainer.steps == 0, trainer.step == stop_after
            if ended:
                row = trainer.end_epoch(time.monotonic() - began, trainer.step - first)
                log(row)
                if on_epoch and first_rank:
                    on_epoch(len(trainer.history), row)
                began, first = time.monotonic(), trainer.step
            counted = runtime.checkpoint_steps and trainer.step % runtime.checkpoint_steps == 0
            due = time.monotonic() - saved > runtime.checkpoint
            if first_rank and (ended or stopped or counted or due):
                state = {"step": trainer.step, "history": trainer.history}
                save_checkpoint(home, trainer.tensors(), state)
                saved = time.monotonic()
            if stopped:
                return False
    return True


@contextmanager
def _live(folder: Path) -> Iterator[Callable[[dict[str, float]], None]]:
    """Give a function that writes an epoch's metrics where `dvc plots` and `dvc metrics` look.

    `plots/metrics/<name>.tsv` has a line an epoch, `metrics.json` the last one: the files of
    dvclive, which itself opens the repository, and so needs a user's name and folders of its own.
    """
    shutil.rmtree(folder, ignore_errors=True)
    plots = folder / "plots" / "metrics"
    epochs = itertools.count()

    def log(row: dict[str, float]) -> None:
        epoch = next(epochs)
        with naming(plots):
            plots.mkdir(parents=True, exist_ok=True)
            for name, value in row.items():
                with (plots / f"{name}.tsv").open("a", encoding="utf-8") as file:
                    file.write(f"step\t{name}\n" * (not file.tell()) + f"{epoch}\t{value}\n")
        with atomic_file(folder / "metrics.json") as temporary:
            text = json.dumps({**row, "step": epoch}, indent=4)
            temporary.write_text(text + "\n", encoding="utf-8")

    yield log


def _nowhere(row: object) -> None:
    """Write nothing: what ranks other than the first do with an epoch's metrics."""


def _nobody() -> bool:
    return False


def _fingerprint(config: Config, folder: ShardFolder, fold: int) -> str:
    """Name the run by all that its result depends on, the code that it runs included."""
    table = hashlib.sha256()
    for column in (folder.clip, folder.label, folder.bucket, folder.shard, folder.offset):
        table.update(column.tobytes())
    sections = config.model_dump(include={"seed", "augment", "tam", "model", "acl", "train"})
    del sections["model"]["weights"]  # a path; what counts is what it holds
    device = pick_device(config.runtime.device)
    chooses = config.train.select != "last"
    return fingerprint(
        {
            **sections,
            "selection": config.eval.model_dump(include={"batch", "bins"}) if chooses else None,
            "weights": _pretrained(config),
            "fold": fold,
            "preprocessing": folder.preprocessing_id,
            "shards": [entry["sha256"] for entry in folder.index["shards"]],
            "table": table.hexdigest(),
            "classes": folder.classes,
            "code": hash_of("safe.training.train"),
            "torch": torch.__version__,
            "device": device.type,
            "precision": str(pick_precision(config.train.precision, device)),
        }
    )


def _pretrained(config: Config) -> str | None:
    """Return the sha256 of the file of model.weights; None without one, and if it is missing."""
    weights = Path(config.model.weights or "")
    return file_digest(weights) if weights.is_file() else None  # missing: told by the backbone


def _save(trainer: Trainer, out: Path, fold: int, commit: str) -> None:
    config, history = trainer.config, trainer.history
    rule, epoch = config.train.select, len(history)
    weights = trainer.model.state_dict()
    if rule != "last":
        metrics = [row[f"select_{SELECTION_METRIC}"] for row in history]
        epoch, weights = 1 + metrics.index(max(metrics)), trainer.best
    info = {
        "classes": list(trainer.folder.classes),
        "frames": trainer.folder.frames,
        "architecture": config.model.model_dump(exclude={"weights"}),
        "crop": config.augment.crop,
        "preprocessing": trainer.folder.index["preprocessing"],
        "dataset": config.data.name,
        "fold": fold,
        "seed": config.seed,
        "selection": {
            "rule": rule,
            "metric": None if rule == "last" else SELECTION_METRIC,
            "epoch": epoch,
        },
        "train_clips": len(trainer.train_rows),
        "commit": commit,
        "torch": torch.__version__,
        "cost": describe(
            config.model,
            classes=len(trainer.folder.classes),
            frames=trainer.folder.frames,
            crop=config.augment.crop,
        ),
        "threads": torch.get_num_threads(),
        "read": {"clips": trainer.folder.digest(fold), "weights": _pretrained(config)},
        "params": config.model_dump(exclude={"runtime"}),
        "history": history,
    }
    save_model(out, weights, info)
