"""Helpers that several tests share: tiny videos, a small project, safe-cli in this process."""

import io
import json
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import chdir, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from datetime import datetime
from fractions import Fraction
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cli.app import main
from pipeline.face.preprocessing import preprocessing
from pipeline.manifest import SCHEMA as MANIFEST
from pipeline.pool.pool import Pool
from pipeline.synthetic.clip import draw_video
from pipeline.tars import ShardWriter, write_index
from safe.config import Config, Model, Synthesize
from safe.evaluation.answers import ABSTAIN, Answer, Verdict
from safe.evaluation.calibration import Calibration
from safe.evaluation.cost import describe
from safe.evaluation.metrics import summarize
from safe.models.registry import build_model
from safe.models.safe import SAFE
from safe.params import load_config
from safe.report.gather import Experiment, gather
from safe.report.timeline import Band
from safe.sample import encode_strip
from safe.saved import save_model
from safe.taxonomy import BASIC, Classes, encode
from safe.training.losses import ACL
from safe.training.passes import Forward
from safe.training.ranks import ALONE, Ranks

ROOT = Path(__file__).resolve().parents[1]


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
    frames = drawn_person(number, size=96)
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


SMALL = (
    "synthesize.clips=70",
    "synthesize.identities=10",
    "synthesize.size=96",
    "synthesize.tail=0",
    "faces.detect_size=160",
    "shard.size=48",
    "shard.clips=5",
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


def mount(*options: str) -> None:
    done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Put an empty disk of that size in a folder's place."""
    folder.mkdir(parents=True, exist_ok=True)
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def run_cli(*arguments: str, folder: Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Run safe-cli in a folder, here."""
    done = call(*arguments, folder=folder)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def options(*more: str) -> list[str]:
    return [word for pair in (*SMALL, *more) for word in ("-S", pair)]


def start_cli(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Start `python -m cli` in a folder, with the project's code."""
    command = [sys.executable, "-m", "cli", *arguments]
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def labels_of(project: Path) -> dict[str, str]:
    """Clip key to class name, read from the split lists."""
    lists = project / "data" / "raw" / "synthetic" / "EmoLabel_DataSplit" / "test(single-labeled)"
    rows = [line.split(",") for path in lists.iterdir() for line in path.read_text().split()[1:]]
    return {f"{int(number):05d}": BASIC[int(label) - 1] for number, label in rows}


def write_manifest(
    path: Path, clips: list[tuple[str, str]], source: str = "video", never: Collection[str] = ()
) -> Path:
    """Write a manifest of clips, of which the files of `never` were not there when it was made."""
    rows = [
        {"clip": clip, "path": file, "label": 0, "bucket": "fold1", "source": source}
        | {"bytes": None if clip in never else 1}
        for clip, file in clips
    ]
    pq.write_table(pa.Table.from_pylist(rows, MANIFEST), path)
    return path


def touch(path: Path, size: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))


def write_dfew(root: Path, spelling: str = "single-labeled") -> None:
    """Ten clips, clip i with DFEW's label i % 7 + 1, in test set i % 5 + 1."""
    for fold in range(1, 6):
        for part in ("train", "test"):
            chosen = [i for i in range(1, 11) if (i % 5 + 1 == fold) == (part == "test")]
            lines = ["video_name,label", *(f"{i},{i % 7 + 1}" for i in chosen)]
            file = root / "EmoLabel_DataSplit" / f"{part}({spelling})" / f"set_{fold}.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\r\n".join(lines) + "\r\n")
    for i in range(1, 10):  # clip 10 is missing
        place = root / "Clip/original" / ("part_1" if i < 5 else "part_2/more")
        touch(place / (f"{i}.mp4" if i % 2 else f"{i:05d}.mp4"), size=i)
    touch(root / "Clip/original/12345.mp4")  # in no list
    touch(root / "Clip/original/notes.mp4")


def write_ferv39k(root: Path) -> None:
    lists = {
        "train": ["Action/Happy/0267 Happy", "Action/Sad/0001 Sad", "War/Fear/0103 Fear"],
        "test": ["War/Angry/0267 Angry", "War/Disgust/0004 Disgust"],
    }
    for part, lines in lists.items():
        file = root / "4_setups/All_scenes" / f"{part}_All.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines) + "\n")
    touch(root / "0_7_LabelClips/Action/Happy/0267.mp4", size=5)
    touch(root / "0_7_LabelClips/War/Angry/0267.mp4", size=7)
    touch(root / "2_ClipsforFaceCrop/War/Fear/0103/1.jpg", size=2)
    touch(root / "2_ClipsforFaceCrop/War/Fear/0103/2.jpg", size=3)


BLACK_FACE = np.zeros((8, 8, 3), np.uint8)


def answer(start: float, name: str, *, sure: bool = True, flags=(), length: float = 2.0) -> Answer:
    """0.7 for the class, the rest shared."""
    chances = tuple(0.7 if each == name else 0.3 / 6 for each in BASIC)
    verdict = Verdict(chances, name if sure else ABSTAIN, None)
    return Answer("a.mp4", start, start + length, 1, verdict, (0, 0, 1, 1), flags)


