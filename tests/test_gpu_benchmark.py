"""tools/benchmarks/gpu.py: every part runs on a CPU, and one that raises costs the others
nothing."""

import json
import time

import pytest
import torch

from tools.benchmarks import gpu
from tools.benchmarks.gpu import Setup
from tools.harness import Measured

SLOW = "compiled"
"""A part that the test leaves out: torch.compile."""

ON_CPU = Setup(torch.device("cpu"), quick=True)


@pytest.fixture(scope="module")
def tried(tmp_path_factory) -> dict:
    """Return what a trial of all parts but the slow one wrote."""
    out = tmp_path_factory.mktemp("gpu") / "found.json"
    names = [name for name in gpu.PARTS if name != SLOW]
    arguments = ["--out", str(out), "--device", "cpu", "--quick", "--only", *names]
    assert gpu.main(arguments) == 0
    return json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(name))


def test_every_part_runs_on_a_cpu_and_says_what_it_met(tried):
    states = {part["name"]: part["state"] for part in tried["parts"]}
    assert states == {name: "done" for name in gpu.PARTS if name != SLOW}
    for part in tried["parts"]:
        for row in part["metrics"]:
            assert row["low"] <= row["value"] <= row["high"], row
            bound = row["least"] is not None or row["most"] is not None
            assert row["met"] in (("yes", "no") if bound else ("",)), row
    assert len([row for part in tried["parts"] for row in part["metrics"] if row["met"]]) >= 4


def test_gradients_of_single_convolutions_are_float64s_but_for_rounding(tried):
    rows = {row["what"]: row for part in tried["parts"] for row in part["metrics"]}
    single = "error of the gradient of the worst convolution"
    assert 0 < rows[f"small, float32: {single}"]["value"] < 1e-5
    assert 1e-4 < rows[f"small, bfloat16: {single}"]["value"] < 1e-2


def gives_two(setup):
    yield Measured("first", 1.0, 1.0, 1.0, most=2)
    yield "a note"


def raises(setup):
    yield Measured("before", 1.0, 1.0, 1.0)
    raise ValueError("on purpose")


def lacks(setup):
    import no_such_package  # noqa: F401

    yield


def test_a_part_that_fails_or_lacks_a_package_costs_the_others_nothing(tmp_path):
    parts = {"raises": raises, "lacks": lacks, "gives_two": gives_two}
    until = time.monotonic() + 60
    found = gpu.run_parts(parts, ON_CPU, until=until, out=tmp_path / "found.json")
    assert found == json.loads((tmp_path / "found.json").read_text())
    assert [part["state"] for part in found["parts"]] == ["failed", "missing", "done"]
    assert found["parts"][0]["reason"] == "ValueError: on purpose"
    assert "on purpose" in found["parts"][0]["notes"][0]
    assert found["parts"][1]["reason"] == "No module named 'no_such_package'"
    kept = [[row["what"] for row in part["metrics"]] for part in found["parts"]]
    assert kept == [["before"], [], ["first"]]
    assert found["parts"][2]["notes"] == ["a note"]
    assert found["parts"][2]["metrics"][0]["met"] == "yes"


def test_what_does_not_fit_into_the_time_is_skipped_and_the_exit_code_tells_of_errors(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(gpu, "PARTS", {"raises": raises})
    arguments = ["--out", str(tmp_path / "found.json"), "--device", "cpu", "--quick"]
    assert gpu.main(arguments) == 1
    assert gpu.main([*arguments, "--minutes", "-1"]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert [part["state"] for part in found["parts"]] == ["skipped"]
