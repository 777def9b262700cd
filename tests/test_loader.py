"""Batches hold exactly the clips of the plan, in its order, for any number of workers."""

import json
import shutil

import numpy as np
import pytest
import torch

from safe.errors import DataError
from safe.loader import load_batches
from safe.plan import TrainPlan, in_order
from safe.sample import decode_strip, encode_strip
from safe.shards import open_shards


def test_every_clip_equals_its_jpeg_in_the_tar(shards):
    wds = pytest.importorskip("webdataset")
    folder = open_shards(shards)
    rows = np.arange(len(folder.clip))
    batches = list(load_batches(folder, in_order(rows, 16), workers=0))
    faces = torch.cat([batch["faces"] for batch in batches])
    urls = [str(shards / name) for name in folder.files]
    stock = {s["__key__"]: s for s in wds.WebDataset(urls, shardshuffle=False)}
    assert len(stock) == len(rows)
    for row in rows:
        sample = stock[folder.clip[row]]
        assert np.array_equal(faces[row].numpy(), decode_strip(sample["jpg"], folder.face_size))
        assert int(sample["cls"]) == folder.label[row]
        assert json.loads(sample["json"])["clip"] == folder.clip[row]


def test_the_order_does_not_depend_on_the_workers(shards):
    folder = open_shards(shards)
    rows, _ = folder.split(1)

    def read(workers: int) -> tuple[torch.Tensor, torch.Tensor]:
        plan = TrainPlan(rows, folder.shard, batch=8, epochs=2, seed=5, start=3)
        batches = list(load_batches(folder, plan, workers=workers))
        return torch.cat([b["row"] for b in batches]), torch.cat([b["faces"] for b in batches])

    alone = read(0)
    for workers in (1, 2):
        assert all(torch.equal(a, b) for a, b in zip(alone, read(workers), strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_clip_is_one_line_that_names_it(shards, tmp_path, workers):
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    folder = open_shards(copy)
    path = copy / folder.files[folder.shard[4]]
    data = bytearray(path.read_bytes())
    data[folder.offset[4] : folder.offset[4] + 20] = bytes(20)
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"clip {folder.clip[4]}") as caught:
        list(load_batches(folder, in_order(np.arange(8), 4), workers=workers))
    assert "\n" not in str(caught.value)


def test_a_shard_that_is_missing_or_cut_is_named_when_the_folder_is_opened(shards, tmp_path):
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    path = next(copy.glob("*.tar"))
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(DataError, match=rf"{path.name}: missing or not of \d+ bytes"):
        open_shards(copy)
    path.unlink()
    with pytest.raises(DataError, match=path.name):
        open_shards(copy)
    (copy / "index.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        open_shards(copy)
    with pytest.raises(DataError, match="`safe-cli shard` makes it"):
        open_shards(tmp_path / "none")


def test_folds_are_disjoint_and_test_on_every_clip_once(shards):
    folder = open_shards(shards)
    tests = []
    for fold in range(1, 6):
        train, test = folder.split(fold)
        assert not set(train) & set(test)
        assert len(train) + len(test) == len(folder.clip)
        tests.append(test)
    assert np.array_equal(np.sort(np.concatenate(tests)), np.arange(len(folder.clip)))
    with pytest.raises(DataError, match="no bucket for fold 6"):
        folder.split(6)


def test_a_strip_of_another_size_is_refused_from_its_header():
    strip = encode_strip(np.zeros((16, 32, 32, 3), np.uint8), 90, "420")
    assert decode_strip(strip, 32).shape == (16, 32, 32, 3)
    with pytest.raises(DataError, match="strip of 32 x 512 pixels, expected 48 x 768"):
        decode_strip(strip, 48)
    with pytest.raises(DataError, match="not a readable JPEG"):
        decode_strip(b"no jpeg", 32)
