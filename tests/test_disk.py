"""A full disk, a read-only one, what cannot be read, a second run: one line, and nothing half."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file
from support import ROOT, SMALL, call, mount, small_disk

from cli import stages
from cli import stages as runs
from safe.errors import ProcessError, explain
from safe.files import atomic_file, hold_lock

SETTINGS = (*SMALL, "runtime.workers=1", "train.epochs=1", "runtime.checkpoint_steps=4")


def remount(folder: Path, option: str) -> None:
    mount("-o", f"remount,{option}", str(folder))


def cli(verb: str, folder: Path) -> tuple[int, list[str]]:
    """Run a verb; return its exit code and the lines on stderr, without the progress bar."""
    settings = [word for setting in SETTINGS for word in ("-S", setting)]
    done = call(verb, *settings, folder=folder)
    lines = [line for line in done.stderr.splitlines() if line.strip() and "-:--" not in line]
    return done.returncode, [line for line in lines if "/s" not in line or "safe-cli" in line]


def one_line(verb: str, folder: Path, *, code: int = 6) -> str:
    """Run a verb that must fail; return the one line that it says."""
    found, lines = cli(verb, folder)
    assert found == code, lines
    (line,) = lines
    assert line.startswith("safe-cli: ")
    return line


def complete(verb: str, folder: Path) -> None:
    code, lines = cli(verb, folder)
    assert code == 0, lines


def digests(folder: Path) -> dict[str, str]:
    """Name, hidden ones too, and sha256 of all files of a folder, but for what tells the clock."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "model.json" and "live" not in path.parts
    }


