"""Examinations of a dataset: its lists, raw clips, manifest and faces, each and together.

Nothing is written. A file that is not there yet is a note with the command that makes it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import Any, Final, get_args

import pyarrow as pa

from pipeline.content import digest
from pipeline.datasets.base import Counts
from pipeline.datasets.registry import ENTRIES
from pipeline.face.table import Status, read_faces
from pipeline.index import list_clips, read_forgotten
from pipeline.manifest import Clip, classes_of, read_manifest, untabulate
from safe.config import Data, Train
from safe.errors import DataError, explain
from safe.finding import (
    SHARDS_SUFFICE,
    Bar,
    Examination,
    silent,
    some,
    tell_duplicates,
    tell_forgotten,
)
from safe.taxonomy import Classes

Rows = dict[str, dict[str, Any]]
"""The manifest: key -> its row, and in it the class's name."""

INDEX: Final = (
    "`dvc repro`, or `safe-cli index`, `faces` and `shard`, make it and what follows again"
)
_AGAIN: Final = "`dvc repro`, or `safe-cli faces` and `shard`, make it again"
_COPY: Final = "copy it from the dataset again"
_MANY: Final = 0.05  # share of clips that cannot be decoded which is worth a warning


def examine_dataset(
    data: Data,
    manifest: Path,
    *,
    forgotten: Path,
    prepared: bool,
    train: Train | None = None,
    hashes: bool = True,
    bar: Bar = silent,
) -> tuple[Examination, Rows]:
    """Examine the official lists, the raw clips and the manifest.

    Args:
        data: the section data of params.yaml.
        manifest: manifest.parquet of the stage index.
        forgotten: forgotten.csv.
        train: the section train, to say before the work whether the clips suffice for it.
        prepared: whether the shards are there: then the raw clips need not be.
        hashes: whether to read clips of equal size and compare their content.
        bar: shows how many were read.

    Returns:
        The examination, and the rows of the manifest by key; none if there is no sound one.
    """
    found, gone = Examination({"name": data.name}), set[str]()
    try:
        gone = read_forgotten(forgotten, data.name)
    except DataError as error:
        found.error("forgotten-list", forgotten, str(error), "mend that line by hand")
    rows = _read_rows(found, manifest, prepared=prepared)
    listed = _read_lists(found, data, rows, prepared=prepared)
    clips: dict[str, Clip] = {}
    if listed is not None:
        _examine_counts(found, data, listed)
        clips = {clip.key: clip for clip in untabulate(listed) if clip.key not in gone}
    if data.name != "synthetic" and not Path(data.root).is_absolute():
        what = f"{data.root} is relative: `dvc exp run --temp` and DVC's queue run in other folders"
        found.note("root-relative", "data.root", what, "for those give the absolute path")
    if listed is not None and clips:
        labels, names = [(clip.label, clip.bucket) for clip in clips.values()], classes_of(listed)
        examine_splits(found, Path(data.root, data.splits), labels, names, data, train)
    elif rows:
        names = classes_of(read_manifest(manifest))
        labels = [(row["label"], row["bucket"]) for row in rows.values()]
        examine_splits(found, manifest, labels, names, data, train)
    tell_forgotten(found, manifest, sorted(gone & rows.keys()))
    if listed is not None and clips and rows:
        known = {key: row for key, row in rows.items() if key not in gone}
        _compare_rows(found, manifest, data, clips, known, classes_of(listed))
        _compare_files(found, Path(data.root), clips, known)
    if hashes and clips:
        _find_duplicates(found, Path(data.root), clips, bar)
    return found, rows


