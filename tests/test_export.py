"""Export: onnxruntime gives what PyTorch gives, for any batch, and needs no torch for it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support import DOUBLING, ROOT
from torch import nn

from cli.export import read_test_faces
from safe.errors import ModelError
from safe.evaluation.calibration import Calibration
from safe.evaluation.metrics import softmax
from safe.export import TOLERANCE, PlainPool, export_model, random_faces
from safe.models.registry import build_model
from safe.models.safe import Output
from safe.saved import load_model, save_model
from safe.shards.clips import ClipReader
from safe.shards.folder import open_shards
from safe.taxonomy import BASIC
from safe.training.transforms import MEAN, STD

ARCHITECTURE = {
    "name": "safe", "backbone": "small", "temporal": "s2am2",
    "window": 4, "stride": 2, "hidden": 8, "dropout": 0.2,
}  # fmt: skip
CALIBRATION = Calibration(
    method="vector",
    scale=(3.0, 2.5, 4.0, 3.5, 2.0, 3.0, 4.5),
    bias=(0.1, -0.2, 0.0, 0.3, 0.0, -0.1, 0.2),
    level=0.9,
    cutoffs=(0.1, 0.12, 0.14, 0.1, 0.15, 0.13, 0.16),
    risk=0.15,
    threshold=0.7,
    clips=50,
)
CROP, SIZE = 32, 48


@torch.inference_mode()
def run(model: nn.Module, faces: np.ndarray) -> Output:
    """Crop and normalise as the paper's protocol says, written out; BatchNorm is not folded."""
    edge = (SIZE - CROP) // 2
    inner = faces[:, :, edge : edge + CROP, edge : edge + CROP].astype(np.float64) / 255
    pixels = torch.from_numpy(((inner - MEAN) / STD).astype(np.float32))
    return model(pixels.permute(0, 4, 1, 2, 3))


def by_hand(
    folder: Path, faces: np.ndarray, calibration: Calibration = CALIBRATION
) -> tuple[np.ndarray, ...]:
    """Probabilities, attention, logits and embedding of the model in a folder."""
    logits, embedding, attention = (x.numpy() for x in run(load_model(folder)[0], faces))
    p = softmax(logits * np.array(calibration.scale) + np.array(calibration.bias))
    return p, attention, logits, embedding


def small_model(faces: np.ndarray, backbone: str = "small", classes: int = 7) -> nn.Module:
    """Make a model whose BatchNorm and classifier are as if trained: answers differ by clip."""
    torch.manual_seed(0)
    architecture = ARCHITECTURE | {"backbone": backbone}
    model = build_model(classes, frames=faces.shape[1], **architecture, weights=None)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    with torch.no_grad():
        logits = run(model.eval(), faces).logits.clone()
        linear, deviation = model.classifier.linear, logits.std(0)
        linear.weight /= deviation[:, None]
        linear.bias.copy_((linear.bias - logits.mean(0)) / deviation)
    return model


def save(folder: Path, model: nn.Module, made_from: dict[str, int], **more: object) -> Path:
    info = {
        "classes": list(BASIC),
        "architecture": ARCHITECTURE,
        "crop": CROP,
        "preprocessing": {"id": "0123456789abcdef", "made_from": made_from},
        "dataset": "synthetic",
        "fold": 1,
        "selection": {"rule": "val", "metric": "uar", "epoch": 2},
        "commit": "0" * 40,
        "history": [],
        "calibration": CALIBRATION.record(),
        **more,
    }
    save_model(folder, model.state_dict(), info)
    return folder


@pytest.fixture(scope="module")
def faces(project):
    """All 70 drawn clips, uint8 [70, 16, 48, 48, 3]."""
    folder = open_shards(project / "data" / "synthetic" / "shards")
    found = np.empty((len(folder.clip), 16, SIZE, SIZE, 3), np.uint8)
    ClipReader(folder).read(np.arange(len(found)), found)
    return found


