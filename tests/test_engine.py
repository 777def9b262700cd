"""Do tasks come back in order, whatever hangs, crashes or raises?"""

import errno
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from tasks import (
    burn,
    die_in_set_up,
    fail_at_first,
    fail_to_set_up,
    kill_at_first,
    kill_server,
    misbehave,
    note_process,
    raise_one,
    refuse,
    rescue,
    square,
    take_memory,
    was_set_up,
    write_garbage,
)

from pipeline.pool.children import Failure
from pipeline.pool.pool import Pool
from safe.errors import DataError, MachineError, ProcessError, explain

ROOT = Path(__file__).resolve().parents[1]


linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's limits are Linux's")


def children() -> list[object]:
    return [child for child in multiprocessing.active_children() if child.is_alive()]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_in_the_order_of_the_tasks(workers: int) -> None:
    done: list[int] = []
    results = list(Pool(workers=workers, deadline=20).run(square, range(40), on_done=done.append))
    assert results == [x * x for x in range(40)]
    assert done == list(range(1, 41))
    assert not children()


def test_no_task_starts_no_process() -> None:
    assert list(Pool(workers=2, deadline=1).run(square, [])) == []


def test_what_hangs_or_crashes_fails_and_the_rest_goes_on() -> None:
    words = ["a", "hang", "b", "abort", "segfault", "exit", "c", "d"]
    start = time.monotonic()
    results = list(Pool(workers=2, deadline=1).run(misbehave, words))
    assert results == [
        "A",
        Failure("killed after 1 s"),
        "B",
        Failure("crashed (signal 6)"),
        Failure("crashed (signal 11)"),
        Failure("crashed (exit code 3)"),
        "C",
        "D",
    ]
    assert time.monotonic() - start < 30
    assert not children()


def test_fallback_is_tried_once_on_what_failed() -> None:
    words = ["a", "hang", "abort", "segfault"]
    results = list(Pool(workers=2, deadline=1).run(misbehave, words, fallback=rescue))
    assert results == ["A", "rescued hang", Failure("crashed (signal 6)"), "rescued segfault"]


def test_what_a_task_raises_costs_that_task_with_its_reason() -> None:
    kinds = ["ValueError", "OverflowError", "KeyError", "RecursionError", "error", "a lambda"]
    results = list(Pool(workers=1, deadline=20).run(raise_one, ["fine", *kinds, "fine"]))
    assert (results[0], results[-1]) == ("fine", "fine")
    for kind, result in zip(kinds, results[1:-1], strict=True):
        assert isinstance(result, Failure)
        assert re.search("pickle" if kind == "a lambda" else f"^{kind}: .*line", result.reason)
        assert "\n" not in result.reason
    assert list(Pool(deadline=20).run(refuse, [1, 2], fallback=square)) == [1, 4]


def test_an_error_that_a_user_can_meet_is_raised_with_the_childs_traceback() -> None:
    with pytest.raises(DataError, match="of the user") as caught:
        list(Pool(workers=2, deadline=20).run(raise_one, ["fine", "DataError", "fine"]))
    assert "in raise_one" in "".join(caught.value.__notes__)
    assert not children()


# The machine fails

OF_MACHINE = ("EIO", "ESTALE", "EMFILE", "ENFILE", "ENOMEM", "ETIMEDOUT", "EACCES", "ENOTCONN")


def test_what_the_machine_fails_is_tried_again_and_is_as_if_it_had_not(tmp_path: Path) -> None:
    tasks = [(getattr(errno, name), 1, tmp_path / name) for name in OF_MACHINE]
    assert list(Pool(workers=2, deadline=20).run(fail_at_first, tasks)) == [1] * len(tasks)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ENOSPC, 0])
def test_what_the_machine_fails_for_good_ends_the_run(tmp_path: Path, number: int) -> None:
    tasks = [(number, count, tmp_path / str(count)) for count in (0, 10_000)]
    kind = OSError if number else RuntimeError  # of a thread that may not be started
    results = Pool(workers=1, deadline=20, patience=0.3).run(fail_at_first, tasks)
    assert next(results) == 0
    with pytest.raises(kind) as caught:
        next(results)
    tried = len((tmp_path / "10000").read_text())
    assert tried == 1 if number == errno.ENOSPC else tried > 1
    assert str(tmp_path / "10000") in explain(caught.value) or not number
    assert not children()


def test_a_set_up_that_the_machine_fails_is_tried_again(tmp_path: Path) -> None:
    setup = partial(fail_at_first, (errno.EIO, 1, tmp_path / "note"))
    assert list(Pool(deadline=20).run(square, [3], setup=setup)) == [9]
    assert (tmp_path / "note").read_text() == "x"


@pytest.mark.parametrize("name", ["KILL", "TERM"])
def test_a_child_that_is_killed_from_outside_costs_no_task(tmp_path: Path, name: str) -> None:
    tasks = [("a", 0, tmp_path / "a"), (name, 1, tmp_path / "b"), ("c", 0, tmp_path / "c")]
    assert list(Pool(deadline=20).run(kill_at_first, tasks)) == ["a", name, "c"]
    results = Pool(deadline=20, patience=0).run(kill_at_first, [(name, 9, tmp_path / "d")])
    with pytest.raises(MachineError, match="was killed"):
        next(results)


