"""How do the paper's experiments get into DVC's queue, and their results out of it?

A sheet (safe/evaluation/sheet.py) says what to run. A plan adds the user's settings and gives each
run its
Config; what DVC holds (cli/experiments.py) is then not run again, and is what a table is made from.
"""

import hashlib
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from cli.layout import Layout
from cli.layout import read as read_config
from cli.progress import say
from safe.config import Config
from safe.errors import ConfigError, DataError, SafeError
from safe.evaluation.calibration import Calibration
from safe.evaluation.predictions import Split, pool, read_predictions
from safe.evaluation.sheet import CALIBRATED, Run, Sheet, Value, load_sheet
from safe.params import EXPONENT, one_line, parse_config, read_mapping

# What experiments does DVC hold?
#
# In: a folder under DVC. Out: its experiments and commits with their parameters and figures, which
# of
# them is the run of a Config, and the files that it left. DVC is asked by its command line for what
# there is, and by dvc.api for a file at a revision.

State = Literal["done", "waiting", "failed"]
_STATES: dict[str, State] = {"success": "done", "queued": "waiting", "running": "waiting"}


@dataclass(frozen=True)
class Held:
    """One experiment, or one commit, as DVC knows it."""

    rev: str
    """Of git, in full; for one that waits in the queue, of its entry there."""
    name: str
    """Of the experiment, or of the commit's branch or tag, or the short revision."""
    commit: str
    """On which the experiment was run, in full; for a commit, itself."""
    created: str
    """Local time, ISO 8601."""
    params: dict[str, Any] = field(repr=False)
    """What params.yaml holds there."""
    metrics: dict[str, Any] = field(repr=False)
    """What results/metrics.json holds there; empty before it is made."""
    state: State = "done"

    @cached_property
    def config(self) -> Config | None:
        """Its parameters; None if they are not those of today's params.yaml."""
        try:
            return parse_config(self.params)
        except ConfigError:
            return None

    @cached_property
    def identity(self) -> str | None:
        """What the function of this name gives for its parameters, or None."""
        return identity(self.config) if self.config else None


def identity(config: Config) -> str:
    """Name the run by the parameters that decide its figures: 64 hex digits.

    Left out are where it runs (runtime), where the data lie (data.root), how synthetic data are
    made unless they are used, and data.folds, since each fold is trained by itself.
    """
    values = config.model_dump(exclude={"runtime": True, "data": {"root", "folds"}})
    if config.data.name != "synthetic":
        del values["synthesize"]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def matching(config: Config, held: Iterable[Held]) -> Held | None:
    """Return the newest run of the same identity that has all folds of `config`, or None."""
    wanted, folds = identity(config), set(config.data.folds)
    same = (
        one
        for one in held
        if one.identity == wanted and one.config and folds <= set(one.config.data.folds)
    )
    return max(same, key=lambda one: one.created, default=None)


def known(root: Path) -> list[Held]:
    """List what is held, waits in the queue or is running, and has failed.

    A commit or experiment is held where `dvc exp show --all-commits` finds results/metrics.json,
    and dvc.lock says that its stages ran with the parameters beside it: after an edit of
    params.yaml alone, or a run of some stages, the figures are those of other parameters.

    Raises:
        DataError: if `root` is not a DVC and git repository, or dvc fails.
    """
    shown = json.loads(run_dvc(root, "exp", "show", "--json", "--all-commits"))
    every = list(parse_shown(shown))
    locks = _locks(root, [one.rev for one in every if one.state == "done"])
    return [
        one
        for one in every
        if one.state != "done" or is_of_its_params(locks.get(one.rev, {}), one.params)
    ]


def held(root: Path) -> list[Held]:
    """List the experiments and commits with results. Raises as known() does."""
    return [one for one in known(root) if one.state == "done"]


def parse_shown(shown: list[dict[str, Any]]) -> Iterator[Held]:
    """Read what `dvc exp show --json` prints; done ones without metrics are left out."""
    for commit in shown:
        if commit["rev"] == "workspace":
            continue
        one = _entry(commit, commit["rev"], "done")
        if one and one.metrics:
            yield one
        for experiment in commit.get("experiments") or []:
            executor = experiment["executor"]
            state = _STATES.get(executor["state"], "failed") if executor else "done"
            one = _entry(experiment["revs"][0], commit["rev"], state)
            if one and (one.metrics or state != "done"):
                yield one


