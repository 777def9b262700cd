"""Are clips fetched ahead, outside of the deadline, a few at a time, and never left behind?"""

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support import small_config
from tasks import Named, read_named

from pipeline.datasets import ferv39k, own
from pipeline.pool.children import Failure
from pipeline.pool.fetch import StoredClips
from pipeline.pool.pool import Pool
from safe.config import Data
from safe.errors import ConfigError, DataError, MissingError


@pytest.fixture
def far(tmp_path: Path) -> StoredClips:
    (tmp_path / "far").mkdir()
    return StoredClips(f"file://{tmp_path}/far", 2.0)


def put(store: StoredClips, *names: str) -> list[Named]:
    for name in names:
        Path(store.url.removeprefix("file://"), name).write_text(name)
    return [Named(name) for name in names]


def copies() -> list[str]:
    """Files without a name that this process holds open."""
    held = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing itself
            held.append(str(link.readlink()))
    return [path for path in held if path.endswith(" (deleted)") and "/scratch/" in path]


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="Linux only")


@needs_proc
def test_no_copy_is_left_by_a_child_that_dies_hangs_or_by_leaving_early(
    far: StoredClips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    tasks = put(far, *(f"clip{number}" for number in range(30)), "segfault", "hang", "z")
    tasks.insert(3, Named("gone"))
    most: list[int] = []
    results = list(
        Pool(workers=1, deadline=1.5, clips=far).run(
            read_named, tasks, on_done=lambda _: most.append(len(copies()))
        )
    )
    assert results[:5] == ["CLIP0", "CLIP1", "CLIP2", "missing", "CLIP3"]
    assert results[-3:] == [Failure("crashed (signal 11)"), Failure("killed after 1.5 s"), "Z"]
    assert 2 <= max(most) <= 8
    assert not copies()
    leaving = Pool(workers=1, deadline=9, clips=far).run(read_named, tasks)
    assert next(leaving) == "CLIP0"
    leaving.close()
    late = time.monotonic() + 5
    while copies() and time.monotonic() < late:  # what a thread was fetching
        time.sleep(0.01)
    assert not copies()
    assert not list(scratch.iterdir())


class Slow(StoredClips):
    @contextmanager
    def fetch(self, clip: Named) -> Iterator[Named]:
        time.sleep(1.2)
        yield clip


def test_the_time_of_fetching_is_no_part_of_the_deadline(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    before = threading.active_count()
    tasks = [Named(str(tmp_path / "a"))] * 3
    assert (
        list(Pool(workers=1, deadline=1, clips=Slow("file:///", 1)).run(read_named, tasks))
        == ["A"] * 3
    )
    late = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < late:
        time.sleep(0.01)
    assert threading.active_count() <= before  # threads of earlier tests may end meanwhile


def test_what_fetching_raises_is_raised(tmp_path: Path) -> None:
    strange = StoredClips("nosuch://bucket/clips", 60.0)
    with pytest.raises(DataError, match=r"^nosuch://bucket/clips/a: fsspec does not know"):
        list(Pool(workers=1, deadline=20, clips=strange).run(read_named, [Named("a")]))
    with pytest.raises(DataError, match=r"^runtime\.clips: file://.*/none: nothing is there$"):
        StoredClips(f"file://{tmp_path}/none", 1.0).require()


def test_a_store_is_walked_to_its_last_folder(far: StoredClips, tmp_path: Path) -> None:
    for name in ("a.mp4", "b/c.mp4", "b/d/e f.MP4", "b/d/g.txt"):
        path = tmp_path / "far" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    sizes = {"a.mp4": 5, "b/c.mp4": 7, "b/d/e f.MP4": 11, "b/d/g.txt": 9}
    assert dict(far.walk("")) == sizes
    del sizes["a.mp4"]
    assert dict(far.walk("b")) == sizes
    with pytest.raises(MissingError):
        dict(far.walk("z"))


def test_lists_are_here_and_files_there(far: StoredClips, tmp_path: Path) -> None:
    here = tmp_path / "here"
    (here / "4_setups" / "All_scenes").mkdir(parents=True)
    (here / "clips.csv").write_text(
        "path,label,split\nx/a.mp4,happy,train\nx/b.mp4,sad,train\nx/c.mp4,fear,test\n"
    )
    for part, clip in (("train", "0001"), ("test", "0002")):
        lines = f"Action/Happy/{clip} Happy\n"
        (here / "4_setups" / "All_scenes" / f"{part}_All.csv").write_text(lines)
    there = tmp_path / "far"
    for name in ("x/a.mp4", "x/c.mp4", "0_7_LabelClips/Action/Happy/0002.mp4"):
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_text("123")
    data = {"root": str(here), "source": "video", "folds": [1]}
    mine = Data(name="own", splits="clips.csv", **data)
    assert [clip.bytes for clip in own.read_clips(mine, store=far)] == [3, None, 3]
    theirs = Data(name="ferv39k", splits="4_setups", **data)
    assert [clip.bytes for clip in ferv39k.read_clips(theirs, store=far)] == [None, 3]
    (there / "0_7_LabelClips").rename(there / "elsewhere")
    with pytest.raises(DataError, match=r"^no folder 0_7_LabelClips in runtime\.clips file://"):
        ferv39k.read_clips(theirs, store=far)
    (there / "x").rename(there / "y")
    with pytest.raises(DataError, match=r"^none of the 3 clips .* in runtime\.clips file://"):
        own.read_clips(mine, store=far)


def test_folders_of_frames_and_secrets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"runtime\.clips: must be null when data\.source is fra"):
        small_config(
            tmp_path,
            "runtime.clips='s3://bucket/clips'",
            "data={name:dfew,source:frames}",
        )
    with pytest.raises(ConfigError, match="clips: must be a URL") as caught:
        small_config(tmp_path, "runtime.clips='s3://me:pass@b/c'")
    assert "pass" not in str(caught.value)
