"""What do the stages faces and shard make of damaged videos?

Damaged videos go through the stages as they are, lot by lot: a manifest, find_faces, write_shards.
Every clip must be on record in both with a reason, the sound clip of each lot must be found, no
clip may hold the stage up beyond its deadline, and this process, the parent, must stay as it was.
"""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from pipeline.face.table import read_faces
from pipeline.faces import find_faces
from pipeline.pool.pool import Pool
from pipeline.shard import write_shards
from safe.errors import DataError
from tools.faults.mutate import config, mutate, write_manifest
from tools.faults.watch import Outcome, brief, general

DEADLINE: Final = 10.0
"""Seconds a clip, and as many for its second try by the other decoder."""

LOT: Final = 250
"""Mutants that go through the stages at once."""

_SLACK: Final = 10.0
"""Seconds beyond both tries in which a child ends, another starts and a busy machine breathes."""

_STATUSES: Final = ("ok", "partial", "missing", "error")
_SOUND: Final = "sound"
"""Key of the clip in each lot that is not damaged."""


@dataclass
class Videos:
    """A round of damaged videos and what was measured in passing."""

    originals: list[Path]
    scratch: Path
    seed: int
    workers: int
    memory: list[float] = field(default_factory=list)
    """Megabytes of this process after each lot: what no file backs, so libraries do not count."""
    longest: float = 0.0
    """Seconds, the longest that a stage waited for its next clip."""

    def run(self, numbers: Sequence[int], *, until: float) -> Iterator[Outcome]:
        """Yield an outcome for each number, but for the lots after `until` (time.monotonic())."""
        for start in range(0, len(numbers), LOT):
            if time.monotonic() > until:
                return
            yield from self._lot(list(numbers[start : start + LOT]))
            if start:  # the first lot loads what is loaded late
                self.memory.append(_memory())

    def write(self, number: int, folder: Path) -> tuple[str, str]:
        """Write mutant `number`; return the name of its file and what was done."""
        original = self.originals[number % len(self.originals)]
        other = self.originals[(number * 7 + 3) % len(self.originals)]
        parts = {"seed": self.seed, "number": number, "other": other.read_bytes()}
        mutant = mutate(original.read_bytes(), **parts)
        name = f"m{number:06d}{original.suffix}"
        (folder / name).write_bytes(mutant.data)
        return name, f"{original.name} {mutant.what}"

    def _lot(self, numbers: list[int]) -> Iterator[Outcome]:
        """Take mutants through the stages; where a stage raises, each half is tried alone."""
        folder = self.scratch / f"lot-{numbers[0]}-{len(numbers)}"
        folder.mkdir(parents=True)
        made = {number: self.write(number, folder) for number in numbers}
        sound = f"{_SOUND}{self.originals[0].suffix}"
        shutil.copyfile(self.originals[0], folder / sound)
        files = [name for name, _ in made.values()]
        write_manifest(self.scratch / "manifest.parquet", [*files, sound], folder, source="video")
        try:
            rows = self._stages(folder)
        except Exception as error:  # noqa: BLE001  which exceptions come is the question
            if len(numbers) == 1:
                what, problem = made[numbers[0]][1], f"{type(error).__name__}: {error!s:.200}"
                came = f"the stage raised {type(error).__name__}"
                self.write(numbers[0], self.scratch)  # kept
                yield Outcome("videos", numbers[0], what, came, finding=problem)
                return
            yield from self._lot(numbers[: len(numbers) // 2])
            yield from self._lot(numbers[len(numbers) // 2 :])
            return
        finally:
            shutil.rmtree(folder)
        for number, (name, what) in made.items():
            came, finding = _judge(rows.get(Path(name).stem))
            if finding:
                self.write(number, self.scratch)  # kept
            yield Outcome("videos", number, what, came, finding=finding)

    def _stages(self, root: Path) -> dict[str, dict[str, Any]]:
        """Run faces and shard; return the row of each clip with the reason why it is left out."""
        manifest, faces, out = (self.scratch / name for name in ("manifest.parquet", "f", "shards"))
        settings = config()
        pool = Pool(workers=self.workers, deadline=DEADLINE, memory=settings.runtime.memory)
        both = {"pool": pool, "settings": settings.faces, "on_done": self._clock()}
        find_faces(manifest, root, faces, **both)
        both |= {"settings": settings.shard, "on_done": self._clock()}
        write_shards(manifest, faces, root, out, faces_settings=settings.faces, **both)
        rows = {row.pop("clip"): row for row in read_faces(faces).to_pylist()}
        left_out = json.loads((out / "index.json").read_text())["left_out"]
        reasons = {entry["clip"]: entry["reason"] for entry in left_out}
        stored = pq.read_table(out / "clips.parquet")["clip"].to_pylist()
        for key, row in rows.items():
            row["stored"], row["left out"] = key in stored, reasons.get(key)
        listed = set(pq.read_table(manifest)["clip"].to_pylist())
        if rows.keys() != listed or {*stored, *reasons} != listed:
            raise DataError("clips are not on record")
        if rows[_SOUND]["status"] != "ok" or _SOUND not in stored:
            raise DataError(f"the sound clip is not stored: {rows[_SOUND]}")
        return rows

    def _clock(self) -> Any:
        """Return an on_done that keeps the longest wait for a clip."""
        last = time.monotonic()

        def on_done(_: int) -> None:
            nonlocal last
            now = time.monotonic()
            self.longest = max(self.longest, now - last)
            last = now

        return on_done

    def late(self) -> str:
        """Say so if a stage waited longer than two deadlines allow."""
        if self.longest <= 2 * DEADLINE + _SLACK:
            return ""
        return f"a stage waited {self.longest:.0f} s for a clip, two deadlines of {DEADLINE:g} s"


def _judge(row: dict[str, Any] | None) -> tuple[str, str]:
    """Say what came of a clip, and what is wrong with that."""
    if row is None:
        return "not on record", "the clip is not in faces.parquet"
    status, reason, left_out = row["status"], row["reason"], row["left out"]
    kind = brief(general(reason)) if status == "error" else general(reason)
    came = f"{status}: {kind}" if reason else status
    if left_out is not None and left_out != reason:
        came = f"{came}; left out of the shards: {general(left_out)}"
    problems = []
    if status not in _STATUSES:
        problems.append(f"status {status!r}")
    if status != "ok" and not reason:
        problems.append(f"{status} without a reason")
    for text in (reason, left_out or ""):
        if not text.isprintable() or len(text) > 300:
            problems.append(f"not one clear line but {text!r:.200}")
    if row["stored"] == (left_out is not None):
        problems.append("both stored and left out" if row["stored"] else "left out, no reason")
    if "crashed (exit code" in reason:
        problems.append("a child process ended by itself")
    return came, "; ".join(problems)


def _memory() -> float:
    """Return the anonymous memory of this process, in megabytes."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss_Anon:"))
