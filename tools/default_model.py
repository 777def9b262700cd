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
STAGES: Final = ("synthesize", "index", "shard", "train", "calibrate", "eval", "summary")
MADE: Final = {
    "synthesize": Path("data/raw/synthetic/Clip"),
    "index": Path("data/synthetic/manifest.parquet"),
    "shard": Path("data/synthetic/shards/index.json"),
}
"""What is there once a stage that takes no checkpoints has ended."""


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
    for stage in STAGES:
        if stage not in MADE or not (args.folder / MADE[stage]).exists():
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
        record = {
            "command": "python -m tools.default_model",
            "settings": changes,
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


if __name__ == "__main__":
    main()
