"""How fast are the method's own parts on a CPU: TAM, S2AM2, and SAFE with r3d_18 as a whole?

TAM against Algorithm 1 written as loops over patches and frames, S2AM2 against torch.nn.LSTM, and
the model against itself in torch's default memory format and float32. All on drawn numbers: no time
here depends on what the clips show.

    python -m tools.benchmarks.method            # all, published
    python -m tools.benchmarks.method --quick    # tiny, one round, only printed
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.video import r3d_18

from safe.evaluation.cost import count
from safe.models.backbones import fold_norms
from safe.models.safe import S2AM2, SAFE
from safe.taxonomy import BASIC
from safe.training.device import cpu_has_bf16
from safe.training.tam import TAM
from tools.benchmarks.report import Figure, interleaved, publish, ratio, spread

# What does Algorithm 1 look like as one writes it from the paper, and what does it cost so?
#
# The rival of safe/training/tam.py: the same mixing with the same kind of class bank, loop by loop.

RATIO, MASK_RATIO, BLOCK, BANK = 0.5, 0.5, 16, 4


class LiteralTAM:
    """Algorithm 1 line by line: clip, partner, mask, frame, patch; a list of clips a class."""

    def __init__(self, generator: torch.Generator, *, classes: int, arrays: bool) -> None:
        """Copy patches as numpy arrays, or as tensors."""
        self.generator, self.arrays = generator, arrays
        self.bank: list[list[Tensor]] = [[] for _ in range(classes)]

    def __call__(self, clips: Tensor, labels: list[int]) -> Tensor:
        """Return clips uint8 [B, T, H, W, C] mixed."""
        mixed = clips.clone()
        batch, frames, height, width, _ = clips.shape
        columns = width // BLOCK
        patches = (height // BLOCK) * columns
        for row in torch.randperm(batch, generator=self.generator)[: int(RATIO * batch)].tolist():
            label = labels[row]
            partners = [clips[i] for i in range(batch) if labels[i] == label and i != row]
            partners = partners or self.bank[label]
            if not partners:
                continue
            drawn = torch.randint(len(partners), (1,), generator=self.generator)
            source, target = partners[int(drawn)], mixed[row]
            if self.arrays:
                source, target = source.numpy(), target.numpy()
            shuffled = torch.randperm(patches, generator=self.generator)
            masked = shuffled[: int(MASK_RATIO * patches)].tolist()
            for frame in range(frames):
                for patch in masked:
                    y, x = BLOCK * (patch // columns), BLOCK * (patch % columns)
                    target[frame, y : y + BLOCK, x : x + BLOCK] = source[
                        frame, y : y + BLOCK, x : x + BLOCK
                    ]
        for clip, label in zip(clips, labels, strict=True):
            self.bank[label] = [*self.bank[label], clip][-BANK:]
        return mixed


K: Final = len(BASIC)


@dataclass(frozen=True)
class Sizes:
    """How much is run; the paper's shapes unless --quick."""

    batch: int = 32  # clips, of TAM and S2AM2
    side: int = 112  # pixels
    hidden: int = 512
    training: int = 2  # clips in a step of the whole model, which takes 2 s a clip
    inference: int = 8  # clips in a pass of the whole model
    rounds: int = 15  # of TAM and S2AM2
    passes: int = 5  # rounds of the whole model


QUICK = Sizes(batch=8, side=32, hidden=64, training=1, inference=1, rounds=2, passes=1)


def tam(sizes: Sizes) -> list[Figure]:
    """Time TAM and the literal loop on the same batch."""
    generator = torch.Generator().manual_seed(0)
    shape = (sizes.batch, 16, sizes.side, sizes.side, 3)
    clips = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(K, (sizes.batch,), generator=generator)
    ours = TAM(
        strategy="tam", ratio=RATIO, mask_ratio=MASK_RATIO, block=BLOCK, bank=BANK, classes=K
    )
    tensors = LiteralTAM(generator, classes=K, arrays=False)
    arrays = LiteralTAM(generator, classes=K, arrays=True)
    batches = cycle([clips.clone(), clips.clone()])  # ours writes into its batch
    seconds = interleaved(
        {
            "ours": lambda: ours(next(batches), labels, generator),
            "tensors": lambda: tensors(clips, labels.tolist()),
            "arrays": lambda: arrays(clips, labels.tolist()),
        },
        rounds=sizes.rounds,
    )
    return [
        ratio("TAM: Algorithm 1 as loops / ours", seconds["tensors"], seconds["ours"], least=20),
        ratio("TAM: the same loops on numpy views / ours", seconds["arrays"], seconds["ours"]),
        _milliseconds("TAM: ours, a batch", seconds["ours"]),
    ]


