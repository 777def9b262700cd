"""Facts about shards and about models, with a contact sheet of some of their clips.

Facts are sections under a heading: a dict is `name  value`, a list of dicts a table. Numbers,
strings, lists of them and None only, so the same facts are JSON as they are.
"""

import hashlib
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from safe.errors import ConfigError, DataError
from safe.evaluation.calibration import Calibration
from safe.evaluation.metrics import Floats, Ints
from safe.evaluation.predictions import Split, read_metrics, read_predictions
from safe.info import read_info
from safe.report.contact import Row, Said, contact_figure
from safe.saved import load_model
from safe.shards.clips import read_clips
from safe.shards.folder import ShardFolder, open_shards
from safe.shards.index import Index, read_index, read_table
from safe.taxonomy import Classes

Facts = dict[str, dict[str, Any] | list[dict[str, Any]]]
"""Sections in their order, by heading."""

_EPOCHS: Final = 6
"""Epochs of the history that are shown, the first and the last among them."""

_SOUND: Final = "as in index.json"


def check_label(label: str | None, classes: Classes) -> None:
    """Raise ConfigError if --label is given and is none of these classes."""
    if label is not None and label not in classes:
        raise ConfigError(f"--label {label}: must be one of {', '.join(classes)}")


# Shards


def inspect_shard(
    path: Path, *, clips: int, bucket: str | None, label: str | None, draw: bool
) -> tuple[Facts, Figure | None]:
    """Say what a shard folder, or one of its tars, holds, and draw the faces of the first clips.

    So many `clips`, of this bucket and class only, where they are given.

    Raises:
        ConfigError: if `label` is no class of the folder.
        DataError: if index or table cannot be used, the tar is not of its folder, or no clip is to
            be drawn. A tar that is missing or altered is told among the facts.
    """
    root = path.parent if path.suffix == ".tar" else path
    index = read_index(root)
    check_label(label, tuple(index.about["classes"]))
    read_table(root, index)  # raises where it is not what the index means
    names = index.tars["file"].tolist()
    if root != path and path.name not in names:
        raise DataError(f"{path}: not one of the {len(names)} tars of {root / 'index.json'}")
    which = [i for i, name in enumerate(names) if root == path or name == path.name]
    states = [_state(root, index.tars[i]) for i in which]
    facts = _shard_facts(path, index, which, states)
    if not draw or set(states) != {_SOUND}:
        return facts, None
    folder = open_shards(root)
    wanted = np.isin(folder.shard, which)
    if bucket is not None:
        wanted &= folder.bucket == bucket
    if label is not None:
        wanted &= folder.label == folder.classes.index(label)
    rows = np.flatnonzero(wanted)[:clips]
    if not len(rows):
        known = ", ".join(sorted(folder.buckets))
        raise DataError(f"{path}: no clip of this bucket and class to draw; buckets: {known}")
    asked = "".join(
        f" of {word} {value}" for word, value in (("bucket", bucket), ("class", label)) if value
    )
    note = f"the first {len(rows)} of {wanted.sum()} clips{asked}; faces as stored"
    drawn = [
        Row(f"{folder.clip[i]} · {folder.classes[folder.label[i]]} · {folder.bucket[i]}", faces)
        for i, faces in zip(rows, read_clips(folder, rows), strict=True)
    ]
    return facts, contact_figure(str(path), note, drawn)


def _shard_facts(path: Path, index: Index, which: list[int], states: list[str]) -> Facts:
    tars, made = index.tars, index.about["preprocessing"]
    buckets = {i: str(tars["file"][i])[:-11] for i in which}  # without -000000.tar
    left_out = [e for e in index.about["left_out"] if e["bucket"] in set(buckets.values())]
    reasons = Counter(entry["reason"] for entry in left_out)
    counted = {name: index.classes[[i for i in which if buckets[i] == name]].sum(axis=0).tolist()
               for name in sorted(set(buckets.values()))}  # fmt: skip
    return {
        "shards": {
            "path": str(path),
            "clips": int(index.classes[which].sum()),
            "left out": len(left_out),
            "tars": len(which),
            "bytes": int(tars["bytes"][which].sum()),
            "checksums": f"{states.count(_SOUND)} of {len(which)} tars {_SOUND}",
            "preprocessing": made["id"],
        },
        "made from": dict(made["made_from"]),
        "buckets": [
            {
                "bucket": name,
                "clips": sum(counts),
                **{f"n_{k}": n for k, n in zip(index.about["classes"], counts, strict=True)},
            }
            for name, counts in counted.items()
        ],
        "tars": [
            {
                "file": str(tars["file"][i]),
                "clips": int(index.classes[i].sum()),
                "bytes": int(tars["bytes"][i]),
                "checksum": state,
            }
            for i, state in zip(which, states, strict=True)
        ],
        "left out": [{"clips": n, "reason": reason} for reason, n in reasons.most_common()],
    }


