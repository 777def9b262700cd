"""SAFE on a GPU: right gradients, the rate of training and inference, training from shards.

    python -m tools.benchmarks.gpu --out FILE.json [--minutes 8] [--device cuda] [--quick]

For a bare machine: Python with torch, torchvision and numpy; `shards` alone needs more. The most
important part is first: one whose packages are missing, or that raises, costs the others nothing,
and the file is written again after every part. Nothing about the card's settings is changed. Ends
with 1 if a part raised.
"""

import argparse
import gc
import math
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import cycle, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.video import r3d_18

from safe.models.backbones import BACKBONES, fold_norms
from safe.models.safe import SAFE
from safe.taxonomy import BASIC
from safe.training.device import build_optimizer
from safe.training.losses import ACL
from safe.training.passes import Forward, recompute
from safe.training.tam import TAM
from safe.training.transforms import CropFlip, Transforms, center_crop, normalize
from tools.harness import (
    ROOT,
    Measured,
    interleaved,
    machine,
    measured_table,
    ratio,
    spread,
    write_json,
)

K: Final = len(BASIC)
WARM: Final = 2
"""Rounds that are not timed: loading of kernels, choice of algorithms, growth of memory."""
MIXING: Final = {"strategy": "tam", "ratio": 0.5, "mask_ratio": 0.5, "block": 16, "bank": 4}
OPTIMIZER: Final = SimpleNamespace(lr=5e-4, weight_decay=0.05)
CLIP_GRAD: Final = 5.0

Found = Iterator[Measured | str]
"""What a part gives: numbers and notes."""
Seconds = dict[str, list[float]]
Runs = dict[str, Callable[[], object]]


# The paper's model: r3d_18, 7 windows of 4 frames at 112 x 112, 512 units a direction. Tiny ones
# where a run is only tried out.


@dataclass(frozen=True)
class Setup:
    """Where a part runs, and whether it is only tried out."""

    device: torch.device
    quick: bool

    def pick(self, full: Any, quick: Any) -> Any:
        """Return the value for a real run, or the one for a trial."""
        return quick if self.quick else full

    @property
    def on_gpu(self) -> bool:
        """Whether the device is one."""
        return self.device.type == "cuda"

    @property
    def precision(self) -> torch.dtype:
        """What train.precision = auto means: bf16 on a GPU, float32 on a CPU."""
        return torch.bfloat16 if self.on_gpu else torch.float32

    @property
    def crop(self) -> int:
        """Side of the clips that the model sees, pixels."""
        return self.pick(112, 16)

    def autocast(self, precision: torch.dtype | None = None) -> Any:
        """Return the context in which a network runs in `precision`."""
        low = (precision or self.precision) == torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=low)

    def finish(self) -> None:
        """Wait for all that was asked of the device."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def model(self, *, backbone: str = "") -> SAFE:
        """Make SAFE on the device."""
        sizes = {"window": 4, "stride": 2, "hidden": self.pick(512, 8), "dropout": 0.2}
        backbone = backbone or self.pick("r3d_18", "small")
        model = SAFE(classes=K, temporal="s2am2", backbone=backbone, weights=None, **sizes)
        return model.to(self.device)

    def loss(self) -> ACL:
        """Make the loss on the device, with the weights of params.yaml."""
        weights = {"top_k": 1, "tau": 0.1, "lambda_1": 0.05, "lambda_2": 0.001}
        return ACL(torch.ones(K), cal=True, fcl=True, **weights).to(self.device)

    def faces(self, batch: int) -> tuple[Tensor, Tensor]:
        """Draw faces, uint8 [B, 16, 128, 128, 3], on the device; labels, int64 [B], on the CPU."""
        side = self.pick(128, 32)
        generator = torch.Generator().manual_seed(batch)
        shape = (batch, 16, side, side, 3)
        faces = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        return faces.to(self.device), torch.arange(batch) % K


# Time on a GPU, which the host only asks for, and does not wait for


def wall(setup: Setup, runs: Runs, *, rounds: int, inner: int = 1) -> Seconds:
    """Return the seconds of one run as a user waits for them; `inner` runs are one timing."""

    def several(one: Callable[[], object]) -> None:
        for _ in range(inner):
            one()
        setup.finish()

    setup.finish()
    timed = {name: partial(several, one) for name, one in runs.items()}
    found = interleaved(timed, rounds=rounds, warm=WARM)
    return {name: [value / inner for value in values] for name, values in found.items()}


def rate(what: str, count: int, seconds: list[float]) -> Measured:
    """Return clips a second."""
    return spread(what, [count / value for value in seconds], unit="clips/s")


# Gradients, against float64's as ||g - g64|| / ||g64||. Each convolution gets the input and the
# output's gradient of a float64 pass: rounding leaves a few thousandths there, a wrong kernel 1 or
# more. (The gradient as a whole says less: ReLU and normalisation magnify rounding on its way.)


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


def gradients(setup: Setup) -> Found:
    """Compare the gradients of all convolutions with float64's, from three random starts."""
    yield "three random starts each; tf32: in convolutions"
    names = setup.pick(tuple(BACKBONES), ("small",))
    for what, mode in product(names, MODES):
        precision, tf32, most = MODES[mode]
        if tf32 and not setup.on_gpu:
            continue
        before = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = tf32
        values = []
        for seed in range(setup.pick(3, 1)):
            convs = _recorded(setup, what, seed)
            values.append(max(_conv_error(*conv, precision) for conv in convs))
        torch.backends.cudnn.allow_tf32 = before
        title = f"{what}, {mode}: error of the gradient of the worst convolution"
        yield spread(title, values, most=most)