@linux
def test_a_stop_that_is_longer_than_the_deadline_costs_no_task(tmp_path: Path) -> None:
    """Of both processes, as by Ctrl-Z or a laptop's lid; of the child alone; of the parent."""
    (tmp_path / "main.py").write_text(
        "from pipeline.pool.pool import Pool\n"
        "from tasks import tell_and_wait\n"
        "if __name__ == '__main__':\n"
        "    print(*Pool(deadline=1).run(tell_and_wait, [0.6] * 3))\n"
    )
    note, path = tmp_path / "note", os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    note.touch()
    parent = subprocess.Popen(
        [sys.executable, "main.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": path, "NOTE": str(note)},
    )  # fmt: skip
    for turn, whom in enumerate(("both", "child", "parent"), start=1):
        late = time.monotonic() + 60
        while len(note.read_text().split()) < turn:
            assert time.monotonic() < late
            time.sleep(0.01)
        child = int(note.read_text().split()[-1])
        stopped = {"both": [child, parent.pid], "child": [child], "parent": [parent.pid]}[whom]
        for process in stopped:
            os.kill(process, signal.SIGSTOP)
        time.sleep(1.3)
        for process in stopped:
            os.kill(process, signal.SIGCONT)
    assert parent.communicate(timeout=60)[0] == "0.6 0.6 0.6\n"


@linux
def test_a_child_that_is_stopped_for_longer_than_patience_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="stopped"):
        list(Pool(deadline=1, patience=0.5).run(kill_at_first, [("STOP", 1, tmp_path / "a")]))
    assert not children()


def test_setup_runs_once_in_each_child() -> None:
    seen = list(Pool(workers=2, deadline=20).run(was_set_up, range(12), setup=note_process))
    assert all(set_up_in == [process] for process, set_up_in in seen)
    assert os.getpid() not in {process for process, _ in seen}


@pytest.mark.parametrize(
    ("setup", "error", "message"),
    [
        (fail_to_set_up, ProcessError, "no model here"),
        (die_in_set_up, ProcessError, "did not start"),
    ],
)
def test_failing_setup_ends_the_run(setup, error, message) -> None:
    with pytest.raises(error, match=message):
        list(Pool(workers=2, deadline=20).run(square, range(5), setup=setup))
    assert not children()


def test_leaving_early_stops_the_children() -> None:
    results = Pool(workers=2, deadline=60).run(misbehave, ["a", "hang", "hang"])
    assert next(results) == "A"
    assert children()
    results.close()
    assert not children()


def test_look_ahead_is_bounded(tmp_path: Path) -> None:
    results = Pool(workers=1, deadline=20).run(Path.touch, [tmp_path / str(i) for i in range(100)])
    next(results)
    time.sleep(0.3)
    assert 1 <= len(list(tmp_path.iterdir())) <= 9  # the first, and eight ahead
    results.close()


@pytest.mark.skipif(sys.platform != "linux", reason="children die with their parent on Linux")
def test_children_die_with_a_killed_parent() -> None:
    main = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from pipeline.pool.pool import Pool\n"
        "from tasks import pid_or_hang\n"
        "results = Pool(deadline=600).run(pid_or_hang, ['pid', 'hang'])\n"
        "print(next(results), flush=True)\n"
        "next(results)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", main, str(ROOT), str(ROOT / "tests")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert Path(f"/proc/{child}").exists()
    parent.kill()
    parent.wait()
    for _ in range(100):
        if not Path(f"/proc/{child}").exists():
            return
        time.sleep(0.05)
    pytest.fail("the child outlived its parent by 5 s")


@linux
def test_without_what_forks_them_children_go_on_and_are_killed_and_replaced() -> None:
    words = ["server", "a", "hang", "b", "abort", "c"]
    results = list(Pool(workers=1, deadline=1).run(kill_server, words))
    hung, crashed = Failure("killed after 1 s"), Failure("crashed (signal 6)")
    assert results == ["SERVER", "A", hung, "B", crashed, "C"]
    assert not children()


@linux
def test_without_a_place_for_its_socket_there_is_no_server(tmp_path: Path) -> None:
    main = (
        "import math, sys\n"
        "from pipeline.pool.pool import Pool\n"
        "print(*Pool(deadline=60).run(math.isqrt, [16]))\n"
    )
    deep = tmp_path / ("long" * 30)
    deep.mkdir()
    environment = {**os.environ, "TMPDIR": str(deep), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", main], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("4\n", "")


def test_memory_that_is_not_there_costs_the_task_without_a_limit_too() -> None:
    results = list(Pool(workers=1, deadline=20).run(take_memory, [2.0**20, 0.01]))  # 1 PiB
    assert results == [Failure("took more memory than there is"), round(0.01 * 2**30)]


@linux
def test_a_task_that_takes_too_much_memory_is_told_and_the_rest_goes_on() -> None:
    results = list(Pool(workers=1, deadline=20, memory=0.5).run(take_memory, [0.01, 0.6, 0.1]))
    assert results == [
        round(0.01 * 2**30),
        Failure("took more memory than 0.5 GiB"),
        round(0.1 * 2**30),
    ]


@linux
def test_a_task_that_burns_ends_also_while_the_parent_is_away(tmp_path: Path) -> None:
    tasks = [(word, tmp_path / "pid") for word in ("wait", "burn", "go on")]
    results = Pool(workers=2, deadline=1).run(burn, tasks)
    child = next(results)
    late = time.monotonic() + 40
    while Path(f"/proc/{child}").exists():  # nobody watches the wall clock now
        assert time.monotonic() < late
        time.sleep(0.1)
    assert list(results) == [Failure("killed after 1 s of computing"), child]


@linux
def test_garbage_in_the_pipe_is_a_failure() -> None:
    words = ["noise", "long", "half", "half and hang", "wrong sum", "fine"]
    results = list(Pool(workers=1, deadline=1).run(write_garbage, words))
    garbled = Failure("sent something that is no answer")
    assert results == [
        *(garbled, garbled),
        Failure("crashed (exit code 0)"),
        Failure("killed after 1 s"),
        *(garbled, "fine"),
    ]