def band(*answers: Answer) -> Band:
    made = Band(BLACK_FACE)
    for each in answers:
        made.add(each)
    return made


SMALL_SAFE = {
    **{"name": "safe", "backbone": "small", "temporal": "s2am2"},
    **{"window": 4, "stride": 2, "hidden": 8, "dropout": 0.2},
}


DOUBLING = Calibration(
    method="temperature", scale=(2.0,), level=0.9, cutoffs=(0.12,), threshold=0.1, clips=9
)


PREDICT: dict[str, Any] = {
    **{"form": "jsonl", "timeline": True, "video": False, "device": "cpu", "other_crops": False},
    **{"face": "all", "window": 2.8, "hop": None, "batch": 4, "workers": 1},
    **{"deadline": 60.0, "memory": 4.0},
}


def save_untrained(
    folder: Path,
    config: Config,
    *,
    classes: Classes = BASIC,
    architecture: dict[str, Any] = SMALL_SAFE,
    **preprocessed: Any,
) -> Path:
    """A model with weights as they are drawn, for the crops of `config`."""
    torch.manual_seed(3)
    frames = config.shard.frames
    network = build_model(len(classes), frames=frames, **architecture, weights=None)
    info = {
        "classes": classes,
        "architecture": architecture,
        "frames": frames,
        "crop": 32,
        "preprocessing": preprocessing("video", faces=config.faces, shard=config.shard),
        "fold": 1,
        "selection": {"rule": "last", "metric": None, "epoch": 2},
        "params": config.model_dump(mode="json"),
        "history": [],
        "calibration": DOUBLING.record(),
    }
    info["preprocessing"] |= preprocessed
    save_model(folder, network.state_dict(), info)
    return folder


@cache
def drawn_person(number: int, *, size: int = 128, label: str = "happy") -> NDArray[np.uint8]:
    """A person of that number who shows a class, uint8 [N, size, size, 3]."""
    return draw_video(number, Synthesize(size=size), label=label)


EIGHT_LABELS = torch.tensor([0, 1, 1, 2, 0, 3, 1, 0])


def build_small() -> SAFE:
    torch.manual_seed(0)
    model = SAFE(
        classes=7,
        backbone="small",
        weights=None,
        temporal="s2am2",
        window=4,
        stride=4,
        hidden=8,
        dropout=0.5,
    )
    return model.double()


def build_acl(**changes) -> ACL:
    settings = {"cal": True, "fcl": True, "top_k": 2, "tau": 0.5, "lambda_1": 0.5, "lambda_2": 2.0}
    return ACL(torch.tensor([5, 4, 3, 2, 1, 1, 1]), **(settings | changes)).double()


def eight_clips() -> Tensor:
    return torch.randn(len(EIGHT_LABELS), 3, 16, 16, 16, dtype=torch.float64)


def backward(
    network: nn.Module, acl: ACL, clips: Tensor, labels: Tensor, *, ranks: Ranks = ALONE, **how: Any
) -> tuple[dict[str, Tensor], Tensor]:
    """Forward, loss and backward of a batch; the losses and the logits, without a graph."""
    outputs = Forward(network, clips, ranks=ranks, **how)
    losses = acl(outputs.logits, outputs.embedding, labels)
    outputs.backward(losses["loss"])
    ranks.sum_gradients(network, acl)
    return {name: loss.detach() for name, loss in losses.items()}, outputs.logits.detach()


def gradients(*modules: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for module in modules for p in module.parameters()])


SHORT_STEPS = (
    *("augment.crop=16", "tam.block=8", "model.stride=12", "train.batch=12", "train.epochs=5"),
    *("train.lr=0.000005", "train.lr_min=0.000001", "runtime.workers=0"),
)
"""Short steps. The rate is small, since AdamW makes a whole step of a gradient's mere rounding."""


FCL = ["acl.fcl=true", "acl.lambda_2=0.1", "model.dropout=0.3"]


NOON = datetime(2026, 11, 23, 12, 0)


HOSTILE = "</style><script>alert(1)</script><img src=x onerror=alert(2)>"


EVERY_CLASS = Calibration(
    method="temperature",
    scale=(0.8,) * 7,
    level=0.9,
    cutoffs=(0.1, 0.2, 0.1, 0.15, 0.1, 0.05, 0.0),
    risk=0.2,
    threshold=0.45,
    clips=40,
)


SMALL_NETWORK = {"name": "safe", "backbone": "small", "temporal": "s2am2", "window": 4, "stride": 2}


