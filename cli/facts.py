"""How do facts about one thing read in a terminal?

Facts are sections under a heading: a dict is written as `name  value` lines, a list of dicts as a
table. Numbers, strings, lists of them and None only, so the same facts are JSON as they are.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cli.layout import Layout
from safe.errors import DataError
from safe.evaluation.calibration import Calibration
from safe.evaluation.metrics import Floats, Ints
from safe.evaluation.predictions import Split, read_predictions
from safe.report.contact import Said
from safe.saved import read_info

Facts = dict[str, dict[str, Any] | list[dict[str, Any]]]
"""Sections in their order, by heading."""


def lines(facts: Facts) -> list[str]:
    """Write facts as lines of text; a section that holds nothing is left out."""
    written: list[str] = []
    for heading, section in facts.items():
        if not section:
            continue
        written += ["", heading] if written else [heading]
        if isinstance(section, Mapping):
            wide = max(map(len, section))
            written += [f"  {name:{wide}}  {_plain(value)}" for name, value in section.items()]
        else:
            written += [f"  {line}" for line in _table(section)]
    return written


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Align columns: numbers to the right, words to the left."""
    names = list(rows[0])
    cells = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    right = [all(isinstance(row[name], int | float | None) for row in rows) for name in names]
    aligned = (
        "  ".join(
            f"{cell:>{w}}" if r else f"{cell:{w}}"
            for cell, w, r in zip(line, widths, right, strict=True)
        )
        for line in cells
    )
    return [line.rstrip() for line in aligned]


def _cell(value: Any) -> str:
    """Write a cell of a table, where all numbers of a column have as many digits."""
    return f"{value:.2f}" if isinstance(value, float) else _plain(value)


def _plain(value: Any) -> str:
    """Write a value in a few characters."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) > 99_999 else str(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "-"
    return str(value)


# What did an evaluated model say of a clip, in probabilities that can be read?
#
# predictions.parquet and the model.json that belongs to it go in. Where the model was calibrated
# the probabilities are calibrated, and there are prediction sets and abstentions.


@dataclass(frozen=True)
class Answers:
    """What one model said of the clips of one split."""

    name: str
    """The folder of the predictions; and what was done to the clips, if anything."""
    split: Split
    chances: Floats
    """[n, K], calibrated where the model is."""
    calibration: Calibration
    windows: tuple[int, int, int] | None
    """Frames of a window, from one to the next, and of a clip; None for a model without windows."""

    @property
    def predicted(self) -> Ints:
        """int64 [n], the class of the highest probability: vector scaling may change it."""
        return np.asarray(self.chances.argmax(axis=1), dtype=np.int64)

    def place(self, clip: str) -> int | None:
        """Return the position of a clip in the split; None if it was not evaluated."""
        return self.split.clip.index(clip) if clip in self.split.clip else None

    def facts(self, i: int) -> dict[str, Any]:
        """Say what was said of clip `i`, in words and numbers."""
        chances, calibration = self.chances[[i]], self.calibration
        classes = self.split.classes
        says = classes[int(self.predicted[i])]
        told: dict[str, Any] = {
            "label": classes[self.split.label[i]],
            "says": says,
            "decision": "abstain" if calibration.abstains(chances)[0] else says,
            "set": None,
            "calibration": calibration.method,
            **{
                f"p_{name}": round(float(p), 4) for name, p in zip(classes, chances[0], strict=True)
            },
            "attention": [round(float(weight), 3) for weight in self.split.attention[i]],
        }
        if calibration.level is not None:
            inside = zip(classes, calibration.sets(chances)[0], strict=True)
            told["set"] = [name for name, is_in in inside if is_in]
        return told

    def said(self, i: int) -> Said:
        """Return what a contact sheet shows of clip `i`."""
        if self.windows is None:
            return Said(self.chances[i], self.split.classes)
        return Said(self.chances[i], self.split.classes, self.split.attention[i], *self.windows)


def read_answers(predictions: Path, model: Path | None) -> Answers:
    """Read what a model said of a split.

    Args:
        predictions: folder with predictions.parquet, and metrics.json where it has one.
        model: the model's folder; None, or one without model.json, means that nothing is known of
            calibration and windows.

    Raises:
        DataError: if the predictions are missing or damaged, or of other classes than the model.
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
    calibration = Calibration.from_info(info)
    return Answers(
        name=str(predictions) + _harm(predictions / "metrics.json"),
        split=split,
        chances=calibration.probabilities(split.logits),
        calibration=calibration,
        windows=_windows(info, split.attention.shape[1]),
    )


def find_answers(clip: str, layout: Layout) -> list[tuple[Answers, int]]:
    """Find every fold of the dataset whose evaluation has this clip, and its position there."""
    found = []
    for predictions in sorted(layout.evals.glob("fold-*/predictions.parquet")):
        fold = predictions.parent.name
        models = [stage / fold for stage in (layout.calibrates, layout.trains)]
        model = next((path for path in models if (path / "model.json").is_file()), None)
        answers = read_answers(predictions.parent, model)
        place = answers.place(clip)
        if place is not None:
            found.append((answers, place))
    return found


def _harm(metrics: Path) -> str:
    """Say what was done to the clips before the evaluation; nothing where that is not known."""
    with suppress(OSError, ValueError, KeyError):
        done = json.loads(metrics.read_text(encoding="utf-8"))
        if done["perturb"] != "none":
            return f" ({done['perturb']}, severity {done['severity']})"
    return ""


def _windows(info: dict[str, Any], count: int) -> tuple[int, int, int] | None:
    """Return window, stride and frames of a model, if its attention is over windows of these."""
    built, frames = info.get("architecture", {}), info.get("frames", 0)
    window, stride = built.get("window", frames + 1), built.get("stride", 1)
    fits = window <= frames and (frames - window) // stride + 1 == count
    return (window, stride, frames) if built.get("name") == "safe" and fits else None
