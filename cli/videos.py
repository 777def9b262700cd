"""Which videos does the user mean, and what are the files called that are written about each?"""

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from safe.errors import ConfigError, DataError

SUFFIXES: Final = (".mp4", ".m4v", ".mov", ".3gp", ".avi", ".mkv", ".webm")
"""What counts as a video in a folder. A file that is named itself may be called anything: what a
file is, its content decides (pipeline/container.py)."""


@dataclass(frozen=True)
class Job:
    """One video, and where its files go."""

    video: Path
    base: Path
    """Path of each file about it, without the ending; no two jobs share one."""

    def file(self, ending: str) -> Path:
        """Return the file with this ending, such as `png`."""
        return self.base.with_name(f"{self.base.name}.{ending}")


def find_videos(named: Sequence[str], *, out: Path, endings: Sequence[str]) -> list[Job]:
    """List the videos that are meant, each once, in the order given.

    Args:
        named: files; folders, for all videos below them, sorted; patterns such as `clips/*.mp4`,
            in which `**` stands for any folders.
        out: folder of what will be written; what is in it already is no video to look at.
        endings: of the files that will be written about each video.

    Raises:
        DataError: if nothing has such a name, a pattern matches nothing, or a folder holds no
            video.
        ConfigError: if a file would be written over one of the videos.
    """
    videos = list({path.resolve(): path for name in named for path in _expand(name, out)}.values())
    jobs: list[Job] = []
    taken: set[str] = set()
    for video in videos:
        stem, count = video.stem, 1
        while stem.casefold() in taken:
            count += 1
            stem = f"{video.stem}-{count}"
        taken.add(stem.casefold())
        jobs.append(Job(video, out / stem))
    sources = {video.resolve() for video in videos}
    for job in jobs:
        for path in map(job.file, endings):
            if path.resolve() in sources:
                raise ConfigError(
                    f"--out {out}: {path} is one of the videos and would be written over; "
                    "choose another folder"
                )
    return jobs


def _expand(name: str, out: Path) -> list[Path]:
    """Return the videos that one word of the user means, at least one."""
    path = Path(name)
    found, pattern = [path], not path.exists() and glob.has_magic(name)  # a[1].mp4 may be a file
    if pattern:
        matches = glob.glob(name, recursive=True)  # noqa: PTH207  Path.glob takes none from /
        found = [Path(match) for match in sorted(matches)]
    if not found or not found[0].exists():
        told = "matches no file and no folder" if pattern else "no such file or folder"
        raise DataError(f"{name}: {told}")
    videos = [video for each in found for video in (_below(each, out) if each.is_dir() else [each])]
    if not videos:
        raise DataError(f"{name}: no video below this folder ({', '.join(SUFFIXES)})")
    return videos


def _below(folder: Path, out: Path) -> Iterator[Path]:
    """Yield the videos below a folder, sorted, but none that is hidden or that lies in `out`."""
    inside = out.resolve() != folder.resolve()
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        ours = inside and path.resolve().is_relative_to(out.resolve())
        if path.suffix.lower() in SUFFIXES and path.is_file() and not hidden and not ours:
            yield path
