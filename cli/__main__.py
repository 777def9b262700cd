"""Which verbs does `safe-cli` have, and how does an error reach the user?

Each verb reads params.yaml, calls one function of pipeline or safe, and says in a line what came
out. Heavy imports are inside the verbs, so that `--help` answers at once.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from safe.errors import DISK_EXIT_CODE, SafeError, explain

app = typer.Typer(
    help="SAFE: from raw video clips to a trained and evaluated expression recogniser.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Params = Annotated[Path, typer.Option(help="The file of parameters.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "-S", "--set", metavar="KEY=VALUE", help="Override a parameter, as `dvc exp run -S` does."
    ),
]
Fold = Annotated[int | None, typer.Option(min=1, help="One fold; without it, all of data.folds.")]

PARAMS = Path("params.yaml")
EXPERIMENTS = Path("results", "experiments")


@app.command()
def synthesize(params: Params = PARAMS, set_: Set = None) -> None:
    """Make the embedded data set: animated faces as mp4 clips in DFEW's layout."""
    from cli.stages import run_synthesize

    run_synthesize(params, set_)


@app.command()
def index(params: Params = PARAMS, set_: Set = None) -> None:
    """List the dataset's clips with label and bucket: manifest.parquet."""
    from cli.stages import run_index

    run_index(params, set_)


@app.command()
def faces(params: Params = PARAMS, set_: Set = None) -> None:
    """Find the one face of every clip, frame by frame: faces.parquet."""
    from cli.stages import run_faces

    run_faces(params, set_)


@app.command()
def shard(params: Params = PARAMS, set_: Set = None) -> None:
    """Crop the faces and pack them into tar shards; runs index and faces first where missing."""
    from cli.stages import run_shard

    run_shard(params, set_)


@app.command()
def train(fold: Fold = None, params: Params = PARAMS, set_: Set = None) -> None:
    """Train on the shards; goes on from the last checkpoint of the same run."""
    from cli.runs import run_train

    run_train(params, set_, fold)


@app.command("eval")
def evaluate(fold: Fold = None, params: Params = PARAMS, set_: Set = None) -> None:
    """Run a trained model over its test split: predictions.parquet and metrics.json."""
    from cli.runs import run_eval

    run_eval(params, set_, fold)


@app.command()
def summary(params: Params = PARAMS, set_: Set = None) -> None:
    """Bring the folds together: results/metrics.json and the tables of `dvc plots`."""
    from cli.runs import run_summary

    run_summary(params, set_)


@app.command()
def forget(
    clips: Annotated[list[str] | None, typer.Argument(metavar="CLIP...", help="Keys.")] = None,
    file: Annotated[Path | None, typer.Option(help="A list of more keys, one a line.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Delete the raw clips too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    params: Params = PARAMS,
    set_: Set = None,
) -> None:
    """Take clips out of all that was made from them, for good: faces are biometric data."""
    from cli.forget import run_forget

    run_forget(params, set_, clips or [], file, raw=raw, dry_run=dry_run)


@app.command()
def cost(
    measure: Annotated[bool, typer.Option(help="Also time it on runtime.device.")] = False,
    params: Params = PARAMS,
    set_: Set = None,
) -> None:
    """Count a model's parameters and multiply-adds a clip, beside the baseline and one pass."""
    from cli.runs import run_cost

    run_cost(params, set_, measure=measure)


experiments = typer.Typer(
    help="The paper's tables and figures: list them, queue their runs in DVC, show what came out.",
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
    if "DVC_ROOT" in os.environ:  # a stage: DVC that is killed would leave it running
        from safe.process import die_with_parent

        die_with_parent()
    try:
        app()
    except SafeError as error:
        sys.stderr.write(f"safe-cli: {error}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        sys.stderr.write(f"safe-cli: {explain(error)}\n")
        sys.exit(DISK_EXIT_CODE)
    except KeyboardInterrupt:
        sys.stderr.write("safe-cli: stopped\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