def _read_rows(found: Examination, manifest: Path, *, prepared: bool) -> Rows:
    if not manifest.is_file():
        remedy = SHARDS_SUFFICE if prepared else "`safe-cli index` makes it"
        found.note("index-absent", manifest, "not here", remedy)
        return {}
    try:
        table = read_manifest(manifest)
        classes = classes_of(table)
    except DataError as error:
        found.refused("index", manifest, error, INDEX)
        return {}
    rows = {row["clip"]: {**row, "class": classes[row["label"]]} for row in table.to_pylist()}
    buckets = Counter(row["bucket"] for row in rows.values())
    found.facts |= {"clips": len(rows), "buckets": dict(sorted(buckets.items()))}
    return rows


def _read_lists(found: Examination, data: Data, rows: Rows, *, prepared: bool) -> pa.Table | None:
    """Return the clips that the lists name, with the size of each file; None if that fails."""
    root = Path(data.root)
    indexed = [row["path"] for row in rows.values() if row["bytes"] is not None]
    if prepared and not any((root / path).exists() for path in indexed):
        found.note("raw-absent", root, "no raw clips here", SHARDS_SUFFICE)
    elif not root.is_dir() or not any(root.iterdir()):
        if data.name == "synthetic":
            found.note("raw-absent", root, "not made yet", "`safe-cli synthesize` draws them")
        else:
            remedy = f"set data.root to the folder that holds {data.splits}"
            found.error("raw-absent", root, "the dataset is not there", remedy)
    else:
        try:
            return list_clips(data)
        except DataError as error:
            remedy = "take lists and clips as they were released, or mend data.root"
            found.error("lists", root / data.splits, str(error), remedy)
        except OSError as error:
            found.error("lists", root, explain(error), "make the folder readable")
    return None


def _examine_counts(found: Examination, data: Data, listed: pa.Table) -> None:
    """Compare the lists with the counts of the release; forgotten clips are in them."""
    entry = ENTRIES[data.name]
    official, classes = entry.official, entry.classes
    if not official:
        return
    if data.classes is not None:  # the release's own classes are compared
        listed = list_clips(data.model_copy(update={"classes": None}))
    counts, where = _count_clips(untabulate(listed), len(classes)), Path(data.root, data.splits)
    found.facts["official_counts"] = counts == official
    if names := exchanged(counts, official, classes):
        told = ", ".join(f"{name} has the clips of {other}" for name, other in names.items())
        remedy = "take the lists as they were released; do not renumber their labels"
        found.error("official-labels", where, f"labels are exchanged: {told}", remedy)
    elif counts != official:
        difference = _first_difference(counts, official, classes)
        total = f"{len(listed):,} clips, officially {sum(map(sum, official.values())):,}"
        what = f"not the released lists ({total}): {difference}"
        remedy = "take them as released; else metrics do not compare with published ones"
        found.warn("official-counts", where, what, remedy)


def examine_splits(
    found: Examination,
    where: Path,
    clips: Sequence[tuple[int, str]],
    classes: Classes,
    data: Data,
    train: Train | None,
) -> None:
    """Look whether every class has clips, and the training split of every fold enough for a batch.

    `clips` has the label and bucket of each. What the clips of a split are is decided by
    safe.training.split, when the shards are there; here it is told before they are made.
    """
    counts = Counter(classes[label] for label, _ in clips)
    lost = [name for name in classes if not counts[name]]
    remedy = "leave it out by data.classes, or add clips of it"
    if lost:
        found.warn("classes-empty", where, f"no clip of class {some(lost)}", remedy)
    buckets = {bucket for _, bucket in clips}
    folds = sorted((b for b in buckets if b.startswith("fold")), key=lambda b: (len(b), b))
    for fold in data.folds if train is not None else ():
        assert train is not None
        test = "test" if fold == 1 and buckets <= {"train", "val", "test"} else f"fold{fold}"
        if test not in buckets:
            what = f"no clips of fold {fold}; the buckets are {some(sorted(buckets), 10)}"
            found.error("fold-absent", where, what, "mend data.folds")
            continue
        apart, share = {test}, 1.0
        if train.select == "val" and "val" in buckets:
            apart.add("val")
        elif train.select == "val" and train.val_from == "fold":
            apart.add(folds[(folds.index(test) + 1) % len(folds)] if test in folds else test)
        elif train.select == "val":
            share -= train.val_fraction
        labels = Counter(classes[label] for label, bucket in clips if bucket not in apart)
        if few := [name for name in classes if counts[name] and not labels[name]]:
            what = f"fold {fold} trains on no clip of class {some(few)}"
            found.warn("classes-untrained", where, what, remedy)
        if (size := int(share * labels.total())) < train.batch:
            what = f"{train.batch} is larger than the training split of fold {fold}, {size} clips"
            found.error("batch", "train.batch", what, f"at most {size}, or more clips")


