"""Are the gradients right in each precision that a GPU may train in?

Against float64, as ||g - g64|| / ||g64||, in two ways:

    each convolution    with the input and the pull that it has in the float64 pass: rounding leaves
                        a few thousandths there, a wrong kernel 1 or more
    the whole network   at its random start rounding is magnified on the way (ReLU, normalisation),
                        by how much the float64 gradient itself tells: what becomes of it when
                        weights and inputs alone are rounded
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.gpu_parts.model import build_loss, build_safe
from benchmarks.gpu_parts.timing import Setup
from benchmarks.report import Figure, spread
from safe.networks.backbones import BACKBONES, build_backbone
from safe.training.gradients import backward


class Mode(NamedTuple):
    """A way to compute, and what the gradient of a single convolution may be off by."""

    precision: torch.dtype
    tf32: bool
    most: float


MODES: Final = {
    "float32": Mode(torch.float32, False, 1e-4),
    "tf32": Mode(torch.float32, True, 5e-3),
    "bfloat16": Mode(torch.bfloat16, False, 2e-2),
}
MAGNIFIED: Final = 4.0
"""How many times the error that comes of rounding weights and inputs a bf16 gradient may have: it
rounds every layer's output as well."""
NOT_FINITE: Final = 1e9

Pass = Callable[[nn.Module, torch.dtype, bool], None]
"""(model, precision, whether inputs are rounded to bf16 first): adds gradients to the model's."""


def gradients(setup: Setup) -> Iterator[Figure | str]:
    """How far is each gradient from float64's?"""
    yield "three random starts each; tf32: in convolutions and products; bfloat16: autocast"
    modes = {name: mode for name, mode in MODES.items() if _runs_here(setup, mode)}
    cases: dict[str, Callable[[int], tuple[nn.Module, Pass]]] = {
        name: partial(_backbone, setup, name) for name in setup.pick(tuple(BACKBONES), ("small",))
    }
    for what, make in (cases | {"SAFE": partial(_whole, setup)}).items():
        draws = [_errors(setup, *make(seed), modes) for seed in range(setup.pick(3, 1))]
        for name in draws[0]:
            kind, _, mode = name.rpartition(", ")
            most = {"of the worst convolution": MODES[mode].most, "over rounding's": MAGNIFIED}
            values = [draw[name] for draw in draws]
            title = f"{what}, {mode}: error of the gradient {kind}"
            yield spread(title, values, most=most.get(kind))


def _runs_here(setup: Setup, mode: Mode) -> bool:
    return setup.device.type == "cuda" or not mode.tf32


def _backbone(setup: Setup, name: str, seed: int) -> tuple[nn.Module, Pass]:
    torch.manual_seed(seed)
    model = build_backbone(name).to(memory_format=torch.channels_last_3d).train()
    side = setup.pick(112, 16)
    windows = torch.randn(setup.pick(16, 4), 3, 4, side, side, device=setup.device)
    windows = windows.to(memory_format=torch.channels_last_3d)
    probe = torch.randn(len(windows), model.features, device=setup.device)

    def run(network: nn.Module, precision: torch.dtype, rounded: bool) -> None:
        wide = _wide(precision)
        with setup.autocast(precision):
            features = network((_round(windows) if rounded else windows).to(wide))
        (features.to(wide) * probe.to(wide)).sum().backward()

    return model.to(setup.device), run


def _whole(setup: Setup, seed: int) -> tuple[nn.Module, Pass]:
    """SAFE through safe.training.gradients; no dropout, whose draws depend on the precision."""
    torch.manual_seed(seed)
    model = build_safe(setup, dropout=0.0).train()
    side = setup.pick(112, 16)
    clips = torch.randn(4, 3, 16, side, side, device=setup.device)
    labels = torch.tensor([0, 1, 1, 0], device=setup.device)
    acl = build_loss(setup)

    def run(network: nn.Module, precision: torch.dtype, rounded: bool) -> None:
        given = (_round(clips) if rounded else clips).to(_wide(precision))
        backward(network, acl, given, labels, precision=precision, seeds=[0])

    return model, run


