"""Cores: those of the container, not of the machine it runs on."""

import os
from pathlib import Path

import pytest

from safe.cores import cores
from safe.files import reserve

HERE = len(os.sched_getaffinity(0))


def tell(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        ("0::/", {"cpu.max": "200000 100000"}, 2),
        ("0::/", {"cpu.max": "150000 100000"}, 2),
        ("0::/", {"cpu.max": "20000 100000"}, 1),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/user/mine", {"cpu.max": "max 100000", "user/cpu.max": "100000 100000"}, 1),
        ("0::/host/path/of/this", {"cpu.max": "100000 100000"}, 1),
        ("4:cpu,cpuacct:/a", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "5"}, None),
        ("4:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "9", "cpu/a/cpu.cfs_period_us": "9"}, 1),
        ("3:memory:/a", {"cpu.max": "100000 100000"}, None),
        ("0::/", {"cpu.max": "nonsense"}, None),
        ("0::/", {"cpu.max": ""}, None),
    ],
)
def test_the_limit_of_a_container_holds(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own: str,
    files: dict[str, str],
    limit: int | None,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    tell(tmp_path, {f"groups/{name}": text for name, text in files.items()} | {"own": own})
    assert cores(cgroups=tmp_path / "groups", own=tmp_path / "own") == (limit or 64)


def test_fewer_by_affinity_and_no_limits_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cores(own=tmp_path / "none") == HERE
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS
    assert cores(own=tmp_path / "none") == os.cpu_count()


@pytest.mark.parametrize("here", [True, False])
def test_space_is_reserved_where_the_system_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: bool
) -> None:
    if not here:
        monkeypatch.delattr(os, "posix_fallocate")  # macOS
    with (tmp_path / "file").open("wb+") as file:
        reserve(file.fileno(), 10_000)
        assert os.fstat(file.fileno()).st_size == 10_000
        assert (os.fstat(file.fileno()).st_blocks > 0) == here
