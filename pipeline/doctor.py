"""Are the lists, the raw clips and the manifest of a dataset sound, and do they fit?

They go in as they lie on disk; an Examination comes out. Nothing is written. A file that is not
there yet is a note with the command that makes it.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Set
from pathlib import Path
from typing import Any, Final, get_args

import pyarrow as pa

from pipeline.datasets.base import Counts
from pipeline.datasets.registry import ENTRIES
from pipeline.face.table import Status, read_faces
from pipeline.index import list_clips, read_forgotten
from pipeline.manifest import Clip, classes_of, read_manifest, untabulate
from safe.config import Data
from safe.errors import DataError, explain
from safe.finding import (
    SHARDS_SUFFICE,
    Bar,
    Examination,
    number,
    silent,
    some,
    tell_duplicates,
    tell_forgotten,
)
from safe.sample import is_frame
from safe.taxonomy import Classes

# Which clips hold the same bytes?
#
# Sizes are compared first, which costs nothing, so that only files of equal size are read.


def same_size(clips: Iterable[Clip]) -> list[Clip]:
    """Return the clips that have another of their size; without those that are missing or empty."""
    sizes: dict[int, list[Clip]] = defaultdict(list)
    for clip in clips:
        if clip.bytes:
            sizes[clip.bytes].append(clip)
    return [clip for group in sizes.values() if len(group) > 1 for clip in group]


def same_bytes(
    root: Path, clips: Iterable[Clip], *, on_read: Callable[[int], None]
) -> list[list[Clip]]:
    """Read clips and return the groups of two and more that have the same content.

    Args:
        root: the dataset's folder.
        clips: those to read, as `same_size` gives them.
        on_read: called with the number of clips read.

    Raises:
        OSError: if a file cannot be read.
    """
    contents: dict[str, list[Clip]] = defaultdict(list)
    for done, clip in enumerate(clips, start=1):
        contents[_digest(root / clip.path)].append(clip)
        on_read(done)
    return [group for group in contents.values() if len(group) > 1]


def _digest(path: Path) -> str:
    """Return the sha256 of a file; of a folder of frames, that of its files' in their order."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    frames = (file for file in sorted(path.iterdir()) if is_frame(file.name) and file.is_file())
    parts = [_digest(file) for file in frames]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


Rows = dict[str, dict[str, Any]]
"""The manifest: key -> its row."""

INDEX: Final = (
    "`dvc repro`, or `safe-cli index`, `faces` and `shard`, make it and what follows anew"
)


def examine_dataset(
    data: Data,
    manifest: Path,
    *,
    forgotten: Path,
    prepared: bool,
    hashes: bool = True,
    bar: Bar = silent,
) -> tuple[Examination, Rows]:
    """Examine the official lists, the raw clips and the manifest.

    Args:
        data: the section data of params.yaml.
        manifest: manifest.parquet of the stage index.
        forgotten: forgotten.csv.
        prepared: whether the shards are there: then the raw clips need not be.
        hashes: whether to read clips of equal size and compare their content.
        bar: shows how many were read.

    Returns:
        The examination, and the rows of the manifest by key; none if there is no sound one.
    """
    found = Examination({"name": data.name})
    gone: set[str] = set()
    try:
        gone = read_forgotten(forgotten, data.name)
    except DataError as error:
        found.error("forgotten-list", forgotten, str(error), "mend that line by hand")
    rows = _read_rows(found, manifest, prepared=prepared)
    listed = _read_lists(found, data, rows, prepared=prepared)
    _examine_counts(found, data, listed)
    clips = {} if listed is None else _by_key(listed, gone)
    tell_forgotten(found, manifest, sorted(gone & rows.keys()))
    if listed is not None and clips and rows:
        known = {key: row for key, row in rows.items() if key not in gone}
        _compare_rows(found, manifest, data, clips, known, classes_of(listed))
        _compare_files(found, Path(data.root), clips, known)
    if hashes and clips:
        _find_duplicates(found, Path(data.root), clips, bar)
    return found, rows


