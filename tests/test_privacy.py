"""Nothing that is asked of this project tells anyone: no file of onnxruntime's under HOME, no call.

onnxruntime's telemetry makes both as soon as it is loaded: a device id and a data base of events in
~/.cache, and within seconds a call to its maker, which a proxy sees.
"""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support import ROOT, drawn_person, small_config, write_video

from pipeline.face.preprocessing import preprocessing
from safe.export import random_faces
from safe.models.registry import build_model
from safe.saved import save_model
from safe.taxonomy import BASIC

PROGRAM = """
import fcntl, json, os, socket, struct, subprocess, sys, threading
commands, seen = json.loads(sys.argv[1]), []
proxy = socket.create_server(("127.0.0.1", 0))
with socket.socket() as any_socket:  # a network of one's own begins without its loopback
    up = struct.pack("16sh", b"lo", 1)
    if sys.argv[2] == "alone":
        fcntl.ioctl(any_socket, 0x8914, up)
def listen():
    while True:
        line, _ = proxy.accept()
        seen.append(line.recv(100).decode(errors="replace"))
        line.close()
threading.Thread(target=listen, daemon=True).start()
url = f"http://127.0.0.1:{proxy.getsockname()[1]}"
for name in ("http_proxy", "https_proxy", "all_proxy"):
    os.environ[name] = os.environ[name.upper()] = url
codes = [subprocess.run([sys.executable, *words]).returncode for words in commands]
print("RESULT " + json.dumps([codes, seen]))
"""
VERBS = """
import json, sys
from cli.app import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["safe-cli", *words]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""
ALONE = ("unshare", "--user", "--map-root-user", "--net")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two clips and their list, a video, a model and faces."""
    folder = tmp_path_factory.mktemp("privacy")
    shutil.copy(ROOT / "params.yaml", folder)
    config = small_config(folder)
    for number, split in enumerate(("train", "test"), start=1):
        write_video(folder / "clips" / f"{split}.mp4", drawn_person(number, size=96)[:20])
    rows = ["path,label,split", "train.mp4,happy,train", "test.mp4,sad,test"]
    (folder / "clips" / "clips.csv").write_text("\n".join(rows) + "\n")
    architecture = {"name": "safe", "backbone": "small", "temporal": "s2am2"}
    architecture |= {"window": 4, "stride": 2, "hidden": 8, "dropout": 0.2}
    info = {
        "architecture": architecture,
        "classes": list(BASIC),
        "crop": 32,
        "preprocessing": preprocessing("video", faces=config.faces, shard=config.shard),
        "fold": 1,
        "selection": {"rule": "last", "metric": None, "epoch": 1},
        "params": config.model_dump(mode="json"),
        "history": [],
    }
    torch.manual_seed(0)
    save_model(
        folder / "model",
        build_model(classes=len(BASIC), **architecture, weights=None).state_dict(),
        info,
    )
    np.save(folder / "faces.npy", random_faces(2, config.shard.size, config.shard.frames))
    return folder


def test_no_file_under_home_tells_of_what_was_asked_and_nobody_is_called(
    folder: Path, tmp_path: Path
) -> None:
    """In a network that has only the proxy, where this system allows one; else beside the others.

    The verbs and the example are new Pythons; nothing is turned off in their environment.
    """
    alone = (
        shutil.which("unshare") and subprocess.run([*ALONE, "true"], check=False).returncode == 0
    )
    own = f"data={{name:own,root:{folder / 'clips'},splits:clips.csv,folds:[1]}}"
    example = str(ROOT / "examples" / "onnx_predict.py")
    verbs = [
        *([verb, "-S", own, "-S", "runtime.workers=1"] for verb in ("index", "faces")),
        ["predict", "clips/test.mp4", "--model", "model", "--device", "cpu", "--workers", "1"],
        ["export", "--model", "model"],
    ]
    commands = [["-c", VERBS, json.dumps(verbs)], [example, "model.onnx", "faces.npy"]]
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    homes = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
    for home in homes:
        (tmp_path / home).mkdir()
        env[home] = str(tmp_path / home)
    program = [sys.executable, "-c", PROGRAM, json.dumps(commands), "alone" if alone else ""]
    done = subprocess.run(
        [*(ALONE if alone else ()), *program],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    codes, calls = json.loads(done.stdout.rpartition("RESULT ")[2])
    assert codes == [0] * len(commands), done.stdout + done.stderr
    assert not calls
    # matplotlib keeps a list of this machine's fonts, and no more than that.
    left = {path.relative_to(tmp_path).parts[1:] for path in tmp_path.rglob("*") if path.is_file()}
    assert {path for path in left if "matplotlib" not in path} == set()


def imports_onnxruntime(tree: ast.AST) -> bool:
    return any(
        "onnxruntime" in [getattr(node, "module", None), *(alias.name for alias in node.names)]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    )


def test_whoever_imports_onnxruntime_has_turned_its_telemetry_off() -> None:
    """By our packages, of which shared_fixtures.py imports one for all tests, or by itself."""
    rooms = ("safe", "pipeline", "cli", "tools", "examples", "tests")
    texts = {path: path.read_text() for room in rooms for path in (ROOT / room).rglob("*.py")}
    found = {
        path: text
        for path, text in texts.items()
        if "onnxruntime" in text and imports_onnxruntime(ast.parse(text))
    }
    assert {path.relative_to(ROOT).parts[0] for path in found} >= {"safe", "pipeline", "examples"}
    others = [path for path in found if path.relative_to(ROOT).parts[0] in ("tools", "examples")]
    for path in others:
        text = found[path]
        assert text.index('os.environ["ORT_DISABLE_TELEMETRY"] = "1"') < text.index(
            "import onnxruntime"
        )
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
