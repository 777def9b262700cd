"""What is in a model folder, and on which clips was the model sure: of the right, of the wrong?"""

import json
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cli.facts import Answers, Facts, read_answers
from cli.inspect_shard import check_label, read_strips
from cli.layout import Layout
from safe.api import find_model
from safe.errors import DataError
from safe.report.contact import Row, contact_figure
from safe.saved import load_model
from safe.shards.folder import ShardFolder, open_shards

_EPOCHS = 6
"""Epochs of the history that are shown, the first and the last among them."""


def inspect_run(
    run: Path, *, clips: int, label: str | None, draw: bool
) -> tuple[Facts, Figure | None]:
    """Say what a model is and what it reached, and draw clips that it was sure of.

    Args:
        run: a model folder, or a run's folder with one fold.
        clips: how many to draw: half of them wrong, the others right, the surest first.
        label: draw only clips of this class.
        draw: whether to draw at all.

    Raises:
        ConfigError: if `label` is no class of the model.
        ModelError: if there is no model, or it is damaged.
        DataError: if there is no prediction to draw.
    """
    folder = find_model(run)
    model, info = load_model(folder)
    check_label(label, tuple(info["classes"]))
    shards, fits = _shards(info)
    answers = _answers(folder)
    count = sum(part.numel() for part in model.parameters())
    facts: Facts = {
        "model": {
            "folder": str(folder),
            **info["architecture"],
            "classes": info["classes"],
            "parameters": count,
            "weights": "as model.json says",
            "frames": info["frames"],
            "crop": info["crop"],
            "preprocessing": info["preprocessing"]["id"],
            "shards": fits,
            **{k: info.get(k) for k in ("dataset", "fold", "seed", "train_clips")},
            "selection": _selection(info["selection"]),
            "commit": info.get("commit"),
            "torch": info.get("torch"),
        },
        "calibration": info.get("calibration") or {"method": "none; `safe-cli calibrate` makes it"},
        "figures": _figures(folder),
        "history": _history(info["history"]),
    }
    if not draw or answers is None:
        return facts, None
    chosen = _choose(answers, clips, label)
    if not chosen:
        raise DataError(f"{answers.name}: no clip of class {label} to draw")
    faces = _faces(answers, chosen, shards)
    rows = [_row(answers, i, face) for i, face in zip(chosen, faces, strict=True)]
    right = int((answers.predicted == answers.split.label).sum())
    note = (
        f"{right} of {len(answers.split.label)} clips right; drawn: those that it was surest of, "
        "wrong ones first. Boxes: attention over the windows, in %"
    )
    return facts, contact_figure(answers.name, note, rows)


def _answers(folder: Path) -> Answers | None:
    """Read the model's predictions: of its test split, or else those that lie beside it."""
    test = folder.parent.parent / "eval" / folder.name
    for place in (test, folder):
        if (place / "predictions.parquet").is_file():
            return read_answers(place, folder)
    return None


def _shards(info: dict[str, Any]) -> tuple[ShardFolder | None, str]:
    """Open the shards of the model's dataset, and say whether they are made as it wants them."""
    path = Layout(str(info.get("dataset"))).shards
    if not path.exists():
        return None, f"no {path}"
    try:
        folder = open_shards(path)
    except DataError as error:
        return None, str(error)
    if folder.preprocessing_id != info["preprocessing"]["id"]:
        return None, f"{path}: of another preprocessing, {folder.preprocessing_id}"
    return folder, f"{path}: of the same preprocessing"


def _faces(
    answers: Answers, chosen: list[int], shards: ShardFolder | None
) -> list[NDArray[np.uint8] | None]:
    """Read the faces of the chosen clips; None for one that is not in the shards."""
    if shards is None:
        return [None] * len(chosen)
    place = {clip: row for row, clip in enumerate(shards.clip.tolist())}
    rows = [place.get(answers.split.clip[i]) for i in chosen]
    read = iter(read_strips(shards, np.array([row for row in rows if row is not None], np.int64)))
    return [None if row is None else next(read) for row in rows]


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


def _row(answers: Answers, i: int, faces: NDArray[np.uint8] | None) -> Row:
    true, says = int(answers.split.label[i]), int(answers.predicted[i])
    told, classes = answers.facts(i), answers.split.classes
    parts = [
        answers.split.clip[i],
        f"labelled {classes[true]}",
        f"{'right' if true == says else 'wrong'}: says {classes[says]}, "
        f"{answers.chances[i, says]:.2f}",
        *(["abstains"] if told["decision"] == "abstain" else []),
        *([f"set: {', '.join(told['set']) or 'empty'}"] if told["set"] is not None else []),
    ]
    return Row(" · ".join(parts), faces, true, answers.said(i), wrong=true != says)


def _selection(selection: dict[str, Any]) -> str:
    metric = f" by {selection['metric']}" if selection.get("metric") else ""
    return f"{selection['rule']}{metric}, epoch {selection['epoch']}"


def _figures(folder: Path) -> dict[str, Any]:
    """Return what eval found of this model on its test split; nothing where it did not run."""
    path = folder.parent.parent / "eval" / folder.name / "metrics.json"
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"file": str(path), **found}
    return {}


def _history(rows: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Return some epochs of the training, the first and the last among them."""
    if not rows:
        return []
    shown = np.unique(np.linspace(0, len(rows) - 1, _EPOCHS).round().astype(int)).tolist()
    names = [n for n in ("loss", "train_uar", "select_uar", "clips_per_s") if n in rows[0]]
    return [{"epoch": i + 1, **{name: rows[i].get(name) for name in names}} for i in shown]
