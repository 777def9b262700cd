"""A model folder that was altered, or made by an enemy, is one line and takes no memory."""

import json
import os
import pickle
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save, save_file

from safe import saved
from safe.errors import ModelError
from safe.evaluation.calibration import Calibration
from safe.info import info_digest, read_info
from safe.models.registry import build_model
from safe.saved import load_model, save_calibrated, save_model
from safe.taxonomy import BASIC

ARCHITECTURE = {
    "name": "safe",
    "backbone": "small",
    "temporal": "s2am2",
    "window": 4,
    "stride": 2,
    "hidden": 8,
    "dropout": 0.2,
}
INFO = {
    "classes": list(BASIC),
    "architecture": ARCHITECTURE,
    "crop": 32,
    "preprocessing": {"id": "0123456789abcdef", "made_from": {"size": 48}},
    "fold": 1,
    "selection": {"rule": "last", "metric": None, "epoch": 2},
    "params": {"train": {"betas": (0.9, 0.999)}},
    "history": [{"loss": 1.5}, {"loss": 0.1 + 0.2}],
}
READ = Calibration("temperature", clips=3).record()


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(7, **ARCHITECTURE, weights=None)


@pytest.fixture
def folder(network: torch.nn.Module, tmp_path: Path) -> Path:
    save_model(tmp_path / "model", network.state_dict(), INFO)
    return tmp_path / "model"


def refused(folder: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(folder))
    assert len(str(caught.value)) < 500 + len(str(folder))


def change(folder: Path, *keys: str, value: Any, fits: bool = True) -> None:
    """Change a key of model.json and, as an enemy would, its checksum."""
    info = json.loads((folder / "model.json").read_text())
    inner = info
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    if fits and keys != ("sha256",):
        info["sha256"] = info_digest(info)
    (folder / "model.json").write_text(json.dumps(info))


def swap(folder: Path, data: bytes) -> None:
    """Put other bytes into the place of the weights and make model.json fit."""
    path = folder / "model.safetensors"
    path.write_bytes(data)
    about = {"sha256": saved.file_digest(path), "bytes": len(data)}
    change(folder, "weights", value=about)


def test_what_is_saved_is_read_back(folder, network):
    model, info = load_model(folder)
    assert not model.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert info["classes"] == list(BASIC)
    assert info["history"] == INFO["history"]
    assert info["weights"]["bytes"] == (folder / "model.safetensors").stat().st_size
    assert {**info, **json.loads(json.dumps(INFO))} == info


