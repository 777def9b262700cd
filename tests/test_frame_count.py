"""The number of frames of a clip, from the parameter to the model: 8, 16 and 32 of them."""

from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from support import ROOT, small_config

from pipeline.face.preprocessing import preprocessing
from pipeline.faces import find_faces
from pipeline.index import build_index
from pipeline.pool.pool import Pool
from pipeline.shard import write_shards
from safe.config import Config
from safe.errors import ConfigError, ModelError
from safe.evaluation.evaluate import check_fit, evaluate
from safe.info import read_info
from safe.models.registry import SYSTEMS, build_model
from safe.shards.folder import open_shards
from safe.shards.loader import load_batches
from safe.training.loop import Trainer
from safe.training.train import train

COUNTS = (8, 16, 32)
SHORT = ("train.epochs=1", "train.batch=4", "train.select=last", "runtime.workers=0")


def prepare(folder: Path, project: Path, count: int) -> tuple[Config, Path]:
    """Shards of so many frames from the first of the project's clips, and what made them."""
    config = small_config(project, f"shard.frames={count}", *SHORT)
    root, out = Path(config.data.root), folder / str(count)
    tables = (out / "manifest.parquet", root, out / "faces.parquet")
    build_index(config.data, out / "all.parquet")
    pq.write_table(pq.read_table(out / "all.parquet").slice(0, 14), tables[0])
    find_faces(*tables, settings=config.faces, frames=count, pool=Pool(workers=2, deadline=60))
    write_shards(
        *(tables[0], tables[2], root, out / "shards"),
        settings=config.shard,
        faces_settings=config.faces,
        pool=Pool(workers=2, deadline=60),
    )
    return config, out / "shards"


@pytest.fixture(scope="module")
def made(tmp_path_factory, project) -> dict[int, tuple[Config, Path]]:
    folder = tmp_path_factory.mktemp("frames")
    sixteen = (small_config(project, *SHORT), project / "data" / "synthetic" / "shards")
    return {16: sixteen} | {count: prepare(folder, project, count) for count in (8, 32)}


def test_shards_say_how_many_and_hold_as_many(made) -> None:
    ids = set()
    for count, (_, root) in made.items():
        folder = open_shards(root)
        assert folder.frames == count
        plan = Trainer(made[count][0], folder, 1).plan(0)
        (batch,) = islice(load_batches(folder, plan, workers=0), 1)
        assert batch["faces"].shape[:2] == (4, count)
        ids.add(folder.preprocessing_id)
    assert len(ids) == len(COUNTS)


@pytest.mark.parametrize("source", ["video", "frames", "strips"])
def test_the_number_is_in_the_preprocessing_id_by_its_value(source) -> None:
    found = []
    for count in COUNTS:
        config = small_config(ROOT, f"shard.frames={count}")
        found.append(preprocessing(source, faces=config.faces, shard=config.shard))
        assert found[-1]["made_from"]["frames"] == count
    assert len({each["id"] for each in found}) == len(COUNTS)


@pytest.mark.parametrize("name", ["safe", *sorted(SYSTEMS.keys() - {"c3d"})])
@pytest.mark.parametrize("count", [8, 32])  # 16 is what all other tests train with
def test_every_model_trains_a_step(made, name, count) -> None:
    config, root = made[count]
    words = (f"shard.frames={count}", f"model.name={name}", "augment.crop=16", *SHORT)
    config = small_config(Path(config.data.root).parents[2], *words)
    trainer = Trainer(config, open_shards(root), 1)
    (batch,) = islice(load_batches(trainer.folder, trainer.plan(0), workers=0), 1)
    trainer.train_step(batch)
    assert trainer.step == 1
    assert trainer.tally["parts"].isfinite().all()


def test_c3d_refuses_eight_frames_and_takes_32(made, tmp_path) -> None:
    folder = Path(made[8][0].data.root).parents[2]
    config = small_config(folder, "shard.frames=8", "model.name=c3d", *SHORT)
    with pytest.raises(ConfigError, match="needs clips of at least 16 frames, not 8, in"):
        train(config, fold=1, commit="", shards=made[8][1], out=tmp_path, checkpoints=tmp_path)
    with torch.device("meta"):  # shapes alone: a step of 78 million parameters takes seconds
        network = build_model(7, frames=32, **config.model.model_dump())
        assert network(torch.empty(2, 3, 32, 16, 16)).logits.shape == (2, 7)


def test_a_model_knows_its_number_and_refuses_the_shards_of_another(made, tmp_path) -> None:
    config, root = made[8]
    places = {"shards": root, "checkpoints": tmp_path / "state"}
    assert train(config, fold=1, commit="none", out=tmp_path / "model", **places)
    info = read_info(tmp_path / "model" / "model.json")
    assert info["frames"] == 8
    settings = {"fold": 1, "settings": config.eval, "runtime": config.runtime}
    found = evaluate(tmp_path / "model", shards=root, out=tmp_path / "eval", **settings)
    assert found["n_test"] > 0
    with pytest.raises(ModelError, match=r"trained on clips of 8 frames, but .* has 16"):
        check_fit(info, open_shards(made[16][1]), 1, tmp_path / "model")


def test_a_window_longer_than_the_clips_is_one_line(made, tmp_path) -> None:
    config, root = made[8]
    folder = Path(config.data.root).parents[2]
    told = r"model\.window: 12 is longer than the clip; at most shard\.frames, 8"
    with pytest.raises(ConfigError, match=told):
        small_config(folder, "shard.frames=8", "model.window=12", *SHORT)
    config = small_config(folder, "model.window=12", *SHORT)
    with pytest.raises(ConfigError, match=r"model.window = 12: must be at most 8, the frames of a"):
        train(config, fold=1, commit="none", shards=root, out=tmp_path, checkpoints=tmp_path)
