"""The verbs of `safe-cli` with their options, and how an error reaches the user.

Each verb reads params.yaml, calls one function of pipeline or safe, and says in a line what came
out. Heavy imports are inside the verbs, so that `--help` answers at once.
"""

import os
import sys
import time
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Final, Literal, NoReturn

import typer

from safe.errors import DISK_EXIT_CODE, SafeError, explain, of_machine

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

PARAMS: Final = Path("params.yaml")
REPORT: Final = Path("results", "report.html")
EXPERIMENTS: Final = Path("results", "experiments")

app = typer.Typer(
    help="SAFE: from raw video clips to a trained and evaluated expression recogniser.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


# The stages, in their order


@app.command()
def synthesize(params: Params = PARAMS, set_: Set = None) -> None:
    """Draw the synthetic data set: animated heads in DFEW's layout."""
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
    nproc: Annotated[int, typer.Option(min=1, help="Ranks on this machine: one a GPU.")] = 1,
) -> None:
    """Train on the shards, or go on from the last checkpoint."""
    from cli.stages import run_train

    run_train(params, set_, fold, nproc)


@app.command()
def calibrate(fold: Fold = None, params: Params = PARAMS, set_: Set = None) -> None:
    """Fit probabilities, sets and abstention on held-out clips.

    They are those of the selection split; without one (train.select) nothing is fitted.
    """
    from cli.stages import run_calibrate

    run_calibrate(params, set_, fold)


@app.command("eval")
def evaluate(fold: Fold = None, params: Params = PARAMS, set_: Set = None) -> None:
    """Run a model over its test split: predictions and metrics."""
    from cli.stages import run_eval

    run_eval(params, set_, fold)


@app.command()
def summary(params: Params = PARAMS, set_: Set = None) -> None:
    """Bring the folds together: results/metrics.json and plots."""
    from cli.stages import run_summary

    run_summary(params, set_)


# What is finished: models, their answers, data. Nothing here makes what a stage needs


@app.command()
def predict(
    videos: Annotated[
        list[str],
        typer.Argument(metavar="VIDEO...", help="Files, folders (all below), quoted patterns."),
    ],
    model: Annotated[
        Path | None,
        typer.Option(help="Model folder, or runs/<name>; else the model that ships."),
    ] = None,
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
    again: Annotated[
        bool, typer.Option("--again", help="Also do videos again that are finished.")
    ] = False,
    detect_size: Annotated[
        int | None,
        typer.Option(
            help="Pixels, longest side of the frame that the face detector sees, for small faces; "
            "as in training by default. Another is flagged as other crops."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="Windows that the model sees at once.")] = 16,
    workers: Annotated[int, typer.Option(help="Processes that decode and find faces.")] = 2,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    deadline: Annotated[
        float, typer.Option(help="Seconds after which the work on a piece of video is killed.")
    ] = 60.0,
    memory: Annotated[float, typer.Option(help="GiB that this work may take.")] = 4.0,
) -> None:
    """Say which expression is apparent on the faces of videos.

    Writes tables, timelines and, on request, annotated videos.

    An answer is about a window of a face's time: a calibrated probability for each class, a
    decision or `abstain`, and what was wrong with the pictures. Apparent expression is how a face
    looks to people, not what a person feels.

    Videos that are finished in the folder are left: the same file, model, settings and code. Exit
    code 7: done, but some of the videos could not be used; summary.json says why.
    """
    from cli.predict import run_predict

    code = run_predict(
        videos,
        model,
        out,
        form=format_,
        timeline=not no_timeline,
        video=video,
        device=device,
        other_crops=other_crops,
        again=again,
        face=face,
        window=window,
        hop=hop,
        detect_size=detect_size,
        batch=batch,
        workers=workers,
        deadline=deadline,
        memory=memory,
    )
    raise typer.Exit(code)


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
    """Show what a clip, a shard or a run is.

    Prints a table, and draws a picture of what the model sees.
    """
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
    """Write one HTML page: metrics, pictures, data, params."""
    from cli.report import run_report

    run_report(params, set_, with_ or [], out, faces=not no_faces)