def _errors(setup: Setup, model: nn.Module, run: Pass, modes: dict[str, Mode]) -> dict[str, float]:
    """Return the errors by kind and mode, as "kind, mode"."""
    exact = copy.deepcopy(model).double()
    with tf32(on=False):
        with _recorded(exact) as convs:
            right = _gradient(exact, run, torch.float64)
        near = copy.deepcopy(model)
        with torch.no_grad():
            for p in near.parameters():
                p.copy_(_round(p))
        rounding = _distance(_gradient(near.double(), run, torch.float64, rounded=True), right)
    found = {}
    for name, mode in modes.items():
        with tf32(on=mode.tf32):
            whole = _distance(_gradient(copy.deepcopy(model), run, mode.precision), right)
            found[f"of the worst convolution, {name}"] = max(
                _conv_error(conv, x, pull, mode.precision) for conv, x, pull in convs
            )
        found[f"as a whole, {name}"] = whole
        if mode.precision == torch.bfloat16:
            found[f"that rounding makes in float64, {name}"] = rounding
            found[f"over rounding's, {name}"] = whole / rounding
    return found


@contextmanager
def _recorded(model: nn.Module) -> Iterator[list[tuple[nn.Conv3d, Tensor, Tensor]]]:
    """Give a list that a pass fills: each convolution, its input, and the pull at its output."""
    seen: list[tuple[nn.Conv3d, Tensor, Tensor]] = []

    def note(module: nn.Conv3d, args: tuple[Tensor, ...], out: Tensor) -> None:
        x = args[0].detach()
        out.register_hook(lambda pull: seen.append((module, x, pull.detach())))

    convs = [module for module in model.modules() if isinstance(module, nn.Conv3d)]
    hooks = [conv.register_forward_hook(note) for conv in convs]
    yield seen
    for hook in hooks:
        hook.remove()


def _conv_error(conv: nn.Conv3d, x: Tensor, pull: Tensor, precision: torch.dtype) -> float:
    """Return the larger error of a convolution's two gradients, of its weight and of its input."""

    def plain(x: Tensor, weight: Tensor) -> Tensor:
        settings = conv.stride, conv.padding, conv.dilation, conv.groups
        return nn.functional.conv3d(x, weight, None, *settings)

    def module(x: Tensor, weight: Tensor) -> Tensor:  # may compute it in another form
        return torch.func.functional_call(conv, {"weight": weight}, (x,))

    def both(run: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
        given = [t.to(dtype, copy=True).requires_grad_() for t in (x, weight)]
        return torch.autograd.grad(run(*given), given, pull.to(dtype))

    # As if the rounded operands were the exact ones: what is left is the kernel's own.
    x, weight, pull = (t.detach().to(precision).double() for t in (x, conv.weight, pull))
    pairs = zip(both(module, precision), both(plain, torch.float64), strict=True)
    return max(_distance([got], [right]) for got, right in pairs)


def _gradient(
    model: nn.Module, run: Pass, precision: torch.dtype, *, rounded: bool = False
) -> list[Tensor]:
    run(model, precision, rounded)
    return [p.grad for p in model.parameters() if p.grad is not None]


def _distance(got: list[Tensor], right: list[Tensor]) -> float:
    """Return ||got - right|| / ||right|| over all tensors; NOT_FINITE where it is not finite."""
    pairs = [(g.double(), r.double()) for g, r in zip(got, right, strict=True)]
    off = math.fsum((g - r).square().sum().item() for g, r in pairs)
    value = math.sqrt(off / math.fsum(r.square().sum().item() for _, r in pairs))
    return value if math.isfinite(value) else NOT_FINITE


def _wide(precision: torch.dtype) -> torch.dtype:
    """Return the type of inputs and weights; autocast does the rest."""
    return torch.float64 if precision == torch.float64 else torch.float32


def _round(values: Tensor) -> Tensor:
    return values.bfloat16().to(values.dtype)


@contextmanager
def tf32(*, on: bool) -> Iterator[None]:
    """Switch tf32 on or off for convolutions and products of matrices; then as it was."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
