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
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.video import r3d_18

from safe.models.backbones import BACKBONES, build_backbone
from safe.models.r3d import R3D18, StemConv
from safe.training.device import build_optimizer
from safe.training.passes import Forward, recompute
from safe.training.tam import TAM
from safe.training.transforms import CropFlip, Transforms, center_crop, normalize
from tools.benchmarks.gpu import (
    MIXING,
    WINDOWS,
    Setup,
    build_loss,
    build_safe,
    crop_size,
    draw_faces,
    queued,
    rate,
    step_seconds,
    wall,
)
from tools.benchmarks.report import Figure, ratio, spread


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
    """SAFE through safe.training.loop; no dropout, whose draws depend on the precision."""
    torch.manual_seed(seed)
    model = build_safe(setup, dropout=0.0).train()
    side = setup.pick(112, 16)
    clips = torch.randn(4, 3, 16, side, side, device=setup.device)
    labels = torch.tensor([0, 1, 1, 0], device=setup.device)
    acl = build_loss(setup)

    def run(network: nn.Module, precision: torch.dtype, rounded: bool) -> None:
        given = (_round(clips) if rounded else clips).to(_wide(precision))
        outputs = Forward(network, given, precision=precision, seeds=[0])
        outputs.backward(acl(outputs.logits, outputs.embedding, labels)["loss"])

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


# How fast, and with how much memory, does SAFE train on a GPU, from clips that are on it already?
#
# shards.py has the training from shards. This one needs the modules that a step runs, and no more:
# neither parameters nor clips are read from a file.

RECIPE: Final = SimpleNamespace(lr=5e-4, weight_decay=0.05)
CLIP_GRAD: Final = 5.0


class Step:
    """One training step as safe.training.loop.Trainer takes it, from faces on the device."""

    def __init__(
        self,
        setup: Setup,
        batch: int,
        *,
        accumulate: int = 1,
        again: bool = False,
        compiled: bool = False,
        graphed: bool = False,
    ) -> None:
        self.precision, self.crop = setup.precision, crop_size(setup)
        self.seeds = range(accumulate)
        self.generator = torch.Generator().manual_seed(0)
        self.model = build_safe(setup).train()
        if again:
            recompute(self.model)
        self.network: Callable = self.model
        if compiled:  # on a CPU only traced: a real backend is slow to start
            backend = "inductor" if setup.device.type == "cuda" else "eager"
            self.network = torch.compile(self.model, backend=backend)
        self.acl = build_loss(setup)
        self.prepare = Transforms([CropFlip(self.crop, 0.5), TAM(**MIXING)])
        self.optimizer = build_optimizer(RECIPE, self.model, self.acl)
        self.faces, self.labels = draw_faces(setup, batch)
        if graphed:
            sample = normalize(center_crop(self.faces, self.crop).contiguous())
            with setup.autocast(cache=False):  # as make_graphed_callables asks for
                self.network = torch.cuda.make_graphed_callables(self.model, (sample,))

    def __call__(self) -> None:
        """Crop, mix, normalise, forward, backward, clip, update."""
        self.optimizer.zero_grad(set_to_none=True)
        clips = self.prepare(self.faces, self.labels, self.generator)
        labels = self.labels.to(clips.device, non_blocking=True)
        outputs = Forward(self.network, clips, precision=self.precision, seeds=self.seeds)
        losses = self.acl(outputs.logits, outputs.embedding, labels)
        outputs.backward(losses["loss"])
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_GRAD)
        self.optimizer.step()


