"""Do the kernels for GPUs give what torch's own operations give, with their gradients?

Without a GPU, Triton's interpreter runs them: in a process of its own, because it is chosen before
Triton is loaded.
"""

import json
import os
import subprocess
import sys
import warnings
from functools import partial
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from safe.networks.norms import Norm, replace_norms
from safe.networks.r3d import Block, SeenTaps
from safe.networks.stm import run_steps
from safe.training.gradients import recompute

LOWS = {"float32": 1e-5} | ({"bfloat16": 0.3} if torch.cuda.is_available() else {"float16": 5e-2})
"""Most error by precision; a wrong kernel gives about 1. In a low one a ReLU's input near 0 may
fall on its other side: most draws give a hundredth of this. The interpreter gets products in
bfloat16 wrong."""

STEPS = {
    "one step": (1, 3, 8),
    "the paper's number of steps, odd sizes": (7, 5, 12),
    "several programs a side": (2, 17, 40),
    "the smallest size": (2, 1, 3),
}
"""Steps, clips, hidden units."""

NORMS = {
    "with a shortcut": ((3, 5, 2, 4, 3), True, True),
    "without": ((2, 20, 2, 9, 8), False, True),
    "more channels than a program has": ((2, 70, 1, 5, 5), True, True),
    "without a ReLU": ((5, 3, 1, 2, 2), False, False),
    "more rows than all programs have at once": ((2, 1, 1, 30, 20), False, True),
}
"""Shape of x, whether something is added, whether there is a ReLU."""

Tensors = list[torch.Tensor]


