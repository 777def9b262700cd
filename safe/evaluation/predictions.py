"""What did a model say about each clip of a split?

Reads the predictions.parquet that evaluate.py writes. Shapes: n clips, K classes, D features,
N windows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from safe.errors import DataError
from safe.evaluation.metrics import Floats, Ints, softmax
from safe.taxonomy import BASIC, KEY, Classes, decode


@dataclass(frozen=True)
class Split:
    """Labels and outputs, one entry a clip, all in one order."""

    clip: tuple[str, ...]
    """n keys."""
    label: Ints
    """int64 [n], positions in classes."""
    classes: Classes
    """Their K names."""
    logits: Floats
    """float64 [n, K]."""
    embedding: Floats
    """float64 [n, D], what the classifier and FCL see."""
    attention: Floats
    """float64 [n, N], weights of the windows; each row sums to one."""
    scaled: Floats | None = None
    """float64 [n, K], the logits after the model's calibration, where that was asked for."""

    @property
    def predicted(self) -> Ints:
        """int64 [n], the class of the highest logit."""
        return np.asarray(self.logits.argmax(axis=1), dtype=np.int64)

    @property
    def probabilities(self) -> Floats:
        """float64 [n, K], softmax of the logits."""
        return softmax(self.logits)


def read_predictions(source: Path | IO[bytes], name: str | None = None) -> Split:
    """Read a predictions.parquet.

    Args:
        source: its path, or the open file.
        name: what an error calls it; the path by default.

    Raises:
        DataError: if it is missing, damaged or empty, or its labels or logits do not fit its
            classes.
    """
    name = name or str(source)
    try:
        found = pq.read_table(source)
        table = found.to_pydict()
        split = Split(
            clip=tuple(table["clip"]),
            label=np.array(table["label"], dtype=np.int64),
            classes=_classes(found.schema.metadata),
            **{
                k: np.array(table[k], dtype=np.float64)
                for k in ("logits", "embedding", "attention")
            },
        )
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{name}: not found or damaged; `safe-cli eval` makes it") from error
    k = len(split.classes)
    if not split.clip or split.logits.shape != (len(split.clip), k):
        raise DataError(f"{name}: must hold {k} logits for each of at least one clip")
    if split.label.min() < 0 or split.label.max() >= k:
        raise DataError(f"{name}: holds labels that are not in 0..{k - 1}")
    return split


def _classes(metadata: dict[bytes, bytes] | None) -> Classes:
    """Read the classes; files of earlier versions name none, and have the basic seven."""
    return decode(metadata) if KEY.encode() in (metadata or {}) else BASIC


def pool(splits: Sequence[Split]) -> Split:
    """Put splits one after another, e.g. the folds' test sets.

    Raises:
        DataError: if they are of different classes.
    """
    for split in splits:
        if split.classes != splits[0].classes:
            raise DataError(
                f"predictions of different classes cannot be pooled: {', '.join(split.classes)}, "
                f"and {', '.join(splits[0].classes)}; evaluate all folds on the same shards"
            )
    return Split(
        clip=tuple(clip for split in splits for clip in split.clip),
        label=np.concatenate([split.label for split in splits]),
        classes=splits[0].classes,
        logits=np.concatenate([split.logits for split in splits]),
        embedding=np.concatenate([split.embedding for split in splits]),
        attention=np.concatenate([split.attention for split in splits]),
        scaled=None if any(split.scaled is None for split in splits) else _scaled(splits),
    )


def _scaled(splits: Sequence[Split]) -> Floats:
    return np.concatenate([split.scaled for split in splits if split.scaled is not None])
