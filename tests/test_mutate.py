"""Mutants: the same for the same numbers, of every kind, and fit to reach the code behind."""

import io
import json
import random
import tarfile
from collections import Counter

import pytest

from pipeline.tars import TarWriter
from tools.faults.mutate import CHANGES, mutate, mutate_json, replace_file, tar_field

DATA = random.Random(1).randbytes(3000)
DOCUMENT = {"format": 1, "shards": [{"file": "a.tar", "bytes": 10}, {"file": "b.tar", "bytes": 20}]}


def test_a_mutant_is_a_function_of_seed_number_and_bytes_and_never_the_original():
    again = [mutate(DATA, seed=3, number=number) for number in range(300)]
    assert again == [mutate(DATA, seed=3, number=number) for number in range(300)]
    assert all(mutant.data != DATA for mutant in again)
    assert len({mutant.data for mutant in again}) > 290  # nearly all are different ones
    assert again != [mutate(DATA, seed=4, number=number) for number in range(300)]
    assert max(len(mutant.data) for mutant in again) < 20 * len(DATA)


def test_every_change_happens_on_its_own():
    alone = Counter(mutate(DATA, seed=0, number=number).what for number in range(600))
    possible = CHANGES.keys() - {"sizes"}  # random bytes have no sizes to change
    assert possible <= alone.keys()


@pytest.mark.parametrize(
    ("data", "place", "width"),
    [
        (b"\0\0\0\x10moov" + bytes(100), 0, 4),  # a box's size is before its name
        (b"RIFF\x50\0\0\0AVI " + bytes(100), 4, 4),
        (bytes([80, 0, 0, 0, 0, 0, 0, 0]) + b'{"a":1}' + bytes(100), 0, 8),  # safetensors
        (b"\xff\xd8" + bytes(8) + b"\xff\xc0\0\x11\x08\0\x10\0\x10" + bytes(99), 15, 4),
        ((b"G@\x11\x10" + bytes(184)) * 9, 194, 2),  # the length of a table
        (bytes(4) + (b"G@\x11\x10" + bytes(188)) * 9, 198, 2),
        (b"\0\0\1\xba" + bytes(10) + b"\0\0\1\xe0\0\x20" + bytes(99), 18, 2),
        (b"FLV\1\5\0\0\0\x09\0\0\0\0\x09\0\0\x20" + bytes(99), 14, 3),
        (b"\x1a\x45\xdf\xa3\x9f" + bytes(8) + b"\x1f\x43\xb6\x75\x88" + bytes(99), 17, 1),
    ],
)
def test_sizes_meet_the_number_that_a_container_keeps(data, place, width):
    found = set()
    for seed in range(200):
        changed = CHANGES["sizes"](data, random.Random(seed), b"")
        assert len(changed) == len(data)
        found.add(changed[place : place + width])
    assert len(found) > 2


def test_a_changed_tar_header_has_a_sum_that_fits(tmp_path):
    tar = TarWriter(tmp_path / "a.tar")
    for name in ("c00.jpg", "c00.cls"):
        tar.add(name, b"1234")
    tar.close()
    data = (tmp_path / "a.tar").read_bytes()
    sound = [data[at : at + 512] for at in (0, 1024)]
    changed = 0
    for seed in range(100):
        mutant = tar_field(data, random.Random(seed))
        for at in (0, 1024):
            header = mutant[at : at + 512]
            summed = sum(header[:148]) + 8 * ord(" ") + sum(header[156:])
            assert int(header[148:156].split(b"\0")[0], 8) == summed
            changed += header not in sound
    assert changed > 80
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:  # the original was one
        assert archive.getnames() == ["c00.jpg", "c00.cls"]


def test_a_mutated_document_is_the_same_again_and_mostly_still_json():
    texts = [mutate_json(DOCUMENT, seed=0, number=number)[0] for number in range(300)]
    assert texts == [mutate_json(DOCUMENT, seed=0, number=number)[0] for number in range(300)]
    assert DOCUMENT["shards"][1] == {"file": "b.tar", "bytes": 20}  # the original stays as it was
    other = deep = 0
    for text in texts:
        try:
            other += json.loads(text) != DOCUMENT
        except RecursionError:
            deep += 1
    assert other > 250
    assert 0 < deep < 30


def test_what_takes_a_files_place_is_no_file_with_its_content(tmp_path):
    seen = set()
    for seed in range(60):
        path = tmp_path / str(seed)
        path.write_bytes(DATA)
        seen.add(replace_file(path, random.Random(seed)))
        regular = path.is_file() and not path.is_symlink()
        assert not regular or path.stat().st_size == 0
    assert len(seen) == 7