@pytest.fixture
def work(project: Path, tmp_path: Path) -> Path:
    """Return a folder with raw clips, manifest and faces of `project`, to be changed."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(project / "data", tmp_path / "data")
    return tmp_path


@pytest.mark.usefixtures("unguarded")
def test_shard_on_a_disk_that_fills_up_in_the_middle(project, work):
    whole = digests(project / "data" / "synthetic" / "shards")
    shutil.move(work / "data" / "synthetic", work / "kept")
    shutil.rmtree(work / "kept" / "shards")
    with small_disk(work / "data" / "synthetic", "200k") as disk:
        for table in ("manifest.parquet", "faces.parquet"):
            shutil.copy(work / "kept" / table, disk)
        before = digests(disk)
        line = one_line("shard", work)
        assert "data/synthetic/shards: No space left on device; free some space" in line
        assert digests(disk) == before
        remount(disk, "size=8m")
        complete("shard", work)
        assert digests(disk / "shards") == whole


def test_train_on_a_disk_that_fills_up_and_on_a_read_only_one(work, tmp_path):
    complete("train", work)
    whole = digests(work / "runs")
    shutil.rmtree(work / "runs")
    with small_disk(work / ".safe" / "checkpoints", "5m") as disk:
        line = one_line("train", work)
        assert ".safetensors: No space left on device; free some space" in line
        kept = [path.suffix for path in disk.rglob("*") if path.is_file()]
        assert sorted(kept) == ["", ".safetensors"]  # the lock, and what did fit
        remount(disk, "size=16m")
        with small_disk(work / "runs", "300k") as out:
            line = one_line("train", work)
            assert "runs/synthetic/train/fold-1/" in line
            assert "No space left on device" in line
            assert not list(out.rglob("*.safetensors"))
            assert not list(out.rglob("*.tmp"))
            remount(out, "ro")
            assert "Read-only file system; mount it for writing" in one_line("train", work)
            remount(out, "rw,size=16m")
            complete("train", work)
            assert digests(out) == {
                name.removeprefix("runs/"): digest for name, digest in whole.items()
            }
        assert not list(disk.rglob("*.safetensors"))


@pytest.mark.usefixtures("unguarded")
def test_faces_and_index_on_a_full_and_on_a_read_only_disk(project, work):
    few = pq.read_table(work / "data" / "synthetic" / "manifest.parquet").slice(0, 4)
    shutil.rmtree(work / "data" / "synthetic")
    with small_disk(work / "data" / "synthetic", "1m") as disk:
        pq.write_table(few, disk / "manifest.parquet")
        (disk / "ballast").write_bytes(bytes(2**20 - 2**12 - sum_of_pages(disk)))
        line = one_line("faces", work)
        assert "data/synthetic/faces.parquet: No space left on device; free some" in line
        assert {path.name for path in disk.iterdir()} == {"manifest.parquet", "ballast"}
        assert not list((work / ".safe" / "strips").glob("*"))
        remount(disk, "ro")
        line = one_line("index", work)
        assert "data/synthetic/manifest.parquet: Read-only file system; mount it" in line
        remount(disk, "rw,size=8m")
        complete("faces", work)
        faces = pq.read_table(project / "data" / "synthetic" / "faces.parquet")
        assert pq.read_table(disk / "faces.parquet").equals(faces.slice(0, 4))


def sum_of_pages(folder: Path) -> int:
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.iterdir())


@pytest.mark.parametrize(
    ("verb", "name", "code"),
    [
        ("faces", "manifest.parquet", 3),
        ("shard", "faces.parquet", 3),
        ("train", "shards/index.json", 3),
        ("train", "shards/clips.parquet", 3),
    ],
)
def test_what_cannot_be_read_is_one_line(work, verb, name, code):
    """A folder in its place: permissions do not hold for root."""
    path = work / "data" / "synthetic" / name
    path.unlink()
    path.mkdir()
    assert path.name in one_line(verb, work, code=code)


def test_a_folder_of_someone_else_is_one_line(tmp_path):
    if os.geteuid():
        pytest.skip("only root can become someone else")
    tmp_path.chmod(0o755)
    write = (
        "import os, sys; from pathlib import Path\n"
        "from safe.errors import explain; from safe.files import atomic_file\n"
        "os.chdir(sys.argv[1]); os.setuid(65534)\n"
        "try:\n"
        "    with atomic_file(Path('table')) as path: path.write_text('new')\n"
        "except OSError as error: print(explain(error))"
    )
    done = subprocess.run(
        [sys.executable, "-c", write, str(tmp_path)],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("table: Permission denied; check the owner and the permissions")


HOLD = (
    "import sys; from pathlib import Path; from safe.files import hold_lock\n"
    "with hold_lock(Path(sys.argv[1]), 'x'): print('held', flush=True); sys.stdin.read()"
)


@contextmanager
def held(lock: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold a lock."""
    command = [sys.executable, "-c", HOLD, str(lock)]
    env = {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        yield other
        other.kill()


def test_a_lock_belongs_to_one_process_and_ends_with_it(tmp_path):
    lock = tmp_path / "locks" / "one"
    with (
        held(lock) as other,
        pytest.raises(ProcessError, match=f"the table: process {other.pid} is writing it; wait"),
        hold_lock(lock, "the table"),
    ):
        pass
    with hold_lock(lock, "the table"):  # the other one was killed
        assert lock.read_text() == str(os.getpid())


@pytest.mark.parametrize(
    ("verb", "out"),
    [
        ("synthesize", "data/raw/synthetic"),
        ("index", "data/synthetic/manifest.parquet"),
        ("faces", "data/synthetic/faces.parquet"),
        ("shard", "data/synthetic/shards"),
        ("train", "runs/synthetic/train/fold-1"),
        ("eval", "runs/synthetic/eval/fold-1"),
        ("summary", "results"),
    ],
)
def test_the_second_run_in_a_folder_is_refused(work, verb, out, monkeypatch):
    """In this process, which saves the start of one: what holds the lock is another one."""
    monkeypatch.chdir(work)
    before = digests(work / "data")
    settings = [*SETTINGS]
    run = getattr(stages if hasattr(stages, f"run_{verb}") else runs, f"run_{verb}")
    more = (None,) if verb in ("train", "eval") else ()
    with held(work / ".safe" / "locks" / out.replace("/", "-")) as other:
        with pytest.raises(ProcessError) as error:
            run(Path("params.yaml"), settings, *more)
        assert str(error.value).startswith(f"{out}: process {other.pid} is writing it")
    assert digests(work / "data") == before
    assert not (work / "runs").exists()


def test_a_killed_writer_leaves_nothing_that_the_next_one_does_not_clear(tmp_path):
    write = (
        "import os, signal, sys; from pathlib import Path; from safe.files import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as path:\n"
        "    path.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    target = tmp_path / "table"
    target.write_text("old")
    command = [sys.executable, "-c", write, str(target)]
    assert subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, check=False).returncode == -9
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    mine, alive = tmp_path / ".table2.1.tmp", tmp_path / ".table.1.tmp"
    for other in (mine, alive):  # of another file; of a process that runs
        other.write_text("")
    with atomic_file(target) as path:
        path.write_text("new")
    assert target.read_text() == "new"
    assert set(tmp_path.iterdir()) == {target, mine, alive}


def write_too_much(path: Path) -> None:
    with path.open("wb") as file:
        file.write(bytes(2**20))


def save_too_much(path: Path) -> None:
    save_file({"a": np.zeros(2**17)}, path)


def write_to_the_last_byte(path: Path) -> None:
    """The disk is full when the folder's entry is to change, not before."""
    with path.open("wb") as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
            file.flush()
    raise OSError(28, "as fsync says it")


@pytest.mark.parametrize("write", [write_too_much, save_too_much, write_to_the_last_byte])
def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path, write: Callable[[Path], None]):
    with small_disk(tmp_path / "disk", "64k") as disk:
        target = disk / "table"
        target.write_text("old")
        with pytest.raises(OSError, match="No space") as error, atomic_file(target) as path:
            write(path)
        assert explain(error.value).startswith(f"{target}: No space left on device; free some")
        assert target.read_text() == "old"
        assert [path.name for path in disk.iterdir()] == ["table"]