def test_every_altered_byte_is_found(folder):
    for name in ("model.json", "model.safetensors"):
        path = folder / name
        data = path.read_bytes()
        for place in range(0, len(data), len(data) // 40):
            altered = bytearray(data)
            altered[place] ^= 0x01
            path.write_bytes(altered)
            if name == "model.json" and json_equal(data, altered):
                continue  # white space
            with pytest.raises(ModelError):
                load_model(folder)
        path.write_bytes(data)
    load_model(folder)


def json_equal(a: bytes, b: bytes) -> bool:
    try:
        return json.loads(a) == json.loads(b)
    except ValueError:
        return False


@pytest.mark.parametrize(
    ("keys", "value", "told"),
    [
        (("format",), 1, "not of format 2"),
        (("classes",), ["happy"], "classes: 1 classes; there must be 2 to 100"),
        (("classes",), None, "classes"),
        (("classes",), "happy", "classes"),
        (("classes",), [1, 2], "classes"),
        (("classes",), ["a", "A"], "classes: two classes have one name"),
        (("classes",), ["a", "b\nc"], r"classes: class 'b\\nc' must be a name"),
        (("classes",), [f"c{i}" for i in range(101)], "classes: 101 classes"),
        (("classes",), list(BASIC[:6]), r"do not fit.+\[7, 8\]\), not .+\[6, 8\]"),
        (("calibration",), READ | {"scale": [1.0] * 6}, "calibration.scale: 6 numbers for 7"),
        (("calibration",), READ | {"bias": []}, "calibration.bias"),
        (("calibration",), READ | {"cutoffs": [0.1] * 8}, "calibration.cutoffs: 8 numbers"),
        (("sha256",), "0" * 64, "altered, it does not have the checksum"),
        (("sha256",), None, "sha256"),
        (("weights",), None, "weights"),
        (("weights", "sha256"), "x", "weights.sha256"),
        (("weights", "sha256"), "0" * 64, "model.safetensors: damaged or altered"),
        (("weights", "bytes"), 7, "model.safetensors: damaged or altered"),
        (("weights", "bytes"), "7", "weights.bytes"),
        (("architecture",), [], "architecture"),
        (("architecture",), {}, "the weights do not fit the architecture"),
        (("architecture", "name"), "os.system", "architecture.name"),
        (("architecture", "backbone"), "huge", "architecture.backbone"),
        (("architecture", "surprise"), 1, "architecture.surprise"),
        (("architecture", "hidden"), 10**9, "architecture.hidden"),
        (("architecture", "hidden"), 10**30, "architecture.hidden"),
        (("architecture", "hidden"), -1, "architecture.hidden"),
        (("architecture", "hidden"), "8", "architecture.hidden"),
        (("architecture", "hidden"), 7, "no network has|do not fit"),
        (("architecture", "hidden"), 8192, "the weights do not fit the architecture"),
        (("architecture", "window"), 17, "architecture"),
        (("architecture", "temporal"), "bilstm", "the weights do not fit the architecture"),
        (("architecture", "name"), "c3d", "the weights do not fit the architecture"),
        (("architecture", "dropout"), 1e400, "architecture.dropout"),
        (("crop",), 10**6, "crop"),
        (("fold",), 0, "fold"),
        (("fold",), "1", "fold"),
        (("preprocessing",), {}, "preprocessing.id"),
        (("selection", "rule"), "best", "selection.rule"),
        (("history",), [{"loss": "x"}], "history.0.loss"),
    ],
)
def test_every_field_that_is_used_is_checked_before_anything_is_built(folder, keys, value, told):
    change(folder, *keys, value=value)
    refused(folder, told)


def test_the_largest_architecture_takes_no_memory_where_the_weights_are_of_another(folder):
    change(folder, "architecture", "hidden", value=8192)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(folder, "the weights do not fit the architecture")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    with torch.device("meta"):
        model = build_model(7, **ARCHITECTURE | {"hidden": 8192}, weights=None)
    needed = sum(tensor.numel() * 4 for tensor in model.parameters()) // 1024
    assert needed > 10**6  # a gigabyte, in units of 1024 bytes
    assert grown < needed / 10


def test_a_changed_field_without_its_checksum_is_found(folder):
    change(folder, "commit", value="another", fits=False)
    refused(folder, "altered, it does not have the checksum that it gives")


@pytest.mark.parametrize(
    "text", [b"", b"{", b"null", b"[]", b"[" * 10**6, b"{}", b"\xff", b"1" * 5000]
)
def test_a_model_json_that_is_none_is_one_line(folder, text):
    (folder / "model.json").write_bytes(text)
    refused(folder, "damaged|not of format 2")


def test_files_too_large_or_no_files_are_not_read(folder):
    path = folder / "model.json"
    kept = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(2**33)  # takes no disk
    refused(folder, "model.json: larger than 16,777,216 bytes")
    path.unlink()
    os.mkfifo(path)
    refused(folder, "model.json: not a regular file")
    path.unlink()
    path.write_bytes(kept)
    weights = folder / "model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(2**40)
    refused(folder, r"model.safetensors: larger than \d,\d{3},\d{3} bytes")
    weights.unlink()
    os.mkfifo(weights)
    refused(folder, "not a regular file")


def test_weights_of_another_shape_type_or_name_are_refused(folder):
    right = load((folder / "model.safetensors").read_bytes())
    name = next(name for name in sorted(right) if right[name].shape[4:] > (1,))  # a 3-D kernel
    for other, told in (
        (
            {**right, name: right[name][..., :1].contiguous()},
            rf"{name} is \('F32', \[.*\]\), not \('F32', ",
        ),
        ({**right, name: right[name].double()}, rf"{name} is \('F64', "),
        ({**right, name: right[name].half()}, rf"{name} is \('F16', "),
        ({**right, name: right[name].int()}, rf"{name} is \('I32', "),
        ({**right, "os.system": torch.zeros(1)}, "it holds 'os.system'"),
        ({k: v for k, v in right.items() if k != name}, f"it lacks '{name}'"),
        ({}, "it lacks"),
    ):
        swap(folder, save(other))
        refused(folder, told)
    swap(folder, save(right))
    load_model(folder)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(folder, number):
    weights = load((folder / "model.safetensors").read_bytes())
    name = next(name for name in weights if weights[name].ndim == 5)
    weights[name][0, 0, 0, 0, 0] = number
    swap(folder, save(weights))
    refused(folder, f"{name} holds numbers that are not finite")


def header(text: str, body: bytes = b"", claims: int | None = None) -> bytes:
    length = len(text) if claims is None else claims
    return length.to_bytes(8, "little") + text.encode() + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        header("{}", claims=2**63),
        header("{}", claims=2**31),
        header("{"),
        header('{"a":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}'),
        header(
            '{"a":{"dtype":"F32","shape":[9223372036854775807,9],"data_offsets":[0,4]}}', b"abcd"
        ),
        header('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', b"abcd"),
        header('{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}', b"abcd"),
        header('{"a":{"dtype":"P64","shape":[1],"data_offsets":[0,4]}}', b"abcd"),
        header("[" * 100_000),
        pickle.dumps({"a": 1}),
    ],
)
def test_a_safetensors_header_that_lies_is_one_line(folder, data):
    swap(folder, data)
    refused(folder, "damaged|do not fit")


