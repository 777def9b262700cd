"""How many clips of each class do the released lists have?

Counted in the lists as they were released. A label map that exchanges two classes, or a list of
another release, shows here before anything is trained.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from pipeline.manifest import Clip
from safe.taxonomy import BASIC

Counts = dict[str, tuple[int, ...]]
"""By bucket: clips of each class, in the order of BASIC."""

OFFICIAL: Final[dict[str, Counts]] = {
    "dfew": {  # the five test sets; fold 1 trains on 9,356 clips and tests on 2,341
        "fold1": (489, 379, 534, 435, 294, 29, 181),
        "fold2": (489, 379, 534, 435, 294, 29, 181),
        "fold3": (489, 379, 534, 435, 294, 29, 180),
        "fold4": (489, 379, 534, 434, 294, 29, 180),
        "fold5": (489, 378, 533, 434, 293, 29, 180),
    },
    "ferv39k": {  # 31,088 and 7,847 clips
        "train": (5854, 5523, 7790, 5906, 2502, 1833, 1680),
        "test": (1473, 1393, 1958, 1487, 638, 467, 431),
    },
}


def count_clips(clips: Iterable[Clip]) -> Counts:
    """Count the clips of each bucket by class."""
    found = Counter((clip.bucket, clip.label) for clip in clips)
    buckets = sorted({bucket for bucket, _ in found})
    return {name: tuple(found[name, label] for label in range(len(BASIC))) for name in buckets}


def exchanged(counts: Counts, official: Counts) -> dict[str, str]:
    """Tell which classes bear whose clips, if the counts are the official ones but for names.

    Returns:
        Class -> the class that officially has these counts; empty if it is not an exchange.
    """
    if counts.keys() != official.keys():
        return {}
    ours = [tuple(counts[bucket][label] for bucket in official) for label in range(len(BASIC))]
    theirs = [tuple(official[bucket][label] for bucket in official) for label in range(len(BASIC))]
    if ours == theirs or sorted(ours) != sorted(theirs):
        return {}
    return {
        BASIC[label]: BASIC[theirs.index(column)]
        for label, column in enumerate(ours)
        if column != theirs[label]
    }


def first_difference(counts: Counts, official: Counts) -> str:
    """Say where the counts first differ from the official ones; empty if they do not."""
    for bucket in sorted(counts.keys() | official.keys()):
        ours, theirs = (
            counts.get(bucket, (0,) * len(BASIC)),
            official.get(bucket, (0,) * len(BASIC)),
        )
        for label, name in enumerate(BASIC):
            if ours[label] != theirs[label]:
                return f"{bucket} has {ours[label]:,} clips of {name}, officially {theirs[label]:,}"
    return ""