def _by_key(listed: pa.Table, gone: set[str]) -> dict[str, Clip]:
    return {clip.key: clip for clip in untabulate(listed) if clip.key not in gone}


def _read_lists(found: Examination, data: Data, rows: Rows, *, prepared: bool) -> pa.Table | None:
    """Return the clips that the lists name, with the size of each file; None if that fails."""
    root = Path(data.root)
    indexed = [row["path"] for row in rows.values() if row["bytes"] is not None]
    if prepared and not any((root / path).exists() for path in indexed):
        found.note("raw-absent", root, "no raw clips here", SHARDS_SUFFICE)
        return None
    if not root.is_dir() or not any(root.iterdir()):
        if data.name == "synthetic":
            found.note("raw-absent", root, "not made yet", "`safe-cli synthesize` draws them")
        else:
            remedy = f"set data.root to the folder that holds {data.splits}"
            found.error("raw-absent", root, "the dataset is not there", remedy)
        return None
    try:
        return list_clips(data)
    except DataError as error:
        remedy = "take lists and clips as they were released, or mend data.root"
        found.error("lists", root / data.splits, str(error), remedy)
    except OSError as error:
        found.error("lists", root, explain(error), "make the folder readable")
    return None


def _read_rows(found: Examination, manifest: Path, *, prepared: bool) -> Rows:
    if not manifest.is_file():
        remedy = SHARDS_SUFFICE if prepared else "`safe-cli index` makes it"
        found.note("index-absent", manifest, "not here", remedy)
        return {}
    try:
        table = read_manifest(manifest)
        classes = classes_of(table)
        rows = {row["clip"]: row for row in table.to_pylist()}
    except DataError as error:
        found.refused("index", manifest, error, INDEX)
        return {}
    for row in rows.values():
        row["class"] = classes[row["label"]]
    buckets = Counter(row["bucket"] for row in rows.values())
    found.facts |= {"clips": len(rows), "buckets": dict(sorted(buckets.items()))}
    return rows


def _examine_counts(found: Examination, data: Data, listed: pa.Table | None) -> None:
    """Compare the lists with the counts of the release; forgotten clips are in them."""
    entry = ENTRIES[data.name]
    official, classes = entry.official, entry.classes
    if not official or listed is None:
        return
    if data.classes is not None:  # the release's own classes are compared
        listed = list_clips(data.model_copy(update={"classes": None}))
    counts, where = _count_clips(untabulate(listed), len(classes)), Path(data.root, data.splits)
    found.facts["official_counts"] = counts == official
    if names := exchanged(counts, official, classes):
        told = ", ".join(f"{name} has the clips of {other}" for name, other in names.items())
        found.error(
            "official-labels",
            where,
            f"labels are exchanged: {told}",
            "take the lists as they were released; do not renumber their labels",
        )
    elif counts != official:
        total = sum(map(sum, official.values()))
        found.warn(
            "official-counts",
            where,
            f"not the released lists ({len(listed):,} clips, officially {total:,}): "
            f"{_first_difference(counts, official, classes)}",
            "take them as released; else figures do not compare with published ones",
        )


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
        if keys:
            what = f"the lists name {number(len(keys), 'clip')} {told}: {some(keys)}"
            found.error("index-clips", manifest, what, INDEX)
    both = sorted(clips.keys() & rows.keys())
    if moved := [key for key in both if clips[key].bucket != rows[key]["bucket"]]:
        now = [f"{key} ({rows[key]['bucket']}, listed in {clips[key].bucket})" for key in moved]
        what = f"{number(len(moved), 'clip')} in another fold than in the lists: {some(now)}"
        found.error("index-folds", manifest, what, INDEX)
    listed = {key: classes[clips[key].label] for key in both}
    if wrong := [key for key in both if listed[key] != rows[key]["class"]]:
        now = [f"{key} ({rows[key]['class']}, listed as {listed[key]})" for key in wrong]
        what = f"{number(len(wrong), 'clip')} with another label than in the lists: {some(now)}"
        found.error("index-labels", manifest, what, INDEX)
    if sources := {row["source"] for row in rows.values()} - {data.source}:
        what = f"made with data.source {some(sorted(sources))}, params.yaml has {data.source}"
        found.error("index-source", manifest, what, INDEX)