def usual_loop(setup: Setup, batch: int) -> Callable[[], float]:
    """Return the step of the usual loop: float32, eager, default memory format, loss.item().

    To its favour its clips are cropped, mixed and normalised beforehand, and its gradients are not
    clipped. tf32 is as torch sets it: on in convolutions, off in products of matrices.
    """
    model = build_safe(setup)
    if not setup.quick:  # torchvision's own, which has the sums over padding
        net = r3d_18(weights=None)
        net.fc = torch.nn.Identity()
        model.backbone.net = net.to(setup.device)
    model = model.train().to(memory_format=torch.contiguous_format)
    # SAFE makes its windows channels_last_3d: undone here, or the convolutions would follow them.
    model.backbone.register_forward_pre_hook(lambda _, args: (args[0].contiguous(),))
    acl = build_loss(setup)
    optimizer = torch.optim.AdamW(
        [*model.parameters(), *acl.parameters()], lr=RECIPE.lr, weight_decay=RECIPE.weight_decay
    )
    faces, labels = draw_faces(setup, batch)
    labels = labels.to(setup.device)
    clips = normalize(center_crop(faces, crop_size(setup))).contiguous()

    def step() -> float:
        optimizer.zero_grad()
        output = model(clips)
        loss = acl(output.logits, output.embedding, labels)["loss"]
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def training(setup: Setup) -> Iterator[Figure | str]:
    """How fast is a training step, against the usual loop, and with less memory?"""
    yield (
        "SAFE with r3d_18, 7 windows of 4 frames at 112 x 112, hidden 512; the usual loop: float32 "
        "eager, default memory format, plain AdamW, loss.item() every step, tf32 as torch sets it"
    )
    batches = setup.pick((32, 16, 64), (4,))  # what counts most first
    rounds, inner = setup.pick((7, 3), (1, 1))
    low = str(setup.precision).removeprefix("torch.")
    for batch in batches:
        variants = {"ours": Step(setup, batch), "usual": usual_loop(setup, batch)}
        found = wall(setup, variants, rounds=rounds, inner=inner)
        yield rate(f"training step, {low} channels_last_3d, batch {batch}", batch, found["ours"])
        yield rate(f"usual loop, float32, batch {batch}", batch, found["usual"])
        what = f"training step against the usual loop, batch {batch}"
        yield ratio(what, found["usual"], found["ours"], least=3)
        del variants  # and their memory
        if batch == batches[0]:
            yield from _thrifty(setup, batch, rounds=rounds)


def _thrifty(setup: Setup, batch: int, *, rounds: int) -> Iterator[Figure]:
    """Tell time and memory of the ways to need less memory."""
    steps = {
        "one pass": Step(setup, batch),
        "recompute": Step(setup, batch, again=True),
        "accumulate 2": Step(setup, batch, accumulate=2),
        "accumulate 2, recompute": Step(setup, batch, accumulate=2, again=True),
    }
    found = wall(setup, steps, rounds=rounds)
    for name, step in steps.items():
        yield rate(f"{name}, batch {batch}", batch, found[name])
        if setup.device.type == "cuda":
            yield _peak(setup, f"{name}, batch {batch}: memory beyond weights and moments", step)


def _peak(setup: Setup, what: str, step: Step) -> Figure:
    """Return the most memory that a step takes beyond what it leaves behind without gradients."""
    found = []
    for _ in range(3):
        step.optimizer.zero_grad(set_to_none=True)
        setup.finish()
        before = torch.cuda.memory_allocated(setup.device)
        torch.cuda.reset_peak_memory_stats(setup.device)
        step()
        setup.finish()
        found.append((torch.cuda.max_memory_allocated(setup.device) - before) / 1e9)
    return spread(what, found, unit="GB")


def benchmarked(setup: Setup) -> Iterator[Figure]:
    """What does a step gain where cuDNN tries its algorithms out (torch.backends.cudnn.benchmark)?

    A part of its own, thus a process of its own: cuDNN's choices are kept for the process.
    """
    torch.backends.cudnn.benchmark = True
    batch, rounds, inner = setup.pick((32, 7, 3), (4, 1, 1))
    step = Step(setup, batch)
    began = time.perf_counter()
    step()
    setup.finish()
    yield spread("first step with cudnn.benchmark", [time.perf_counter() - began], unit="s")
    found = wall(setup, {"ours": step}, rounds=rounds, inner=inner)
    yield rate(f"training step with cudnn.benchmark, batch {batch}", batch, found["ours"])


def compiled(setup: Setup) -> Iterator[Figure]:
    """What does torch.compile gain in a training step, and how long does it take to start?"""
    batch, rounds, inner = setup.pick((32, 7, 3), (4, 1, 1))
    steps = {"eager": Step(setup, batch), "compiled": Step(setup, batch, compiled=True)}
    began = time.perf_counter()
    steps["compiled"]()
    setup.finish()
    yield spread("first compiled step", [time.perf_counter() - began], unit="s")
    found = wall(setup, steps, rounds=rounds, inner=inner)
    yield rate(f"compiled training step, batch {batch}", batch, found["compiled"])
    yield ratio(f"compiled against eager, batch {batch}", found["eager"], found["compiled"])


