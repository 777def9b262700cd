"""Sheets, the experiments of the paper: which runs each needs, and what the paper reported.

A sheet is one YAML file a table or picture, in the folder experiments/. It names rows, each a set
of parameters; folds and seeds, over which every row is run; and the paper's numbers. A plan adds
the user's settings and gives each run its Config.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from safe.config import Config, Positive, Section
from safe.errors import ConfigError
from safe.evaluation.held import identity
from safe.params import load_config, one_line, read_mapping
from safe.taxonomy import NAME

SHEETS: Final = Path("experiments")
PARAMS: Final = Path("params.yaml")
_WORDS: Final = {"null", "true", "false", "nan", "inf"}  # these mean something else in Hydra

CALIBRATED: Final = ("ece_calibrated", "nll_calibrated", "brier_calibrated")
METRICS: Final = ("war", "uar", "ece", "nll", "brier", *CALIBRATED)
"""What a sheet may show beside recall.<class>: keys of safe.evaluation.metrics.summarize, and three
of them after calibration. Which classes there are, only the runs tell."""

_MAY_BE: Final = f"one of {', '.join(METRICS)}, or recall. and the name of a class"

Value = bool | int | float | str | list[int] | None
Seed = Annotated[int, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]


class Row(Section):
    """One line of a table, one model of a figure, or one point of a sweep."""

    set: dict[str, Value] | None
    """Dotted key of params.yaml to value; None: a published model that is not built here."""
    paper: dict[str, float] = Field(default={})
    """Metric, or `<figure>_std`, to what the paper reports, in the units of
    safe.evaluation.metrics."""
    against: str | None = None
    """The row that it is tested against."""
    axis: Text | None = None
    """Of a sweep: what varies."""
    at: float | None = None
    """Of a sweep: its value on the axis."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for key in self.paper:
            if not _is_metric(key.removesuffix("_std")):
                raise ValueError(f"paper.{key}: must be {_MAY_BE}, or its _std")
        if self.set is None and not self.paper:
            raise ValueError("set: null needs numbers of the paper")
        if (self.axis is None) != (self.at is None):
            raise ValueError("at: axis and at go together")
        return self


@dataclass(frozen=True)
class Run:
    """One training and evaluation: a row, a seed, a fold."""

    row: str
    seed: int
    fold: int
    overrides: dict[str, Value]
    """Dotted key of params.yaml to value."""


class Sheet(Section):
    """One table or picture of the paper."""

    name: Text
    """Of the file, without `.yaml`."""
    title: Text
    paper: Text
    """Where in the paper: `Table IV`."""
    dataset: Literal["dfew", "ferv39k"]
    """Whose numbers the paper gives; ours are of data.name."""
    draw: Literal["table", "sweep", "calibration", "cases", "embedding", "confusion"]
    metrics: list[str] = Field(default=["war", "uar"], min_length=1)
    """Which metrics, in order."""
    folds: list[Positive] = Field(default=[5], min_length=1)
    seeds: list[Seed] = Field(default=[0, 1, 2], min_length=1)
    note: Text | None = None
    """What does not add up in the paper, or is not given there."""
    base: dict[str, Value] = Field(default={})
    """What every run sets."""
    rows: dict[str, Row] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for metric in self.metrics:
            if not _is_metric(metric):
                raise ValueError(f"metrics: {metric} must be {_MAY_BE}")
        for key, numbers in (("folds", self.folds), ("seeds", self.seeds)):
            if len(set(numbers)) != len(numbers):
                raise ValueError(f"{key}: {numbers} must be different numbers")
        for name, row in self.rows.items():
            if row.against is not None and (row.against == name or row.against not in self.rows):
                raise ValueError(f"rows.{name}.against: '{row.against}' is not another row")
            if self.draw == "sweep" and row.axis is None:
                raise ValueError(f"rows.{name}: a sweep needs axis and at")
            for key in ("seed", "data.folds"):
                if key in self.base or key in (row.set or {}):
                    raise ValueError(f"rows.{name}: {key} comes from the sheet's folds and seeds")
        return self

    def runs(self) -> Iterator[Run]:
        """Yield every run, seed by seed, so that the first seed completes the table first."""
        for seed in self.seeds:
            for name, row in self.rows.items():
                for fold in self.folds if row.set is not None else []:
                    own: dict[str, Value] = {"seed": seed, "data.folds": [fold]}
                    yield Run(name, seed, fold, self.base | (row.set or {}) | own)


