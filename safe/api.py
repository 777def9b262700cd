"""What `import safe` gives a user: a model, its answers about a video, the shards of a data set.

    import safe
    rows = safe.predict("video.mp4")  # the model that ships; or the folder of your own behind it

Above both halves: faces and windows come from pipeline, which is imported when it is called, the
model and its calibration from safe. Faces are found and cropped by the settings in the model
folder, never by params.yaml, and the id of the preprocessing must come out as the model's. An
answer is about the apparent expression of a face, not what a person feels.
"""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from safe.config import Faces, Shard
from safe.errors import ConfigError, DataError, ModelError
from safe.params import one_line
from safe.sample import decode_strip
from safe.taxonomy import Classes

if TYPE_CHECKING:
    from pipeline.pool.pool import Pool
    from pipeline.stretch import Survey
    from pipeline.windows import FaceWindow, Gap
    from safe.evaluation.answers import Answer, Verdict
    from safe.shards.folder import ShardFolder

WINDOW: Final = 2.8
"""Seconds: the median clip of DFEW, 70 frames at 25 a second. A model is asked about stretches as
long as those that it was trained on."""

DEFAULT: Final = Path(__file__).with_name("default")
"""The model that ships: learnt from drawn heads alone (tools/default_model.py makes it)."""

OTHER_CROPS: Final = "other crops"
"""Flag of a row whose face was cut otherwise than those that the model was trained on."""


def predict(
    video: str | Path,
    model: "str | Path | Predictor | None" = None,
    *,
    face: Literal["largest", "all"] = "all",
    window: float = WINDOW,
    hop: float | None = None,
    detect_size: int | None = None,
    batch: int = 16,
    workers: int = 2,
    device: str = "auto",
    deadline: float = 60.0,
    memory: float = 4.0,
) -> list[dict[str, Any]]:
    """Return what a model says about a video: rows with the keys of safe.evaluation.answers.schema.

    Args:
        video: the file.
        model: a model folder, a run such as runs/synthetic, or what load_model gave, to load it
            once for many videos; None: the model that ships.
        face: look at all faces, or at the one that is the largest for most of the video.
        window: seconds that a row is about.
        hop: seconds from one window to the next; half a window by default.
        detect_size: pixels, longest side of the frame that the face detector sees; as the model's
            by default.
        batch: windows that the model sees at once.
        workers: processes that decode and find faces.
        device: auto, cpu, cuda or cuda:N, for a model that is loaded here.
        deadline: seconds after which the decoding of a piece of the video is killed.
        memory: GiB that it may take.

    Raises:
        ConfigError, ModelError, DataError: one line.
    """
    if not Path(video).is_file():
        raise DataError(f"{video}: no such file")
    settings = Settings(face, window, hop, batch, workers, deadline, memory, detect_size)
    predictor = model if isinstance(model, Predictor) else load_model(model, device=device)
    with _script_stays_out():
        rows = predictor.answers(Path(video), settings)
        return [answer.record(predictor.classes) for answer, _ in rows]


def load_model(
    run: str | Path | None = None, *, device: str = "auto", other_crops: bool = False
) -> "Predictor":
    """Load a model with its calibration, ready to answer.

    Args:
        run: a model folder or a run, as find_model takes it; None: the model that ships.
        device: auto, cpu, cuda or cuda:N.
        other_crops: allow answers about videos also of a model that was trained on faces cut out by
            others.

    Raises:
        ConfigError: if there is no such device.
        ModelError: if there is no model, or it is damaged.
    """
    if run is None and not DEFAULT.is_dir():
        raise ModelError(
            "no model is given, and none ships with this version: name a model folder or a run, or "
            "make the one of drawn heads, `python -m tools.default_model`"
        )
    return Predictor(DEFAULT if run is None else Path(run), device=device, other_crops=other_crops)


def open_shards(folder: str | Path) -> "ShardFolder":
    """Open a shard folder: its index and table, checked. Raises DataError in one line."""
    from safe.shards.folder import open_shards as open_folder

    return open_folder(Path(folder))


def find_model(run: Path) -> Path:
    """Find the model folder that a user means: the folder itself, or a run's one calibrated fold.

    Args:
        run: a folder with model.json; or one with calibrate/fold-<k>, or else train/fold-<k>.

    Raises:
        ModelError: if there is none, or several folds to choose from.
    """
    if (run / "model.json").is_file():
        return run
    for stage in ("calibrate", "train"):
        folds = sorted(path.parent for path in run.glob(f"{stage}/fold-*/model.json"))
        if len(folds) > 1:
            raise ModelError(f"{run}: several models; choose one of {', '.join(map(str, folds))}")
        if folds:
            return folds[0]
    raise ModelError(
        f"{run}: no model there, nor in calibrate/ or train/; `safe-cli train` makes it"
    )