def _compare_files(found: Examination, root: Path, clips: dict[str, Clip], rows: Rows) -> None:
    """Compare the files of today with those that the manifest was made of."""
    gone: list[str] = []
    changed: list[str] = []
    back: list[str] = []
    never: list[str] = []
    for key in sorted(clips.keys() & rows.keys()):
        then, now = rows[key]["bytes"], clips[key].bytes
        if then is None:
            (never if now is None else back).append(clips[key].path)
        elif now is None:
            gone.append(rows[key]["path"])
        elif then != now:
            changed.append(f"{clips[key].path} ({now:,} bytes, were {then:,})")
    put_back = "copy it from the dataset again"
    if gone:
        what = f"{number(len(gone), 'raw clip')} gone since the index was made: {some(gone)}"
        found.error("raw-missing", root, what, f"{put_back}; if it is to be missing: {INDEX}")
    if changed:
        what = f"{number(len(changed), 'raw clip')} of another size than indexed: {some(changed)}"
        found.error("raw-changed", root, what, f"{put_back}; if the new one is right: {INDEX}")
    if back:
        what = f"{number(len(back), 'raw clip')} missing when indexed, there now: {some(back)}"
        found.warn("raw-back", root, what, INDEX)
    if never:
        what = f"{number(len(never), 'clip')} of the lists without a file: {some(never)}"
        found.warn("raw-never", root, what, f"{put_back}; without it, it counts as left out")


def _find_duplicates(found: Examination, root: Path, clips: dict[str, Clip], bar: Bar) -> None:
    """Read clips of equal size; the same bytes in two buckets are trained on and tested on."""
    todo = same_size(clips.values())
    try:
        with bar("compare clips of equal size", len(todo)) if todo else silent("", 0) as done:
            groups = same_bytes(root, todo, on_read=done)
    except OSError as error:
        found.error("raw-unreadable", root, explain(error), "make the file readable")
        return
    found.facts["compared_contents"] = len(todo)
    tell_duplicates(found, "raw", root, [[(c.key, c.bucket) for c in group] for group in groups])


# Is the face table sound, and has it a row for every clip of the manifest?

_AGAIN: Final = "`dvc repro`, or `safe-cli faces` and `shard`, make it anew"
_MANY: Final = 0.05  # share of clips that cannot be decoded which is worth a warning


def examine_faces(faces: Path, clips: Set[str], *, prepared: bool) -> Examination:
    """Examine faces.parquet.

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
    if clips and (lost := sorted(clips - keys.keys())):
        what = f"no row for {number(len(lost), 'clip')} of the manifest: {some(lost)}"
        found.error("faces-rows", faces, what, _AGAIN)
    if clips and (more := sorted(keys.keys() - clips)):
        what = f"rows of {number(len(more), 'clip')} that the manifest lacks: {some(more)}"
        found.error("faces-more", faces, what, _AGAIN)
    odd = [key for key, times in keys.items() if times > 1]
    usual = Counter(len(row["frame_index"] or ()) for row in rows if row["status"] != "error")
    frames = usual.most_common(1)[0][0] if usual else 0
    odd += [row["clip"] for row in rows if not _is_sound(row["status"], row["frame_index"], frames)]
    if odd:
        rule = "that are there twice, or no face of as many frames as the others nor an error"
        what = f"rows {rule}: {some(odd)}"
        found.error("faces-damaged", faces, what, _AGAIN)
    if errors := [f"{row['clip']} ({row['reason']})" for row in rows if row["status"] == "error"]:
        tell = found.warn if len(errors) > _MANY * len(rows) else found.note
        what = f"{number(len(errors), 'clip')} could not be decoded: {some(errors)}"
        tell(
            "faces-errors", faces, what, "copy them from the dataset again; else they are left out"
        )
    return found


def _is_sound(status: str, indices: list[int] | None, frames: int) -> bool:
    return status == "error" or (status in get_args(Status) and len(indices or ()) == frames > 0)