def write_fold(
    root: Path,
    fold: int,
    *,
    n: int = 60,
    skill: float = 2.0,
    calibration: Calibration | None = EVERY_CLASS,
    prefix: str = "clip",
    classes: Classes = BASIC,
    present: int = 100,
    windows: int = 7,
    **more: Any,
) -> None:
    """Write predictions, metrics.json and a model of made-up numbers, as the stages do.

    Only the first classes are `present` in the test split.
    """
    k = len(classes)
    rng = np.random.default_rng(fold)
    label = rng.permutation(np.arange(n) % min(k, present))
    logits = rng.normal(size=(n, k)) + skill * np.eye(k)[label]
    attention = rng.dirichlet(np.ones(windows), n)
    out = root / "runs/synthetic/eval" / f"fold-{fold}"
    out.mkdir(parents=True)
    table = {
        "clip": [f"{prefix}-{fold}-{i:03d}" for i in range(n)],
        "label": label.astype(np.int8),
        "logits": list(logits.astype(np.float32)),
        "embedding": list((np.eye(k)[label] + rng.normal(size=(n, k))).astype(np.float32)),
        "attention": list(attention.astype(np.float32)),
    }
    said = pa.table(table).replace_schema_metadata(encode(classes))
    pq.write_table(said, out / "predictions.parquet")
    figures = {"n_test": n, "n_left_out": fold, "selection": "val", "perturb": "none"}
    (out / "metrics.json").write_text(json.dumps(summarize(logits, label, 15, classes) | figures))
    info = {
        "classes": classes,
        "architecture": {**SMALL_NETWORK, "hidden": 16, "dropout": 0.2},
        "crop": 32,
        "preprocessing": {"id": "0123456789abcdef"},
        "dataset": "synthetic",
        "fold": fold,
        "seed": 3,
        "selection": {"rule": "val", "metric": "uar", "epoch": 2},
        "train_clips": 4 * n,
        "commit": "c0ffee0" * 5,
        "torch": torch.__version__,
        "params": {"seed": 3, "train": {"lr": 0.001, "epochs": 2}, "eval": {"bins": 10}},
        "history": [
            {"loss": 2.0 - e, "ce": 1.5 - e, "train_uar": 40.0 * (e + 1), "lr": 1e-3}
            | {"clips_per_s": 50.0}
            for e in range(2)
        ],
        "cost": describe(Model(**SMALL_NETWORK, hidden=16), classes=k, frames=16, crop=32),
        **more,
    }
    if calibration:
        info["calibration"] = calibration.record()
    save_model(root / "runs/synthetic/calibrate" / f"fold-{fold}", {"w": torch.zeros(1)}, info)


def bare_info(**more: Any) -> dict[str, Any]:
    """Return a model.json without its checksum that says no more than it must."""
    return {
        "format": 2,
        "weights": {"sha256": "0" * 64, "bytes": 1},
        "classes": list(BASIC),
        "architecture": {},
        "crop": 32,
        "preprocessing": {"id": "0123456789abcdef"},
        "fold": 1,
        "selection": {"rule": "last", "epoch": 2},
        "history": [],
        **more,
    }


def write_half(root: Path, experiment: Experiment, frames: int = 16) -> Path:
    """Write shards of half of the clips; a clip's faces grow brighter, those of row i from i."""
    out = root / "data/synthetic/shards"
    out.mkdir(parents=True)
    writer = ShardWriter(out, clips=100, classes=experiment.classes)
    split = experiment.split
    for i in range(0, len(split.clip), 2):
        faces = (
            np.full((frames, 64, 64, 3), 40 + i, np.uint8)
            + 4 * np.arange(frames, dtype=np.uint8)[:, None, None, None]
        )
        strip = encode_strip(faces, 95, "420")
        writer.add(
            split.clip[i],
            bucket=f"fold{experiment.fold_of[i]}",
            label=int(split.label[i]),
            strip=strip,
            record={"flags": ""},
        )
    writer.close()
    left_out = [{"clip": split.clip[i], "bucket": "fold1", "reason": HOSTILE} for i in (1, 3, 5)]
    made = {"id": "0123456789abcdef", "made_from": {"size": 64, "source": "video"}}
    classes = experiment.classes
    parts = {"left_out": left_out, "made": made, "frames": frames}
    write_index(out, classes=classes, shards=writer.shards, rows=writer.rows, **parts)
    return out


def read_experiment(root: Path, name: str = "ours", folds: tuple[int, ...] = (1, 2)) -> Experiment:
    runs = Path("runs/synthetic")
    return gather(
        name,
        lambda path: (root / path).read_bytes(),
        evals=runs / "eval",
        models=(runs / "calibrate", runs / "train"),
        folds=folds,
    )


class Page(HTMLParser):
    """Every element with its attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self.open: list[str] = []
        self.problems: list[str] = []
        self.feed(text)

    VOID = frozenset({"meta", "link", "img", "br"})

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.words += " " if tag in ("td", "th", "dd", "dt") else ""
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.problems.append(tag)

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, *names: str) -> list[dict[str, str]]:
        return [attrs for tag, attrs in self.tags if tag in names]


@contextmanager
def no_children() -> Iterator[None]:
    """Let a pool do its tasks in this process: a child takes most of a second to start.

    For tests of what tasks give; that children give the same has tests of its own, as has the guard
    that they are.
    """

    def run(self: Pool, function: Any, tasks: Any, setup: Any, _fallback: Any) -> Iterator[Any]:
        (setup or int)()
        for task in tasks:
            with nullcontext(task) if self.clips is None else self.clips.fetch(task) as ready:
                result = function(ready)
            yield result

    with mock.patch.object(Pool, "_run_here", run):
        yield