def _count_clips(clips: Iterable[Clip], classes: int) -> Counts:
    found = Counter((clip.bucket, clip.label) for clip in clips)
    buckets = sorted({bucket for bucket, _ in found})
    return {name: tuple(found[name, label] for label in range(classes)) for name in buckets}


def exchanged(counts: Counts, official: Counts, classes: Classes) -> dict[str, str]:
    """Tell which classes bear whose clips, if the counts are the official ones but for names.

    Returns:
        Class -> the class that officially has these counts; empty if it is not an exchange.
    """
    if counts.keys() != official.keys():
        return {}
    ours, theirs = (
        list(zip(*(of[name] for name in official), strict=True)) for of in (counts, official)
    )
    if sorted(ours) != sorted(theirs):
        return {}
    return {
        name: classes[theirs.index(column)]
        for name, column, right in zip(classes, ours, theirs, strict=True)
        if column != right
    }


def _first_difference(counts: Counts, official: Counts, classes: Classes) -> str:
    """Say where the counts, which are not the official ones, first differ from them."""
    none = (0,) * len(classes)
    return next(
        f"{bucket} has {ours:,} clips of {name}, officially {theirs:,}"
        for bucket in sorted(counts.keys() | official.keys())
        for name, ours, theirs in zip(
            classes, counts.get(bucket, none), official.get(bucket, none), strict=True
        )
        if ours != theirs
    )


def _compare_rows(
    found: Examination,
    manifest: Path,
    data: Data,
    clips: dict[str, Clip],
    rows: Rows,
    classes: Classes,
) -> None:
    """Compare the manifest with the lists of today."""
    new, old = sorted(clips.keys() - rows.keys()), sorted(rows.keys() - clips.keys())
    for keys, told in ((new, "that it does not have"), (old, "less than it has")):
        found.clips("index-clips", manifest, keys, f"the lists name {{}} {told}", INDEX)
    both = {key: (clips[key], rows[key]) for key in sorted(clips.keys() & rows.keys())}
    moved = [
        f"{key} ({row['bucket']}, listed in {clip.bucket})"
        for key, (clip, row) in both.items()
        if clip.bucket != row["bucket"]
    ]
    wrong = [
        f"{key} ({row['class']}, listed as {classes[clip.label]})"
        for key, (clip, row) in both.items()
        if classes[clip.label] != row["class"]
    ]
    found.clips("index-folds", manifest, moved, "in another fold than in the lists", INDEX)
    found.clips("index-labels", manifest, wrong, "with another label than in the lists", INDEX)
    if sources := {row["source"] for row in rows.values()} - {data.source}:
        what = f"made with data.source {some(sorted(sources))}, params.yaml has {data.source}"
        found.error("index-source", manifest, what, INDEX)


