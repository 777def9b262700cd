"""The frame oracle: a run over a table of videos, each answer held against ffmpeg's own decoding.

    python -m tools.faults.frames [--only WORD ...] [--out FILE] [--workers 2]

Makes every video of tools/faults/frame_table.py, lets the project read its 16 frames with both
decoders, its windows as `predict` does, and its strips through the stages faces and shard; prints a
line a family. Without --only the counts are kept for docs/reliability.md. --out writes what became
of each file, as JSON. Ends with exit code 1 if an answer given as whole is wrong.
"""

import argparse
import json
import os
import sys
import tarfile
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline.face.cache import StripCache
from pipeline.face.table import read_faces
from pipeline.faces import Clip, Found, find_clip, find_faces, prepare
from pipeline.index import build_index
from pipeline.pool.children import Failure
from pipeline.pool.pool import Pool
from pipeline.shard import write_shards
from pipeline.video.decode import NOTES, Decoder, load_decoder
from safe.params import load_config
from safe.sample import decode_strip
from tools.faults.frame_table import recipes
from tools.faults.numbered import Area, Recipe, make, read_number
from tools.faults.oracle import (
    Truth,
    Verdict,
    ask,
    describe,
    find_truth,
    judge,
    judge_film,
    refused,
)
from tools.harness import ROOT, keep

DECODERS: Final[tuple[Decoder, ...]] = ("decord", "pyav")
WAYS: Final = (*DECODERS, "windows", "strips")
"""The ways of an answer: 16 frames by either decoder, the windows of a film, a shard's strip."""
DEADLINE: Final = 120.0
"""Seconds a file."""

_SIZE: Final = 96
_SETTINGS: Final = (
    *("data.name=own", "data.splits=clips.csv", "data.source=video", "data.folds=[1]"),
    *("faces.detect_size=64", "faces.threshold=0.99", "faces.missing=center"),
    *(f"shard.size={_SIZE}", "augment.crop=80", "shard.clips=200"),
)
"""Nothing is a face with this threshold, so the centre square is stored."""

Strips = dict[str, tuple[bytes, dict[str, Any]]]
"""JPEG and record of each clip."""


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD", help="names with this in")
    parser.add_argument("--out", type=Path, help="JSON file of what became of each video")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the children
    words = options.only or [""]
    wanted = [recipe for recipe in recipes() if any(word in recipe.name for word in words)]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="safe-frames-", ignore_cleanup_errors=True) as scratch:
        found = run(wanted, Path(scratch), workers=options.workers)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    rows = tabulate(found)
    for row in rows:
        print(line(row))
    if not options.only:
        keep("frames", page(found, rows, seconds=time.monotonic() - begun))
    sys.exit(any(row["wrong frames"] or row["wrong files"] for row in rows))


def run(wanted: list[Recipe], scratch: Path, *, workers: int) -> list[dict[str, Any]]:
    """Make and judge videos; return for each what `judge_file` does, with its strips."""
    folder = scratch / "videos"
    folder.mkdir(parents=True)
    work = partial(judge_file, folder=folder)
    pool = Pool(workers=workers, deadline=DEADLINE)
    found = []
    for recipe, result in zip(wanted, pool.run(work, wanted, setup=load_decoder), strict=True):
        if isinstance(result, Failure):  # the child that read it crashed or hung
            path = folder / recipe.file
            verdicts = {way: refused(result.reason) for way in WAYS[:3]}
            result = _summarise(recipe, path, find_truth(path, recipe.area), verdicts)
        found.append(result)
    strips = run_stages(found, {recipe.name: recipe.area for recipe in wanted}, folder, workers)
    return [one | {"strips": asdict(strips[one["name"]])} for one in found]


