"""A saved model, of every network, used on a CPU and a GPU, and by a process that did not make it.

python -m pytest tests/test_another_process.py -k cuda     on a machine with a GPU
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support import ROOT, SMALL, SMALL_SAFE, call, drawn_person, save_untrained, write_video

from safe.config import Config
from safe.export import export_model, random_faces
from safe.models.backbones import BACKBONES
from safe.models.registry import SYSTEMS
from safe.saved import load_model
from safe.taxonomy import BASIC

# R3D-18's convolutions are Winograd's on a CPU from some 512 pixels over the windows on.
NETWORKS = {
    **{f"safe-{backbone}": ("safe", backbone, 32) for backbone in BACKBONES},
    **{name: (name, "small", 32 if name == "m3dfel" else 16) for name in SYSTEMS},
}
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine"),
    ),
]
SETTINGS = (
    *SMALL,
    *("runtime.workers=1", "model.stride=12", "train.epochs=1", "train.batch=42"),
    *("train.select=val", "train.val_from=fold"),
)


def ask(*words: str, folder: Path) -> None:
    done = call(*words, folder=folder)
    assert done.returncode == 0, f"{words[0]}\n{done.stdout}\n{done.stderr}"


def in_a_new_process(code: str, *words: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


LATER = """
import json
import os
import sys
from cli.app import app
for folder, *words in json.loads(sys.argv[1]):
    os.chdir(folder)
    app(words, standalone_mode=False)
"""


@pytest.mark.parametrize("device", DEVICES)
def test_what_one_process_trained_another_calibrates_evaluates_exports_and_asks(
    device: str, project: Path, tmp_path: Path
) -> None:
    """On a CPU with m3dfel, which has the paper's r3d_18, an LSTM and attention."""
    networks = ("m3dfel",) if device == "cpu" else tuple(NETWORKS)
    write_video(tmp_path / "person.mp4", drawn_person(1, size=96)[:20])
    later, means = [], {}
    for network in networks:
        name, backbone, crop = NETWORKS[network]
        folder = tmp_path / network
        folder.mkdir()
        shutil.copy(ROOT / "params.yaml", folder)
        (folder / "data").symlink_to(project / "data")
        settings = (
            f"model.name={name}",
            f"model.backbone={backbone}",
            f"augment.crop={crop}",
            f"runtime.device={'cpu' if device == 'cpu' else 'auto'}",
        )
        means[network] = [word for pair in (*SETTINGS, *settings) for word in ("-S", pair)]
        ask("train", *means[network], folder=folder)
        shutil.rmtree(folder / ".safe" / "checkpoints")  # up to 2 GB
        run, asked = ("--model", "runs/synthetic"), ("--window=0.8", "--device", device)
        video, brief = str(tmp_path / "person.mp4"), ("--other-crops", "--no-timeline")
        later += [
            [str(folder), "calibrate", *means[network]],
            [str(folder), "eval", *means[network]],
            [str(folder), "export", *run, "--clips", "8"],  # compares with PyTorch
            [str(folder), "predict", video, *run, *asked, *brief],
        ]
    in_a_new_process(LATER, json.dumps(later))
    for network in networks:
        folder, name = tmp_path / network, NETWORKS[network][0]
        runs = folder / "runs" / "synthetic"
        info = json.loads((runs / "calibrate/fold-1/model.json").read_text())
        assert info["architecture"]["name"] == name
        assert info["calibration"]["clips"] == 14
        theirs = pq.read_table(runs / "eval/fold-1/predictions.parquet")
        assert len(theirs) == 14
        assert (folder / "model.onnx").stat().st_size > 10_000
        rows = [json.loads(line) for line in (folder / "predictions/person.jsonl").open()]
        assert rows
        assert all(
            sum(row[f"p_{label}"] for label in BASIC) == pytest.approx(1, abs=1e-5) for row in rows
        )
        ask("eval", *means[network], folder=folder)  # by the process that trained
        assert pq.read_table(runs / "eval/fold-1/predictions.parquet").equals(theirs)


LOAD = """
import sys
from pathlib import Path
import numpy as np
import torch
from safe.saved import load_model
torch.set_num_threads(1)
for folder in map(Path, sys.argv[1:]):
    model, _ = load_model(folder)
    with torch.no_grad():
        said = model(torch.from_numpy(np.load(folder / "clips.npy"))).logits
    assert np.array_equal(said, np.load(folder / "logits.npy")), folder
"""


def test_a_new_process_reads_every_other_network_and_a_transformer_is_exported(
    tmp_path: Path, config: Config
) -> None:
    folders = []
    for network in ("safe-r3d_18", *sorted(NETWORKS.keys() - {"m3dfel", "safe-r3d_18"})):
        name, backbone, crop = NETWORKS[network]
        architecture = SMALL_SAFE | {"name": name, "backbone": backbone}
        folders.append(save_untrained(tmp_path / network, config, architecture=architecture))
        clips = torch.rand(2, 3, 16, crop, crop)
        model, _ = load_model(folders[-1])
        with torch.no_grad():
            said = model(clips).logits
        np.save(folders[-1] / "clips.npy", clips)
        np.save(folders[-1] / "logits.npy", said)
    in_a_new_process(LOAD, *map(str, folders))
    # Of the rivals' operations, those that no other export has: a transformer and GELU.
    out, faces = tmp_path / "model.onnx", random_faces(8, config.shard.size, config.shard.frames)
    done = export_model(tmp_path / "former_dfer", out, faces=faces)
    assert (done.clips, done.bytes) == (8, out.stat().st_size)  # it was compared with PyTorch


def test_no_tensor_is_made_while_a_module_is_imported() -> None:
    """One made under the device meta, where a model's shapes are counted, would have no values."""
    modules = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "safe").rglob("*.py")
        if path.name != "__init__.py"
    )
    probe = """
import gc, importlib, sys
import torch
with torch.device("meta"):
    for name in sys.argv[1:]:
        gc.freeze()  # takes what there is out of sight of get_objects
        importlib.import_module(name)
        found = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
        assert not found, f"{name}: {found}"
assert "safe.models.r3d" in sys.modules
"""
    in_a_new_process(probe, *modules)
