"""Does any damaged file hang, crash or fool the project?

    python -m tools.faults.fuzz [--seed 0] [--videos 3000] [--shards 3000] [--models 1000]
    [--minutes 30] python -m tools.faults.fuzz --quick
    python -m tools.faults.fuzz --seed 0 --only shards:1234

Mutant n of a round is a function of the seed and n alone. `--minutes` ends a round early and says
so. It ends with exit code 1 if there is a finding, each of which is printed with its number; the
files of findings are kept. `--only` makes one mutant again.
"""

import argparse
import os
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from pipeline.pool.children import Failure, run_tasks
from safe.errors import SafeError
from tools.faults.fuzz_videos import DEADLINE, Videos
from tools.faults.mutate import ROOT, make_model, make_shards, make_videos
from tools.faults.page import keep

# What came of one mutant, and what came of all?

_RARE: Final = 0.01
"""Share of the mutants below which an outcome has no row of its own."""


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


PARTS = ("videos", "shards", "models")
QUICK = 60
"""Mutants a part with --quick."""


def main() -> None:
    """Run the round that the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    for part, count in zip(PARTS, (3000, 3000, 1000), strict=True):
        parser.add_argument(f"--{part}", type=int, default=count, metavar="COUNT")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK} mutants a part; keeps nothing"
    )
    parser.add_argument("--only", metavar="PART:NUMBER", help="one mutant")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the children
    scratch = Path(tempfile.mkdtemp(prefix="safe-fuzz-"))
    tallies = []
    try:
        if options.only:
            tallies = [one(options.only, seed=options.seed, scratch=scratch)]
        else:
            counts = {part: QUICK if options.quick else getattr(options, part) for part in PARTS}
            until = time.monotonic() + 60 * options.minutes
            times = {"workers": options.workers, "until": until}
            tallies = run(counts, seed=options.seed, scratch=scratch, **times)
            report(tallies, counts, seed=options.seed, kept=not options.quick)
    finally:
        if any(tally.findings for tally in tallies):
            print(f"the files of the findings are in {scratch}")
        else:
            shutil.rmtree(scratch, ignore_errors=True)
    sys.exit(1 if any(tally.findings for tally in tallies) else 0)


def run(
    counts: dict[str, int], *, seed: int, scratch: Path, workers: int, until: float
) -> list[Tally]:
    """Try `counts` mutants of each part, until `until` (time.monotonic()); return what came."""
    tallies = []
    for part in PARTS:
        tally, begun = Tally(part), time.monotonic()
        numbers = range(counts[part])
        tally.add(start(part, numbers, seed, scratch, workers, until, tally))
        if tally.leaks():
            leak = f"the memory grew: {tally.grown()}"
            tally.add([Outcome(part, -1, "", "memory grew", finding=leak)])
        tally.figures["seconds"] = time.monotonic() - begun
        print(f"{part}: {tally.total} in {tally.figures['seconds']:.0f} s", flush=True)
        tallies.append(tally)
    return tallies


def start(
    part: str,
    numbers: range,
    seed: int,
    scratch: Path,
    workers: int,
    until: float,
    tally: Tally,
) -> Iterator[Outcome]:
    """Make the originals of a part and yield what came of its mutants."""
    place = scratch / part
    if part == "videos":
        shared = Path(os.environ.get("SAFE_SHARED", ROOT.parent / "shared"))
        originals = make_videos(place / "originals", real=shared / "videos")
        videos = Videos(originals, place, seed, workers)
        yield from videos.run(numbers, until=until)
        tally.figures |= {"longest": videos.longest}
        tally.memory = videos.memory
        if videos.late():
            yield Outcome(part, -1, "", "a stage was late", finding=videos.late())
        return
    times = {"seed": seed, "workers": workers, "until": until}
    if part == "shards":
        # Imported here: torch would cover what the parent of the videos needs.
        from tools.faults.fuzz_shards import fuzz_shards

        yield from fuzz_shards(make_shards(place), numbers, **times)
    else:
        from tools.faults.fuzz_models import fuzz_models

        yield from fuzz_models(make_model(place / "model"), numbers, **times)


def one(which: str, *, seed: int, scratch: Path) -> Tally:
    """Try one mutant, "shards:1234", and print what came of it."""
    part, _, number = which.partition(":")
    if part not in PARTS or not number.isdigit():
        raise SystemExit(f"--only {which}: give {', '.join(PARTS)} and a number: shards:1234")
    tally = Tally(part)
    numbers = range(int(number), int(number) + 1)
    outcomes = list(start(part, numbers, seed, scratch, 1, time.monotonic() + 600, tally))
    for outcome in outcomes:
        print(f"{which}, seed {seed}: {outcome.what}\n  {outcome.came}")
    tally.add(outcomes)
    return tally


def report(tallies: list[Tally], counts: dict[str, int], *, seed: int, kept: bool) -> None:
    """Print the counts by outcome; keep them for docs/reliability.md."""
    findings = sum(len(tally.findings) for tally in tallies)
    summary = []
    for tally in tallies:
        early = (
            "" if tally.total >= counts[tally.part] else f" of {counts[tally.part]:,}: out of time"
        )
        seconds = tally.figures["seconds"]
        summary.append(
            f"{tally.total:,} {tally.part}{early}: {len(tally.findings)} findings, {seconds:.0f} s."
        )
        if tally.grown():
            whose = "parent of the video stages" if tally.part == "videos" else "reading processes"
            summary.append(f"Memory of the {whose}: {tally.grown()}.")
    longest = tallies[0].figures["longest"]
    summary.append(
        f"The longest wait of a video stage for a clip: {longest:.1f} s, with a deadline of "
        f"{DEADLINE:g} s for each of two tries."
    )
    rows = [row for tally in tallies for row in tally.rows()]
    if kept:
        note = (
            f"Seed {seed}. A finding is any end but these: a clip with status and reason; a "
            "refusal in one line; exactly what was stored. Where an outcome says so, checksums "
            "were made right again around the damage, and vouch for other pixels."
        )
        title = f"Fuzzing: {findings} findings in {sum(t.total for t in tallies):,} damaged files"
        keep("fuzz", {"title": title, "note": note, "summary": summary, "rows": rows})
    else:
        print("\n".join(summary))
        for row in rows:
            print(f"{row['mutants']:8}{row['count']:7}  {row['outcome']}")


if __name__ == "__main__":
    main()


# Does a piece of code end with an answer or a typed error, in time, in memory, in its own folder?
#
# The reader of a hostile file runs here, in a child process of pipeline.pool.children that may die
# of it.

LONGEST: Final = 10.0
"""Seconds for one mutant; the reader needs some milliseconds."""

_LOT: Final = 25
"""Mutants that a child takes at once; if it dies of one, each is tried alone."""

_SPARE: Final = 1.5
"""GiB that a child may take beyond what it has once it has loaded all."""

_MOST: Final = 64
"""Megabytes that one mutant may add to the peak of a child's resident memory."""