def test_a_pickle_in_the_place_of_the_weights_is_not_unpickled(folder, tmp_path):
    made = tmp_path / "made by the payload"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (made,)

    torch.save(Payload(), tmp_path / "payload.pth")
    for payload in (pickle.dumps(Payload()), (tmp_path / "payload.pth").read_bytes()):
        swap(folder, payload)
        refused(folder, "damaged")
        assert not made.exists()
        (folder / "model.json").write_bytes(payload)
        refused(folder, "damaged")
        assert not made.exists()
        save_file({}, folder / "model.safetensors")
        save_model(folder, build_model(7, **ARCHITECTURE, weights=None).state_dict(), INFO)
    pickle.loads(pickle.dumps(Payload()))  # or the test would show nothing
    assert made.exists()


def test_a_missing_file_says_which_command_makes_it(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "no model there; run `safe-cli train`, then `safe-cli calibrate`")
    with pytest.raises(FileNotFoundError):
        read_info(folder / "none.json")
    shutil.rmtree(folder)
    refused(folder, "no model there; run `safe-cli train`, then `safe-cli calibrate`")


@pytest.mark.parametrize("count", [2, 8, 11, 100])
def test_a_model_of_other_classes_and_of_a_far_fold_is_read_back(tmp_path, count):
    classes = [f"class {number}" for number in range(count)]
    weights = build_model(count, **ARCHITECTURE, weights=None).state_dict()
    save_model(tmp_path, weights, {**INFO, "classes": classes, "fold": 37})
    for calibration in (
        Calibration("temperature", clips=3),
        Calibration("vector", (2.0,) * count, (0.5,) * count, 0.9, (0.1,) * count, clips=3),
    ):
        save_calibrated(tmp_path, tmp_path, calibration)
        model, info = load_model(tmp_path)
        assert (info["classes"], info["fold"]) == (classes, 37)
        assert model(torch.zeros(1, 3, 16, 32, 32)).logits.shape == (1, count)
        read = Calibration.from_info(info)
        assert read == calibration
        assert read.probabilities(torch.zeros(5, count)).shape == (5, count)


def test_a_model_json_of_before_classes_were_free_is_read_as_it_is(folder):
    """Its list was that of the seven, and nothing else of it has changed."""
    info = json.loads((folder / "model.json").read_text())
    seven = ["happy", "sad", "neutral", "angry", "surprise", "disgust", "fear"]
    old = {"format": 2, "classes": seven, "weights": info["weights"], **INFO}
    full = Calibration("none", (1.0,) * 7, (0.0,) * 7, cutoffs=(0.0,) * 7).record()
    old["calibration"] = full
    (folder / "model.json").write_text(json.dumps({**old, "sha256": info_digest(old)}))
    assert load_model(folder)[1]["classes"] == seven