def s2am2(sizes: Sizes) -> list[Figure]:
    """Time S2AM2 and torch.nn.LSTM, bidirectional, on the same sequences."""
    width = sizes.hidden
    x = torch.randn(sizes.batch, 7, width, requires_grad=True)
    upstream = torch.randn(sizes.batch, 7, 2 * width)
    ours = S2AM2(width, width)
    theirs = nn.LSTM(width, width, batch_first=True, bidirectional=True)

    def learn(model: nn.Module, first: Callable[[object], Tensor]) -> None:
        x.grad = None
        model.zero_grad(set_to_none=True)
        first(model(x)).backward(upstream)

    with_gradients = interleaved(
        {
            "ours": lambda: learn(ours, lambda states: states),
            "theirs": lambda: learn(theirs, lambda found: found[0]),
        },
        rounds=sizes.rounds,
    )
    with torch.inference_mode():
        forward = interleaved(
            {"ours": lambda: ours(x), "theirs": lambda: theirs(x)}, rounds=sizes.rounds
        )
    return [
        ratio(
            "S2AM2: ours / torch.nn.LSTM, forward and backward",
            with_gradients["ours"],
            with_gradients["theirs"],
            most=3,
        ),
        ratio("S2AM2: ours / torch.nn.LSTM, forward", forward["ours"], forward["theirs"]),
        _milliseconds("S2AM2: ours, forward and backward", with_gradients["ours"]),
    ]


def build(sizes: Sizes) -> tuple[SAFE, SAFE]:
    """Make SAFE as it is, and with torchvision's r3d_18 of the same weights in default format."""
    torch.manual_seed(0)
    ours = SAFE(
        classes=K,
        backbone="r3d_18",
        weights=None,
        temporal="s2am2",
        window=4,
        stride=2,
        hidden=sizes.hidden,
        dropout=0.2,
    )
    default = copy.deepcopy(ours)
    default.backbone.net = r3d_18(weights=None)
    default.backbone.net.fc = nn.Identity()
    default.backbone.net.load_state_dict(ours.backbone.net.state_dict())
    # One copy more than a model that cuts its windows so: 0.2 % of its time.
    default.backbone.register_forward_pre_hook(lambda _, inputs: inputs[0].contiguous())
    return ours, default


def training(sizes: Sizes) -> list[Figure]:
    """Time a step of each: forward, cross-entropy, backward, AdamW; and compare their gradients.

    They are the same sums, but torch's BatchNorm on CPUs adds up in float64 in the default format
    and in float32 in channels_last_3d; the layers above make 0.004 of that, for which the bound is.
    """
    ours, default = build(sizes)
    clips = torch.randn(sizes.training, 3, 16, sizes.side, sizes.side)
    clips = clips.contiguous(
        memory_format=torch.channels_last_3d
    )  # as safe.training.transforms gives them
    labels = torch.arange(sizes.training) % K

    def learn(model: SAFE) -> None:
        model.zero_grad(set_to_none=True)
        torch.manual_seed(0)  # of dropout
        F.cross_entropy(model.train()(clips).logits, labels).backward()

    learn(ours)
    learn(default)
    pairs = list(zip(ours.parameters(), default.parameters(), strict=True))
    apart = _norm([a.grad - b.grad for a, b in pairs]) / _norm([b.grad for _, b in pairs])

    optimizers = {id(model): torch.optim.AdamW(model.parameters()) for model in (ours, default)}

    def step(model: SAFE) -> None:
        learn(model)
        optimizers[id(model)].step()

    seconds = interleaved(
        {"ours": lambda: step(ours), "default": lambda: step(default)}, rounds=sizes.passes, warm=0
    )
    return [
        ratio(
            "SAFE with r3d_18, training step: default format / ours",
            seconds["default"],
            seconds["ours"],
            least=1.3,
        ),
        spread("training step: relative difference of gradients", [apart], unit="", most=0.01),
        spread(
            "training: ours",
            [sizes.training / each for each in seconds["ours"]],
            unit="clips/s",
        ),
    ]


