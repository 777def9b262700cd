"""The chain: whether what a verb reads was made of what lies there now.

Each link is a comparison of a file that a stage made with what it says that it was made of
(safe/record.py): lists -> manifest -> faces -> shards -> model -> calibrated model -> predictions.
What is not here, and what does not say, is not compared. A verb raises the first that differs,
doctor tells all.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from cli.layout import FORGOTTEN, Layout, digests, source
from safe.config import Config
from safe.record import ChangedError, differences, read_json, read_of, values

Link = Callable[[], None]
"""A comparison; raises ChangedError in one line, or DataError where a file is damaged."""

_CUT: Final = ("faces", "shard")
"""Sections that decide the pixels of the shards."""


def check_chain(config: Config, layout: Layout, stage: str, folds: Sequence[int] = ()) -> None:
    """Compare all that a stage builds upon. Raises ChangedError."""
    for link in links(config, layout, stage, folds):
        link()


def links(config: Config, layout: Layout, stage: str, folds: Sequence[int] = ()) -> Iterator[Link]:
    """Yield the comparisons of what a stage builds upon, from the lists on."""
    if stage not in ("synthesize", "index"):
        yield partial(_manifest, config, layout)
    if stage == "shard":
        yield partial(_faces, config, layout)
    if stage in ("train", "calibrate", "eval", "summary"):
        yield partial(_shards, config, layout)
    for fold in folds:
        if stage in ("calibrate", "eval", "summary"):
            yield partial(_model, config, layout, fold)
        if stage in ("eval", "summary"):
            yield partial(_calibrated, config, layout, fold)
        if stage == "summary":
            yield partial(_evaluated, config, layout, fold)


def _manifest(config: Config, layout: Layout) -> None:
    from pipeline.index import check_manifest

    if layout.manifest.is_file():
        check_manifest(layout.manifest, config.data, forgotten=FORGOTTEN, digests=digests())


def _faces(config: Config, layout: Layout) -> None:
    from pipeline.face.table import check_faces

    if layout.faces.is_file():
        check_faces(layout.faces, config.faces, config.shard.frames)


def _shards(config: Config, layout: Layout) -> None:
    """Compare the shards with the parameters, and with the tables that are here."""
    from safe.shards.index import read_index

    here = layout.shards / "index.json"
    if config.runtime.shards is None and not here.is_file():
        return
    shards = source(config, layout)
    made = read_index(shards).about["preprocessing"]["made_from"]
    now = {k: v for name in _CUT for k, v in getattr(config, name).model_dump().items()}
    now.pop("detector")  # in the shards it has its weights' checksum in its name
    if made.get("source") == "frames":  # whole faces: what cuts one out has no say
        now.pop("margin")
    told = differences({key: value for key, value in made.items() if value is not None}, now)
    if told:
        section = "shard" if told[0].split()[0] in type(config.shard).model_fields else "faces"
        raise ChangedError(
            f"{shards}: {section}.{told[0]}; run `safe-cli shard` again, or set it back"
        )
    read, known = read_of(layout.shards / "clips.parquet"), digests()
    for name, path in (("manifest", layout.manifest), ("faces", layout.faces)):
        if _differ({name: known.of(path)}, read, name):
            raise ChangedError(
                f"{layout.shards}: made from another {path}; run `safe-cli shard` again"
            )


def _model(config: Config, layout: Layout, fold: int) -> None:
    """Compare a model with params.yaml, where DVC writes that down as what made it."""
    path = layout.trains / f"fold-{fold}" / "model.json"
    _params(path, read_json(path).get("params") or {}, values(config, "train"), "train", fold)


def _calibrated(config: Config, layout: Layout, fold: int) -> None:
    train, out = (at / f"fold-{fold}" / "model.json" for at in (layout.trains, layout.calibrates))
    before, after = read_json(train), read_json(out)
    if _differ(before, after, "weights"):
        raise ChangedError(
            f"{out.parent}: calibrated another model than that in {train.parent}; run "
            f"`safe-cli calibrate --fold {fold}` again"
        )
    block = after.get("calibration") or {}
    if block.get("clips"):
        _params(out, {"calibrate": block}, values(config, "calibrate"), "calibrate", fold)


def _evaluated(config: Config, layout: Layout, fold: int) -> None:
    model, out = layout.calibrates / f"fold-{fold}" / "model.json", layout.evals / f"fold-{fold}"
    info, metrics = read_json(model), read_json(out / "metrics.json")
    here = {"model": info.get("sha256"), "weights": (info.get("weights") or {}).get("sha256")}
    if any(_differ(here, metrics, key) for key in here):
        raise ChangedError(
            f"{out}: answers of another model than that in {model.parent}; "
            f"run `safe-cli eval --fold {fold}` again"
        )


def _differ(here: dict[str, Any], there: dict[str, Any], key: str) -> bool:
    both = here.get(key), there.get(key)
    return None not in both and both[0] != both[1]


def _params(where: object, said: Any, now: dict[str, Any], stage: str, fold: int) -> None:
    """Compare parameters, but only in a stage of DVC: `-S` of another command is known to none."""
    if "DVC_STAGE" not in os.environ:
        return
    before: dict[str, Any] = {}
    for key in now:
        section, _, name = key.partition(".")
        block = said.get(section)
        if not name:
            before |= {key: block} if section in said else {}
        elif isinstance(block, dict) and name in block:
            before[key] = block[name]
    if told := differences(before, now):
        raise ChangedError(f"{where}: {told[0]}; run `dvc repro -f -s {stage}@{fold}`")
