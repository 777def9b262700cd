"""How do the model's answers read: hours, bytes, requests, and where it breaks first?"""

from dataclasses import fields, replace
from math import isinf
from typing import Final

from tools.benchmarks.report import Figure
from tools.benchmarks.scale_model import (
    Machines,
    Rates,
    Work,
    breaks,
    clip_seconds,
    faces,
    index,
    push,
    requests,
    shard,
    strip_mb,
    train,
)

REAL: Final = {"megapixels": 0.48, "looks": 7.7, "size": 128}
"""Of 40 short clips of real faces: their frames, and how often the detector looked. Neither DFEW
nor FERV39k is here. The side of a face is the paper's."""
RAW_KB: Final = 3.0
"""KB a frame of the same clips' files."""


def _work(name: str, clips: int, frames: float, **more: int) -> Work:
    return Work(name=name, clips=clips, frames=frames, raw_mb=frames * RAW_KB / 1e3, **more, **REAL)


WORKS: Final = (
    _work("DFEW", 11_697, 77.1, trained=8_420, folds=5, epochs=200),
    _work("FERV39k", 38_935, 28.0, trained=27_980, epochs=200),
    _work("like DFEW", 10**7, 77.1, trained=8 * 10**6, epochs=10),
)
"""Clips, mean lengths and how many are learnt (train.val_from: clips; of DFEW the mean over folds)
are those of the official lists; the third has clips as DFEW's."""

NODES: Final = (1, 8, 64)


def rate_figures(rates: Rates) -> list[Figure]:
    """Return the rates as figures, in their order; what each means stands in model.Rates."""
    figures = [
        Figure(f"start of `{stage}`", *[seconds] * 3, unit="s")
        for stage, seconds in rates.start.items()
    ]
    for field in fields(Rates)[1:]:
        value = getattr(rates, field.name)
        is_mb = field.name in ("memory", "index", "table", "strip_mb")
        scale, unit = (1.0, "MB") if field.name == "strip_mb" else (1e3, "KB" if is_mb else "ms")
        figures.append(Figure(f"`{field.name}`", *[scale * value] * 3, unit=unit))
    return figures


def learnt() -> str:
    """Say how often how many clips of each dataset are learnt."""
    folds = {work.name: f"{work.folds} folds of " * (work.folds > 1) for work in WORKS}
    return "; ".join(
        f"{work.name}: {folds[work.name]}{work.epochs} epochs of {work.trained:,} clips"
        for work in WORKS
    )


