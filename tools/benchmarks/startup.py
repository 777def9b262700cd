"""The time until an answer: the help, a pipeline with nothing to do, the demo's first batch.

    make demo; python -m tools.benchmarks.startup [--quick]

Whole processes, from their start to their end, in the project's folder after `make demo`.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

from tools.harness import ROOT, arguments, interleaved, publish, run, spread

BIN = Path(sys.executable).parent

# `safe-cli train` up to a call, in a folder of its own that has the demo's data.
UNTIL = f"""
import os
from pathlib import Path
import cli.stages, safe.training.train
from safe.training.loop import Trainer
load, step = safe.training.train.load_batches, Trainer.train_step
def end(found):
    print("here", flush=True)
    os._exit(0)
{{}}
Path("data").symlink_to({str(ROOT / "data")!r})
cli.stages.run_train(Path({str(ROOT / "params.yaml")!r}), None, 1)
"""
FIRST_BATCH = (
    "safe.training.train.load_batches = lambda *args, **options: end(next(load(*args, **options)))"
)
FIRST_STEP = "Trainer.train_step = lambda *args: end(step(*args))"


def python(text: str) -> None:
    """Run a program in a folder of its own; it must end by saying that it got there."""
    with tempfile.TemporaryDirectory() as folder:
        run([sys.executable, "-c", text], says="here", folder=Path(folder))


def main() -> None:
    """Time all in turn."""
    quick = arguments(__doc__, "two rounds").parse_args().quick
    dvc = "import networkx, pyparsing, dvc.cli.parser, dvc.repo; print('here')"
    seconds = interleaved(
        {
            "help": partial(run, [str(BIN / "safe-cli"), "--help"], says="train"),
            "repro": partial(run, [str(BIN / "dvc"), "repro"], says="up to date"),
            "dvc": partial(python, dvc),
            "batch": partial(python, UNTIL.format(FIRST_BATCH)),
            "torch": partial(python, "import torch; print('here')"),
            "step": partial(python, UNTIL.format(FIRST_STEP)),
        },
        rounds=2 if quick else 7,
    )
    measured = [
        spread("`safe-cli --help`", seconds["help"], unit="s", most=0.4),
        spread("`dvc repro` with nothing to do, the demo", seconds["repro"], unit="s", most=1.5),
        spread("of it: what DVC imports, alone", seconds["dvc"], unit="s"),
        spread("first batch of the demo in `safe-cli train`", seconds["batch"], unit="s", most=3),
        spread("of it: `import torch`, alone", seconds["torch"], unit="s"),
        spread("first step of the demo in `safe-cli train`", seconds["step"], unit="s"),
    ]
    publish("startup", "Start-up", measured, note="Whole processes.", quick=quick)


if __name__ == "__main__":
    main()
