"""Which verbs are about what is finished: models, their answers, data, experiments?

They make nothing that a stage of dvc.yaml needs. Heavy imports are inside the verbs.
"""

from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from cli.options import PARAMS, Model, Params, Set

REPORT: Final = Path("results", "report.html")


def predict(
    videos: Annotated[
        list[str],
        typer.Argument(metavar="VIDEO...", help="Files, folders (all below), quoted patterns."),
    ],
    model: Model,
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
        who=face,
        window=window,
        hop=hop,
        detect_size=detect_size,
        batch=batch,
        workers=workers,
        deadline=deadline,
        memory=memory,
    )
    raise typer.Exit(code)


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
    """Write one HTML page: figures, pictures, data, params."""
    from cli.report import run_report

    run_report(params, set_, with_ or [], out, faces=not no_faces)


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
    from cli.card import run_card

    run_card(model, evaluation, out)


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


def votes(params: Params = PARAMS, set_: Set = None) -> None:
    """Hold a run against the ten votes a clip that DFEW has."""
    from cli.votes import run_votes

    run_votes(params, set_)


def cost(
    measure: Annotated[bool, typer.Option(help="Also time it on runtime.device.")] = False,
    params: Params = PARAMS,
    set_: Set = None,
) -> None:
    """Count a model's parameters and multiply-adds a clip.

    Beside those of the baseline, and of one pass of the backbone.
    """
    from cli.runs import run_cost

    run_cost(params, set_, measure=measure)


def forget(
    clips: Annotated[list[str] | None, typer.Argument(metavar="CLIP...", help="Keys.")] = None,
    file: Annotated[Path | None, typer.Option(help="A list of more keys, one a line.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Delete the raw clips too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    params: Params = PARAMS,
    set_: Set = None,
) -> None:
    """Take clips out of all that was made from them, for good.

    Faces are biometric data.
    """
    from cli.forget import run_forget

    run_forget(params, set_, clips or [], file, raw=raw, dry_run=dry_run)


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


FINISHED: Final = (
    *(predict, inspect, report, card, export, doctor, votes, cost, forget),
    push_shards,
)
"""In the order in which `--help` shows them."""
