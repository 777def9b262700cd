"""Shards in object storage: the same bytes, through outages, within the cache; no secret told."""

import contextlib
import fcntl
import multiprocessing
import os
import shutil
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from s3 import KEY, SECRET, go_to
from support import ROOT, SMALL, call, small_config

from safe.errors import ConfigError, DataError
from safe.evaluation.evaluate import evaluate
from safe.shards.cache import StoredShards
from safe.shards.clips import open_tars
from safe.shards.folder import open_shards
from safe.shards.loader import load_batches
from safe.shards.order import TrainPlan
from safe.shards.push import push_shards
from safe.training.train import train

pytest.importorskip("s3fs", reason="the extra `scale` is not installed")


def store_of(bucket: str, shards: Path, cache: Path) -> StoredShards:
    """Return a store, with a cache that has room for 12 of the 15 tars."""
    largest = int(open_shards(shards).index["shards"]["bytes"].max())
    return StoredShards(f"s3://{bucket}/some/prefix", 30.0, cache, 12 * largest)


def push(bucket: str, shards: Path, cache: Path) -> StoredShards:
    import boto3

    boto3.client("s3").create_bucket(Bucket=bucket)
    made = store_of(bucket, shards, cache)
    push_shards(shards, made)
    return made


@pytest.fixture(scope="module")
def pushed(server, project, tmp_path_factory):
    """A bucket that holds the shards; not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        go_to(server, patch)
        shards = project / "data" / "synthetic" / "shards"
        push("pushed", shards, tmp_path_factory.mktemp("cache"))
    return "pushed"


@pytest.fixture
def store(proxy, pushed, shards, tmp_path):
    """A store that holds the shards; not to be changed."""
    return store_of(pushed, shards, tmp_path / "cache")


@pytest.fixture
def own(proxy, shards, tmp_path):
    """A store that holds the shards, to be changed."""
    bucket = "b" + "".join(c for c in tmp_path.name.lower() if c.isalnum())[:50]
    return push(bucket, shards, tmp_path / "cache")


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert SECRET not in text
    assert KEY not in text
    return text


def run_train(project, out: Path, shards, *more: str, **options) -> Path:
    # Small batches: of an epoch more than what is read ahead.
    config = small_config(project, "train.batch=4", *more)
    places = {"out": out / "model", "checkpoints": out / "checkpoints"}
    train(config, shards=shards, fold=1, commit="none", **places, **options)
    return out / "model"


def run_eval(project, model: Path, shards) -> bytes:
    config = small_config(project)
    settings = {"settings": config.eval, "runtime": config.runtime}
    evaluate(model, shards=shards, fold=1, out=model.parent / "eval", **settings)
    return (model.parent / "eval" / "predictions.parquet").read_bytes()


@contextlib.contextmanager
def watched(folder: Path):
    """Give a list that grows by the bytes on disk in a folder, looked at all the time."""
    sizes, over = [0], threading.Event()

    def look() -> None:
        while not over.is_set():
            with contextlib.suppress(FileNotFoundError):
                sizes.append(sum(e.stat().st_blocks * 512 for e in os.scandir(folder)))
            time.sleep(0.01)

    thread = threading.Thread(target=look)
    thread.start()
    yield sizes
    over.set()
    thread.join()


def test_two_epochs_through_an_outage_give_the_bytes_of_local_shards(
    project, shards, store, proxy, tmp_path
):
    here = run_train(project, tmp_path / "here", shards)
    outage: list[float] = []

    def cut(epoch: int, row: dict[str, float]) -> None:
        """All is taken from the disk; while it comes again, the store is away for a second."""
        if epoch == 1:
            for path in store.cache.glob("*.tar"):
                path.unlink()
            proxy.fuse = proxy.passed + store.room / 4
            outage.append(proxy.fuse)

    with watched(store.cache) as sizes:
        there = run_train(project, tmp_path / "there", store, on_epoch=cut)
    assert proxy.passed > outage[0] + store.room / 4  # it was away, came back, and was needed
    assert proxy.fuse == float("inf")
    weights = [model / "model.safetensors" for model in (here, there)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert run_eval(project, here, shards) == run_eval(project, there, store)
    slack = 4096 * 16  # the disk's blocks are not the files' bytes
    assert store.room / 2 < max(sizes) <= store.room + slack
    assert not list(store.cache.glob("*.part"))


def test_a_store_that_is_gone_is_one_line_within_the_patience(
    project, store, proxy, tmp_path, shards
):
    gone = StoredShards(store.url, 1.0, store.cache, store.room)

    def cut(epoch: int, row: dict[str, float]) -> None:
        proxy.stop()
        shutil.rmtree(store.cache)

    with pytest.raises(DataError) as caught:
        run_train(project, tmp_path / "gone", gone, on_epoch=cut)
    line = one_line(caught)
    # Of this process and the one that prefetches, either may be the first to give up.
    assert f"{store.url}/fold" in line or "other processes fetched a tar" in line
    assert "for 1 s (runtime.patience)" in line


def test_the_command_line_ends_with_one_line_and_its_exit_code(store, proxy, tmp_path, project):
    """Also the two verbs and that no secret is told."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "data").symlink_to(project / "data")
    sets = [*SMALL, "runtime.patience=1", f"runtime.shards={store.url}"]
    more = [word for setting in sets for word in ("-S", setting)]
    done = call("push-shards", *more, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "17 already there" in done.stdout
    proxy.stop()
    done = call("train", *more, folder=tmp_path)
    assert done.returncode == DataError.exit_code
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"safe-cli: {store.url}/index.json: ")
    assert SECRET not in line + done.stdout
    assert KEY not in line + done.stdout


