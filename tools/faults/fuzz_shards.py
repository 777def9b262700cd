"""Damaged shard folders before the readers of training.

A tar, a table, an index or a JPEG is damaged, and where that is the question its checksums are made
right again, as someone would who means harm. Then all that training does on the way to the pixels
runs: open_shards, verify, ClipReader on every clip. It must refuse with a DataError in one line, or
give exactly the pixels and labels that were stored.
"""

import hashlib
import json
import random
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.faces import find_faces
from pipeline.pool.pool import Pool
from pipeline.shard import write_shards
from pipeline.tars import ShardWriter, write_index
from safe.errors import DataError
from safe.sample import DEFAULT_FRAMES, encode_strip
from safe.shards.clips import ClipReader
from safe.shards.folder import open_shards
from safe.shards.verify import verify
from tools.faults.fuzz_videos import config
from tools.faults.mutate import mutate, mutate_json, replace_file
from tools.faults.watch import Outcome, try_all, watched
from tools.harness import write_manifest

TARS: Final = ("fold1-000000.tar", "fold2-000000.tar")


def make_original(folder: Path) -> Path:
    """Write a shard folder of two tars with three clips each, by the project's own stages."""
    root = folder / "strips"
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    files = [root / f"c{number:02d}.jpg" for number in range(6)]
    for file in files:
        coarse = rng.integers(0, 256, (DEFAULT_FRAMES, 4, 4, 3), dtype=np.uint8)
        faces = coarse.repeat(4, axis=1).repeat(4, axis=2)
        file.write_bytes(encode_strip(faces, 90, "420"))
    settings, limits = config(), {"pool": Pool(deadline=60)}
    tables = [folder / name for name in ("manifest.parquet", "faces.parquet")]
    keys = [file.stem for file in files]
    write_manifest(tables[0], files, keys=keys, source="strips", buckets=2)
    find_faces(tables[0], Path("/"), tables[1], settings=settings.faces, **limits)
    stages = {"settings": settings.shard, "faces_settings": settings.faces}
    write_shards(*tables, Path("/"), folder / "shards", **stages, **limits)
    return folder / "shards"


def fuzz(
    original: Path, numbers: Sequence[int], *, seed: int, workers: int, until: float
) -> Iterator[Outcome]:
    """Try damaged copies of a shard folder, made beside it; an outcome for each number."""
    check = partial(check_shards, original=original, seed=seed)
    setup = partial(_sound, original)
    return try_all(check, numbers, part="shards", workers=workers, until=until, setup=setup)


def check_shards(number: int, *, original: Path, seed: int) -> Outcome:
    """Make mutant `number` in a folder of this process, read it, say what came of it."""
    kind = tuple(KINDS)[number % len(KINDS)]
    folder = original.parent / f"damaged-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original, folder)
    damage, changes = KINDS[kind]
    outcome = Outcome("shards", number, f"{kind} {damage(folder, seed, number)}", "")
    read = partial(_read, folder, original, changes)
    outcome = watched(read, outcome, inside=folder, refusal=DataError)
    if not outcome.finding:
        shutil.rmtree(folder)
    return outcome


@cache
def _sound(original: Path) -> dict[str, tuple[int, NDArray[np.uint8]]]:
    return _contents(original)


def _contents(root: Path) -> dict[str, tuple[int, NDArray[np.uint8]]]:
    """Read a shard folder as training does: key -> label, faces uint8 [T, S, S, 3]."""
    folder = open_shards(root)
    verify(folder, seen=None)
    size = folder.face_size
    reader, found = ClipReader(folder), {}
    try:
        for row in range(len(folder.clip)):
            faces = np.zeros((1, DEFAULT_FRAMES, size, size, 3), np.uint8)
            reader.read(np.array([row]), faces)
            found[str(folder.clip[row])] = (int(folder.label[row]), faces[0])
    finally:
        reader.close()
    for fold in (1, 2):
        folder.split(fold)
    return found


def _read(root: Path, original: Path, changes: bool) -> str:
    """Read a damaged folder and compare it with the sound one."""
    found, sound = _contents(root), _sound(original)
    if found.keys() == sound.keys() and all(
        found[key][0] == label and np.array_equal(found[key][1], faces)
        for key, (label, faces) in sound.items()
    ):
        return "read: the stored pixels and labels"
    return "read: what the new checksums say" if changes else "WRONG pixels or labels were read"


def _damage_file(folder: Path, seed: int, number: int, *, names: Sequence[str]) -> str:
    """Damage the bytes of one of some files."""
    name = random.Random(f"name-{seed}-{number}").choice(names)
    path = folder / name
    other = folder / random.Random(f"other-{seed}-{number}").choice((*TARS, "clips.parquet"))
    mutant = mutate(path.read_bytes(), seed=seed, number=number, other=other.read_bytes())
    path.write_bytes(mutant.data)
    return f"{name} {mutant.what}"


