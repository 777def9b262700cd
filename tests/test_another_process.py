"""A saved model, of every network, used on a CPU and a GPU, and by a process that did not make it.

python -m pytest tests/test_another_process.py -k cuda     on a machine with a GPU
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support import ROOT, SMALL, SMALL_SAFE, call, drawn_person, save_untrained, write_video

from safe.config import Config
from safe.export import export_model
from safe.models.backbones import BACKBONES
from safe.models.registry import SYSTEMS
from safe.saved import load_model
from safe.taxonomy import BASIC

# R3D-18's convolutions are Winograd's on a CPU from some 512 pixels over the windows on.
NETWORKS = {
    **{f"safe-{backbone}": ("safe", backbone, 32) for backbone in BACKBONES},
    **{name: (name, "small", 32 if name == "m3dfel" else 16) for name in SYSTEMS},
}
WITH_MODULES_OF_THEIR_OWN = ("m3dfel", "safe-r3d_18")
"""Loading them is the first that a process sees of safe.models.r3d."""
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine"),
    ),
]
SETTINGS = (
    *SMALL,
    *("data.source=strips", "synthesize.clips=40", "synthesize.identities=5"),
    *("synthesize.size=32", "shard.size=32", "runtime.workers=1"),
    *("train.epochs=1", "train.batch=21", "train.select=val", "train.val_from=fold"),
)


def options(*more: str) -> list[str]:
    return [word for pair in (*SETTINGS, *more) for word in ("-S", pair)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shards of 40 drawn strips, and person.mp4."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copy(ROOT / "params.yaml", folder)
    for verb in ("synthesize", "shard"):
        ask(verb, *options(), folder=folder)
    write_video(folder / "person.mp4", drawn_person(1, size=96)[:20])
    return folder


def ask(*words: str, folder: Path) -> None:
    done = call(*words, folder=folder)
    assert done.returncode == 0, f"{words[0]}\n{done.stdout}\n{done.stderr}"


OTHER_CROPS = ("--other-crops", "--no-timeline")


def in_a_new_process(code: str, *words: str, **more: Any) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, **more)
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
    device: str, made: Path, tmp_path: Path
) -> None:
    networks = WITH_MODULES_OF_THEIR_OWN if device == "cpu" else tuple(NETWORKS)
    later, means = [], {}
    for network in networks:
        name, backbone, crop = NETWORKS[network]
        folder = tmp_path / network
        folder.mkdir()
        shutil.copy(ROOT / "params.yaml", folder)
        (folder / "data").symlink_to(made / "data")
        means[network] = options(
            f"model.name={name}",
            f"model.backbone={backbone}",
            f"augment.crop={crop}",
            f"runtime.device={'cpu' if device == 'cpu' else 'auto'}",
        )
        ask("train", *means[network], folder=folder)
        shutil.rmtree(folder / ".safe" / "checkpoints")  # up to 2 GB
        run, asked = ("--model", "runs/synthetic"), ("--window=0.8", "--device", device)
        later += [
            [str(folder), "calibrate", *means[network]],
            [str(folder), "eval", *means[network]],
            [str(folder), "export", *run, "--clips", "8"],  # compares with PyTorch
            [str(folder), "predict", str(made / "person.mp4"), *run, *asked, *OTHER_CROPS],
        ]
    in_a_new_process(LATER, json.dumps(later))
    for network in networks:
        folder, name = tmp_path / network, NETWORKS[network][0]
        runs = folder / "runs" / "synthetic"
        info = json.loads((runs / "calibrate/fold-1/model.json").read_text())
        assert info["architecture"]["name"] == name
        assert info["calibration"]["clips"] == 8
        theirs = pq.read_table(runs / "eval/fold-1/predictions.parquet")
        assert len(theirs) == 8  # as many as an export asks for, else it draws forty
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


def test_a_new_process_reads_every_other_network_and_one_of_attention_is_exported(
    tmp_path: Path, config: Config
) -> None:
    folders = []
    for network in NETWORKS.keys() - set(WITH_MODULES_OF_THEIR_OWN):
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
    # Of the rivals' operations, those that no other export has: attention and GELU.
    out = tmp_path / "model.onnx"
    done = export_model(tmp_path / "former_dfer", out)
    assert (done.clips, done.bytes) == (40, out.stat().st_size)  # it was compared with PyTorch


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
