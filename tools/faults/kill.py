"""Runs that are killed at random moments, again and again, and must end with the same bytes.

    python -m tools.faults.kill [--kills 200] [--seed 0] [--minutes 25] [--lanes 2]

In scratch folders, a tiny data set goes through all stages as users run them, once undisturbed.
Then, over and over: a stage's outputs are deleted, as DVC does, the stage is started and killed
with SIGKILL at a random moment: all its processes, its parent alone (its children must end by
themselves), or one child (the stage must go on, or end with one line). What then lies under a final
name must be whole; the stage is run again, and its outputs must have the sha256 of the undisturbed
run, with no temporary file left beside them. A training may be killed several times in a row.
"""

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np

from tools.harness import ROOT, keep

OUTPUTS: Final = {
    "synthesize": "data/raw/synthetic",
    "index": "data/synthetic/manifest.parquet",
    "faces": "data/synthetic/faces.parquet",
    "shard": "data/synthetic/shards",
    "train": "runs/synthetic/train/fold-1",
    "calibrate": "runs/synthetic/calibrate/fold-1",
    "eval": "runs/synthetic/eval/fold-1",
    "summary": "results",
}
"""What DVC deletes before it runs the stage."""

TIMED: Final = ("model.json", "live")
"""Files that tell the clock: clips a second are in them."""

SETTINGS: Final = (
    *("synthesize.clips=42", "synthesize.identities=10", "synthesize.size=96", "synthesize.tail=0"),
    *("faces.detect_size=160", "shard.size=48", "shard.clips=4", "augment.crop=32", "tam.bank=2"),
    *("model.hidden=16", "train.epochs=4", "train.batch=4", "train.warmup=0"),
    *("runtime.device=cpu", "runtime.checkpoint_steps=4"),
)
"""What makes every stage last a few seconds; 15 shards, 32 steps."""

GRACE: Final = 10.0
"""Seconds in which children must end after their parent, on a busy machine."""


