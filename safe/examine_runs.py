"""Do the models and predictions of the folds fit the shards?

Model folders and predictions go in, with the opened shards; an Examination comes out.
"""

from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from safe.errors import DataError, ModelError
from safe.finding import Examination, number, some, tell_forgotten
from safe.predictions import Split, read_predictions
from safe.reading.shards import ShardFolder
from safe.saved import load_model, read_info


def examine_models(
    stage: Path, *, folds: Sequence[int], shards: ShardFolder | None, read: bool = True
) -> Examination:
    """Examine the model folders `fold-<k>` of a stage.

    Args:
        stage: runs/<name>/train or runs/<name>/calibrate.
        folds: those that should be there; others that are there are examined too.
        shards: what the models should fit; None where there are none.
        read: whether to read the weights and rebuild the network, or model.json only.
    """
    found, verb = Examination(), stage.name
    there = _folds(stage)
    found.facts[verb] = some([f"fold {fold}" for fold in there], 10) or "no fold"
    _tell_absent(found, stage, [fold for fold in folds if fold not in there])
    for fold, folder in there.items():
        anew = f"`safe-cli {verb} --fold {fold}` makes it anew"
        try:
            info = load_model(folder)[1] if read else read_info(folder / "model.json")
        except (ModelError, FileNotFoundError) as error:
            text = error if isinstance(error, ModelError) else ModelError("no model.json there")
            found.refused("model", folder, text, anew)
            continue
        _compare_model(found, folder, fold, info, shards)
        if verb == "calibrate":
            _examine_calibration(found, folder, fold, info, shards)
    return found


def examine_predictions(
    stage: Path,
    *,
    models: Set[int],
    shards: ShardFolder | None,
    forgotten: Set[str],
) -> Examination:
    """Examine the folders `fold-<k>` that eval wrote.

    Args:
        stage: runs/<name>/eval.
        models: folds whose model is there, so that predictions can be.
        shards: what the predictions are of; None where there are none.
        forgotten: keys that must not be here.
    """
    found, there = Examination(), _folds(stage)
    found.facts[stage.name] = some([f"fold {fold}" for fold in there], 10) or "no fold"
    _tell_absent(found, stage, [fold for fold in sorted(models) if fold not in there])
    for fold, folder in there.items():
        path, anew = folder / "predictions.parquet", f"`safe-cli eval --fold {fold}` makes it anew"
        try:
            said = read_predictions(path)
        except DataError as error:
            found.refused("predictions", path, error, anew)
            continue
        if not (folder / "metrics.json").is_file():
            found.error("predictions-metrics", folder, "metrics.json is missing", anew)
        if not np.isfinite(said.logits).all():
            found.error("predictions-finite", path, "holds logits that are no numbers", anew)
        tell_forgotten(found, path, sorted(forgotten & set(said.clip)))
        if shards is not None:
            _compare_predictions(found, path, fold, said, shards)
    return found


def _folds(stage: Path) -> dict[int, Path]:
    """Return the folders fold-<k> by k, in order."""
    paths = [path for path in stage.glob("fold-*") if path.name[5:].isdecimal()]
    return dict(sorted((int(path.name[5:]), path) for path in paths))


def _tell_absent(found: Examination, stage: Path, folds: list[int]) -> None:
    if folds:
        what = f"not made yet: fold {some([str(fold) for fold in folds], 5)}"
        found.note(f"{stage.name}-absent", stage, what, f"`safe-cli {stage.name}` makes it")


def _compare_model(
    found: Examination,
    folder: Path,
    fold: int,
    info: dict[str, Any],
    shards: ShardFolder | None,
) -> None:
    """Compare a model with the fold that its folder names, and with the shards."""
    again = f"`safe-cli train --fold {fold}` and what follows make it anew"
    if info["fold"] != fold:
        what = f"trained for fold {info['fold']}: fold {fold}'s test clips trained it"
        found.error("model-fold", folder, what, again)
    if shards is None:
        return
    theirs = info["preprocessing"]["id"]
    if theirs != shards.preprocessing_id:
        what = f"trained on preprocessing {theirs}, the shards have {shards.preprocessing_id}"
        found.error("model-preprocessing", folder, what, f"{again}; or take the shards of it")
    elif info["crop"] > shards.face_size:
        what = f"takes faces of {info['crop']} pixels, the shards have {shards.face_size}"
        found.error("model-crop", folder, what, again)
    if tuple(info["classes"]) != shards.classes:
        here = ", ".join(shards.classes)
        what = f"trained on the classes {', '.join(info['classes'])}, the shards have {here}"
        found.error("model-classes", folder, what, f"{again}; or take the shards of it")
    try:
        most = len(shards.split(info["fold"])[0])
    except DataError as error:
        found.refused("model-fold", folder, error, again)
        return
    if info.get("train_clips", 0) > most:
        what = f"trained on {number(info['train_clips'], 'clip')}, the shards have {most:,} for it"
        found.warn("model-clips", folder, what, f"clips were taken out since; {again}")


def _examine_calibration(
    found: Examination,
    folder: Path,
    fold: int,
    info: dict[str, Any],
    shards: ShardFolder | None,
) -> None:
    """Look whether a model is calibrated, and on none of the clips that it is tested on."""
    if not (info.get("calibration") or {}).get("clips"):
        what = "not calibrated: no clips were set apart for it"
        remedy = "train with -S train.select=val, then `safe-cli calibrate`"
        found.note("model-uncalibrated", folder, what, remedy)
        return
    path = folder / "predictions.parquet"
    if shards is None or not path.is_file():
        return
    anew = f"`safe-cli calibrate --fold {fold}` makes it anew"
    try:
        test = set(shards.clip[shards.split(fold)[1]].tolist())
        leaked = sorted(test & set(read_predictions(path).clip))
    except DataError as error:
        found.refused("calibrate-predictions", path, error, anew)
        return
    if leaked:
        what = f"calibrated on {number(len(leaked), 'clip')} of the test split: {some(leaked)}"
        found.error("calibrate-leak", path, what, anew)


def _compare_predictions(
    found: Examination, path: Path, fold: int, split: Split, shards: ShardFolder
) -> None:
    """Compare the clips, classes and labels of predictions with the fold's test split."""
    anew = f"`safe-cli eval --fold {fold}` makes it anew"
    try:
        rows = shards.split(fold)[1]
    except DataError as error:
        found.refused("predictions-clips", path, error, anew)
        return
    right = dict(zip(shards.clip[rows].tolist(), shards.label[rows].tolist(), strict=True))
    said = dict(zip(split.clip, split.label.tolist(), strict=True))
    lost, more = sorted(right.keys() - said.keys()), sorted(said.keys() - right.keys())
    if lost or more:
        parts = [f"without {number(len(lost), 'clip')} of it: {some(lost)}"] * bool(lost)
        parts += [f"with {number(len(more), 'clip')} beside it: {some(more)}"] * bool(more)
        what = f"not the test split of fold {fold}: {'; '.join(parts)}"
        found.error("predictions-clips", path, what, anew)
    if split.classes != shards.classes:
        here = ", ".join(shards.classes)
        what = f"of the classes {', '.join(split.classes)}, the shards of {here}"
        found.error("predictions-classes", path, what, anew)
        return
    wrong = [key for key in sorted(right.keys() & said.keys()) if right[key] != said[key]]
    if wrong:
        what = f"another label than in the shards for {number(len(wrong), 'clip')}: {some(wrong)}"
        found.error("predictions-labels", path, what, anew)
