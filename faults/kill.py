"""Does a run that is killed at a random moment, again and again, end with the same bytes?

    python -m faults.kill [--kills 200] [--seed 0] [--minutes 25] [--lanes 2]

In scratch folders, a tiny data set goes through all stages as users run them, once undisturbed.
Then, over and over: a stage's outputs are deleted, as DVC does, the stage is started and killed
with SIGKILL at a random moment: all its processes, its parent alone (its children must end by
themselves), or one child (the stage must go on, or end with one line). What then lies under a final
name must be whole; the stage is run again, and its outputs must have the sha256 of the undisturbed
run, with no temporary file left beside them. A training may be killed several times in a row.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from faults.lane import OUTPUTS, Lane

SHARE: Final = (0.1, 0.06, 0.16, 0.16, 0.38, 0.08, 0.06)
"""How often each stage is chosen, in the order of OUTPUTS."""

WHEN: Final = (
    "killed before",
    "killed while writing",
    "killed with a checkpoint there",
    "killed with its output there",
    "child killed, went on",
    "child killed, ended with a line",
)


def run_lane(folder: Path, seed: tuple[int, int], kills: int, end: float) -> Lane:
    """Kill in one folder until enough kills were made or the time is over."""
    lane = Lane(folder, seed)
    lane.run_undisturbed()
    while sum(lane.counts[verb, "kills"] for verb in OUTPUTS) < kills and time.monotonic() < end:
        lane.kill_once(str(lane.random.choice(list(OUTPUTS), p=SHARE)))
    return lane


def survive(scratch: Path, *, kills: int, seed: int, minutes: float, lanes: int) -> dict[str, Any]:
    """Kill at least `kills` times, in `lanes` folders at once.

    Returns:
        `counts` by (stage, what), `wrong`, a list of lines, and `seconds`.
    """
    began = time.monotonic()
    share, end = -(-kills // lanes), began + 60 * minutes
    with ThreadPoolExecutor(lanes) as pool:
        runs = [
            pool.submit(run_lane, scratch / f"lane-{n}", (seed, n), share, end)
            for n in range(lanes)
        ]
        done = [run.result() for run in runs]
    wrong = [line for lane in done for line in lane.wrong]
    if any(lane.sums != done[0].sums for lane in done):
        wrong.append("the undisturbed runs differ")
    counts = sum((lane.counts for lane in done), Counter[tuple[str, str]]())
    return {"counts": counts, "wrong": wrong, "seconds": time.monotonic() - began}


def describe(found: dict[str, Any]) -> dict[str, Any]:
    """Turn what `survive` found into what faults.page keeps."""
    counts, wrong = found["counts"], found["wrong"]

    def total(what: str) -> int:
        return sum(counts[verb, what] for verb in OUTPUTS)

    return {
        "title": "Killed at random moments",
        "note": "Each stage of a tiny data set is killed with SIGKILL at a random moment between "
        "its start and its usual end: all its processes, its parent alone, or one child. What lies "
        "under a final name must be whole, no process may live on, and the stage run again must "
        "leave the files and the sha256 of an undisturbed run, and no temporary file.",
        "summary": [
            f"{total('kills')} kills in {found['seconds'] / 60:.0f} minutes; what went wrong: "
            f"{'; '.join(line[:300] for line in wrong) or 'nothing'}.",
            f"{total('resumes')} trainings went on from a checkpoint.",
            f"After the kill of one child, {total('child killed, went on')} stages went on to the "
            f"same bytes, {total('child killed, ended with a line')} ended with one line.",
        ],
        "rows": [
            {"stage": verb} | {what: counts[verb, what] for what in ("kills", *WHEN)}
            for verb in OUTPUTS
        ],
    }


def main() -> int:
    """Run, keep and print the figures; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description="Kill stages at random moments.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--lanes", type=int, default=2, help="scratch folders at the same time")
    settings = vars(parser.parse_args())
    with tempfile.TemporaryDirectory(prefix="safe-kill-") as scratch:
        found = survive(Path(scratch), **settings)
    print("\n".join(found["wrong"]), file=sys.stderr)
    from faults.page import keep

    keep("kill", describe(found))
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