def judge_file(recipe: Recipe, *, folder: Path) -> dict[str, Any]:
    """Make a video and judge all that is said of it without the stages."""
    path = make(recipe, folder)
    truth = find_truth(path, recipe.area)
    answers = {decoder: ask(path, decoder) for decoder in DECODERS}
    verdicts = {way: judge(answer, truth, recipe.area) for way, answer in answers.items()}
    whole = [one.frames for one in answers.values() if not isinstance(one, str) and not one.damage]
    if len(whole) == 2 and not np.array_equal(*whole):
        verdicts["decord"].faults.append("other pixels than by pyav")
    verdicts["windows"] = judge_film(path, truth, recipe.area)
    return _summarise(recipe, path, truth, verdicts)


def _summarise(
    recipe: Recipe, path: Path, truth: Truth, verdicts: dict[str, Verdict]
) -> dict[str, Any]:
    about = {"name": recipe.name, "family": recipe.family, "file": path.name}
    about |= {"pixel format": recipe.pixels, "numbers": truth.numbers}
    return about | describe(truth) | {way: asdict(verdict) for way, verdict in verdicts.items()}


# The strips of the stages faces and shard: those made by `shard` alone, those taken from the strip
# cache, and those made with pyav must be the same bytes.


def run_stages(
    found: list[dict[str, Any]], areas: dict[str, Area], folder: Path, workers: int
) -> dict[str, Verdict]:
    """Take videos through index, faces and shard; return a verdict on the strip of each.

    Args:
        found: of each video its `name`, its `file` in the folder and the `numbers` it shows.
        areas: where the squares of each are, by name.
        folder: of the videos; what the stages write is put beside it.
        workers: processes.
    """
    config = load_config(ROOT / "params.yaml", [f"data.root={folder}", *_SETTINGS])
    data = folder.parent / "data"
    data.mkdir()
    lines = [
        f"{one['file']},{('happy,train', 'sad,test')[k % 2]},{one['name']}"
        for k, one in enumerate(found)
    ]
    (folder / "clips.csv").write_text("\n".join(["path,label,split,clip", *lines]) + "\n")
    manifest, table = data / "manifest.parquet", data / "faces.parquet"
    build_index(config.data, manifest)
    pool = Pool(workers=workers, deadline=60.0)
    cache = StripCache(data / "cache.zip", config.shard)
    find_faces(manifest, folder, table, settings=config.faces, cache=cache, pool=pool)
    stages: dict[str, Any] = {
        "settings": config.shard,
        "faces_settings": config.faces,
        "pool": pool,
    }
    write_shards(manifest, table, folder, data / "alone", cache=None, **stages)
    write_shards(manifest, table, folder, data / "cached", cache=cache.path, **stages)
    if cache.path.exists():  # what is taken is deleted
        raise RuntimeError("the strip cache was not taken")
    strips, again = read_strips(data / "alone"), read_strips(data / "cached")
    by_pyav = pool.run(
        partial(find_clip, root=folder, settings=config.faces, strip=config.shard, decoder="pyav"),
        [Clip(one["file"], "video") for one in found],
        setup=partial(prepare, config.faces),
    )
    rows = {row["clip"]: row for row in read_faces(table).to_pylist()}
    verdicts = {}
    for one, other in zip(found, by_pyav, strict=True):
        name = one["name"]
        verdict = _judge(rows[name], strips.get(name), one["numbers"], areas[name])
        if strips.get(name) != again.get(name):
            verdict.faults.append("another strip from the strip cache")
        theirs = other.strip if isinstance(other, Found) else None
        if name in strips and strips[name][0] != theirs and verdict.outcome == "whole":
            verdict.faults.append("another strip by pyav")
        verdicts[name] = verdict
    return verdicts


def read_strips(shards: Path) -> Strips:
    """Return the JPEG and the record of each clip in a shard folder."""
    strips = {}
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member) for member in tar}
            content = {name: file.read() for name, file in members.items() if file is not None}
        for name in content:
            if name.endswith(".jpg"):
                key = name.removesuffix(".jpg")
                strips[key] = content[name], json.loads(content[f"{key}.json"])
    return strips