def _compare_files(found: Examination, root: Path, clips: dict[str, Clip], rows: Rows) -> None:
    """Compare the files of today with those that the manifest was made of."""
    gone, changed, back, never = (list[str]() for _ in range(4))
    for key in sorted(clips.keys() & rows.keys()):
        then, now, path = rows[key]["bytes"], clips[key].bytes, clips[key].path
        if then is None:
            (never if now is None else back).append(path)
        elif now is None:
            gone.append(rows[key]["path"])
        elif then != now:
            changed.append(f"{path} ({now:,} bytes, were {then:,})")
    for kind, paths, told, remedy in (
        ("missing", gone, "gone since the index was made", f"; if it is to be missing: {INDEX}"),
        ("changed", changed, "of another size than indexed", f"; if the new one is right: {INDEX}"),
    ):
        found.clips(f"raw-{kind}", root, paths, told, _COPY + remedy, what="raw clip")
    told, left_out = "of the lists without a file", f"{_COPY}; without it, it counts as left out"
    missing = "missing when indexed, there now"
    found.clips("raw-back", root, back, missing, INDEX, what="raw clip", severity="warning")
    found.clips("raw-never", root, never, told, left_out, severity="warning")


def _find_duplicates(found: Examination, root: Path, clips: dict[str, Clip], bar: Bar) -> None:
    """Find clips of the same bytes: in two buckets they are trained on and tested on.

    Only files of equal size are read; a missing or empty one has none.
    """
    sizes = Counter(clip.bytes for clip in clips.values())
    todo = [clip for clip in clips.values() if clip.bytes and sizes[clip.bytes] > 1]
    contents: dict[str, list[Clip]] = defaultdict(list)
    try:
        with bar("compare clips of equal size", len(todo)) if todo else silent("", 0) as done:
            for count, clip in enumerate(todo, start=1):
                contents[digest(root / clip.path)].append(clip)
                done(count)
    except OSError as error:
        found.error("raw-unreadable", root, explain(error), "make the file readable")
        return
    found.facts["compared_contents"] = len(todo)
    groups = [[(c.key, c.bucket) for c in same] for same in contents.values() if len(same) > 1]
    tell_duplicates(found, "raw", root, groups)


def examine_faces(faces: Path, clips: Set[str], *, prepared: bool) -> Examination:
    """Examine faces.parquet: is it sound, and has it a row for every clip of the manifest?

    Args:
        faces: its path.
        clips: the keys of the manifest; empty where there is none to compare with.
        prepared: whether the shards are there: then the table need not be.
    """
    found = Examination()
    if not faces.is_file():
        remedy = SHARDS_SUFFICE if prepared else "`safe-cli faces` makes it"
        found.note("faces-absent", faces, "not here", remedy)
        return found
    try:
        rows = read_faces(faces).select(["clip", "status", "reason", "frame_index"]).to_pylist()
    except DataError as error:
        found.refused("faces", faces, error, _AGAIN)
        return found
    counts, keys = Counter(row["status"] for row in rows), Counter(row["clip"] for row in rows)
    found.facts |= {"clips": len(rows), **{name: counts[name] for name in get_args(Status)}}
    if clips:
        lost, more = sorted(clips - keys.keys()), sorted(keys.keys() - clips)
        found.clips("faces-rows", faces, lost, "no row for {} of the manifest", _AGAIN)
        found.clips("faces-more", faces, more, "rows of {} that the manifest lacks", _AGAIN)
    usual = Counter(len(row["frame_index"] or ()) for row in rows if row["status"] != "error")
    frames = usual.most_common(1)[0][0] if usual else 0
    odd = [key for key, times in keys.items() if times > 1]
    odd += [
        row["clip"]
        for row in rows
        if row["status"] not in get_args(Status)
        or (row["status"] != "error" and not len(row["frame_index"] or ()) == frames > 0)
    ]
    if odd:
        rule = "that are there twice, or no face of as many frames as the others nor an error"
        found.error("faces-damaged", faces, f"rows {rule}: {some(odd)}", _AGAIN)
    errors = [f"{row['clip']} ({row['reason']})" for row in rows if row["status"] == "error"]
    found.clips(
        "faces-errors",
        faces,
        errors,
        "could not be decoded",
        "copy them from the dataset again; else they are left out",
        severity="warning" if len(errors) > _MANY * len(rows) else "note",
    )
    return found
