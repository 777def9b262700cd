"""Shards that were altered, or made by an enemy who made the checksums fit, are found and named."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import ROOT, SMALL, call, small_config

from pipeline.tars import SCHEMA, ShardWriter, write_index
from safe.errors import DataError
from safe.sample import decode_strip, encode_strip
from safe.shards.folder import open_shards
from safe.shards.verify import verify
from safe.taxonomy import BASIC
from safe.training.train import train

SIDE = 16
TAR = "fold1-000000.tar"
Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a shard folder of its own: two tars of two clips, a third of one."""
    out, generator = tmp_path / "shards", np.random.default_rng(0)
    out.mkdir()
    writer = ShardWriter(out, clips=2, classes=BASIC)
    for number in range(5):
        noise = generator.integers(0, 256, (16, SIDE, SIDE, 3), np.uint8)
        writer.add(
            f"{number:05d}",
            bucket="fold1" if number < 2 else "fold2",
            label=number,
            strip=encode_strip(noise, 90, "420"),
            record={"flags": ""},
        )
    writer.close()
    left_out = [{"clip": "00009", "bucket": "fold1", "reason": "empty file"}]
    made = {"id": "0123456789abcdef", "made_from": {"size": SIDE, "source": "video"}}
    write_index(
        out, shards=writer.shards, left_out=left_out, made=made, classes=BASIC, rows=writer.rows
    )
    return out


def check(folder: Path, seen: Path | None = None) -> None:
    verify(open_shards(folder), seen=seen)


def refused(folder: Path, match: str) -> None:
    """The folder is refused before training, in one line that says what to do."""
    with pytest.raises(DataError, match=match) as caught:
        check(folder)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(folder))
    assert text.endswith(("make the shards again", "`safe-cli shard` again"))
    assert len(text) < 600 + len(str(folder))


def problem(folder: Path) -> str:
    """Return what is said of a folder, nothing if it is good."""
    try:
        check(folder)
    except DataError as error:
        return str(error)
    return ""


def change_index(folder: Path, change: Change) -> None:
    path = folder / "index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


def fit(folder: Path, data: bytes) -> None:
    """Put other bytes into the place of a tar and make the index fit, as an enemy would."""
    (folder / TAR).write_bytes(data)

    def change(index: dict[str, Any]) -> None:
        entry = next(entry for entry in index["shards"] if entry["file"] == TAR)
        entry |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}

    change_index(folder, change)


