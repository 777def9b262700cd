"""How do clips leave tables, tars and raw data, while all else keeps its bytes?

Each function may be killed and called again. Nothing is written in place: a file may be a link to
one in DVC's cache.
"""

import hashlib
import json
import os
import shutil
import tarfile
from collections import defaultdict
from collections.abc import Set
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.face.table import SCHEMA as FACES
from pipeline.face.table import write_table
from pipeline.manifest import SCHEMA as MANIFEST
from pipeline.manifest import write_rows
from pipeline.tars import TarWriter, clear_beside, describe, whole_folder, write_index
from safe.errors import DataError
from safe.files import whole_file
from safe.sample import SHARD_FORMAT

Rows = list[dict[str, Any]]


def clips_of(table: Path) -> set[str]:
    """Return the keys in the column `clip` of a parquet file; none where it is missing.

    Raises:
        DataError: if it is damaged.
    """
    try:
        return set(pq.read_table(table, columns=["clip"])["clip"].to_pylist())
    except FileNotFoundError:
        return set()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{table}: damaged, so no clip can be taken out; make it anew") from error


def remove_rows(table: Path, clips: Set[str]) -> None:
    """Write a parquet file without the rows of some clips; the others stay as they are.

    A manifest or face table gets the bytes that its stage would give it without these clips, so
    that DVC runs nothing after it anew, should the stage ever run again.
    """
    if not clips & clips_of(table):
        return
    rows = pq.read_table(table)
    rows = rows.filter(pc.invert(pc.is_in(rows["clip"], pa.array(sorted(clips), pa.string()))))
    # Parquet renames the items of a list; the schema it was written with names them again.
    schema = next((made for made in (MANIFEST, FACES) if made == rows.schema), rows.schema)
    if schema == MANIFEST:
        schema = schema.with_metadata(rows.schema.metadata)  # the classes
    rows = rows.cast(schema)
    with whole_file(table) as temporary:
        if schema == FACES:
            write_table(rows, temporary)
        else:
            compression = pq.read_metadata(table).row_group(0).column(0).compression
            write_rows(rows, temporary, compression=compression)


def read_contents(folder: Path) -> tuple[dict[str, Any], dict[str, Rows]]:
    """Return index.json of a shard folder and, for each of its tars, the rows of clips.parquet.

    Raises:
        DataError: if a file is missing, damaged or of another format, or does not fit.
    """
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        data = (folder / "clips.parquet").read_bytes()
        if index["format"] != SHARD_FORMAT or not _has_sum(data, index["table"]["sha256"]):
            raise ValueError
        table = pq.read_table(pa.BufferReader(data)).to_pylist()
    except (OSError, ValueError, KeyError, TypeError) as error:  # ArrowInvalid is a ValueError
        raise DataError(
            f"{folder}: index.json and clips.parquet are damaged or not of shard format "
            f"{SHARD_FORMAT}; make the shards anew by `safe-cli shard`"
        ) from error
    rows: dict[str, Rows] = defaultdict(list)
    for row in table:
        rows[row["shard"]].append(row)
    return index, rows


def check_tar(path: Path, sha256: str) -> None:
    """Raise DataError unless a tar is what the index says: else a new sum would hide damage."""
    try:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                return
    except FileNotFoundError:
        pass
    raise DataError(f"{path}: missing or damaged; make the shards anew by `safe-cli shard`")


def remove_samples(folder: Path, clips: Set[str]) -> None:
    """Take clips out of a shard folder, and out of what is left out of it.

    Only the tars that hold one are written anew, and one that would be empty goes; the others are
    the same files. The folder is at any moment the old one, the new one, or not there.

    Raises:
        DataError: if the folder is damaged.
    """
    clear_beside(folder)  # the old folder, with the clips in it
    if not folder.exists():
        return
    index, rows = read_contents(folder)
    left_out = [entry for entry in index["left_out"] if entry["clip"] not in clips]
    touched = {name for name, some in rows.items() if any(row["clip"] in clips for row in some)}
    if not touched and len(left_out) == len(index["left_out"]):
        return
    shards, kept, classes = [], [], tuple(index["classes"])
    with whole_folder(folder) as new:
        for entry in index["shards"]:
            name = entry["file"]
            if name not in touched:
                _link(folder / name, new / name)
                shards.append(entry)
                kept += rows[name]
            elif some := [row for row in rows[name] if row["clip"] not in clips]:
                check_tar(folder / name, entry["sha256"])
                tar = _copy_tar(folder / name, new / name, some)
                labels = [row["label"] for row in some]
                shards.append(describe(tar, bucket=entry["bucket"], labels=labels, classes=classes))
                kept += some
        write_index(
            new,
            shards=shards,
            left_out=left_out,
            made=index["preprocessing"],
            classes=classes,
            frames=index["frames"],
            rows=kept,
        )


def _copy_tar(old: Path, new: Path, rows: Rows) -> TarWriter:
    """Copy the members of the clips in `rows`, one by one; put their new offsets into `rows`."""
    by_key = {row["clip"]: row for row in rows}
    writer = TarWriter(new)
    with tarfile.open(old, "r:") as archive:
        for member in archive:
            key, _, ending = member.name.partition(".")
            file = archive.extractfile(member)
            if key not in by_key or file is None:
                continue
            offset = writer.add(member.name, file.read())
            if ending == "jpg":
                by_key[key]["offset"] = offset
    writer.close()
    return writer


def find_raw(root: Path, path: str) -> Path | None:
    """Find the raw file or folder of frames of a clip; None where it is not there.

    Args:
        root: data.root.
        path: of the clip, relative to it.

    Raises:
        DataError: if it lies outside the root, or is a folder of more than files.
    """
    found = root / path
    parent = found.parent.resolve()
    # The last part may be a link, which goes alone: DVC links to its cache.
    if not (parent / found.name).is_relative_to(root.resolve()) or found.name in ("", ".", ".."):
        raise DataError(f"{found}: is in {parent}, outside data.root {root}; delete it yourself")
    if not os.path.lexists(found):
        return None
    if found.is_dir() and (found.is_symlink() or any(entry.is_dir() for entry in found.iterdir())):
        raise DataError(f"{found}: is no plain folder of frames; delete it yourself")
    return found


def remove_raw(root: Path, path: str) -> None:
    """Delete what find_raw finds. Raises DataError as it does."""
    found = find_raw(root, path)
    if found is not None and found.is_dir():
        shutil.rmtree(found)
    elif found is not None:
        found.unlink()


def _link(old: Path, new: Path) -> None:
    """Make `new` the same file; a copy where the file system has no hard links."""
    try:
        if old.is_symlink():
            raise OSError
        os.link(old, new)
    except OSError:
        shutil.copy2(old, new, follow_symlinks=False)


def _has_sum(data: bytes, sha256: str) -> bool:
    return hashlib.sha256(data).hexdigest() == sha256
