"""Sheets: which runs an experiment of the paper needs, and what the paper reported.

A sheet is one YAML file a table or figure, in the folder experiments/. It names rows, each a set of
parameters; folds and seeds, over which every row is run; and the paper's figures.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from safe.config import Positive, Section
from safe.errors import ConfigError
from safe.params import one_line, read_mapping
from safe.taxonomy import NAME

CALIBRATED: Final = ("ece_calibrated", "nll_calibrated", "brier_calibrated")
FIGURES: Final = ("war", "uar", "ece", "nll", "brier", *CALIBRATED)
"""What a sheet may show beside recall.<class>: keys of safe.evaluation.metrics.summarize, and three
of them after calibration. Which classes there are, only the runs tell."""

_MAY_BE: Final = f"one of {', '.join(FIGURES)}, or recall. and the name of a class"

Value = bool | int | float | str | list[int] | None
Seed = Annotated[int, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]


class Row(Section):
    """One line of a table, one model of a figure, or one point of a sweep."""

    set: dict[str, Value] | None
    """Dotted key of params.yaml to value; None: a published model that is not built here."""
    paper: dict[str, float] = Field(default={})
    """Figure, or `<figure>_std`, to what the paper reports, in the units of
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
            if not _is_figure(key.removesuffix("_std")):
                raise ValueError(f"paper.{key}: must be {_MAY_BE}, or its _std")
        if self.set is None and not self.paper:
            raise ValueError("set: null needs figures of the paper")
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
    """One table or figure of the paper."""

    name: Text
    """Of the file, without `.yaml`."""
    title: Text
    paper: Text
    """Where in the paper: `Table IV`."""
    dataset: Literal["dfew", "ferv39k"]
    """Whose figures the paper gives; ours are of data.name."""
    draw: Literal["table", "sweep", "calibration", "cases", "embedding", "confusion"]
    figures: list[str] = Field(default=["war", "uar"], min_length=1)
    """Which figures, in order."""
    folds: list[Positive] = Field(default=[5], min_length=1)
    seeds: list[Seed] = Field(default=[0, 1, 2], min_length=1)
    note: Text | None = None
    """What does not add up in the paper, or is not given there."""
    base: dict[str, Value] = Field(default={})
    """What every run sets."""
    rows: dict[str, Row] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for figure in self.figures:
            if not _is_figure(figure):
                raise ValueError(f"figures: {figure} must be {_MAY_BE}")
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


def _is_figure(name: str) -> bool:
    recall, _, of = name.partition(".")
    return name in FIGURES or (recall == "recall" and NAME.fullmatch(of) is not None)


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