def step_arguments(steps: int, batch: int, size: int, low: torch.dtype) -> Tensors:
    squeezed = max(1, size // 4)
    return [
        torch.randn(2, steps, batch, 4 * size).to(low),
        torch.randn(2, 6 * size + squeezed, size).mT / size**0.5,
        torch.randn(2, squeezed),
        torch.randn(2, squeezed, size) / squeezed**0.5,
        torch.randn(2, size) + 2,
        torch.randn(2, size),
    ]


def norm_arguments(shape: tuple[int, ...], added: bool, low: torch.dtype) -> Tensors:
    """x, weight, bias and what is added; the mean of x is far from 0."""
    windows = [20 + 3 * torch.randn(shape), torch.randn(shape)][: 1 + added]
    laid = [each.to(low).to(memory_format=torch.channels_last_3d) for each in windows]
    return [laid[0], torch.randn(shape[1]), torch.randn(shape[1]), *laid[1:]]


def plain_norm(relu: bool, running: Tensors, x, weight, bias, added=0):
    out = F.batch_norm(x, *running, weight, bias, training=True, momentum=0.1) + added
    return out.relu() if relu else out


def fused_norm(relu: bool, running: Tensors, x, weight, bias, added=None):
    from safe.networks.norm_gpu import NormRelu

    return NormRelu.apply(x, added, weight, bias, *running, (1e-5, 0.1, relu))


def results(run, given: Tensors, pull: torch.Tensor) -> Tensors:
    """Return the values and the gradient of each argument."""
    given = [each.detach().requires_grad_() for each in given]
    out = run(*given)
    gradients = torch.autograd.grad(out, given, pull.to(out), allow_unused=True)
    pairs = zip(gradients, given, strict=True)
    return [out, *(torch.zeros_like(g) if found is None else found for found, g in pairs)]


def relative(got: Tensors, right: Tensors) -> list[float]:
    return [
        ((a.double() - b).norm() / b.norm().clamp(min=1e-30)).item()
        for a, b in zip(got, right, strict=True)
    ]


def step_errors(case: tuple[int, int, int], low: torch.dtype, device: str) -> list[float]:
    from safe.networks.stm_gpu import Steps

    torch.manual_seed(0)
    given = [each.to(device) for each in step_arguments(*case, low)]
    pull = torch.randn(2, *case, device=device).to(low)
    right = results(run_steps, [each.double() for each in given], pull)
    return relative(results(Steps.apply, given, pull), right)


def norm_errors(case: tuple, low: torch.dtype, device: str) -> list[float]:
    """Errors of the running statistics too."""
    torch.manual_seed(0)
    shape, added, relu = case
    given = [each.to(device) for each in norm_arguments(shape, added, low)]
    running = [torch.rand(2, shape[1], device=device).unbind() for _ in range(2)]
    running[1] = [each.double() for each in running[0]]
    pull = torch.randn(shape, device=device).to(low)
    exact = [each.double() for each in given]
    right = results(partial(plain_norm, relu, running[1]), exact, pull)
    got = results(partial(fused_norm, relu, running[0]), given, pull)
    assert got[0].is_contiguous(memory_format=torch.channels_last_3d)
    return relative([*got, *running[0]], [*right, *running[1]])


def looks_at_what_a_card_gives(device: str) -> list[bool]:
    """Is NormRelu used where it is right, and torch with a warning where it is not?"""
    from safe.networks import norm_gpu, norms

    right = norms.fused_norm(torch.device(device)) is norm_gpu.NormRelu
    norms.fused_norm.cache_clear()

    def wrong(x, added, weight, bias, *_):
        return (x * weight.view(-1, 1, 1, 1) + added + bias.view(-1, 1, 1, 1)).relu()

    with (
        mock.patch.object(norm_gpu.NormRelu, "apply", wrong),
        warnings.catch_warnings(record=True) as said,
    ):
        refused = norms.fused_norm(torch.device(device)) is None
    norms.fused_norm.cache_clear()
    return [right, refused, any("give other values than torch" in str(w.message) for w in said)]


class TwoBlocks(nn.Sequential):
    """Two blocks of r3d_18, few channels wide."""

    sections = (Block,)

    def __init__(self) -> None:
        shortcut = nn.Sequential(nn.Conv3d(8, 16, 1, stride=2, bias=False), Norm(16))
        super().__init__(Block(8, 8, SeenTaps), Block(8, 16, SeenTaps, 2, shortcut))
        replace_norms(self)


def network(fused: bool, again: bool, device: str) -> Tensors:
    """Return the gradients and the running statistics of a network after one step."""
    torch.manual_seed(0)
    model = TwoBlocks().to(device, memory_format=torch.channels_last_3d)
    windows = torch.randn(3, 8, 4, 4, 4, device=device)
    pull = torch.randn(3, 16, 2, 2, 2, device=device)
    if again:
        recompute(model)
    with mock.patch("safe.networks.norms.is_gpu", return_value=fused):
        model(windows.to(memory_format=torch.channels_last_3d)).backward(pull)
    return [*(p.grad for p in model.parameters()), *model.buffers()]


def network_errors(device: str) -> list[float]:
    """How far is a network with the kernels from without; with blocks computed twice from once?"""
    plain, fused, again = (
        torch.cat([each.flatten() for each in network(*ways, device)]).double()
        for ways in ((False, False), (True, False), (True, True))
    )
    pairs = ((fused, plain), (again, fused))
    return [((a - b).norm() / b.norm()).item() for a, b in pairs]


def keeps_nan(device: str) -> list[bool]:
    """Is a NaN in what goes in one in what comes out, and not cut off at zero?"""
    from safe.networks.stm_gpu import Steps

    x, weight, bias = norm_arguments((2, 3, 1, 4, 4), False, torch.float32)
    x[0, 0, 0, 0, 0] = torch.nan
    running = [torch.zeros(3, device=device), torch.ones(3, device=device)]
    y = fused_norm(True, running, *(each.to(device) for each in (x, weight, bias)))
    given = [each.to(device) for each in step_arguments(2, 3, 8, torch.float32)]
    given[1][:, :, -1] = torch.nan  # of U_r, whose product goes through a ReLU
    last = Steps.apply(*given)[:, 1]
    return [bool(each.isnan().all()) for each in (y[:, 0], running[0][0], last[..., -1])]


@pytest.fixture(scope="module")
def found() -> dict[str, list]:
    env = os.environ if torch.cuda.is_available() else os.environ | {"TRITON_INTERPRET": "1"}
    run = [sys.executable, __file__]
    done = subprocess.run(run, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("low", LOWS)
@pytest.mark.parametrize("name", [*STEPS, *NORMS])
def test_values_and_gradients_are_those_of_plain_operations(found, name, low):
    assert 0 < max(found[f"{low} {name}"]) < LOWS[low]


def test_a_network_with_them_is_the_same_network_also_where_blocks_are_computed_again(found):
    off, again = found["a network"]
    assert 0 < off < 1e-5
    assert again == 0


def test_a_run_that_diverges_is_not_hidden(found):
    assert found["nan"] == [True, True, True]


def test_a_card_on_which_the_kernels_are_wrong_is_found_out(found):
    assert found["a card"] == [True, True, True]


if __name__ == "__main__":
    from safe.networks import norm_gpu

    norm_gpu.PROGRAMS = 2
    torch.manual_seed(0)
    where = "cuda" if torch.cuda.is_available() else "cpu"
    parts = ((STEPS, step_errors), (NORMS, norm_errors))
    measured: dict[str, list] = {"a card": looks_at_what_a_card_gives(where)}
    measured["a network"] = network_errors(where)
    measured["nan"] = keeps_nan(where)
    measured |= {
        f"{low} {name}": errors(case, getattr(torch, low), where)
        for cases, errors in parts
        for name, case in cases.items()
        for low in LOWS
    }
    sys.stdout.write(json.dumps(measured))
