"""Twins: clips with the same bytes under another key, in the shards or as raw clips."""

import filecmp
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from safe.sample import is_frame


def find_twins(
    clips: Set[str],
    shards: Path,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    root: Path,
    listed: Mapping[str, Mapping[str, Any]],
) -> dict[str, str]:
    """Return the clips with the bytes of one of `clips`, in the shards or as raw clips: key -> it.

    Only those are read whose size, and in the shards checksum too, is that of one of `clips`.

    Args:
        clips: keys.
        shards: the folder of the shards.
        rows: its rows of clips.parquet, by tar.
        root: data.root.
        listed: the manifest's path and bytes of each clip.
    """
    every = {row["clip"]: row for some in rows.values() for row in some}
    found = {}
    for key, other in _pairs(clips, {k: (row["bytes"], row["crc32"]) for k, row in every.items()}):
        if _jpeg(shards, every[key]) == _jpeg(shards, every[other]):
            found[other] = key
    for key, other in _pairs(clips, {k: row["bytes"] for k, row in listed.items()}):
        if _same(root / listed[key]["path"], root / listed[other]["path"]):
            found[other] = key
    return dict(sorted(found.items()))


def _pairs(clips: Set[str], marks: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each of `clips` with every other clip of the same mark that is not None."""
    alike = defaultdict(list)
    for key in clips & marks.keys():
        alike[marks[key]].append(key)
    for other, mark in marks.items():
        if other not in clips and mark is not None:
            yield from ((key, other) for key in alike.get(mark, ()))


def _jpeg(shards: Path, row: Mapping[str, Any]) -> bytes:
    with (shards / row["shard"]).open("rb") as tar:
        tar.seek(row["offset"])
        data: bytes = tar.read(row["bytes"])
    return data


def _same(one: Path, other: Path) -> bool:
    """Whether two raw clips that may be missing have the same bytes: files, or their frames."""
    if one.is_dir() and other.is_dir():
        mine, theirs = (
            sorted(path for path in folder.iterdir() if is_frame(path.name))
            for folder in (one, other)
        )
        return len(mine) == len(theirs) > 0 and all(map(_same, mine, theirs))
    there = one.is_file() and other.is_file()
    return there and filecmp.cmp(one, other, shallow=False)