@app.command()
def card(
    model: Model,
    evaluation: Annotated[
        Path | None, typer.Option(help="Folder of eval's files; else found beside the model.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("card.md"),
) -> None:
    """Write a model card.

    What the model is, how good it is, and what it must not be used for.
    """
    from cli.export import run_card

    run_card(model, evaluation, out)


@app.command()
def export(
    model: Model,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("model.onnx"),
    clips: Annotated[int, typer.Option(min=8, help="Compare on so many test clips.")] = 100,
) -> None:
    """Write a model as one ONNX file.

    It goes from uint8 faces to calibrated probabilities, and is compared with PyTorch before it is
    kept. examples/onnx_predict.py runs it with onnxruntime and numpy alone.
    """
    from cli.export import run_export

    run_export(model, out, clips=clips)


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
    """Say what is wrong, and what mends it.

    Looks at machine, dataset, shards, models and predictions; each finding comes with its remedy.
    Nothing is changed. Exit code: 0 nothing or only notes, 1 warnings, 2 errors, wrong parameters
    among them. A run that prints no summary, or with --json no object, failed itself; its code then
    means what it means for every verb.
    """
    from cli.doctor import run_doctor

    raise typer.Exit(run_doctor(params, set_, quick=quick, as_json=as_json, need_gib=need_gib))


@app.command()
def clean(
    days: Annotated[float, typer.Option(min=0, help="Only those that stopped so long ago.")] = 30.0,
) -> None:
    """Delete the states of trainings that stopped and that nobody went on with.

    A run whose state is deleted begins from its start. `doctor` names the states that are there.
    """
    from cli.clean import run_clean

    run_clean(days)


@app.command()
def votes(params: Params = PARAMS, set_: Set = None) -> None:
    """Hold a run against the ten votes a clip that DFEW has."""
    from cli.votes import run_votes

    run_votes(params, set_)


@app.command()
def cost(
    measure: Annotated[bool, typer.Option(help="Also time it on runtime.device.")] = False,
    params: Params = PARAMS,
    set_: Set = None,
) -> None:
    """Count a model's parameters and multiply-adds a clip.

    Beside those of the baseline, and of one pass of the backbone.
    """
    from cli.stages import run_cost

    run_cost(params, set_, measure=measure)


@app.command()
def forget(
    clips: Annotated[list[str] | None, typer.Argument(metavar="CLIP...", help="Keys.")] = None,
    file: Annotated[Path | None, typer.Option(help="A list of more keys, one a line.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Delete the raw clips too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    params: Params = PARAMS,
    set_: Set = None,
) -> None:
    """Take clips out of all that was made from them, for good.

    Faces are biometric data. Without a key it completes an earlier run that was killed.
    """
    from cli.forget import run_forget

    run_forget(params, set_, clips or [], file, raw=raw, dry_run=dry_run)


@app.command()
def push_shards(
    url: Annotated[
        str | None, typer.Argument(metavar="URL", help="Such as s3://bucket/prefix.")
    ] = None,
    params: Params = PARAMS,
    set_: Set = None,
) -> None:
    """Send the finished shards to object storage.

    To runtime.shards without a URL. Each object is compared after it was sent, index.json is the
    last; what is there and equal is left, so a push that was stopped goes on.
    """
    from cli.push import run_push

    run_push(params, set_, url)


# What the paper reports

experiments = typer.Typer(
    help="The paper's tables and pictures: list, queue, table.",
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
    from cli.render import run_table

    run_table(name, with_, set_, out)


def main() -> None:
    """Run a verb; an error of the user's or of the system becomes one line and an exit code."""
    # A stage, or a rank: DVC or a launcher that is killed would leave it running.
    if "DVC_ROOT" in os.environ or "RANK" in os.environ:
        from safe.files import die_with_parent

        die_with_parent()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except SafeError as error:
        _end(str(error), error.exit_code)
    except (OSError, MemoryError, RuntimeError) as error:
        if not (isinstance(error, OSError) or of_machine(error)):
            raise
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
