"""The strips that the stages faces and shard make of numbered videos, and a verdict on each.

In: a folder of videos and what ffmpeg shows of each. Out: a verdict a video. The videos become a
data set of one's own whose clips show no face, so that the centre square is stored. Strips made by
`shard` alone, taken from the strip cache, and made with pyav must be the same bytes.
"""

import json
import tarfile
from functools import partial
from pathlib import Path
from typing import Any, Final

from faults.numbered import Area, read_number
from faults.oracle import Verdict, refused
from faults.originals import ROOT
from pipeline.decode import NOTES
from pipeline.face.face_table import read_faces
from pipeline.face.leftover import Leave
from pipeline.faces import Clip, Found, find_clip, find_faces, prepare
from pipeline.index import build_index
from pipeline.shard import write_shards
from pipeline.tasks.engine import run_tasks
from safe.config import Config
from safe.params import load_config
from safe.sample import decode_strip

_SIZE: Final = 96
_SETTINGS: Final = (
    *("data.name=own", "data.splits=clips.csv", "data.source=video", "data.folds=[1]"),
    *("faces.detect_size=64", "faces.threshold=0.99", "faces.missing=center"),
    *(f"shard.size={_SIZE}", "augment.crop=80", "shard.clips=200"),
)
"""Nothing is a face with this threshold."""

_DEADLINE: Final = 60.0


def run_stages(
    found: list[dict[str, Any]], areas: dict[str, Area], folder: Path, workers: int
) -> dict[str, Verdict]:
    """Take videos through index, faces and shard; return a verdict on the strip of each.

    Args:
        found: of each video its `name`, its `file` in the folder and the `numbers` it shows.
        areas: where the squares of each are, by name.
        folder: of the videos; what the stages write is put beside it.
        workers: processes.
    """
    config = load_config(ROOT / "params.yaml", [f"data.root={folder}", *_SETTINGS])
    data = folder.parent / "data"
    data.mkdir()
    lines = [
        f"{one['file']},{('happy,train', 'sad,test')[k % 2]},{one['name']}"
        for k, one in enumerate(found)
    ]
    (folder / "clips.csv").write_text("\n".join(["path,label,split,clip", *lines]) + "\n")
    build_index(config.data, data / "manifest.parquet")
    tables = (data / "manifest.parquet", folder, data / "faces.parquet")
    limits: dict[str, Any] = {"workers": workers, "deadline": _DEADLINE}
    leave = Leave(data / "cache.zip", config.shard)
    find_faces(*tables, settings=config.faces, leave=leave, **limits)
    alone, cached = data / "alone", data / "cached"
    _shard(config, data, folder, alone, None, limits)
    _shard(config, data, folder, cached, leave.path, limits)
    if leave.path.exists():  # what is taken is deleted
        raise RuntimeError("the strip cache was not taken")
    strips, again = read_strips(alone), read_strips(cached)
    clips = [Clip(one["file"], "video") for one in found]
    by_pyav = run_tasks(
        partial(find_clip, root=folder, settings=config.faces, strip=config.shard, decoder="pyav"),
        clips,
        setup=partial(prepare, config.faces),
        **limits,
    )
    rows = {row["clip"]: row for row in read_faces(tables[2]).to_pylist()}
    verdicts = {}
    for one, other in zip(found, by_pyav, strict=True):
        name = one["name"]
        verdict = _judge(rows[name], strips.get(name), one["numbers"], areas[name])
        if strips.get(name) != again.get(name):
            verdict.faults.append("another strip from the strip cache")
        theirs = other.strip if isinstance(other, Found) else None
        if name in strips and strips[name][0] != theirs and verdict.outcome == "whole":
            verdict.faults.append("another strip by pyav")
        verdicts[name] = verdict
    return verdicts


def _shard(
    config: Config, data: Path, root: Path, out: Path, cache: Path | None, limits: dict[str, Any]
) -> None:
    write_shards(
        data / "manifest.parquet",
        data / "faces.parquet",
        root,
        out,
        settings=config.shard,
        faces_settings=config.faces,
        leftover=cache,
        **limits,
    )


def read_strips(shards: Path) -> dict[str, tuple[bytes, dict[str, Any]]]:
    """Return the JPEG and the record of each clip in a shard folder."""
    strips = {}
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member) for member in tar}
            content = {name: file.read() for name, file in members.items() if file is not None}
        for name in content:
            if name.endswith(".jpg"):
                key = name.removesuffix(".jpg")
                strips[key] = content[name], json.loads(content[f"{key}.json"])
    return strips


def _judge(
    row: dict[str, Any],
    strip: tuple[bytes, dict[str, Any]] | None,
    numbers: list[int],
    area: Area,
) -> Verdict:
    """Judge the strip of a clip by its row in faces.parquet and the numbers that ffmpeg shows."""
    if strip is None:
        return refused(row["reason"])
    told = row["reason"].split("; ")  # what was done about a sound picture is no damage
    damage = "; ".join(part for part in told if part not in ("", "no face in any frame", *NOTES))
    verdict = Verdict("damaged" if damage else "whole", damage)
    jpeg, record = strip
    if record["n_frames"] != len(numbers):
        verdict.faults.append(f"{record['n_frames']} frames, not {len(numbers)}")
    faces = decode_strip(jpeg, _SIZE)
    for face, index, box in zip(faces, record["frame_index"], record["box"], strict=True):
        known = numbers[index] if index < len(numbers) else -2
        if known == -1:
            continue
        within = area.within(box, record["width"], record["height"])
        verdict.judged += 1
        verdict.wrong += read_number(face, within) != known
    return verdict
