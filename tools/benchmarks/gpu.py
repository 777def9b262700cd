"""How right and how fast is SAFE on a GPU, all of it in one call?

    python -m tools.benchmarks.gpu --out FILE.json [--minutes 8] [--device cuda] [--quick]

For a bare machine: Python with torch, torchvision and numpy. Each part runs in a process of its
own, the most important first: a part whose packages are missing, or that raises, or that takes too
long, costs the others nothing, and what it had found by then is kept. The file is written anew
after every part. Nothing about the card's settings is changed. Ends with 1 if a part raised.
"""

import argparse
import importlib
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import torchvision
from torch import Tensor

from safe.files import die_with_parent, whole_file
from safe.models.safe import SAFE
from safe.taxonomy import BASIC
from safe.training.losses import ACL
from tools.benchmarks.report import Figure, interleaved, machine, spread, table

# How is work timed on a GPU, which the host only asks for, and does not wait for?
#
#     wall      the host asks for the work n times, waits, and reads its clock: what a user waits
# for     queued    the GPU pauses, the host asks meanwhile, and events on the GPU tell what its own
# part
#               takes: what the work adds to a step during which the GPU always has something to do
#
# On a CPU the two are the same. The variants are taken in turn, by report.interleaved.

WARM: Final = 2
"""Rounds that are not timed: loading of kernels, choice of algorithms, growth of memory."""

PAUSE: Final = 4_000_000
"""Cycles, about 2 ms, of the first pause; it grows until the host has asked for all in time."""

LONGEST_PAUSE: Final = 256_000_000

Seconds = dict[str, list[float]]


@dataclass(frozen=True)
class Setup:
    """Where a part runs, and whether it is only tried out."""

    device: torch.device
    quick: bool

    def pick(self, full: Any, quick: Any) -> Any:
        """Return the value for a real run, or the one for a trial."""
        return quick if self.quick else full

    @property
    def precision(self) -> torch.dtype:
        """What train.precision = auto means: bf16 on a GPU, float32 on a CPU."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def autocast(self, precision: torch.dtype | None = None, *, cache: bool = True) -> Any:
        """Return the context in which a network runs in `precision`."""
        precision = precision or self.precision
        return torch.autocast(
            self.device.type,
            torch.bfloat16,
            enabled=precision == torch.bfloat16,
            cache_enabled=cache,
        )

    def finish(self) -> None:
        """Wait for all that was asked of the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def wall(
    setup: Setup, variants: dict[str, Callable[[], object]], *, rounds: int, inner: int = 1
) -> Seconds:
    """Return the seconds of one run, a list of `rounds` a variant; `inner` runs are one timing."""

    def several(run: Callable[[], object]) -> None:
        for _ in range(inner):
            run()
        setup.finish()

    setup.finish()
    found = interleaved(
        {name: partial(several, run) for name, run in variants.items()}, rounds=rounds, warm=WARM
    )
    return {name: [value / inner for value in values] for name, values in found.items()}


def queued(
    setup: Setup, variants: dict[str, Callable[[], object]], *, rounds: int, inner: int = 1
) -> tuple[Seconds, list[str]]:
    """Return the GPU's own seconds of one run, a list a variant, and notes.

    A note names a variant that the host could not ask for in time (it waits within, or is more than
    the queue holds): its seconds then have gaps, and are more than the GPU's own.
    """
    if setup.device.type != "cuda":
        return wall(setup, variants, rounds=rounds, inner=inner), []
    seconds: Seconds = {name: [] for name in variants}
    late = set()

    def once(name: str) -> None:
        value, in_time = _own_seconds(variants[name], inner)
        seconds[name].append(value)
        if not in_time:
            late.add(name)

    interleaved({name: partial(once, name) for name in variants}, rounds=rounds, warm=WARM)
    notes = [f"{name}: not queued in time, its GPU seconds have gaps" for name in sorted(late)]
    return {name: values[WARM:] for name, values in seconds.items()}, notes


