"""What the documents say is learnt of DFEW and FERV39k is what the code learns of their lists."""

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from support import ROOT

from pipeline.index import build_index
from pipeline.manifest import read_manifest
from safe.config import Data, Train
from safe.params import load_config
from safe.shards.folder import ShardFolder
from safe.shards.order import TrainPlan
from safe.shards.source import LocalShards
from safe.training.split import choose_rows
from tools.benchmarks.scale_model import WORKS

REAL = {
    "dfew": ("EmoLabel_DataSplit", "Clip/original/1.mp4"),
    "ferv39k": ("4_setups", "0_7_LabelClips/Action/Happy/0267.mp4"),
}
"""The folder of lists, and a clip: one file is enough for an index of all."""


class Learnt(NamedTuple):
    """What a fold comes to."""

    clips: int
    apart: int
    steps: int


def tutorial(name: str) -> str:
    return (ROOT / "docs" / f"tutorial-{name}.md").read_text(encoding="utf-8")


def train_of(name: str) -> Train:
    """The section train of a reader of a tutorial."""
    block = re.search(r"^```yaml\n(.*?)^```$", tutorial(name), re.MULTILINE | re.DOTALL)
    assert block is not None
    told = yaml.safe_load(block[1])["train"]
    return load_config(ROOT / "params.yaml", [f"train.{key}={told[key]}" for key in told]).train


@pytest.fixture(scope="module", params=REAL)
def dataset(
    request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, ShardFolder]:
    """A released dataset as its shards would list it: its official lists, indexed."""
    name, root = request.param, tmp_path_factory.mktemp(request.param)
    splits, clip = REAL[name]
    (root / splits).symlink_to(shared / "data/official_splits" / name / splits)
    (root / clip).parent.mkdir(parents=True)
    (root / clip).touch()
    data = Data(name=name, root=str(root), splits=splits, source="video", folds=[1])
    build_index(data, root / "manifest.parquet")
    rows = read_manifest(root / "manifest.parquet")
    clips, label, bucket = (np.array(rows[key].to_pylist()) for key in ("clip", "label", "bucket"))
    none = np.zeros(len(clips), np.int64)
    folder = ShardFolder(
        LocalShards(root), {}, clips, label, bucket,
        none, none, none, none.astype(np.uint32), np.array(["a"]),
    )  # fmt: skip
    return name, folder


def learn(folder: ShardFolder, train: Train, fold: int = 1) -> Learnt:
    rows, apart = choose_rows(folder, fold, settings=train, seed=0)
    plan = TrainPlan(rows, folder.shard, batch=train.batch, epochs=1, seed=0)
    chosen_there = train.select == "val" and apart is not None
    return Learnt(len(rows), len(apart) if chosen_there else 0, plan.steps)


def test_the_tutorial_says_how_many_clips_are_learnt_in_how_many_steps(dataset) -> None:
    name, folder = dataset
    train = train_of(name)
    assert (train.select, train.val_from) == ("val", "clips")
    found = learn(folder, train)
    page = " ".join(tutorial(name).split())
    if name == "dfew":
        table = re.findall(r"\| `(\w+)` \| (?:`(\w+)`)? ?\| ([\d,]+) \| ([\d,]+) \| (\d+) \|", page)
        told = {row[:2]: Learnt(*(int(cell.replace(",", "")) for cell in row[2:])) for row in table}
        assert told.keys() == {("val", "clips"), ("val", "fold"), ("last", ""), ("test", "")}
        for (select, val_from), numbers in told.items():
            other = {"select": select, "val_from": val_from or train.val_from}
            assert learn(folder, train.model_copy(update=other)) == numbers
        assert told["val", "clips"] == found
        assert f"has {found.steps} steps, of {train.batch} of its {found.clips:,} clips" in page
    else:
        assert f"{found.clips:,} are learnt, {found.steps} steps of {train.batch} an epoch" in page
        assert f"{found.apart:,} choose the epoch" in page
    (rate,) = {int(n) for n in re.findall(r"(\d+) clips a second(?: from drawn|, what an)", page)}
    assert f"{found.clips / rate:.0f} s an epoch" in page or (
        f"an epoch takes {found.clips / rate:.0f} s" in page
    )


def test_the_costs_of_whole_datasets_are_those_of_the_same_clips(dataset) -> None:
    name, folder = dataset
    (work,) = (work for work in WORKS if work.name.lower() == name)
    folds = range(1, work.folds + 1)
    learnt = [learn(folder, train_of(name), fold).clips for fold in folds]
    assert (work.clips, work.trained) == (len(folder.clip), round(np.mean(learnt)))
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert f"{work.epochs} epochs of {work.trained:,} clips" in page


def test_every_command_for_them_has_the_protocol_of_the_tutorial() -> None:
    found = 0
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"^ *dvc exp run .*name:(?:dfew|ferv39k).*$", text, re.MULTILINE):
            words = shlex.split(line)
            sets = [after for word, after in pairwise(words) if word == "-S"]
            sets = [word for word in sets if not word.startswith("data.folds=[1],[2]")]  # a sweep
            train = load_config(ROOT / "params.yaml", sets).train
            assert (train.select, train.val_from) == ("val", "clips"), line
            found += 1
    assert found >= 5
