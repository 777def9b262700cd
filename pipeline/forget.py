"""How is a person's clip taken out of all that was made, so that it does not come back?

Keys go in; out comes a receipt without pictures, boxes or features: what was taken out of where,
and what is left for a person to do. The receipt is written first, as a plan, and marked finished
last. A run that was killed leaves an unfinished one, which the next run carries out; every step of
it can be done twice.
"""

import json
from collections.abc import Iterator, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.datasets.registry import ENTRIES
from pipeline.index import add_forgotten, read_forgotten
from pipeline.remove import (
    check_tar,
    clips_of,
    find_raw,
    read_contents,
    remove_raw,
    remove_rows,
    remove_samples,
)
from safe.config import Data
from safe.errors import DataError
from safe.files import whole_file

# What is left for a person to do after clips were forgotten?
#
# SAFE reaches what it made in the project's folder. DVC's cache and remotes, git, trained models
# and the raw data are in a person's hands: here stand the commands. Each was run with DVC 3.67 on a
# project that held such clips.


def remains(receipt: dict[str, Any]) -> list[str]:
    """Return lines of plain words and commands for a receipt of pipeline.forget."""
    drawn = receipt["dataset"] == "synthetic"
    redrawn = " synthesize" if drawn and receipt["raw_deleted"] else ""
    return [
        *_raw(receipt, drawn=drawn),
        "A queued experiment starts from an older commit and would make the clips again:",
        "    dvc queue remove --queued",
        "Until DVC knows that the new files are right, `dvc checkout` brings the old ones back and",
        "`dvc repro` makes all shards anew. If `dvc status` was clean before:",
        f"    dvc commit -f index faces shard{redrawn}",
        *_models(receipt["models"]),
        "    git add forgotten.csv dvc.lock results && git commit -m 'Forget clips'",
        "The old files are still in DVC's cache, and in a remote that they were pushed to. This",
        "removes all that dvc.lock does not name, results of other experiments too (-a, -A and -T",
        "would keep what older commits name). Before `dvc repro` it would keep old predictions:",
        "    dvc gc -w      # with a remote: dvc gc -w -c",
        "Out of reach: other clones and their caches, backups, the dataset as it was downloaded,",
        "a store that shards were pushed to (empty it, then `safe-cli push-shards`),",
        "a store that holds the raw clips (runtime.clips; delete them there),",
        "and pictures and tables that were copied or are in git.",
    ]


def _raw(receipt: dict[str, Any], *, drawn: bool) -> list[str]:
    root, kept = receipt["root"], receipt["raw_kept"]
    lines = [f"The raw clip is still there (--raw deletes it): {root}/{path}" for path in kept]
    if kept:
        lines.append("From it, the code of an older commit can make all again.")
    if drawn:
        lines += [
            f"{root} is below the data folder: its lists still name the clips, and",
            "`safe-cli synthesize` draws them again.",
        ]
    return lines


def _models(models: list[str]) -> list[str]:
    if not models:
        return [
            "No model here was trained on these clips. To evaluate without them:",
            "    dvc repro",
        ]
    return [
        f"Trained on these clips: {', '.join(models)}",
        "A model forgets only when it is trained anew; this holds for models of experiments too:",
        "    dvc repro",
    ]


Receipt = dict[str, Any]


@dataclass(frozen=True)
class Places:
    """Where one dataset's clips may lie, relative to the project's folder; each may be missing."""

    manifest: Path
    """manifest.parquet."""
    faces: Path
    """faces.parquet."""
    shards: Path
    """The shard folder."""
    evals: Path
    """Folder of `fold-<k>/predictions.parquet`."""
    calibrates: Path
    """The same of the selection splits, with the calibrated models."""
    trains: Path
    """Folder of `fold-<k>/`, the models."""
    strips: Path
    """The zip that `faces` leaves for `shard`."""
    checkpoints: Path
    """Folder of training state, of all datasets: TAM's bank in it holds clips."""
    pictures: tuple[Path, ...]
    """Figures that show clips."""
    forgotten: Path
    """forgotten.csv."""
    receipts: Path
    """Folder of the receipts."""

    @property
    def tables(self) -> list[Path]:
        """The parquet files with a row a clip, but for the shards'."""
        folders = (self.evals, self.calibrates)
        predictions = sorted(f for path in folders for f in path.glob("fold-*/predictions.parquet"))
        return [path for path in (self.faces, self.manifest, *predictions) if path.is_file()]

    @property
    def whole(self) -> list[Path]:
        """Files that go as a whole, since they can be made anew or can never be used again."""
        kept = [file for file in self.checkpoints.glob("*/*") if file.name != "lock"]
        return [path for path in (self.strips, *sorted(kept), *self.pictures) if path.is_file()]

    @property
    def leavings(self) -> list[Path]:
        """Temporary files of stages that were killed."""
        folders = (
            *(self.manifest.parent, self.evals, self.calibrates),
            *(self.strips.parent, self.checkpoints),
        )
        found = (path for folder in folders for path in folder.rglob(".*.tmp"))
        return sorted(path for path in found if path.is_file())


