"""The push of finished shards into an object store.

The tars first, then clips.parquet, index.json last, so that who finds an index finds all it names.
Each object is read back and compared by size and sha256. What is there and equal is left, so a push
that was stopped goes on where it was.
"""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from safe.errors import DataError
from safe.files import read_bounded
from safe.shards.folder import open_shards
from safe.shards.index import INDEX_BYTES
from safe.shards.store import Store
from safe.shards.verify import verify

STREAMS: Final = 4
"""Objects that are sent at the same time."""

_INDEX = "index.json"


def push_shards(
    shards: Path,
    store: Store,
    *,
    seen: Path | None = None,
    on_done: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Send a shard folder to a store.

    Args:
        shards: the folder; every tar is read before (safe.shards.verify).
        store: where to; a prefix of its own, since names of tars do not tell their content.
        seen: as in safe.shards.verify.
        on_done: called after each object with how many are done.

    Returns:
        How many objects were sent, and how many were there already.

    Raises:
        DataError: one line, if the shards are not whole, the store holds others or fails, or an
            object is not what was sent.
    """
    folder = open_shards(shards)
    verify(folder, seen=seen)
    table, index = folder.index["table"], (shards / _INDEX).read_bytes()
    sums = {str(tar["file"]): str(tar["sha256"]) for tar in folder.index["shards"]}
    sums |= {table["file"]: table["sha256"], _INDEX: hashlib.sha256(index).hexdigest()}
    there = store.sizes()
    if _INDEX in there and not _is_index(store, there[_INDEX], index):
        raise DataError(f"{store}: holds other shards; push to a prefix of its own, or empty this")

    sent: list[bool] = []

    def send(name: str) -> bool:
        return _send(shards / name, store, sums[name], there.get(name))

    def note(was_sent: bool) -> None:
        sent.append(was_sent)
        if on_done:
            on_done(len(sent))

    with ThreadPoolExecutor(STREAMS) as pool:
        tasks = [pool.submit(send, name) for name in sums if name != _INDEX]
        try:
            for task in tasks:
                note(task.result())
        finally:
            pool.shutdown(cancel_futures=True)
    note(send(_INDEX))
    return {"sent": sum(sent), "already there": len(sent) - sum(sent)}


def check_same(shards: Path, store: Store) -> None:
    """Compare the index.json of a shard folder here, if there is one, with that of a store.

    Raises:
        DataError: one line, if the store has none, another one, or fails.
    """
    if not (shards / _INDEX).is_file():
        return
    index = read_bounded(shards / _INDEX, most=INDEX_BYTES, error=DataError)
    if not _is_index(store, (store / _INDEX).size(), index):
        raise DataError(
            f"{store}: holds other shards than {shards}; push these to a prefix of its own and set "
            "runtime.shards to it, or to null, or remove the folder"
        )


def _is_index(store: Store, size: int, index: bytes) -> bool:
    """Say if a store's index.json, of `size` bytes, is `index`."""
    right = hashlib.sha256(index).hexdigest()
    return size == len(index) and (store / _INDEX).sha256(size) == right


def _send(path: Path, store: Store, sha256: str, there: int | None) -> bool:
    """Send a file unless it is there; say if it was sent. Raises DataError."""
    target, size = store / path.name, path.stat().st_size
    if there == size and target.sha256(size) == sha256:
        return False
    target.write(path)
    if target.size() != size or target.sha256(size) != sha256:
        raise DataError(f"{target}: is not what was sent; push again")
    return True
