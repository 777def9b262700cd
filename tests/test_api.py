"""`import safe`: three names on tiny real things, and nothing heavy before they are used."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import ROOT, drawn_person, write_video

import safe
from safe.config import Config
from safe.errors import DataError, ModelError
from safe.evaluation.answers import schema
from safe.shards.clips import ClipReader
from safe.taxonomy import BASIC


def test_import_alone_loads_no_torch_and_knows_its_names() -> None:
    code = (
        "import sys, safe\n"
        "assert not {'torch', 'numpy', 'pipeline'} & sys.modules.keys(), 'heavy'\n"
        "assert set(safe.__all__) <= set(dir(safe)) and safe.__version__\n"
        "assert not hasattr(safe, 'none')\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_video_and_a_model_become_rows(model: Path, config: Config, tmp_path: Path) -> None:
    video = write_video(tmp_path / "one.mp4", drawn_person(1)[:30])
    loaded = safe.load_model(model, device="cpu")
    rows = safe.predict(str(video), loaded, workers=1)
    assert [list(row) for row in rows] == [schema(BASIC).names]
    assert safe.predict(video, str(model), workers=1, device="cpu") == rows
    with pytest.raises(DataError, match=r"none\.mp4: no such file"):
        safe.predict("none.mp4", loaded)
    with pytest.raises(ModelError, match="no model there"):
        safe.load_model(tmp_path)


def test_a_model_judges_the_faces_of_a_shard(model: Path, project: Path) -> None:
    folder = safe.open_shards(str(project / "data" / "synthetic" / "shards"))
    rows = np.arange(3)
    faces = np.zeros((3, folder.frames, folder.face_size, folder.face_size, 3), np.uint8)
    reader = ClipReader(folder)
    reader.read(rows, faces)
    reader.close()
    loaded = safe.load_model(model, device="cpu")
    assert loaded.classes == folder.classes
    for verdict in loaded.judge(faces):
        assert sum(verdict.probabilities) == pytest.approx(1, abs=1e-5)
    with pytest.raises(DataError):
        safe.open_shards(project)
