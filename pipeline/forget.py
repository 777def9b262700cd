"""Removal of a person's clips from all that was made of them, so that they do not come back.

Keys go in; out comes a receipt without pictures, boxes or features: what was taken out of where,
and what is left for a person to do. The receipt is written first, as a plan, and marked finished
last. A run that was killed leaves an unfinished one, which the next run carries out; every step of
it can be done twice. Nothing is written in place: a file may be a link to one in DVC's cache.
"""

import hashlib
import json
import os
import re
import shutil
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from glob import escape, glob, has_magic
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.datasets.registry import ENTRIES
from pipeline.face.table import SCHEMA as FACES
from pipeline.face.table import write_table
from pipeline.index import add_forgotten, read_forgotten
from pipeline.manifest import SCHEMA as MANIFEST
from pipeline.manifest import write_rows
from pipeline.tars import TarWriter, atomic_folder, clear_beside, describe, write_index
from pipeline.twins import find_twins
from pipeline.videos import answered, remove_answers
from safe.config import Data
from safe.errors import DataError
from safe.files import atomic_file
from safe.sample import SHARD_FORMAT

Receipt = dict[str, Any]
Rows = list[dict[str, Any]]


Holds = Literal["rows", "samples", "whole", "answers", "workspace", "nothing"]
"""What of a clip is in a place: rows of a table; samples of a shard folder; a file that may show
it, which goes as a whole, since it can be made again; answers about videos; a copy of all that a
killed experiment left; nothing but keys, sums and what a model learnt."""


@dataclass(frozen=True)
class Places:
    """Where one dataset's clips may lie; each may be missing."""

    manifest: Path
    shards: Path
    trains: Path
    """Folder of `fold-<k>/`, the models."""
    forgotten: Path
    """forgotten.csv."""
    receipts: Path
    """A folder."""
    holds: Mapping[str, Holds]
    """What of a clip is where, by a pattern of paths from `root` on, or absolute ones."""
    root: Path = Path()
    """The project's folder."""

    def find(self, what: Holds) -> list[Path]:
        """Return what is there of a kind, sorted."""
        patterns = [pattern for pattern, holds in self.holds.items() if holds == what]
        return sorted({path for pattern in patterns for path in self._there(pattern)})

    def _there(self, pattern: str) -> list[Path]:
        """Return what fits a pattern; Path.glob takes no absolute one."""
        whole = str(Path(escape(str(self.root)), pattern))
        return [Path(path) for path in glob(whole, include_hidden=True)]  # noqa: PTH207

    @property
    def tables(self) -> list[Path]:
        """The parquet files with a row a clip, but for the shards'."""
        return [path for path in self.find("rows") if path.is_file()]

    @property
    def whole(self) -> list[Path]:
        """Files and folders that go as a whole."""
        files = [path for path in self.find("whole") if path.is_file() or path.is_symlink()]
        return [*files, *self.find("workspace")]

    @property
    def leavings(self) -> list[Path]:
        """Temporary files of stages and verbs that were killed."""
        found = set[Path]()
        for pattern in self.holds:
            name = Path(pattern).name
            # In a folder of someone else's only what was to be the file that was noted.
            mine = name[:64] if Path(pattern).is_absolute() and not has_magic(name) else ""
            folders = [os.path.dirname(pattern)]  # noqa: PTH120  a pattern is no path
            folders += [pattern] * (self.holds[pattern] == "answers")
            for folder in folders:
                for path in self._there(f"{folder or '.'}/.*.tmp"):
                    if _TEMPORARY.fullmatch(path.name) and path.name.startswith(f".{mine}"):
                        found.add(path)
        return sorted(path for path in found if path.is_file())


_TEMPORARY: Final = re.compile(r"\..+\.\d+\.tmp")
"""The name of a file that safe.files.atomic_file had not finished."""


