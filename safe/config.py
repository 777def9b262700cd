"""Which parameters are there, and which values are allowed?

Every section of params.yaml is a frozen object here, with the name of its section, stage and verb;
modules take their own section or plain values. params.yaml is the only place with default values;
its comments give units and sources.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from safe.sample import DEFAULT_FRAMES, MOST_FRAMES
from safe.taxonomy import check_classes

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Section(BaseModel):
    """A frozen block of params.yaml; unknown keys and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


_URL = r"[a-z][a-z0-9+.-]*://(?!.*::)[^@?#\s]+"
# Before an @ or behind a ? stands perhaps a password or a signature; :: chains filesystems.

_SPLITS = {
    "synthetic": "EmoLabel_DataSplit",
    "dfew": "EmoLabel_DataSplit",
    "ferv39k": "4_setups",
}
"""What data.splits must be; any CSV file for a dataset that is not here."""


class Data(Section):
    """Which dataset, where, and which folds."""

    name: Literal["synthetic", "dfew", "ferv39k", "own"]
    root: Annotated[str, Field(min_length=1)]
    splits: Annotated[str, Field(min_length=1)]
    source: Literal["video", "frames", "strips"]
    folds: Annotated[list[Positive], Field(min_length=1)]
    classes: list[str] | dict[str, str | None] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(set(self.folds)) != len(self.folds):
            raise ValueError(f"folds: {self.folds} must be different numbers")
        if self.name == "ferv39k" and self.folds != [1]:
            raise ValueError(f"folds: {self.folds} must be [1] when data.name is ferv39k")
        if isinstance(self.classes, list):
            try:
                check_classes(self.classes)
            except ValueError as error:
                raise ValueError(f"classes: {error}") from error
        splits = _SPLITS.get(self.name)
        if splits is not None and self.splits != splits:
            raise ValueError(
                f"splits: {self.splits} must be {splits} when data.name is {self.name}"
            )
        if splits is None and not re.fullmatch(r"(?!/)(?!(.*/)?\.\./)[^\\:]+\.csv", self.splits):
            raise ValueError(
                f"splits: {self.splits} must be a file in data.root that ends in .csv when "
                f"data.name is {self.name}"
            )
        allowed = ("video", "strips") if self.name == "synthetic" else ("video", "frames")
        if self.source not in allowed:
            raise ValueError(
                f"source: {self.source} must be {' or '.join(allowed)} when data.name is "
                f"{self.name}"
            )
        return self


class Synthesize(Section):
    """How many animated faces, how long, how hard."""

    seed: Seed
    clips: Annotated[int, Field(ge=35)]
    identities: Annotated[int, Field(ge=5)]
    size: Annotated[int, Field(ge=32, le=1024, multiple_of=16)]
    fps: Annotated[int, Field(ge=5, le=60)]
    tail: Fraction
    ambiguity: Fraction
    faint: Fraction


class Faces(Section):
    """How the one face of a clip is found."""

    detector: Literal["centerface"]
    detect_size: Annotated[int, Field(ge=64, le=4096, multiple_of=32)]
    second_size: Annotated[int, Field(ge=0, le=4096, multiple_of=32)]
    threshold: Annotated[float, Field(gt=0, lt=1)]
    every: Annotated[int, Field(ge=1, le=MOST_FRAMES)]
    smooth: Annotated[float, Field(ge=0, le=8)]
    max_gap: Annotated[int, Field(ge=0, le=MOST_FRAMES)]
    missing: Literal["center", "drop"]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.every - 1 > self.max_gap:
            raise ValueError(
                f"every: {self.every} leaves {self.every - 1} frames between two looks; "
                f"at most max_gap, {self.max_gap}, are interpolated"
            )
        return self


class Shard(Section):
    """How faces are cropped, encoded and packed."""

    frames: Annotated[int, Field(ge=4, le=MOST_FRAMES)] = DEFAULT_FRAMES
    size: Annotated[int, Field(ge=16, le=512, multiple_of=16)]
    margin: Annotated[float, Field(ge=0, le=2)]
    quality: Annotated[int, Field(ge=1, le=100)]
    chroma: Literal["420", "444"]
    clips: Positive


class Augment(Section):
    """What is drawn once a clip, the same for all its frames."""

    crop: Annotated[int, Field(ge=16, le=512)]
    flip: Fraction


class Tam(Section):
    """Algorithm 1 and its rivals."""

    strategy: Literal["none", "random", "frame", "videomix", "tam"]
    ratio: Fraction
    mask_ratio: Fraction
    block: Positive
    bank: Positive