def test_a_server_that_never_answers_is_given_up(tmp_path, monkeypatch):
    """It takes connections, reads nothing and says nothing: also a body waits that is sent."""
    for name in ("_REQUEST", "_LISTING"):
        monkeypatch.setattr(f"safe.shards.store.{name}", 0.4)
    monkeypatch.setattr("safe.shards.store._SLOWEST", 2**30)
    large = tmp_path / "large"
    large.write_bytes(bytes(2**24))  # more than the kernel takes for a peer that does not read
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts
        go_to(silent.getsockname()[1], monkeypatch)
        store = StoredShards("s3://bucket/prefix", 0.5, tmp_path / "cache", 2**30)
        for ask in (
            lambda: open_shards(store),
            store.sizes,
            lambda: (store / "large").read(0, 10),
            lambda: (store / "large").write(large),
        ):
            with pytest.raises(DataError, match="no answer in time, and again for") as caught:
                ask()
            one_line(caught)


def test_a_list_of_names_that_does_not_come_is_no_empty_folder(store, proxy, shards):
    """Else a push would not see that the store holds other shards."""
    proxy.stop()
    gone = StoredShards(store.url, 0.5, store.cache, store.room)
    with pytest.raises(DataError, match=r"runtime\.patience"):
        gone.sizes()
    proxy.open = True
    assert sorted(store.sizes()) == sorted(path.name for path in shards.iterdir())
    assert StoredShards(f"{store.url}/nothing/here", 0.5, store.cache, store.room).sizes() == {}


def batches(store: StoredShards, *, workers: int, epochs: int = 1) -> list[torch.Tensor]:
    folder = open_shards(store)
    plan = TrainPlan(folder.split(1)[0], folder.shard, batch=8, epochs=epochs, seed=3)
    return [b["faces"].clone() for b in load_batches(folder, plan, workers=workers)]


def test_two_runs_may_share_a_cache(store, shards, tmp_path):
    """Two processes with two workers each, in one folder that does not hold all tars."""
    folder = open_shards(shards)
    plan = TrainPlan(folder.split(1)[0], folder.shard, batch=8, epochs=2, seed=3)
    right = [b["faces"].clone() for b in load_batches(folder, plan, workers=0)]

    def write(name: str) -> None:
        np.save(tmp_path / name, np.stack(batches(store, workers=2, epochs=2)))

    runs = [multiprocessing.get_context("fork").Process(target=write, args=(n,)) for n in "ab"]
    with watched(store.cache) as sizes:
        for run in runs:
            run.start()
        for run in runs:
            run.join()
    for name in "ab":
        assert np.array_equal(torch.stack(right).numpy(), np.load(tmp_path / f"{name}.npy"))
    assert max(sizes) <= store.room + 4096 * 16


def altered(path: Path) -> bytes:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    return bytes(data)


def test_an_altered_object_is_refused_and_a_push_mends_it(own, shards, tmp_path):
    store = own
    name = sorted(path.name for path in shards.glob("fold2-*.tar"))[0]
    (tmp_path / name).write_bytes(altered(shards / name))
    (store / name).write(tmp_path / name)
    for workers in (0, 1):
        with pytest.raises(DataError) as caught:
            batches(store, workers=workers)
        assert one_line(caught).startswith(f"{store.url}/{name}: damaged or altered: ")
    kept = {path.stem for path in store.cache.glob("*.tar")}
    index = open_shards(shards).index["shards"]
    assert not kept & set(index["sha256"][index["file"] == name].tolist())
    assert push_shards(shards, store) == {"sent": 1, "already there": 16}
    assert len(batches(store, workers=0)) == 7


