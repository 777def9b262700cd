"""Batches hold exactly the clips of the plan, in its order, for any number of workers."""

import json
import multiprocessing
import shutil
import zlib
from contextlib import suppress
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg
import torch

from safe.errors import DataError, MachineError
from safe.sample import decode_strip, encode_strip
from safe.shards.folder import ShardFolder, open_shards
from safe.shards.loader import Batch, load_batches
from safe.shards.order import in_order
from safe.shards.verify import verify

ROW = ("clip", "label", "bucket", "shard", "offset", "bytes", "crc32")


def read_all(*args, **options) -> list[Batch]:
    """All batches, each copied before the next is asked for."""
    return [{**batch, "faces": batch["faces"].clone()} for batch in load_batches(*args, **options)]


def test_every_clip_equals_its_jpeg_in_the_tar(shards):
    wds = pytest.importorskip("webdataset")
    folder = open_shards(shards)
    rows = np.arange(len(folder.clip))
    batches = read_all(folder, in_order(rows, 16), workers=0)
    faces = torch.cat([batch["faces"] for batch in batches])
    urls = [str(shards / name) for name in folder.files]
    stock = {s["__key__"]: s for s in wds.WebDataset(urls, shardshuffle=False)}
    assert len(stock) == len(rows)
    for row in rows:
        sample = stock[folder.clip[row]]
        assert np.array_equal(faces[row].numpy(), decode_strip(sample["jpg"], folder.face_size))
        assert int(sample["cls"]) == folder.label[row]
        assert json.loads(sample["json"])["clip"] == folder.clip[row]


@pytest.fixture
def copy(shards, tmp_path):
    """Return a copy of the shards that may be changed."""
    shutil.copytree(shards, tmp_path / "shards")
    return tmp_path / "shards"


def problem(folder: ShardFolder, workers: int) -> str:
    """Return what the loader says of the first clips; all of it is one line."""
    with pytest.raises(DataError) as caught:
        list(load_batches(folder, in_order(np.arange(8), 4), workers=workers))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_clip_that_is_altered_after_the_check_is_one_line_that_names_it(copy, workers):
    folder = open_shards(copy)
    verify(folder, seen=None)
    path = copy / folder.files[folder.shard[4]]
    data, place = path.read_bytes(), int(folder.offset[4])
    end = place + int(folder.size[4])
    for spot in range(end - 40, end - 400, -1):  # a bit of the pixels: it can be decoded still
        altered = bytearray(data)
        altered[spot] ^= 1
        with suppress(DataError):
            assert decode_strip(bytes(altered[place:end]), folder.face_size).any()
            break
    else:
        pytest.fail("no bit can be changed without breaking the JPEG")
    path.write_bytes(altered)
    found = problem(folder, workers)
    assert found.startswith(f"{path}: clip {folder.clip[4]}: altered, its checksum is not that of")
    path.write_bytes(data[:place] + bytes(20) + data[place + 20 :])
    assert f"clip {folder.clip[4]}: altered" in problem(folder, workers)