def _own_seconds(run: Callable[[], object], inner: int) -> tuple[float, bool]:
    """Time `run` between two events behind a pause, and say if the host was ahead all along."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    cycles = PAUSE
    while True:
        torch.cuda.synchronize()
        torch.cuda._sleep(cycles)
        start.record()
        for _ in range(inner):
            run()
        end.record()
        in_time = not start.query()  # the GPU has not yet come to the first of it
        end.synchronize()
        if in_time or cycles >= LONGEST_PAUSE:
            return start.elapsed_time(end) / 1000 / inner, in_time
        cycles *= 4


def rate(what: str, count: int, seconds: list[float]) -> Figure:
    """Return clips a second."""
    return spread(what, [count / value for value in seconds], unit="clips/s")


def step_seconds(setup: Setup, batch: int, rounds: int) -> list[float]:
    """Return the seconds of SAFE's training step, a list of `rounds`."""
    from tools.benchmarks.gpu_training import Step  # needs more packages than timing does

    return wall(setup, {"step": Step(setup, batch)}, rounds=rounds, inner=setup.pick(2, 1))["step"]


class Part(NamedTuple):
    """A function that gives Figures, notes (str) and facts about the machine (dict)."""

    module: str
    function: str
    limit: float  # seconds

    @property
    def name(self) -> str:
        """How the part is called in the file and by --only."""
        return self.function


PARTS: Final = (
    Part("tools.benchmarks.gpu", "environment", 60),
    Part("tools.benchmarks.gpu_training", "gradients", 75),
    Part("tools.benchmarks.gpu_training", "training", 130),
    Part("tools.benchmarks.gpu_training", "convolutions", 60),
    Part("tools.benchmarks.gpu_pieces", "shards", 90),
    Part("tools.benchmarks.gpu_pieces", "tam", 40),
    Part("tools.benchmarks.gpu_pieces", "s2am2", 50),
    Part("tools.benchmarks.gpu_training", "waits", 40),
    Part("tools.benchmarks.gpu_pieces", "inference", 40),
    Part("tools.benchmarks.gpu_training", "graphed", 40),
    Part("tools.benchmarks.gpu_training", "benchmarked", 30),
    Part("tools.benchmarks.gpu_training", "compiled", 150),
)
"""In the order in which they run; together they may be more than the time there is."""

SHORTEST: Final = 15.0
"""Seconds that must be left for a part to be started."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts, write the file, print a table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--minutes", type=float, default=8, help="for all parts together")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script out")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], metavar="PART")
    args = parser.parse_args(arguments)
    wanted = [*args.only, "environment"] if args.only else [part.name for part in PARTS]
    chosen = [part for part in PARTS if part.name in wanted]
    setup = Setup(torch.device(args.device), args.quick)
    found = run_parts(chosen, setup, seconds=60 * args.minutes, out=args.out)
    for part in found["parts"]:
        print(f"\n{part['name']}: {part['state']} in {part['seconds']:.0f} s {part['reason']}")
        for note in part["notes"]:
            print(f"  {note}")
        if part["figures"]:
            print(table(part))
    return int(any(part["state"] == "failed" for part in found["parts"]))


def run_parts(parts: Iterable[Part], setup: Setup, *, seconds: float, out: Path) -> dict[str, Any]:
    """Run the parts within `seconds` and return what is also written to `out` after each.

    Of every part: name, state (done, missing, failed, stopped or skipped), reason, seconds, notes
    and figures.
    """
    began = time.monotonic()
    found: dict[str, Any] = {
        "title": "SAFE on a GPU",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "device": str(setup.device),
        "quick": setup.quick,
        "versions": {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
        "environment": {},
        "parts": [],
    }
    for part in parts:
        left = seconds - (time.monotonic() - began)
        entry = _run(part, setup, min(part.limit, left), found["environment"])
        found["parts"].append(entry)
        found["seconds"] = time.monotonic() - began
        with whole_file(out) as path:
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def _run(part: Part, setup: Setup, seconds: float, facts: dict[str, Any]) -> dict[str, Any]:
    """Run a part in a process of its own, and end that when its time is over."""
    entry: dict[str, Any] = {"name": part.name, "state": "skipped", "reason": "no time was left"}
    entry |= {"seconds": 0.0, "notes": [], "figures": []}
    if seconds < SHORTEST:
        return entry
    began = time.monotonic()
    # A fork has torch imported already. CUDA has never been used here, so it can be used there.
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        process = context.Process(target=_work, args=(part, setup, theirs, scratch))
        process.start()
        theirs.close()
        entry |= {"state": "stopped", "reason": f"its limit of {seconds:.0f} s was reached"}
        try:
            while ours.poll(max(0.0, began + seconds - time.monotonic())):
                kind, value = ours.recv()
                if kind == "end":
                    entry |= value
                    break
                facts.update(value) if kind == "facts" else entry[kind].append(value)
        except EOFError:
            process.join()
            entry |= {"state": "failed", "reason": f"its process ended with {process.exitcode}"}
        process.kill()  # all it had to say is here; a GPU program may be long in ending
        process.join()
    return entry | {"seconds": time.monotonic() - began}


def _work(part: Part, setup: Setup, pipe: Connection, scratch: str) -> None:
    """Run the part, and send on what it gives: a child's whole life."""
    die_with_parent()
    tempfile.tempdir = scratch  # which the parent removes, also where this process is ended
    state, reason = "done", ""
    try:
        if setup.quick:
            torch.set_num_threads(1)  # tiny tensors gain nothing from more
        if setup.device.index is not None:
            torch.cuda.set_device(setup.device)
        for item in getattr(importlib.import_module(part.module), part.function)(setup):
            if isinstance(item, Figure):
                pipe.send(("figures", asdict(item) | {"met": item.verdict}))
            else:
                pipe.send(("notes", item) if isinstance(item, str) else ("facts", item))
    except ModuleNotFoundError as error:
        of_ours = (error.name or "").split(".")[0] in ("safe", "pipeline", "report", "gpu_parts")
        state, reason = ("failed" if of_ours else "missing"), str(error)
    except Exception as error:  # noqa: BLE001  whatever it is, the other parts go on
        state, reason = "failed", f"{type(error).__name__}: {error}"
        pipe.send(("notes", traceback.format_exc()))
    pipe.send(("end", {"state": state, "reason": reason}))


