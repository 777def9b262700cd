"""Damaged videos through the stages faces and shard, as they are, lot by lot.

Every clip must be on record in both with a reason, the sound clip of each lot must be found, no
clip may hold the stage up beyond its deadline, and this process, the parent, must stay as it was.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import av
import pyarrow.parquet as pq

from pipeline.face.table import read_faces
from pipeline.faces import find_faces
from pipeline.pool.pool import Pool
from pipeline.shard import write_shards
from pipeline.synthetic.clip import draw_video
from safe.config import Config
from safe.errors import DataError
from safe.params import load_config
from tools.faults.mutate import mutate
from tools.faults.watch import MB, Outcome, brief, general
from tools.harness import ROOT, held, write_manifest

DEADLINE: Final = 10.0
"""Seconds a clip, and as many for its second try by the other decoder."""
LOT: Final = 250
"""Mutants that go through the stages at once."""
_SLACK: Final = 10.0
"""Seconds beyond both tries in which a child ends, another starts and a busy machine breathes."""
_STATUSES: Final = ("ok", "partial", "missing", "error")
_SOUND: Final = "sound"
"""Key of the clip in each lot that is not damaged."""

OVERRIDES: Final = (
    *("faces.detect_size=64", "shard.size=16", "augment.crop=16"),
    *("model.hidden=8", "synthesize.size=96"),
)
_VIDEOS: Final = (
    *(("h264.mp4", "libx264", 96), ("mpeg4.mp4", "mpeg4", 160), ("mpeg4.avi", "mpeg4", 96)),
    *(("h264.mkv", "libx264", 128), ("h264.mov", "libx264", 64), ("vp9.webm", "libvpx-vp9", 96)),
    *(("mjpeg.avi", "mjpeg", 64), ("h264.ts", "libx264", 96), ("h264.m2ts", "libx264", 64)),
    *(("mpeg2.mpg", "mpeg2video", 96), ("mpeg1.mpg", "mpeg1video", 64), ("flv1.flv", "flv", 96)),
    *(("h264.flv", "libx264", 64), ("ffv1.mkv", "ffv1", 64)),
)
"""File, encoder, side of a frame in pixels."""
_ONE_THREAD: Final = {"preset": "superfast", "x264-params": "threads=1"}
"""Of x264: with its usual settings it does not write the same bytes each time."""
_LARGEST: Final = 300_000
"""Bytes of a real video that is taken too."""


def config() -> Config:
    """Return the project's parameters, for tiny faces and models."""
    return load_config(ROOT / "params.yaml", list(OVERRIDES))


def make_videos(folder: Path, *, real: Path | None = None) -> list[Path]:
    """Write the videos to be damaged; take small ones of a folder of real ones, where it is."""
    folder.mkdir(parents=True)
    for number, (name, codec, size) in enumerate(_VIDEOS, start=1):
        settings = config().synthesize.model_copy(update={"size": size})
        # bitexact: no random ids, no version of FFmpeg, so that mutant n is the same in each
        # round. faststart: one mp4 has its index in front, so that it survives a cut.
        front = {"movflags": "+faststart"} if number == 1 else {}
        with av.open(folder / name, "w", options={"fflags": "+bitexact", **front}) as container:
            options = _ONE_THREAD if codec == "libx264" else {}
            stream = container.add_stream(codec, rate=settings.fps, options=options)
            stream.width = stream.height = size
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.codec_context.bit_rate = 100_000
            stream.codec_context.gop_size = 12
            for pixels in draw_video(number, settings):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    found = [folder / name for name, *_ in _VIDEOS]
    if real is not None and real.is_dir():
        found += sorted(path for path in real.iterdir() if path.stat().st_size <= _LARGEST)
    return found


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
                self.memory.append(held("self", "smaps_rollup", "Pss_Anon") / MB)

    def write(self, number: int, folder: Path) -> tuple[Path, str]:
        """Write mutant `number`; return its file and what was done."""
        original = self.originals[number % len(self.originals)]
        other = self.originals[(number * 7 + 3) % len(self.originals)].read_bytes()
        mutant = mutate(original.read_bytes(), seed=self.seed, number=number, other=other)
        path = folder / f"m{number:06d}{original.suffix}"
        path.write_bytes(mutant.data)
        return path, f"{original.name} {mutant.what}"

    def _lot(self, numbers: list[int]) -> Iterator[Outcome]:
        """Take mutants through the stages; where a stage raises, each half is tried alone."""
        folder = self.scratch / f"lot-{numbers[0]}-{len(numbers)}"
        folder.mkdir(parents=True)
        made = {number: self.write(number, folder) for number in numbers}
        sound = folder / f"{_SOUND}{self.originals[0].suffix}"
        shutil.copyfile(self.originals[0], sound)
        try:
            rows = self._stages(sorted([*(path for path, _ in made.values()), sound]))
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
        for number, (path, what) in made.items():
            came, finding = _judge(rows.get(path.stem))
            if finding:
                self.write(number, self.scratch)  # kept
            yield Outcome("videos", number, what, came, finding=finding)

    def _stages(self, files: list[Path]) -> dict[str, dict[str, Any]]:
        """Run faces and shard; return the row of each clip with the reason why it is left out."""
        manifest, faces, out = (self.scratch / name for name in ("manifest.parquet", "f", "shards"))
        write_manifest(manifest, files, keys=[path.stem for path in files], buckets=2)
        settings, root = config(), Path("/")
        memory = settings.runtime.memory
        limits = {"pool": Pool(workers=self.workers, deadline=DEADLINE, memory=memory)}
        timed = {"settings": settings.faces, "on_done": self._clock()}
        find_faces(manifest, root, faces, **timed, **limits)
        timed = {"settings": settings.shard, "on_done": self._clock()}
        write_shards(manifest, faces, root, out, faces_settings=settings.faces, **timed, **limits)
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

    def _clock(self) -> Callable[[int], None]:
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