def _entry(shown: Mapping[str, Any], commit: str, state: State) -> Held | None:
    data = shown.get("data") or {}
    files = {**data.get("params", {}), **data.get("metrics", {})}
    params = files.get("params.yaml", {}).get("data")
    if not isinstance(params, dict):
        return None
    return Held(
        rev=shown["rev"],
        name=shown.get("name") or shown["rev"][:7],
        commit=commit,
        created=data.get("timestamp") or "",
        params=params,
        metrics=files.get("results/metrics.json", {}).get("data") or {},
        state=state,
    )


def is_of_its_params(lock: Mapping[str, Any], params: Mapping[str, Any]) -> bool:
    """Say whether dvc.lock records that the evaluation of every fold ran with `params`.

    True if each stage from the raw data to `eval@<fold>` is in the lock, with the values of
    `params`, on the very files that the stage before it made.
    """
    stages = lock.get("stages", {})
    made = {out["path"]: (name, out["md5"]) for name, s in stages.items() for out in s["outs"]}
    to_check = [f"eval@{fold}" for fold in params.get("data", {}).get("folds", [])]
    checked: set[str] = set()
    if not to_check:
        return False
    while to_check:
        name = to_check.pop()
        if name in checked:
            continue
        checked.add(name)
        stage = stages.get(name)
        if stage is None:
            return False
        for key, value in stage.get("params", {}).get("params.yaml", {}).items():
            if _value(params, key) != value:
                return False
        for dep in stage.get("deps", []):
            path = Path(dep["path"])
            maker = next((str(p) for p in (path, *path.parents) if str(p) in made), None)
            if maker is None:
                continue  # code, or the raw data of a real dataset
            before, md5 = made[maker]
            if maker == dep["path"] and md5 != dep["md5"]:
                return False
            to_check.append(before)
    return True


def _value(params: Mapping[str, Any], key: str) -> Any:
    found: Any = params
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


class _LockLoader(yaml.CSafeLoader):
    """Fast, and reads the numbers that DVC writes."""


_LockLoader.add_implicit_resolver(*EXPONENT)


def _locks(root: Path, revs: list[str]) -> dict[str, dict[str, Any]]:
    """Read dvc.lock at each revision that has one, by one call of git."""
    asked = "".join(f"{rev}:./dvc.lock\n" for rev in revs)
    answer = _output(["git", "cat-file", "--batch"], root, stdin=asked.encode())
    found, place = {}, 0
    for rev in revs:
        end = answer.index(b"\n", place)
        words = answer[place:end].split()
        place = end + 1
        if words[-1].isdigit():  # <hash> blob <bytes>; else: <what was asked> missing
            size = int(words[-1])
            found[rev] = yaml.load(answer[place : place + size], Loader=_LockLoader)
            place += size + 1
    return found


def read_out(root: Path, rev: str, path: str) -> bytes:
    """Read a file below an output of a stage, as it was at a revision.

    Args:
        root: the repository.
        rev: of git.
        path: from the root, e.g. runs/synthetic/eval/fold-5/predictions.parquet.

    Raises:
        DataError: if it was not made there, or is in no cache or remote that can be reached.
    """
    from dvc.exceptions import DvcException  # type: ignore[import-untyped]

    try:
        data: bytes = _files(root.absolute(), rev).read_bytes(path)
    except (OSError, DvcException) as error:
        raise DataError(
            f"{path} of {rev[:7]}: not in the cache; get it by `dvc pull`, or remove the "
            "experiment by `dvc exp remove` and run it again"
        ) from error
    return data


@lru_cache(maxsize=256)
def _files(root: Path, rev: str) -> Any:
    # Imported here: it takes half a second, and only a table needs it.
    from dvc.api import DVCFileSystem  # type: ignore[import-untyped]

    return DVCFileSystem(url=str(root), rev=rev)


def run_dvc(root: Path, *words: str) -> bytes:
    """Run DVC in `root` and return what it prints. Raises DataError with the reason it gives."""
    return _output(["dvc", *words], root, program=[sys.executable, "-m"])