def _state(root: Path, tar: Any) -> str:
    """Compare a tar with its checksum in index.json."""
    try:
        with (root / tar["file"]).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return _SOUND if digest == tar["sha256"] else "altered"


# Answers of an evaluated model, in probabilities that can be read


@dataclass(frozen=True)
class Answers:
    """What one model said of the clips of one split; calibrated where the model is."""

    name: str
    """The folder of the predictions; and what was done to the clips, if anything."""
    split: Split
    chances: Floats
    """[n, K]."""
    calibration: Calibration
    windows: tuple[int, int, int] | None
    """Frames of a window, from one to the next, and of a clip; None for a model without windows."""

    @property
    def predicted(self) -> Ints:
        """int64 [n], the class of the highest probability: vector scaling may change it."""
        return np.asarray(self.chances.argmax(axis=1), dtype=np.int64)

    def facts(self, i: int) -> dict[str, Any]:
        """Say what was said of clip `i`, in words and numbers."""
        chances, calibration, classes = self.chances[[i]], self.calibration, self.split.classes
        says = classes[int(self.predicted[i])]
        inside = None
        if calibration.level is not None:
            sets = zip(classes, calibration.sets(chances)[0], strict=True)
            inside = [name for name, is_in in sets if is_in]
        return {
            "label": classes[self.split.label[i]],
            "says": says,
            "decision": "abstain" if calibration.abstains(chances)[0] else says,
            "set": inside,
            "calibration": calibration.method,
            **{
                f"p_{name}": round(float(p), 4) for name, p in zip(classes, chances[0], strict=True)
            },
            "attention": [round(float(weight), 3) for weight in self.split.attention[i]],
        }

    def row(self, i: int, title: str, faces: NDArray[np.uint8] | None) -> Row:
        """Return the row of a contact sheet about clip `i`."""
        label, split = int(self.split.label[i]), self.split
        said = Said(self.chances[i], split.classes)
        if self.windows is not None:
            said = Said(self.chances[i], split.classes, split.attention[i], *self.windows)
        return Row(title, faces, label, said, wrong=bool(self.predicted[i] != label))

    def sentence(self, i: int) -> str:
        """Say in a few words what was said of clip `i`."""
        says = int(self.predicted[i])
        right = "right" if says == self.split.label[i] else "wrong"
        return f"{self.name} says {self.split.classes[says]}, {self.chances[i, says]:.2f}: {right}"


def read_answers(predictions: Path, model: Path | None) -> Answers:
    """Read what a model said of a split.

    Args:
        predictions: folder with predictions.parquet, and metrics.json where it has one.
        model: the model's folder; None, or one without model.json, means that nothing is known of
            calibration and windows.

    Raises:
        DataError: if predictions or metrics are missing or damaged, or of other classes than the
            model.
        ModelError: if model.json is.
    """
    split = read_predictions(predictions / "predictions.parquet")
    info: dict[str, Any] = {}
    if model is not None:
        with suppress(FileNotFoundError):
            info = read_info(model / "model.json")
    if info and tuple(info["classes"]) != split.classes:
        raise DataError(
            f"{predictions}: of other classes than the model {model}; run `safe-cli eval` again"
        )
    done = _metrics(predictions)
    harmed = done.get("perturb", "none") != "none" and "severity" in done
    harm = f" ({done['perturb']}, severity {done['severity']})" if harmed else ""
    calibration = Calibration.from_info(info)
    return Answers(
        name=f"{predictions}{harm}",
        split=split,
        chances=calibration.probabilities(split.logits),
        calibration=calibration,
        windows=_windows(info, split.attention.shape[1]),
    )


def _windows(info: dict[str, Any], count: int) -> tuple[int, int, int] | None:
    """Return window, stride and frames of a model, if its attention is over windows of these."""
    built, frames = info.get("architecture", {}), info.get("frames", 0)
    window, stride = built.get("window", frames + 1), built.get("stride", 1)
    fits = window <= frames and (frames - window) // stride + 1 == count
    return (window, stride, frames) if built.get("name") == "safe" and fits else None


def _metrics(folder: Path) -> dict[str, Any]:
    """Read metrics.json; an empty one where there is none. Raises DataError if it is damaged."""
    path = folder / "metrics.json"
    return read_metrics(path) if path.exists() else {}


# Models


