"""Which clips exist, with which label, in which bucket?

The official lists and the folder of a dataset in, one table out: data/<name>/manifest.parquet, with
a row for every clip that the lists name. A clip whose file is missing keeps its row, so that the
official denominator stays; its `bytes` are null.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.datasets import dfew, ferv39k, own
from pipeline.forgotten import read_forgotten
from pipeline.manifest import SCHEMA, Clip, check_clips
from safe.config import Data
from safe.labels import CLASSES
from safe.process import whole_file
from safe.store import Store


class Adapter(Protocol):
    """Lists the clips of a dataset, whose files are in data.root or in a store."""

    def __call__(self, data: Data, *, store: Store | None = None) -> list[Clip]: ...  # noqa: D102


ADAPTERS: Final[dict[str, Adapter]] = {
    "synthetic": dfew.read_clips,  # drawn in DFEW's layout
    "dfew": dfew.read_clips,
    "ferv39k": ferv39k.read_clips,
    "own": own.read_clips,
}


def build_index(
    data: Data,
    out: Path,
    *,
    forgotten: Path | None = None,
    store: Store | None = None,
    on_note: Callable[[str], None] | None = None,
) -> dict[str, int]:
    """List the clips of a dataset and write the manifest to the file `out`.

    Clips that the file `forgotten` names are left out, as if the lists did not name them. The rows
    are sorted by clip; the same files and lists give the same bytes, wherever they are.
    With a `store`, which files are there is what its listing says; the lists stay in data.root.
    `on_note` is called with a line for what a person should know, such as a class without clips.

    Returns:
        Counts: clips, missing, forgotten (clips of the lists that were left out), then clips of
        each class by name and of each bucket by name.

    Raises:
        DataError: one line that says what was looked for and where.
    """
    gone = read_forgotten(forgotten, data.name) if forgotten else set()
    noting = on_note is not None and data.name == "own"  # only its labels are free words
    listed = (
        own.read_clips(data, on_note, store=store)
        if noting
        else ADAPTERS[data.name](data, store=store)
    )
    clips = sorted((clip for clip in listed if clip.key not in gone), key=lambda clip: clip.key)
    check_clips(clips)
    if on_note is not None:
        for note in _find_gaps(clips, data.folds):
            on_note(note)
    columns = {
        "clip": [clip.key for clip in clips],
        "path": [clip.path for clip in clips],
        "label": [clip.label for clip in clips],
        "bucket": [clip.bucket for clip in clips],
        "source": [data.source] * len(clips),
        "bytes": [clip.bytes for clip in clips],
    }
    with whole_file(out) as temporary:
        pq.write_table(pa.table(columns, SCHEMA), temporary, compression="zstd")
    classes = Counter(clip.label for clip in clips)
    buckets = Counter(clip.bucket for clip in clips)
    return {
        "clips": len(clips),
        "missing": sum(clip.bytes is None for clip in clips),
        "forgotten": len(listed) - len(clips),
        **{name: classes[label] for label, name in enumerate(CLASSES)},
        **{name: buckets[name] for name in sorted(buckets)},
    }


def _find_gaps(clips: list[Clip], folds: list[int]) -> Iterator[str]:
    """Yield a line for each fold whose training or test split lacks classes."""
    for fold in folds:
        tests = {f"fold{fold}"} if any(clip.bucket[:4] == "fold" for clip in clips) else {"test"}
        seen = {
            "train on": {clip.label for clip in clips if clip.bucket not in {*tests, "val"}},
            "test on": {clip.label for clip in clips if clip.bucket in tests},
        }
        for use, labels in seen.items():
            absent = [name for label, name in enumerate(CLASSES) if label not in labels]
            if absent:
                yield f"fold {fold} has no clip of {', '.join(absent)} to {use}"
