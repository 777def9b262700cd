"""How is work timed on a GPU, which the host only asks for, and does not wait for?

    wall      the host asks for the work n times, waits, and reads its clock: what a user waits for
    queued    the GPU pauses, the host asks meanwhile, and events on the GPU tell what its own part
              takes: what the work adds to a step during which the GPU always has something to do

On a CPU the two are the same. The variants are taken in turn, by report.interleaved.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch

from benchmarks.report import Figure, interleaved, spread

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
    from benchmarks.gpu_parts.step import Step  # needs more packages than timing does

    return wall(setup, {"step": Step(setup, batch)}, rounds=rounds, inner=setup.pick(2, 1))["step"]
