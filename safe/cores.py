"""Cores that this process may use: those of its affinity, within the limit of its container.

A container that may use two of 64 cores sees all 64. Who starts a thread for each of them gets two
cores' work, and waits for its own threads.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_CGROUPS: Final = Path("/sys/fs/cgroup")
_OWN: Final = Path("/proc/self/cgroup")


def cores(*, cgroups: Path = _CGROUPS, own: Path = _OWN) -> int:
    """Return how many cores this process may use, at least 1; a part of a core counts as one.

    `cgroups` is where the kernel shows the limits, `own` the file that says which are this
    process's; elsewhere than on Linux there are none.
    """
    try:
        there = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        there = os.cpu_count() or 1
    limits = [math.ceil(limit) for limit in _limits(cgroups, own)]
    return max(1, min([there, *limits]))


def _limits(cgroups: Path, own: Path) -> Iterator[float]:
    """Yield every limit that holds for this process: its group's, and those of the groups above."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Within a container the path may be one of the host's; then only the top is there.
        top = cgroups / "cpu" if controllers else cgroups
        here = top / group.lstrip("/")
        for folder in (here, *here.parents):
            quota, period = _words(folder, v2=not controllers)
            if quota > 0 and period > 0:
                yield quota / period
            if folder == top:
                break


def _words(folder: Path, *, v2: bool) -> tuple[int, int]:
    """Read microseconds of computing in each period; (0, 0) where there is no limit."""
    names = ("cpu.max",) if v2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    try:
        words = [word for name in names for word in (folder / name).read_text("ascii").split()]
        return int(words[0]), int(words[1])
    except (OSError, ValueError, IndexError):  # "max" is no number
        return 0, 0
