"""FERV39k: its clips, for training and for testing.

Reads 4_setups/All_scenes/{train,test}_All.csv (no header; "Action/Happy/0267 Happy") and looks for
the raw clips in 0_7_LabelClips, or for the face frames in 2_ClipsforFaceCrop.
"""

import re
from pathlib import Path
from typing import Final

from pipeline.clips import ClipStore
from pipeline.datasets.base import (
    Entry,
    Note,
    find_files,
    find_frame_folders,
    read_lines,
    require_some,
)
from pipeline.manifest import Clip
from safe.config import Data
from safe.errors import DataError
from safe.taxonomy import BASIC

CLASSES: Final = BASIC
"""FERV39k's classes; its lists write them with a capital."""

_LABELS: Final = {name.capitalize(): label for label, name in enumerate(CLASSES)}

_LINE: Final = re.compile(r"([A-Za-z]+)/([A-Za-z]+)/([0-9]{4}) ([A-Za-z]+)")
_VIDEOS: Final = "0_7_LabelClips"
_FRAMES: Final = "2_ClipsforFaceCrop"


def read_clips(
    data: Data, *, store: ClipStore | None = None, on_note: Note | None = None
) -> list[Clip]:
    """List every clip of the two lists, in no special order.

    Raises:
        DataError: one line, if the root, a list or the clips' folder is not there, a list has a
            wrong line or label, or a clip is listed twice.
    """
    root = Path(data.root)
    listed: dict[str, tuple[int, str]] = {}
    for part in ("train", "test"):
        file = Path(data.splits, "All_scenes", f"{part}_All.csv")
        for line in read_lines(root, file):
            clip, label = _parse(line, root / file)
            if clip in listed:
                raise DataError(f"{root / file}: clip {clip} is also in the {listed[clip][1]} list")
            listed[clip] = (label, part)
    if data.source == "video":
        found = find_files(root, _VIDEOS, ".mp4", store=store, on_note=on_note)
        folder, ending = _VIDEOS, ".mp4"
    else:
        found = find_frame_folders(root, _FRAMES, depth=3, on_note=on_note)
        folder, ending = _FRAMES, ""
    clips = []
    for clip, (label, part) in listed.items():
        path = f"{folder}/{clip}{ending}"
        clips.append(Clip(clip.replace("/", "-"), path, label, part, found.get(path)))
    there = sum(clip.bytes is not None for clip in clips)
    looked_for = f"{folder}/<Scene>/<Emotion>/<4 digits>{ending or '/*.jpg'}"
    require_some(there, len(clips), root, looked_for, store=store)
    return clips


def _parse(line: str, file: Path) -> tuple[str, int]:
    """Return a line's clip, such as Action/Happy/0267, and its label. Raises DataError."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise DataError(f"{file}: {line!r} must read like 'Action/Happy/0267 Happy'")
    scene, emotion, number, name = match.groups()
    if name not in _LABELS or name != emotion:
        raise DataError(f"{file}: {line!r} must name one of {', '.join(_LABELS)}, twice the same")
    return f"{scene}/{emotion}/{number}", _LABELS[name]


ENTRY: Final = Entry(
    read_clips,
    CLASSES,
    splits="4_setups",
    one_split=True,
    official={
        "train": (5854, 5523, 7790, 5906, 2502, 1833, 1680),
        "test": (1473, 1393, 1958, 1487, 638, 467, 431),
    },
)
