"""Which sound files are the mutants made from?

Small videos of drawn faces in every container of the promise, a shard folder, a model folder and a
checkpoint, all written by the project's own code (videos: PyAV).
"""

from pathlib import Path
from typing import Final

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.datasets.animate import Clip, draw_clip
from pipeline.faces import find_faces
from pipeline.manifest import SCHEMA, with_classes
from pipeline.shard import write_shards
from safe.config import Config
from safe.params import load_config
from safe.sample import DEFAULT_FRAMES, encode_strip
from safe.taxonomy import BASIC

ROOT: Final = Path(__file__).parents[1]

OVERRIDES: Final = (
    "faces.detect_size=64",
    "shard.size=16",
    "augment.crop=16",
    "model.hidden=8",
    "synthesize.size=96",
)

_VIDEOS: Final = (
    ("h264.mp4", "libx264", 96),
    ("mpeg4.mp4", "mpeg4", 160),
    ("mpeg4.avi", "mpeg4", 96),
    ("h264.mkv", "libx264", 128),
    ("h264.mov", "libx264", 64),
    ("vp9.webm", "libvpx-vp9", 96),
    ("mjpeg.avi", "mjpeg", 64),
    ("h264.ts", "libx264", 96),
    ("h264.m2ts", "libx264", 64),
    ("mpeg2.mpg", "mpeg2video", 96),
    ("mpeg1.mpg", "mpeg1video", 64),
    ("flv1.flv", "flv", 96),
    ("h264.flv", "libx264", 64),
    ("ffv1.mkv", "ffv1", 64),
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
        drawn = Clip(
            number=number, identity=number, fold=1, label="happy", blend="", share=1, peak=1
        )
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
            for pixels in draw_clip(drawn, settings):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    found = [folder / name for name, *_ in _VIDEOS]
    if real is not None and real.is_dir():
        found += sorted(path for path in real.iterdir() if path.stat().st_size <= _LARGEST)
    return found


def write_manifest(path: Path, files: list[str], root: Path, *, source: str) -> None:
    """Write a manifest of files below `root`, in the order of their names, in two buckets."""
    rows = [
        {
            "clip": Path(name).stem,
            "path": name,
            "label": number % len(BASIC),
            "bucket": f"fold{1 + number % 2}",
            "source": source,
            "bytes": (root / name).stat().st_size,
        }
        for number, name in enumerate(sorted(files))
    ]
    pq.write_table(with_classes(pa.Table.from_pylist(rows, SCHEMA), BASIC), path)


def make_shards(folder: Path) -> Path:
    """Write a shard folder of two tars with three clips each, by the project's own stages."""
    root = folder / "strips"
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"c{number:02d}.jpg" for number in range(6)]
    for name in names:
        coarse = rng.integers(0, 256, (DEFAULT_FRAMES, 4, 4, 3), dtype=np.uint8)
        faces = coarse.repeat(4, axis=1).repeat(4, axis=2)
        (root / name).write_bytes(encode_strip(faces, 90, "420"))
    settings = config()
    tables = [folder / name for name in ("manifest.parquet", "faces.parquet")]
    write_manifest(tables[0], names, root, source="strips")
    find_faces(tables[0], root, tables[1], settings=settings.faces, workers=1, deadline=60)
    out = folder / "shards"
    stages = {"settings": settings.shard, "faces_settings": settings.faces}
    write_shards(*tables, root, out, **stages, workers=1, deadline=60)
    return out


def make_model(folder: Path) -> Path:
    """Write a model folder and in it a folder of two checkpoints of some of its weights."""
    import torch

    from safe.networks.build import build_model
    from safe.saved import save_model
    from safe.training.checkpoint import save_checkpoint

    architecture = config().model.model_dump(exclude={"weights"})
    torch.manual_seed(0)
    weights = build_model(len(BASIC), **architecture, weights=None).state_dict()
    info = {
        "classes": list(BASIC),
        "architecture": architecture,
        "crop": 16,
        "preprocessing": {"id": "0" * 16, "made_from": {"size": 16}},
        "dataset": "synthetic",
        "fold": 1,
        "seed": 0,
        "selection": {"rule": "last", "metric": None, "epoch": 2},
        "train_clips": 100,
        "params": config().model_dump(exclude={"runtime"}),
        "history": [{"loss": 1.5}, {"loss": 1.25}],
    }
    save_model(folder, weights, info)
    few = dict(list(weights.items())[:6])
    save_checkpoint(folder / "checkpoints", few, {"step": 6, "epoch": 1})
    save_checkpoint(folder / "checkpoints", few, {"step": 7, "epoch": 1})
    return folder
