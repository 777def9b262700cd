"""Are the lists, the raw clips and the manifest of a dataset sound, and do they fit?

They go in as they lie on disk; an Examination comes out. Nothing is written. A file that is not
there yet is a note with the command that makes it.
"""

from collections import Counter
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from pipeline.datasets.official import OFFICIAL, count_clips, exchanged, first_difference
from pipeline.duplicates import same_bytes, same_size
from pipeline.forgotten import read_forgotten
from pipeline.index import list_clips
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
from safe.taxonomy import Classes

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
    official = OFFICIAL.get(data.name)
    if official is None or listed is None:
        return
    if data.classes is not None:  # the release's own classes are compared
        listed = list_clips(data.model_copy(update={"classes": None}))
    counts, where = count_clips(untabulate(listed)), Path(data.root, data.splits)
    found.facts["official_counts"] = counts == official
    if names := exchanged(counts, official):
        told = ", ".join(f"{name} has the clips of {other}" for name, other in names.items())
        found.error(
            "official-labels",
            where,
            f"labels are exchanged: {told}",
            "take the lists as they were released; do not renumber their labels",
        )
    elif difference := first_difference(counts, official):
        total = sum(map(sum, official.values()))
        found.warn(
            "official-counts",
            where,
            f"not the released lists ({len(listed):,} clips, officially {total:,}): {difference}",
            "take them as released; else figures do not compare with published ones",
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