def inspect_run(
    folder: Path, shards: Path, *, clips: int, label: str | None, draw: bool
) -> tuple[Facts, Figure | None]:
    """Say what a model is and what it reached, and draw clips that it was sure of.

    Args:
        folder: the model; its evaluation is looked for in ../../eval/, then in itself.
        shards: of its data set; they need not be there.
        clips: how many to draw: half of them wrong, the others right, the surest first.
        label: a class, to draw clips of it only.
        draw: whether to draw at all.

    Raises:
        ConfigError: if `label` is no class of the model.
        ModelError: if there is no model, or it is damaged.
        DataError: if there is no prediction to draw.
    """
    model, info = load_model(folder)
    check_label(label, tuple(info["classes"]))
    opened, fits = _open(shards, info)
    evaluated = folder.parent.parent / "eval" / folder.name
    metrics = _metrics(evaluated)
    there = [at for at in (evaluated, folder) if (at / "predictions.parquet").is_file()]
    answers = read_answers(there[0], folder) if there else None
    rule, metric, epoch = (info["selection"].get(key) for key in ("rule", "metric", "epoch"))
    facts: Facts = {
        "model": {
            "folder": str(folder),
            **info["architecture"],
            "classes": info["classes"],
            "parameters": sum(part.numel() for part in model.parameters()),
            "weights": "as model.json says",
            "frames": info["frames"],
            "crop": info["crop"],
            "preprocessing": info["preprocessing"]["id"],
            "shards": fits,
            **{k: info.get(k) for k in ("dataset", "fold", "seed", "train_clips")},
            "selection": f"{rule}{f' by {metric}' if metric else ''}, epoch {epoch}",
            "commit": info.get("commit"),
            "torch": info.get("torch"),
        },
        "calibration": info.get("calibration") or {"method": "none; `safe-cli calibrate` makes it"},
        "metrics": {"file": str(evaluated / "metrics.json"), **metrics} if metrics else {},
        "history": _history(info["history"]),
    }
    if not draw or answers is None:
        return facts, None
    chosen = _choose(answers, clips, label)
    if not chosen:
        raise DataError(f"{answers.name}: no clip of class {label} to draw")
    right = int((answers.predicted == answers.split.label).sum())
    note = (
        f"{right} of {len(answers.split.label)} clips right; drawn: those that it was surest of, "
        "wrong ones first. Boxes: attention over the windows, in %"
    )
    faces = _faces([answers.split.clip[i] for i in chosen], opened)
    pairs = zip(chosen, faces, strict=True)
    rows = [answers.row(i, _title(answers, i), strip) for i, strip in pairs]
    return facts, contact_figure(answers.name, note, rows)


def _open(path: Path, info: dict[str, Any]) -> tuple[ShardFolder | None, str]:
    """Open the shards of a model's data set, and say whether they are made as it wants them."""
    if not path.exists():
        return None, f"no {path}"
    try:
        folder = open_shards(path)
    except DataError as error:
        return None, str(error)
    if folder.preprocessing_id != info["preprocessing"]["id"]:
        return None, f"{path}: of another preprocessing, {folder.preprocessing_id}"
    return folder, f"{path}: of the same preprocessing"


def _faces(clips: list[str], shards: ShardFolder | None) -> list[NDArray[np.uint8] | None]:
    """Read the faces of clips; None for one that is not in the shards."""
    if shards is None:
        return [None] * len(clips)
    known = {clip: row for row, clip in enumerate(shards.clip.tolist())}
    rows = [known[clip] for clip in clips if clip in known]
    read = iter(read_clips(shards, np.array(rows, np.int64)))
    return [next(read) if clip in known else None for clip in clips]


def _choose(answers: Answers, count: int, label: str | None) -> list[int]:
    """Choose clips: the wrong ones that the model was surest of, then the right ones.

    Of each class in turn, so that an easy class does not fill the sheet.
    """
    split, sure = answers.split, answers.chances.max(axis=1)
    of_class = np.ones(len(sure), bool)
    if label is not None:
        of_class = split.label == split.classes.index(label)
    wrong = answers.predicted != split.label
    chosen: list[int] = []
    for part, many in ((wrong, count // 2), (~wrong, count - count // 2)):
        turn: dict[int, int] = defaultdict(int)
        ranked: list[tuple[int, int, int]] = []
        for i in np.argsort(-sure, kind="stable").tolist():
            if part[i] and of_class[i]:
                true = int(split.label[i])
                ranked.append((turn[true], len(ranked), i))
                turn[true] += 1
        chosen += [i for _, _, i in sorted(ranked)[:many]]
    return chosen


def _title(answers: Answers, i: int) -> str:
    told = answers.facts(i)
    right = "right" if told["says"] == told["label"] else "wrong"
    parts = [
        answers.split.clip[i],
        f"labelled {told['label']}",
        f"{right}: says {told['says']}, {answers.chances[i].max():.2f}",
        *(["abstains"] if told["decision"] == "abstain" else []),
        *([f"set: {', '.join(told['set']) or 'empty'}"] if told["set"] is not None else []),
    ]
    return " · ".join(parts)


def _history(rows: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Return some epochs of the training, the first and the last among them."""
    if not rows:
        return []
    shown = np.unique(np.linspace(0, len(rows) - 1, _EPOCHS).round().astype(int)).tolist()
    names = [n for n in ("loss", "train_uar", "select_uar", "clips_per_s") if n in rows[0]]
    return [{"epoch": i + 1, **{name: rows[i].get(name) for name in names}} for i in shown]
