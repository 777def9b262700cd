"""What is wrong with this machine, dataset, shards and models, and what mends it?

Puts the examinations together, prints them, and chooses the exit code by the worst finding.
"""

import json
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cli.layout import FORGOTTEN, Layout, checkpoints, open_store, read
from cli.progress import progress, say
from safe.config import Config
from safe.errors import ConfigError, DataError, printable
from safe.finding import Bar, Examination, Finding, Severity, number, silent
from safe.store import Store

if TYPE_CHECKING:  # it takes a second to import
    from safe.reading.shards import ShardFolder

EXIT_CODES: Final[dict[Severity, int]] = {"note": 0, "warning": 1, "error": 2}

_WIDTH: Final = 80
_STORE_PATIENCE: Final = 10.0  # seconds, where a training waits for runtime.patience
_NO_BREAK: Final = "\N{NO-BREAK SPACE}"


def run_doctor(
    params: Path,
    overrides: list[str] | None,
    *,
    quick: bool = False,
    as_json: bool = False,
    need_gib: float | None = None,
) -> int:
    """Examine everything, print what was found, and return the exit code."""
    try:
        config, layout = read(params, overrides)
    except ConfigError as error:
        parts = {"parameters": Examination()}
        parts["parameters"].error("parameters", params, str(error), "mend that key")
    else:
        bar = silent if as_json else progress
        parts = examine(config, layout, quick=quick, need_gib=need_gib, bar=bar)
    findings = [finding for part in parts.values() for finding in part.findings]
    code = max((EXIT_CODES[finding.severity] for finding in findings), default=0)
    say(_json(parts, quick, code) if as_json else _text(parts, quick))
    return code


def examine(
    config: Config,
    layout: Layout,
    *,
    quick: bool = False,
    need_gib: float | None = None,
    bar: Bar = silent,
) -> dict[str, Examination]:
    """Examine all that params.yaml means, and return the parts by title, in order.

    Args:
        config: the parameters.
        layout: where things lie, relative to the working directory.
        quick: leave out what reads every byte: contents of raw clips, checksums of shards, weights.
        need_gib: GiB that must be free; None: what the stages still to come will need, estimated.
        bar: shows progress.
    """
    from cli.machine import examine_machine, plan_gib
    from pipeline.examine import examine_dataset
    from pipeline.examine_faces import examine_faces
    from pipeline.forgotten import read_forgotten

    prepared = layout.shards.is_dir()
    dataset, rows = examine_dataset(
        config.data,
        layout.manifest,
        forgotten=FORGOTTEN,
        prepared=prepared,
        hashes=not quick,
        bar=bar,
    )
    if need_gib is None:
        need_gib = plan_gib(
            config,
            clips=len(rows) or config.synthesize.clips,
            raw=config.data.name == "synthetic" and not rows and not prepared,
            faces=not layout.faces.is_file() and not prepared,
            shards=not prepared,
        )
    written = (layout.shards, checkpoints(), layout.trains)
    parts = {
        "machine": examine_machine(config, folders=written, need_gib=need_gib),
        "dataset": dataset,
        "faces": examine_faces(layout.faces, rows.keys(), prepared=prepared),
    }
    if any(finding.kind == "torch" for finding in parts["machine"].findings):
        return parts  # what follows is read with torch
    try:
        forgotten = read_forgotten(FORGOTTEN, config.data.name)
    except DataError:  # the dataset's examination tells
        forgotten = set()
    return parts | _examine_runs(config, layout, rows, forgotten, quick=quick, bar=bar)


def _examine_runs(
    config: Config,
    layout: Layout,
    rows: Mapping[str, Mapping[str, Any]],
    forgotten: set[str],
    *,
    quick: bool,
    bar: Bar,
) -> dict[str, Examination]:
    """Examine shards, models and predictions."""
    from pipeline.manifest import read_classes
    from safe.examine import examine_shards
    from safe.examine_runs import examine_models, examine_predictions

    classes = None
    with suppress(DataError, OSError):  # the dataset's examination tells
        classes = read_classes(layout.manifest)
    found, shards = examine_shards(
        layout.shards,
        listed=rows,
        classes=classes,
        forgotten=forgotten,
        right=_preprocessing(config),
        read=not quick,
        seen=layout.seen,
        bar=bar,
    )
    if config.runtime.shards is not None:
        stored = _examine_store(found, open_store(config, config.runtime.shards), layout)
        shards = shards or stored
    trained = examine_models(layout.trains, folds=config.data.folds, shards=shards, read=not quick)
    parts = {"shards": found, "models": trained}
    names = [path.parent.name[5:] for path in layout.trains.glob("fold-*/model.json")]
    folds = {int(name) for name in names if name.isdecimal()}
    calibrated = examine_models(
        layout.calibrates, folds=sorted(folds), shards=shards, read=not quick
    )
    trained.facts |= calibrated.facts
    trained.findings += calibrated.findings
    parts["predictions"] = examine_predictions(
        layout.evals, models=folds, shards=shards, forgotten=forgotten
    )
    return parts


