"""Is trouble of the machine told from a clip's own, tried again, and never on record?"""

import errno
import os
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile

import cv2
import pyarrow.parquet as pq
import pytest
from support import ROOT, grey_ramp, touch, write_manifest, write_video

from pipeline.datasets.base import walk_files
from pipeline.face.cache import StripCache, add, filling, seal
from pipeline.faces import find_faces
from pipeline.pool.pool import Pool
from pipeline.shard import write_shards
from pipeline.video.container import recognise
from pipeline.video.decode import ClipFile
from pipeline.video.frames import read_clip, read_frames
from pipeline.windows import find_windows
from safe.config import Shard
from safe.errors import DataError, MachineError, MissingError, explain, may_pass, of_machine
from safe.params import load_config

CONFIG = load_config(ROOT / "params.yaml")
READS = ("video", "strips", "frames")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "EIO",
            "ESTALE",
            "EMFILE",
            "ENFILE",
            "ENOMEM",
            "ETIMEDOUT",
            "EACCES",
            "EPERM",
            "ENOTCONN",
        ),
        *("ENOTCONN", "ENODEV", "EHOSTDOWN", "EAGAIN", "EINTR", "ENOSPC", "EDQUOT", "EROFS"),
    ],
)
def test_what_the_system_says_of_itself_is_of_the_machine(name: str) -> None:
    error = OSError(getattr(errno, name), "", "clip.mp4")
    assert of_machine(error)
    assert may_pass(error) == (name not in ("ENOSPC", "EDQUOT", "EROFS"))
    assert "\n" not in explain(error)


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(getattr(errno, n), "") for n in ("ENOENT", "ENOTDIR", "ELOOP", "ENAMETOOLONG")),
        *(OSError("a library's own"), DataError("x"), ValueError("x"), RuntimeError("x")),
    ],
)
def test_what_is_said_of_a_name_or_a_content_is_not(error: Exception) -> None:
    assert not of_machine(error)


# Reading


def spoil(path: Path, how: str) -> Path:
    if how == "dangling":
        path.symlink_to("nowhere")
    elif how == "itself":
        path.symlink_to(path.name)
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "below a file":
        touch(path)
        return path / "clip.mp4"
    elif how == "too long":
        return path.with_name("x" * 300)
    return path


@pytest.mark.parametrize("source", READS)
@pytest.mark.parametrize("how", ["none", "dangling", "itself", "pipe", "below a file", "too long"])
def test_a_name_that_leads_to_no_file_is_missing(tmp_path: Path, how: str, source) -> None:
    with pytest.raises(MissingError, match="missing"):
        read_clip(spoil(tmp_path / "clip.mp4", how), source)


@contextmanager
def no_more_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def someone_else() -> Iterator[None]:
    if os.geteuid():
        pytest.skip("only root can become someone else")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("trouble", "number"), [(no_more_files, errno.EMFILE), (someone_else, errno.EACCES)]
)
@pytest.mark.parametrize("source", READS)
def test_a_file_that_cannot_be_opened_is_no_clip_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source, trouble, number: int
) -> None:
    clip = tmp_path / "clip"
    touch(clip / "1.png" if source == "frames" else clip)
    clip.chmod(0o700)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # the folders above are not for everyone
    with trouble(), pytest.raises(OSError) as caught:  # noqa: PT011  its number is looked at
        read_clip(Path("clip"), source)
    assert (caught.value.errno, caught.value.filename) == (number, "clip")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file whose reading fails")
def test_an_error_while_reading_is_not_the_end_of_the_file() -> None:
    with pytest.raises(OSError) as caught, ClipFile("/proc/self/mem") as file:  # noqa: PT011
        recognise(file)
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, "/proc/self/mem")


def test_a_frame_that_goes_away_is_not_a_link_to_nothing(tmp_path: Path, monkeypatch) -> None:
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(cv2.imencode(".png", grey_ramp(1)[0])[1])
    (tmp_path / "3.png").symlink_to("nowhere")
    assert "1 repeated" in read_frames(tmp_path, 2).damage
    listed = list(tmp_path.iterdir())
    (tmp_path / "2.png").unlink()
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter(listed))
    with pytest.raises(MachineError, match="not there any more"):
        read_frames(tmp_path)


