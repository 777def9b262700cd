"""Which clips hold the same bytes?

Sizes are compared first, which costs nothing, so that only files of equal size are read.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline.manifest import Clip
from safe.sample import is_frame


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
