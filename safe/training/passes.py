"""Passes of the network over a batch: forward to all outputs, and back from their loss.

A batch goes through at once; or in equal parts, which takes less memory (train.accumulate); or over
several ranks with a share each. Blocks are kept for their gradient, or computed again for it, which
takes less memory too (train.recompute). The loss is that of the whole batch in any case.
Shapes: B clips, T frames, C channels, H W pixels, K classes, D features.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from safe.errors import ConfigError
from safe.models.backbones import sections
from safe.training.ranks import ALONE, Ranks


class Forward:
    """The outputs of a whole batch, of all ranks: logits [B, K] and embedding [B, D].

    With n seeds the batch goes through the network in n equal parts. FCL compares every clip with
    all others, so the parts' losses do not add up. Instead (Gao et al.: Scaling Deep Contrastive
    Learning Batch Size under Memory Limited Setup, 2021) a first pass without a graph gives all
    outputs, the loss is that of the whole batch, and a second pass carries its gradient at each
    part's outputs into the weights. What differs from one pass: BatchNorm normalises with each
    part's statistics and updates its running ones n times, and dropout draws differ.

    Several ranks do the same: each gathers the outputs of all, computes the whole loss, and carries
    the gradient at its own outputs into its weights; Ranks.sum_gradients makes the sum exact.
    """

    def __init__(
        self,
        network: nn.Module,
        clips: Tensor,
        *,
        precision: torch.dtype,
        seeds: Sequence[int],
        ranks: Ranks = ALONE,
    ) -> None:
        """Run the network.

        Args:
            network: clips -> Output, or what has its fields logits and embedding; in training mode.
            clips: normalised, [B, C, T, H, W]; of several ranks, this one's [B / count, ...].
            precision: of the network; bfloat16 runs under autocast.
            seeds: one a part, of its dropout; their number divides B / count.
            ranks: which share the batch.
        """
        self._network, self._precision, self._ranks = network, precision, ranks
        self._parts = list(zip(clips.chunk(len(seeds)), seeds, strict=True))
        self._at_once = len(seeds) == ranks.count == 1
        self._kept: list[tuple[Tensor, Tensor]] = []
        if len(seeds) == 1:  # its graph can be kept
            outputs = self._kept = [self._run(*self._parts[0])]
        else:
            with torch.no_grad(), unchanged_buffers(network):
                outputs = [self._run(*part) for part in self._parts]
        if self._at_once:
            self.logits, self.embedding = outputs[0]
        else:
            shares = (torch.cat(each).detach() for each in zip(*outputs, strict=True))
            self.logits, self.embedding = (ranks.gather(each).requires_grad_() for each in shares)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of the loss of these outputs to those of the weights."""
        loss.backward()  # type: ignore[no-untyped-call]
        if self._at_once:
            return
        whole = (self.logits, self.embedding)
        own = [self._ranks.own(_gradient(each)).chunk(len(self._parts)) for each in whole]
        for number, grads in enumerate(zip(*own, strict=True)):
            outputs = self._kept[0] if self._kept else self._run(*self._parts[number])
            torch.autograd.backward(outputs, grads)

    def _run(self, clips: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(seed)
        low = self._precision == torch.bfloat16
        with torch.autocast(clips.device.type, self._precision, low):
            output = self._network(clips)
        return output.logits, output.embedding


def _gradient(outputs: Tensor) -> Tensor:
    """Return what the loss left there; zero where it does not look (FCL off: the embedding)."""
    return torch.zeros_like(outputs) if outputs.grad is None else outputs.grad


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
        ConfigError: if the model has no such blocks (some published systems).
    """
    pieces = sections(model)
    if not pieces:
        raise ConfigError(
            f"params: train.recompute = true: {type(model).__name__} has no blocks that can be "
            "computed again; set it to false"
        )
    for piece in pieces:
        piece.forward = partial(_keep_input, piece, piece.forward)  # type: ignore[method-assign]


def _keep_input(piece: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return forward(x)
    output: Tensor = checkpoint(
        forward,
        x,
        use_reentrant=False,
        preserve_rng_state=False,  # no block draws; reading the state would wait for the GPU
        context_fn=lambda: (nullcontext(), unchanged_buffers(piece)),
    )
    return output