def forget(
    clips: list[str], locations: Places, data: Data, *, raw: bool = False, dry_run: bool = False
) -> list[Receipt]:
    """Take clips out of all locations; first finish what an earlier run was killed in.

    A clip with the same bytes under another key goes too: it shows the same.

    Args:
        clips: keys; none: only finish.
        locations: where to look.
        data: the section data of params.yaml: which dataset, and where its raw clips are.
        raw: also delete the raw clips.
        dry_run: change nothing, only say what would be done.

    Returns:
        The receipts of what was done, or would be. None of clips that were forgotten before and
        are in none of the locations.

    Raises:
        DataError: if a key is unknown, or what holds it is damaged; then nothing is changed.
    """
    receipts = []
    for path, receipt in _unfinished(locations.receipts):
        if not dry_run:
            _carry_out(path, receipt, locations, data)
        receipts.append(receipt)
    planned = _plan(set(clips), locations, data, raw=raw)
    if planned is None:
        return receipts
    if not dry_run:
        path = locations.receipts / f"{planned['begun'].replace(':', '')}.json"
        _write(path, planned)
        _carry_out(path, planned, locations, data)
    return [*receipts, planned]


def _plan(clips: set[str], locations: Places, data: Data, *, raw: bool) -> Receipt | None:
    """Say what is to be done, having checked that it can be; None where there is nothing to do."""
    index, rows = read_contents(locations.shards) if locations.shards.exists() else ({}, {})
    manifest = _listed(locations.manifest)
    twins = find_twins(clips, locations.shards, rows, Path(data.root), manifest)
    clips = clips | twins.keys()
    held = {str(path): clips & clips_of(path) for path in locations.tables}
    stored = {row["clip"]: row for some in rows.values() for row in some if row["clip"] in clips}
    left_out = clips & {entry["clip"] for entry in index.get("left_out", [])}
    listed = {key: row for key, row in manifest.items() if key in clips}
    known = read_forgotten(locations.forgotten, data.name)
    there = left_out.union(stored, *held.values())
    if unknown := sorted(clips - known - there):
        raise DataError(
            f"clip {', '.join(map(repr, unknown[:5]))}: not in {locations.manifest}, the other "
            f"tables, {locations.shards} or {locations.forgotten}"
        )
    shards = {}
    for entry in index.get("shards", []):
        if count := sum(row["shard"] == entry["file"] for row in stored.values()):
            check_tar(locations.shards / entry["file"], entry["sha256"])
            shards[entry["file"]] = {"clips": count, "before": entry["sha256"], "after": None}
    paths = {clip: row["path"] for clip, row in listed.items()}
    if raw and clips - paths.keys():  # forgotten before, or the manifest is not here
        every = ENTRIES[data.name].read_clips(data)
        paths |= {clip.key: clip.path for clip in every if clip.key in clips}
    at_hand = [
        paths[key]
        for key in sorted(paths)
        if (find_raw(Path(data.root), paths[key]) if raw else Path(data.root, paths[key]).exists())
    ]
    videos = {Path(data.root, path) for path in paths.values()}
    answers = {str(at): some for at in locations.find("answers") if (some := answered(at, videos))}
    if not (there or clips - known or answers or (raw and at_hand)):
        return None
    buckets = {row["bucket"] for row in (stored if index else listed).values()}
    deleted = [str(path) for path in locations.whole] if there else []
    gone = [str(Path(data.root, path)) for path in at_hand] if raw else []
    receipt: Receipt = {
        "dataset": data.name,
        "root": data.root,
        "clips": sorted(clips),
        "same": twins,
        "begun": _now(),
        "finished": None,
        "removed": {path: len(some) for path, some in held.items() if some},
        "shards": shards,
        "left_out": len(left_out),
        "deleted": deleted,
        "answers": answers,
        "raw_deleted": at_hand if raw else [],
        "raw_kept": [] if raw else at_hand,
        "linked": _linked([*(path for path, some in held.items() if some), *deleted, *gone]),
        "models": _trained_on(locations.trains, buckets),
    }
    return receipt | {"to_do": remains(receipt)}


