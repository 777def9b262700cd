"""What does one training step do, what does an epoch report, and what is the state of a run?

Everything random in step s is drawn from (seed, s), and the order of clips from (seed, epoch), so
the state of a run is its tensors, its step and its history. It is the same on all ranks that train
together, whose number is no part of it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from safe.config import Config
from safe.errors import ConfigError, ModelError
from safe.evaluation.inference import predict
from safe.evaluation.metrics import summarize, uar, war
from safe.models.backbones import sections
from safe.models.registry import build_model
from safe.shards.folder import ShardFolder
from safe.shards.loader import Batch
from safe.shards.order import TrainPlan, in_order
from safe.training.checkpoint import optimizer_tensors, restore_optimizer
from safe.training.device import build_optimizer, learning_rate, pick_compile, pick_precision
from safe.training.losses import ACL
from safe.training.ranks import ALONE, Ranks, average_statistics, share_layers
from safe.training.split import Rows, choose_rows
from safe.training.tam import TAM
from safe.training.transforms import normalize, random_crop_flip, random_crop_flip_normalize

# How does the loss of a batch become gradients, also where the batch does not fit at once?
#
# In: a batch of normalised clips and their labels. Out: gradients in the parameters, and the
# losses.
# Two ways to need less memory, which go together:
#
#     in parts    the batch is computed in equal parts; one more forward pass
#     recompute   a block keeps its input alone, and is computed again for its gradient; one more
# too
#
# Several ranks that have a share of the batch each go the first way too (ranks.py).
# Shapes: B clips, T frames, C channels, H W pixels, K classes, D features.


def backward(
    network: nn.Module,
    acl: ACL,
    clips: Tensor,
    labels: Tensor,
    *,
    precision: torch.dtype,
    seeds: Sequence[int],
    ranks: Ranks = ALONE,
) -> tuple[dict[str, Tensor], Tensor]:
    """Add the gradients of the batch's loss (10) to those of network and acl.

    With n seeds the batch goes through the network in n equal parts. FCL compares every clip with
    all others, so the parts' losses do not add up. Instead (Gao et al.: Scaling Deep Contrastive
    Learning Batch Size under Memory Limited Setup, 2021) a first pass without a graph gives all
    outputs, the loss is that of the whole batch, and a second pass carries its gradient at each
    part's outputs into the weights. What differs from one pass: BatchNorm normalises with each
    part's statistics and updates its running ones n times, and dropout draws differ.

    Several ranks do the same: each gathers the outputs of all, computes the whole loss, and carries
    the gradient at its own outputs into its weights; the sum over the ranks is exact.

    Args:
        network: clips -> Output, or what has its fields logits and embedding; in training mode.
        acl: the loss.
        clips: normalised, [B, C, T, H, W]; of several ranks, this one's [B / count, ...].
        labels: int64 [B], of all ranks' clips.
        precision: of the network; bfloat16 runs under autocast.
        seeds: one a part, of its dropout; their number divides B / count.
        ranks: which share the batch; gradients that were there before are added up over them too.

    Returns:
        The losses of acl and the logits [B, K], all without a graph.
    """

    def run(part: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(seed)
        with torch.autocast(clips.device.type, precision, precision == torch.bfloat16):
            output = network(part)
        return output.logits, output.embedding

    if len(seeds) == ranks.count == 1:
        logits, embedding = run(clips, seeds[0])
        losses = acl(logits, embedding, labels)
        losses["loss"].backward()
    else:
        parts = clips.chunk(len(seeds))
        once = len(seeds) == 1  # its graph can be kept
        with nullcontext() if once else _without_trace(network):
            outputs = [run(part, seed) for part, seed in zip(parts, seeds, strict=True)]
        shares = [torch.cat(each).detach() for each in zip(*outputs, strict=True)]
        whole = [ranks.gather(share).requires_grad_() for share in shares]
        losses = acl(logits := whole[0], whole[1], labels)
        losses["loss"].backward()
        own = [ranks.own(_gradient(each)).chunk(len(seeds)) for each in whole]
        for number, pull in enumerate(zip(*own, strict=True)):
            again = outputs[0] if once else run(parts[number], seeds[number])
            torch.autograd.backward(again, pull)
        _add_up(network, acl, ranks)
    return {name: loss.detach() for name, loss in losses.items()}, logits.detach()


def _gradient(outputs: Tensor) -> Tensor:
    """Return what the loss left there; zero where it does not look (FCL off: the embedding)."""
    return torch.zeros_like(outputs) if outputs.grad is None else outputs.grad


def _add_up(network: nn.Module, acl: ACL, ranks: Ranks) -> None:
    """Sum the gradients over the ranks. Each has all of acl's, so that of the first counts."""
    alphas = [p.grad for p in acl.parameters() if p.grad is not None]
    if not ranks.first:
        for gradient in alphas:
            gradient.zero_()
    ranks.sum_each([*alphas, *(p.grad for p in network.parameters() if p.grad is not None)])


@contextmanager
def _without_trace(network: nn.Module) -> Iterator[None]:
    """Leave neither a graph nor a change in a buffer."""
    with torch.no_grad(), unchanged_buffers(network):
        yield


@contextmanager
def unchanged_buffers(model: nn.Module) -> Iterator[None]:
    """Give the model copies of its buffers: what BatchNorm counts within is forgotten.

    For a pass over clips that another pass has counted or will count. Copies, since a graph may
    hold the buffers themselves.
    """
    kept = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    for module, name, buffer in kept:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in kept:
            setattr(module, name, buffer)


def recompute(model: nn.Module) -> None:
    """Let each block of the backbone keep its input alone and compute the rest again for gradients.

    In place; names of parameters and all values stay. Blocks, not windows: BatchNorm looks at all
    windows together, so computing them a few at a time would change the model; and the backbone as
    one piece would at its end need all that it had saved. Of the activations that r3d_18 holds at
    its peak 0.6 remain.

    Raises:
        ConfigError: if the model has no such blocks (some rivals).
    """
    pieces = sections(model)
    if not pieces:
        raise ConfigError(
            f"params: train.recompute = true: {type(model).__name__} has no blocks that can be "
            "computed again; set it to false"
        )
    for section in pieces:
        again = partial(_keep_input, section, section.forward)
        section.forward = again  # type: ignore[method-assign]


def _keep_input(section: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return forward(x)
    output: Tensor = checkpoint(
        forward,
        x,
        use_reentrant=False,
        preserve_rng_state=False,  # no block draws; reading the state would wait for the GPU
        context_fn=lambda: (nullcontext(), unchanged_buffers(section)),
    )
    return output


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
