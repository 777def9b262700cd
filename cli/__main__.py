"""Which verbs does `safe-cli` have, and how does an error reach the user?

Each verb reads params.yaml, calls one function of pipeline or safe, and says in a line what came
out. Heavy imports are inside the verbs, so that `--help` answers at once.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

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
Model = Annotated[
    Path, typer.Option("--model", metavar="RUN", help="A model folder, or runs/<name>.")
]
Fold = Annotated[int | None, typer.Option(min=1, help="One fold; without it, all of data.folds.")]

PARAMS = Path("params.yaml")
EXPERIMENTS = Path("results", "experiments")
REPORT = Path("results", "report.html")


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


@app.command()
def calibrate(fold: Fold = None, params: Params = PARAMS, set_: Set = None) -> None:
    """Fit probabilities, prediction sets and abstention on the selection split."""
    from cli.runs import run_calibrate

    run_calibrate(params, set_, fold)


@app.command("eval")
def evaluate(fold: Fold = None, params: Params = PARAMS, set_: Set = None) -> None:
    """Run a trained model over its test split: predictions.parquet and metrics.json."""
    from cli.runs import run_eval

    run_eval(params, set_, fold)


@app.command()
def votes(params: Params = PARAMS, set_: Set = None) -> None:
    """Hold a run's probabilities against the ten votes a clip that come with DFEW."""
    from cli.votes import run_votes

    run_votes(params, set_)


@app.command()
def summary(params: Params = PARAMS, set_: Set = None) -> None:
    """Bring the folds together: results/metrics.json and the tables of `dvc plots`."""
    from cli.runs import run_summary

    run_summary(params, set_)


@app.command()
def predict(
    videos: Annotated[
        list[str],
        typer.Argument(metavar="VIDEO...", help="Files, folders (all below), quoted patterns."),
    ],
    model: Annotated[
        Path, typer.Option(metavar="RUN", help="A run, such as runs/synthetic, or a model folder.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("predictions"),
    format_: Annotated[
        Literal["jsonl", "parquet"], typer.Option("--format", help="Of the tables.")
    ] = "jsonl",
    face: Annotated[Literal["largest", "all"], typer.Option(help="Which faces to follow.")] = "all",
    window: Annotated[float, typer.Option(help="Seconds that an answer is about.")] = 2.8,
    hop: Annotated[
        float | None, typer.Option(help="Seconds from window to window; half a window by default.")
    ] = None,
    video: Annotated[
        bool, typer.Option("--video", help="Also write an annotated mp4, without sound.")
    ] = False,
    no_timeline: Annotated[
        bool, typer.Option("--no-timeline", help="Write no timeline picture.")
    ] = False,
    other_crops: Annotated[
        bool,
        typer.Option("--other-crops", help="Allow a model trained on faces cut out by others."),
    ] = False,
    batch: Annotated[int, typer.Option(help="Windows that the model sees at once.")] = 16,
    workers: Annotated[int, typer.Option(help="Processes that decode and find faces.")] = 2,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    deadline: Annotated[
        float, typer.Option(help="Seconds after which the work on a piece of video is killed.")
    ] = 60.0,
    memory: Annotated[float, typer.Option(help="GiB that this work may take.")] = 4.0,
) -> None:
    """Say which expression is apparent on the faces of any video: tables, timelines, videos.

    An answer is about a window of a face's time: a calibrated probability for each class, a
    decision or `abstain`, and what was wrong with the pictures. Apparent expression is how a face
    looks to people, not what a person feels.
    """
    from cli.predict import run_predict

    run_predict(
        videos,
        model,
        out,
        form=format_,
        timeline=not no_timeline,
        video=video,
        device=device,
        other_crops=other_crops,
        who=face,
        window=window,
        hop=hop,
        batch=batch,
        workers=workers,
        deadline=deadline,
        memory=memory,
    )


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


@app.command()
def doctor(
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave out what reads every byte: clips, tars, weights.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    need_gib: Annotated[
        float | None, typer.Option(min=0, help="GiB that must be free; else estimated.")
    ] = None,
    params: Params = PARAMS,
    set_: Set = None,
) -> None:
    """Find what is wrong with machine, dataset, shards, models; say what mends it.

    Each finding comes with its remedy. Nothing is changed. Exit code: 0 nothing or only notes, 1
    warnings, 2 errors, wrong parameters among them. A run that prints no summary, or with --json
    no object, failed itself; its code then means what it means for every verb.
    """
    from cli.doctor import run_doctor

    raise typer.Exit(run_doctor(params, set_, quick=quick, as_json=as_json, need_gib=need_gib))


@app.command()
def export(
    model: Model,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("model.onnx"),
    clips: Annotated[int, typer.Option(min=8, help="Compare on so many test clips.")] = 100,
) -> None:
    """Write a model as one ONNX file, from uint8 faces to calibrated probabilities.

    The file is compared with PyTorch before it is kept. examples/onnx_predict.py runs it with
    onnxruntime and numpy alone.
    """
    from cli.export import run_export

    run_export(model, out, clips=clips)


@app.command()
def card(
    model: Model,
    evaluation: Annotated[
        Path | None, typer.Option(help="Folder of eval's files; else found beside the model.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("card.md"),
) -> None:
    """Write a model card: what it is, how good it is, what it must not be used for."""
    from cli.card import run_card

    run_card(model, evaluation, out)


@app.command()
def inspect(
    what: Annotated[
        str,
        typer.Argument(
            metavar="CLIP|SHARD|RUN",
            help="A clip's key or video file; a tar or shard folder; a model folder or runs/NAME.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The picture; inspected/NAME.png without it.")
    ] = None,
    sheet: Annotated[bool, typer.Option(help="Draw the picture.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    clips: Annotated[int, typer.Option(min=1, max=100, help="Clips of a shard or run drawn.")] = 12,
    bucket: Annotated[str | None, typer.Option(help="Of a shard, draw this bucket only.")] = None,
    label: Annotated[str | None, typer.Option(help="Draw clips of this class only.")] = None,
    params: Params = PARAMS,
    set_: Set = None,
) -> None:
    """Show what a clip, a shard or a run is: a table, and a picture of what the model sees."""
    from cli.inspect import run_inspect

    run_inspect(
        params, set_, what, out=out, draw=sheet, as_json=as_json, clips=clips, bucket=bucket,
        label=label,
    )  # fmt: skip


@app.command()
def report(
    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="NAME",
            help="Compare with this one: an experiment in DVC, or a folder with runs/. Repeatable.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The file.")] = REPORT,
    no_faces: Annotated[
        bool, typer.Option("--no-faces", help="Leave the faces out: they are biometric data.")
    ] = False,
    params: Params = PARAMS,
    set_: Set = None,
) -> None:
    """Write one HTML file about the experiment: figures, pictures, data, params."""
    from cli.report import run_report

    run_report(params, set_, with_ or [], out, faces=not no_faces)


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
