"""Gradients in parts and by recomputing: those of one plain pass, from less memory."""

import copy
import weakref

import pytest
import torch
from support import EIGHT_LABELS, backward, build_acl, build_small, eight_clips, gradients
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from safe.errors import ConfigError
from safe.models.backbones import BACKBONES, build_backbone
from safe.training.passes import recompute, unchanged_buffers

FIELDS = ("logits", "embedding")


@pytest.mark.parametrize("fcl", [True, False])
def test_four_parts_have_the_gradient_of_the_whole_batch(fcl):
    """BatchNorm and dropout as in evaluation; what they differ in is the next test's."""
    x, found = eight_clips(), []
    for parts in (1, 4):
        model, acl = build_small().eval(), build_acl(fcl=fcl)
        losses, logits = backward(
            model, acl, x, EIGHT_LABELS, precision=torch.float64, seeds=range(parts)
        )
        assert not logits.requires_grad
        assert not any(loss.requires_grad for loss in losses.values())
        found.append((gradients(model, acl), logits, losses))
    (whole, logits, losses), (parts, part_logits, part_losses) = found
    assert (whole - parts).norm() < 1e-12 * whole.norm()
    assert torch.allclose(logits, part_logits, rtol=1e-12)
    assert all(torch.allclose(losses[name], part_losses[name], rtol=1e-12) for name in losses)


def test_the_mean_of_the_parts_own_losses_would_have_another_gradient():
    x = eight_clips()
    whole, pieces, acl = build_small().eval(), build_small().eval(), build_acl()
    backward(whole, acl, x, EIGHT_LABELS, precision=torch.float64, seeds=[0])
    for part, labels in zip(x.chunk(4), EIGHT_LABELS.chunk(4), strict=True):
        output = pieces(part)
        (acl(output.logits, output.embedding, labels)["loss"] / 4).backward()
    expected = gradients(whole)
    assert (expected - gradients(pieces)).norm() > 0.01 * expected.norm()


@pytest.mark.parametrize("again", [False, True])
def test_in_training_the_parts_are_those_of_one_graph_that_holds_them_all(again):
    """Dropout draws the same in both passes, and BatchNorm counts every part once."""
    x, seeds = eight_clips(), [5, 3]
    literal, model = build_small().train(), build_small().train()
    acl, ours = build_acl(), build_acl()
    outputs = []
    for part, seed in zip(x.chunk(2), seeds, strict=True):
        torch.manual_seed(seed)
        outputs.append(literal(part))
    logits, embedding = (torch.cat([getattr(o, name) for o in outputs]) for name in FIELDS)
    acl(logits, embedding, EIGHT_LABELS)["loss"].backward()
    if again:
        recompute(model)
    backward(model, ours, x, EIGHT_LABELS, precision=torch.float64, seeds=seeds)
    expected = gradients(literal, acl)
    assert (expected - gradients(model, ours)).norm() < 1e-12 * expected.norm()
    assert_same_state(literal, model, batches=2)


def assert_same_state(first: nn.Module, second: nn.Module, *, batches: int) -> None:
    """Compare every buffer under its name; BatchNorm has seen as many batches as it should."""
    assert list(first.state_dict()) == list(second.state_dict())
    theirs = dict(second.named_buffers())
    for name, value in first.named_buffers():
        assert torch.allclose(value, theirs[name], rtol=1e-12), name
    counts = {value.item() for name, value in theirs.items() if name.endswith("batches_tracked")}
    assert counts == {batches}


@pytest.mark.parametrize("name", BACKBONES)
def test_recomputing_changes_neither_gradients_nor_statistics(name):
    torch.manual_seed(0)
    plain = build_backbone(name).double().train()
    thrifty = copy.deepcopy(plain)
    recompute(thrifty)
    windows = torch.randn(2, 3, 2, 16, 16, dtype=torch.float64)
    probe = torch.linspace(-1, 1, plain.features, dtype=torch.float64)
    for backbone in (plain, thrifty):
        (backbone(windows) * probe).sum().backward()
    expected = gradients(plain)
    assert expected.any()
    assert (expected - gradients(thrifty)).norm() < 1e-6 * expected.norm()
    assert_same_state(plain, thrifty, batches=1)


class Memory(TorchDispatchMode):
    """Most bytes of tensors alive at once, of those made within; views of `model`'s are not."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.own = {parameter.data_ptr() for parameter in model.parameters()}
        self.now = self.peak = 0
        self.known: dict[int, weakref.finalize] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                known = self.known.get(id(storage))
                if storage.data_ptr() in self.own:
                    continue
                if known is None or not known.alive:
                    self.now += storage.nbytes()
                    gone = weakref.finalize(storage, self._free, storage.nbytes())
                    self.known[id(storage)] = gone
        self.peak = max(self.peak, self.now)
        return out

    def _free(self, size: int) -> None:
        self.now -= size


def test_recomputing_needs_less_memory():
    x, peaks = torch.randn(2, 3, 4, 64, 64, requires_grad=True), []
    for again in (False, True):
        # Without gradients of the weights, which would outweigh them too.
        backbone = build_backbone("r3d_18").train().requires_grad_(False)
        if again:
            recompute(backbone)
        with Memory(backbone) as memory:
            backbone(x).sum().backward()
        peaks.append(memory.peak)
    assert peaks[1] < 0.65 * peaks[0]  # measured: 0.61


def test_buffers_stay_unchanged_and_the_outputs_are_the_same():
    norm = nn.BatchNorm3d(3).train()
    x = 5 + torch.randn(4, 3, 2, 2, 2)
    before = copy.deepcopy(norm)
    with unchanged_buffers(norm):
        inside = norm(x)
    assert all(torch.equal(value, before.state_dict()[n]) for n, value in norm.state_dict().items())
    assert torch.equal(norm(x), inside)
    assert norm.num_batches_tracked == 1


def test_a_model_without_blocks_cannot_recompute():
    with pytest.raises(ConfigError, match="recompute = true: Linear has no blocks"):
        recompute(nn.Linear(2, 2))