def _linked(paths: Iterable[str]) -> list[str]:
    """Return what those of the paths name that are links, but for what is in DVC's cache.

    DVC's own commands clear the cache; any other file is not this project's to delete.
    """
    targets = {os.path.realpath(path) for path in paths if Path(path).is_symlink()}
    return sorted(target for target in targets if "/files/md5/" not in target)


def _carry_out(path: Path, receipt: Receipt, locations: Places, data: Data) -> None:
    """Do what a receipt plans, from wherever it was left; then mark the receipt finished."""
    if receipt["raw_deleted"] and receipt["root"] != data.root:
        raise DataError(
            f"{path}: was begun with data.root {receipt['root']}; run it with this root again"
        )
    clips = set(receipt["clips"])
    add_forgotten(locations.forgotten, receipt["dataset"], clips)
    remove_samples(locations.shards, clips)
    for table in locations.tables:
        remove_rows(table, clips)
    for file in locations.whole:
        if str(file) in receipt["deleted"]:
            _delete(file)
    for folder, videos in receipt.get("answers", {}).items():
        remove_answers(Path(folder), set(videos))
    for file in locations.leavings:
        file.unlink()
    for name in receipt["raw_deleted"]:
        remove_raw(Path(data.root), name)
    index = read_contents(locations.shards)[0] if locations.shards.exists() else {}
    after = {entry["file"]: entry["sha256"] for entry in index.get("shards", [])}
    for name, entry in receipt["shards"].items():
        entry["after"] = after.get(name)
    receipt["finished"] = _now()
    _write(path, receipt)


def _listed(manifest: Path) -> dict[str, dict[str, Any]]:
    """Return path, bucket and bytes of the clips that the manifest has."""
    if not manifest.is_file():
        return {}
    rows = pq.read_table(manifest, columns=["clip", "path", "bucket", "bytes"]).to_pylist()
    return {row["clip"]: row for row in rows}


def _trained_on(trains: Path, buckets: Set[str]) -> list[str]:
    """Return the folders of models that saw clips of these buckets in training."""
    return [
        str(folder)
        for folder in sorted(trains.glob("fold-*"))
        if buckets - {folder.name.replace("-", ""), "test"}
    ]


def _unfinished(receipts: Path) -> Iterator[tuple[Path, Receipt]]:
    for path in sorted(receipts.glob("*.json")):
        try:
            receipt = json.loads(path.read_text(encoding="utf-8"))
            if receipt["finished"] is None:
                yield path, receipt
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: no readable receipt of forget; move it away") from error


def _write(path: Path, receipt: Receipt) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(receipt, indent=2) + "\n", encoding="utf-8")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# What is left for a person to do
#
# SAFE reaches what it made in the project's folder. DVC's cache and remotes, git, trained models
# and the raw data are in a person's hands: here stand the commands. Each was run with DVC 3.67 on a
# project that held such clips.