def graphed(setup: Setup) -> Iterator[Figure | str]:
    """What does a step gain where the network is two CUDA graphs, one forward and one backward?

    Then the host asks for two things in place of some hundred.
    """
    if setup.device.type != "cuda":
        yield "only a GPU captures graphs"
        return
    for batch in (16, 32):
        steps = {"eager": Step(setup, batch), "graphed": Step(setup, batch, graphed=True)}
        found = wall(setup, steps, rounds=7, inner=3)
        yield rate(f"training step as CUDA graphs, batch {batch}", batch, found["graphed"])
        what = f"as CUDA graphs against without, batch {batch}"
        yield ratio(what, found["eager"], found["graphed"])
        del steps


def waits(setup: Setup) -> Iterator[Figure | str]:
    """Does the host wait for the GPU anywhere within a training step?

    As in tests/test_train.py, where torch raises an error at any wait.
    """
    ways = {"one pass": {}, "accumulate 2": {"accumulate": 2}, "recompute": {"again": True}}
    for name, settings in ways.items():
        step = Step(setup, setup.pick(16, 4), **settings)
        yield from count_waits(setup, name, step)


def count_waits(setup: Setup, name: str, step: Callable[[], object]) -> Iterator[Figure | str]:
    """Take a first step, which makes the bank and the moments, and three that may not wait."""
    step()
    setup.finish()
    if setup.device.type != "cuda":
        yield f"{name}: the step runs; whether it waits only a GPU can tell"
        return
    waited = 0
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            step()
    except RuntimeError:
        text = traceback.format_exc()
        if "synchroniz" not in text:
            raise
        waited = 1
        yield text
    finally:
        torch.cuda.set_sync_debug_mode("default")
    yield spread(f"waits for the GPU within a step, {name}", [waited], most=0)


# Which share of the card's bf16 rate do r3d_18's convolutions reach, on these very shapes?
#
# Each alone, as SAFE runs it, beside the card's own rates and the whole training step.


