"""What is this clip, shard or run? A table, and a picture of what the model sees."""

import json
import re
from pathlib import Path

from cli.facts import lines
from cli.layout import INSPECTED, read
from cli.progress import say
from safe.errors import ConfigError, as_utf8
from safe.files import fitting

_SUFFIXES = (".png", ".svg", ".pdf")


def run_inspect(
    params: Path,
    overrides: list[str] | None,
    what: str,
    *,
    out: Path | None,
    draw: bool,
    as_json: bool,
    clips: int,
    bucket: str | None,
    label: str | None,
) -> None:
    """Tell what a clip, a shard or a run is, and draw its contact sheet.

    `what` is a run if it is a folder with a model, a shard if it is a tar or a folder with
    index.json, and else a clip: a key of the dataset of params.yaml, or a file.
    """
    config, layout = read(params, overrides)
    if out is not None and out.suffix not in _SUFFIXES:
        raise ConfigError(f"--out {out}: the suffix must be one of {', '.join(_SUFFIXES)}")
    path = Path(what)
    if _is_run(path):
        from cli.inspect_run import inspect_run

        facts, figure = inspect_run(path, clips=clips, label=label, draw=draw)
    elif path.suffix == ".tar" or (path / "index.json").exists():
        from cli.inspect_shard import inspect_shard

        facts, figure = inspect_shard(path, clips=clips, bucket=bucket, label=label, draw=draw)
    else:
        from cli.inspect_clip import inspect_clip

        facts, figure = inspect_clip(what, config, layout, label=label, draw=draw)
    sheet = None
    if figure is not None:
        from safe.report.canvas import save

        sheet = out or INSPECTED / f"{_name(path)}.png"
        save(figure, sheet)
    if as_json:
        say(json.dumps({**facts, "sheet": None if sheet is None else str(sheet)}, indent=1))
        return
    for line in lines(facts):
        say(line)
    if draw:
        say(f"\nsheet: {sheet or 'none, there is nothing to draw'}")


def _is_run(path: Path) -> bool:
    """Say whether a path is a model folder, or a run's folder."""
    return (path / "model.json").is_file() or any(
        any(path.glob(f"{stage}/fold-*/model.json")) for stage in ("calibrate", "train")
    )


def _name(path: Path) -> str:
    """Name a sheet by the last two parts of the path: fold-1 alone would be every run's."""
    parts = [part for part in path.parts[-2:] if part not in ("/", "..", ".")]
    name = re.sub(r"[^\w-]+", "-", as_utf8("-".join(parts))).strip("-") or "sheet"
    return fitting(name, more=len(".png"))