def _output(
    words: list[str], root: Path, *, program: Sequence[str] = (), stdin: bytes | None = None
) -> bytes:
    command = [*program, *words]
    done = subprocess.run(command, cwd=root, input=stdin, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise DataError(f"{' '.join(words[:4])}: {said[-1].removeprefix('ERROR: ')}")
    return done.stdout


SHEETS: Final = Path("experiments")
PARAMS: Final = Path("params.yaml")
_WORDS: Final = {"null", "true", "false", "nan", "inf"}  # these mean something else in Hydra


@dataclass(frozen=True)
class Planned:
    """A run with what `-S` says to DVC, and its Config or why that is refused."""

    run: Run
    name: str
    sets: list[str]
    config: Config | None
    refused: str | None

    @property
    def command(self) -> list[str]:
        """The words of `dvc exp run --queue`."""
        options = [word for line in self.sets for word in ("-S", line)]
        return ["dvc", "exp", "run", "--queue", "-n", self.name, *options]


@dataclass(frozen=True)
class Found:
    """What DVC holds of one row and seed: all its folds."""

    folds: dict[int, Split]
    """The predictions by fold."""
    held: dict[int, Held]
    """By fold."""
    model: dict[int, dict[str, Any]]
    """By fold, model.json with its `history`, a row an epoch; only for calibration, else empty."""

    @cached_property
    def split(self) -> Split:
        """The predictions of the folds, one after another."""
        return pool(list(self.folds.values()))


def find_sheet(name: str) -> Sheet:
    """Load a sheet by name. Raises ConfigError with the names there are."""
    path = SHEETS / f"{name}.yaml"
    names = sheet_names()
    if name not in names:
        raise ConfigError(f"{path} not found; the sheets there are: {', '.join(names) or 'none'}")
    return load_sheet(path)


def sheet_names() -> list[str]:
    """Return the names of the sheets: the paper's tables, its figures, then what is beyond it."""

    def order(name: str) -> tuple[bool, int]:
        number = re.search(r"\d+", name)
        return not name.startswith("table"), int(number.group()) if number else 99

    return sorted((path.stem for path in SHEETS.glob("*.yaml")), key=order)


def read_settings(name: str | None) -> dict[str, Value]:
    """Read a flat file of dotted keys: experiments/settings/<name>.yaml, or a path."""
    if name is None:
        return {}
    path = Path(name) if name.endswith(".yaml") else SHEETS / "settings" / f"{name}.yaml"
    raw = read_mapping(path, missing="--with takes the name of a file beside it, or a path")
    try:
        return TypeAdapter(dict[str, Value]).validate_python(raw, strict=True)
    except ValidationError as error:
        raise ConfigError(one_line(error, str(path), see="params.yaml")) from error


def hydra_text(value: Value) -> str:
    """Write a value in the grammar of `-S`, which is Hydra's."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(hydra_text, value))}]"
    if isinstance(value, int | float):
        return repr(value)
    if re.fullmatch(r"[A-Za-z_/][\w./-]*", value) and value.lower() not in _WORDS:
        return value
    return "'" + re.sub(r"(\\+)(?='|$)", r"\1\1", value).replace("'", r"\'") + "'"


def plan(sheet: Sheet, *, settings: dict[str, Value], sets: Sequence[str]) -> list[Planned]:
    """Give each run of a sheet its parameters: params.yaml, then settings, `sets`, the sheet.

    Args:
        sheet: what to run.
        settings: dotted key to value.
        sets: `key=value` as for `dvc exp run -S`.

    Raises:
        ConfigError: if params.yaml, a setting or one of `sets` is wrong by itself, or one of `sets`
            is for a key that the sheet sets. Where only a run is wrong, that is in its `refused`.
    """
    read_config(PARAMS, [*_lines(settings), *sets])
    planned = []
    for run in sheet.runs():
        for line in sets:
            if line.partition("=")[0] in run.overrides:
                raise ConfigError(f"-S {line}: the sheet {sheet.name} sets this key itself")
        before = {key: value for key, value in settings.items() if key not in run.overrides}
        lines = [*_lines(before), *sets, *_lines(run.overrides)]
        label = f"{sheet.name}-{_slug(run.row)}-f{run.fold}-s{run.seed}"
        try:
            config, _ = read_config(PARAMS, lines)
        except ConfigError as error:
            planned.append(Planned(run, label, lines, None, str(error)))
        else:
            name = f"{label}-{identity(config)[:6]}"
            planned.append(Planned(run, name, lines, config, None))
    return planned


def run_list() -> None:
    """Print a line a sheet."""
    for name in sheet_names():
        sheet = load_sheet(SHEETS / f"{name}.yaml")
        runs = len(list(sheet.runs()))
        say(f"{name:8}  {sheet.paper:13}  {sheet.title:34}  {runs:3} runs")


def run_queue(name: str, settings: str | None, sets: list[str] | None, *, dry_run: bool) -> None:
    """Put the runs of a sheet that DVC does not hold into its queue, or print how."""
    planned = plan(find_sheet(name), settings=read_settings(settings), sets=sets or [])
    try:
        there = known(Path())
    except SafeError:
        if not dry_run:
            raise
        there = []  # the commands can be told without a repository
    done = [one for one in there if one.state == "done"]
    waiting = [one for one in there if one.state == "waiting"]
    counts = dict.fromkeys(("queued", "held", "waiting", "the same as another row", "refused"), 0)
    seen: set[tuple[str, int]] = set()
    for one in planned:
        if one.config is None:
            counts["refused"] += 1
            say(f"refused: {one.name}: {one.refused}")
        elif (key := (identity(one.config), one.run.fold)) in seen:
            counts["the same as another row"] += 1
        elif matching(one.config, done):
            counts["held"] += 1
        elif matching(one.config, waiting):
            counts["waiting"] += 1
        else:
            counts["queued"] += 1
            seen.add(key)
            if dry_run:
                say(shlex.join(one.command))
            else:
                run_dvc(Path(), *one.command[1:])
                say(f"queued: {one.name}")
    told = ", ".join(f"{count} {what}" for what, count in counts.items())
    say(f"{'dry run' if dry_run else 'queue'}: {told}. Next: dvc queue start")


def gather(
    sheet: Sheet, planned: Sequence[Planned], root: Path = Path()
) -> dict[str, dict[int, Found]]:
    """Collect what DVC holds of a sheet.

    Args:
        sheet: whose rows.
        planned: its runs, by plan().
        root: the repository.

    Returns:
        For every row, in order, what was found by seed. A seed whose folds are not all held is left
        out; a row of a model that is not built has none.

    Raises:
        DataError: if DVC fails, or predictions that it holds are in no cache or damaged.
    """
    done = held(root)
    configs = {(one.run.row, one.run.seed, one.run.fold): one.config for one in planned}
    wants = sheet.draw == "calibration" or not set(sheet.figures).isdisjoint(CALIBRATED)
    read = lru_cache(partial(_read, root, with_model=wants))
    found: dict[str, dict[int, Found]] = {row: {} for row in sheet.rows}
    for row, seed in dict.fromkeys((one.run.row, one.run.seed) for one in planned):
        got = Found({}, {}, {})
        for fold in sheet.folds:
            config = configs[row, seed, fold]
            if config and (one := matching(config, done)):
                got.held[fold] = one
                got.folds[fold], model = read(Layout(config.data.name), one.rev, fold)
                got.model.update({fold: model} if model else {})
        if len(got.folds) == len(sheet.folds):
            found[row][seed] = got
    return found


def _read(
    root: Path, layout: Layout, rev: str, fold: int, *, with_model: bool
) -> tuple[Split, dict[str, Any]]:
    """Read a fold's predictions and, if asked, its model.json."""
    path = layout.evals / f"fold-{fold}" / "predictions.parquet"
    data = io.BytesIO(read_out(root, rev, path.as_posix()))
    split = read_predictions(data, name=f"{path} of {rev[:7]}")
    if not with_model:
        return split, {}
    text = read_out(root, rev, (layout.calibrates / f"fold-{fold}" / "model.json").as_posix())
    info = json.loads(text)
    calibration = Calibration.from_info(info)
    scaled = calibration.scaled(split.logits) if calibration.clips else None
    return replace(split, scaled=scaled), info


def _lines(values: dict[str, Value]) -> list[str]:
    return [f"{key}={hydra_text(value)}" for key, value in values.items()]


def _slug(row: str) -> str:
    """Turn a row's name into what may be part of a git reference."""
    return re.sub(r"[^a-z0-9]+", "-", row.lower()).strip("-")