def _is_metric(name: str) -> bool:
    recall, _, of = name.partition(".")
    return name in METRICS or (recall == "recall" and NAME.fullmatch(of) is not None)


def load_sheet(path: Path) -> Sheet:
    """Read a sheet.

    Raises:
        ConfigError: one line with the file and the key, if it is missing, damaged or wrong.
    """
    raw: dict[str, Any] = read_mapping(path, missing="`safe-cli experiments list` shows the sheets")
    if "name" in raw:
        raise ConfigError(f"{path}: unknown key 'name'; a sheet has the name of its file")
    try:
        return Sheet.model_validate({"name": path.stem, **raw})
    except ValidationError as error:
        raise ConfigError(one_line(error, str(path), see="the other sheets")) from error


def find_sheet(name: str) -> Sheet:
    """Load a sheet by name. Raises ConfigError with the names there are."""
    path = SHEETS / f"{name}.yaml"
    names = sheet_names()
    if name not in names:
        raise ConfigError(f"{path} not found; the sheets there are: {', '.join(names) or 'none'}")
    return load_sheet(path)


def sheet_names() -> list[str]:
    """Return the names of the sheets: the paper's tables, its pictures, then what is beyond it."""

    def order(name: str) -> tuple[bool, int]:
        number = re.search(r"\d+", name)
        return not name.startswith("table"), int(number.group()) if number else 99

    return sorted((path.stem for path in SHEETS.glob("*.yaml")), key=order)


# Runs with their parameters


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


def plan(
    sheet: Sheet,
    *,
    settings: dict[str, Value],
    sets: Sequence[str],
    check: Callable[[Config], None] = lambda config: None,
) -> list[Planned]:
    """Give each run of a sheet its parameters: params.yaml, then settings, `sets`, the sheet.

    Args:
        sheet: what to run.
        settings: dotted key to value.
        sets: `key=value` as for `dvc exp run -S`.
        check: raises ConfigError for what only the data sets can tell.

    Raises:
        ConfigError: if params.yaml, a setting or one of `sets` is wrong by itself, or one of `sets`
            is for a key that the sheet sets. Where only a run is wrong, that is in its `refused`.
    """
    check(load_config(PARAMS, [*_lines(settings), *sets]))
    planned = []
    for run in sheet.runs():
        for line in sets:
            if line.partition("=")[0] in run.overrides:
                raise ConfigError(f"-S {line}: the sheet {sheet.name} sets this key itself")
        before = {key: value for key, value in settings.items() if key not in run.overrides}
        lines = [*_lines(before), *sets, *_lines(run.overrides)]
        label = f"{sheet.name}-{_slug(run.row)}-f{run.fold}-s{run.seed}"
        try:
            config = load_config(PARAMS, lines)
            check(config)
        except ConfigError as error:
            planned.append(Planned(run, label, lines, None, str(error)))
        else:
            name = f"{label}-{identity(config)[:6]}"
            planned.append(Planned(run, name, lines, config, None))
    return planned


def _lines(values: dict[str, Value]) -> list[str]:
    return [f"{key}={hydra_text(value)}" for key, value in values.items()]


def _slug(row: str) -> str:
    """Turn a row's name into what may be part of a git reference."""
    return re.sub(r"[^a-z0-9]+", "-", row.lower()).strip("-")
