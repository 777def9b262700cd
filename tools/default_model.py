"""The model that ships with SAFE: from nothing to safe/default, in one command.

    python -m tools.default_model [--folder FOLDER] [-S key=value ...]

Draws the heads of experiments/settings/default.yaml, trains, calibrates and evaluates in FOLDER
(some hours on two cores; stopped, it goes on from there), and packs weights, model card and record
into safe/default. record.json says of which code, seed and settings the weights are, their sha256
and their metrics on people never seen.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from safe.evaluation.sheet import hydra_text, read_settings
from safe.info import read_info
from safe.report.card import write_card
from safe.saved import file_digest
from tools.harness import ROOT, write_json

SETTINGS: Final = "default"
SHIPPED: Final = ROOT / "safe" / "default"
MADE: Final = {
    "synthesize": Path("data/raw/synthetic/Clip"),
    "index": Path("data/synthetic/manifest.parquet"),
    "shard": Path("data/synthetic/shards/index.json"),
    "train": Path("runs/synthetic/train/fold-1/model.json"),
    "calibrate": Path("runs/synthetic/calibrate/fold-1/model.json"),
    "eval": Path("runs/synthetic/eval/fold-1/metrics.json"),
    "summary": Path("results/metrics.json"),
}
"""What is there once a stage has ended."""
REAL: Final = ROOT / "tools" / "benchmarks" / "results" / "real_faces.json"
"""What `python -m tools.benchmarks.real_faces` found; the card tells it, if of these weights."""
CLASSES_SEEN: Final = 10  # windows, below which nothing is said of a class


def main() -> None:
    """Make the model, or go on making it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=ROOT / ".safe" / "default-model")
    parser.add_argument("-S", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    with chdir(ROOT):
        settings = read_settings(SETTINGS)
    changes = [f"{key}={hydra_text(value)}" for key, value in settings.items()] + args.changes
    args.folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "params.yaml", args.folder)
    for stage in MADE:
        if not (args.folder / MADE[stage]).exists():
            run_stage(stage, changes, args.folder)
    pack(args.folder, SHIPPED, changes)


def run_stage(stage: str, changes: list[str], folder: Path) -> None:
    """Run a stage with these parameters, in a process of its own."""
    words = [word for change in changes for word in ("-S", change)]
    done = subprocess.run(
        [sys.executable, "-m", "cli", stage, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    if done.returncode:
        sys.exit(f"{stage} ended with {done.returncode}; run this again to go on")


def pack(folder: Path, out: Path, changes: list[str]) -> None:
    """Put the calibrated model, its card and its record into `out`."""
    runs = folder / "runs" / "synthetic"
    model, evaluation = runs / "calibrate" / "fold-1", runs / "eval" / "fold-1"
    info = read_info(model / "model.json")
    metrics: dict[str, Any] = json.loads((evaluation / "metrics.json").read_text())
    with TemporaryDirectory(dir=out.parent) as scratch:
        made = Path(scratch, out.name)
        made.mkdir()
        for name in ("model.json", "model.safetensors"):
            shutil.copy(model / name, made / name)
        write_card(model, made / "card.md", evaluation=evaluation)
        if (
            REAL.is_file()
            and (real := json.loads(REAL.read_text()))["weights"] == (info["weights"]["sha256"])
        ):
            with (made / "card.md").open("a") as card:
                card.write(on_real_faces(real, info["classes"]))
        record = {
            "command": "python -m tools.default_model",
            "settings": [change for change in changes if not change.startswith("runtime.")],
            "commit": info["commit"],
            "seed": info["seed"],
            "sha256": {
                name: file_digest(made / name) for name in ("model.json", "model.safetensors")
            },
            "metrics": metrics,
        }
        write_json(made / "record.json", record)
        shutil.rmtree(out, ignore_errors=True)
        made.rename(out)
    print(f"{out}: WAR {metrics['war']:.2f}, UAR {metrics['uar']:.2f} of people never seen")


def on_real_faces(real: dict[str, Any], classes: list[str]) -> str:
    """Write what is known of the model on faces of real people, and what is not."""
    found = {one["what"]: one for one in real["metrics"]}
    agree = next(one for what, one in found.items() if what.startswith("windows: agreement"))
    kappa = found["windows: Cohen's kappa"]
    counts = dict(zip(classes, real["confusion"], strict=True))
    rows = "\n".join(
        f"| {name} | {sum(row)} | "
        + (f"{row[classes.index(name)]} of {sum(row)}" if sum(row) >= CLASSES_SEEN else "unproven")
        + " |"
        for name, row in counts.items()
    )
    return f"""
## On faces of real people

No face of a real person was used to make this model. What it says of some was compared with what
a network trained on photographs says (of the npm package `@vladmandic/face-api`, right of nine
portraits in ten), in windows of {real["people"]} people's videos of which that network is sure:
both say the same in {agree["value"]:.0f} % ({agree["low"]:.0f} to {agree["high"]:.0f}), Cohen's
kappa {kappa["value"]:.2f} ({kappa["low"]:.2f} to {kappa["high"]:.2f}); intervals over people. By
what that network says:

| class | windows | the model agrees |
| --- | ---: | ---: |
{rows}

A class with fewer than {CLASSES_SEEN} windows is unproven: it may be as bad as chance. People of
few kinds were tried, nearly all adults, in good light, and none of their videos had a label. A
mouth that is open or pursed, as in speech, is often called angry. Not for decisions about people.
"""


if __name__ == "__main__":
    main()