@dataclass(frozen=True)
class Settings:
    """How a video is looked at, as predict says. Raises ConfigError where a value cannot be."""

    face: Literal["largest", "all"]
    window: float
    hop: float | None
    batch: int
    workers: int
    deadline: float
    memory: float
    detect_size: int | None = None

    @property
    def pool(self) -> "Pool":
        """Who decodes the video and finds its faces."""
        from pipeline.pool.pool import Pool

        return Pool(workers=self.workers, deadline=self.deadline, memory=self.memory)

    def __post_init__(self) -> None:
        if self.hop is None:
            object.__setattr__(self, "hop", self.window / 2)
        least_most = {
            "window": (0.2, 60),
            "hop": (0.04, 3600),
            "batch": (1, 4096),
            "workers": (1, 1024),
            "deadline": (1, 86400),
            "memory": (0.25, 1024),
        }
        for name, (least, most) in least_most.items():
            value = getattr(self, name)
            if not least <= value <= most:  # true of nan, too
                raise ConfigError(f"predict: {name} = {value:g}: must be from {least} to {most}")
        size = self.detect_size
        if size is not None and not (64 <= size <= 4096 and size % 32 == 0):
            raise ConfigError(
                f"predict: detect_size = {size}: must be a multiple of 32 from 64 to 4096"
            )


@dataclass(frozen=True)
class Crops:
    """How the faces of a video are found and cut out for a model."""

    faces: Faces
    shard: Shard
    own: bool
    """Whether the model was trained on faces that were cut out so."""


class Predictor:
    """A model with its calibration, ready to answer about faces and about videos."""

    def __init__(self, run: Path, *, device: str = "auto", other_crops: bool = False) -> None:
        """Load the model, as load_model says."""
        if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", device):
            raise ConfigError(f"predict: device = {device}: must be auto, cpu, cuda or cuda:N")
        import torch

        from safe.evaluation.calibration import Calibration
        from safe.evaluation.inference import Inference
        from safe.saved import WEIGHTS, load_model
        from safe.training.device import pick_device

        where = pick_device(device)
        self.folder = find_model(run)
        self.model, self.info = load_model(self.folder)
        self.classes: Classes = tuple(self.info["classes"])
        self.calibration = Calibration.from_info(self.info)
        self._other_crops = other_crops
        self._answer = Inference(
            self.model,
            crop=self.info["crop"],
            device=where,
            precision=torch.float32,
            name=self.folder / WEIGHTS,
        )

    @property
    def name(self) -> str:
        """The last words of the model's path."""
        return "/".join(self.folder.absolute().parts[-4:])

    @cached_property
    def crops(self) -> Crops:
        """How its faces are cut out. Raises ModelError if they cannot be made here."""
        return _crops(self.info, self.folder, other_crops=self._other_crops)

    def reading(self) -> str:
        """Say in a few words how the probabilities are to be read."""
        if not self.calibration.clips:
            return "probabilities not calibrated, nothing abstained from"
        least = self.calibration.threshold
        abstains = f"abstains below {least:.2f}" if least > 0 else "never abstains"
        return f"probabilities calibrated, {abstains}"

    def notes(self) -> list[str]:
        """Say what a user must know before believing the answers about videos."""
        notes = []
        if self.folder == DEFAULT:
            notes.append(
                "the model that ships with SAFE: it has seen drawn heads only; what is known of it "
                f"on real faces is in {DEFAULT / 'card.md'}"
            )
        if not self.calibration.clips:
            notes.append(
                f"{self.folder} is not calibrated: its probabilities are no measure of how sure "
                "it is, it abstains from nothing and gives no prediction sets; "
                "`safe-cli calibrate` makes one that does"
            )
        if not self.crops.own:
            notes.append(
                f"{self.folder} was trained on faces cut out otherwise than here: expect worse "
                "answers than in its evaluation, whatever probabilities it gives"
            )
        return notes

    def judge(self, faces: NDArray[np.uint8]) -> "list[Verdict]":
        """Say what faces, uint8 [n, T, S, S, 3], RGB, as a shard has them, show: n verdicts."""
        import torch

        from safe.evaluation.answers import judge

        logits, _, _ = self._answer(torch.from_numpy(faces))
        return judge(logits, self.calibration, self.classes)

    def answers(
        self,
        video: Path,
        settings: Settings,
        *,
        on_film: "Callable[[Survey], None] | None" = None,
        on_done: Callable[[int, int], None] | None = None,
    ) -> "Iterator[tuple[Answer, FaceWindow | None]]":
        """Yield the rows of a video in the order of time, each with its window; a gap has none.

        Raises:
            DataError: if the video cannot be used; also after some rows.
        """
        from pipeline.windows import find_windows

        assert settings.hop is not None
        faces, shard, own = self.crops.faces, self.crops.shard, self.crops.own
        size = settings.detect_size or faces.detect_size
        judge = partial(self._rows, str(video), own=own and size == faces.detect_size)
        held: list[FaceWindow | Gap] = []
        for item in find_windows(
            video,
            faces=faces.model_copy(update={"detect_size": size}),
            shard=shard,
            window=settings.window,
            hop=settings.hop,
            who=settings.face,
            pool=settings.pool,
            on_film=on_film,
            on_done=on_done,
        ):
            if held and (longer := _join(held[-1], item)):
                held[-1] = longer
                continue
            if len(held) == settings.batch:
                yield from judge(held)
                held.clear()
            held.append(item)
        yield from judge(held)

    def _rows(
        self, video: str, items: "list[FaceWindow | Gap]", *, own: bool
    ) -> "Iterator[tuple[Answer, FaceWindow | None]]":
        """Answer for all windows among the items in one pass of the model."""
        from pipeline.windows import Gap
        from safe.evaluation.answers import Answer

        shape = (self.crops.shard.size, self.crops.shard.frames)
        strips = [decode_strip(i.strip, *shape) for i in items if not isinstance(i, Gap)]
        verdicts = iter(self.judge(np.stack(strips)) if strips else [])
        for item in items:
            row = partial(Answer, video, item.start, item.end)
            if isinstance(item, Gap):
                yield row(reason=item.reason), None
                continue
            x0, y0, x1, y1 = map(float, np.median(item.boxes, axis=0))
            flags = item.flags if own else (*item.flags, OTHER_CROPS)
            yield row(item.face, next(verdicts), (x0, y0, x1, y1), flags), item