def test_a_folder_that_goes_away_while_it_is_walked_is_no_empty_one(tmp_path: Path) -> None:
    for name in "abc":
        touch(tmp_path / "root" / name / "1.mp4")
    found = walk_files(str(tmp_path / "root"))
    next(found)
    shutil.rmtree(tmp_path / "root" / "c", ignore_errors=True)
    assert len(list(walk_files(str(tmp_path / "root")))) == 2
    (tmp_path / "root").rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        list(found)


# The stages


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Return a folder of clips, folders of frames, and a manifest of each beside it."""
    root = tmp_path / "root"
    names = [f"{number:05d}" for number in range(1, 13)]
    for name in names:
        write_video(root / f"{name}.mp4", grey_ramp(18))
        touch(root / name / "1.png")
        (root / name / "1.png").write_bytes(cv2.imencode(".png", grey_ramp(1)[0])[1])
    write_manifest(tmp_path / "video", [(name, f"{name}.mp4") for name in names])
    write_manifest(tmp_path / "frames", [(name, name) for name in names], "frames")
    return root


def away(root: Path, seconds: float) -> Callable[[int], None]:
    """Return what takes a folder away when the first clip is done, and brings it back."""
    gone = root.with_name("away")

    def on_done(count: int) -> None:
        if count == 1:
            root.rename(gone)
            if seconds:
                threading.Timer(seconds, gone.rename, [root]).start()

    return on_done


def run_faces(root: Path, source: str, out: Path, *, patience: float = 60, on_done=None) -> bytes:
    pool = Pool(workers=1, deadline=20, patience=patience)
    find_faces(root.with_name(source), root, out, settings=CONFIG.faces, pool=pool, on_done=on_done)
    return out.read_bytes()


@pytest.mark.parametrize("source", ["video", "frames"])
def test_a_disk_that_is_away_for_a_moment_costs_no_clip(
    disk: Path, tmp_path: Path, source: str
) -> None:
    whole = run_faces(disk, source, tmp_path / "whole")
    assert run_faces(disk, source, tmp_path / "again", on_done=away(disk, 0.7)) == whole
    assert {row for row in pq.read_table(tmp_path / "whole")["status"].to_pylist()} != {"error"}


def test_a_disk_that_stays_away_ends_the_stages_and_leaves_no_record(
    disk: Path, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    run_faces(disk, "frames", whole)
    with pytest.raises(MachineError, match=r"000\d\d: not there any more"):
        run_faces(disk, "frames", out, patience=0.5, on_done=away(disk, 0))
    assert not out.exists()
    with pytest.raises(MachineError, match=r"000\d\d: not there any more"):
        write_shards(
            tmp_path / "frames", whole, disk, out, settings=Shard(clips=4),
            faces_settings=CONFIG.faces, pool=Pool(deadline=20, patience=0.2),
        )  # fmt: skip
    assert not out.exists()


@pytest.mark.parametrize("clock", [-1e9, 0.0, 4.5e9, 1e11])
def test_no_clock_changes_or_ends_the_strip_cache(tmp_path: Path, monkeypatch, clock) -> None:
    def fill(name: str) -> bytes:
        with filling(StripCache(tmp_path / name, CONFIG.shard)) as file:
            assert isinstance(file, ZipFile)
            add(file, "00001", b"strip")
            seal(file, {"made": "so"})
        return (tmp_path / name).read_bytes()

    now = fill("now")
    monkeypatch.setattr(time, "time", lambda: clock)
    monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(clock))
    assert fill("then") == now


def test_a_sparse_file_of_200_gb_takes_no_longer_than_its_deadline(
    shared: Path, tmp_path: Path
) -> None:
    video = tmp_path / "sparse.mp4"
    shutil.copyfile(shared / "cases/attacks/videos/elst-100k.mp4", video)
    os.truncate(video, 200 * 10**9)
    with pytest.raises(DataError, match="killed after 1"):
        find_windows(
            *(video,), faces=CONFIG.faces, shard=CONFIG.shard, window=2, hop=1, who="largest",
            pool=Pool(deadline=1),
        )  # fmt: skip
