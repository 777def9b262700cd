"""Tasks for the engine and for Dask, which their child processes import: light, and of no test."""

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pipeline.video.decode import Decoder, read_video
from safe.errors import DataError

_set_up_in: list[int] = []


def square(x: int) -> int:
    time.sleep(0.02 if x % 3 == 0 else 0)  # so that later tasks finish before earlier ones
    return x * x


def misbehave(word: str) -> str:
    if word == "hang":
        while True:
            time.sleep(60)
    if word == "abort":
        os.abort()
    if word == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if word == "exit":
        os._exit(3)
    return word.upper()


def rescue(word: str) -> str:
    if word == "abort":
        os.abort()
    return f"rescued {word}"


def pid_or_hang(word: str) -> int:
    while word == "hang":
        pass
    return os.getpid()


def refuse(x: int) -> int:
    if x == 2:
        raise ValueError("two is wrong")
    return x


def raise_one(kind: str) -> object:
    """Raise an exception of this name, or give what cannot travel."""
    if kind == "a lambda":
        return lambda: kind
    if kind == "error":  # OpenCV's
        cv2.cvtColor(np.zeros((1, 1), np.uint8), 10_000)
    kinds = {one.__name__: one for one in (ValueError, OverflowError, KeyError, RecursionError)}
    kinds["DataError"] = DataError
    if kind in kinds:
        raise kinds[kind]("a fault\nof the user")
    return kind


def again(note: Path, times: int) -> bool:
    """Say whether this is one of the first times that it is called with the file `note`."""
    before = note.read_text() if note.exists() else ""
    if len(before) < times:
        note.write_text(f"{before}x")
    return len(before) < times


def fail_at_first(task: tuple[int, int, Path]) -> int:
    """Fail so many times as the machine does: with this errno, or for want of a thread."""
    number, times, note = task
    if again(note, times):
        raise OSError(number, "", str(note)) if number else RuntimeError("can't start new thread")
    return times


def kill_at_first(task: tuple[str, int, Path]) -> str:
    """Send this process a signal so many times."""
    name, times, note = task
    if again(note, times):
        os.kill(os.getpid(), getattr(signal, f"SIG{name}"))
        time.sleep(60)
    return name


def tell_and_wait(seconds: float) -> float:
    """Say which process this is in the file $NOTE, and work for so long."""
    with Path(os.environ["NOTE"]).open("a") as file:
        file.write(f"{os.getpid()}\n")
    for _ in range(20):
        time.sleep(seconds / 20)
    return seconds


def note_process() -> None:
    _set_up_in.append(os.getpid())


def fail_to_set_up() -> None:
    raise OSError("no model here")


def die_in_set_up() -> None:
    os._exit(1)


def was_set_up(_: int) -> tuple[int, list[int]]:
    return os.getpid(), list(_set_up_in)


def take_memory(gib: float) -> int:
    return len(bytearray(round(gib * 2**30)))


def burn(task: tuple[str, Path]) -> int:
    word, note = task
    if word == "burn":
        note.write_text(str(os.getpid()))
        while True:
            pass
    while word == "wait" and not (note.exists() and note.read_text()):
        time.sleep(0.02)
    return int(note.read_text())


def kill_parent(_: int) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    os.kill(parent.pid, signal.SIGKILL)
    time.sleep(60)


def kill_server(word: str) -> str:
    if word == "server":
        os.kill(os.getppid(), signal.SIGKILL)
    return misbehave(word)


def do_as_named(paths: list[Path]) -> list[str]:
    """Be the work on a batch; what happens is in the names."""
    for path in paths:
        if path.name == "fails once" and not path.exists():
            path.touch()
            raise ValueError("at first")
        if path.name == "slow":
            time.sleep(1.3)
    return ["done"] * len(paths)


@dataclass(frozen=True)
class Named:
    """A task that is a file, as the clips of faces and shard are."""

    path: str


def read_named(task: Named) -> str:
    """Say what is in the file; one that says hang or segfault means that."""
    path = Path(task.path)
    return misbehave(path.read_text()) if path.is_file() else "missing"


def touch_slowly(path: Path) -> None:
    path.touch()
    time.sleep(0.005)


def tell_damage(path: Path, decoder: Decoder = "decord") -> str:
    """Read a clip; say what is wrong with it."""
    try:
        clip = read_video(path, decoder=decoder)
    except DataError as error:
        return str(error)
    assert clip.frames.shape[0] == len(clip.indices) == 16
    return clip.damage


def pipes() -> list[int]:
    """Return the open sockets of this child: the pipe to its parent, under the parent's number."""
    return [
        int(fd.name)
        for fd in Path("/proc/self/fd").iterdir()
        if int(fd.name) > 2 and fd.is_socket()
    ]


def write_garbage(how: str) -> str:
    for fd in pipes() if how != "fine" else ():
        if how == "noise":
            os.write(fd, b"\xff" * 5000)
        if how == "long":
            os.write(fd, b"SAFE" + bytes(4) + b"\xff" * 8)
        if how == "half":
            os.write(fd, b"SAFE" + bytes(4) + (100).to_bytes(8) + b"half")
            os._exit(0)
        if how == "half and hang":
            os.write(fd, b"SAFE" + bytes(4) + (100).to_bytes(8) + b"half")
            time.sleep(60)
        if how == "wrong sum":
            os.write(fd, b"SAFE" + b"\1\2\3\4" + (4).to_bytes(8) + b"text")
    return how
