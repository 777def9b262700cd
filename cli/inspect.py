"""The verb inspect: what a clip, a shard or a run is, as a table, and as the model sees it."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cli.layout import INSPECTED, Layout, note_out, read, source
from cli.progress import say
from pipeline.face.table import ClipFaces
from pipeline.manifest import read_classes
from pipeline.pool.children import Failure
from pipeline.view import Kind, View, box_kinds, face_facts, face_of, frame_rows, look_up, view_clip
from safe.api import find_model
from safe.config import Config
from safe.errors import ConfigError, as_utf8, printable
from safe.files import fitting
from safe.info import read_info
from safe.report.canvas import save
from safe.report.contact import Frames, Row, contact_figure
from safe.report.inspect import (
    Answers,
    Facts,
    check_label,
    inspect_run,
    inspect_shard,
    read_answers,
)
from safe.sample import decode_strip
from safe.shards.clips import read_clips
from safe.shards.folder import open_shards

_SUFFIXES: Final = (".png", ".svg", ".pdf")


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
        folder = find_model(path)
        shards = Layout(str(read_info(folder / "model.json").get("dataset"))).shards
        facts, figure = inspect_run(folder, shards, clips=clips, label=label, draw=draw)
    elif path.suffix == ".tar" or (path / "index.json").exists():
        facts, figure = inspect_shard(path, clips=clips, bucket=bucket, label=label, draw=draw)
    else:
        facts, figure = inspect_clip(what, config, layout, label=label, draw=draw)
    sheet = None
    if figure is not None:
        sheet = out or INSPECTED / f"{_name(path)}.png"
        save(figure, note_out("inspect", sheet))
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


def inspect_clip(
    what: str, config: Config, layout: Layout, *, draw: bool, label: str | None = None
) -> tuple[Facts, Figure | None]:
    """Gather what is known of a clip, and draw its contact sheet, where there is a face to draw.

    `what` is a key of the manifest, or the path of a video file or of a folder of frames. `label`
    must be a class of the manifest; of one clip it chooses nothing.

    Raises:
        ConfigError: if `label` is no such class.
        DataError: if there is no such clip.
    """
    if layout.manifest.exists():
        check_label(label, read_classes(layout.manifest))
    clip = look_up(what, layout.manifest, Path(config.data.root))
    listed = face_of(clip, layout.faces)
    seen = view_clip(
        clip.path, clip.source, config=config, face=listed if listed and listed.box else None
    )
    view = None if isinstance(seen, Failure) else seen
    face = listed or (view.face if view else None)
    faces, where = _stored(clip.key, config, layout) if clip.label is not None else (None, {})
    answers = _answers(clip.key, layout) if clip.label is not None else []
    kinds = box_kinds(face, source=clip.source, max_gap=config.faces.max_gap) if face else []
    if isinstance(seen, Failure):
        decoding = f"nothing: {seen.reason}"
    else:
        count = len(seen.frames)
        decoding = seen.damage or f"{count} of {count} frames, no damage seen"
    facts: Facts = {
        "clip": {
            "clip": clip.key,
            "label": clip.label,
            "bucket": clip.bucket,
            "file": as_utf8(str(clip.path)),
            "source": clip.source,
            "bytes": clip.path.stat().st_size if clip.path.is_file() else None,
            **face_facts(face),
            "decoding": decoding,
        },
        "shard": where,
        "frames": frame_rows(face, kinds, view.times if view else ()) if face else [],
    }
    facts |= {f"said by {each.name}": each.facts(i) for each, i in answers}
    made = f"faces as stored in {where.get('tar')}"
    if faces is None and view:
        faces = decode_strip(view.strip, config.shard.size, len(view.frames))
        made = "faces cut out as by shard"
    if not draw or faces is None:
        return facts, None
    rows = [each.row(i, f"{made}. {each.sentence(i)}", faces) for each, i in answers]
    return facts, contact_figure(
        " · ".join(part for part in (clip.key, clip.label, clip.bucket) if part),
        _note(face, seen, attends=bool(answers)),
        rows or [Row(f"{made}, {faces.shape[1]} pixels wide", faces)],
        frames=_frames(view, kinds, scored=clip.source == "video") if view else None,
    )


def _answers(clip: str, layout: Layout) -> list[tuple[Answers, int]]:
    """Find every fold of the data set whose evaluation has a clip, and its position there."""
    found = []
    for predictions in sorted(layout.evals.glob("fold-*/predictions.parquet")):
        fold = predictions.parent.name
        models = [stage / fold for stage in (layout.calibrates, layout.trains)]
        model = next((path for path in models if (path / "model.json").is_file()), None)
        answers = read_answers(predictions.parent, model)
        if clip in answers.split.clip:
            found.append((answers, answers.split.clip.index(clip)))
    return found


def _stored(
    clip: str, config: Config, layout: Layout
) -> tuple[NDArray[np.uint8] | None, dict[str, Any]]:
    """Read the clip's faces from its shard, uint8 [T, S, S, 3], and say where they lie."""
    location = source(config, layout)
    if isinstance(location, Path) and not location.exists():
        return None, {"tar": None, "why": f"no {location}; `safe-cli shard` makes it"}
    folder = open_shards(location)
    rows = (folder.clip == clip).nonzero()[0]
    if not len(rows):
        reasons = [e["reason"] for e in folder.index["left_out"] if e["clip"] == clip]
        return None, {
            "tar": None,
            "why": reasons[0]
            if reasons
            else "not in the shards, nor left out; `safe-cli shard` again",
        }
    row = int(rows[0])
    where = {
        "tar": str(folder.location / folder.files[folder.shard[row]]),
        "offset": int(folder.offset[row]),
        "bytes": int(folder.size[row]),
        "crc32": f"{folder.crc32[row]:08x}, as in clips.parquet",  # read_clips compares it
        "face size": folder.face_size,
        "preprocessing": folder.preprocessing_id,
    }
    return read_clips(folder, rows)[0], where


