"""Raw clips in object storage: the bytes of local ones, through an outage; gone is one line."""

import shutil
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from s3 import KEY, SECRET, Proxy
from support import small_config

from pipeline.faces import find_faces
from pipeline.index import build_index
from pipeline.pool.fetch import StoredClips
from pipeline.pool.pool import Pool
from pipeline.shard import write_shards
from safe.errors import DataError

boto3 = pytest.importorskip("boto3", reason="moto[server] is not installed")


@pytest.fixture
def store(proxy: Proxy, project: Path, tmp_path: Path) -> StoredClips:
    """Return a store that has the clips of `project`, and a folder's own empty file."""
    bucket = "c" + "".join(c for c in tmp_path.name.lower() if c.isalnum())[:50]
    client = boto3.client("s3")
    client.create_bucket(Bucket=bucket)
    root = Path(small_config(project).data.root)
    for path in root.glob("Clip/original/**/*.mp4"):
        client.upload_file(str(path), bucket, f"raw/{path.relative_to(root)}")
    client.put_object(Bucket=bucket, Key="raw/Clip/original/")
    return StoredClips(f"s3://{bucket}/raw", 30.0)


@pytest.fixture
def lists(project: Path, tmp_path: Path) -> Path:
    """Return a data.root that has the split lists and no clip."""
    root = tmp_path / "lists"
    root.mkdir()
    shutil.copytree(
        Path(small_config(project).data.root, "EmoLabel_DataSplit"), root / "EmoLabel_DataSplit"
    )
    return root


def test_all_three_stages_give_the_bytes_of_local_clips(
    project: Path,
    store: StoredClips,
    proxy: Proxy,
    lists: Path,
    tmp_path: Path,
) -> None:
    config, here = small_config(project, f"data.root={lists}"), project / "data" / "synthetic"
    manifest, faces = few(project, tmp_path, 42), tmp_path / "faces.parquet"
    build_index(config.data, tmp_path / "manifest.parquet", store=store)
    whole = (here / "manifest.parquet").read_bytes()
    assert (tmp_path / "manifest.parquet").read_bytes() == whole
    outages: list[int] = []

    def cut(count: int) -> None:
        """For longer than the deadline the store is away."""
        if count == 8:
            proxy.stop()
            outages.append(proxy.passed)
            threading.Timer(3, setattr, (proxy, "open", True)).start()

    limits = {"pool": Pool(workers=2, deadline=2.5, clips=store)}
    find_faces(manifest, lists, faces, settings=config.faces, on_done=cut, **limits)
    assert proxy.passed > outages[0] + 50_000  # it was away, came back, and was needed
    assert pq.read_table(faces).equals(pq.read_table(here / "faces.parquet").slice(0, 42))
    settings = {"settings": config.shard, "faces_settings": config.faces}
    write_shards(manifest, faces, lists, tmp_path / "shards", **settings, **limits)
    limits = {"pool": Pool(workers=2, deadline=60)}
    root = Path(small_config(project).data.root)
    write_shards(manifest, faces, root, tmp_path / "local", **settings, **limits)
    names = sorted(path.name for path in (tmp_path / "local").iterdir())
    assert len(names) > 6
    for name in names:
        assert (tmp_path / "shards" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


def few(project: Path, tmp_path: Path, count: int) -> Path:
    """Write a manifest of the first clips alone."""
    table = pq.read_table(project / "data" / "synthetic" / "manifest.parquet")
    pq.write_table(table.slice(0, count), tmp_path / "few.parquet")
    return tmp_path / "few.parquet"


def test_a_clip_that_is_not_there_costs_that_clip(
    project: Path, store: StoredClips, lists: Path, tmp_path: Path
) -> None:
    manifest, config = few(project, tmp_path, 3), small_config(project)
    path = pq.read_table(manifest)["path"][1].as_py()
    store.ask("", lambda fs: fs.rm(f"{store}/{path}"))
    out = tmp_path / "faces.parquet"
    counts = find_faces(
        manifest, lists, out, settings=config.faces, pool=Pool(deadline=60, clips=store)
    )
    assert counts["error"] == 1
    assert pq.read_table(out)["reason"].to_pylist()[1] == "file missing"
    local = tmp_path / "local"
    shutil.copytree(config.data.root, local)
    (local / path).unlink()
    find_faces(
        manifest, local, tmp_path / "local.parquet", settings=config.faces, pool=Pool(deadline=60)
    )
    assert out.read_bytes() == (tmp_path / "local.parquet").read_bytes()


def test_a_store_that_is_gone_is_one_line_within_the_patience(
    project: Path,
    store: StoredClips,
    proxy: Proxy,
    lists: Path,
    tmp_path: Path,
) -> None:
    config, began = small_config(project), []

    def cut(count: int) -> None:
        if count == 10:
            proxy.stop()
            began.append(time.monotonic())

    out = tmp_path / "faces.parquet"
    with pytest.raises(DataError) as caught:
        find_faces(
            *(project / "data" / "synthetic" / "manifest.parquet", lists, out),
            settings=config.faces,
            on_done=cut,
            pool=Pool(workers=1, deadline=60, clips=StoredClips(store.url, 2.0)),
        )
    assert 1 < time.monotonic() - began[0] < 12
    line = str(caught.value)
    assert line.startswith(f"{store}/Clip/original/")
    assert "for 2 s (runtime.patience); is the store up and reachable?" in line
    assert not [word for word in ("\n", SECRET, KEY) if word in line]
    assert not out.exists()