def _recorded(setup: Setup, name: str, seed: int) -> list[tuple[nn.Conv3d, Tensor, Tensor]]:
    """Return each convolution of SAFE's float64 pass, its input, the gradient of its output."""
    torch.manual_seed(seed)
    model = setup.model(backbone=name).double().train()
    clips = torch.randn(4, 3, 16, setup.crop, setup.crop, device=setup.device).double()
    labels = torch.tensor([0, 1, 1, 0], device=setup.device)
    seen: list[tuple[nn.Conv3d, Tensor, Tensor]] = []

    def note(module: nn.Conv3d, args: tuple[Tensor, ...], out: Tensor) -> None:
        x = args[0].detach()
        out.register_hook(lambda grad_output: seen.append((module, x, grad_output.detach())))

    convs = [module for module in model.modules() if isinstance(module, nn.Conv3d)]
    hooks = [conv.register_forward_hook(note) for conv in convs]
    outputs = Forward(model, clips, precision=torch.float64, seeds=[0])
    outputs.backward(setup.loss()(outputs.logits, outputs.embedding, labels)["loss"])
    for hook in hooks:
        hook.remove()
    return seen


def _conv_error(conv: nn.Conv3d, x: Tensor, grad_output: Tensor, precision: torch.dtype) -> float:
    """Return the larger error of a convolution's two gradients, of its weight and of its input."""

    def plain(x: Tensor, weight: Tensor) -> Tensor:
        settings = conv.stride, conv.padding, conv.dilation, conv.groups
        return nn.functional.conv3d(x, weight, None, *settings)

    def module(x: Tensor, weight: Tensor) -> Tensor:  # may compute it in another form
        return torch.func.functional_call(conv, {"weight": weight}, (x,))

    def both(one: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
        given = [t.to(dtype, copy=True).requires_grad_() for t in (x, weight)]
        return torch.autograd.grad(one(*given), given, grad_output.to(dtype))

    # As if the rounded operands were the exact ones: what is left is the kernel's own.
    rounded = (t.detach().to(precision).double() for t in (x, conv.weight, grad_output))
    x, weight, grad_output = rounded
    pairs = zip(both(module, precision), both(plain, torch.float64), strict=True)
    return max(_distance(got, right) for got, right in pairs)


def _distance(got: Tensor, right: Tensor) -> float:
    """Return ||got - right|| / ||right||; 1e9 where it is not finite."""
    value = float((got.double() - right).norm() / right.norm())
    return value if math.isfinite(value) else 1e9


# Training, from clips that are on the device already


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
    ) -> None:
        self.precision, self.crop = setup.precision, setup.crop
        self.seeds = range(accumulate)
        self.generator = torch.Generator().manual_seed(0)
        self.model = setup.model().train()
        if again:
            recompute(self.model)
        self.network: Callable = self.model
        if compiled:  # on a CPU only traced: a real backend is slow to start
            backend = "inductor" if setup.on_gpu else "eager"
            self.network = torch.compile(self.model, backend=backend)
        self.acl = setup.loss()
        self.prepare = Transforms([CropFlip(self.crop, 0.5), TAM(**MIXING, classes=K)])
        self.optimizer = build_optimizer(OPTIMIZER, self.model, self.acl)
        self.faces, self.labels = setup.faces(batch)

    def __call__(self) -> None:
        """Crop, mix, normalise, forward, backward, clip, update."""
        clips = self.prepare(self.faces, self.labels, self.generator)
        self.optimizer.zero_grad(set_to_none=True)
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
    model, acl = setup.model(), setup.loss()
    if not setup.quick:  # torchvision's own, which has the sums over padding
        net = r3d_18(weights=None)
        net.fc = torch.nn.Identity()
        model.backbone.net = net.to(setup.device)
    model = model.train().to(memory_format=torch.contiguous_format)
    # SAFE makes its windows channels_last_3d: undone here, or the convolutions would follow them.
    model.backbone.register_forward_pre_hook(lambda _, args: (args[0].contiguous(),))
    parameters = [*model.parameters(), *acl.parameters()]
    optimizer = torch.optim.AdamW(parameters, **vars(OPTIMIZER))
    faces, labels = setup.faces(batch)
    labels = labels.to(setup.device)
    clips = normalize(center_crop(faces, setup.crop)).contiguous()

    def step() -> float:
        optimizer.zero_grad()
        output = model(clips)
        loss = acl(output.logits, output.embedding, labels)["loss"]
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def training(setup: Setup) -> Found:
    """Time a step against the usual loop; with less memory; and see that it waits for nothing."""
    yield "The usual loop: float32 eager, default memory format, plain AdamW, loss.item() each step"
    rounds, inner = setup.pick((7, 3), (1, 1))
    batches = setup.pick((32, 16, 64), (4,))  # what counts most first
    low = str(setup.precision).removeprefix("torch.")
    for batch in batches:
        runs = {"ours": Step(setup, batch), "usual": usual_loop(setup, batch)}
        found = wall(setup, runs, rounds=rounds, inner=inner)
        yield rate(f"training step, {low} channels_last_3d, batch {batch}", batch, found["ours"])
        yield rate(f"usual loop, float32, batch {batch}", batch, found["usual"])
        what = f"training step against the usual loop, batch {batch}"
        yield ratio(what, found["usual"], found["ours"], least=3)
        del runs  # and their memory
    batch = batches[0]
    steps = {
        "one pass": Step(setup, batch),
        "recompute": Step(setup, batch, again=True),
        "accumulate 2": Step(setup, batch, accumulate=2),
        "accumulate 2, recompute": Step(setup, batch, accumulate=2, again=True),
    }
    found = wall(setup, steps, rounds=rounds)
    for name, step in steps.items():
        yield rate(f"{name}, batch {batch}", batch, found[name])
        if setup.on_gpu:
            yield _peak(setup, f"{name}, batch {batch}: memory beyond weights and moments", step)
        yield from count_waits(setup, name, step)