def _join(gap: "FaceWindow | Gap", item: "FaceWindow | Gap") -> "Gap | None":
    """Make one gap of two that touch and have one reason; None if they are not such."""
    from pipeline.windows import Gap

    if not (isinstance(gap, Gap) and isinstance(item, Gap)) or gap.reason != item.reason:
        return None
    return Gap(gap.start, max(gap.end, item.end), gap.reason) if item.start <= gap.end else None


def _crops(info: dict[str, Any], folder: Path, *, other_crops: bool) -> Crops:
    """Take the settings of the faces from model.json, and see that they mean here what they did."""
    from pipeline.face.preprocessing import preprocessing

    made = info["preprocessing"].get("made_from") or {}
    source = made.get("source")
    own = source in ("video", "strips")  # strips are drawn as the pipeline would cut them out
    if not own and not other_crops:
        raise ModelError(
            f"{folder}: trained on faces that were not cut out of videos here (data.source: "
            f"{source}), so faces of a video would look otherwise to it; train with "
            "data.source=video, or add --other-crops to use it all the same"
        )
    if source == "video":
        detector = str(made.get("detector")).rsplit("-", 1)[0]  # without the sum of its weights
        raw = {"second_size": 0, **made, "detector": detector, "clips": 1}
    else:
        params = info.get("params") or {}
        raw = {"second_size": 0, **params.get("faces", {}), **params.get("shard", {})}
    raw["frames"] = info["frames"]
    try:
        faces = Faces.model_validate({key: raw[key] for key in Faces.model_fields if key in raw})
        shard = Shard.model_validate({key: raw[key] for key in Shard.model_fields if key in raw})
    except ValidationError as error:
        raise ModelError(one_line(error, f"{folder}/model.json", see="params.yaml")) from error
    now = preprocessing("strips" if source == "strips" else "video", faces=faces, shard=shard)
    if own and now["id"] != info["preprocessing"]["id"]:
        other = [key for key, value in now["made_from"].items() if made.get(key) != value]
        raise ModelError(
            f"{folder}: trained on faces that this version of SAFE does not make "
            f"(other: {', '.join(other) or 'rules'}; preprocessing {info['preprocessing']['id']}, "
            f"here {now['id']}); use the version that trained it, or train again"
        )
    return Crops(faces, shard, own)


@contextmanager
def _script_stays_out() -> Iterator[None]:
    """Keep child processes from running the caller's script again.

    A child imports the script that called, to have its functions; ours need none of them. A script
    of one line without `if __name__ == "__main__"` would start children without end.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script
