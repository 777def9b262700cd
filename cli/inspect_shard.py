"""What is in a tar, or in a shard folder, and is it what its index says?"""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cli.facts import Facts
from safe.errors import ConfigError, DataError
from safe.report.contact import Row, contact_figure
from safe.shards.folder import ShardFolder, open_shards
from safe.shards.index import Index, read_index, read_table
from safe.shards.loader import ClipReader
from safe.taxonomy import Classes


def inspect_shard(
    path: Path, *, clips: int, bucket: str | None, label: str | None, draw: bool
) -> tuple[Facts, Figure | None]:
    """Say what a shard folder, or one of its tars, holds, and draw the faces of some clips.

    Args:
        path: the folder, or a tar in one.
        clips: how many to draw.
        bucket: draw only clips of this bucket.
        label: draw only clips of this class.
        draw: whether to draw at all.

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
    states = [_state(root, index, i) for i in which]
    whole = all(state == "as in index.json" for state in states)
    facts = _facts(path, index, which, states)
    if not (draw and whole):
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
    note = f"the first {len(rows)} of {wanted.sum()} clips{_asked(bucket, label)}; faces as stored"
    titles = [
        f"{folder.clip[row]} · {folder.classes[folder.label[row]]} · {folder.bucket[row]}"
        for row in rows
    ]
    drawn = [
        Row(title, faces) for title, faces in zip(titles, read_strips(folder, rows), strict=True)
    ]
    return facts, contact_figure(str(path), note, drawn)


def check_label(label: str | None, classes: Classes) -> None:
    """Raise ConfigError if --label is given and is none of these classes."""
    if label is not None and label not in classes:
        raise ConfigError(f"--label {label}: must be one of {', '.join(classes)}")


def read_strips(folder: ShardFolder, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Read the faces of some clips, uint8 [n, T, S, S, 3]; each is compared with its crc32.

    Raises:
        DataError: if a clip is not what clips.parquet says.
    """
    side = folder.face_size
    faces = np.empty((len(rows), folder.frames, side, side, 3), np.uint8)
    reader = ClipReader(folder)
    try:
        reader.read(rows, faces)
    finally:
        reader.close()
    return faces


def _facts(path: Path, index: Index, which: list[int], states: list[str]) -> Facts:
    tars, made = index.tars, index.about["preprocessing"]
    good = states.count("as in index.json")
    buckets = {i: str(tars["file"][i])[:-11] for i in which}  # without -000000.tar
    left_out = [e for e in index.about["left_out"] if e["bucket"] in set(buckets.values())]
    reasons = Counter(entry["reason"] for entry in left_out)
    return {
        "shards": {
            "path": str(path),
            "clips": int(index.classes[which].sum()),
            "left out": len(left_out),
            "tars": len(which),
            "bytes": int(tars["bytes"][which].sum()),
            "checksums": f"{good} of {len(which)} tars as in index.json",
            "preprocessing": made["id"],
        },
        "made from": dict(made["made_from"]),
        "buckets": [
            _bucket(name, [i for i in which if buckets[i] == name], index)
            for name in sorted(set(buckets.values()))
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


def _bucket(name: str, which: list[int], index: Index) -> dict[str, Any]:
    """Count the clips of a bucket by class."""
    counts = index.classes[which].sum(axis=0).tolist()
    named = {f"n_{k}": count for k, count in zip(index.about["classes"], counts, strict=True)}
    return {"bucket": name, "clips": sum(counts), **named}


def _state(root: Path, index: Index, number: int) -> str:
    """Compare a tar with its checksum in index.json."""
    entry = index.tars[number]
    try:
        with (root / entry["file"]).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "as in index.json" if digest == entry["sha256"] else "altered"


def _asked(bucket: str | None, label: str | None) -> str:
    """Repeat in words which clips were asked for."""
    return "".join(
        f" of {word} {value}" for word, value in (("bucket", bucket), ("class", label)) if value
    )
