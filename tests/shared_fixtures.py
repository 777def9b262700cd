"""Fixtures of many tests: the real data, small projects, an S3 server, a model to ask."""

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from dvc_project import dvc, make_repository
from s3 import Proxy, go_to
from support import ROOT, TINY, no_children, save_untrained, small_config

from pipeline.faces import find_faces
from pipeline.index import build_index
from pipeline.pool.pool import Pool
from pipeline.shard import write_shards
from pipeline.synthesize import synthesize
from safe.config import Config

# Tiny tensors gain nothing from threads, which on a busy machine wait for one another.
torch.set_num_threads(1)


@pytest.fixture
def unguarded() -> Iterator[None]:
    """Let pools do their tasks in this process."""
    with no_children():
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real videos and official splits; skip the test where it is absent."""
    folder = Path(os.environ.get("SAFE_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"real data not here: no folder {folder / 'data'} (set SAFE_SHARED)")
    return folder


def make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first of several workers makes, and all use."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, made = shared / name, shared / f"{name}-made"
    with (shared / f"{name}-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 70 small animated clips through index, faces and shard; not to change.

    They are of ten people, two in each fold, and two of each class in each fold.
    """
    return make_once(tmp_path_factory, "project", make_project)


def make_project(folder: Path) -> None:
    config = small_config(folder)
    root = Path(config.data.root)
    data = folder / "data" / "synthetic"
    synthesize(root, config.synthesize, workers=2)
    build_index(config.data, data / "manifest.parquet")
    tables = (data / "manifest.parquet", root, data / "faces.parquet")
    find_faces(*tables, settings=config.faces, pool=Pool(workers=2, deadline=60))
    write_shards(
        data / "manifest.parquet",
        data / "faces.parquet",
        root,
        data / "shards",
        settings=config.shard,
        faces_settings=config.faces,
        pool=Pool(workers=2, deadline=60),
    )


@pytest.fixture
def shards(project: Path) -> Path:
    """Return the shard folder of `project`; not to be changed."""
    return project / "data" / "synthetic" / "shards"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the project in git and DVC with TINY's shards; to be copied, not changed."""

    def make(folder: Path) -> None:
        make_repository(folder, *TINY, "runtime.workers=0")
        with no_children():
            dvc("repro shard", folder)

    return make_once(tmp_path_factory, "tiny", make)


@pytest.fixture(scope="session")
def server() -> Iterator[int]:
    """Return the port of an S3 server; skip the test where it or its client is missing."""
    pytest.importorskip("s3fs", reason="the extra `scale` is not installed")
    moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    yield running.get_host_and_port()[1]
    running.stop()


@pytest.fixture
def proxy(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Let s3:// mean that server, behind a proxy."""
    made = Proxy(server)
    go_to(made.port, monkeypatch)
    yield made
    made.close()


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Return small parameters for videos of drawn people."""
    return small_config(tmp_path_factory.mktemp("config"), "faces.detect_size=256")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, config: Config) -> Path:
    """Return a run with a calibrated, untrained model for `config`; not to be changed."""
    return save_untrained(tmp_path_factory.mktemp("run") / "train" / "fold-1", config).parents[1]