def repack(
    folder: Path,
    place: int,
    member: tarfile.TarInfo,
    data: bytes = b"",
    form: int = tarfile.USTAR_FORMAT,
) -> None:
    """Put a member into the tar as the one with number `place`, and make the index fit."""
    member.size = len(data)
    with tarfile.open(folder / TAR) as tar:
        packed = [
            info.tobuf(tarfile.USTAR_FORMAT) + padded(tar.extractfile(info).read()) for info in tar
        ]
    packed.insert(place, member.tobuf(form) + padded(data))
    fit(folder, b"".join(packed) + bytes(1024))


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def foreign(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_what_the_pipeline_writes_is_good(folder, shards):
    check(folder)
    check(shards)


def test_every_altered_byte_is_found(folder):
    data = (folder / TAR).read_bytes()
    for place in range(0, len(data), 149):
        altered = bytearray(data)
        altered[place] ^= 0x10
        (folder / TAR).write_bytes(altered)
        refused(folder, f"{TAR}: damaged or altered")
    (folder / TAR).write_bytes(data)
    check(folder)


def test_an_altered_picture_is_named_by_its_clip(folder):
    data = bytearray((folder / TAR).read_bytes())
    data[int(open_shards(folder).offset[1]) + 300] ^= 1
    (folder / TAR).write_bytes(data)
    refused(folder, rf"{TAR}: .*00001.jpg: its checksum")


@pytest.mark.parametrize("size", [-512, -1024, -2048, 512, 1024])
def test_a_tar_that_is_longer_or_shorter_is_refused_even_where_the_index_fits(folder, size):
    data = (folder / TAR).read_bytes()
    fit(folder, data[:size] if size < 0 else data + bytes(size))
    refused(folder, f"{TAR}: damaged or altered: (ends where|holds something behind)")


FOREIGN = [
    (foreign("model.pth"), "a file 'model.pth'"),
    (foreign("00000.pyd"), "a file '00000.pyd'"),
    (foreign("00000.jpg"), "a file '00000.jpg'"),
    (foreign("../../outside.jpg"), "a file '../../outside.jpg'"),
    (foreign("/tmp/absolute.jpg"), "a file '/tmp/absolute.jpg'"),
    (foreign("d" * 90 + "/" + "n" * 90 + ".jpg"), f"a file '{'d' * 90}/{'n' * 90}.jpg'"),
    (foreign("new\nline\x1b[2J"), r"a file 'new\\nline\\x1b[2J'"),
    (foreign("00000.cls", tarfile.SYMTYPE, "/etc/passwd"), "a symbolic link '00000.cls'"),
    (foreign("00000.json", tarfile.LNKTYPE, "../x"), "a hard link '00000.json'"),
    (foreign("pipe", tarfile.FIFOTYPE), "a pipe 'pipe'"),
    (foreign("folder", tarfile.DIRTYPE), "a folder 'folder"),
    (foreign("device", tarfile.CHRTYPE), "a device 'device'"),
]


# The right member at the right place is no fault: that pair is left out.
@pytest.mark.parametrize(
    ("place", "member", "told"),
    [
        (place, *case)
        for place in (0, 1, 3, 6)  # first, within a clip, between two, last
        for case in FOREIGN
        if (place, case[0].name) != (0, "00000.jpg")
    ],
    ids=lambda value: value.name[:12].strip() if isinstance(value, tarfile.TarInfo) else None,
)
def test_a_foreign_member_is_named_though_all_checksums_fit(folder, place, member, told):
    repack(folder, place, member)
    refused(folder, f"{TAR}: .*holds {told.replace('[', chr(92) + '[')}.* where")


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_headers_that_rename_the_next_member_are_refused(folder, form):
    repack(folder, 6, foreign("n" * 300), b"", form)
    refused(folder, r"holds a (pax header|GNU long name) '.*' where its end belongs")


def test_a_header_of_another_mode_or_time_is_refused(folder):
    data = bytearray((folder / TAR).read_bytes())
    info = tarfile.TarInfo("00000.cls")
    info.size, info.mtime = 1, 5
    start = data.index(b"00000.cls")
    data[start : start + 512] = info.tobuf(tarfile.USTAR_FORMAT)
    fit(folder, bytes(data))
    refused(folder, "the header of 00000.cls is not as it was written")


def test_a_header_that_claims_a_terabyte_takes_no_memory(folder):
    header = tarfile.TarInfo("00000.json")
    header.size = 8**11 - 1
    data = bytearray((folder / TAR).read_bytes())
    start = data.index(b"00000.json")
    data[start : start + 512] = header.tobuf(tarfile.USTAR_FORMAT)
    fit(folder, bytes(data))
    refused(folder, r"00000.json has 8589934591 bytes, at most 1048576 are right")


class Payload:
    """What makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["00000.pyd", "00000.pkl", "payload.pth", "00000.json"])
def test_a_pickle_is_refused_and_never_unpickled(folder, tmp_path, project, name):
    made = tmp_path / "made by the payload"
    payload = pickle.dumps(Payload(made))
    repack(folder, 2, foreign(name), payload)
    with pytest.raises(DataError, match=TAR):
        train_on(project, folder, tmp_path)
    assert not made.exists()
    pickle.loads(payload)  # or the test would show nothing
    assert made.exists()


def train_on(project: Path, folder: Path, scratch: Path) -> None:
    train(
        small_config(project, "augment.crop=16", "train.batch=2"),
        shards=folder,
        fold=1,
        out=scratch / "model",
        checkpoints=scratch / "checkpoints",
        commit="none",
    )
    raise AssertionError("it was trained")


def test_the_label_in_the_tar_is_that_of_the_table(folder):
    data = (folder / TAR).read_bytes()
    start = data.index(b"00001.cls") + 512
    fit(folder, data[:start] + b"5" + data[start + 1 :])
    refused(folder, "00001.cls is not the label of clips.parquet")


def test_a_tar_that_was_good_is_read_again_only_after_a_change(folder, tmp_path):
    seen, path = tmp_path / ".safe" / "seen.json", folder / TAR
    check(folder, seen)
    data, about = path.read_bytes(), path.stat()
    path.write_bytes(data[:-1] + b"x")
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))  # as an enemy would
    assert path.stat().st_mtime_ns == about.st_mtime_ns
    with pytest.raises(DataError, match=TAR):
        check(folder, seen)
    marks = json.loads(seen.read_text())
    assert set(marks) == {str(path.resolve()) for path in folder.glob("*.tar")}
    about, mark = path.stat(), marks[str(path)]
    mark[:4] = [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]
    seen.write_text(json.dumps(marks))
    check(folder, seen)  # a lie in the memory is believed: so what it holds good is not read
    for place in range(len(mark)):
        other = [*mark[:place], 1 if place < 4 else "0" * 64, *mark[place + 1 :]]
        seen.write_text(json.dumps(marks | {str(path): other}))
        with pytest.raises(DataError, match=TAR):
            check(folder, seen)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 10**5, '{"a": 1}', "\0"])
def test_a_damaged_memory_only_means_reading_again(folder, tmp_path, text):
    seen = tmp_path / "seen.json"
    seen.write_text(text)
    check(folder, seen)
    assert len(json.loads(seen.read_text())) == 3
    check(folder, folder / TAR / "no folder")


def put(*keys: str | int, value: Any) -> Change:
    def change(index: dict[str, Any]) -> None:
        inner: Any = index
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("keys", "value", "told"),
    [
        (("format",), 1, r"shard format 1, this version reads 3"),
        (("format",), "2", "format"),
        (("format",), None, "format"),
        (("surprise",), 1, "surprise"),
        (("shards",), {}, "shards"),
        (("shards",), [], "shards"),
        (("shards", 0), 5, "shards.0"),
        (("shards", 0, "file"), "pipe:cat /etc/passwd", "shards.0.file"),
        (("shards", 0, "file"), "../fold1-000000.tar", "shards.0.file"),
        (("shards", 0, "file"), "/tmp/fold1-000000.tar", "shards.0.file"),
        (("shards", 0, "file"), "fold1-000000.tar\n", "shards.0.file"),
        (("shards", 0, "file"), "fold1-00000.tar", "shards.0.file"),
        (("shards", 0, "file"), "fold2-000000.tar", "not of bucket fold1"),
        (("shards", 0, "bucket"), "fold3", "not of bucket fold3"),
        (("shards", 0, "bucket"), "a/b", "shards.0.bucket"),
        (("shards", 0, "sha256"), "0" * 63, "shards.0.sha256"),
        (("shards", 0, "sha256"), "0" * 64, "its checksum is not that of index.json"),
        (("shards", 0, "bytes"), -512, "shards.0.bytes"),
        (("shards", 0, "bytes"), 2**62, "shards.0.bytes"),
        (("shards", 0, "bytes"), 2048.0, "shards.0.bytes"),
        (("shards", 0, "bytes"), 10**30, "shards.0.bytes"),
        (("shards", 0, "bytes"), 1 << 30, "missing or not of 1073741824 bytes"),
        (("shards", 0, "clips"), 3, "add up to clips"),
        (("shards", 0, "clips"), True, "shards.0.clips"),
        (("shards", 0, "classes", "happy"), -1, "shards.0.classes.happy"),
        (("shards", 0, "classes", "bored"), 0, "classes must be those of the folder"),
        (("classes",), ["happy"], "there must be 2 to 100"),
        (("classes",), ["happy"] * 7, "two classes have one name"),
        (("classes",), ["a", "../b"], "must be a name"),
        (("classes",), [*BASIC[::-1]], "the clips of"),
        (("classes",), 7, "classes"),
        (("left_out", 0, "clip"), "../x", "left_out.0.clip"),
        (("left_out", 0, "clip"), "00001", "also among those left out"),
        (("left_out", 0, "reason"), 5, "left_out.0.reason"),
        (("left_out", 0), {}, "left_out.0"),
        (("preprocessing",), None, "preprocessing"),
        (("preprocessing", "id"), "../../x", "preprocessing.id"),
        (("preprocessing", "made_from"), {}, "preprocessing.made_from.size"),
        (("preprocessing", "made_from", "size"), 60_000, "preprocessing.made_from.size"),
        (("preprocessing", "made_from", "size"), 17, "preprocessing.made_from.size"),
        (("preprocessing", "made_from", "source"), {"a": 1}, "made_from.source"),
        (("table", "file"), "../clips.parquet", "table.file"),
        (("table", "sha256"), "0" * 64, "its checksum is not that of index.json"),
        (("table", "bytes"), 1, "its checksum is not that of index.json"),
        (("table", "bytes"), 2**40, "table.bytes"),
        (("table",), None, "table"),
    ],
)
def test_every_field_of_the_index_is_checked(folder, keys, value, told):
    change_index(folder, put(*keys, value=value))
    refused(folder, told)


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", "[" * 10**6, '{"format": 3}', '{"format": NaN}', "\0", '"\ud800"'],
)
def test_an_index_that_is_none_is_one_line(folder, text):
    (folder / "index.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(folder, "index.json: damaged or altered")


def test_an_index_of_a_gigabyte_or_a_pipe_is_not_read(folder):
    path = folder / "index.json"
    with path.open("r+b") as file:
        file.truncate(2**30)  # takes no disk
    with pytest.raises(DataError, match=r"index.json: larger than 67,108,864 bytes"):
        open_shards(folder)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match=r"index.json: not a regular file"):
        open_shards(folder)


def test_an_index_without_a_field_or_with_a_tar_twice_is_refused(folder):
    whole = json.loads((folder / "index.json").read_text())
    for key in whole:
        change_index(folder, lambda index, key=key: index.pop(key))
        refused(folder, key)
        (folder / "index.json").write_text(json.dumps(whole))
    change_index(folder, lambda index: index["shards"].append(index["shards"][0]))
    refused(folder, "fold1-000000.tar is there twice")
    (folder / "index.json").write_text(json.dumps(whole))
    change_index(folder, lambda index: index["shards"].pop())
    refused(folder, "5 rows; there must be 4")


def rewrite_table(folder: Path, table: pa.Table, **options: Any) -> None:
    """Write another clips.parquet and make the index fit."""
    path = folder / "clips.parquet"
    pq.write_table(table, path, **options)
    data = path.read_bytes()
    about = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    change_index(folder, lambda index: index["table"].update(about))


@pytest.mark.parametrize(
    ("row", "column", "value", "told"),
    [
        (1, "clip", "../00001", "row 1: clip: not a key"),
        (1, "clip", "a\n", "row 1: clip: not a key"),
        (1, "clip", "", "row 1: clip: not a key"),
        (1, "clip", "x" * 2**20, "clip: longer than 100 bytes"),
        (1, "clip", "00000", "clip: the same in two rows"),
        (1, "clip", "00009", "row 1: clip: also among those left out"),
        (1, "clip", None, "clip: empty in a row"),
        (2, "label", 7, r"row 2: label: outside 0..6"),
        (2, "label", -1, r"row 2: label: outside 0..6"),
        (2, "label", 1, "the clips of fold2-000000.tar are not those"),
        (0, "bucket", "fold2", "row 0: bucket: not that of its tar"),
        (0, "shard", "pipe:touch x", "row 0: shard: no tar of index.json"),
        (0, "shard", "fold2-000000.tar", "row 0: bucket"),
        (0, "offset", -1, "row 0: offset: not in its tar"),
        (0, "offset", 2**62, "row 0: offset: not in its tar"),
        (0, "offset", 2**63 - 1, "row 0: offset: not in its tar"),
        (0, "offset", 513, "00000.jpg is not where clips.parquet says"),
        (1, "offset", 512, "row 0: offset: the next row is not behind it"),
        (3, "bytes", 0, r"row 3: bytes: outside 1\.\.90,112"),
        (3, "bytes", 2**40, r"row 3: bytes: outside"),
        (3, "bytes", 2**63 - 1, r"row 3: bytes: outside"),
        (3, "bytes", 700, "00003.jpg"),
        (3, "crc32", 5, "00003.jpg: its checksum is not that of clips.parquet"),
    ],
)
def test_every_column_of_the_table_is_checked(folder, row, column, value, told):
    rows = pq.read_table(folder / "clips.parquet").to_pylist()
    rows[row][column] = value
    rewrite_table(folder, pa.Table.from_pylist(rows, SCHEMA))
    refused(folder, told)


def test_a_table_of_other_columns_rows_or_packing_is_refused(folder):
    table = pq.read_table(folder / "clips.parquet")
    label = table.schema.get_field_index("label")
    wide = table.set_column(label, "label", table["label"].cast(pa.int64()))
    for other in (table.drop_columns(["crc32"]), wide, table.append_column("x", table["label"])):
        rewrite_table(folder, other)
        refused(folder, "its columns are not clip, label, bucket")
    rewrite_table(folder, table, compression="zstd")
    refused(folder, "packed in a foreign way")
    rewrite_table(folder, table.slice(0, 4))
    refused(folder, "4 rows; there must be 5")
    rewrite_table(folder, table.take([1, 0, 2, 3, 4]))
    refused(folder, "row 0: offset: the next row is not behind it")
    rewrite_table(folder, table, row_group_size=1)
    check(folder)


def test_a_table_is_parsed_only_if_it_is_the_one_of_the_index(folder):
    path = folder / "clips.parquet"
    data = path.read_bytes()
    for other in (data[:-1], data + b"x", b"", b"PAR1" + bytes(len(data) - 8) + b"PAR1"):
        path.write_bytes(other)
        refused(folder, "clips.parquet: altered, its checksum is not that of index.json")
    path.unlink()
    with pytest.raises(DataError, match=r"clips.parquet: not found"):
        open_shards(folder)


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_table_whose_checksum_fits_is_one_line_or_harmless(folder, seed):
    path, generator = folder / "clips.parquet", np.random.default_rng(seed)
    data = path.read_bytes()
    for place in generator.integers(4, len(data) - 4, 40):
        altered = bytearray(data)
        altered[place] ^= 1 << generator.integers(8)
        path.write_bytes(altered)
        about = {"sha256": hashlib.sha256(altered).hexdigest(), "bytes": len(altered)}
        change_index(folder, lambda index, about=about: index["table"].update(about))
        assert "\n" not in problem(folder)


def test_train_ends_with_one_line_and_an_exit_code(folder, tmp_path):
    home = tmp_path / "data" / "synthetic"
    home.mkdir(parents=True)
    folder.rename(home / "shards")
    params = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(params)
    repack(home / "shards", 2, foreign("00000.pyd"), b"cos\nsystem\n(S'touch x'\ntR.")
    words = [word for pair in (*SMALL, "shard.size=16", "augment.crop=16") for word in ("-S", pair)]
    done = call("train", "--fold", "1", *words, folder=tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("\n") == 1
    assert "holds a file '00000.pyd' where the file '00000.json' belongs" in done.stderr
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "runs").exists()


BOMB = """
import resource, sys
import simplejpeg
from safe.errors import DataError
from safe.sample import decode_strip
bomb = sys.stdin.buffer.read()
print(*simplejpeg.decode_jpeg_header(bomb)[:2])
most = 2**30 + int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (most, most))
try:
    simplejpeg.decode_jpeg(bomb, "RGB")
except MemoryError:
    print("decoding it would take more than 1 GB")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode_strip(bomb, 16)
except DataError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_a_jpeg_that_claims_60000_pixels_is_refused_from_its_header():
    strip = encode_strip(np.zeros((16, SIDE, SIDE, 3), np.uint8), 90, "420")
    assert decode_strip(strip, SIDE).shape == (16, SIDE, SIDE, 3)
    start = strip.index(b"\xff\xc0") + 5  # behind marker, length and precision
    bomb = strip[:start] + (60_000).to_bytes(2, "big") * 2 + strip[start + 4 :]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(BOMB)],
        input=bomb, capture_output=True, cwd=ROOT, timeout=60,
    )  # fmt: skip
    header, decoded, refusal, grown = done.stdout.decode().splitlines()
    assert header == "60000 60000"
    assert decoded == "decoding it would take more than 1 GB"
    assert refusal == "strip of 60000 x 60000 pixels, expected 16 x 256"
    assert int(grown) < 2**20
