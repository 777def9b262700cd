"""Which classes are there, in which order?

The order is the paper's (and DFEW's). Names decide everywhere; an index is only ever a position in
CLASSES. Each dataset's own spelling is mapped by name in its adapter.
"""

from typing import Final

CLASSES: Final = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
"""The seven basic expressions; label i is CLASSES[i]."""

K: Final = len(CLASSES)
"""Number of classes."""


def index_of(name: str) -> int:
    """Return the label of a class name, whatever its case. Raises ValueError for any other word."""
    return CLASSES.index(name.lower())
