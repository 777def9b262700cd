"""How long until an answer: the help, a pipeline with nothing to do, the first batch of the demo?

    make demo; python -m benchmarks.startup [--quick]

Whole processes, from their start to their end, in the project's folder after `make demo`.
"""

import argparse
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.report import interleaved, publish, spread

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent

# What `safe-cli train` does up to its first batch.
FIRST_BATCH = """
from pathlib import Path
from cli.layout import read
config, layout = read(Path("params.yaml"), None)
from safe.train import Trainer, load_batches, open_shards
trainer = Trainer(config, open_shards(layout.shards), config.data.folds[0])
options = {"workers": config.runtime.workers, "device": trainer.device}
print(len(next(load_batches(trainer.folder, trainer.plan(0), **options))["row"]))
"""


def run(command: list[str], *, says: str = "") -> None:
    """Run a command in the project's folder; it must succeed and say `says`."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode or says not in done.stdout:
        sys.exit(f"{' '.join(command[:3])}: {done.stderr or done.stdout}\nrun `make demo` first")


def main() -> None:
    """Time the three in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two rounds, published nowhere")
    args = parser.parse_args()
    seconds = interleaved(
        {
            "help": partial(run, [str(BIN / "safe-cli"), "--help"], says="train"),
            "repro": partial(run, [str(BIN / "dvc"), "repro"], says="up to date"),
            "batch": partial(run, [sys.executable, "-c", FIRST_BATCH]),
        },
        rounds=2 if args.quick else 9,
    )
    figures = [
        spread("`safe-cli --help`", seconds["help"], unit="s", most=0.4),
        spread("`dvc repro` with nothing to do, the demo", seconds["repro"], unit="s", most=1.5),
        spread("first batch of the demo, from nothing", seconds["batch"], unit="s", most=3),
    ]
    publish("startup", "Start-up", figures, note="Whole processes.", keep=not args.quick)


if __name__ == "__main__":
    main()
