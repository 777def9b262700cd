"""One run: its training step, what an epoch reports, and its state.

Everything random in step s is drawn from (seed, s), and the order of clips from (seed, epoch), so
the state of a run is its tensors, its step and its history. It is the same on all ranks that train
together, whose number is no part of it.
"""

from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np
import torch
from torch import Tensor, nn

from safe.config import Config
from safe.errors import ConfigError, ModelError
from safe.evaluation.inference import predict
from safe.evaluation.metrics import summarize, uar, war
from safe.models.registry import build_model
from safe.shards.folder import ShardFolder
from safe.shards.loader import Batch
from safe.shards.order import TrainPlan, in_order
from safe.training.checkpoint import optimizer_tensors, restore_optimizer
from safe.training.device import build_optimizer, learning_rate, pick_compile, pick_precision
from safe.training.losses import ACL
from safe.training.passes import Forward, recompute
from safe.training.ranks import ALONE, Ranks
from safe.training.split import Rows, choose_rows
from safe.training.tam import TAM
from safe.training.transforms import Transforms, training_transforms

PARTS: Final = ("loss", "ce", "logit", "feature")
SELECTION_METRICS: Final = ("war", "uar", "ece", "nll", "brier")
SELECTION_METRIC: Final = "uar"
"""The one metric by which `val` and `test` choose the epoch."""


def make_plan(
    config: Config, folder: ShardFolder, rows: Rows, *, start: int, ranks: Ranks = ALONE
) -> TrainPlan:
    """Give a rank's batches of a run over `rows` from step `start` on. Raises ConfigError."""
    settings = config.train
    if settings.batch % (settings.accumulate * ranks.count):
        raise ConfigError(
            f"params: train.batch = {settings.batch}: must be a multiple of train.accumulate times "
            f"the ranks, {settings.accumulate} x {ranks.count}"
        )
    return TrainPlan(
        rows,
        folder.shard,
        batch=settings.batch,
        epochs=settings.epochs,
        seed=config.seed,
        start=start,
        rank=ranks.rank,
        ranks=ranks.count,
    )