def _judge(
    row: dict[str, Any],
    strip: tuple[bytes, dict[str, Any]] | None,
    numbers: list[int],
    area: Area,
) -> Verdict:
    """Judge the strip of a clip by its row in faces.parquet and the numbers that ffmpeg shows."""
    if strip is None:
        return refused(row["reason"])
    told = row["reason"].split("; ")  # what was done about a sound picture is no damage
    damage = "; ".join(part for part in told if part not in ("", "no face in any frame", *NOTES))
    verdict = Verdict("damaged" if damage else "whole", damage)
    jpeg, record = strip
    if record["n_frames"] != len(numbers):
        verdict.faults.append(f"{record['n_frames']} frames, not {len(numbers)}")
    faces = decode_strip(jpeg, _SIZE)
    for face, index, box in zip(faces, record["frame_index"], record["box"], strict=True):
        known = numbers[index] if index < len(numbers) else -2
        if known == -1:
            continue
        within = area.within(box, record["width"], record["height"])
        verdict.judged += 1
        verdict.wrong += read_number(face, within) != known
    return verdict


# What is told


def tabulate(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row a family, and one of all."""
    rows = []
    families = dict.fromkeys(one["family"] for one in found)
    for family in [*families, "all"]:
        part = [one for one in found if family in (one["family"], "all")]
        row: dict[str, Any] = {"family": family, "files": len(part)}
        row["not opened"] = sum(one["decord"]["outcome"] == "unknown" for one in part)
        wrong: set[str | int] = set()
        for way in WAYS:
            verdicts = [Verdict(**one[way]) for one in part]
            came = Counter(verdict.outcome for verdict in verdicts)
            bad = {k for k, verdict in enumerate(verdicts) if verdict.is_wrong}
            wrong |= bad
            row[f"{way}: whole"] = came["whole"]
            row[f"{way}: not taken as whole"] = came["damaged"] + came["refused"]
            frames = (verdict.wrong for verdict in verdicts if verdict.outcome == "whole")
            row[f"{way}: wrong frames"] = sum(frames)
            row[f"{way}: wrong files"] = len(bad)
        row["wrong frames"] = sum(row[f"{way}: wrong frames"] for way in WAYS)
        row["wrong files"] = len(wrong)
        rows.append(row)
    return rows


def line(row: dict[str, Any]) -> str:
    """Return what is printed of a family."""
    parts = [f"{row['family']}: {row['files']} files, {row['not opened']} not opened"]
    for way in WAYS:
        names = ("whole", "wrong frames", "wrong files", "not taken as whole")
        said = (f"{row[f'{way}: {name}']} {name}" for name in names)
        parts.append(f"{way} {', '.join(said)}")
    return "; ".join(parts)


def page(
    found: list[dict[str, Any]], rows: list[dict[str, Any]], *, seconds: float
) -> dict[str, Any]:
    """Return what docs/reliability.md tells."""
    total = rows[-1]
    judged = sum(one[way]["judged"] for one in found for way in WAYS)
    taken = sum(total[f"{way}: not taken as whole"] for way in WAYS)
    wrong = f"{total['wrong frames']:,} wrong frames"
    few = ("family", "files", "not opened", "wrong frames", "wrong files")
    return {
        "title": f"The frame oracle: {wrong} in {total['files']:,} files",
        "note": (
            "Videos made by the ffmpeg program, each frame of which carries its number as squares; "
            "what is right is what the same program shows of them, in its order and with its time "
            "stamps. A frame is wrong if the answer is given as whole and the frame shows another "
            "number than the one at its position; a file is wrong if it has such a frame, another "
            "length, other positions than the rule's, times that do not fit, or other pixels by "
            "one decoder than by the other."
        ),
        "summary": [
            f"{judged:,} frames judged, in {seconds:.0f} s: the 16 of a clip by decord and pyav, "
            "those of all windows of `predict`, those of the strips of `faces` and `shard`.",
            f"{wrong}; wrong files: {total['wrong files']:,}; "
            f"answers that do not take a whole file as whole: {taken:,}.",
        ],
        "rows": [
            {name: row[name] for name in few[:3]}
            | {"not taken as whole": max(row[f"{way}: not taken as whole"] for way in WAYS)}
            | {name: row[name] for name in few[3:]}
            for row in rows
        ],
    }


if __name__ == "__main__":
    main()