class Model(Section):
    """Backbone, windows and temporal model."""

    name: Literal["safe", "resnet18_lstm", "former_dfer", "m3dfel", "c3d"]
    backbone: Literal["small", "light", "r3d_18"]
    weights: str | None
    temporal: Literal["s2am2", "bilstm"]
    window: Annotated[int, Field(ge=1)]
    stride: Positive
    hidden: Annotated[int, Field(ge=1, le=8192)]
    dropout: Annotated[float, Field(ge=0, lt=1)]


class Acl(Section):
    """The loss: equations (6) to (10)."""

    cal: bool
    fcl: bool
    top_k: Positive
    tau: Annotated[float, Field(gt=0)]
    lambda_1: Annotated[float, Field(ge=0)]
    lambda_2: Annotated[float, Field(ge=0)]


class Train(Section):
    """The recipe of one run."""

    epochs: Positive
    batch: Annotated[int, Field(ge=2)]
    accumulate: Positive
    lr: Annotated[float, Field(gt=0)]
    lr_min: Annotated[float, Field(ge=0)]
    warmup: Annotated[float, Field(ge=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    clip_grad: Annotated[float, Field(gt=0)] | None
    precision: Literal["auto", "float32", "bf16"]
    recompute: bool
    compile: Literal["auto"] | bool
    sync_bn: bool
    select: Literal["last", "val", "test"]
    val_from: Literal["clips", "fold"]
    val_fraction: Annotated[float, Field(gt=0, lt=1)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.lr_min > self.lr:
            raise ValueError(f"lr_min: {self.lr_min} must not be above lr, {self.lr}")
        if self.warmup > self.epochs:
            raise ValueError(f"warmup: {self.warmup} must not be above epochs, {self.epochs}")
        if self.batch % self.accumulate or self.batch < 2 * self.accumulate:
            raise ValueError(
                f"accumulate: {self.accumulate} must cut batch, {self.batch} clips, into equal "
                "parts of at least 2"
            )
        if self.recompute and self.compile is True:
            raise ValueError("recompute: must be false when compile is true; choose one of them")
        return self


class Calibrate(Section):
    """How a model's answers are read."""

    method: Literal["none", "temperature", "vector"]
    level: Annotated[float, Field(ge=0.5, lt=1)] | None
    risk: Annotated[float, Field(gt=0, lt=1)] | None


class Eval(Section):
    """The exact pass over the test split."""

    batch: Positive
    precision: Literal["float32", "bf16"]
    bins: Positive
    perturb: Literal[
        "none",
        "gaussian_noise",
        "frame_drop",
        "blur",
        "jpeg",
        "low_light",
        "occlusion",
        "shuffle",
        "reverse",
        "freeze",
    ]
    severity: Annotated[int, Field(ge=0, le=5)]
    seed: Seed


class Runtime(Section):
    """Where it runs. Changes no result and is in no stage's params: changing it re-runs nothing."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]
    workers: Annotated[int, Field(ge=0, le=1024)]
    engine: Annotated[str, Field(pattern=r"^(local|(tcp|tls)://[^\s/@]+:\d{1,5})$")]
    retries: Annotated[int, Field(ge=0, le=100)]
    deadline: Annotated[float, Field(gt=0)]
    memory: Annotated[float, Field(ge=0.25)]
    checkpoint: Annotated[float, Field(ge=0)]
    checkpoint_steps: Positive | None
    shards: str | None
    cache: Annotated[float, Field(gt=0)]
    clips: str | None
    patience: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _has_no_secret(self) -> Self:
        for key, url in (("shards", self.shards), ("clips", self.clips)):
            if url is None or re.fullmatch(_URL, url):
                continue
            raise ValueError(
                f"{key}: must be a URL such as s3://bucket/prefix or null, without @ ? # ::, "
                "since credentials come from the environment or the store's usual files"
            )
        return self


class Config(Section):
    """All of params.yaml."""

    seed: Seed
    data: Data
    synthesize: Synthesize
    faces: Faces
    shard: Shard
    augment: Augment
    tam: Tam
    model: Model
    acl: Acl
    train: Train
    calibrate: Calibrate
    eval: Eval
    runtime: Runtime

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.data.name == "ferv39k" and (self.train.select, self.train.val_from) == (
            "val",
            "fold",
        ):
            raise ValueError(
                "train.val_from: fold needs folds, and ferv39k has one split; use clips"
            )
        if self.runtime.clips is not None and self.data.source == "frames":
            raise ValueError(
                "runtime.clips: must be null when data.source is frames; folders of frames are "
                "read from data.root only"
            )
        if self.augment.crop > self.shard.size:
            raise ValueError(
                f"augment.crop: {self.augment.crop} pixels do not fit the shards' faces; "
                f"at most shard.size, {self.shard.size}"
            )
        if self.augment.crop % self.tam.block:
            raise ValueError(
                f"tam.block: {self.tam.block} must divide augment.crop, {self.augment.crop} pixels"
            )
        return self