class Lane:
    """One scratch folder, its undisturbed run, and what the kills in it gave."""

    def __init__(self, folder: Path, seed: tuple[int, int]) -> None:
        self.folder = folder
        self.random = np.random.default_rng(seed)
        self.counts: Counter[tuple[str, str]] = Counter()
        self.wrong: list[str] = []
        self.sums: dict[str, str] = {}
        self.names: set[str] = set()
        self.seconds: dict[str, float] = {}
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "params.yaml", folder)

    def run_undisturbed(self, verbs: Iterable[str] = tuple(OUTPUTS)) -> None:
        """Run stages once, and note the time and the outputs of each."""
        for verb in verbs:
            began = time.monotonic()
            if self._start(verb).wait():
                raise RuntimeError(f"{verb} failed without a kill: {self.said()}")
            self.seconds[verb] = time.monotonic() - began
        self.sums = self.digests()
        self.names = self.listing()

    def _start(self, verb: str) -> subprocess.Popen[bytes]:
        """Start a verb as the leader of a process group of its own."""
        if verb == "train" and self._checkpoints():
            self.counts[verb, "resumes"] += 1
        sets = [word for setting in SETTINGS for word in ("-S", setting)]
        command = [sys.executable, "-m", "cli", verb, *sets]
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        env.pop("DVC_ROOT", None)
        with (self.folder / "said.txt").open("wb") as said:
            where = {"cwd": self.folder, "env": env, "stdout": said, "stderr": said}
            return subprocess.Popen(command, **where, start_new_session=True)

    def said(self) -> str:
        """Return what the last verb printed."""
        return (self.folder / "said.txt").read_text(encoding="utf-8")

    def kill_once(self, verb: str, how: str | None = None) -> None:
        """Delete a stage's outputs, kill it (a training up to three times), finish it, compare.

        `how`: all (its processes), parent or child; drawn if it is not given. What was wrong is in
        `wrong` after that.
        """
        remove(self.folder / OUTPUTS[verb])
        times = int(self.random.integers(1, 4)) if verb == "train" else 1
        draw = self.random.choice(["all", "parent", "child"], size=times, p=[0.6, 0.2, 0.2])
        for way in map(str, draw if how is None else [how]):
            if self._disturb(verb, way):  # it went on to its end all the same
                break
            self._check_whole(f"{verb}, killed ({way})")
        else:
            if verb == "synthesize":  # it refuses a folder that holds something
                remove(self.folder / OUTPUTS[verb])
            began = time.monotonic()
            if self._start(verb).wait():
                self.wrong.append(f"{verb}: run again, it failed: {self.said()}")
            # The usual time, as busy as the machine is now.
            self.seconds[verb] = (self.seconds[verb] + time.monotonic() - began) / 2
        self._compare(verb)

    def _disturb(self, verb: str, how: str) -> bool:
        """Start a verb and kill it, or a child of it; True if it ended well all the same."""
        process = self._start(verb)
        due = time.monotonic() + self.random.uniform(0, self.seconds[verb])
        while time.monotonic() < due and process.poll() is None:
            time.sleep(0.005)
        if how == "child":
            killed, code = self._kill_child(verb, process)
            if killed:
                ended = "ended with a line" if code else "went on"
                self.counts[verb, f"child killed, {ended}"] += 1
        else:
            killed = process.poll() is None
            kill(process.pid if how == "parent" else -process.pid)
            code = process.wait()
            if killed:
                self.counts[verb, self._under_way(verb)] += 1
        if killed:  # else it had ended, or had no child to the end
            self.counts[verb, "kills"] += 1
        end = time.monotonic() + GRACE
        while group(process.pid) and time.monotonic() < end:
            time.sleep(0.01)
        if left := group(process.pid):
            self.wrong.append(f"{verb}: {len(left)} processes outlive the kill ({how})")
            kill(-process.pid)
        return code == 0

    def _kill_child(self, verb: str, leader: subprocess.Popen[bytes]) -> tuple[bool, int]:
        """Kill a process of the group that is not the leader; say if one came, and how it ended."""
        children: list[int] = []
        while leader.poll() is None:
            if children := [pid for pid in group(leader.pid) if pid != leader.pid]:
                kill(int(self.random.choice(children)))
                break
            time.sleep(0.005)
        try:
            code = leader.wait(timeout=120)
        except subprocess.TimeoutExpired:
            self.wrong.append(f"{verb}: hung after the kill of a child")
            kill(-leader.pid)
            return bool(children), leader.wait()
        said = self.said()
        if code and (said.count("safe-cli: ") != 1 or "Traceback" in said):
            self.wrong.append(f"{verb}: {code}, not one line after the kill of a child: {said}")
        return bool(children), code

    def _under_way(self, verb: str) -> str:
        """Name what a killed stage was at, from what it left."""
        out = self.folder / OUTPUTS[verb]
        if (out / "model.json").exists() or (verb != "train" and out.exists()):
            return "killed with its output there"
        if verb == "train" and self._checkpoints():
            return "killed with a checkpoint there"
        return "killed while writing" if temporaries(self.folder) else "killed before"

    def _checkpoints(self) -> list[Path]:
        return list(self.folder.glob(".safe/checkpoints/*/*.safetensors"))

    def _check_whole(self, what: str) -> None:
        """What has a final name must be as in the undisturbed run."""
        for name, digest in self.digests().items():
            if self.sums.get(name) != digest:
                self.wrong.append(f"{what}: {name} is not whole")

    def _compare(self, verb: str) -> None:
        if self.digests() != self.sums:
            found = self.digests().items() ^ self.sums.items()
            self.wrong.append(f"{verb}: other bytes in {sorted({name for name, _ in found})}")
        if names := self.listing() ^ self.names:
            self.wrong.append(f"{verb}: names that differ: {sorted(names)}")
        if left := temporaries(self.folder):
            self.wrong.append(f"{verb}: left behind: {left}")

    def listing(self) -> set[str]:
        """Names of all files in the outputs, hidden ones too."""
        rooms = [self.folder / room for room in ("data", "runs", "results")]
        return {str(path.relative_to(self.folder)) for room in rooms for path in room.rglob("*")}

    def digests(self) -> dict[str, str]:
        """Hex sha256 of each output file, but for those that tell the clock."""
        return {
            name: hashlib.sha256((self.folder / name).read_bytes()).hexdigest()
            for name in self.listing()
            if (self.folder / name).is_file()
            and not any(part in TIMED or part.startswith(".") for part in Path(name).parts)
        }


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def kill(number: int) -> None:
    """Send SIGKILL to a process, or to a group (negative); it may have ended."""
    with suppress(ProcessLookupError):
        os.kill(number, signal.SIGKILL)


def group(leader: int) -> list[int]:
    """Processes of a group that still run (Linux)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, number = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it ended just now
            continue
        if int(number) == leader and state not in "ZX":
            found.append(int(stat.parent.name))
    return found


def temporaries(folder: Path) -> list[str]:
    """Files and folders that only a run under way may have."""
    found = (path for word in ("tmp", "old") for path in folder.rglob(f".*.{word}"))
    return sorted(str(path.relative_to(folder)) for path in found)


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

    Out: `counts` by (stage, what), `wrong`, a list of lines, and `seconds`.
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
    """Turn what `survive` found into what is kept."""
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
    """Run, keep and print the counts; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--lanes", type=int, default=2, help="scratch folders at the same time")
    settings = vars(parser.parse_args())
    with tempfile.TemporaryDirectory(prefix="safe-kill-") as scratch:
        found = survive(Path(scratch), **settings)
    print("\n".join(found["wrong"]), file=sys.stderr)
    keep("kill", describe(found))
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