def test_an_altered_index_or_table_is_refused_and_a_missing_object_named(own, shards, tmp_path):
    store = own
    wrong = {
        "clips.parquet": (altered(shards / "clips.parquet"), "altered, its checksum"),
        "index.json": ((shards / "index.json").read_bytes()[:-9], "damaged or altered"),
    }
    for name, (data, what) in wrong.items():
        (tmp_path / name).write_bytes(data)
        (store / name).write(tmp_path / name)
        with pytest.raises(DataError) as caught:
            open_shards(store)
        assert one_line(caught).startswith(f"{store.url}/{name}: {what}")
        (store / name).write(shards / name)
    store.ask("", lambda fs: fs.rm(f"{store.url}/fold1-000000.tar"))
    with pytest.raises(DataError, match=r"fold1-000000\.tar: missing or not of \d+ bytes"):
        open_shards(store)


def test_a_damaged_tar_in_the_cache_is_one_line_and_fetched_anew_next_time(store):
    right = batches(store, workers=0)
    for path in store.cache.glob("*.tar"):  # in every clip
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataError, match=r"its checksum is not that of clips\.parquet"):
        batches(store, workers=0)
    for path in store.cache.glob("*.tar"):
        path.unlink()
    assert all(map(torch.equal, right, batches(store, workers=0)))


def test_a_push_keeps_out_of_others_shards_and_index_comes_last(own, shards, tmp_path):
    store = own
    names = sorted(path.name for path in shards.iterdir())
    assert sorted(store.sizes()) == names
    (tmp_path / "index.json").write_bytes(b"{}")
    (store / "index.json").write(tmp_path / "index.json")
    with pytest.raises(DataError, match="holds other shards"):
        push_shards(shards, store)
    fresh = StoredShards(f"{store.url}-2", 1.0, store.cache, store.room)
    seen: list[set[str]] = []
    push_shards(shards, fresh, on_done=lambda count: seen.append(set(fresh.sizes())))
    assert "index.json" not in set().union(*seen[:-1])
    assert sorted(seen[-1]) == names


def test_a_cache_that_cannot_hold_a_window_says_how_much_it_must(store):
    small = StoredShards(store.url, 1.0, store.cache, store.room - 1)
    with pytest.raises(ConfigError, match=r"runtime\.cache = .* must be at least .* for 12 tars"):
        batches(small, workers=0)


def test_what_is_read_stays_and_what_a_killed_process_left_is_taken_over(store):
    folder = open_shards(store)
    cache = open_tars(folder)
    with cache.open(0) as file:
        os.utime(cache.path(0), (1, 1))  # the first to go, were it not held
        for number in range(1, len(folder.files)):
            with cache.open(number):
                pass
        assert cache.path(0).exists()
        assert os.pread(file, 512, 0)
    assert len(list(store.cache.glob("*.tar"))) < len(folder.files)
    cache.path(0).unlink()
    left = cache.path(0).with_suffix(".part")
    left.write_bytes(b"half of it")
    with cache.open(0) as file:
        assert os.fstat(file).st_size == folder.index["shards"]["bytes"][0]
    assert not left.exists()


def test_waiting_for_another_process_ends_with_the_patience(store):
    cache = open_tars(open_shards(StoredShards(store.url, 0.5, store.cache, store.room)))
    part = cache.path(0).with_suffix(".part")
    part.parent.mkdir(exist_ok=True)
    with part.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="other processes"), cache.open(0):
            pass


@pytest.mark.parametrize("url", ["s3://me:pass@b/c", "s3://b/c?X-Sig=pass", "s3://pass@b/c"])
def test_a_url_with_credentials_is_refused_and_not_repeated(tmp_path, url):
    with pytest.raises(ConfigError, match="environment") as caught:
        small_config(tmp_path, f"runtime.shards='{url}'")
    assert "pass" not in str(caught.value)


def test_denied_and_missing_are_told_at_once(store):
    away = StoredShards("s3://no-such-bucket/at-all", 60.0, store.cache, store.room)
    with pytest.raises(DataError, match="not found; `safe-cli push-shards`"):
        open_shards(away)
    strange = StoredShards("nosuch://bucket/at-all", 60.0, store.cache, store.room)
    with pytest.raises(DataError, match=r"nosuch://.*/index\.json: fsspec does not know"):
        open_shards(strange)
