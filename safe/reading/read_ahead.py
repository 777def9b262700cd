"""Which tars of a store will be needed next, and are they on this disk by then?

A process of its own walks through the plan before the loader and fetches its tars into the cache,
never more than a window and the read-ahead before the batch that is in use. It only saves time: a
tar that is not there yet is fetched, or waited for, by who needs it, and who needs it meets the
error that this process kept to itself.
"""

import multiprocessing
import time
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from safe.errors import DataError
from safe.process import die_with_parent
from safe.reading.plan import WINDOW
from safe.reading.tar_cache import AHEAD, TarCache

STREAMS: Final = 4
"""Tars that are fetched at the same time."""

_LOOK_EVERY = 0.02  # seconds

T = TypeVar("T")


def reading_ahead(
    cache: TarCache, plan: Iterable[NDArray[np.int64]], batches: Iterator[T]
) -> Generator[T, None, None]:
    """Give `batches`, while a process fetches the tars of `plan`, the rows that they are made of.

    The plan may be an iterator that `batches` will use up: a forked process has a copy of it.
    """
    context = multiprocessing.get_context("fork")
    passed = context.Value("q", 0, lock=False)
    process = context.Process(target=_run, args=(cache, plan, passed), daemon=True)
    process.start()
    try:
        for batch in batches:
            yield batch
            passed.value += 1
    finally:
        process.terminate()
        process.join()


def _run(cache: TarCache, plan: Iterable[NDArray[np.int64]], passed: Any) -> None:
    """Fetch what the batches from number `passed` on need; the process's whole life."""
    die_with_parent()
    most = WINDOW + AHEAD
    needed: dict[int, int] = {}  # tar -> the last batch, of those looked at, that needs it
    with suppress(KeyboardInterrupt), ThreadPoolExecutor(STREAMS) as pool:
        for number, rows in enumerate(plan):
            tars = list(dict.fromkeys(cache.folder.shard[rows].tolist()))[:most]
            while True:
                needed = {tar: last for tar, last in needed.items() if last >= passed.value}
                if not needed or len(needed.keys() | set(tars)) <= most:
                    break
                time.sleep(_LOOK_EVERY)
            new = [tar for tar in tars if tar not in needed]
            needed |= dict.fromkeys(tars, number)
            for tar in new:
                for kept in needed:  # one that waits for its turn must not be the oldest
                    cache.touch(kept)
                pool.submit(_fetch, cache, tar)


def _fetch(cache: TarCache, tar: int) -> None:
    with suppress(DataError), cache.open(tar):
        pass
