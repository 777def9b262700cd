"""An experiment as its files tell it: predictions, metrics and models of its folds.

Files are read through a function from path to bytes, so that an experiment may lie in a folder or
in DVC's cache. What is missing is told in words; only without any predictions there is nothing to
report. Shapes: n clips, K classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from safe.errors import DataError, ModelError
from safe.evaluation.calibration import Calibration
from safe.evaluation.metrics import Floats, Ints, softmax
from safe.evaluation.predictions import Split, parse_metrics, parse_predictions, pool
from safe.info import parse_info
from safe.taxonomy import Classes

Reader = Callable[[Path], bytes]
"""A file's bytes by its path from the project's folder; OSError or DataError where it is not."""


@dataclass(frozen=True)
class Sources:
    """What the caller knows beside the folds; all may be missing."""

    shards: Path | None = None
    """The shard folder, for faces and for what was left out."""
    faces: bool = True
    """Whether faces may be in the page."""
    factors: pa.Table | None = None
    """What is known of each clip, to group by (safe/evaluation/groups.py)."""
    manifest: int | None = None
    """Clips of the manifest."""
    statuses: Mapping[str, int] = field(default_factory=dict)
    """Clips of faces.parquet by status."""
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Clips of faces.parquet that are not ok, by reason."""
    defaults: Mapping[str, Any] | None = None
    """Nested params to compare with."""
    defaults_from: str = "params.yaml"
    """What these are."""
    about: Sequence[tuple[str, str]] = ()
    """Versions, commit, machine: what and which."""
    outs: Sequence[tuple[str, str, int]] = ()
    """Outputs in dvc.lock: path, md5, bytes."""


@dataclass(frozen=True)
class Fold:
    """What is there of one fold."""

    split: Split = field(repr=False)
    """The predictions of its test clips; scaled is by its own calibration."""
    metrics: dict[str, Any] = field(repr=False)
    """metrics.json of the evaluation, or empty."""
    info: dict[str, Any] = field(repr=False)
    """model.json, or empty."""

    @cached_property
    def calibration(self) -> Calibration:
        """How the model's logits are read."""
        return Calibration.from_info(self.info)


@dataclass(frozen=True)
class Experiment:
    """One experiment: its folds, in order, and what could not be read, a sentence each."""

    name: str
    folds: Mapping[int, Fold]
    missing: tuple[str, ...] = ()

    @property
    def first(self) -> Fold:
        """The first fold, whose params, network and method of calibration are those of all."""
        return next(iter(self.folds.values()))

    @cached_property
    def split(self) -> Split:
        """The test clips of all folds; scaled are their logits by each fold's calibration."""
        return pool([fold.split for fold in self.folds.values()])

    @property
    def classes(self) -> Classes:
        """Those of the model, K names."""
        return self.split.classes

    @cached_property
    def fold_of(self) -> Ints:
        """int64 [n], the fold that each clip is a test clip of."""
        counts = [len(fold.split.label) for fold in self.folds.values()]
        return np.repeat(np.array(list(self.folds), dtype=np.int64), counts)

    @cached_property
    def probabilities(self) -> Floats:
        """float64 [n, K], calibrated where there is a calibration."""
        return softmax(np.asarray(self.split.scaled))

    @cached_property
    def sets(self) -> NDArray[np.bool_] | None:
        """Which classes are in each clip's prediction set, bool [n, K]; None without a level."""
        return None if self.calibration.level is None else self._per_fold(Calibration.sets)

    @cached_property
    def abstains(self) -> NDArray[np.bool_]:
        """Which clips get no decision, bool [n]."""
        return self._per_fold(Calibration.abstains)

    def _per_fold(self, ask: Callable[[Calibration, Floats], Any]) -> NDArray[np.bool_]:
        """Ask the calibration of each fold about the probabilities of its clips."""
        parts = [
            ask(fold.calibration, self.probabilities[self.fold_of == number])
            for number, fold in self.folds.items()
        ]
        return np.concatenate(parts)

    @property
    def calibration(self) -> Calibration:
        """That of the first fold: method, level and risk are those of all."""
        return self.first.calibration

    @property
    def calibrated(self) -> bool:
        """Whether the logits are scaled."""
        return any(fold.calibration.method != "none" for fold in self.folds.values())

    @property
    def network(self) -> dict[str, Any]:
        """The architecture, as model.json gives it; empty without one."""
        return _mapping(self.first.info.get("architecture"))

    @property
    def frames(self) -> int | None:
        """Frames of a clip, as model.json gives them; None without one."""
        found: int | None = self.first.info.get("frames")
        return found

    @property
    def dataset(self) -> str:
        """Name of the dataset that the model was trained on."""
        names = (fold.info.get("dataset") for fold in self.folds.values())
        return next((str(name) for name in names if name), "a dataset that is not known")

    @cached_property
    def params(self) -> dict[str, Any]:
        """Section to key to value, as trained, and of `eval` what the evaluation says it did."""
        params, metrics = dict(_mapping(self.first.info.get("params"))), self.first.metrics
        if isinstance(params.get("eval"), dict):
            done = {key: metrics[key] for key in _EVALUATED if key in metrics}
            params["eval"] = params["eval"] | done
        return params

    @property
    def bins(self) -> int:
        """Bins of the ECE."""
        bins = _mapping(self.params.get("eval")).get("bins")
        return bins if isinstance(bins, int) and bins > 0 else 15

    @property
    def selection(self) -> str | None:
        """How the epoch was chosen; the rules of all folds, if they differ; None if unknown."""
        rules = {
            fold.metrics.get("selection") or fold.info.get("selection", {}).get("rule")
            for fold in self.folds.values()
        }
        return ", ".join(sorted(str(rule) for rule in rules if rule)) or None

    @property
    def left_out(self) -> int | None:
        """How many test clips are in no shard; None where an evaluation does not say."""
        counts = [fold.metrics.get("n_left_out") for fold in self.folds.values()]
        return None if None in counts else sum(int(count or 0) for count in counts)


