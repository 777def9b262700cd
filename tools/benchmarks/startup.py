"""How long until an answer: the help, a pipeline with nothing to do, the first batch of the demo?

    make demo; python -m tools.benchmarks.startup [--quick]

Whole processes, from their start to their end, in the project's folder after `make demo`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from tools.benchmarks.report import interleaved, publish, spread

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

# `safe-cli train` up to a call, in a folder of its own that has the demo's data.
UNTIL = f"""
import os
from pathlib import Path
import cli.stages, safe.training.train
from safe.training.loop import Trainer
load, step = safe.training.train.load_batches, Trainer.train_step
def end(found):
    print("got here", flush=True)
    os._exit(0)
{{}}
Path("data").symlink_to({str(ROOT / "data")!r})
cli.stages.run_train(Path({str(ROOT / "params.yaml")!r}), None, 1)
"""
DVC = "import networkx, pyparsing, dvc.cli.parser, dvc.repo; print('here')"
TORCH = "import torch; print('here')"
FIRST_BATCH = (
    "safe.training.train.load_batches = lambda *args, **options: end(next(load(*args, **options)))"
)
FIRST_STEP = "Trainer.train_step = lambda *args: end(step(*args))"


def run(command: list[str], *, says: str, folder: Path = ROOT) -> None:
    """Run a command in a folder, the project's; it must succeed and say `says`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode or says not in done.stdout:
        sys.exit(f"{' '.join(command[:3])}: {done.stderr or done.stdout}\nrun `make demo` first")


def train_until(call: str) -> None:
    """Start a training and stop it after a call."""
    with tempfile.TemporaryDirectory() as folder:
        run([sys.executable, "-c", UNTIL.format(call)], says="got here", folder=Path(folder))


def main() -> None:
    """Time all in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two rounds, published nowhere")
    args = parser.parse_args()
    seconds = interleaved(
        {
            "help": partial(run, [str(BIN / "safe-cli"), "--help"], says="train"),
            "repro": partial(run, [str(BIN / "dvc"), "repro"], says="up to date"),
            "dvc": partial(run, [sys.executable, "-c", DVC], says="here"),
            "batch": partial(train_until, FIRST_BATCH),
            "torch": partial(run, [sys.executable, "-c", TORCH], says="here"),
            "step": partial(train_until, FIRST_STEP),
        },
        rounds=2 if args.quick else 7,
    )
    figures = [
        spread("`safe-cli --help`", seconds["help"], unit="s", most=0.4),
        spread("`dvc repro` with nothing to do, the demo", seconds["repro"], unit="s", most=1.5),
        spread("of it: what DVC imports, alone", seconds["dvc"], unit="s"),
        spread("first batch of the demo in `safe-cli train`", seconds["batch"], unit="s", most=3),
        spread("of it: `import torch`, alone", seconds["torch"], unit="s"),
        spread("first step of the demo in `safe-cli train`", seconds["step"], unit="s"),
    ]
    publish("startup", "Start-up", figures, note="Whole processes.", keep=not args.quick)


if __name__ == "__main__":
    main()
