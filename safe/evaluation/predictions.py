"""Predictions: what a model said of each clip of a split, and the two files of an evaluation.

Every metric, table and picture is made from predictions.parquet, never by running the model again;
metrics.json says of what model they are, and how they were made. Both are read as if an enemy had
written them.
Shapes: n clips, K classes, D features, N windows.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from safe.errors import DataError
from safe.evaluation.metrics import Floats, Ints, softmax
from safe.files import atomic_file, read_bounded
from safe.reader import Block, Column, Plain, Sha256, parse_model, read_columns
from safe.sample import MOST_FRAMES
from safe.taxonomy import BASIC, KEY, MOST, Classes, decode, encode

PREDICTIONS_BYTES: Final = 2**30
"""Largest predictions.parquet; a clip takes some 4 KB."""

METRICS_BYTES: Final = 2**20
"""Largest metrics.json; it has some 2 KB."""

CLIPS: Final = 10_000_000
"""Most clips of a split: as many as a shard folder may have."""

_AGAIN: Final = "`safe-cli eval` makes it"
_FLOATS: Final = (pa.list_(pa.float32()), pa.list_(pa.float64()))  # the latter from other tools
_COLUMNS: Final = {
    "clip": Column(pa.string(), differs=True),
    "label": Column((pa.int8(), pa.int64())),
    "logits": Column(_FLOATS, MOST),
    "embedding": Column(_FLOATS, 2**16),
    "attention": Column(_FLOATS, MOST_FRAMES),
}


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


def write_predictions(path: Path, split: Split) -> None:
    """Write a predictions.parquet; it appears whole."""
    columns = {"clip": pa.array(split.clip, pa.string()), "label": pa.array(split.label, pa.int8())}
    for name in ("logits", "embedding", "attention"):
        columns[name] = pa.array(list(getattr(split, name)), pa.list_(pa.float32()))
    with atomic_file(path) as temporary:
        table = pa.table(columns).replace_schema_metadata(encode(split.classes))
        pq.write_table(table, temporary)


def read_predictions(path: Path) -> Split:
    """Read a predictions.parquet; its numbers are finite, and float64.

    Raises:
        DataError: one line, if it is missing, damaged, or its rows do not fit its classes.
    """
    try:
        data = read_bounded(path, most=PREDICTIONS_BYTES, error=DataError)
    except FileNotFoundError as error:
        raise DataError(f"{path}: not found; {_AGAIN}") from error
    return parse_predictions(data, str(path))


def parse_predictions(data: bytes, name: str) -> Split:
    """Read the bytes of a predictions.parquet, which errors call `name`, as read_predictions."""
    try:
        table = read_columns(data, _COLUMNS, rows=CLIPS)
        metadata = table.schema.metadata or {}
        # files of earlier versions name no classes, and have the basic seven
        classes = decode(metadata) if KEY.encode() in metadata else BASIC
        clips, label = tuple(table["clip"].to_pylist()), table["label"].to_numpy()
        numbers = {k: _matrix(table[k]) for k in ("logits", "embedding", "attention")}
        if numbers["logits"].shape[1] != (k := len(classes)):
            raise ValueError(f"must hold {k} logits for each clip")
        if label.min() < 0 or label.max() >= k:
            raise ValueError(f"label: holds labels that are not in 0..{k - 1}")
        if len(set(clips)) < len(clips):
            raise ValueError("clip: the same in two rows")
    except ValueError as error:
        raise DataError(f"{name}: damaged or altered: {error}; {_AGAIN}") from error
    return Split(clips, label.astype(np.int64), classes, **numbers)


def _matrix(column: pa.ChunkedArray) -> Floats:
    """Lists of one length as float64 [n, length]."""
    lists = column.combine_chunks()
    found: Floats = lists.flatten().to_numpy().reshape(len(lists), -1).astype(np.float64)
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


# metrics.json

Percent = Annotated[float, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=0, le=CLIPS)]
Word = Annotated[str, Field(max_length=100)]


class _Metrics(Block, extra="allow"):
    """What is used of it by name; all else is a number, a word or nothing."""

    __pydantic_extra__: dict[str, Plain]
    war: Percent | None = None
    uar: Percent | None = None
    ece: float | None = None
    nll: float | None = None
    brier: float | None = None
    weights: Sha256 | None = None
    model: Sha256 | None = None
    n_test: Count | None = None
    n_left_out: Count | None = None
    fold: Count | None = None
    selection: Literal["last", "val", "test"] | None = None
    perturb: Word = "none"
    severity: Annotated[int, Field(ge=0, le=5)] = 0
    precision: Word | None = None


def read_metrics(path: Path, *, needs: Collection[str] = ()) -> dict[str, Any]:
    """Read the metrics.json of an evaluation; `needs` are keys that it must have.

    Raises:
        DataError: one line, if it is missing or damaged, or a key has a value that it cannot have.
    """
    try:
        data = read_bounded(path, most=METRICS_BYTES, error=DataError)
    except FileNotFoundError as error:
        raise DataError(f"{path}: not found; {_AGAIN}") from error
    return parse_metrics(data, str(path), needs=needs)


def parse_metrics(data: bytes, name: str, *, needs: Collection[str] = ()) -> dict[str, Any]:
    """Read the bytes of a metrics.json, which errors call `name`, as read_metrics."""
    try:
        found = parse_model(data, _Metrics).model_dump(exclude_unset=True)
        if missing := [key for key in needs if key not in found]:
            raise ValueError(f"{missing[0]}: missing")
        for key, value in found.items():
            if key.startswith("recall.") and not (value is None or 0 <= _number(value) <= 100):
                raise ValueError(f"{key}: must be 0 to 100")
    except ValueError as error:
        raise DataError(f"{name}: damaged or altered: {error}; {_AGAIN}") from error
    return found


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) else -1
