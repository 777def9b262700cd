"""Are the shards whole, do they hold the clips of the manifest, and does none leak into the test?

The shard folder goes in, with what else is known of its clips; an Examination comes out. Nothing is
written but the memory of tars that were found good.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from safe.errors import DataError, explain
from safe.finding import Bar, Examination, number, silent, some, tell_duplicates, tell_forgotten
from safe.reading.shard_index import read_index
from safe.reading.shards import ShardFolder, open_shards
from safe.reading.verify import verify
from safe.taxonomy import Classes

ANEW: Final = "`dvc checkout` where DVC has them, else `safe-cli shard` makes them anew"


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
    """Examine a shard folder.

    Args:
        root: the folder.
        listed: the manifest, key -> row with label and bucket; empty where there is none.
        classes: what the manifest's labels mean; None: not known.
        forgotten: keys that must not be here.
        right: id and made_from of the preprocessing that params.yaml means; None: not known.
        read: whether to read every tar that was not found good before.
        seen: the memory of those that were (safe.reading.verify).
        bar: shows how many tars were read.

    Returns:
        The examination, and the opened folder; None if it cannot be opened.
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
        found.refused("shards", root, error, ANEW)
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
        tars = read_index(root).tars.tolist()
    except DataError:
        return False
    sizes = {name: size for name, _, size in tars}
    lost = [name for name in sizes if not (root / name).is_file()]
    cut = [
        name for name in sizes if name not in lost and (root / name).stat().st_size != sizes[name]
    ]
    if lost:
        what = f"{number(len(lost), 'shard')} of index.json missing: {some(lost)}"
        found.error("shard-missing", root, what, ANEW)
    if cut:
        what = f"{number(len(cut), 'shard')} of another size than in index.json: {some(cut)}"
        found.error("shard-size", root, what, ANEW)
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
    if not other:
        what = f"the preprocessing id {made['id']} is not that of the settings beside it"
        found.error("shards-id", folder.root / "index.json", what, ANEW)
        return
    found.warn(
        "shards-settings",
        folder.root,
        f"made with other settings than params.yaml has: {some(other)}",
        "`dvc repro`, or `safe-cli shard`, makes them anew; or set the parameters back",
    )


def _compare_clips(
    found: Examination,
    folder: ShardFolder,
    listed: Mapping[str, Mapping[str, Any]],
    classes: Classes,
    forgotten: Set[str],
) -> None:
    """Check that manifest = in shards + left out, with its classes, labels and buckets."""
    left_out = {entry["clip"]: entry["bucket"] for entry in folder.index["left_out"]}
    labels = dict(zip(folder.clip.tolist(), folder.label.tolist(), strict=True))
    buckets = dict(zip(folder.clip.tolist(), folder.bucket.tolist(), strict=True)) | left_out
    tell_forgotten(found, folder.root, sorted(forgotten & buckets.keys()))
    if not listed:
        return
    lost, more = sorted(listed.keys() - buckets.keys()), sorted(buckets.keys() - listed.keys())
    if lost or more:
        sums = f"{len(labels):,} in shards + {len(left_out):,} left out, manifest {len(listed):,}"
        parts = [f"lacks {some(lost)}"] * bool(lost) + [f"has beside it {some(more)}"] * bool(more)
        found.error("shards-sum", folder.root, f"{sums}: {'; '.join(parts)}", ANEW)
    if classes != folder.classes:
        here = ", ".join(folder.classes)
        what = f"of the classes {here}, the manifest of {', '.join(classes)}"
        found.error("shards-classes", folder.root, what, ANEW)
    wrong = [
        f"{key} ({folder.classes[label]}, in the manifest {classes[listed[key]['label']]})"
        for key, label in labels.items()
        if key in listed and classes[listed[key]["label"]] != folder.classes[label]
    ]
    if wrong:
        what = f"{number(len(wrong), 'clip')} with another label: {some(wrong)}"
        found.error("shards-labels", folder.root, what, ANEW)
    moved = [
        f"{key} ({bucket}, in the manifest {listed[key]['bucket']})"
        for key, bucket in buckets.items()
        if key in listed and listed[key]["bucket"] != bucket
    ]
    if moved:
        what = f"{number(len(moved), 'clip')} in another bucket: {some(moved)}"
        found.error("shards-folds", folder.root, what, ANEW)


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
                    _read_tar(found, folder, tar, seen)
            done(stop)


def _read_tar(found: Examination, folder: ShardFolder, tar: int, seen: Path | None) -> None:
    try:
        verify(_part(folder, tar, tar + 1), seen=seen)
    except DataError as error:
        found.refused("shard-damaged", folder.root / folder.files[tar], error, ANEW)


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