def _examine_store(found: Examination, store: Store, layout: Layout) -> "ShardFolder | None":
    """Open the shards of runtime.shards and compare them with those here; None where it fails.

    The contents of their tars are left to those who fetch them.
    """
    from safe.push import check_same
    from safe.reading.shards import open_shards

    store = replace(store, patience=min(store.patience, _STORE_PATIENCE))
    try:
        check_same(layout.shards, store)
        folder = open_shards(store)
    except DataError as error:
        remedy = "`safe-cli push-shards` sends shards there; else mend runtime.shards, or null"
        found.refused("store", str(store), error, remedy)
        return None
    found.facts["stored_shards"] = len(folder.files)
    return folder


def _preprocessing(config: Config) -> dict[str, Any] | None:
    """Return what the parameters mean; None without the detector, of which the machine tells."""
    from pipeline.face.preprocessing import preprocessing

    try:
        return preprocessing(config.data.source, faces=config.faces, shard=config.shard)
    except DataError:
        return None


def _json(parts: dict[str, Examination], quick: bool, code: int) -> str:
    findings = [finding for part in parts.values() for finding in part.findings]
    severities = Counter(finding.severity for finding in findings)
    whole = {
        "quick": quick,
        "exit_code": code,
        "counts": {name: severities[name] for name in EXIT_CODES},
        "facts": {title: part.facts for title, part in parts.items()},
        "findings": [
            {"part": title, **vars(finding)}
            for title, part in parts.items()
            for finding in part.findings
        ],
    }
    return json.dumps(whole, indent=1)


def _text(parts: dict[str, Examination], quick: bool) -> str:
    """Write a block for each part: its facts, then each finding with its remedy."""
    lines = []
    for title, part in parts.items():
        lines.append(f"{title}: {_count(part.findings) or 'ok'}")
        lines += _wrap(_facts(part.facts), "  ", "  ")
        for finding in part.findings:
            told = f"{finding.severity:<8}{finding.where}: {finding.what}"
            lines += _wrap(told, "  ", " " * 10)
            lines += _wrap(f"-> {finding.remedy}", " " * 10, " " * 13)
    total = _count([finding for part in parts.values() for finding in part.findings])
    lines += ["", f"doctor: {total or 'nothing found'}"]
    if quick:
        lines.append("quick: contents of raw clips, checksums of shards and weights were not read")
    return "\n".join(printable(line) for line in lines)


def _count(findings: Sequence[Finding]) -> str:
    """Write `2 errors, 1 note`; nothing where there is none."""
    counts = Counter(finding.severity for finding in findings)
    return ", ".join(number(counts[name], name) for name in reversed(EXIT_CODES) if counts[name])


def _facts(facts: Mapping[str, Any]) -> str:
    """Write facts as `900 clips, torch 2.15.0, disk free 20.1 GiB`, to be broken at commas."""
    return ", ".join(_whole(_fact(name, value)) for name, value in facts.items())


def _fact(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(_fact(key, inner) for key, inner in value.items())
    if isinstance(value, bool):
        value = "yes" if value else "no"
    words = name.replace("_", " ")
    if words.endswith(" gib"):
        return f"{words.removesuffix(' gib')} {value} GiB"
    if isinstance(value, int):
        return f"{value:,} {words}" if name.endswith("s") else f"{words} {value:,}"
    return f"{words} {value}"


def _whole(text: str) -> str:
    """Keep what is between two commas on one line."""
    return re.sub("(?<!,) ", _NO_BREAK, text)


def _wrap(text: str, first: str, rest: str) -> list[str]:
    """Break a text at blanks only, and not within a command, so that it can be copied."""
    text = re.sub("`[^`]*`", lambda command: command[0].replace(" ", _NO_BREAK), text)
    lines = textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_NO_BREAK, " ") for line in lines]
