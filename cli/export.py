"""The verbs export and card: a model as one ONNX file, and the page about it."""

from pathlib import Path
from typing import Any

from cli.layout import Layout
from cli.progress import say
from safe.api import find_model


def run_export(run: Path, out: Path, *, clips: int) -> None:
    """Write a run's model as ONNX; compare it on clips of its test split where they are there."""
    folder = find_model(run)
    from safe.export import TOLERANCE, export_model
    from safe.info import read_info

    info = read_info(folder / "model.json")
    faces = read_test_faces(info, folder, clips)
    done = export_model(folder, out, faces=faces)
    where = "of the test split" if faces is not None else "of random colours (no shards here)"
    say(
        f"export: {folder} as ONNX in {out}: {done.bytes / 1e6:.1f} MB, in {done.seconds:.1f} s\n"
        f"export: compared with PyTorch on {done.clips} clips {where}, in batches of 1, 7 and 32: "
        f"largest difference {done.difference:.1e} (allowed: {TOLERANCE:.0e})\n"
        f"export: on this CPU onnxruntime {done.onnx_rate:.1f} clips/s, "
        f"PyTorch {done.torch_rate:.1f} clips/s"
    )


def read_test_faces(info: dict[str, Any], folder: Path, clips: int) -> Any:
    """Read clips from all over the test split: uint8 [n, T, S, S, 3]; None without shards."""
    shards = Layout(str(info.get("dataset"))).shards
    if not (shards / "index.json").is_file():
        return None
    import numpy as np

    from safe.evaluation.evaluate import check_fit
    from safe.shards.clips import read_clips
    from safe.shards.folder import open_shards

    opened = open_shards(shards)
    check_fit(info, opened, info["fold"], folder)
    _, rows = opened.split(info["fold"])
    if len(rows) < 8:
        return None
    chosen = rows[np.linspace(0, len(rows) - 1, min(clips, len(rows))).round().astype(int)]
    return read_clips(opened, chosen)


def run_card(run: Path, evaluation: Path | None, out: Path) -> None:
    """Write the card of a run's model, with its evaluation where there is one."""
    folder = find_model(run)
    from safe.info import read_info
    from safe.report.card import write_card

    if evaluation is None:  # runs/<name>/calibrate/fold-1 has its evaluation in eval/fold-1
        beside = folder.parent.parent / "eval" / folder.name
        evaluation = beside if (beside / "metrics.json").is_file() else None
    shards = Layout(str(read_info(folder / "model.json").get("dataset"))).shards
    there = (shards / "index.json").is_file()
    write_card(folder, out, evaluation=evaluation, shards=shards if there else None)
    say(f"card: {folder} in {out}, {_words(evaluation)}")


def _words(evaluation: Path | None) -> str:
    if evaluation is None:
        return "without metrics: no evaluation beside it; `safe-cli eval` makes one"
    return f"with the metrics of {evaluation}"
