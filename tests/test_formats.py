"""What an earlier version saved is read, or refused with the line that says what to run.

tests/formats/version-0.1.tar.gz was made by commit f8a0bb7: model-2, a model whose weights follow a
pattern, with what it said of three clips (logits.json); shards-2, shards of these clips.
"""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from safe.errors import DataError
from safe.evaluation.calibration import Calibration
from safe.saved import load_model, save_calibrated
from safe.shards.folder import open_shards
from safe.taxonomy import BASIC
from safe.training.transforms import center_crop, normalize

STORED = Path(__file__).with_name("formats") / "version-0.1.tar.gz"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    with tarfile.open(STORED) as tar:
        tar.extractall(folder, filter="data")
    return folder


def clips() -> torch.Tensor:
    """The three clips that commit f8a0bb7 asked its model about: uint8 [3, 16, 16, 16, 3]."""
    t, y, x = np.mgrid[0:16, 0:16, 0:16]
    each = [
        np.stack([16 * x + 9 * t * k, 16 * y + 5 * k, 8 * (x + y) + 3 * t], -1) for k in (1, 2, 3)
    ]
    return torch.from_numpy((np.stack(each) % 256).astype(np.uint8))


def logits(folder: Path) -> np.ndarray:
    model, _ = load_model(folder)
    with torch.inference_mode():
        found: np.ndarray = model(normalize(center_crop(clips(), 16))).logits.numpy()
    return found


def test_a_model_of_version_0_1_gives_the_same_logits(stored: Path, tmp_path: Path) -> None:
    expected = json.loads((stored / "model-2" / "logits.json").read_text())
    np.testing.assert_allclose(logits(stored / "model-2"), expected, atol=1e-4)
    _, info = load_model(stored / "model-2")
    assert (tuple(info["classes"]), info["frames"]) == (BASIC, 16)
    assert Calibration.from_info(info).scale == (0.5,) * 7
    save_calibrated(tmp_path / "again", stored / "model-2", Calibration())
    np.testing.assert_allclose(logits(tmp_path / "again"), expected, atol=1e-4)


def test_shards_of_version_0_1_are_refused_with_what_to_run(stored: Path) -> None:
    with pytest.raises(
        DataError, match=r"index\.json: shard format 2, .* reads 3; .*safe-cli shard"
    ):
        open_shards(stored / "shards-2")
