"""Which verbs does `safe-cli` have, and how does an error reach the user?

Each verb reads params.yaml, calls one function of pipeline or safe, and says in a line what came
out. Heavy imports are inside the verbs, so that `--help` answers at once. The verbs here are the
stages, in their order; those about what is finished are in cli/finished.py.
"""

import os
import sys
import time
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cli.finished import FINISHED
from cli.options import PARAMS, Fold, Params, Set
from safe.errors import DISK_EXIT_CODE, SafeError, explain

EXPERIMENTS = Path("results", "experiments")

app = typer.Typer(
    help="SAFE: from raw video clips to a trained and evaluated expression recogniser.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def synthesize(params: Params = PARAMS, set_: Set = None) -> None:
    """Draw the synthetic data set: animated faces in DFEW's layout."""
    from cli.stages import run_synthesize

    run_synthesize(params, set_)


@app.command()
def index(params: Params = PARAMS, set_: Set = None) -> None:
    """List the clips with label and bucket: manifest.parquet."""
    from cli.stages import run_index

    run_index(params, set_)


@app.command()
def faces(params: Params = PARAMS, set_: Set = None) -> None:
    """Find the one face of every clip: faces.parquet."""
    from cli.stages import run_faces

    run_faces(params, set_)


@app.command()
def shard(params: Params = PARAMS, set_: Set = None) -> None:
    """Crop the faces and pack them into tar shards.

    Runs index and faces first where their tables are missing; sends the shards to runtime.shards,
    if that is a URL.
    """
    from cli.stages import run_shard

    run_shard(params, set_)


@app.command()
def train(
    fold: Fold = None,
    params: Params = PARAMS,
    set_: Set = None,
    nproc: Annotated[
        int, typer.Option(min=1, help="Ranks on this machine: one a GPU. torchrun starts more.")
    ] = 1,
) -> None:
    """Train on the shards, or go on from the last checkpoint."""
    from cli.runs import run_train

    run_train(params, set_, fold, nproc)


@app.command()
def calibrate(fold: Fold = None, params: Params = PARAMS, set_: Set = None) -> None:
    """Fit probabilities, sets and abstention on held-out clips.

    They are those of the selection split; without one (train.select) nothing is fitted.
    """
    from cli.runs import run_calibrate

    run_calibrate(params, set_, fold)


@app.command("eval")
def evaluate(fold: Fold = None, params: Params = PARAMS, set_: Set = None) -> None:
    """Run a model over its test split: predictions and metrics."""
    from cli.runs import run_eval

    run_eval(params, set_, fold)


@app.command()
def summary(params: Params = PARAMS, set_: Set = None) -> None:
    """Bring the folds together: results/metrics.json and plots."""
    from cli.runs import run_summary

    run_summary(params, set_)


for verb in FINISHED:
    app.command()(verb)

experiments = typer.Typer(
    help="The paper's tables and figures: list, queue, table.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(experiments, name="experiments")

Name = Annotated[str, typer.Argument(help="Of a sheet: one of those that `list` shows.")]
With = Annotated[
    str | None,
    typer.Option(
        "--with",
        metavar="SETTINGS",
        help="Parameters of every run: experiments/settings/SETTINGS.yaml, or a path.",
    ),
]


@experiments.command("list")
def list_() -> None:
    """Show a line for each sheet: name, place in the paper, title, number of runs."""
    from cli.experiments import run_list

    run_list()


@experiments.command()
def queue(
    name: Name,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the commands.")] = False,
    with_: With = None,
    set_: Set = None,
) -> None:
    """Put the runs of a sheet into DVC's queue; those that DVC holds are left out."""
    from cli.experiments import run_queue

    run_queue(name, with_, set_, dry_run=dry_run)


@experiments.command()
def table(
    name: Name,
    with_: With = None,
    set_: Set = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = EXPERIMENTS,
) -> None:
    """Show what came out of a sheet's runs, beside the paper; with the options of `queue`."""
    from cli.experiments import run_table

    run_table(name, with_, set_, out)


def main() -> None:
    """Run a verb; an error of the user's or of the system becomes one line and an exit code."""
    # A stage, or a rank: DVC or a launcher that is killed would leave it running.
    if "DVC_ROOT" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:
        from safe.process import die_with_parent

        die_with_parent()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except SafeError as error:
        _end(str(error), error.exit_code)
    except OSError as error:
        _end(explain(error), DISK_EXIT_CODE)
    except KeyboardInterrupt:
        sys.stderr.write("safe-cli: stopped\n")
        sys.exit(130)


def _end(line: str, code: int) -> NoReturn:
    """Say what is wrong and end; of several ranks that all met it, the first alone says it."""
    if os.environ.get("RANK", "0") != "0":
        time.sleep(2)  # its launcher ends this process when the first has ended
    sys.stderr.write(f"safe-cli: {line}\n")
    if "RANK" in os.environ:
        os._exit(code)  # to take down the connections to other ranks may hang or abort
    sys.exit(code)