def environment(setup: Setup) -> Iterable[dict[str, Any]]:
    """Which GPU is this, and what drives it?"""
    yield {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32 in convolutions": torch.backends.cudnn.allow_tf32,
        "tf32 in products": torch.backends.cuda.matmul.allow_tf32,
    }
    if setup.device.type != "cuda":
        return
    card = torch.cuda.get_device_properties(setup.device)
    yield {
        "gpu": card.name,
        "memory_gb": card.total_memory / 1e9,
        "multiprocessors": card.multi_processor_count,
        "capability": f"{card.major}.{card.minor}",
    }
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
        yield {"driver": said.stdout.split()[0]}
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        yield {"driver": f"unknown: {error}"}


if __name__ == "__main__":
    sys.exit(main())


# Which model, which loss and which clips does every part use?
#
# The paper's: r3d_18, 7 windows of 4 frames at 112 x 112, 512 units a direction. Tiny ones where a
# run is only tried out.

WINDOWS: Final = 7
K: Final = len(BASIC)
MIXING: Final = {
    "strategy": "tam",
    "ratio": 0.5,
    "mask_ratio": 0.5,
    "block": 16,
    "bank": 4,
    "classes": K,
}


def build_safe(setup: Setup, *, dropout: float = 0.2) -> SAFE:
    """Make SAFE on the device."""
    model = SAFE(
        classes=K,
        backbone=setup.pick("r3d_18", "small"),
        weights=None,
        temporal="s2am2",
        window=4,
        stride=2,
        hidden=setup.pick(512, 8),
        dropout=dropout,
    )
    return model.to(setup.device)


def build_loss(setup: Setup) -> ACL:
    """Make the loss on the device, with the weights of params.yaml."""
    acl = ACL(torch.ones(K), cal=True, fcl=True, top_k=1, tau=0.1, lambda_1=0.05, lambda_2=0.001)
    return acl.to(setup.device)


def crop_size(setup: Setup) -> int:
    """Return the side of the clips that the model sees, in pixels."""
    return setup.pick(112, 16)


def draw_faces(setup: Setup, batch: int) -> tuple[Tensor, Tensor]:
    """Draw faces, uint8 [B, 16, 128, 128, 3], on the device, and labels, int64 [B], on the CPU."""
    side = setup.pick(128, 32)
    generator = torch.Generator().manual_seed(batch)
    faces = torch.randint(256, (batch, 16, side, side, 3), dtype=torch.uint8, generator=generator)
    return faces.to(setup.device), torch.arange(batch) % K
