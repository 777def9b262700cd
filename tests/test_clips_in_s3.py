"""Raw clips in object storage: the bytes of local ones, through an outage; gone is one line."""

import shutil
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3 import KEY, SECRET, Proxy, go_to
from support import no_children, small_config

from pipeline.faces import find_faces
from pipeline.index import build_index
from pipeline.pool.fetch import StoredClips
from pipeline.pool.pool import Pool
from pipeline.shard import write_shards
from safe.errors import DataError

boto3 = pytest.importorskip("boto3", reason="moto[server] is not installed")


@pytest.fixture(scope="module")
def bucket(server: int, project: Path) -> str:
    """Return a bucket that has the clips of `project`, and a folder's own empty file."""
    with pytest.MonkeyPatch.context() as patch:
        go_to(server, patch)
        client = boto3.client("s3")
        client.create_bucket(Bucket="clips")
        root = Path(small_config(project).data.root)
        for path in root.glob("Clip/original/**/*.mp4"):
            key = f"raw/{path.relative_to(root)}"
            client.put_object(Bucket="clips", Key=key, Body=path.read_bytes())
        client.put_object(Bucket="clips", Key="raw/Clip/original/")
    return "clips"


@pytest.fixture
def store(proxy: Proxy, bucket: str) -> StoredClips:
    """Return the folder of that bucket, behind a proxy."""
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
    manifest, faces = few(project, tmp_path, 14), tmp_path / "faces.parquet"
    build_index(config.data, tmp_path / "manifest.parquet", store=store)
    whole = (here / "manifest.parquet").read_bytes()
    assert (tmp_path / "manifest.parquet").read_bytes() == whole
    outages: list[int] = []

    def cut(count: int) -> None:
        """For longer than the deadline the store is away."""
        if count == 2:
            proxy.stop()
            outages.append(proxy.passed)
            threading.Timer(3, setattr, (proxy, "open", True)).start()

    limits = {"pool": Pool(workers=1, deadline=2.5, clips=store)}
    find_faces(manifest, lists, faces, settings=config.faces, on_done=cut, **limits)
    assert proxy.passed > outages[0] + 20_000  # it was away, came back, and was needed
    assert pq.read_table(faces).equals(pq.read_table(here / "faces.parquet").slice(0, 14))
    settings = {"settings": config.shard, "faces_settings": config.faces}
    write_shards(manifest, faces, lists, tmp_path / "shards", **settings, **limits)
    root, pool = Path(small_config(project).data.root), Pool(deadline=60)
    with no_children():
        write_shards(manifest, faces, root, tmp_path / "local", **settings, pool=pool)
    names = sorted(path.name for path in (tmp_path / "local").iterdir())
    assert len(names) > 6
    for name in names:
        assert (tmp_path / "shards" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


def few(project: Path, tmp_path: Path, count: int, never: tuple[int, ...] = ()) -> Path:
    """Write a manifest of the first clips alone; the files of `never` were not there for it."""
    table = pq.read_table(project / "data" / "synthetic" / "manifest.parquet").slice(0, count)
    sizes = [None if row in never else size for row, size in enumerate(table["bytes"].to_pylist())]
    at = table.schema.get_field_index("bytes")
    table = table.set_column(at, table.schema.field(at), pa.array(sizes, pa.int64()))
    pq.write_table(table, tmp_path / "few.parquet")
    return tmp_path / "few.parquet"


@pytest.mark.usefixtures("unguarded")
def test_a_clip_that_never_was_there_costs_that_clip(
    project: Path, proxy: Proxy, lists: Path, tmp_path: Path
) -> None:
    manifest, config = few(project, tmp_path, 3, never=(1,)), small_config(project)
    here, path, there = pq.read_table(manifest)["path"].to_pylist()
    client = boto3.client("s3")
    client.create_bucket(Bucket="two")
    for name in (here, there):
        client.upload_file(str(Path(config.data.root, name)), "two", f"raw/{name}")
    store = StoredClips("s3://two/raw", 30.0)
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
    config = small_config(project)

    def cut(count: int) -> None:
        if count == 2:
            proxy.stop()

    out = tmp_path / "faces.parquet"
    with pytest.raises(DataError) as caught:
        find_faces(
            *(project / "data" / "synthetic" / "manifest.parquet", lists, out),
            settings=config.faces,
            on_done=cut,
            pool=Pool(workers=1, deadline=60, clips=StoredClips(store.url, 1.0)),
        )
    line = str(caught.value)
    assert line.startswith(f"{store}/Clip/original/")
    assert "for 1 s (runtime.patience); is the store up and reachable?" in line
    assert not [word for word in ("\n", SECRET, KEY) if word in line]
    assert not out.exists()
