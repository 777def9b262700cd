"""Answers: what a model says of a stretch of a video, as rows of JSON lines or Parquet.

One row is one face during one window of time, or a gap: a stretch without a face to look at. The
same rows go into JSON lines or into Parquet, one by one, so that a long video takes no memory. The
classes are apparent expressions. Shapes: n windows, K classes.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from safe.errors import as_utf8
from safe.evaluation.calibration import Calibration
from safe.files import atomic_file
from safe.taxonomy import ABSTAIN, Classes, encode

Format = Literal["jsonl", "parquet"]

_ROWS: Final = 1024
"""What is held before it is written: in Parquet a row group."""


@dataclass(frozen=True)
class Verdict:
    """What the model makes of one window."""

    probabilities: tuple[float, ...]
    """[K], calibrated where the model is; they sum to one."""
    decision: str
    """The class of the highest probability, or ABSTAIN."""
    classes: tuple[str, ...] | None
    """The prediction set, which may be empty; None where the model promises no level."""

    @property
    def top(self) -> float:
        """The highest probability."""
        return max(self.probabilities)


@dataclass(frozen=True)
class Answer:
    """One row. Without a verdict it is a gap, and `reason` says why."""

    video: str
    start: float
    """Seconds on a player's clock, which begins where the file does."""
    end: float
    """Seconds; above `start`."""
    face: int | None = None
    """The number of the face, the same for a face as long as it can be followed."""
    verdict: Verdict | None = None
    box: tuple[float, float, float, float] | None = None
    """x0, y0, x1, y1 in pixels of the upright frame: the face's median box in the window."""
    flags: tuple[str, ...] = ()
    """What was wrong with the pictures (small, dark, HDR, ...) or the window (short, ...)."""
    reason: str | None = None

    def record(self, classes: Classes) -> dict[str, Any]:
        """Return the row as columns, in the order of `schema`."""
        verdict = self.verdict
        chances = verdict.probabilities if verdict else (None,) * len(classes)
        named = zip(classes, chances, strict=True)
        return {
            "video": as_utf8(self.video),
            "face": self.face,
            "start": round(self.start, 3),
            "end": round(self.end, 3),
            "decision": verdict.decision if verdict else None,
            "top": round(verdict.top, 6) if verdict else None,
            **{f"p_{name}": None if p is None else round(p, 6) for name, p in named},
            "set": list(verdict.classes) if verdict and verdict.classes is not None else None,
            "flags": list(self.flags),
            "box": [round(side, 1) for side in self.box] if self.box else None,
            "reason": self.reason,
        }


def schema(classes: Classes) -> pa.Schema:
    """Return the columns of a row in Parquet; in JSON lines the keys, in the same order."""
    return pa.schema(
        [
            pa.field("video", pa.string(), nullable=False),
            pa.field("face", pa.int32()),
            pa.field("start", pa.float64(), nullable=False),
            pa.field("end", pa.float64(), nullable=False),
            pa.field("decision", pa.string()),
            pa.field("top", pa.float64()),
            *(pa.field(f"p_{name}", pa.float64()) for name in classes),
            pa.field("set", pa.list_(pa.string())),
            pa.field("flags", pa.list_(pa.string()), nullable=False),
            pa.field("box", pa.list_(pa.float64())),
            pa.field("reason", pa.string()),
        ],
        metadata=encode(classes),
    )


def judge(logits: ArrayLike, calibration: Calibration, classes: Classes) -> list[Verdict]:
    """Say what logits [n, K] mean: probabilities, a decision or none, a prediction set."""
    chances = calibration.probabilities(logits)
    abstains = calibration.abstains(chances)
    sets = calibration.sets(chances)
    promised = calibration.level is not None
    return [
        Verdict(
            probabilities=tuple(map(float, row)),
            decision=ABSTAIN if unsure else classes[int(row.argmax())],
            classes=tuple(name for name, i in zip(classes, inside, strict=True) if i)
            if promised
            else None,
        )
        for row, unsure, inside in zip(chances, abstains, sets, strict=True)
    ]


@contextmanager
def writing(path: Path, form: Format, classes: Classes) -> Iterator[Callable[[Answer], None]]:
    """Give a function that writes one row; the file appears whole when the block ends.

    jsonl is one object a line, UTF-8; parquet is `schema`, zstd. An error in the block leaves no
    file, and an older one as it was.
    """
    waiting: list[dict[str, Any]] = []
    columns = schema(classes)
    with atomic_file(path) as temporary, ExitStack() as opened:
        if form == "jsonl":
            text = opened.enter_context(temporary.open("w", encoding="utf-8", newline="\n"))
        else:
            table = pq.ParquetWriter(temporary, columns, compression="zstd")
            opened.enter_context(table)

        def flush() -> None:
            if form == "jsonl":
                rows = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in waiting)
                text.writelines(f"{row}\n" for row in rows)
            elif waiting:
                table.write_table(pa.Table.from_pylist(waiting, schema=columns))
            waiting.clear()

        def write(answer: Answer) -> None:
            waiting.append(answer.record(classes))
            if len(waiting) == _ROWS:
                flush()

        yield write
        flush()
