"""Do the workers of a Dask scheduler give what this machine gives, whoever of them dies?"""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support import ROOT, no_children, small_config
from tasks import (
    Named,
    do_as_named,
    kill_parent,
    misbehave,
    raise_one,
    read_named,
    refuse,
    rescue,
    square,
    touch_slowly,
)

from pipeline.faces import find_faces
from pipeline.pool.children import Failure
from pipeline.pool.cluster import Cluster
from pipeline.pool.fetch import StoredClips
from pipeline.pool.pool import Pool
from pipeline.shard import write_shards
from safe.errors import ConfigError, DataError, ProcessError

distributed = pytest.importorskip("distributed", reason="needs the extra `scale` (Dask)")
psutil = pytest.importorskip("psutil")


STARTER = """
import json, os, signal, sys
import distributed.cli.dask_scheduler, distributed.cli.dask_worker, pipeline.faces, pipeline.shard
from dask.__main__ import main
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(2, 1)
        sys.argv = ["dask", *json.loads(line)]
        sys.exit(main())
    print(pid, flush=True)
"""
"""Starts what `dask WORDS` starts, a line of words each, without seconds of imports for each."""


class Dask:
    """A scheduler and workers of our own, on loopback and free ports."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "scheduler.json"
        self._log = (folder / "log").open("w")
        self._all: list[psutil.Process] = []
        self.workers: list[psutil.Process] = []
        # One worker's death is enough for Dask to give a batch up: the rest is runtime.retries.
        once = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self._starter = subprocess.Popen(
            [sys.executable, "-c", STARTER],
            env={**os.environ, "PYTHONPATH": paths, **once},
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        where = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self.scheduler = self._start("scheduler", *where)
        late = time.monotonic() + 60
        while not self._file.exists() or not self._file.read_text().endswith("}"):
            assert time.monotonic() < late
            time.sleep(0.05)
        self.cluster = Cluster(json.loads(self._file.read_text())["address"], patience=30)

    def _start(self, *what: str) -> "psutil.Process":
        assert self._starter.stdin is not None
        assert self._starter.stdout is not None
        print(json.dumps([*what, "--scheduler-file", str(self._file)]), file=self._starter.stdin)
        self._starter.stdin.flush()
        process = psutil.Process(int(self._starter.stdout.readline()))
        self._all.append(process)
        return process

    def start(self, count: int, *how: str) -> None:
        """Let there be so many workers that live."""
        self.workers = [worker for worker in self.workers if worker.is_running()]
        where = ("--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard")
        for _ in range(count - len(self.workers)):
            self.workers.append(self._start("worker", *where, *(how or ("--no-nanny",))))
        with distributed.Client(self.cluster.address, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=60)

    def kill_a_busy_one(self) -> None:
        """Kill -9 a worker that has a guarded child, which it has only while it does a batch."""
        late = time.monotonic() + 20
        while time.monotonic() < late:
            for worker in self.workers:
                if worker.is_running() and worker.children():
                    worker.kill()
                    worker.wait()
                    return
        pytest.fail("no worker was at work")

    def addresses(self) -> set[str]:
        with distributed.Client(self.cluster.address, set_as_default=False) as client:
            return set(client.ncores())

    def stop(self) -> None:
        for process in self._all:
            with suppress(psutil.NoSuchProcess):
                process.kill()
                process.wait()
        self._starter.communicate()
        self._log.close()


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.pool.cluster._BATCH", 40)
    monkeypatch.setattr("pipeline.pool.cluster._POLL", 0.5)


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dask]:
    made = Dask(tmp_path_factory.mktemp("dask"))
    try:
        yield made
    finally:
        made.stop()


def sums(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def prepare(
    project: Path, out: Path, cluster: Cluster | None, at: dict[int, Callable[[], None]]
) -> None:
    """Run faces and shard on 28 clips of `project`; `at` says what happens at which face."""
    config = small_config(project)
    root = Path(config.data.root)
    manifest, faces = out / "manifest.parquet", out / "faces.parquet"
    whole = pq.read_table(project / "data" / "synthetic" / "manifest.parquet")
    out.mkdir()
    pq.write_table(whole.slice(0, 28), manifest)
    pool = Pool(deadline=60, memory=4.0, cluster=cluster)

    def done(count: int) -> None:
        at.get(count, lambda: None)()

    find_faces(manifest, root, faces, settings=config.faces, on_done=done, pool=pool)
    write_shards(
        *(manifest, faces, root, out / "shards"),
        settings=config.shard,
        faces_settings=config.faces,
        pool=pool,
    )


def test_bytes_are_those_of_one_machine_whoever_dies(
    dask: Dask, project: Path, tmp_path: Path
) -> None:
    dask.start(2)
    witness = Path(small_config(project).data.root) / "EmoLabel_DataSplit"
    notes: list[str] = []
    prepare(
        project,
        tmp_path / "there",
        replace(dask.cluster, witness=witness, on_note=notes.append),
        {3: dask.kill_a_busy_one},
    )
    told = re.compile(r"tasks \d+ to \d+ of 28: begun again on (\S+), since (?!\1 )\S+ was lost")
    assert any(map(told.fullmatch, notes))
    assert sum(worker.is_running() for worker in dask.workers) == 1
    with no_children():
        prepare(project, tmp_path / "here", None, {})
    assert sums(tmp_path / "there") == sums(tmp_path / "here")
    assert len(sums(tmp_path / "there")) > 8


def test_order_counts_and_guards_are_those_of_the_engine(dask: Dask) -> None:
    dask.start(1)
    done: list[int] = []
    results = Pool(workers=9, deadline=20, cluster=dask.cluster).run(
        square, range(100), on_done=done.append
    )
    assert list(results) == [x * x for x in range(100)]
    assert done == list(range(1, 101))
    words = ["a", "hang", "b", "segfault", "abort"]
    results = Pool(workers=1, deadline=1, cluster=dask.cluster).run(
        misbehave, words, fallback=rescue
    )
    assert list(results) == [
        "A",
        "rescued hang",
        "B",
        "rescued segfault",
        Failure("crashed (signal 6)"),
    ]
    once = replace(dask.cluster, retries=0)
    [told] = Pool(workers=1, deadline=20, cluster=once).run(refuse, [2])
    assert isinstance(told, Failure)
    assert "two is wrong" in told.reason
    with pytest.raises(DataError, match="of the user") as caught:
        list(Pool(workers=1, deadline=20, cluster=once).run(raise_one, ["DataError"]))
    assert "in raise_one" in "".join(caught.value.__notes__)


def test_look_ahead_is_bounded_and_leaving_early_cancels(dask: Dask, tmp_path: Path) -> None:
    dask.start(1)
    tasks = [tmp_path / str(number) for number in range(800)]
    results = Pool(workers=1, deadline=60, cluster=dask.cluster).run(touch_slowly, tasks)
    next(results)
    results.close()
    with distributed.Client(dask.cluster.address, set_as_default=False) as client:
        late = time.monotonic() + 40
        while any(client.processing().values()) and time.monotonic() < late:
            time.sleep(0.1)
        assert not any(client.processing().values())
    assert 40 <= len(list(tmp_path.iterdir())) <= 120


def test_workers_fetch_clips_of_a_store(dask: Dask, tmp_path: Path) -> None:
    dask.start(1)
    (tmp_path / "far").mkdir()
    for name in ("a", "segfault", "b"):
        (tmp_path / "far" / name).write_text(name)
    far = StoredClips(f"file://{tmp_path}/far", 5.0)
    tasks = [Named(name) for name in ("a", "gone", "segfault", "b")]
    results = Pool(workers=1, deadline=20, clips=far, cluster=dask.cluster).run(read_named, tasks)
    assert list(results) == ["A", "missing", Failure("crashed (signal 11)"), "B"]


def test_failing_and_slow_batches_and_lost_workers_are_told(dask: Dask, tmp_path: Path) -> None:
    dask.start(2)
    notes: list[str] = []
    cluster = replace(dask.cluster, on_note=notes.append)
    names = ["fails once", *map(str, range(9)), "slow"]
    results = cluster.run(do_as_named, [tmp_path / name for name in names])
    assert list(results) == ["done"] * 11
    who = r"(tcp://127\.0\.0\.1:\d+)"
    again, slow = notes
    assert re.fullmatch(
        rf"tasks 1 to 2 of 11: begun again on {who}, since {who} failed \(ValueError: at first\)",
        again,
    )
    found = re.fullmatch(
        rf"tasks 11 to 11 of 11: slow, \d s on {who}; half of the batches took at most 0\.\d s",
        slow,
    )
    before = dask.addresses()
    assert found
    assert found[1] in before

    notes.clear()
    results = cluster.run(do_as_named, [tmp_path / "slow"] * 4)
    assert next(results) == "done"
    time.sleep(0.5)  # both have begun their second batch
    dask.workers[0].kill()
    dask.workers[0].wait()
    assert list(results) == ["done"] * 3
    (gone,) = before - dask.addresses()
    assert f"worker {gone} is gone; what it had begun goes to others" in notes
    assert any(note.endswith(f", since {gone} was lost") for note in notes)


def test_workers_that_do_not_fit_are_told(dask: Dask, tmp_path: Path, monkeypatch: Any) -> None:
    dask.start(1)
    blind = replace(dask.cluster, witness=tmp_path / "nowhere", retries=0)
    with pytest.raises(ProcessError, match=r"worker tcp://127.* does not see .*nowhere"):
        list(Pool(workers=1, deadline=20, cluster=blind).run(square, [1]))
    ours = {"the code": "0" * 12, "numpy": "0.1"}
    monkeypatch.setattr("pipeline.pool.cluster.find_rules", lambda: ours)
    alone = replace(dask.cluster, retries=0)
    with pytest.raises(
        ProcessError, match=r"other bytes: it has the code \w{12}, not 0.*, not 0\.1"
    ):
        list(Pool(workers=1, deadline=20, cluster=alone).run(square, [1]))


def test_a_batch_that_kills_its_workers_is_named(dask: Dask) -> None:
    dask.start(2)
    cluster = replace(dask.cluster, retries=1)
    with pytest.raises(ProcessError, match=r"^tasks 1 to 1 of 1: all workers .* died, 2 times"):
        list(Pool(workers=1, deadline=60, cluster=cluster).run(kill_parent, [0]))
    for worker in dask.workers:
        worker.wait(10)


def test_a_worker_with_a_nanny_is_told(dask: Dask) -> None:
    dask.start(1, "--nanny")
    alone = replace(dask.cluster, retries=0)
    with pytest.raises(ProcessError, match="--no-nanny"):
        list(Pool(workers=1, deadline=20, cluster=alone).run(square, [1]))
    dask.workers[0].terminate()
    dask.workers[0].wait()


def test_a_run_without_workers_ends(dask: Dask) -> None:
    dask.start(1)
    cluster = replace(dask.cluster, patience=2)
    results = Pool(workers=1, deadline=20, cluster=cluster).run(square, range(800))
    assert next(results) == 0
    for worker in dask.workers:
        worker.kill()
        worker.wait()
    with pytest.raises(ProcessError, match=rf"^{cluster.address}: no worker for 2 s"):
        list(results)
    with pytest.raises(ProcessError, match="no worker for 2 s"):
        list(Pool(workers=1, deadline=20, cluster=cluster).run(square, range(5)))


def test_a_scheduler_that_ends_or_never_was_is_told(dask: Dask) -> None:
    dask.start(1)
    cluster = replace(dask.cluster, patience=3)
    results = Pool(workers=1, deadline=20, cluster=cluster).run(square, range(800))
    assert next(results) == 0
    dask.scheduler.kill()
    with pytest.raises(ProcessError, match=rf"^{cluster.address}: the Dask scheduler"):
        list(results)
    cluster = replace(cluster, patience=1)
    with pytest.raises(ProcessError, match=rf"^{cluster.address}: no Dask scheduler answers"):
        list(Pool(workers=1, deadline=20, cluster=cluster).run(square, [1]))


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    nobody = Cluster("tcp://127.0.0.1:1")
    with pytest.raises(ConfigError, match="extra `scale`"):
        list(Pool(workers=1, deadline=20, cluster=nobody).run(square, [1]))
    assert list(Pool(workers=1, deadline=20).run(square, [3])) == [9]
