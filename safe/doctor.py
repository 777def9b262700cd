"""Examinations of shards, models and predictions: whole, and of one another.

Nothing is written but the memory of tars that were found good.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from safe.errors import DataError, ModelError, explain
from safe.evaluation.predictions import Split, read_predictions
from safe.finding import Bar, Examination, number, silent, some, tell_duplicates, tell_forgotten
from safe.info import read_info
from safe.saved import load_model
from safe.shards.folder import ShardFolder, open_shards
from safe.shards.index import read_index
from safe.shards.verify import verify
from safe.taxonomy import Classes
from safe.training.checkpoint import abandoned

AGAIN: Final = "`dvc checkout` where DVC has them, else `safe-cli shard` makes them again"


def examine_shards(
    root: Path,
    *,
    listed: Mapping[str, Mapping[str, Any]],
    classes: Classes | None = None,
    forgotten: Set[str],
    right: Mapping[str, Any] | None,
    read: bool = True,
    seen: Path | None = None,
    bar: Bar = silent,
) -> tuple[Examination, ShardFolder | None]:
    """Examine a shard folder; return it too, opened, or None where that fails.

    Args:
        root: the folder.
        listed: the manifest, key -> row with label and bucket; empty where there is none.
        classes: what the manifest's labels mean; None: not known.
        forgotten: keys that must not be here.
        right: id and made_from of the preprocessing that params.yaml means; None: not known.
        read: whether to read every tar that was not found good before.
        seen: the memory of those that were (safe.shards.verify).
        bar: shows how many tars were read.
    """
    found = Examination()
    if not root.is_dir():
        found.note("shards-absent", root, "not made yet", "`safe-cli shard` makes them")
        return found, None
    if _lacks_tars(found, root):
        return found, None
    try:
        folder = open_shards(root)
    except DataError as error:
        found.refused("shards", root, error, AGAIN)
        return found, None
    found.facts |= {
        "clips": len(folder.clip),
        "left_out": len(folder.index["left_out"]),
        "shards": len(folder.files),
        "face_size": folder.face_size,
        "preprocessing": folder.preprocessing_id,
    }
    _compare_settings(found, folder, right)
    _compare_clips(found, folder, listed, classes or folder.classes, forgotten)
    try:
        _find_same_faces(found, folder)
    except OSError as error:
        found.error("shards-unreadable", root, explain(error), "make the files readable")
    if read:
        _read_tars(found, folder, seen, bar)
    return found, folder


def _lacks_tars(found: Examination, root: Path) -> bool:
    """Look for every tar of the index. An index that cannot be read is left to open_shards."""
    try:
        sizes = {name: size for name, _, size in read_index(root).tars.tolist()}
    except DataError:
        return False
    lost = [name for name in sizes if not (root / name).is_file()]
    cut = [n for n in sizes if n not in lost and (root / n).stat().st_size != sizes[n]]
    found.clips("shard-missing", root, lost, "of index.json missing", AGAIN, what="shard")
    found.clips("shard-size", root, cut, "of another size than in index.json", AGAIN, what="shard")
    return bool(lost or cut)


def _compare_settings(
    found: Examination, folder: ShardFolder, right: Mapping[str, Any] | None
) -> None:
    """Compare what made the faces with what params.yaml says now."""
    made = folder.index["preprocessing"]
    if right is None or made["id"] == right["id"]:
        return
    here, there = made["made_from"], right["made_from"]
    other = [
        f"{key} {here.get(key)}, now {there.get(key)}"
        for key in sorted(here.keys() | there.keys())
        if here.get(key) != there.get(key)
    ]
    if other:
        what = f"made with other settings than params.yaml has: {some(other)}"
        remedy = "`dvc repro`, or `safe-cli shard`, makes them again; or set the parameters back"
        found.warn("shards-settings", folder.root, what, remedy)
    else:
        what = f"the preprocessing id {made['id']} is not that of the settings beside it"
        found.error("shards-id", folder.root / "index.json", what, AGAIN)


def _compare_clips(
    found: Examination,
    folder: ShardFolder,
    listed: Mapping[str, Mapping[str, Any]],
    classes: Classes,
    forgotten: Set[str],
) -> None:
    """Check that manifest = in shards + left out, with its classes, labels and buckets."""
    left_out = {entry["clip"]: entry["bucket"] for entry in folder.index["left_out"]}
    labels = {k: folder.classes[v] for k, v in zip(folder.clip.tolist(), folder.label, strict=True)}
    buckets = dict(zip(folder.clip.tolist(), folder.bucket.tolist(), strict=True)) | left_out
    tell_forgotten(found, folder.root, sorted(forgotten & buckets.keys()))
    if not listed:
        return
    lost, more = sorted(listed.keys() - buckets.keys()), sorted(buckets.keys() - listed.keys())
    if lost or more:
        sums = f"{len(labels):,} in shards + {len(left_out):,} left out, manifest {len(listed):,}"
        parts = [f"lacks {some(lost)}"] * bool(lost) + [f"has beside it {some(more)}"] * bool(more)
        found.error("shards-sum", folder.root, f"{sums}: {'; '.join(parts)}", AGAIN)
    if classes != folder.classes:
        what = f"of the classes {', '.join(folder.classes)}, the manifest of {', '.join(classes)}"
        found.error("shards-classes", folder.root, what, AGAIN)
    named = {key: classes[row["label"]] for key, row in listed.items()}
    held = {key: row["bucket"] for key, row in listed.items()}
    for kind, told, here, there in (
        ("shards-labels", "with another label", labels, named),
        ("shards-folds", "in another bucket", buckets, held),
    ):
        wrong = [
            f"{key} ({value}, in the manifest {there[key]})"
            for key, value in here.items()
            if key in there and there[key] != value
        ]
        found.clips(kind, folder.root, wrong, told, AGAIN)


def _find_same_faces(found: Examination, folder: ShardFolder) -> None:
    """Find clips whose stored faces are the same bytes; checksums first, so few are read."""
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(folder.size.tolist(), folder.crc32.tolist(), strict=True)):
        alike[key].append(row)
    same: dict[bytes, list[int]] = defaultdict(list)
    for row in (row for rows in alike.values() if len(rows) > 1 for row in rows):
        with (folder.root / folder.files[folder.shard[row]]).open("rb") as tar:
            tar.seek(int(folder.offset[row]))
            same[tar.read(int(folder.size[row]))].append(row)
    groups = [
        [(str(folder.clip[row]), str(folder.bucket[row])) for row in rows]
        for rows in same.values()
        if len(rows) > 1
    ]
    tell_duplicates(found, "faces", folder.root, groups)


def _read_tars(found: Examination, folder: ShardFolder, seen: Path | None, bar: Bar) -> None:
    """Read every tar as before a training, but name each that is damaged, not only the first."""
    count = len(folder.files)
    step = math.ceil(count / 100)  # each call of verify reads and writes its memory
    with bar("read shards", count) as done:
        for start in range(0, count, step):
            stop = min(start + step, count)
            try:
                verify(_part(folder, start, stop), seen=seen)
            except DataError:
                for tar in range(start, stop):
                    try:
                        verify(_part(folder, tar, tar + 1), seen=seen)
                    except DataError as error:
                        path = folder.root / folder.files[tar]
                        found.refused("shard-damaged", path, error, AGAIN)
            done(stop)


def _part(folder: ShardFolder, start: int, stop: int) -> ShardFolder:
    """Return a view of some tars and their rows, which stand together."""
    rows = slice(*np.searchsorted(folder.shard, [start, stop]).tolist())
    columns = ("clip", "label", "bucket", "offset", "size", "crc32")
    return replace(
        folder,
        index={**folder.index, "shards": folder.index["shards"][start:stop]},
        files=folder.files[start:stop],
        shard=folder.shard[rows] - start,
        **{name: getattr(folder, name)[rows] for name in columns},
    )


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
    for fold, folder in _folds(found, stage, folds).items():
        again = f"`safe-cli {verb} --fold {fold}` makes it again"
        try:
            info = load_model(folder)[1] if read else read_info(folder / "model.json")
        except (ModelError, FileNotFoundError) as error:
            text = error if isinstance(error, ModelError) else ModelError("no model.json there")
            found.refused("model", folder, text, again)
            continue
        _compare_model(found, folder, fold, info, shards)
        if verb == "calibrate":
            _examine_calibration(found, folder, fold, info, shards)
    return found


def examine_predictions(
    stage: Path, *, models: Set[int], shards: ShardFolder | None, forgotten: Set[str]
) -> Examination:
    """Examine the folders `fold-<k>` that eval wrote.

    Args:
        stage: runs/<name>/eval.
        models: folds whose model is there, so that predictions can be.
        shards: what the predictions are of; None where there are none.
        forgotten: keys that must not be here.
    """
    found = Examination()
    for fold, folder in _folds(found, stage, sorted(models)).items():
        path = folder / "predictions.parquet"
        again = f"`safe-cli eval --fold {fold}` makes it again"
        try:
            said = read_predictions(path)
        except DataError as error:
            found.refused("predictions", path, error, again)
            continue
        if not (folder / "metrics.json").is_file():
            found.error("predictions-metrics", folder, "metrics.json is missing", again)
        tell_forgotten(found, path, sorted(forgotten & set(said.clip)))
        if shards is not None:
            _compare_predictions(found, path, fold, said, shards, again)
    return found


def examine_states(folder: Path) -> Examination:
    """Name the training states that no run is using; the same run, begun again, goes on from one.

    `folder` is that of checkpoints.
    """
    found = Examination()
    for state in abandoned(folder):
        size, days = f"{state.bytes / 2**20:,.0f} MiB", f"{state.days:.1f} days"
        what = f"a training that stopped {days} ago left its state, {size}"
        remedy = "the same run goes on from it; `safe-cli clean` deletes those of 30 days and older"
        found.note("state", state.folder, what, remedy)
    return found


def _folds(found: Examination, stage: Path, wanted: Sequence[int]) -> dict[int, Path]:
    """Return the folders fold-<k> by k, in order; tell which of those wanted are not there."""
    paths = [path for path in stage.glob("fold-*") if path.name[5:].isdecimal()]
    there = dict(sorted((int(path.name[5:]), path) for path in paths))
    found.facts[stage.name] = some([f"fold {fold}" for fold in there], 10) or "no fold"
    if absent := [str(fold) for fold in wanted if fold not in there]:
        what = f"not made yet: fold {some(absent, 5)}"
        found.note(f"{stage.name}-absent", stage, what, f"`safe-cli {stage.name}` makes it")
    return there


def _compare_model(
    found: Examination,
    folder: Path,
    fold: int,
    info: dict[str, Any],
    shards: ShardFolder | None,
) -> None:
    """Compare a model with the fold that its folder names, and with the shards."""
    again = f"`safe-cli train --fold {fold}` and what follows make it again"
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
    if (info.get("read") or {}).get("clips") not in (None, shards.digest(fold)):
        what = f"trained on other clips than the shards have for fold {fold}"
        found.error("model-data", folder, what, again)
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
    again = f"`safe-cli calibrate --fold {fold}` makes it again"
    try:
        test = set(shards.clip[shards.split(fold)[1]].tolist())
        leaked = sorted(test & set(read_predictions(path).clip))
    except DataError as error:
        found.refused("calibrate-predictions", path, error, again)
        return
    found.clips("calibrate-leak", path, leaked, "calibrated on {} of the test split", again)


def _compare_predictions(
    found: Examination, path: Path, fold: int, split: Split, shards: ShardFolder, again: str
) -> None:
    """Compare the clips, classes and labels of predictions with the fold's test split."""
    try:
        rows = shards.split(fold)[1]
    except DataError as error:
        found.refused("predictions-clips", path, error, again)
        return
    right = dict(zip(shards.clip[rows].tolist(), shards.label[rows].tolist(), strict=True))
    said = dict(zip(split.clip, split.label.tolist(), strict=True))
    lost, more = sorted(right.keys() - said.keys()), sorted(said.keys() - right.keys())
    if lost or more:
        parts = [f"without {number(len(lost), 'clip')} of it: {some(lost)}"] * bool(lost)
        parts += [f"with {number(len(more), 'clip')} beside it: {some(more)}"] * bool(more)
        what = f"not the test split of fold {fold}: {'; '.join(parts)}"
        found.error("predictions-clips", path, what, again)
    if split.classes != shards.classes:
        here = ", ".join(shards.classes)
        what = f"of the classes {', '.join(split.classes)}, the shards of {here}"
        found.error("predictions-classes", path, what, again)
        return
    wrong = [key for key in sorted(right.keys() & said.keys()) if right[key] != said[key]]
    found.clips("predictions-labels", path, wrong, "another label than in the shards for {}", again)