def compiled(setup: Setup) -> Found:
    """Time torch.compile in a training step, and its start."""
    batch, rounds, inner = setup.pick((32, 7, 3), (4, 1, 1))
    steps = {"eager": Step(setup, batch), "compiled": Step(setup, batch, compiled=True)}
    began = time.perf_counter()
    steps["compiled"]()
    setup.finish()
    yield spread("first compiled step", [time.perf_counter() - began], unit="s")
    found = wall(setup, steps, rounds=rounds, inner=inner)
    yield rate(f"compiled training step, batch {batch}", batch, found["compiled"])
    yield ratio(f"compiled against eager, batch {batch}", found["eager"], found["compiled"])


def _peak(setup: Setup, what: str, step: Step) -> Measured:
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


def count_waits(setup: Setup, name: str, step: Callable[[], object]) -> Found:
    """Take a first step, which makes the bank and the moments, and three that may not wait."""
    step()
    setup.finish()
    if not setup.on_gpu:
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


# Training from shards. Their clips are smooth random pictures, whose JPEGs have the size of those
# of faces (66 kB a clip at 128 pixels), so that decoding takes what it takes on faces.


def shards(setup: Setup) -> Found:
    """Time the trainer's loop from shards, against clips on the device, and the loader alone."""
    from safe.params import load_config, parse_config
    from safe.shards.folder import open_shards
    from safe.shards.loader import Batch, load_batches
    from safe.training.loop import Trainer
    from tools.benchmarks.memory import write

    clips, batch, workers = setup.pick((2000, 32, 8), (40, 4, 2))
    values = load_config(ROOT / "params.yaml").model_dump()
    values["augment"] |= {"crop": setup.crop}
    values["model"] |= setup.pick(
        {"backbone": "r3d_18", "hidden": 512}, {"backbone": "small", "hidden": 8}
    )
    values["train"] |= {"batch": batch, "epochs": 100_000, "lr": 5e-4, "select": "last"}
    values["runtime"] |= {"device": str(setup.device), "workers": workers}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "shards"
        write(folder, [clips // 10] * 10, side=setup.pick(128, 32), grain=4)
        made = open_shards(folder)
        yield f"{clips} clips of {made.face_size} pixels, {made.size.mean() / 1000:.1f} kB each"
        trainer = Trainer(parse_config(values), made, 1)
        loaded = load_batches(made, trainer.plan(0), workers=workers, device=trainer.device)
        shape = (batch, 16, made.face_size, made.face_size, 3)
        labels = torch.arange(batch) % K
        kept = [torch.randint(256, shape, dtype=torch.uint8).to(trainer.device) for _ in range(4)]
        resident = cycle([Batch(faces=faces, label=labels, row=labels) for faces in kept])

        def take(batches: Iterator[Batch], work: Callable[[Batch], object], count: int) -> float:
            # First as many as may lie ready, which say nothing about the loader's rate.
            for number in range(2 * workers + 2 + count):
                if number == 2 * workers + 2:
                    setup.finish()
                    began = time.perf_counter()
                work(next(batches))
            setup.finish()
            return count * batch / (time.perf_counter() - began)

        count = setup.pick(100, 4)
        rates = [take(loaded, lambda _: None, count) for _ in range(setup.pick(5, 2))]
        yield spread("loader alone, to the device", rates, unit="clips/s")
        found: dict[str, list[float]] = {"shards": [], "resident": []}
        for number in range(-1, setup.pick(4, 1)):
            for name in list(found)[:: 1 if number % 2 else -1]:
                batches = loaded if name == "shards" else resident
                one = take(batches, trainer.train_step, setup.pick(40, 2))
                found[name] += [one] if number >= 0 else []
        loaded.close()
        for name, rates in found.items():
            yield spread(f"training, {name}, batch {batch}", rates, unit="clips/s")
        what = "training from shards against clips on the device"
        yield ratio(what, found["shards"], found["resident"], least=0.95)
        name = "safe.training.loop.Trainer"
        yield from count_waits(setup, name, lambda: trainer.train_step(next(resident)))


def inference(setup: Setup) -> Found:
    """Time inference, clips a second and one clip."""
    yield "from uint8 faces on the device to logits; tf32 as torch sets it"
    model = fold_norms(setup.model())

    @torch.inference_mode()
    def infer(faces: Tensor, precision: torch.dtype) -> None:
        clips = normalize(center_crop(faces, setup.crop))
        with setup.autocast(precision):
            model(clips)

    rounds, inner = setup.pick((15, 5), (1, 1))
    precisions = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    for batch in (setup.pick(32, 4), 1):
        faces, _ = setup.faces(batch)
        runs = {name: partial(infer, faces, one) for name, one in precisions.items()}
        found = wall(setup, runs, rounds=rounds, inner=inner)
        for name, seconds in found.items():
            if batch == 1:
                yield spread(f"inference, {name}, one clip", [1e3 * s for s in seconds], unit="ms")
            else:
                yield rate(f"inference, {name}, batch {batch}", batch, seconds)
        if batch > 1:
            yield ratio(f"inference, bf16 against float32, batch {batch}", *found.values())


# All of it in one call

Part = Callable[[Setup], Iterator[Measured | str]]
PARTS: dict[str, Part] = {
    part.__name__: part for part in (gradients, training, compiled, shards, inference)
}
"""In the order in which they run; together they may be more than the time there is."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the parts, write the file, print tables, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--minutes", type=float, default=8, help="after which no part is begun")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script out")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART")
    args = parser.parse_args(words)
    setup = Setup(torch.device(args.device), args.quick)
    if setup.device.index is not None:
        torch.cuda.set_device(setup.device)
    chosen = {name: part for name, part in PARTS.items() if not args.only or name in args.only}
    found = run_parts(chosen, setup, until=time.monotonic() + 60 * args.minutes, out=args.out)
    for part in found["parts"]:
        print(f"\n{part['name']}: {part['state']} in {part['seconds']:.0f} s {part['reason']}")
        print(*part["notes"], measured_table(part["metrics"]), sep="\n")
    return int(any(part["state"] == "failed" for part in found["parts"]))


def run_parts(parts: dict[str, Part], setup: Setup, *, until: float, out: Path) -> dict[str, Any]:
    """Run parts until a time (time.monotonic()); return what is written to `out` after each.

    Of every part: name, state (done, missing, failed or skipped), reason, seconds, notes, metrics.
    """
    card = torch.cuda.get_device_properties(setup.device).name if setup.on_gpu else "no GPU"
    found: dict[str, Any] = {
        "title": "SAFE on a GPU",
        "note": "SAFE with r3d_18, 7 windows of 4 frames at 112 x 112, hidden 512.",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "gpu": card,
        "versions": {
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        },
        "parts": [],
    }
    for name, part in parts.items():
        entry: dict[str, Any] = {"name": name, "state": "done", "reason": ""}
        entry |= {"seconds": 0.0, "notes": [], "metrics": []}
        began = time.monotonic()
        if began > until:
            entry |= {"state": "skipped", "reason": "no time was left"}
        else:
            _run(part, setup, entry)
            entry["seconds"] = time.monotonic() - began
        found["parts"].append(entry)
        write_json(out, found)
    return found


def _run(part: Part, setup: Setup, entry: dict[str, Any]) -> None:
    """Put what a part gives into its entry, and what ended it."""
    try:
        for item in part(setup):
            if isinstance(item, str):
                entry["notes"].append(item)
            else:
                entry["metrics"].append(item.row())
    except ModuleNotFoundError as error:
        ours = (error.name or "").split(".")[0] in ("safe", "pipeline", "tools")
        entry |= {"state": "failed" if ours else "missing", "reason": str(error)}
    except Exception as error:  # noqa: BLE001  whatever it is, the other parts go on
        entry |= {"state": "failed", "reason": f"{type(error).__name__}: {error}"}
        entry["notes"].append(traceback.format_exc())
    finally:
        gc.collect()  # and so the memory of the card
        if setup.on_gpu:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
