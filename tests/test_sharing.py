"""Who has no raw clips trains from shards that someone pushed; and shard sends what it made."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from dvc_project import commit_all, dvc, make_repository, run, set_params, stages
from s3 import environment, go_to
from support import ROOT, SMALL, TINY

from cli.doctor import examine
from cli.inspect import inspect_clip
from cli.layout import read, source
from cli.push import push_made
from cli.stages import run_shard
from safe.errors import DataError
from safe.shards.cache import StoredShards
from safe.shards.folder import open_shards
from safe.taxonomy import BASIC

DATA = Path("data", "synthetic")


@pytest.fixture
def bucket(server, monkeypatch):
    go_to(server, monkeypatch)
    import boto3

    boto3.client("s3").create_bucket(Bucket="sharing")
    yield "s3://sharing"
    objects = boto3.resource("s3").Bucket("sharing")
    objects.objects.delete()
    objects.delete()


# DVC's remote


def make_raw(root: Path) -> Path:
    """Make a dataset of one's own, outside any repository: 21 clips as folders of 16 grey faces."""
    random, lines = np.random.default_rng(0), ["path,label,split"]
    for number, (label, split) in enumerate(
        (label, split) for label in BASIC for split in ("train", "train", "test")
    ):
        (root / f"clip{number}").mkdir(parents=True)
        for frame in range(16):
            face = random.integers(0, 255, (48, 48, 3), np.uint8)
            cv2.imwrite(str(root / f"clip{number}" / f"{frame:02}.jpg"), face)
        lines.append(f"clip{number},{label},{split}")
    (root / "clips.csv").write_text("\n".join(lines) + "\n")
    return root


def test_training_and_evaluating_in_clones_without_raw_clips(bucket, server, tmp_path):
    pytest.importorskip("dvc_s3", reason="the extra `scale` is not installed")
    keys = {name: value for name, value in environment(server).items() if "ENDPOINT" not in name}
    raw = make_raw(tmp_path / "raw")
    settings = ["name=own", f"root={raw}", "splits=clips.csv", "source=frames"]
    settings = [
        *TINY,
        "train.epochs=1",
        "runtime.workers=0",
        *(f"data.{setting}" for setting in settings),
    ]

    def do(line: str, folder: Path, *, fails: bool = False) -> str:
        return dvc(line, folder, fails=fails, **keys)

    def clone(origin: Path, name: str) -> Path:
        run("git", "clone", "-q", str(origin), name, folder=tmp_path)
        do(f"remote modify --local store endpointurl http://127.0.0.1:{server}", tmp_path / name)
        return tmp_path / name

    maker = make_repository(tmp_path / "maker", *settings)
    assert stages(do("repro shard", maker)) == ["index", "faces", "shard"]
    do(f"remote add -d store {bucket}/dvc", maker)
    do(f"remote modify --local store endpointurl http://127.0.0.1:{server}", maker)
    commit_all(maker)
    do("push shard", maker)
    shutil.rmtree(raw)

    trainer = clone(maker, "trainer")
    do("pull shard", trainer)
    assert [path.name for path in (trainer / "data" / "own").iterdir()] == ["shards"]
    assert f"{raw}/clips.csv" in do("repro", trainer, fails=True)
    said = do("exp run --allow-missing -S train.lr=0.002 eval", trainer)  # not summary: quicker
    assert stages(said) == ["train", "calibrate", "eval"]
    assert "train: fold 1, epoch 1/1" in said
    assert [path.name for path in (trainer / "data" / "own").iterdir()] == ["shards"]
    info = json.loads((trainer / "runs/own/train/fold-1/model.json").read_text())
    assert info["params"]["train"]["lr"] == 0.002
    commit_all(trainer)
    do("push calibrate", trainer)

    reader = clone(trainer, "reader")
    do("pull shard calibrate", reader)
    set_params(reader, "eval.bins=10")
    assert stages(do("repro --allow-missing eval", reader)) == ["eval"]
    assert not (reader / "runs" / "own" / "train").exists()
    table = "runs/own/eval/fold-1/predictions.parquet"
    assert (reader / table).read_bytes() == (trainer / table).read_bytes()


# runtime.shards


@pytest.fixture
def workplace(project, tmp_path, monkeypatch):
    """A folder in which `shard` is the next stage."""
    (tmp_path / DATA).mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for name in ("manifest.parquet", "faces.parquet"):
        shutil.copy(project / DATA / name, tmp_path / DATA)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


def test_shard_sends_what_it_made_and_leaves_other_shards_alone(
    bucket, workplace, project, shards, capsys, monkeypatch
):
    params, url = Path("params.yaml"), f"{bucket}/mine"
    root = f"data.root={project / 'data' / 'raw' / 'synthetic'}"
    sets = [root, *SMALL, f"runtime.shards={url}", "runtime.patience=5"]
    store = StoredShards(url, 5.0, workplace / "cache", 2**30)

    run_shard(params, sets)
    assert f"push-shards: {url}: 17 sent\n" in capsys.readouterr().out
    assert store.sizes() == {path.name: path.stat().st_size for path in shards.iterdir()}
    for name, size in store.sizes().items():
        assert (store / name).read(0, size) == (shards / name).read_bytes()
    config, layout = read(params, sets)
    assert str(source(config, layout)) == url

    with pytest.raises(DataError, match="holds other shards") as caught:
        run_shard(params, [*sets, "shard.quality=80"])
    assert "is complete: only `safe-cli push-shards` is left to do" in str(caught.value)
    assert "\n" not in str(caught.value)
    made = open_shards(layout.shards)
    assert made.preprocessing_id != open_shards(store).preprocessing_id
    assert (store / "index.json").sha256(store.sizes()["index.json"])

    capsys.readouterr()
    monkeypatch.setenv("DVC_ROOT", str(workplace))  # else DVC would delete finished shards
    push_made(config, layout)
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"shard: not sent: {url}: holds")
    with pytest.raises(DataError, match=f"{url}: holds other shards than {layout.shards}; "):
        source(config, layout)
    found = examine(config, layout, quick=True)["shards"]
    assert [(one.kind, one.where) for one in found.findings if one.kind == "store"] == [
        ("store", url)
    ]

    shutil.rmtree(layout.shards)  # who has none reads the store's
    assert str(source(config, layout)) == url
    found = examine(config, layout, quick=True)["shards"]
    assert found.facts["stored_shards"] == 15
    assert {one.kind for one in found.findings} == {"shards-absent"}
    folder = open_shards(shards)
    facts, _ = inspect_clip(str(folder.clip[0]), config, layout, draw=False)
    assert f"{url}/{folder.files[folder.shard[0]]}" in str(facts)


def test_a_store_out_of_reach_is_told_before_shards_are_made(workplace, project, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    pytest.importorskip("s3fs", reason="the extra `scale` is not installed")
    go_to(9, monkeypatch)  # nobody listens there
    sets = [f"data.root={project / 'data' / 'raw' / 'synthetic'}", *SMALL, "runtime.patience=0.2"]
    with pytest.raises(DataError, match=r"s3://no/where: .*runtime\.patience"):
        run_shard(Path("params.yaml"), [*sets, "runtime.shards=s3://no/where"])
    assert not (workplace / DATA / "shards").exists()