class Trainer:
    """One run: model, loss, optimizer and the tallies of the epoch under way."""

    def __init__(
        self,
        config: Config,
        folder: ShardFolder,
        fold: int,
        ranks: Ranks = ALONE,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        self.config, self.folder, self.ranks = config, folder, ranks
        self.classes = len(folder.classes)
        self.train_rows, self.select_rows = choose_rows(
            folder, fold, settings=config.train, seed=config.seed
        )
        self.device = ranks.device(config.runtime.device)
        self.precision = pick_precision(config.train.precision, self.device)
        torch.manual_seed(config.seed)
        settings = config.model.model_dump()
        self.model = build_model(self.classes, frames=folder.frames, **settings).to(self.device)
        if config.train.recompute:
            recompute(self.model)
        ranks.share_layers(self.model, sync_bn=config.train.sync_bn)
        # What a step runs. The state is that of the model itself, and selection runs it uncompiled.
        self.network = self.model
        counts = torch.from_numpy(folder.class_counts(self.train_rows))
        self.acl = ACL(counts, **config.acl.model_dump()).to(self.device)
        self.tam = TAM(**config.tam.model_dump(), classes=self.classes)
        self.transforms = Transforms(training_transforms(config, self.tam))
        self.optimizer = build_optimizer(config.train, self.model, self.acl)
        self.steps = self.plan(0).steps
        if pick_compile(
            config.train.compile,
            self.device,
            steps=config.train.epochs * self.steps,
            plain=ranks.count == 1 and not config.train.recompute,
            on_note=on_note,
        ):
            self.network = cast(nn.Module, torch.compile(self.model))
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}
        self._new_tally()

    def plan(self, start: int) -> TrainPlan:
        """The batches from step `start` on."""
        return make_plan(self.config, self.folder, self.train_rows, start=start, ranks=self.ranks)

    def train_step(self, batch: Batch) -> None:
        """One update from this rank's clips; the host never waits for the device."""
        generator, seeds = self._draws()
        clips, labels = self._prepare(batch, generator)
        self.optimizer.zero_grad(set_to_none=True)
        outputs = Forward(
            self.network, clips, precision=self.precision, seeds=seeds, ranks=self.ranks
        )
        losses = self.acl(outputs.logits, outputs.embedding, labels)
        outputs.backward(losses["loss"])
        self._update()
        self._count(losses, outputs.logits, labels)

    def _draws(self) -> tuple[torch.Generator, list[int]]:
        """Make what step s draws from: for the batch, and a seed of dropout for each of its parts.

        Of (seed, s) alone.
        """
        state = np.random.SeedSequence([self.config.seed, self.step])
        seeds = state.generate_state(self.config.train.accumulate, np.uint64).tolist()
        return torch.Generator().manual_seed(seeds[0]), seeds

    def _prepare(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return this rank's clips, float32 [B / ranks, C, T, H, W], and the labels of all, [B].

        All ranks transform the whole batch, whose bytes they gather: a clip's partner in TAM may be
        another's, and so every rank has the same bank.
        """
        known = self.ranks.gather(batch["label"])  # TAM wants them on the CPU
        faces = self.ranks.gather(batch["faces"].to(self.device, non_blocking=True))
        clips = self.transforms(faces, known, generator, share=self.ranks.share)
        return clips, known.to(self.device, non_blocking=True)

    def _update(self) -> None:
        """Let the optimizer follow the gradients."""
        settings = self.config.train
        self.ranks.sum_gradients(self.model, self.acl)
        if not settings.sync_bn:
            self.ranks.average_statistics(self.model)
        if settings.clip_grad is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_grad)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(settings, self.step, self.steps)
        self.optimizer.step()
        self.step += 1

    def _count(self, losses: dict[str, Tensor], logits: Tensor, labels: Tensor) -> None:
        """Add to the tallies, on the device; they are read at the epoch's end."""
        self.tally["parts"] += torch.stack([losses[part].detach() for part in PARTS])
        self.tally["tam"] += self.tam.counts.to(self.device, non_blocking=True)
        pairs = labels * self.classes + logits.argmax(1)  # not bincount: it would wait for the GPU
        self.tally["confusion"].index_add_(0, pairs, torch.ones_like(pairs))

    def end_epoch(self, seconds: float, steps: int) -> dict[str, float]:
        """Read the tallies, look at the selection split, and keep the best weights.

        Raises:
            ModelError: if the loss is no longer finite.
        """
        parts = (self.tally["parts"] / self.steps).tolist()
        if not np.isfinite(parts).all():
            raise ModelError(
                f"the loss is not finite in epoch {len(self.history) + 1}; lower train.lr or set "
                "train.clip_grad"
            )
        matrix = self.tally["confusion"].view(self.classes, -1).cpu().numpy()
        mixed, banked, alone = self.tally["tam"].tolist()
        first, second = self.acl.alpha.tolist()
        row = {
            **dict(zip(PARTS, parts, strict=True)),
            "lr": self.optimizer.param_groups[0]["lr"],
            "tam_batch": mixed,
            "tam_bank": banked,
            "tam_alone": alone,
            "acl_alpha_1": first,
            "acl_alpha_2": second,
            "train_war": 100 * war(matrix),
            "train_uar": 100 * uar(matrix),
            "clips_per_s": steps * self.config.train.batch / seconds,
        }
        if self.select_rows is not None:
            row |= self._selection()
        self.history.append(row)
        self._new_tally()
        return row

    def _selection(self) -> dict[str, float]:
        assert self.select_rows is not None
        rows, size = self.select_rows, self.config.eval.batch
        logits = torch.zeros(len(rows), self.classes)
        positions = np.arange(len(rows))
        mine = in_order(positions, size, rank=self.ranks.rank, ranks=self.ranks.count)
        if mine:
            positions = np.concatenate(mine)
            found = predict(
                self.model,
                self.folder,
                rows[positions],
                crop=self.config.augment.crop,
                batch=size,
                device=self.device,
                precision=self.precision,
                workers=self.config.runtime.workers,
            )
            logits[positions] = torch.from_numpy(found.logits)
        whole = self.ranks.sum(logits.to(self.device)).cpu().numpy()
        metrics = summarize(
            whole, self.folder.label[rows], self.config.eval.bins, self.folder.classes
        )
        row = {f"select_{name}": float(metrics[name] or 0) for name in SELECTION_METRICS}
        key = f"select_{SELECTION_METRIC}"
        if row[key] > max((past[key] for past in self.history), default=-1.0):
            self.best = {name: value.clone() for name, value in self.model.state_dict().items()}
        return row

    def _new_tally(self) -> None:
        self.tally = {
            "parts": torch.zeros(len(PARTS), device=self.device),
            "tam": torch.zeros(3, dtype=torch.int64, device=self.device),
            "confusion": torch.zeros(self.classes**2, dtype=torch.int64, device=self.device),
        }

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the run's state, by name."""
        groups = {
            "model": self.model.state_dict(),
            "acl": self.acl.state_dict(),
            "tam": self.tam.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer),
            "tally": self.tally,
            "best": self.best,
        }
        return {
            f"{group}/{name}": t for group, named in groups.items() for name, t in named.items()
        }

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Take up the state that `tensors` and a checkpoint's JSON hold."""
        groups: dict[str, dict[str, Tensor]] = {"best": {}, "tam": {}}
        for key, tensor in tensors.items():
            group, name = key.split("/", 1)
            groups.setdefault(group, {})[name] = tensor.to(self.device)
        self.model.load_state_dict(groups["model"])
        self.acl.load_state_dict(groups["acl"])
        self.tam.load_state_dict(groups["tam"])
        restore_optimizer(self.optimizer, groups["optimizer"])
        self.tally, self.best = groups["tally"], groups["best"]
        self.step, self.history = state["step"], state["history"]