def _note(face: ClipFaces | None, seen: View | Failure, *, attends: bool) -> str:
    """Say below the title of the sheet what is special about the clip."""
    parts = [f"source frames not shown: {seen.reason}"] if isinstance(seen, Failure) else []
    if face:
        parts.append(f"status {face.status}{f': {face.reason}' if face.reason else ''}")
        parts.append(f"{face.width} x {face.height} pixels, {face.n_frames} frames")
        parts += [f"{face.fps:.4g} frames a second"] if face.fps else []
    parts += ["below the faces: attention over the windows, in %"] if attends else []
    return " · ".join(parts)


def _frames(view: View, kinds: list[Kind], *, scored: bool) -> Frames:
    """Return what the sheet shows of the source frames."""
    face = view.face
    size = [face.width, face.height, face.width, face.height]
    captions = [
        f"{t}: frame {index}" + (f" · {score:.2f}" if score > 0 and scored else "")
        for t, (index, score) in enumerate(zip(face.frame_index, face.score, strict=True), start=1)
    ]
    return Frames(view.frames, np.array(face.box) / size, kinds, captions)


def lines(facts: Facts) -> list[str]:
    """Write facts as lines of text; a section that holds nothing is left out."""
    written: list[str] = []
    for heading, section in facts.items():
        if not section:
            continue
        written += ["", printable(heading)] if written else [printable(heading)]
        if isinstance(section, Mapping):
            named = {printable(name): value for name, value in section.items()}
            wide = max(map(len, named))
            written += [f"  {name:{wide}}  {_plain(value)}" for name, value in named.items()]
        else:
            written += [f"  {line}" for line in _table(section)]
    return written


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Align columns: numbers to the right, words to the left."""
    names = list(rows[0])
    cells = [
        [printable(name) for name in names],
        *([_cell(row[name]) for name in names] for row in rows),
    ]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    right = [all(isinstance(row[name], int | float | None) for row in rows) for name in names]
    aligned = (
        "  ".join(
            f"{cell:>{w}}" if r else f"{cell:{w}}"
            for cell, w, r in zip(line, widths, right, strict=True)
        )
        for line in cells
    )
    return [line.rstrip() for line in aligned]


def _cell(value: Any) -> str:
    """Write a cell of a table, where all numbers of a column have as many digits."""
    return f"{value:.2f}" if isinstance(value, float) else _plain(value)


def _plain(value: Any) -> str:
    """Write a value in a few characters."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) > 99_999 else str(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "-"
    return printable(str(value))
