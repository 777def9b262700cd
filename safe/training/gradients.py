"""How does the loss of a batch become gradients, also where the batch does not fit at once?

In: a batch of normalised clips and their labels. Out: gradients in the parameters, and the losses.
Two ways to need less memory, which go together:

    in parts    the batch is computed in equal parts; one more forward pass
    recompute   a block keeps its input alone, and is computed again for its gradient; one more too

Several ranks that have a share of the batch each go the first way too (ranks.py).
Shapes: B clips, T frames, C channels, H W pixels, K classes, D features.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from safe.errors import ConfigError
from safe.networks.backbones import sections
from safe.training.acl import ACL
from safe.training.ranks import ALONE, Ranks


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