def hours_table(rates: Rates, machines: Machines) -> str:
    """Return hours and what bounds them, for each dataset on each number of nodes."""
    lines = [
        "| clips | nodes | index | faces | bound by | shard | core-hours | "
        f"{'train' if not isinf(machines.gpu_rate) else 'train, at least'} | bound by |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for work in WORKS:
        for nodes in NODES:
            these = replace(machines, nodes=nodes)
            listed, found = index(rates, work, these), faces(rates, work, these)
            packed, trained = shard(rates, work, these), train(rates, work, these)
            cores = (listed.core_seconds + found.core_seconds + packed.core_seconds) / 3600
            lines.append(
                f"| {work.name}, {work.clips:,} | {nodes} | {duration(listed.seconds)} | "
                f"{duration(found.seconds)} | {found.bound} | {duration(packed.seconds)} | "
                f"{cores:,.{1 if cores < 100 else 0}f} | {duration(trained.seconds)} | "
                f"{trained.bound} |"
            )
    return "\n".join(lines)


def bytes_table(rates: Rates, machines: Machines) -> str:
    """Return bytes and requests of each dataset."""
    lines = [
        "| clips | videos | tars | number | index.json | clips.parquet | push | requests: push | "
        + " | ".join(f"an epoch, {nodes} node{'s' * (nodes > 1)}" for nodes in NODES)
        + " | memory of `shard` |",
        "| --- " * (9 + len(NODES)) + "|",
    ]
    for work in WORKS:
        asked = [requests(rates, work, replace(machines, nodes=nodes)) for nodes in NODES]
        cells = [
            f"{work.name}, {work.clips:,}",
            size(work.clips * work.raw_mb),
            size(work.clips * strip_mb(rates, work)),
            f"{work.tars:,}",
            size(work.tars * rates.index),
            size(work.clips * rates.table),
            duration(push(rates, work, machines)),
            f"{asked[0][0]:,}",
            *(f"{reads:,}" for _, reads in asked),
            size(work.clips * rates.memory),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def where_it_breaks(rates: Rates, machines: Machines) -> str:
    """Say where each part of the design ends, the nearest first, for clips as DFEW's."""
    work = WORKS[0]
    found = breaks(rates, work, machines)
    raw_mb, most = 3 * work.strip, machines.gpu_rate
    each = f"{1e3 * clip_seconds(rates, work):.0f} ms of a core a clip"
    nodes = sorted(
        [
            (
                found.packing,
                f"`shard` is one process: with {found.packing:.1f} nodes it takes as long as "
                "`faces`, and with more it takes longer",
            ),
            (
                found.nodes,
                f"`faces` is no faster with more than {found.nodes:.0f} nodes: its driver, through "
                "which all strips go, then works all the time",
            ),
        ]
    )
    clips = sorted(
        [
            (
                found.memory,
                "the driver of `shard`, which holds a row of each clip and the list of its strips, "
                f"fills 64 GB at {count(found.memory)} clips",
            ),
            (
                found.index,
                "index.json or clips.parquet is larger than its reader allows at "
                f"{count(found.index)} clips",
            ),
        ]
    )
    gpus = [
        f"The cores of a node decode {count(found.loader)} clips a second for its GPUs",
        f"Each rank gathers the faces of all ({raw_mb:.2f} MB a clip), so all GPUs together "
        f"train at most {count(found.gather)} clips a second",
    ]
    if not isinf(most):
        gpus[1] += f", what {found.gather / most:.1f} GPUs of {most:.0f} clips a second would"
    gpus.append(
        f"The gradients take {found.summing:.2g} s of each step, however many nodes there are, for "
        f"{machines.batch} clips a GPU"
    )
    parts = [
        f"Nodes of {machines.cores} cores; {each}.",
        f"By nodes, first {'; then '.join(text for _, text in nodes)}.",
        f"By clips, first {'; then '.join(text for at, text in clips if not isinf(at))}.",
        f"In training: {'. '.join(gpus)}.",
    ]
    return " ".join(parts)


def duration(seconds: float) -> str:
    """Write seconds in the unit that a person would choose."""
    for least, unit, name in ((86_400 * 2, 86_400, "d"), (3_600, 3_600, "h"), (60, 60, "min")):
        if seconds >= least:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.2g} s"


def size(mb: float) -> str:
    """Write MB in the unit that a person would choose; units of ten."""
    for unit, name in ((1e6, "TB"), (1e3, "GB"), (1.0, "MB")):
        if mb >= unit:
            return f"{mb / unit:.3g} {name}"
    return f"{mb * 1e3:.3g} KB"


def count(number: float) -> str:
    """Write a count with two digits that mean something."""
    return f"{number / 1e6:.2g} million" if number >= 1e6 else f"{float(f'{number:.2g}'):,.0f}"


def check_table(predicted: dict[str, float], measured: dict[str, float]) -> str:
    """Return the seconds of each stage as they were predicted and as they were."""
    lines = ["| stage | predicted | measured | ratio |", "| --- | --- | --- | --- |"]
    for stage, seconds in predicted.items():
        lines.append(
            f"| {stage} | {seconds:.1f} s | {measured[stage]:.1f} s | "
            f"{seconds / measured[stage]:.2f} |"
        )
    return "\n".join(lines)
