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
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tools.faults.fuzz_videos import DEADLINE, Videos
from tools.faults.mutate import ROOT, make_model, make_shards, make_videos
from tools.faults.page import keep
from tools.faults.watch import Outcome, Tally

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