def _damage_index(folder: Path, seed: int, number: int) -> str:
    path = folder / "index.json"
    text, what = mutate_json(json.loads(path.read_text()), seed=seed, number=number)
    path.write_text(text)
    return f"index.json {what}"


def _damage_tar(folder: Path, seed: int, number: int) -> str:
    """Damage a tar, then make all sums fit it: of the tar, of its JPEGs, of the table."""
    what = _damage_file(folder, seed, number, names=TARS)
    index, rows = _tables(folder)
    for shard in index["shards"]:
        data = (folder / shard["file"]).read_bytes()
        shard |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for row in rows:
            if row["shard"] == shard["file"]:
                row["crc32"] = zlib.crc32(data[row["offset"] : row["offset"] + row["bytes"]])
    _write(folder, index, rows)
    return what


def _damage_table(folder: Path, seed: int, number: int) -> str:
    """Damage the bytes of clips.parquet, then make its sum right again."""
    what = _damage_file(folder, seed, number, names=("clips.parquet",))
    data = (folder / "clips.parquet").read_bytes()
    path = folder / "index.json"
    index = json.loads(path.read_text())
    index["table"] |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    path.write_text(json.dumps(index))
    return what


def _replace(folder: Path, seed: int, number: int) -> str:
    """Put a pipe, a folder, a link or nothing in a file's place."""
    rng = random.Random(f"replace-{seed}-{number}")
    path = rng.choice(sorted(folder.iterdir()))
    return f"{path.name} {replace_file(path, rng)}"


def _damage_rows(folder: Path, seed: int, number: int) -> str:
    """Change some cells of clips.parquet, then make its sum right again."""
    rng = random.Random(f"rows-{seed}-{number}")
    index, rows = _tables(folder)
    changed = []
    for _ in range(rng.choice((1, 1, 2, 6))):
        row, column = rng.choice(rows), rng.choice(list(rows[0]))
        row[column] = rng.choice(_CELLS[type(row[column])])
        if column == "label":
            row[column] = rng.choice((-128, -1, 0, 6, 7, 127))
        elif column == "crc32":
            row[column] = rng.randrange(2**32)
        changed.append(column)
    if rng.random() < 0.2:
        rng.shuffle(rows)
        changed.append("order")
    elif rng.random() < 0.1:
        rows = rng.choice((rows[:-1], [*rows, rows[0]], []))
        changed.append("count")
    _write(folder, index, rows)
    return f"clips.parquet {'+'.join(changed)}"


_CELLS: Final[dict[type, tuple[Any, ...]]] = {
    int: (-1, 0, 1, 511, 512, 513, 20_992, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63)),
    str: ("", "c00", "../x", "/etc/passwd", "pipe:rm", "two\nlines", "nul\0", "fold1", "x" * 5000),
}


def _damage_jpeg(folder: Path, seed: int, number: int) -> str:
    """Damage one JPEG and write the tars again around it, with all sums right."""
    index, rows = _tables(folder)
    tars = {name: (folder / name).read_bytes() for name in TARS}
    jpegs = [tars[row["shard"]][row["offset"] : row["offset"] + row["bytes"]] for row in rows]
    chosen = random.Random(f"jpeg-{seed}-{number}").randrange(len(rows))
    mutant = mutate(jpegs[chosen], seed=seed, number=number, other=jpegs[chosen - 1])
    jpegs[chosen] = mutant.data
    writer = ShardWriter(folder, clips=3, classes=tuple(index["classes"]))
    for row, data in zip(rows, jpegs, strict=True):
        place = {"bucket": row["bucket"], "label": row["label"]}
        writer.add(row["clip"], **place, strip=data, record={"flags": ""})
    writer.close()
    _write(folder, index | {"shards": writer.shards}, writer.rows)
    return f"jpeg {mutant.what}"


def _tables(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    table = pq.read_table(folder / "clips.parquet")
    return json.loads((folder / "index.json").read_text()), table.to_pylist()


def _write(folder: Path, index: dict[str, Any], rows: pa.Table | list[dict[str, Any]]) -> None:
    parts = {name: index[name] for name in ("shards", "left_out", "classes")}
    write_index(folder, made=index["preprocessing"], rows=rows, **parts)


KINDS: Final[dict[str, tuple[Callable[[Path, int, int], str], bool]]] = {
    "tar": (partial(_damage_file, names=TARS), False),
    "table or index": (partial(_damage_file, names=("clips.parquet", "index.json")), False),
    "index": (_damage_index, False),
    "tar, sums right": (_damage_tar, True),
    "table, sums right": (_damage_table, True),
    "rows, sums right": (_damage_rows, True),
    "jpeg, sums right": (_damage_jpeg, True),
    "other file": (_replace, False),
}
"""What is damaged; whether the sums then vouch for other pixels and labels."""
