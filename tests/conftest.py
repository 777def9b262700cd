"""What do tests share: the real data, tiny videos of known pixels, a small project, safe-cli?"""

import fcntl
import gc
import io
import os
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from fractions import Fraction
from pathlib import Path
from unittest import mock

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from s3 import proxy, server  # noqa: F401 - fixtures

from cli.app import main
from pipeline.faces import find_faces
from pipeline.index import build_index
from pipeline.shard import write_shards
from pipeline.synthetic.plan import plan_clips, synthesize
from pipeline.synthetic.render import draw_clip
from safe.config import Config
from safe.params import load_config

# Tiny tensors gain nothing from threads, which on a busy machine wait for one another.
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_finish() -> None:
    """Take what is imported out of the collector's sight: it looks at 700,000 objects else."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the end be as it always is: nanobind complains of what is never collected."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real videos and official splits; skip the test where it is absent."""
    folder = Path(os.environ.get("SAFE_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"real data not here: no folder {folder / 'data'} (set SAFE_SHARED)")
    return folder


def write_video(
    path: Path,
    frames: NDArray[np.uint8],
    *,
    fps: float = 25,
    rotation: int = 0,
    gop: int = 12,
) -> Path:
    """Write RGB frames uint8 [N, H, W, 3] (H, W even) as an H.264 mp4 of near-lossless quality.

    `rotation` is written as metadata, in degrees counter-clockwise: what a player must turn the
    stored frames by. `gop` is the number of frames from one key frame to the next.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "8", "preset": "veryfast"}
        stream.codec_context.gop_size = gop
        if rotation:
            stream.set_display_rotation(rotation)
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_at(
    path: Path, frames: NDArray[np.uint8], moments: list[int], *, sound: bool = False
) -> Path:
    """Write frames at moments in milliseconds; with `sound`, beside silence that begins at 0."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, 1000)
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.options = {"crf": "8", "preset": "veryfast", "g": "12"}
        if sound:
            audio = container.add_stream("aac", rate=16_000, layout="mono")
            silence = np.zeros((1, 16_000), np.float32)
            noise = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            noise.sample_rate, noise.pts, noise.time_base = 16_000, 0, Fraction(1, 16_000)
            container.mux(audio.encode(noise))
            container.mux(audio.encode())
        for moment, pixels in zip(moments, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = moment, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def drawn_faces(number: int, count: int) -> NDArray[np.uint8]:
    """Return the first frames of a drawn person, to and fro, uint8 [count, 96, 96, 3]."""
    look = load_config(ROOT / "params.yaml", ["synthesize.size=96"]).synthesize
    frames = draw_clip(plan_clips(look)[number], look)
    there_and_back = [*frames, *frames[::-1]]
    return np.stack([there_and_back[i % len(there_and_back)] for i in range(count)])


def grey_ramp(count: int, *, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """Return uint8 [count, height, width, 3]; frame i is a flat grey that grows with i."""
    levels = np.linspace(20, 235, count).round().astype(np.uint8)
    shape = (count, height, width, 3)
    return np.ascontiguousarray(np.broadcast_to(levels[:, None, None, None], shape))


def call(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Do what `safe-cli WORDS` does in a folder, in this process: a start with torch takes seconds.

    What only a process of its own shows has tests of its own (its exit code, signals).
    """
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        chdir(folder),
        mock.patch.object(sys, "argv", ["safe-cli", *words]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 105 small animated clips taken through index, faces and shard.

    Not to be changed: of several workers the first makes it, and all use it.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, made = shared / "project", shared / "project-made"
    with (shared / "project-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            make_project(folder)
            made.touch()
    return folder


def make_project(folder: Path) -> None:
    config = small_config(folder)
    root = Path(config.data.root)
    data = folder / "data" / "synthetic"
    synthesize(root, config.synthesize, workers=2)
    build_index(config.data, data / "manifest.parquet")
    tables = (data / "manifest.parquet", root, data / "faces.parquet")
    find_faces(*tables, settings=config.faces, workers=2, deadline=60)
    write_shards(
        data / "manifest.parquet",
        data / "faces.parquet",
        root,
        data / "shards",
        settings=config.shard,
        faces_settings=config.faces,
        workers=2,
        deadline=60,
    )


@pytest.fixture
def shards(project: Path) -> Path:
    """Return the shard folder of `project`; not to be changed."""
    return project / "data" / "synthetic" / "shards"


SMALL = (
    "synthesize.clips=105",
    "synthesize.identities=10",
    "synthesize.size=96",
    "synthesize.tail=0",
    "faces.detect_size=160",
    "shard.size=48",
    "shard.clips=8",
    "augment.crop=32",
    "tam.bank=2",
    "model.hidden=16",
    "model.stride=4",
    "train.epochs=2",
    "train.batch=8",
    "train.warmup=0",
    "train.select=last",
    "eval.batch=16",
    "runtime.device=cpu",
)
"""What makes a run small enough for a test; the rest is params.yaml."""

TINY = (
    *SMALL,
    *("synthesize.clips=35", "synthesize.identities=5", "synthesize.size=64", "shard.size=32"),
)
"""What makes the whole pipeline small enough to be run several times in one test."""


def small_config(folder: Path, *overrides: str) -> Config:
    """Return the project's own parameters, small, with the data below `folder`."""
    root = f"data.root={folder / 'data' / 'raw' / 'synthetic'}"
    return load_config(ROOT / "params.yaml", [root, *SMALL, *overrides])