def inference(sizes: Sizes) -> list[Figure]:
    """Time a pass without gradients in each format and precision, and compare the logits.

    bf16 only where the CPU has it: elsewhere a pass takes minutes.
    """
    ours, default = (model.eval() for model in build(sizes))
    folded = fold_norms(ours)
    clips = torch.randn(sizes.inference, 3, 16, sizes.side, sizes.side)
    clips = clips.contiguous(memory_format=torch.channels_last_3d)
    found: dict[str, Tensor] = {}

    def look(name: str, model: nn.Module, *, bf16: bool = False) -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found[name] = model(clips).logits.float()

    variants = {
        "default": lambda: look("default", default),
        "float32": lambda: look("float32", ours),
        "folded": lambda: look("folded", folded),
    }
    if cpu_has_bf16():
        variants["bf16"] = lambda: look("bf16", ours, bf16=True)
        variants["bf16 folded"] = lambda: look("bf16 folded", folded, bf16=True)
    seconds = interleaved(variants, rounds=sizes.passes)
    figures = [
        ratio(
            f"SAFE with r3d_18, inference: default format / {what}",
            seconds["default"],
            seconds[name],
            least=least,
        )
        for name, what, least in (
            ("float32", "ours, float32", None),
            ("folded", "ours, float32, BatchNorm folded", None),
            ("bf16", "ours, bf16", None),
            ("bf16 folded", "ours, bf16, BatchNorm folded (safe-cli eval)", 2.5),
        )
        if name in variants
    ]
    for name in list(variants)[1:]:
        apart = _norm([found[name] - found["default"]]) / _norm([found["default"]])
        figures.append(spread(f"logits: relative difference, {name}", [apart], unit=""))
    return figures


def stem(sizes: Sizes) -> list[Figure]:
    """Say how much the stem takes: all that overlapping windows could share without an error."""
    model = build(sizes)[0].eval()
    net, windows = model.backbone.net, 7 * sizes.training
    frames = torch.randn(windows, 3, 4, sizes.side, sizes.side)
    frames = frames.contiguous(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        seconds = interleaved(
            {"stem": lambda: net.stem(frames), "whole": lambda: net(frames)}, rounds=sizes.passes
        )
    one = count(net.stem, clip=(3, 4, sizes.side, sizes.side)).multiply_adds
    share = 7 * one / count(model, clip=(3, 16, sizes.side, sizes.side)).multiply_adds
    # 7 windows x 4 frames x 3 temporal taps, padding included; 16 frames x 3 taps if shared
    return [
        spread("stem: share of the multiply-adds", [share], unit=""),
        ratio("stem: share of the time, forward, float32", seconds["stem"], seconds["whole"]),
        spread("stem: multiply-adds saved if shared, of all", [share * (1 - 48 / 84)], unit=""),
    ]


def _norm(tensors: list[Tensor]) -> float:
    return sum(float(tensor.double().square().sum()) for tensor in tensors) ** 0.5


def _milliseconds(what: str, seconds: list[float]) -> Figure:
    return spread(what, [1000 * each for each in seconds], unit="ms")


def main() -> None:
    """Run all parts; publish unless --quick."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny, one round, only printed")
    quick = parser.parse_args().quick
    sizes = QUICK if quick else Sizes()
    figures = [figure for part in (tam, s2am2, training, inference, stem) for figure in part(sizes)]
    if quick:
        for figure in figures:
            print(f"{figure.what}: {figure.value:.4g} {figure.unit}")
        return
    publish(
        "method",
        "The method's own parts on a CPU",
        figures,
        note=(
            f"TAM: {sizes.batch} clips uint8 16 x {sizes.side} x {sizes.side} x 3, half of them "
            f"mixed, half of the patches of {BLOCK} pixels, uniform labels. S2AM2: {sizes.batch} "
            f"sequences of 7 steps, {sizes.hidden} wide, both directions. SAFE: 7 windows of 4 "
            f"frames, {sizes.training} clips a training step, {sizes.inference} clips a pass. "
            f"{torch.get_num_threads()} threads."
        ),
    )


if __name__ == "__main__":
    main()