def remains(receipt: Receipt) -> list[str]:
    """Return lines of plain words and commands for a receipt."""
    root, drawn = receipt["root"], receipt["dataset"] == "synthetic"
    raw = [
        f"The raw clip is still there (--raw deletes it): {root}/{path}"
        for path in receipt["raw_kept"]
    ]
    if raw:
        raw.append("From it, the code of an older commit can make all again.")
    if drawn:
        raw.append(f"{root} is below the data folder: its lists still name the clips, and")
        raw.append("`safe-cli synthesize` draws them again.")
    models = ["No model here was trained on these clips. To evaluate without them:"]
    if receipt["models"]:
        models = [
            f"Trained on these clips: {', '.join(receipt['models'])}",
            "A model forgets only when it is trained again; this holds for models of experiments "
            "too:",
        ]
    links = [f"A link is gone, what it named is not; delete it: {at}" for at in receipt["linked"]]
    redrawn = " synthesize" if drawn and receipt["raw_deleted"] else ""
    return [
        *raw,
        *links,
        "A queued experiment starts from an older commit and would make the clips again:",
        "    dvc queue remove --queued",
        "Until DVC knows that the new files are right, `dvc checkout` brings the old ones back and",
        "`dvc repro` makes all shards again. If `dvc status` was clean before:",
        f"    dvc commit -f index faces shard{redrawn}",
        *models,
        "    dvc repro",
        "    git add forgotten.csv dvc.lock results && git commit -m 'Forget clips'",
        "The old files are still in DVC's cache, and in a remote that they were pushed to. This",
        "removes all that dvc.lock does not name, results of other experiments too (-a, -A and -T",
        "would keep what older commits name). Before `dvc repro` it would keep old predictions:",
        "    dvc gc -w      # with a remote: dvc gc -w -c",
        "Out of reach: other clones and their caches, backups, the dataset as it was downloaded,",
        "a store that shards were pushed to (empty it, then `safe-cli push-shards`),",
        "a store that holds the raw clips (runtime.clips; delete them there),",
        "answers about other videos that show the person (predict),",
        "and pictures and tables that were copied or are in git.",
    ]


# Clips leave tables, tars and raw data; all else keeps its bytes


def clips_of(table: Path) -> set[str]:
    """Return the keys in a parquet file; none where it is missing. Raises DataError if damaged."""
    try:
        return set(pq.read_table(table, columns=["clip"])["clip"].to_pylist())
    except FileNotFoundError:
        return set()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{table}: damaged, so no clip can be taken out; make it again") from error


def remove_rows(table: Path, clips: Set[str]) -> None:
    """Write a parquet file without the rows of some clips; the others stay as they are.

    A manifest or face table gets the bytes that its stage would give it without these clips, so
    that DVC runs nothing after it again, should the stage ever run.
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
    with atomic_file(table) as temporary:
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
        same = hashlib.sha256(data).hexdigest() == index["table"]["sha256"]
        if index["format"] != SHARD_FORMAT or not same:
            raise ValueError
        table = pq.read_table(pa.BufferReader(data)).to_pylist()
    except (OSError, ValueError, KeyError, TypeError) as error:  # ArrowInvalid is a ValueError
        raise DataError(
            f"{folder}: index.json and clips.parquet are damaged or not of shard format "
            f"{SHARD_FORMAT}; make the shards again by `safe-cli shard`"
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
    raise DataError(f"{path}: missing or damaged; make the shards again by `safe-cli shard`")


def remove_samples(folder: Path, clips: Set[str]) -> None:
    """Take clips out of a shard folder, and out of what is left out of it.

    Only the tars that hold one are written again, and one that would be empty goes; the others are
    the same files. The folder is at any moment the old one, the new one, or not there. Where it is
    a link, this is done where the tars are: a new folder in place of the link would leave them.

    Raises:
        DataError: if the folder is damaged.
    """
    folder = folder.resolve() if folder.is_symlink() else folder
    clear_beside(folder)  # the old folder, with the clips in it
    if not folder.exists():
        return
    index, rows = read_contents(folder)
    left_out = [entry for entry in index["left_out"] if entry["clip"] not in clips]
    touched = {name for name, some in rows.items() if any(row["clip"] in clips for row in some)}
    if not touched and len(left_out) == len(index["left_out"]):
        return
    shards, kept, classes = [], [], tuple(index["classes"])
    with atomic_folder(folder) as new:
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
    """Find the raw file or folder of frames of a clip, by its path below data.root, or None.

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
    if found is not None:
        _delete(found)


def _delete(path: Path) -> None:
    """Delete a file, a link alone, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _link(old: Path, new: Path) -> None:
    """Make `new` the same file; a copy where the file system has no hard links."""
    try:
        if old.is_symlink():
            raise OSError
        os.link(old, new)
    except OSError:
        shutil.copy2(old, new, follow_symlinks=False)
