"""Is the face table sound, and has it a row for every clip of the manifest?"""

from collections import Counter
from collections.abc import Set
from pathlib import Path
from typing import Final, get_args

from pipeline.face.face_table import Status, read_faces
from safe.errors import DataError
from safe.finding import SHARDS_SUFFICE, Examination, number, some

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
