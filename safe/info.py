"""model.json: all about a model but its weights, read and checked without torch.

It has every number needed to rebuild and to judge the model: architecture, classes by name,
preprocessing id, params, git commit, selection rule, seed. What a page, a card or a terminal shows
of it has its type and its limits here too; keys that are not named are passed over.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, ValidationError

from safe.config import Acl, Augment, Eval, Model, Positive, Section, Seed, Tam, Train
from safe.errors import ModelError
from safe.files import read_bounded
from safe.reader import Block, Plain, Sha256, first_wrong, parse_json
from safe.sample import DEFAULT_FRAMES, MOST_FRAMES
from safe.shards.index import CLIPS, MadeFrom
from safe.taxonomy import MOST, check_classes

MODEL_FORMAT: Final = 2

INFO_BYTES: Final = 2**24
"""Largest model.json: its history takes some 300 bytes an epoch."""

AGAIN: Final = "train again, or take the folder from where it was whole"


def read_info(path: Path) -> dict[str, Any]:
    """Read and check model.json.

    Raises:
        FileNotFoundError: if there is none.
        ModelError: one line, if it is too large, damaged, altered or of another format.
    """
    return parse_info(read_bounded(path, most=INFO_BYTES, error=ModelError), path)


def parse_info(data: bytes, path: Path) -> dict[str, Any]:
    """Check the bytes of a model.json, which errors call `path`. Raises ModelError, one line."""
    if len(data) > INFO_BYTES:
        raise ModelError(f"{path}: larger than {INFO_BYTES:,} bytes")
    try:
        info = parse_json(data)
    except ValueError as error:
        raise ModelError(f"{path}: damaged; {AGAIN}") from error
    if not isinstance(info, dict):
        raise ModelError(f"{path}: damaged; {AGAIN}")
    if info.get("format") != MODEL_FORMAT:
        raise ModelError(f"{path}: not of format {MODEL_FORMAT}; train again")
    try:
        checked = _Info.model_validate(info)
    except ValidationError as error:
        raise ModelError(f"{path}: damaged or altered: {first_wrong(error)}; {AGAIN}") from error
    k = len(checked.classes)
    for name in ("scale", "bias", "cutoffs") if checked.calibration else ():
        given = len(getattr(checked.calibration, name))
        if given not in (1, k):
            what = f"calibration.{name}: {given} numbers for {k} classes"
            raise ModelError(f"{path}: damaged or altered: {what}; {AGAIN}")
    if info["sha256"] != info_digest(info):
        raise ModelError(f"{path}: altered, it does not have the checksum that it gives; {AGAIN}")
    return {**info, "frames": checked.frames}


def info_digest(info: dict[str, Any]) -> str:
    """Return the sha256 of the canonical JSON of model.json without its key sha256."""
    plain = json.loads(json.dumps({**info, "sha256": None}))  # tuples as lists, as it is read back
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


Count = Annotated[int, Field(ge=0, le=CLIPS)]
Size = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0, le=1)]
Scale = Annotated[float, Field(gt=0, le=1e3)]
Bias = Annotated[float, Field(ge=-1e3, le=1e3)]
Word = Annotated[str, Field(max_length=100)]
Few = Field(max_length=100)


def _check_architecture(given: dict[str, Any]) -> dict[str, Any]:
    """Check it as the section model of params.yaml is, with its defaults for what is newer."""
    Model.model_validate({**given, "weights": None})
    return given


_TOLD: Final[dict[str, type[Section]]] = {
    "augment": Augment,
    "tam": Tam,
    "model": Model,
    "acl": Acl,
    "train": Train,
    "eval": Eval,
}
"""Sections of the params that a page or a card speaks of by key."""


def _check_params(given: dict[str, Any]) -> dict[str, Any]:
    """Check the keys that there are today; an older model may lack some and have others."""
    for name, section in _TOLD.items():
        if isinstance(block := given.get(name, {}), dict):
            known = {key: value for key, value in block.items() if key in section.model_fields}
            section.model_validate(known)
        else:
            raise ValueError(f"{name}: must be a section")
    return given


_Value = Plain | Annotated[list[Plain], Field(max_length=1000)] | Annotated[dict[Word, Plain], Few]
_Section = Annotated[dict[Word, _Value], Few]


class _Weights(Block):
    sha256: Sha256
    bytes: Size


class _Preprocessing(Block):
    id: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    made_from: MadeFrom | None = None


class _Selection(Block):
    rule: Literal["last", "val", "test"]
    metric: Word | None = None
    epoch: Count


class _Part(Block):
    parameters: Size
    multiply_adds: Size


class _Cost(_Part):
    parts: Annotated[dict[Word, _Part], Few]


class _Calibration(Block, extra="forbid"):
    """The fields of safe.evaluation.calibration.Calibration."""

    method: Literal["none", "temperature", "vector"]
    scale: Annotated[list[Scale], Field(min_length=1, max_length=MOST)]
    bias: Annotated[list[Bias], Field(min_length=1, max_length=MOST)]
    level: Share | None
    cutoffs: Annotated[list[Share], Field(min_length=1, max_length=MOST)]
    risk: Share | None
    threshold: Annotated[float, Field(ge=0, le=2)]
    clips: Count


class _Info(Block):
    sha256: Sha256
    weights: _Weights
    classes: Annotated[list[str], AfterValidator(check_classes)]
    architecture: Annotated[dict[str, Any], AfterValidator(_check_architecture)]
    frames: Annotated[int, Field(ge=1, le=MOST_FRAMES)] = DEFAULT_FRAMES
    """Not in models made before version 0.2."""
    crop: Annotated[int, Field(ge=16, le=512)]
    preprocessing: _Preprocessing
    fold: Annotated[Positive, Field(le=CLIPS)]
    selection: _Selection
    history: Annotated[list[Annotated[dict[Word, float], Few]], Field(max_length=100_000)]
    dataset: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,32}$")] | None = None
    seed: Seed | None = None
    train_clips: Count | None = None
    commit: Word | None = None
    torch: Word | None = None
    params: Annotated[dict[Word, Plain | _Section], Few, AfterValidator(_check_params)] = Field({})
    cost: _Cost | None = None
    calibration: _Calibration | None = None
