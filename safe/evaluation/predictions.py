"""Predictions: what a model said of each clip of a split, and the file predictions.parquet.

Every metric, table and picture is made from that file, never by running the model again.
Shapes: n clips, K classes, D features, N windows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from safe.errors import DataError
from safe.evaluation.metrics import Floats, Ints, softmax
from safe.files import atomic_file
from safe.record import encode_read
from safe.taxonomy import BASIC, KEY, Classes, decode, encode


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
    """[n, K]."""
    embedding: Floats
    """[n, D], what the classifier and FCL see."""
    attention: Floats
    """[n, N], weights of the windows; each row sums to one."""
    scaled: Floats | None = None
    """[n, K], the logits after the model's calibration, where that was asked for."""

    @property
    def predicted(self) -> Ints:
        """int64 [n], the class of the highest logit."""
        return np.asarray(self.logits.argmax(axis=1), dtype=np.int64)

    @property
    def probabilities(self) -> Floats:
        """float64 [n, K], softmax of the logits."""
        return softmax(self.logits)


def write_predictions(path: Path, split: Split, *, read: Mapping[str, Any] | None = None) -> None:
    """Write a predictions.parquet; it appears whole, and says what was `read` for it."""
    columns = {"clip": pa.array(split.clip, pa.string()), "label": pa.array(split.label, pa.int8())}
    for name in ("logits", "embedding", "attention"):
        columns[name] = pa.array(list(getattr(split, name)), pa.list_(pa.float32()))
    with atomic_file(path) as temporary:
        about = encode(split.classes) | (encode_read(read) if read else {})
        table = pa.table(columns).replace_schema_metadata(about)
        pq.write_table(table, temporary)


def read_predictions(source: Path | IO[bytes], name: str | None = None) -> Split:
    """Read a predictions.parquet from its path or the open file; numbers are float64.

    `name` is what an error calls it; the path by default.

    Raises:
        DataError: if it is missing, damaged or empty, or its labels or logits do not fit its
            classes.
    """
    name = name or str(source)
    try:
        table = pq.read_table(source)
        metadata = table.schema.metadata or {}
        split = Split(
            clip=tuple(table["clip"].to_pylist()),
            label=np.array(table["label"], dtype=np.int64),
            # files of earlier versions name no classes, and have the basic seven
            classes=decode(metadata) if KEY.encode() in metadata else BASIC,
            **{k: _matrix(table[k]) for k in ("logits", "embedding", "attention")},
        )
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{name}: not found or damaged; `safe-cli eval` makes it") from error
    k = len(split.classes)
    if not split.clip or split.logits.shape != (len(split.clip), k):
        raise DataError(f"{name}: must hold {k} logits for each of at least one clip")
    if split.label.min() < 0 or split.label.max() >= k:
        raise DataError(f"{name}: holds labels that are not in 0..{k - 1}")
    return split


def _matrix(column: pa.ChunkedArray) -> Floats:
    """Lists of one length as float64 [n, length]; an error if they are not."""
    values = column.cast(pa.list_(pa.float64())).combine_chunks()
    (length,) = np.unique(values.value_lengths()) if len(values) else (0,)
    found: Floats = values.flatten().to_numpy().reshape(len(values), length)
    return found


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
    scaled = [split.scaled for split in splits if split.scaled is not None]
    return Split(
        clip=tuple(clip for split in splits for clip in split.clip),
        label=np.concatenate([split.label for split in splits]),
        classes=splits[0].classes,
        logits=np.concatenate([split.logits for split in splits]),
        embedding=np.concatenate([split.embedding for split in splits]),
        attention=np.concatenate([split.attention for split in splits]),
        scaled=np.concatenate(scaled) if len(scaled) == len(splits) else None,
    )