_FORBIDDEN: Final = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork")

_OWN: Final = (sys.prefix, sys.base_prefix, str(Path(__file__).parents[1]), "/proc", "/dev", "/sys")
"""Where Python itself reads: a module that is imported late."""


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
    ready = partial(_prepare, setup)
    lots = [list(numbers[at : at + _LOT]) for at in range(0, len(numbers), _LOT)]
    lot_deadline = LONGEST * 6
    alone: list[list[int]] = []
    start = partial(run_tasks, partial(_lot, check), workers=workers, memory=_SPARE, setup=ready)
    done = start(lots, deadline=lot_deadline)
    for lot, got in zip(lots, done, strict=True):
        if isinstance(got, Failure):
            alone += [[number] for number in lot]
        else:
            yield from got
        if time.monotonic() > until:
            break
    done = start(alone, deadline=LONGEST)
    for lot, got in zip(alone, done, strict=True):
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
    read: Callable[[], str],
    outcome: Outcome,
    *,
    inside: Path,
    refusal: type[SafeError],
) -> Outcome:
    """Run a reader on a mutant and say what came of it.

    Args:
        read: returns what came of it; raises `refusal` with one line where it refuses.
        outcome: part, number and what; the rest is filled in.
        inside: the only folder that it may read.
        refusal: the error that a refusal is.
    """
    global _inside
    _forget_peak()
    begun, before = time.monotonic(), _memory()
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
        last = frames[-1]
        where = " <- ".join(f"{Path(f.filename).name}:{f.lineno}" for f in (last, *ours))
        problems.append(f"{type(error).__name__} at {where}: {str(error)!r:.150}")
    finally:
        _inside = ""
    problems += _heard
    if (seconds := time.monotonic() - begun) > LONGEST / 2:
        problems.append(f"took {seconds:.1f} s")
    if (grown := _peak() - before) > _MOST:
        problems.append(f"took {grown:.0f} MB")
    return replace(outcome, came=came, finding="; ".join(problems), memory=_memory())


def _memory() -> float:
    """Return the resident memory of this process, in megabytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def _peak() -> float:
    """Return the highest resident memory since _forget_peak, in megabytes.

    Not getrusage: its figure is inherited from a larger parent.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def _forget_peak() -> None:
    """Let the kernel count the peak from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
