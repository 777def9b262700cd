"""The method's own parts on a CPU: TAM, S2AM2, and SAFE with r3d_18 as a whole.

    python -m tools.benchmarks.method [--quick]

TAM against Algorithm 1 written as loops over patches and frames, S2AM2 against torch.nn.LSTM, and
the model against itself in torch's default memory format and float32. All on drawn numbers: no time
here depends on what the clips show.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.video import r3d_18

from safe.models.backbones import fold_norms
from safe.models.safe import S2AM2, SAFE
from safe.taxonomy import BASIC
from safe.training.device import cpu_has_bf16
from safe.training.tam import TAM
from tools.harness import Measured, arguments, interleaved, publish, ratio, spread

K: Final = len(BASIC)
RATIO, MASK_RATIO, BLOCK, BANK = 0.5, 0.5, 16, 4


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


class LiteralTAM:
    """Algorithm 1 line by line: clip, partner, mask, frame, patch; a list of clips a class."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.bank: list[list[Tensor]] = [[] for _ in range(K)]

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
            shuffled = torch.randperm(patches, generator=self.generator)
            masked = shuffled[: int(MASK_RATIO * patches)].tolist()
            for frame in range(frames):
                for patch in masked:
                    y, x = BLOCK * (patch // columns), BLOCK * (patch % columns)
                    square = frame, slice(y, y + BLOCK), slice(x, x + BLOCK)
                    target[square] = source[square]
        for clip, label in zip(clips, labels, strict=True):
            self.bank[label] = [*self.bank[label], clip][-BANK:]
        return mixed


def tam(sizes: Sizes) -> list[Measured]:
    """Time TAM and the literal loop on the same batch."""
    generator = torch.Generator().manual_seed(0)
    shape = (sizes.batch, 16, sizes.side, sizes.side, 3)
    clips = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(K, (sizes.batch,), generator=generator)
    settings = {"ratio": RATIO, "mask_ratio": MASK_RATIO, "block": BLOCK, "bank": BANK}
    ours, literal = TAM(strategy="tam", classes=K, **settings), LiteralTAM(generator)
    batches = cycle([clips.clone(), clips.clone()])  # ours writes into its batch, and keeps it
    seconds = interleaved(
        {
            "ours": lambda: ours(next(batches), labels, generator),
            "literal": lambda: literal(clips, labels.tolist()),
        },
        rounds=sizes.rounds,
    )
    return [
        ratio("TAM: Algorithm 1 as loops / ours", seconds["literal"], seconds["ours"], least=20),
        _milliseconds("TAM: ours, a batch", seconds["ours"]),
    ]


def s2am2(sizes: Sizes) -> list[Measured]:
    """Time S2AM2 and torch.nn.LSTM, bidirectional, on the same sequences."""
    width = sizes.hidden
    x = torch.randn(sizes.batch, 7, width, requires_grad=True)
    grad_output = torch.randn(sizes.batch, 7, 2 * width)
    ours = S2AM2(width, width)
    theirs = nn.LSTM(width, width, batch_first=True, bidirectional=True)

    def learn(model: nn.Module, states: Callable[[object], Tensor]) -> None:
        x.grad = None
        model.zero_grad(set_to_none=True)
        states(model(x)).backward(grad_output)

    both = interleaved(
        {
            "ours": lambda: learn(ours, lambda states: states),
            "theirs": lambda: learn(theirs, lambda found: found[0]),
        },
        rounds=sizes.rounds,
    )
    with torch.inference_mode():
        runs = {"ours": lambda: ours(x), "theirs": lambda: theirs(x)}
        forward = interleaved(runs, rounds=sizes.rounds)
    what = "S2AM2: ours / torch.nn.LSTM, forward"
    return [
        ratio(f"{what} and backward", both["ours"], both["theirs"], most=3),
        ratio(what, forward["ours"], forward["theirs"]),
        _milliseconds("S2AM2: ours, forward and backward", both["ours"]),
    ]


def build(sizes: Sizes) -> tuple[SAFE, SAFE]:
    """Make SAFE as it is, and with torchvision's r3d_18 of the same weights in default format."""
    torch.manual_seed(0)
    shape = {"window": 4, "stride": 2, "hidden": sizes.hidden, "dropout": 0.2}
    ours = SAFE(classes=K, backbone="r3d_18", weights=None, temporal="s2am2", **shape)
    default = copy.deepcopy(ours)
    default.backbone.net = r3d_18(weights=None)
    default.backbone.net.fc = nn.Identity()
    default.backbone.net.load_state_dict(ours.backbone.net.state_dict())
    # One copy more than a model that cuts its windows so: 0.2 % of its time.
    default.backbone.register_forward_pre_hook(lambda _, inputs: inputs[0].contiguous())
    return ours, default


def draw(sizes: Sizes, clips: int) -> Tensor:
    """Draw clips in the memory format that safe.training.transforms gives them."""
    drawn = torch.randn(clips, 3, 16, sizes.side, sizes.side)
    return drawn.contiguous(memory_format=torch.channels_last_3d)


def training(sizes: Sizes) -> list[Measured]:
    """Time a step of each: forward, cross-entropy, backward, AdamW; and compare their gradients.

    They are the same sums, but torch's BatchNorm on CPUs adds up in float64 in the default format
    and in float32 in channels_last_3d; the layers above make 0.004 of that, for which the bound is.
    """
    ours, default = build(sizes)
    clips, labels = draw(sizes, sizes.training), torch.arange(sizes.training) % K

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

    runs = {"ours": lambda: step(ours), "default": lambda: step(default)}
    found = interleaved(runs, rounds=sizes.passes, warm=0)
    what = "SAFE with r3d_18, training step: default format / ours"
    rates = [sizes.training / each for each in found["ours"]]
    return [
        ratio(what, found["default"], found["ours"], least=1.3),
        spread("training step: relative difference of gradients", [apart], unit="", most=0.01),
        spread("training: ours", rates, unit="clips/s"),
    ]


def inference(sizes: Sizes) -> list[Measured]:
    """Time a pass without gradients in each format and precision, and compare the logits.

    bf16 only where the CPU has it: elsewhere a pass takes minutes.
    """
    ours, default = (model.eval() for model in build(sizes))
    folded, clips = fold_norms(ours), draw(sizes, sizes.inference)
    found: dict[str, Tensor] = {}

    def infer(name: str, model: nn.Module, *, bf16: bool = False) -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found[name] = model(clips).logits.float()

    variants = {
        "default": lambda: infer("default", default),
        "float32": lambda: infer("float32", ours),
        "float32, BatchNorm folded": lambda: infer("float32, BatchNorm folded", folded),
    }
    if cpu_has_bf16():
        variants["bf16"] = lambda: infer("bf16", ours, bf16=True)
        name = "bf16, BatchNorm folded (safe-cli eval)"
        variants[name] = lambda: infer(name, folded, bf16=True)
    seconds = interleaved(variants, rounds=sizes.passes)
    measured = []
    for name in list(variants)[1:]:
        what = f"SAFE with r3d_18, inference: default format / ours, {name}"
        least = 2.5 if "eval" in name else None
        measured.append(ratio(what, seconds["default"], seconds[name], least=least))
        apart = _norm([found[name] - found["default"]]) / _norm([found["default"]])
        measured.append(spread(f"logits: relative difference, {name}", [apart], unit=""))
    return measured


def _norm(tensors: list[Tensor]) -> float:
    return sum(float(tensor.double().square().sum()) for tensor in tensors) ** 0.5


def _milliseconds(what: str, seconds: list[float]) -> Measured:
    return spread(what, [1000 * each for each in seconds], unit="ms")


def main() -> None:
    """Run all parts."""
    quick = arguments(__doc__, "tiny, one round").parse_args().quick
    sizes = QUICK if quick else Sizes()
    measured = [one for part in (tam, s2am2, training, inference) for one in part(sizes)]
    note = (
        f"TAM: {sizes.batch} clips uint8 16 x {sizes.side} x {sizes.side} x 3, half of them mixed, "
        f"half of the patches of {BLOCK} pixels, uniform labels. S2AM2: {sizes.batch} sequences of "
        f"7 steps, {sizes.hidden} wide, both directions. SAFE: 7 windows of 4 frames, "
        f"{sizes.training} clips a training step, {sizes.inference} clips a pass. "
        f"{torch.get_num_threads()} threads."
    )
    publish("method", "The method's own parts on a CPU", measured, note=note, quick=quick)


if __name__ == "__main__":
    main()