_EVALUATED: Final = ("perturb", "severity", "precision")


def gather(
    name: str, read: Reader, *, evals: Path, models: Sequence[Path], folds: Sequence[int]
) -> Experiment:
    """Read what there is of an experiment.

    Args:
        name: what the page calls it.
        read: gives files.
        evals: folder of fold-<k>/predictions.parquet and metrics.json.
        models: folders of fold-<k>/model.json; the first that has one is the model.
        folds: which.

    Raises:
        DataError: if no fold has predictions.
    """
    found: dict[int, Fold] = {}
    missing: list[str] = []
    for number in folds:
        location = evals / f"fold-{number}"
        path = location / "predictions.parquet"
        try:
            split = parse_predictions(read(path), str(path))
        except (OSError, DataError) as error:
            missing.append(f"Fold {number} has no predictions: {_said(error, path)}.")
            continue
        path = location / "metrics.json"
        try:
            metrics = parse_metrics(read(path), str(path))
        except (OSError, DataError) as error:
            missing.append(f"Fold {number}: {_said(error, path)}.")
            metrics = {}
        info, problem = _read_model(read, [folder / f"fold-{number}" for folder in models])
        if info and tuple(info["classes"]) != split.classes:
            info, problem = {}, "has a model of other classes than its predictions"
        if problem:
            missing.append(f"Fold {number} {problem}: its params and curves are not known.")
        scaled = Calibration.from_info(info).scaled(split.logits)
        found[number] = Fold(replace(split, scaled=scaled), metrics, info)
    if not found:
        raise DataError(
            f"{name}: no predictions of fold {', '.join(map(str, folds))} in {evals}; "
            "`safe-cli eval` makes them"
        )
    return Experiment(name, found, tuple(missing))


def _read_model(read: Reader, folders: Sequence[Path]) -> tuple[dict[str, Any], str]:
    """Read the first model.json there is; empty, with a reason, where none can be used."""
    problem = "has no model.json"
    for path in (folder / "model.json" for folder in folders):
        try:
            return parse_info(read(path), path), ""
        except FileNotFoundError:
            continue
        except (OSError, DataError, ModelError) as error:
            problem = f"has no model ({_said(error, path)})"
    return {}, problem


def _mapping(value: Any) -> dict[str, Any]:
    """Return a JSON object as it is, and nothing of any other value."""
    return value if isinstance(value, dict) else {}


def _said(error: Exception, path: Path) -> str:
    """Say what is wrong with a file in a few words."""
    if isinstance(error, FileNotFoundError):
        return f"{path} not found"
    return f"{path} cannot be read ({error})" if isinstance(error, OSError) else str(error)
