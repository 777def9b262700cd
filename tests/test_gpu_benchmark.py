"""tools/benchmarks/gpu.py: every part runs on a CPU, and one that raises costs the others
nothing."""

import json
import os
import time

import pytest
import torch

from safe.evaluation.cost import count
from safe.models.safe import SAFE
from tools.benchmarks import gpu
from tools.benchmarks.gpu import Setup
from tools.benchmarks.gpu_training import list_convs
from tools.benchmarks.page import section
from tools.benchmarks.report import Figure

SLOW = ("compiled", "benchmarked")
"""Parts that the test leaves out: torch.compile, and what differs from `training` on a GPU only."""

ON_CPU = Setup(torch.device("cpu"), quick=True)


@pytest.fixture(scope="module")
def tried(tmp_path_factory) -> dict:
    """Return what a trial of all parts but the slow ones wrote."""
    if torch.cuda.is_initialized():
        pytest.skip("a fork of a process that has used the GPU cannot compute gradients")
    out = tmp_path_factory.mktemp("gpu") / "found.json"
    names = [part.name for part in gpu.PARTS if part.name not in SLOW]
    arguments = ["--out", str(out), "--device", "cpu", "--quick", "--only", *names]
    assert gpu.main(arguments) == 0
    return json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(name))


def test_every_part_runs_on_a_cpu_and_says_what_it_met(tried):
    states = {part["name"]: part["state"] for part in tried["parts"]}
    assert states == dict.fromkeys(
        [part.name for part in gpu.PARTS if part.name not in SLOW], "done"
    )
    assert tried["environment"]["cudnn"] == torch.backends.cudnn.version()
    for part in tried["parts"][1:]:
        for figure in part["figures"]:
            assert figure["low"] <= figure["value"] <= figure["high"], figure
            bound = figure["least"] is not None or figure["most"] is not None
            assert figure["met"] in (("yes", "no") if bound else ("",)), figure
    bounds = [f for part in tried["parts"] for f in part["figures"] if f["met"]]
    assert len(bounds) >= 10


def test_gradients_of_single_convolutions_are_float64s_but_for_rounding(tried):
    figures = {f["what"]: f for part in tried["parts"] for f in part["figures"]}
    single = "error of the gradient of the worst convolution"
    assert 0 < figures[f"small, float32: {single}"]["value"] < 1e-5
    assert 1e-4 < figures[f"small, bfloat16: {single}"]["value"] < 1e-2


def test_the_convolutions_are_those_whose_work_safe_cost_counts():
    convs = list_convs(112, torch.device("meta"))
    flops = sum(times * conv.multiply_adds for conv, times in convs.items())
    settings = {"weights": None, "window": 4, "stride": 2, "hidden": 8, "dropout": 0.0}
    model = SAFE(classes=7, backbone="r3d_18", temporal="s2am2", **settings)
    assert sum(convs.values()) == 20 + 3  # three make each of two steps of time by itself
    assert 7 * flops == count(model).parts["backbone"].multiply_adds


def gives_two(setup):
    yield Figure("first", 1.0, 1.0, 1.0, most=2)
    yield "a note"


def raises(setup):
    yield Figure("before", 1.0, 1.0, 1.0)
    raise ValueError("on purpose")


def lacks(setup):
    import no_such_package  # noqa: F401

    yield


def ends_itself(setup):
    os._exit(3)
    yield


def takes_for_ever(setup):
    yield Figure("in time", 1.0, 1.0, 1.0)
    time.sleep(600)


def test_a_part_that_fails_lacks_a_package_dies_or_hangs_costs_the_others_nothing(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(gpu, "SHORTEST", 0.1)
    here = [raises, lacks, ends_itself, takes_for_ever, gives_two]
    parts = [gpu.Part(__name__, run.__name__, 1.0) for run in here]
    found = gpu.run_parts(parts, ON_CPU, seconds=60, out=tmp_path / "found.json")
    assert found == json.loads((tmp_path / "found.json").read_text())
    states = ["failed", "missing", "failed", "stopped", "done"]
    assert [part["state"] for part in found["parts"]] == states
    assert found["parts"][0]["reason"] == "ValueError: on purpose"
    assert "on purpose" in found["parts"][0]["notes"][0]
    assert found["parts"][1]["reason"] == "No module named 'no_such_package'"
    assert found["parts"][2]["reason"] == "its process ended with 3"
    kept = [[figure["what"] for figure in part["figures"]] for part in found["parts"]]
    assert kept == [["before"], [], [], ["in time"], ["first"]]
    assert found["parts"][4]["notes"] == ["a note"]
    assert found["parts"][4]["figures"][0]["met"] == "yes"
    text = section(tmp_path / "found.json")
    assert "### gives_two: done\n\n| figure |" in text
    assert "| first | 1 | 1 to 1 | <= 2 | yes |" in text
    assert "### raises: failed ValueError: on purpose" in text


def test_what_does_not_fit_into_the_time_is_skipped_and_the_exit_code_tells_of_errors(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(gpu, "PARTS", (gpu.Part(__name__, "raises", 60.0),))
    arguments = ["--out", str(tmp_path / "found.json"), "--device", "cpu", "--quick"]
    assert gpu.main(arguments) == 1
    assert gpu.main([*arguments, "--minutes", "0.01"]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert [part["state"] for part in found["parts"]] == ["skipped"]
