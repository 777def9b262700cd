"""What came of one mutant, and what came of all?"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

_RARE: Final = 0.01
"""Share of the mutants below which an outcome has no row of its own."""


@dataclass(frozen=True)
class Outcome:
    """What one mutant led to."""

    part: str
    """videos, shards or models."""
    number: int
    """Of the mutant: `python -m faults.fuzz --seed S --only PART:NUMBER` makes it again."""
    what: str
    """What was damaged, and how: "h264.mp4 cut+flip"."""
    came: str
    """What came of it, in words that do not depend on the mutant: "refused: ends too early"."""
    finding: str = ""
    """Empty, or what is wrong with that."""
    memory: float = 0.0
    """Megabytes of the process that read it, afterwards."""


@dataclass
class Tally:
    """The counts of one part of the round."""

    part: str
    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Outcome] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    """What else was measured: seconds, megabytes."""
    memory: list[float] = field(default_factory=list)
    """Megabytes after each mutant or lot."""

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Count outcomes and print those that are findings."""
        for outcome in outcomes:
            self.counts[outcome.came] += 1
            if outcome.memory:
                self.memory.append(outcome.memory)
            if outcome.finding:
                self.findings.append(outcome)
                place = f"{outcome.part}:{outcome.number}"
                print(f"FINDING {place} ({outcome.what}): {outcome.finding}", flush=True)

    @property
    def total(self) -> int:
        """How many mutants were tried."""
        return self.counts.total()

    def grown(self) -> str:
        """Say how the memory went: its highest in the first and in the last fifth."""
        fifth = len(self.memory) // 5
        if not fifth:
            return ""
        first, last = self._fifths(fifth)
        return f"{first:.0f} MB at most in the first fifth, {last:.0f} MB in the last"

    def leaks(self) -> bool:
        """Whether the memory grew by more than a tenth; not asked of fewer than 5 lots."""
        fifth = len(self.memory) // 5
        return bool(fifth) and self._fifths(fifth)[1] > 1.1 * self._fifths(fifth)[0]

    def _fifths(self, fifth: int) -> tuple[float, float]:
        return max(self.memory[:fifth]), max(self.memory[-fifth:])

    def rows(self) -> list[dict[str, Any]]:
        """Return the counts for the page, the most frequent first; rare ones as one row."""
        least = self.total * _RARE
        rows = [(came, count) for came, count in self.counts.most_common() if count >= least]
        rare = [count for count in self.counts.values() if count < least]
        if rare:
            rows.append((f"{len(rare)} other reasons", sum(rare)))
        return [{"mutants": self.part, "outcome": came, "count": count} for came, count in rows]


def general(text: str) -> str:
    """Take numbers, quoted words and paths out of a reason, so that equal kinds count as one."""
    text = re.sub(r"(PATH)?(/[^\s:,;']+)+", "PATH", text)
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "'X'", text)
    text = re.sub(r"-?\d+(\.\d+)?(e[-+]?\d+)?", "N", text)
    return text if len(text) <= 120 else text[:117] + "..."


def brief(reason: str) -> str:
    """Keep of a general reason what is wrong: not where, not the remedy, no details."""
    reason = reason.removeprefix("PATH: ").partition("; ")[0].partition(" (")[0]
    return ": ".join(reason.split(": ")[:2])[:90]
