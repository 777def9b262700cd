"""What does one training step do, what does an epoch report, and what is the state of a run?

Everything random in step s is drawn from (seed, s), and the order of clips from (seed, epoch), so
the state of a run is its tensors, its step and its history. It is the same on all ranks that train
together, whose number is no part of it.
"""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from safe.augment import normalize, random_crop_flip, random_crop_flip_normalize
from safe.config import Config
from safe.errors import ConfigError, ModelError
from safe.exact_pass import predict
from safe.metrics import summarize, uar, war
from safe.networks.build import build_model
from safe.reading.loader import Batch
from safe.reading.plan import TrainPlan, in_order
from safe.reading.shards import ShardFolder
from safe.recipe import build_optimizer, learning_rate, pick_compile, pick_precision
from safe.split import Rows, choose_rows
from safe.training.acl import ACL
from safe.training.checkpoint import optimizer_tensors, restore_optimizer
from safe.training.gradients import backward, recompute
from safe.training.ranks import ALONE, Ranks
from safe.training.shared_layers import average_statistics, share_layers
from safe.training.tam import TAM

PARTS = ("loss", "ce", "logit", "feature")
SELECTION_FIGURES = ("war", "uar", "ece", "nll", "brier")
SELECTION_METRIC = "uar"
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
        self, config: Config, folder: ShardFolder, fold: int, ranks: Ranks = ALONE
    ) -> None:
        self.config, self.folder, self.ranks = config, folder, ranks
        self.classes = len(folder.classes)
        self.train_rows, self.select_rows = choose_rows(
            folder, fold, settings=config.train, seed=config.seed
        )
        self.device = ranks.device(config.runtime.device)
        self.precision = pick_precision(config.train.precision, self.device)
        torch.manual_seed(config.seed)
        self.model = build_model(
            self.classes, frames=folder.frames, **config.model.model_dump()
        ).to(self.device)
        if config.train.recompute:
            recompute(self.model)
        share_layers(self.model, ranks, sync_bn=config.train.sync_bn)
        # What a step runs. The state is that of the model itself, and selection runs it uncompiled.
        self.network = self.model
        acl = config.acl.model_dump()
        self.acl = ACL(torch.from_numpy(folder.class_counts(self.train_rows)), **acl).to(
            self.device
        )
        self.tam = TAM(**config.tam.model_dump(), classes=self.classes)
        self.optimizer = build_optimizer(config.train, self.model, self.acl)
        self.steps = self.plan(0).steps
        if pick_compile(
            config.train.compile,
            self.device,
            steps=config.train.epochs * self.steps,
            plain=ranks.count == 1 and not config.train.recompute,
        ):
            self.network = cast(nn.Module, torch.compile(self.model))
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}
        # Written anew in every step: the page faults of fresh memory cost a CPU more than the sums.
        self.pixels = torch.empty(0, device=self.device)
        self._new_tally()

    def plan(self, start: int) -> TrainPlan:
        """The batches from step `start` on."""
        return make_plan(self.config, self.folder, self.train_rows, start=start, ranks=self.ranks)

    def train_step(self, batch: Batch) -> None:
        """One update from this rank's clips; the host never waits for the device.

        Losses and counts are added up on the device and read at the epoch's end. All ranks crop and
        mix the whole batch, since a partner may be another's clip; they gather its bytes, and every
        rank has the same bank. Then each goes on with its own clips.
        """
        settings = self.config
        state = np.random.SeedSequence([settings.seed, self.step])
        seeds = state.generate_state(settings.train.accumulate, np.uint64).tolist()
        generator = torch.Generator().manual_seed(seeds[0])
        known = self.ranks.gather(batch["label"])
        labels = known.to(self.device, non_blocking=True)
        clips = self.ranks.gather(batch["faces"].to(self.device, non_blocking=True))
        pixels, counts = self._prepare(clips, known, generator)
        rate = learning_rate(settings.train, self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses, logits = backward(
            self.network,
            self.acl,
            pixels,
            labels,
            precision=self.precision,
            seeds=seeds,
            ranks=self.ranks,
        )
        if not settings.train.sync_bn:
            average_statistics(self.model, self.ranks)
        if settings.train.clip_grad is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.train.clip_grad)
        self.optimizer.step()
        self.step += 1
        self.tally["parts"] += torch.stack([losses[part] for part in PARTS])
        self.tally["tam"] += counts.to(self.device, non_blocking=True)
        pairs = labels * self.classes + logits.argmax(1)  # not bincount: it would wait for the GPU
        self.tally["confusion"].index_add_(0, pairs, torch.ones_like(pairs))

    def _prepare(
        self, clips: Tensor, labels: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Crop, mix and normalise a whole batch of faces; return this rank's, and TAM's counts.

        Clips are on the device, labels on the CPU.
        """
        crop, flip = self.config.augment.crop, self.config.augment.flip
        shape = torch.Size((*self.ranks.own(clips).shape[:2], crop, crop, clips.shape[4]))
        if self.pixels.shape != shape:
            self.pixels = torch.empty(shape, device=self.device)
        if self.tam.strategy == "none" and self.ranks.count == 1:  # nobody needs the squares
            pixels = random_crop_flip_normalize(clips, crop, flip, generator, out=self.pixels)
            return pixels, torch.zeros(3, dtype=torch.int64)
        squares = random_crop_flip(clips, crop, flip, generator)
        mixed, counts = self.tam(squares, labels, generator)
        return normalize(self.ranks.own(mixed), out=self.pixels), counts

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
        places = np.arange(len(rows))
        mine = in_order(places, size, rank=self.ranks.rank, ranks=self.ranks.count)
        if mine:
            places = np.concatenate(mine)
            found = predict(
                self.model,
                self.folder,
                rows[places],
                crop=self.config.augment.crop,
                batch=size,
                device=self.device,
                precision=self.precision,
                workers=self.config.runtime.workers,
            )
            logits[places] = torch.from_numpy(found.logits)
        whole = self.ranks.sum(logits.to(self.device)).cpu().numpy()
        figures = summarize(
            whole, self.folder.label[rows], self.config.eval.bins, self.folder.classes
        )
        row = {f"select_{name}": float(figures[name] or 0) for name in SELECTION_FIGURES}
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