def test_an_alteration_in_the_middle_of_a_run_is_found_within_four_readings(copy):
    folder = open_shards(copy)
    path, last = copy / folder.files[folder.shard[4]], int(folder.offset[4] + folder.size[4]) - 40
    batches = load_batches(folder, in_order(np.full(40, 4), 1), workers=0)
    for _ in range(2):
        next(batches)
    with path.open("r+b") as file:
        file.seek(last)
        byte = file.read(1)[0]
        file.seek(last)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(DataError, match=f"clip {folder.clip[4]}: altered"):
        list(islice(batches, 4))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_jpeg_that_cannot_be_decoded_though_its_checksum_fits_is_named(copy, workers):
    folder = open_shards(copy)
    path = copy / folder.files[folder.shard[4]]
    data, place = bytearray(path.read_bytes()), int(folder.offset[4])
    data[place : place + 20] = bytes(20)
    path.write_bytes(data)
    folder.crc32[4] = zlib.crc32(data[place : place + int(folder.size[4])])
    assert f"{path}: clip {folder.clip[4]}: not a readable JPEG" in problem(folder, workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_is_cut_or_vanishes_under_the_reader_is_one_line(copy, workers):
    folder = open_shards(copy)
    path = copy / folder.files[folder.shard[0]]
    batches = load_batches(folder, in_order(np.zeros(40, np.int64), 4), workers=workers)
    next(batches)  # the shard is open now
    with path.open("r+b") as file:
        file.truncate(int(folder.offset[0]) + 100)
    with pytest.raises(DataError, match=f"{path}: clip {folder.clip[0]}: the shard ends too early"):
        list(batches)
    path.unlink()
    assert problem(folder, workers) == f"{path}: cannot be opened (No such file or directory)"


@pytest.mark.parametrize("count", [0, 1, 5])
def test_fewer_batches_than_buffers(shards, count):
    folder = open_shards(shards)
    for workers in (0, 2):
        batches = read_all(folder, in_order(np.arange(count), 2), workers=workers)
        assert [len(batch["row"]) for batch in batches] == [2] * (count // 2) + [1] * (count % 2)
        assert [int(row) for batch in batches for row in batch["row"]] == list(range(count))


def test_a_killed_worker_is_one_line_and_no_process_stays(shards):
    folder = open_shards(shards)
    batches = load_batches(folder, in_order(np.arange(64), 4), workers=2)
    next(batches)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    workers[0].kill()
    with pytest.raises(MachineError, match="killed") as caught:
        list(batches)
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()


def test_a_consumer_that_stops_early_leaves_no_process(shards):
    batches = load_batches(open_shards(shards), in_order(np.arange(64), 4), workers=2)
    next(batches)
    batches.close()
    assert not multiprocessing.active_children()


def test_a_shard_that_is_missing_or_cut_is_named_when_the_folder_is_opened(copy, tmp_path):
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


def test_the_folder_holds_what_its_two_files_say(shards):
    folder = open_shards(shards)
    table = pq.read_table(shards / "clips.parquet").to_pylist()
    columns = zip(
        folder.clip,
        folder.label,
        folder.bucket,
        folder.shard,
        folder.offset,
        folder.size,
        folder.crc32,
        strict=True,
    )
    for row, (clip, label, bucket, shard, offset, size, crc32) in zip(table, columns, strict=True):
        found = (clip, label, bucket, folder.files[shard], offset, size, crc32)
        assert found == tuple(row[name] for name in ROW)
    written = json.loads((shards / "index.json").read_text())
    assert [entry["sha256"] for entry in folder.index["shards"]] == [
        entry["sha256"] for entry in written["shards"]
    ]
    assert {**folder.index, "shards": written["shards"]} == written


def test_another_table_is_refused_and_arrow_left_as_it_was(copy):
    pool = pa.default_memory_pool().backend_name
    rows = pq.read_table(copy / "clips.parquet").to_pylist()
    rows[3]["shard"] = "fold9-000000.tar"
    pq.write_table(pa.Table.from_pylist(rows), copy / "clips.parquet")
    with pytest.raises(DataError, match=r"clips.parquet: altered, its checksum"):
        open_shards(copy)
    assert pa.default_memory_pool().backend_name == pool


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


def progressive(scans: int) -> bytes:
    """Return a strip of 16 faces of 32 pixels whose last scan is there again and again."""
    image = np.random.default_rng(0).integers(0, 256, (512, 32, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    last = jpeg.rindex(b"\xff\xda")
    more = scans - jpeg.count(b"\xff\xda")
    return jpeg[:-2] + jpeg[last:-2] * more + b"\xff\xd9"


@pytest.mark.parametrize("scans", [101, 1000, 100_000])
def test_a_strip_of_too_many_scans_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch, scans: int
) -> None:
    monkeypatch.setattr(simplejpeg, "decode_jpeg", None)
    with pytest.raises(DataError, match="scans"):
        decode_strip(progressive(scans), 32)


def test_scans_that_encoders_make_are_decoded_and_those_of_a_preview_do_not_count() -> None:
    plain = progressive(0)
    assert 5 < plain.count(b"\xff\xda") < 20
    preview = b"\xff\xe1\x40\x02" + b"\xff\xda\xff\xd9" * 0x1000  # a segment of 0x4000 bytes
    for jpeg in (plain[:2] + preview + plain[2:], plain + b"\xff\xda" * 200):
        assert np.array_equal(decode_strip(jpeg, 32), decode_strip(plain, 32))


def test_the_strip_of_many_scans_of_an_enemy_is_refused(shared: Path) -> None:
    with pytest.raises(DataError, match="scans"):
        decode_strip((shared / "cases/attacks/jpeg-scans/48px.jpg").read_bytes(), 48)
