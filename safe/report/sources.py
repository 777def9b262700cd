"""What is known of an experiment beside its predictions: data, cost, params, provenance?"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safe.errors import DataError, ModelError
from safe.report.gather import Experiment
from safe.report.results import differing, flat, told
from safe.shards.folder import ShardFolder, open_shards


@dataclass(frozen=True)
class Sources:
    """What the caller knows; all may be missing."""

    shards: Path | None = None
    """The shard folder, for faces and for what was left out."""
    faces: bool = True
    """Whether faces may be in the page."""
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
class Data:
    """The receipts of the data, and the folder to read faces from."""

    folder: ShardFolder | None
    problem: str
    """Why there is no folder; empty if there is one."""
    rows: tuple[tuple[str, int], ...]
    """What and how many clips, from the manifest to the shards."""
    buckets: tuple[tuple[str, int, int], ...]
    """Bucket, clips in shards, clips left out."""
    left_out: tuple[tuple[str, int], ...]
    """Reason and clips, the most frequent first."""


def data(sources: Sources) -> Data:
    """Count what came of the clips, from the manifest to the shards."""
    rows: list[tuple[str, int]] = []
    if sources.manifest is not None:
        rows.append(("clips in the manifest", sources.manifest))
    rows += [(f"faces: {status}", count) for status, count in sources.statuses.items()]
    if sources.shards is None:
        return Data(None, "The shards of this experiment are not at hand.", tuple(rows), (), ())
    try:
        folder = open_shards(sources.shards)
    except (DataError, OSError) as error:
        return Data(None, f"The shards cannot be read: {error}.", tuple(rows), (), ())
    left = folder.index["left_out"]
    rows += [("clips in shards", len(folder.clip)), ("clips left out of the shards", len(left))]
    inside = Counter(folder.bucket.tolist())
    outside = Counter(entry["bucket"] for entry in left)
    buckets = [(name, inside[name], outside[name]) for name in sorted(inside | outside)]
    reasons = Counter(_kind(entry["reason"]) for entry in left)
    return Data(folder, "", tuple(rows), tuple(buckets), tuple(reasons.most_common()))


def _kind(reason: str) -> str:
    """Cut what is of one clip off a reason, so that alike ones are counted together."""
    return reason.partition(": ")[0] if len(reason) > 80 else reason


@dataclass(frozen=True)
class CostRow:
    """The whole model, or one part of it."""

    name: str
    parameters: str
    multiply_adds: str


def cost(experiment: Experiment) -> tuple[list[CostRow], str]:
    """Count the model's parts; the second value says for which input, or why there is no count."""
    info = next(iter(experiment.folds.values())).info
    if not info:
        return [], "The cost is not known: there is no model.json."
    from safe.evaluation.cost import count
    from safe.models.registry import build_model

    side, frames = int(info["crop"]), int(info["frames"])
    clip = (3, frames, side, side)
    try:
        network = build_model(
            classes=len(info["classes"]), frames=frames, **info["architecture"], weights=None
        )
        found = count(network, clip=clip)
    except (ModelError, RuntimeError, TypeError, ValueError) as error:
        return [], f"The cost cannot be counted: {error}."
    rows = [
        CostRow(name, f"{part.parameters:,}", f"{part.multiply_adds / 1e9:.3f}")
        for name, part in found.parts.items()
    ]
    whole = CostRow("whole model", f"{found.parameters:,}", f"{found.multiply_adds / 1e9:.3f}")
    shape = f"{frames} frames of {side} x {side} pixels"
    return [whole, *rows], f"One clip of {shape}; half of the operations that torch counts."


def params(
    experiment: Experiment, sources: Sources
) -> tuple[list[tuple[str, str]], list[tuple[str, str, str]] | None]:
    """Return all params of the run, and those that differ from the defaults (None without any).

    Only sections that the run knows are compared: those of data preparation on another machine,
    and `runtime`, decide no figure.
    """
    run = flat(experiment.params)
    every = [(key, told(run, key)) for key in run]
    if sources.defaults is None or not run:
        return every, None
    known = {k: v for k, v in sources.defaults.items() if k in experiment.params}
    return every, differing(experiment.params, known)
