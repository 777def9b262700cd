"""Does `shard` write the same bytes with the strips that `faces` left, and take only what fits?"""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support import no_children, small_config

from pipeline.face.cache import StripCache
from pipeline.faces import find_faces
from pipeline.pool.pool import Pool
from pipeline.shard import write_shards
from safe.config import Config

CLIPS = 4


@pytest.fixture(scope="module")
def found(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with faces.parquet of a few clips and, beside it, what was left over."""
    folder = tmp_path_factory.mktemp("found")
    whole = pq.read_table(project / "data" / "synthetic" / "manifest.parquet")
    pq.write_table(whole.slice(0, CLIPS), folder / "manifest.parquet")
    config = small_config(project)
    with no_children():
        find_faces(
            folder / "manifest.parquet",
            Path(config.data.root),
            folder / "faces.parquet",
            settings=config.faces,
            cache=StripCache(folder / "left.zip", config.shard),
            pool=Pool(workers=1, deadline=60),
        )
    return folder


@pytest.fixture
def data(found: Path, tmp_path: Path) -> Path:
    """Return a copy of `found`."""
    return shutil.copytree(found, tmp_path / "data")


def write(data: Path, config: Config, out: str, *, cache: bool) -> dict[str, bytes]:
    made = write_shards(
        data / "manifest.parquet",
        data / "faces.parquet",
        Path(config.data.root),
        data / out,
        settings=config.shard,
        faces_settings=config.faces,
        cache=data / "left.zip" if cache else None,
        pool=Pool(workers=1, deadline=60),
    )
    assert made["clips"] == CLIPS
    return {path.name: path.read_bytes() for path in (data / out).iterdir()}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch, unguarded: None) -> list[int]:
    """Count the clips that `shard` has decoded."""
    run, counts = Pool.run, []

    def counted(pool, function, tasks, **options):  # type: ignore[no-untyped-def]
        counts.append(len(tasks))
        return run(pool, function, tasks, **options)

    monkeypatch.setattr(Pool, "run", counted)
    return counts


def test_same_bytes_without_decoding_and_the_file_is_taken_away(
    data: Path, project: Path, decoded: list[int]
) -> None:
    config = small_config(project)
    alone = write(data, config, "alone", cache=False)
    assert (data / "left.zip").exists()
    assert write(data, config, "after", cache=True) == alone
    assert decoded == [CLIPS, 0]
    assert not (data / "left.zip").exists()
    assert write(data, config, "again", cache=True) == alone
    assert decoded == [CLIPS, 0, CLIPS]


@pytest.mark.parametrize("change", ["shard.size=32", "shard.chroma='444'"])
def test_strips_made_otherwise_are_not_taken(
    data: Path, project: Path, decoded: list[int], change: str
) -> None:
    write(data, small_config(project, change), "out", cache=True)
    assert decoded == [CLIPS]


def test_strips_of_another_face_table_are_not_taken(
    data: Path, project: Path, decoded: list[int]
) -> None:
    table = pq.read_table(data / "faces.parquet")
    fps = table.schema.get_field_index("fps")
    column = table["fps"].combine_chunks().fill_null(0).to_numpy() + 1
    changed = table.set_column(fps, table.schema.field(fps), [column])
    pq.write_table(changed, data / "faces.parquet")
    write(data, small_config(project), "out", cache=True)
    assert decoded == [CLIPS]


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_file_costs_time_only(
    data: Path, project: Path, decoded: list[int], damage: str
) -> None:
    left = data / "left.zip"
    content = bytearray(left.read_bytes())
    if damage == "flipped":
        content[len(content) // 3] ^= 0xFF  # inside a JPEG
    left.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    config = small_config(project)
    assert write(data, config, "out", cache=True) == write(data, config, "b", cache=False)
    assert decoded == [CLIPS, CLIPS]
