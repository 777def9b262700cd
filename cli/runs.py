"""How are training, evaluation and summary called? One function of safe each."""

import subprocess
from pathlib import Path

from cli.layout import RESULTS, checkpoints, lock, read
from cli.progress import say
from safe.process import only_one


def run_train(params: Path, overrides: list[str] | None, fold: int | None) -> None:
    """Train one fold, or all of data.folds."""
    config, layout = read(params, overrides)
    from safe.train import train  # after the parameters: a wrong one is told at once

    for number in [fold] if fold else config.data.folds:

        def report(epoch: int, row: dict[str, float], number: int = number) -> None:
            select = f", select UAR {row['select_uar']:.1f}" if "select_uar" in row else ""
            say(
                f"train: fold {number}, epoch {epoch}/{config.train.epochs}: "
                f"loss {row['loss']:.3f}, "
                f"train UAR {row['train_uar']:.1f}{select}, {row['clips_per_s']:.1f} clips/s"
            )

        out = layout.trains / f"fold-{number}"
        with only_one(lock(out), str(out)):
            train(
                config,
                shards=layout.shards,
                fold=number,
                out=out,
                checkpoints=checkpoints(),
                commit=_commit(),
                seen=layout.seen,
                on_epoch=report,
                on_note=lambda note: say(f"train: {note}"),
            )
        say(f"train: fold {number} is in {out}")


def run_eval(params: Path, overrides: list[str] | None, fold: int | None) -> None:
    """Evaluate one fold, or all of data.folds."""
    config, layout = read(params, overrides)
    from safe.evaluate import evaluate

    for number in [fold] if fold else config.data.folds:
        out = layout.evals / f"fold-{number}"
        with only_one(lock(out), str(out)):
            figures = evaluate(
                layout.trains / f"fold-{number}",
                shards=layout.shards,
                fold=number,
                out=out,
                settings=config.eval,
                runtime=config.runtime,
                seen=layout.seen,
            )
        say(
            f"eval: fold {number}: WAR {figures['war']:.2f}, UAR {figures['uar']:.2f}, "
            f"ECE {figures['ece']:.3f}, n {figures['n_test']}, left out {figures['n_left_out']}, "
            f"selection {figures['selection']}"
        )


def run_summary(params: Path, overrides: list[str] | None) -> None:
    """Bring data.folds together."""
    config, layout = read(params, overrides)
    from safe.summary import summarize_folds

    with only_one(lock(RESULTS), str(RESULTS)):
        result = summarize_folds(
            evals=layout.evals,
            trains=layout.trains,
            folds=config.data.folds,
            dataset=config.data.name,
            bins=config.eval.bins,
            out=RESULTS,
        )
    say(
        f"summary: {result['dataset']}, folds {config.data.folds}: WAR {result['war']:.2f} +- "
        f"{result['war_std']:.2f}, UAR {result['uar']:.2f} +- {result['uar_std']:.2f}, "
        f"n {result['n_test']}, left out {result['n_left_out']}, selection {result['selection']}"
    )


def run_cost(params: Path, overrides: list[str] | None, *, measure: bool) -> None:
    """Print what the model of params.yaml costs, and the paper's baseline, and one pass."""
    config, _ = read(params, overrides)
    from safe.backbones import build_backbone
    from safe.build import RIVALS, build_model
    from safe.cost import Row, count, table
    from safe.cost import measure as measure_speed
    from safe.recipe import pick_device
    from safe.sample import FRAMES

    settings = config.model.model_dump() | {"weights": None}
    device = pick_device(config.runtime.device)
    clip = (3, FRAMES, config.augment.crop, config.augment.crop)
    if config.model.name in RIVALS:
        models = {str(config.model.name): build_model(**settings)}
    else:
        models = {
            f"SAFE, {config.model.backbone}": build_model(**settings | {"temporal": "s2am2"}),
            "baseline (BiLSTM)": build_model(**settings | {"temporal": "bilstm"}),
            f"one pass of {config.model.backbone}": build_backbone(config.model.backbone),
        }
        if config.model.backbone == "r3d_18":
            from safe.r3d import R3D18

            padded = build_model(**settings | {"temporal": "s2am2"})
            padded.backbone = R3D18(padded=True)
            models["SAFE, sums over padding too"] = padded
    rows = []
    for title, model in models.items():
        speed = measure_speed(model, device=device, clip=clip) if measure else None
        rows.append(Row(title, count(model, clip=clip), speed))
    say(table(rows))


def _commit() -> str:
    """Name the commit of the code that runs: `-dirty` after a change, `unknown` without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
