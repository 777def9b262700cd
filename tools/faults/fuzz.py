"""A round of damaged files: whether one of them hangs, crashes or fools the project.

    python -m tools.faults.fuzz [--seed 0] [--videos 3000] [--shards 3000] [--models 1000]
    python -m tools.faults.fuzz --quick
    python -m tools.faults.fuzz --seed 0 --only shards:1234

Mutant n of a round is a function of the seed and n alone. `--minutes` ends a round early and says
so. It ends with exit code 1 if there is a finding, each of which is printed with its number; the
files of findings are kept. `--only` makes one mutant again.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tools.faults.fuzz_videos import DEADLINE, Videos, make_videos
from tools.faults.watch import Outcome, Tally
from tools.harness import ROOT, arguments, keep, table

PARTS = {"videos": 3000, "shards": 3000, "models": 1000}
QUICK = 60
"""Mutants a part with --quick."""


def main() -> None:
    """Run the round that the command line asks for."""
    parser = arguments(__doc__, f"{QUICK} mutants a part")
    parser.add_argument("--seed", type=int, default=0)
    for part, count in PARTS.items():
        parser.add_argument(f"--{part}", type=int, default=count, metavar="COUNT")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--workers", type=int, default=2)
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
            report(tallies, counts, seed=options.seed, quick=options.quick)
    finally:
        if any(tally.findings for tally in tallies):
            print(f"the files of the findings are in {scratch}")
        else:
            shutil.rmtree(scratch, ignore_errors=True)
    sys.exit(any(tally.findings for tally in tallies))


def run(
    counts: dict[str, int], *, seed: int, scratch: Path, workers: int, until: float
) -> list[Tally]:
    """Try `counts` mutants of each part, until `until` (time.monotonic()); return what came."""
    tallies = []
    for part in PARTS:
        tally, begun = Tally(part), time.monotonic()
        tally.add(start(tally, range(counts[part]), seed, scratch / part, workers, until))
        if tally.leaks():
            leak = f"the memory grew: {tally.grown()}"
            tally.add([Outcome(part, -1, "", "memory grew", finding=leak)])
        tally.seconds = time.monotonic() - begun
        print(f"{part}: {tally.total} in {tally.seconds:.0f} s", flush=True)
        tallies.append(tally)
    return tallies


def start(
    tally: Tally, numbers: range, seed: int, scratch: Path, workers: int, until: float
) -> Iterator[Outcome]:
    """Make the originals of a part and yield what came of its mutants."""
    if tally.part == "videos":
        shared = Path(os.environ.get("SAFE_SHARED", ROOT.parent / "shared"))
        originals = make_videos(scratch / "originals", real=shared / "videos")
        videos = Videos(originals, scratch, seed, workers)
        yield from videos.run(numbers, until=until)
        tally.longest, tally.memory = videos.longest, videos.memory
        if videos.late():
            yield Outcome("videos", -1, "", "a stage was late", finding=videos.late())
        return
    # Imported here: torch would cover what the parent of the videos needs.
    from tools.faults import fuzz_models, fuzz_shards

    module = fuzz_shards if tally.part == "shards" else fuzz_models
    original = module.make_original(scratch)
    yield from module.fuzz(original, numbers, seed=seed, workers=workers, until=until)


def one(which: str, *, seed: int, scratch: Path) -> Tally:
    """Try one mutant, "shards:1234", and print what came of it."""
    part, _, number = which.partition(":")
    if part not in PARTS or not number.isdigit():
        raise SystemExit(f"--only {which}: give {', '.join(PARTS)} and a number: shards:1234")
    tally, numbers = Tally(part), range(int(number), int(number) + 1)
    outcomes = list(start(tally, numbers, seed, scratch / part, 1, time.monotonic() + 600))
    for outcome in outcomes:
        print(f"{which}, seed {seed}: {outcome.what}\n  {outcome.came}")
    tally.add(outcomes)
    return tally


def report(tallies: list[Tally], counts: dict[str, int], *, seed: int, quick: bool) -> None:
    """Print the counts by outcome; keep them for docs/reliability.md."""
    summary = []
    for tally in tallies:
        wanted = counts[tally.part]
        early = "" if tally.total >= wanted else f" of {wanted:,}: out of time"
        said = f"{tally.total:,} {tally.part}{early}: {len(tally.findings)} findings"
        summary.append(f"{said}, {tally.seconds:.0f} s.")
        if tally.grown():
            whose = "parent of the video stages" if tally.part == "videos" else "reading processes"
            summary.append(f"Memory of the {whose}: {tally.grown()}.")
    summary.append(
        f"The longest wait of a video stage for a clip: {tallies[0].longest:.1f} s, with a "
        f"deadline of {DEADLINE:g} s for each of two tries."
    )
    rows = [row for tally in tallies for row in tally.rows()]
    if quick:
        print(*summary, table(rows), sep="\n")
        return
    findings, total = sum(len(t.findings) for t in tallies), sum(t.total for t in tallies)
    note = (
        f"Seed {seed}. A finding is any end but these: a clip with status and reason; a refusal in "
        "one line; exactly what was stored. Where an outcome says so, checksums were made right "
        "again around the damage, and vouch for other pixels."
    )
    title = f"Fuzzing: {findings} findings in {total:,} damaged files"
    keep("fuzz", {"title": title, "note": note, "summary": summary, "rows": rows})


if __name__ == "__main__":
    main()