class Conv(NamedTuple):
    """A convolution of r3d_18, in two or three dimensions, and what it is given."""

    inner: int
    outer: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    given: tuple[int, ...]  # inputs a window, C, and T, H, W or H, W of each

    @property
    def multiply_adds(self) -> int:
        """Of one window, forward."""
        sizes = zip(self.given[2:], self.padding, self.kernel, self.stride, strict=True)
        out = [(size + 2 * pad - kernel) // stride + 1 for size, pad, kernel, stride in sizes]
        return math.prod((self.given[0], self.inner, self.outer, *self.kernel, *out))

    def __str__(self) -> str:
        kernel, given = ("x".join(map(str, sizes)) for sizes in (self.kernel, self.given[2:]))
        return f"{self.inner} to {self.outer}, {kernel} / {self.stride[-1]}, on {given}"


def convolutions(setup: Setup) -> Iterator[Figure | str]:
    """Which share of the card's bf16 rate do r3d_18's convolutions reach, and of the step?"""
    batch, rounds = setup.pick((32, 10), (1, 1))
    products, matrix = yield from _card(setup, rounds)
    yield f"each convolution alone, {batch} clips, {batch * WINDOWS} windows, channels last"
    yield "sums over padding and zeros count as work, but not in the lines of the training step"
    sums = {"forward": [0.0] * rounds, "forward and backward": [0.0] * rounds}
    work = dict.fromkeys(sums, 0.0)
    for conv, times in list_convs(crop_size(setup), setup.device).items():
        runs, flops = _runs(setup, conv, batch * WINDOWS)
        found, late = queued(setup, runs, rounds=rounds, inner=setup.pick(3, 1))
        yield from late
        for name, seconds in found.items():
            rates = [flops[name] / value / 1e12 for value in seconds]
            yield spread(f"{times} x ({conv}), {name}", rates, unit="TFLOP/s")
            work[name] += times * flops[name]
            sums[name] = [a + times * b for a, b in zip(sums[name], seconds, strict=True)]
    for name, seconds in sums.items():
        rates = [work[name] / value / 1e12 for value in seconds]
        yield spread(f"all convolutions, {name}", rates, unit="TFLOP/s")
        yield ratio(f"all convolutions, {name}: share of the matrix product's rate", rates, matrix)
    steps = step_seconds(setup, setup.pick(32, 4), rounds)
    both = sums["forward and backward"]
    yield ratio("convolutions alone, share of the training step", both, steps)
    needed = list_convs(crop_size(setup), torch.device("meta"))
    flops = sum(times * _flops(conv, batch * WINDOWS, 3) for conv, times in needed.items())
    rates = [flops / value / 1e12 for value in steps]
    yield spread("training step, its convolutions' work over its time", rates, unit="TFLOP/s")
    yield ratio("training step, share of the matrix product's rate", rates, matrix)
    yield f"the matrix product: {products}"


def _card(setup: Setup, rounds: int) -> Generator[Figure, None, tuple[str, list[float]]]:
    """Yield the rates of a large product of matrices and of a large copy; return the first."""
    size, numbers = setup.pick(8192, 64), setup.pick(2**31, 2**16)
    left, right = (torch.randn(size, size, device=setup.device) for _ in range(2))
    left, right = left.to(setup.precision), right.to(setup.precision)
    source = torch.randint(256, (numbers,), dtype=torch.uint8, device=setup.device)
    target = torch.zeros_like(source)
    runs = {"product": partial(torch.mm, left, right), "copy": partial(target.copy_, source)}
    found, _ = queued(setup, runs, rounds=rounds)
    what = f"product of matrices, {size} a side, {str(setup.precision).removeprefix('torch.')}"
    rates = [2 * size**3 / value / 1e12 for value in found["product"]]
    yield spread(what, rates, unit="TFLOP/s")
    copied = [2 * numbers / value / 1e12 for value in found["copy"]]
    yield spread("copy on the device, bytes read and written", copied, unit="TB/s")
    return what, rates


def list_convs(side: int, device: torch.device) -> Counter[Conv]:
    """Count the equal convolutions of r3d_18 on windows of 4 frames, as `device` is asked for them.

    Those of a CPU, which leave out most sums over padding, for the device meta, on shapes alone.
    """
    found: Counter[Conv] = Counter()

    class Note(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.convolution.default:
                x, weight, _, stride, padding = args[:5]
                outer, inner, *kernel = weight.shape
                sizes = map(tuple, (kernel, stride, padding, x.shape))
                found[Conv(inner, outer, *sizes)] += 1
            return func(*args, **(kwargs or {}))

    with torch.device(device), torch.no_grad(), Note():
        R3D18().eval()(torch.zeros(1, 3, 4, side, side))
    return found


def _flops(conv: Conv, windows: int, passes: int) -> float:
    """Return the operations forward (1 pass) and of the gradients (1 each) of weight and input."""
    of_clip = conv.inner in (3, StemConv.channels)  # which needs no gradient
    return 2.0 * windows * conv.multiply_adds * (passes - (of_clip and passes == 3))


def _runs(
    setup: Setup, conv: Conv, windows: int
) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
    """Return the runs of one convolution, and their floating-point operations."""
    place = {"device": setup.device, "dtype": setup.precision}
    flat = len(conv.kernel) == 2
    kind, form = (nn.Conv2d, torch.channels_last) if flat else (nn.Conv3d, torch.channels_last_3d)
    layer = kind(
        conv.inner, conv.outer, conv.kernel, conv.stride, conv.padding, bias=False, **place
    ).to(memory_format=form)
    x = torch.randn(windows * conv.given[0], *conv.given[1:], **place).to(memory_format=form)
    x.requires_grad_(conv.inner not in (3, StemConv.channels))
    with torch.no_grad():
        pull = torch.randn_like(layer(x))
    wanted = [layer.weight, *([x] if x.requires_grad else [])]

    def forward() -> None:
        with torch.no_grad():
            layer(x)

    def both() -> None:
        torch.autograd.grad(layer(x), wanted, pull)

    return (
        {"forward": forward, "forward and backward": both},
        {"forward": _flops(conv, windows, 1), "forward and backward": _flops(conv, windows, 3)},
    )