def forget(
    clips: list[str], places: Places, data: Data, *, raw: bool = False, dry_run: bool = False
) -> list[Receipt]:
    """Take clips out of all places; first finish what an earlier run was killed in.

    Args:
        clips: keys.
        places: where to look.
        data: the section data of params.yaml: which dataset, and where its raw clips are.
        raw: also delete the raw clips.
        dry_run: change nothing, only say what would be done.

    Returns:
        The receipts of what was done, or would be. None of clips that were forgotten before and
        are in none of the places.

    Raises:
        DataError: if a key is unknown, or what holds it is damaged; then nothing is changed.
    """
    receipts = []
    for path, receipt in [] if dry_run else _unfinished(places.receipts):
        _carry_out(path, receipt, places, data)
        receipts.append(receipt)
    planned = _plan(set(clips), places, data, raw=raw)
    if planned is None:
        return receipts
    if not dry_run:
        path = places.receipts / f"{planned['begun'].replace(':', '')}.json"
        _write(path, planned)
        _carry_out(path, planned, places, data)
    return [*receipts, planned]


def _plan(clips: set[str], places: Places, data: Data, *, raw: bool) -> Receipt | None:
    """Say what is to be done, having checked that it can be; None where there is nothing to do."""
    held = {str(path): clips & clips_of(path) for path in places.tables}
    index, rows = read_contents(places.shards) if places.shards.exists() else ({}, {})
    stored = {row["clip"]: row for some in rows.values() for row in some if row["clip"] in clips}
    left_out = clips & {entry["clip"] for entry in index.get("left_out", [])}
    listed = _listed(places.manifest, clips)
    known = read_forgotten(places.forgotten, data.name)
    there = left_out.union(stored, *held.values())
    _check_known(clips - known - there, places)
    shards = {}
    for entry in index.get("shards", []):
        if count := sum(row["shard"] == entry["file"] for row in stored.values()):
            check_tar(places.shards / entry["file"], entry["sha256"])
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
    if not (there or clips - known or (raw and at_hand)):
        return None
    buckets = {row["bucket"] for row in (stored if index else listed).values()}
    receipt: Receipt = {
        "dataset": data.name,
        "root": data.root,
        "clips": sorted(clips),
        "begun": _now(),
        "finished": None,
        "removed": {path: len(some) for path, some in held.items() if some},
        "shards": shards,
        "left_out": len(left_out),
        "deleted": [str(path) for path in places.whole] if there else [],
        "raw_deleted": at_hand if raw else [],
        "raw_kept": [] if raw else at_hand,
        "models": _trained_on(places.trains, buckets),
    }
    return receipt | {"to_do": remains(receipt)}


def _carry_out(path: Path, receipt: Receipt, places: Places, data: Data) -> None:
    """Do what a receipt plans, from wherever it was left; then mark the receipt finished."""
    if receipt["raw_deleted"] and receipt["root"] != data.root:
        raise DataError(
            f"{path}: was begun with data.root {receipt['root']}; run it with this root again"
        )
    clips = set(receipt["clips"])
    add_forgotten(places.forgotten, receipt["dataset"], clips)
    remove_samples(places.shards, clips)
    for table in places.tables:
        remove_rows(table, clips)
    for file in places.whole:
        if str(file) in receipt["deleted"]:
            file.unlink()
    for file in places.leavings:
        file.unlink()
    for name in receipt["raw_deleted"]:
        remove_raw(Path(data.root), name)
    index = read_contents(places.shards)[0] if places.shards.exists() else {}
    after = {entry["file"]: entry["sha256"] for entry in index.get("shards", [])}
    for name, entry in receipt["shards"].items():
        entry["after"] = after.get(name)
    receipt["finished"] = _now()
    _write(path, receipt)


def _listed(manifest: Path, clips: Set[str]) -> dict[str, dict[str, str]]:
    """Return path and bucket of the clips that the manifest has."""
    if not manifest.is_file():
        return {}
    rows = pq.read_table(manifest, columns=["clip", "path", "bucket"]).to_pylist()
    return {row["clip"]: row for row in rows if row["clip"] in clips}


def _check_known(unknown: Set[str], places: Places) -> None:
    if unknown:
        raise DataError(
            f"clip {', '.join(map(repr, sorted(unknown)[:5]))}: not in {places.manifest}, the "
            f"other tables, {places.shards} or {places.forgotten}"
        )


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
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(receipt, indent=2) + "\n", encoding="utf-8")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