@pytest.fixture(scope="module")
def exported(tmp_path_factory, faces):
    root = tmp_path_factory.mktemp("export")
    folder = save(root / "model", small_model(faces[:20]), {"size": SIZE})
    out = root / "model.onnx"
    return folder, out, export_model(folder, out, faces=faces)


@pytest.fixture(scope="module")
def session(exported):
    return onnxruntime.InferenceSession(exported[1], providers=["CPUExecutionProvider"])


def test_onnx_equals_pytorch_on_seventy_clips(exported, session, faces):
    folder, out, told = exported
    assert told.clips == len(faces) == 70
    assert 0 < told.difference <= TOLERANCE
    assert told.bytes == out.stat().st_size
    assert min(told.seconds, told.torch_rate, told.onnx_rate) > 0
    right = by_hand(folder, faces)
    assert np.ptp(right[0], axis=0).min() > 0.01  # clips differ, so the comparison says something
    for start, end in ((0, 1), (1, 8), (8, 41), (41, 70)):
        found = session.run(None, {"faces": faces[start:end]})
        for mine, theirs in zip(right, found, strict=True):
            assert theirs.dtype == np.float32
            assert np.abs(mine[start:end] - theirs).max() <= 1e-4
    assert np.allclose(found[0].sum(1), 1, atol=1e-5)


def test_the_file_says_what_a_reader_must_know_and_nothing_of_this_machine(exported, session):
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == list(BASIC)
    assert Calibration.from_info({"calibration": json.loads(about["calibration"])}) == CALIBRATION
    assert json.loads(about["preprocessing"])["id"] == "0123456789abcdef"
    assert json.loads(about["preprocessing"])["made_from"]["size"] == SIZE
    assert (about["commit"], about["licence"]) == ("0" * 40, "Apache-2.0")
    assert "apparent expression" in about["meaning"]
    entry = session.get_inputs()[0]
    assert (entry.name, entry.type, entry.shape) == (
        "faces", "tensor(uint8)", ["clips", 16, SIZE, SIZE, 3]
    )  # fmt: skip
    onnx.checker.check_model(exported[1], full_check=True)
    data = exported[1].read_bytes()
    assert str(ROOT).encode() not in data
    assert b"site-packages" not in data


def test_a_model_of_eight_frames_and_eleven_classes_with_the_other_light_backbone(tmp_path):
    faces = random_faces(9, SIZE, 8)
    classes = ["笑顔", "very calm", *(f"class {number}" for number in range(9))]
    more = {"frames": 8, "architecture": ARCHITECTURE | {"backbone": "light"}}
    more |= {"classes": classes, "calibration": DOUBLING.record()}
    model = small_model(faces, "light", len(classes))
    folder = save(tmp_path / "model", model, {"size": SIZE}, **more)
    with pytest.raises(ModelError, match=r"made for clips of \[8, 48, 48, 3\]"):
        export_model(folder, tmp_path / "model.onnx", faces=random_faces(9, SIZE, 16))
    export_model(folder, tmp_path / "model.onnx", faces=faces)
    made = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(made.get_modelmeta().custom_metadata_map["classes"]) == classes
    assert made.get_inputs()[0].shape == ["clips", 8, SIZE, SIZE, 3]
    right, found = by_hand(folder, faces, DOUBLING), made.run(None, {"faces": faces})
    assert found[0].shape == (9, len(classes))
    for mine, theirs in zip(right, found, strict=True):
        np.testing.assert_allclose(theirs, mine, rtol=1e-3, atol=2e-4)


