"""How fast, and with how much memory, does SAFE train on a GPU, from clips that are on it already?

shards.py has the training from shards. This one needs the modules that a step runs, and no more:
neither parameters nor clips are read from a file.
"""

import time
import traceback
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Final

import torch
from torchvision.models.video import r3d_18

from benchmarks.gpu_parts.model import MIXING, build_loss, build_safe, crop_size, draw_faces
from benchmarks.gpu_parts.timing import Setup, rate, wall
from benchmarks.report import Figure, ratio, spread
from safe.augment import center_crop, normalize, random_crop_flip
from safe.recipe import build_optimizer
from safe.training.gradients import backward, recompute
from safe.training.tam import TAM

RECIPE: Final = SimpleNamespace(lr=5e-4, weight_decay=0.05)
CLIP_GRAD: Final = 5.0


class Step:
    """One training step as safe.training.trainer.Trainer takes it, from faces on the device."""

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
        self.tam = TAM(**MIXING)
        self.optimizer = build_optimizer(RECIPE, self.model, self.acl)
        self.faces, self.labels = draw_faces(setup, batch)
        if graphed:
            sample = normalize(center_crop(self.faces, self.crop).contiguous())
            with setup.autocast(cache=False):  # as make_graphed_callables asks for
                self.network = torch.cuda.make_graphed_callables(self.model, (sample,))

    def __call__(self) -> None:
        """Crop, mix, normalise, forward, backward, clip, update."""
        clips = random_crop_flip(self.faces, self.crop, 0.5, self.generator)
        clips, _ = self.tam(clips, self.labels, self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        backward(
            self.network,
            self.acl,
            normalize(clips),
            self.labels.to(clips.device, non_blocking=True),
            precision=self.precision,
            seeds=self.seeds,
        )
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
