"""What will a dataset cost on many machines, where does it break first, and is that true here?

    python -m tools.benchmarks.scale [--check] [--gpu-rate R] [--network GBIT] [--cores N] [--quick]

Measures what a clip takes here, part by part, on clips drawn for it (two to four minutes), and
prints what follows for whole datasets on 1, 8 and 64 nodes. `--check` draws 500 other clips of
another size, predicts each stage of their run, runs it through the command line, publishes both,
and writes the section of docs/scale.md anew. --gpu-rate is that of the paper's model on one GPU in
training, clips a second.
"""

import argparse
import json
import os
import tempfile
from math import inf
from pathlib import Path
from typing import Final

from safe.files import whole_file
from safe.models.registry import build_model
from safe.taxonomy import BASIC
from tools.benchmarks import scale_words as words
from tools.benchmarks.report import RESULTS, Figure, circumstances, publish, under
from tools.benchmarks.scale_model import Machines, Rates, here
from tools.benchmarks.scale_run import (
    CLIPS,
    STAGES,
    WORKERS,
    describe,
    draw,
    measure,
    read,
    run_stage,
)

PAGE: Final = Path(__file__).parents[2] / "docs" / "scale.md"
BEGIN, END = (f"<!-- {word} of `python -m tools.benchmarks.scale` -->" for word in ("begin", "end"))
TITLE: Final = "What a run costs: predicted and measured"
CHECKED: Final = (
    "A run of 500 drawn clips, through the command line, against what the model said of it before:"
)
WITHIN: Final = 0.25
"""Of the measured seconds, by which the sum of the predicted ones may be wrong."""
PAPER: Final = ("model.backbone=r3d_18", "model.hidden=512")
GPU_FIGURE: Final = "training step, bfloat16 channels_last_3d, batch 32"
"""Of tools/benchmarks/gpu.py: the paper's model on one GPU, clips a second."""


def check(
    scratch: Path, rates: Rates, looks: float, *, clips: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the seconds that a run of `clips` new clips is to take and takes, stage by stage."""
    project = scratch / "checked"
    sets = [*draw(project, clips=clips, size=224, seed=7), "train.epochs=2"]
    predicted = here(rates, describe(project, sets, looks=looks), cores=WORKERS)
    measured = {stage: run_stage(project, stage, sets) for stage in STAGES}
    predicted["sum"], measured["sum"] = sum(predicted.values()), sum(measured.values())
    return predicted, measured


def check_figures(predicted: dict[str, float], measured: dict[str, float]) -> list[Figure]:
    """Return the ratios, that of the sum with its bounds."""
    figures = []
    for stage, seconds in predicted.items():
        bounds = {"least": 1 - WITHIN, "most": 1 + WITHIN} if stage == "sum" else {}
        ratio = [seconds / measured[stage]] * 3
        figures.append(Figure(f"{stage}: predicted / measured", *ratio, **bounds))
    return figures


def gpu_rate(given: float | None) -> tuple[float, str]:
    """Return the clips a second of one GPU and where they are from; inf where nobody measured."""
    if given is not None:
        return given, f"{given:g} clips a second a GPU, as given"
    found = RESULTS / "gpu.json"
    for part in json.loads(found.read_text())["parts"] if found.exists() else []:
        for figure in part["figures"]:
            if figure["what"] == GPU_FIGURE:
                value = float(figure["value"])
                return value, f"{value:.0f} clips a second a GPU, from {found.name}"
    return inf, (
        "no GPU was measured yet, so hours are what cores and network take at the least; "
        "`--gpu-rate` takes a rate"
    )


def describe_machines(args: argparse.Namespace) -> tuple[Machines, str]:
    """Return the nodes that are asked for, and in words what was assumed."""
    rate, source = gpu_rate(args.gpu_rate)
    model = build_model(len(BASIC), **read(list(PAPER)).model.model_dump())
    machines = Machines(
        nodes=1,
        cores=args.cores,
        network=args.network * 1e3 / 8,
        gpu_rate=rate,
        gradient_mb=4 * sum(p.numel() for p in model.parameters()) / 1e6,
    )
    return machines, (
        f"Nodes of {args.cores} cores as those that were measured, one GPU and {args.network:g} "
        f"Gbit/s, {machines.batch} clips a GPU in a step, r3d_18 ({machines.gradient_mb:.0f} MB of "
        f"gradients); {source}. {words.learnt()}. Faces of {words.REAL['size']} pixels. Frames of "
        f"{words.REAL['megapixels']} megapixels, {words.REAL['looks']} looks of the detector a "
        f"clip and {words.RAW_KB:g} KB of video a frame are those of 40 short real clips; no clip "
        "of DFEW or FERV39k is here."
    )


def write_section(page: Path, text: str) -> None:
    """Put text between the two marks of a page, in place of what is there."""
    whole = page.read_text(encoding="utf-8")
    before, _, rest = whole.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{page}: has not both marks, {BEGIN} and {END}")
    with whole_file(page) as path:
        path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")
    print(f"{page} is written")


def main() -> None:
    """Measure, print the tables, and with --check hold them against a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="run 500 clips, publish, write page")
    parser.add_argument("--quick", action="store_true", help="few clips, published nowhere")
    parser.add_argument("--gpu-rate", type=float, help="clips a second that one GPU trains")
    parser.add_argument("--network", type=float, default=10.0, help="Gbit/s of a node")
    parser.add_argument("--cores", type=int, default=16, help="of a node")
    args = parser.parse_args()
    machines, assumed = describe_machines(args)
    few = {"clips": 35, "rounds": 1, "many": 1_000} if args.quick else {}
    before = f"The load of this machine was {os.getloadavg()[0]:.1f} when the measuring began."
    found = None
    with tempfile.TemporaryDirectory() as scratch:
        rates, looks = measure(Path(scratch), **few)
        if args.check:
            found = check(Path(scratch), rates, looks, clips=60 if args.quick else 500)
    parts = [assumed, words.hours_table(rates, machines), words.bytes_table(rates, machines)]
    parts.append(words.where_it_breaks(rates, machines))
    if found is not None:
        note = (
            f"{WORKERS} workers, model.backbone small, two epochs; rates from {2 * CLIPS} drawn "
            "clips of 128 and 288 pixels, checked on 500 others of 224. What each rate is says "
            f"tools/benchmarks/scale_model.py. {before}"
        )
        figures = [*words.rate_figures(rates), *check_figures(*found)]
        publish("scale", TITLE, figures, note=note, keep=not args.quick)
        made = under("python -m tools.benchmarks.scale --check", circumstances())
        parts += [CHECKED, words.check_table(*found), f"{made} {before}"]
    print("\n\n".join(parts))
    if found is not None and not args.quick:
        write_section(PAGE, "\n\n".join(parts))


if __name__ == "__main__":
    main()
