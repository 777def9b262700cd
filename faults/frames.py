"""The frame oracle: a run over a table of videos, each answer held against ffmpeg's own decoding.

    python -m faults.frames [--only WORD ...] [--out FILE] [--workers 2]

Makes every video of faults/frame_table.py, lets the project read its 16 frames with both decoders,
its windows as `predict` does, and its strips through the stages faces and shard; prints a line a
family. Without --only the figures are kept for docs/reliability.md. --out writes what became of
each file, as JSON. Ends with exit code 1 if an answer given as whole is wrong.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from faults.frame_stages import run_stages
from faults.frame_table import recipes
from faults.numbered import Recipe, make
from faults.oracle import Truth, Verdict, ask, describe, find_truth, judge, judge_film, refused
from faults.page import keep
from pipeline.decode import Decoder, load_decoder
from pipeline.tasks.engine import Failure, run_tasks

DECODERS: Final[tuple[Decoder, ...]] = ("decord", "pyav")
WAYS: Final = (*DECODERS, "windows", "strips")
"""The ways of an answer: 16 frames by either decoder, the windows of a film, a shard's strip."""

DEADLINE: Final = 120.0
"""Seconds a file."""


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD", help="names with this in")
    parser.add_argument("--out", type=Path, help="JSON file of what became of each video")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the children
    wanted = [
        recipe
        for recipe in recipes()
        if not options.only or any(word in recipe.name for word in options.only)
    ]
    scratch = Path(tempfile.mkdtemp(prefix="safe-frames-"))
    begun = time.monotonic()
    try:
        found = run(wanted, scratch, workers=options.workers)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    rows = tabulate(found)
    for row in rows:
        print(line(row))
    if not options.only:
        keep("frames", page(found, rows, seconds=time.monotonic() - begun))
    sys.exit(1 if any(row["wrong frames"] or row["wrong files"] for row in rows) else 0)


def run(wanted: list[Recipe], scratch: Path, *, workers: int) -> list[dict[str, Any]]:
    """Make and judge videos; return for each what `judge_file` does, with its strips."""
    folder = scratch / "videos"
    folder.mkdir(parents=True)
    tasks = run_tasks(
        partial(judge_file, folder=folder),
        wanted,
        workers=workers,
        deadline=DEADLINE,
        setup=load_decoder,
    )
    found = []
    for recipe, result in zip(wanted, tasks, strict=True):
        if isinstance(result, Failure):  # the child that read it crashed or hung
            path = folder / recipe.file
            verdicts = {way: refused(result.reason) for way in WAYS[:3]}
            result = _summarise(recipe, path, find_truth(path, recipe.area), verdicts)
        found.append(result)
    strips = run_stages(found, {recipe.name: recipe.area for recipe in wanted}, folder, workers)
    for one in found:
        one["strips"] = asdict(strips[one["name"]])
    return found


def judge_file(recipe: Recipe, *, folder: Path) -> dict[str, Any]:
    """Make a video and judge all that is said of it without the stages."""
    path = make(recipe, folder)
    truth = find_truth(path, recipe.area)
    answers = {decoder: ask(path, decoder) for decoder in DECODERS}
    verdicts = {way: judge(answer, truth, recipe.area) for way, answer in answers.items()}
    frames = [
        None if isinstance(one, str) or one.damage else one.frames for one in answers.values()
    ]
    if all(one is not None for one in frames) and not np.array_equal(*frames):
        verdicts["decord"].faults.append("other pixels than by pyav")
    verdicts["windows"] = judge_film(path, truth, recipe.area)
    return _summarise(recipe, path, truth, verdicts)


def _summarise(
    recipe: Recipe, path: Path, truth: Truth, verdicts: dict[str, Verdict]
) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "family": recipe.family,
        "file": path.name,
        "pixel format": recipe.pixels,
        **describe(truth),
        "numbers": truth.numbers,
        **{way: asdict(verdict) for way, verdict in verdicts.items()},
    }


def tabulate(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row a family, and one of all."""
    rows = []
    families = dict.fromkeys(one["family"] for one in found)
    for family in [*families, "all"]:
        part = [one for one in found if family in (one["family"], "all")]
        row: dict[str, Any] = {"family": family, "files": len(part)}
        row["not opened"] = sum(one["decord"]["outcome"] == "unknown" for one in part)
        for way in WAYS:
            verdicts = [Verdict(**one[way]) for one in part]
            came = Counter(verdict.outcome for verdict in verdicts)
            wrong = sum(verdict.wrong for verdict in verdicts if verdict.outcome == "whole")
            row[f"{way}: whole"] = came["whole"]
            row[f"{way}: not taken as whole"] = came["damaged"] + came["refused"]
            row[f"{way}: wrong frames"] = wrong
            row[f"{way}: wrong files"] = sum(verdict.is_wrong for verdict in verdicts)
        row["wrong frames"] = sum(row[f"{way}: wrong frames"] for way in WAYS)
        row["wrong files"] = sum(any(Verdict(**one[way]).is_wrong for way in WAYS) for one in part)
        rows.append(row)
    return rows


def line(row: dict[str, Any]) -> str:
    """Return what is printed of a family."""
    parts = [f"{row['family']}: {row['files']} files, {row['not opened']} not opened"]
    for way in WAYS:
        whole, other, frames, files = (
            row[f"{way}: {word}"]
            for word in ("whole", "not taken as whole", "wrong frames", "wrong files")
        )
        parts.append(
            f"{way} {whole} whole ({frames} wrong frames, {files} wrong files), {other} not"
        )
    return "; ".join(parts)


def page(
    found: list[dict[str, Any]], rows: list[dict[str, Any]], *, seconds: float
) -> dict[str, Any]:
    """Return what docs/reliability.md tells."""
    total = rows[-1]
    judged = sum(one[way]["judged"] for one in found for way in WAYS)
    taken = sum(total[f"{way}: not taken as whole"] for way in WAYS)
    return {
        "title": (
            f"The frame oracle: {total['wrong frames']:,} wrong frames in {total['files']:,} files"
        ),
        "note": (
            "Videos made by the ffmpeg program, each frame of which carries its number as squares; "
            "what is right is what the same program shows of them, in its order and with its time "
            "stamps. A frame is wrong if the answer is given as whole and the frame shows another "
            "number than the one at its place; a file is wrong if it has such a frame, another "
            "length, other places than the rule's, times that do not fit, or other pixels by one "
            "decoder than by the other."
        ),
        "summary": [
            f"{judged:,} frames judged, in {seconds:.0f} s: the 16 of a clip by decord and pyav, "
            "those of all windows of `predict`, those of the strips of `faces` and `shard`.",
            f"Wrong frames: {total['wrong frames']:,}; wrong files: {total['wrong files']:,}; "
            f"answers that do not take a whole file as whole: {taken:,}.",
        ],
        "rows": [
            {
                "family": row["family"],
                "files": row["files"],
                "not opened": row["not opened"],
                "not taken as whole": max(row[f"{way}: not taken as whole"] for way in WAYS),
                "wrong frames": row["wrong frames"],
                "wrong files": row["wrong files"],
            }
            for row in rows
        ],
    }


if __name__ == "__main__":
    main()
