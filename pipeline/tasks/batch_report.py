"""Which batches were begun again and why, which were slow, and which workers went away?

What workers say of their batches goes in, lines for a person come out, while the run goes on.
"""

from collections import deque
from collections.abc import Callable, Iterable
from statistics import median
from typing import Final

_SLOW: Final = 3.0
"""Times the median from which a batch is called slow."""

_LEAST: Final = 1.0
"""Seconds above the median from which that is worth a line."""

_NAMED: Final = 5
"""Most slow batches that are named, the slowest first."""


class Report:
    """What is known of the batches of one run.

    `hear` may be called in any thread. The others are called in the driver's, and so is `on_note`.
    """

    def __init__(self, on_note: Callable[[str], None] | None) -> None:
        self._note: Callable[[str], None] = on_note or (lambda line: None)
        self._heard: deque[dict[str, str]] = deque()
        self._begun: dict[str, str] = {}  # batch -> worker; those under way
        self._failed: dict[str, str] = {}  # batch -> how its last worker failed
        self._times: list[tuple[float, str, str]] = []
        self._workers: set[str] = set()

    def hear(self, event: tuple[float, dict[str, str]]) -> None:
        """Take an event of worker.py, as Dask gives it: its time and what was said."""
        self._heard.append(event[1])

    def tell(self) -> None:
        """Pass on what was heard: a line for every batch that was begun again."""
        while self._heard:
            said = self._heard.popleft()
            batch, worker = said["batch"], said["worker"]
            if "error" in said:
                self._failed[batch] = f"{worker} failed ({said['error']})"
                continue
            if batch in self._begun:
                why = self._failed.pop(batch, f"{self._begun[batch]} was lost")
                self._note(f"{batch}: begun again on {worker}, since {why}")
            self._begun[batch] = worker

    def see(self, workers: Iterable[str]) -> None:
        """Take the addresses of the workers that are there now; tell of each that is no more."""
        there = set(workers)
        for worker in sorted(self._workers - there):
            self._note(f"worker {worker} is gone; what it had begun goes to others")
        self._workers = there

    def finish(self, batch: str, worker: str, seconds: float) -> None:
        """Take a batch that is done."""
        self.tell()
        self._begun.pop(batch, None)
        self._times.append((seconds, batch, worker))

    def close(self) -> None:
        """Name the batches that took much longer than the median, when all are done."""
        typical = median(seconds for seconds, _, _ in self._times)
        least = max(_SLOW * typical, typical + _LEAST)
        slow = sorted((one for one in self._times if one[0] > least), reverse=True)
        for seconds, batch, worker in slow[:_NAMED]:
            self._note(
                f"{batch}: slow, {seconds:.0f} s on {worker}; half of the batches took at most "
                f"{typical:.1f} s"
            )
        if len(slow) > _NAMED:
            self._note(f"{len(slow) - _NAMED} more batches were slow, over {least:.0f} s each")