def test_the_example_runs_without_torch_and_without_this_project(exported, faces, tmp_path):
    folder, out, _ = exported
    np.save(tmp_path / "faces.npy", faces[:40])
    probe = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('torch', 'safe', 'pipeline', 'cli', 'onnx', 'PIL', 'cv2'):
            raise ImportError(name + ' is blocked')
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""
    script = str(ROOT / "examples" / "onnx_predict.py")
    command = [sys.executable, "-c", probe, script, str(out), "faces.npy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["clip"] for answer in answers] == list(range(40))
    p = by_hand(folder, faces[:40])[0]
    assert np.abs(p - [list(a["probabilities"].values()) for a in answers]).max() < 1e-4
    clear = np.abs(p.max(1) - CALIBRATION.threshold) > 1e-4
    clear &= (np.abs(p - CALIBRATION.cutoffs) > 1e-4).all(1)
    for i in np.flatnonzero(clear):
        sure = p[i].max() > CALIBRATION.threshold
        assert answers[i]["decision"] == (BASIC[p[i].argmax()] if sure else "abstain")
        inside = [
            name for name, x, y in zip(BASIC, p[i], CALIBRATION.cutoffs, strict=True) if x > y
        ]
        assert answers[i]["set"] == inside
    assert len({a["decision"] == "abstain" for a in answers}) == 2  # both happen
    np.save(tmp_path / "faces.npy", faces[:1, :, 1:])
    wrong = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "[16, 48, 48, 3]" in wrong.stderr


@pytest.mark.parametrize("size", [(1, 4, 4), (3, 5, 2), 1])
@pytest.mark.parametrize("kind", [nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d])
def test_the_pools_that_onnx_lacks_are_the_same_in_slices(kind, size):
    x = torch.randn(2, 3, 4, 11, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(PlainPool(kind(size))(x), kind(size)(x))


def test_a_file_that_differs_from_pytorch_is_not_kept(exported, tmp_path, monkeypatch):
    """The comparison meets another calibration than the one that is in the file."""
    folder, out, _ = exported
    right = Calibration.from_info
    monkeypatch.setattr("safe.export._write", lambda *a: a[3].write_bytes(out.read_bytes()))
    monkeypatch.setattr(
        Calibration, "from_info", lambda info: replace(right(info), bias=(0.0, 0.01, *[0.0] * 5))
    )
    with pytest.raises(ModelError, match="ONNX differs from PyTorch by"):
        export_model(folder, tmp_path / "model.onnx", faces=random_faces(8, SIZE, 16))
    assert not list(tmp_path.iterdir())


def test_faces_that_do_not_fit_and_a_model_that_does_not_say_its_size_are_one_line(
    exported, tmp_path
):
    with pytest.raises(ModelError, match=r"made for clips of \[16, 48, 48, 3\]"):
        export_model(exported[0], tmp_path / "a.onnx", faces=random_faces(8, 64, 16))
    with pytest.raises(ModelError, match="at least 8 to compare on"):
        export_model(exported[0], tmp_path / "a.onnx", faces=random_faces(7, SIZE, 16))
    unknown = save(tmp_path / "model", load_model(exported[0])[0], {})
    with pytest.raises(ModelError, match=r"preprocessing\.made_from\.size"):
        export_model(unknown, tmp_path / "a.onnx")
    assert not list(tmp_path.glob("*.onnx"))


def test_the_verb_compares_on_clips_from_all_over_the_test_split(project, faces, monkeypatch):
    monkeypatch.chdir(project)
    folder = open_shards(Path("data/synthetic/shards"))
    about = {"classes": list(BASIC), "preprocessing": {"id": folder.preprocessing_id}}
    info = {"dataset": "synthetic", "fold": 2, "frames": 16, **about}
    rows = np.flatnonzero(folder.bucket == "fold2")
    assert np.array_equal(read_test_faces(info, Path("m"), 100), faces[rows])
    assert np.array_equal(read_test_faces(info, Path("m"), 2), faces[rows[::13]])
    assert read_test_faces({**info, "dataset": "dfew"}, Path("m"), 100) is None  # no such shards
    with pytest.raises(ModelError, match="trained on preprocessing"):
        read_test_faces({**info, "preprocessing": {"id": "f" * 16}}, Path("m"), 100)
