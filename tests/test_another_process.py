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
import pytest
import torch
from support import ROOT, SMALL, SMALL_SAFE, call, save_untrained, write_video

from pipeline.synthetic.render import Clip, draw_clip
from safe.config import Synthesize
from safe.models.backbones import BACKBONES
from safe.models.registry import SYSTEMS
from safe.saved import load_model
from safe.taxonomy import BASIC

# R3D-18's convolutions are Winograd's on a CPU from some 512 pixels over the windows on.
NETWORKS = {
    **{f"safe-{backbone}": ("safe", backbone, 32) for backbone in BACKBONES},
    **{name: (name, "small", 32 if name == "m3dfel" else 16) for name in SYSTEMS},
}
EXPORTED_BY_TEST_EXPORT = ("safe-small", "safe-light")  # an export takes ten seconds
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine"),
    ),
]
SETTINGS = (
    *SMALL,
    *("data.source=strips", "synthesize.clips=35", "synthesize.identities=5"),
    *("synthesize.size=32", "shard.size=32", "runtime.workers=1"),
    *("train.epochs=1", "train.batch=21", "train.select=val", "train.val_from=fold"),
)


def options(*more: str) -> list[str]:
    return [word for pair in (*SETTINGS, *more) for word in ("-S", pair)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shards of 35 drawn strips, and person.mp4."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copy(ROOT / "params.yaml", folder)
    for verb in ("synthesize", "shard"):
        ask(verb, *options(), folder=folder)
    look = Synthesize(seed=0, clips=35, identities=5, size=96, fps=25, tail=0, ambiguity=0, faint=0)
    one = Clip(number=1, identity=1, fold=1, label="happy", blend="", share=1.0, peak=1.0)
    write_video(folder / "person.mp4", np.stack(draw_clip(one, look))[:20])
    return folder


def ask(*words: str, folder: Path) -> None:
    done = call(*words, folder=folder)
    assert done.returncode == 0, f"{words[0]}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("network", NETWORKS)
def test_what_was_trained_is_calibrated_evaluated_exported_and_asked(
    network: str, device: str, made: Path, tmp_path: Path
) -> None:
    name, backbone, crop = NETWORKS[network]
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "data").symlink_to(made / "data")
    means = options(
        f"model.name={name}",
        f"model.backbone={backbone}",
        f"augment.crop={crop}",
        f"runtime.device={'cpu' if device == 'cpu' else 'auto'}",
    )
    ask("train", *means, folder=tmp_path)
    shutil.rmtree(tmp_path / ".safe" / "checkpoints")  # up to 2 GB

    ask("calibrate", *means, folder=tmp_path)
    info = json.loads((tmp_path / "runs/synthetic/calibrate/fold-1/model.json").read_text())
    assert info["architecture"]["name"] == name
    assert info["calibration"]["clips"] == 7

    ask("eval", *means, folder=tmp_path)
    metrics = json.loads((tmp_path / "runs/synthetic/eval/fold-1/metrics.json").read_text())
    assert metrics["n_test"] == 7

    run = ("--model", "runs/synthetic")
    if network not in EXPORTED_BY_TEST_EXPORT:
        ask("export", *run, "--clips", "8", folder=tmp_path)  # compares with PyTorch
        assert (tmp_path / "model.onnx").stat().st_size > 10_000

    asked = ("--other-crops", "--no-timeline", "--window=0.8", "--device", device)
    ask("predict", str(made / "person.mp4"), *run, *asked, folder=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "predictions/person.jsonl").open()]
    assert rows
    assert all(
        sum(row[f"p_{label}"] for label in BASIC) == pytest.approx(1, abs=1e-5) for row in rows
    )


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
print("the same")
"""


def test_a_new_process_reads_every_network_and_says_the_same(tmp_path: Path, config) -> None:
    """It first meets a network's modules while it loads the model."""
    folders = []
    for network, (name, backbone, crop) in NETWORKS.items():
        architecture = SMALL_SAFE | {"name": name, "backbone": backbone}
        folders.append(save_untrained(tmp_path / network, config, architecture=architecture))
        clips = torch.rand(2, 3, 16, crop, crop)
        model, _ = load_model(folders[-1])
        with torch.no_grad():
            said = model(clips).logits
        np.save(folders[-1] / "clips.npy", clips)
        np.save(folders[-1] / "logits.npy", said)
    command = [sys.executable, "-c", LOAD, *map(str, folders)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("the same\n", 0), done.stderr


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
    command = [sys.executable, "-c", probe, *modules]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
