"""A short round of tools/faults/kill.py: killed, run again, the same bytes; and it sees what is
wrong."""

import json
import shutil

import pytest

from tools.faults import kill
from tools.faults.kill import OUTPUTS, Lane


@pytest.fixture
def lane(project, tmp_path):
    """A scratch folder in which the shards of `project` were made undisturbed."""
    shutil.copytree(project / "data", tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "synthetic" / "shards")
    lane = Lane(tmp_path, (0, 0))
    lane.run_undisturbed(["shard"])
    return lane


def test_killed_shard_ends_with_the_same_bytes_and_harm_is_seen(lane, tmp_path):
    for kills, how in enumerate(("parent", "child"), start=1):
        for _ in range(5):  # on a machine that grew quick a stage may end before its moment
            lane.kill_once("shard", how)
            if lane.counts["shard", "kills"] == kills:
                break
    assert lane.wrong == []
    assert lane.counts["shard", "kills"] == 2
    assert sum(name.endswith(".tar") for name in lane.sums) > 10

    found = {"counts": lane.counts, "wrong": lane.wrong, "seconds": 60.0}
    page = kill.describe(found)
    assert "2 kills in 1 minutes; what went wrong: nothing." in page["summary"][0]
    assert [row["stage"] for row in page["rows"]] == list(OUTPUTS)
    told = next(row for row in page["rows"] if row["stage"] == "shard")
    assert sum(told[name] for name in kill.WHEN) == told["kills"] == 2
    json.dumps(page)

    (tmp_path / "data" / "synthetic" / ".faces.parquet.1.tmp").touch()
    (tmp_path / "data" / "synthetic" / "manifest.parquet").write_bytes(b"half")
    lane._check_whole("shard")
    lane._compare("shard")
    wrong = " ".join(lane.wrong)
    assert "manifest.parquet is not whole" in wrong
    assert "left behind: ['data/synthetic/.faces.parquet.1.tmp']" in wrong
