"""The page of an experiment, beside which others, and what is known of its data."""

import platform
import subprocess
from collections import Counter
from contextlib import suppress
from datetime import datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cli.layout import Layout, note_out, read
from cli.progress import say
from safe.config import Data
from safe.errors import ConfigError, DataError, SafeError
from safe.evaluation.held import Held, held, read_out
from safe.evaluation.predictions import PREDICTIONS_BYTES
from safe.evaluation.sheet import PARAMS
from safe.files import atomic_file, read_bounded
from safe.params import YAML_BYTES, one_line, parse_mapping, read_mapping
from safe.report.gather import Experiment, Reader, Sources, gather
from safe.report.page import render_page

if TYPE_CHECKING:
    import pyarrow as pa

PACKAGES = ("safe-dfer", "torch", "numpy", "scikit-learn", "dvc")


def run_report(
    params: Path, overrides: list[str] | None, others: list[str], out: Path, *, faces: bool
) -> None:
    """Write the page of the experiment of params.yaml, beside others."""
    config, layout = read(params, overrides)
    experiment = _gather("workspace", partial(_read_there, Path()), layout, config.data.folds)
    beside = _others(others, layout, config.data.folds)
    given = _sources(layout, params, faces=faces)
    page = render_page(experiment, beside, given, now=datetime.now())
    with atomic_file(note_out("report", out)) as temporary:
        temporary.write_text(page, encoding="utf-8")
    for sentence in experiment.missing:
        say(f"report: {sentence}")
    shown = ", with faces: keep it as the clips are kept" if "data:image/" in page else ""
    say(f"report: {out}, {out.stat().st_size / 1e6:.1f} MB{shown}")


def _gather(name: str, read_: Reader, layout: Layout, folds: list[int]) -> Experiment:
    return gather(
        name, read_, evals=layout.evals, models=(layout.calibrates, layout.trains), folds=folds
    )


def _others(names: list[str], layout: Layout, folds: list[int]) -> list[Experiment]:
    """Read the experiments to compare with: folders of projects, or names in DVC.

    Each by its own params.yaml, as far as it has one.

    Raises:
        ConfigError: if a name is neither.
        DataError: if an experiment has no predictions, or DVC fails.
    """
    there = held(Path()) if any(not Path(name).is_dir() for name in names) else []
    found = []
    for name in names:
        root, params = Path(name), {}
        if root.is_dir():
            title, reader = root.resolve().name, partial(_read_there, root)
            if (root / PARAMS).is_file():
                params = read_mapping(root / PARAMS, missing="")
        else:
            one = _named(name, there)
            title, params, reader = one.name, one.params, partial(_read_held, one.rev)
        data = _data(params, name, Data(name=layout.name, folds=folds))
        found.append(_gather(title, reader, Layout(data.name), data.folds))
    return found


def _data(params: dict[str, Any], name: str, ours: Data) -> Data:
    """Return which data set and folds the params of another experiment name, else ours."""
    given = params.get("data")
    given = given if isinstance(given, dict) else {}
    known = {key: given[key] for key in ("name", "folds") if key in given}
    try:
        return Data.model_validate({"name": ours.name, "folds": ours.folds} | known)
    except ValidationError as error:
        raise ConfigError(one_line(error, f"--with {name}: data", see="params.yaml")) from error


def _read_there(root: Path, path: Path) -> bytes:
    return read_bounded(root / path, most=PREDICTIONS_BYTES, error=DataError)


def _read_held(rev: str, path: Path) -> bytes:
    return read_out(Path(), rev, path.as_posix())


def _named(name: str, there: list[Held]) -> Held:
    """Find an experiment or commit by its name or the beginning of its revision."""
    for one in there:
        if one.name == name or (len(name) >= 7 and one.rev.startswith(name)):
            return one
    names = ", ".join(dict.fromkeys(one.name for one in there)) or "none"
    raise ConfigError(
        f"--with {name}: neither a folder nor an experiment with results in DVC; there are: {names}"
    )


def _sources(layout: Layout, params: Path, *, faces: bool) -> Sources:
    """Collect what is known beside the predictions."""
    defaults, where = _defaults(params)
    statuses, reasons = _face_counts(layout)
    return Sources(
        shards=layout.shards,
        faces=faces,
        factors=_factors(layout),
        manifest=_clips(layout),
        statuses=statuses,
        reasons=reasons,
        defaults=defaults,
        defaults_from=where,
        about=_about(),
        outs=_outs(Path("dvc.lock")),
    )


def _factors(layout: Layout) -> "pa.Table | None":
    from safe.evaluation.groups import read_factors

    try:
        return read_factors(layout.factors)
    except DataError:
        return None


def _clips(layout: Layout) -> int | None:
    from pipeline.manifest import read_manifest

    try:
        return int(read_manifest(layout.manifest).num_rows)
    except (SafeError, OSError):
        return None


def _face_counts(layout: Layout) -> tuple[dict[str, int], dict[str, int]]:
    """Count the clips of faces.parquet by status, and those that are not ok by reason."""
    from pipeline.face.table import read_faces

    try:
        table = read_faces(layout.faces)
    except (DataError, OSError):
        return {}, {}
    pairs = list(zip(table["status"].to_pylist(), table["reason"].to_pylist(), strict=True))
    reasons = Counter(reason for status, reason in pairs if status != "ok" and reason)
    return dict(Counter(status for status, _ in pairs)), dict(reasons.most_common(20))


def _defaults(params: Path) -> tuple[dict[str, Any] | None, str]:
    """Return params.yaml as last committed, since DVC writes what `-S` says into the file."""
    command = ["git", "show", f"HEAD:./{params.name}"]
    with (
        suppress(OSError, ConfigError),
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=params.absolute().parent
        ) as done,
    ):
        assert done.stdout is not None
        data = done.stdout.read(YAML_BYTES + 1)  # it may be a file of gigabytes
        done.stdout.close()
        if done.wait() == 0:
            return parse_mapping(data, params.name), f"{params.name} as committed"
    try:
        return read_mapping(params, missing=""), f"{params.name} as it is now"
    except ConfigError:
        return None, params.name


def _about() -> list[tuple[str, str]]:
    """Return what made the page: machine and versions."""
    rows = [("machine", f"{platform.machine()}, {platform.system()} {platform.release()}")]
    rows.append(("Python", platform.python_version()))
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            rows.append((name, version(name)))
    return rows


def _outs(lock: Path) -> list[tuple[str, str, int]]:
    """List the outputs in dvc.lock with their checksums; none without one."""
    try:
        stages = read_mapping(lock, missing="").get("stages") or {}
        outs = [out for stage in stages.values() for out in stage.get("outs", [])]
        return [(str(out["path"]), str(out["md5"]), int(out.get("size", 0))) for out in outs]
    except (ConfigError, AttributeError, KeyError, TypeError, ValueError):
        return []
