"""Watched runs: code that must end with an answer or a typed error, in time and memory.

The reader of a hostile file runs in a child process of pipeline.pool.children that may die of it.
"""

import re
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from pipeline.pool.children import Failure
from pipeline.pool.pool import Pool
from safe.errors import SafeError
from tools.harness import ROOT, held

MB: Final = 2**20
LONGEST: Final = 10.0
"""Seconds for one mutant; the reader needs some milliseconds."""
_LOT: Final = 25
"""Mutants that a child takes at once; if it dies of one, each is tried alone."""
_SPARE: Final = 1.5
"""GiB that a child may take beyond what it has once it has loaded all."""
_MOST: Final = 64
"""Megabytes that one mutant may add to the peak of a child's resident memory."""
_RARE: Final = 0.01
"""Share of the mutants below which an outcome has no row of its own."""
_FORBIDDEN: Final = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork")
_OWN: Final = (sys.prefix, sys.base_prefix, str(ROOT), "/proc", "/dev", "/sys")
"""Where Python itself reads: a module that is imported late."""


@dataclass(frozen=True)
class Outcome:
    """What one mutant led to."""

    part: str
    """videos, shards or models."""
    number: int
    """Of the mutant: `python -m tools.faults.fuzz --seed S --only PART:NUMBER` makes it again."""
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
    memory: list[float] = field(default_factory=list)
    """Megabytes after each mutant or lot."""
    seconds: float = 0.0
    longest: float = 0.0
    """Seconds, the longest wait for a clip."""

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Count outcomes and print those that are findings."""
        for outcome in outcomes:
            self.counts[outcome.came] += 1
            if outcome.memory:
                self.memory.append(outcome.memory)
            if outcome.finding:
                self.findings.append(outcome)
                name = f"{outcome.part}:{outcome.number}"
                print(f"FINDING {name} ({outcome.what}): {outcome.finding}", flush=True)

    @property
    def total(self) -> int:
        """How many mutants were tried."""
        return self.counts.total()

    def _fifths(self) -> tuple[float, float] | None:
        """Return the highest memory in the first and in the last fifth; None of fewer than 5."""
        fifth = len(self.memory) // 5
        return (max(self.memory[:fifth]), max(self.memory[-fifth:])) if fifth else None

    def grown(self) -> str:
        """Say how the memory went."""
        fifths = self._fifths()
        if fifths is None:
            return ""
        return "{:.0f} MB at most in the first fifth, {:.0f} MB in the last".format(*fifths)

    def leaks(self) -> bool:
        """Whether the memory grew by more than a tenth."""
        fifths = self._fifths()
        return fifths is not None and fifths[1] > 1.1 * fifths[0]

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


def try_all(
    check: Callable[[int], Outcome],
    numbers: Sequence[int],
    *,
    part: str,
    workers: int,
    until: float,
    setup: Callable[[], None],
) -> Iterator[Outcome]:
    """Check mutants in child processes; yield an outcome for each, but for those after `until`.

    Args:
        check: makes mutant n and reads it: at the top of a module.
        numbers: of the mutants.
        part: which part of the round this is.
        workers: processes.
        until: time.monotonic() after which no further lot is waited for.
        setup: loads in each child what `check` needs.
    """
    lots = [list(numbers[at : at + _LOT]) for at in range(0, len(numbers), _LOT)]

    def start(lots: list[list[int]], deadline: float) -> Iterator[Any]:
        pool = Pool(workers=workers, deadline=deadline, memory=_SPARE)
        return pool.run(partial(_lot, check), lots, setup=partial(_prepare, setup))

    alone: list[list[int]] = []
    for lot, got in zip(lots, start(lots, deadline=LONGEST * 6), strict=True):
        if isinstance(got, Failure):
            alone += [[number] for number in lot]
        else:
            yield from got
        if time.monotonic() > until:
            break
    for lot, got in zip(alone, start(alone, deadline=LONGEST), strict=True):
        if isinstance(got, Failure):
            came = f"the reader: {got.reason}"
            yield Outcome(part, lot[0], "", came, finding=got.reason)
        else:
            yield from got


def _prepare(setup: Callable[[], None]) -> None:
    """Load what the reader needs, then begin to listen."""
    setup()
    sys.addaudithook(_hear)


def _lot(check: Callable[[int], Outcome], numbers: list[int]) -> list[Outcome]:
    return [check(number) for number in numbers]


_inside = ""
_heard: list[str] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what a watched reader opens outside its folder, and any process or socket it makes."""
    if not _inside:
        return
    if event.startswith(_FORBIDDEN):
        _heard.append(f"{event} {arguments!r:.100}")
    elif event == "open" and isinstance(arguments[0], str | bytes):
        path = arguments[0] if isinstance(arguments[0], str) else arguments[0].decode()
        if not path.startswith((_inside, *_OWN)) or "/../" in path:
            _heard.append(f"opened {path!r:.100}")


def watched(
    read: Callable[[], str], outcome: Outcome, *, inside: Path, refusal: type[SafeError]
) -> Outcome:
    """Run a reader on a mutant and say what came of it.

    Args:
        read: returns what came of it; raises `refusal` with one line where it refuses.
        outcome: part, number and what; the rest is filled in.
        inside: the only folder that it may read.
        refusal: the error that a refusal is.
    """
    global _inside
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from what is resident now
    begun, before = time.monotonic(), held("self", "status", "VmRSS")
    problems: list[str] = []
    _heard.clear()
    _inside = str(inside)
    try:
        came = read()
        if came.startswith("WRONG"):
            problems.append(came)
    except refusal as error:
        line = str(error)
        came = f"refused: {brief(general(line.replace(str(inside), 'PATH')))}"
        if not line or not line.isprintable() or len(line) > 600:
            problems.append(f"not one clear line but {line!r:.200}, {len(line)} characters")
    except Exception as error:  # noqa: BLE001  which exceptions come is the question
        came = f"raised {type(error).__name__}"
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "/faults/" not in frame.filename][:1] or frames[-1:]
        where = " <- ".join(f"{Path(f.filename).name}:{f.lineno}" for f in (frames[-1], *ours))
        problems.append(f"{type(error).__name__} at {where}: {str(error)!r:.150}")
    finally:
        _inside = ""
    problems += _heard
    if (seconds := time.monotonic() - begun) > LONGEST / 2:
        problems.append(f"took {seconds:.1f} s")
    if (grown := (held("self", "status", "VmHWM") - before) / MB) > _MOST:
        problems.append(f"took {grown:.0f} MB")
    memory = held("self", "status", "VmRSS") / MB
    return replace(outcome, came=came, finding="; ".join(problems), memory=memory)
