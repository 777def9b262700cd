"""How do a model folder and a video become answers, one after the other?

The one place where the two halves meet for a video: faces and windows from pipeline, the model and
its calibration from safe. Faces are found and cropped by the settings in the model folder, never by
params.yaml, and the id of the preprocessing must come out as the model's.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ValidationError

from cli.layout import find_model
from pipeline.face.preprocessing import preprocessing
from pipeline.pool.pool import Pool
from pipeline.windows import FaceWindow, Film, Gap, find_windows
from safe.config import Faces, Shard
from safe.errors import ConfigError, ModelError
from safe.evaluation.answers import Answer, Verdict, judge
from safe.evaluation.calibration import Calibration
from safe.evaluation.inference import Recogniser
from safe.params import one_line
from safe.sample import decode_strip
from safe.saved import load_model
from safe.taxonomy import Classes
from safe.training.device import pick_device

OTHER_CROPS = "other crops"
"""Flag of a row whose face was cut otherwise than those that the model was trained on."""


@dataclass(frozen=True)
class Look:
    """How a video is looked at. Raises ConfigError where a value cannot be."""

    who: Literal["largest", "all"]
    window: float
    """Seconds that one answer is about."""
    hop: float
    """Seconds from the start of a window to that of the next."""
    batch: int
    """Windows that the model sees at once; changes no answer."""
    workers: int
    """Processes."""
    deadline: float
    """Seconds after which the decoding of one piece of the video is killed."""
    memory: float
    """GiB that it may take."""
    detect_size: int | None = None
    """Pixels, longest side of the frame that the face detector sees; None: as the model's faces."""

    @property
    def pool(self) -> Pool:
        """Who decodes the video and finds its faces."""
        return Pool(workers=self.workers, deadline=self.deadline, memory=self.memory)

    def __post_init__(self) -> None:
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


class Reader:
    """A model made ready to answer about videos."""

    def __init__(self, run: Path, *, device: str = "auto", other_crops: bool = False) -> None:
        """Load the model.

        Args:
            run: a model folder or a run, as find_model takes it.
            device: as runtime.device.
            other_crops: allow a model that was trained on faces cut out by others.

        Raises:
            ConfigError: if there is no such device.
            ModelError: if there is no model, it is damaged, or its faces cannot be made here.
        """
        if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", device):
            raise ConfigError(f"predict: device = {device}: must be auto, cpu, cuda or cuda:N")
        where = pick_device(device)
        self.folder = find_model(run)
        model, self.info = load_model(self.folder)
        self.classes: Classes = tuple(self.info["classes"])
        self.calibration = Calibration.from_info(self.info)
        self.faces, self.shard, self.own_crops = _settings(self.info, self.folder, other_crops)
        self._answer = Recogniser(
            model, crop=self.info["crop"], device=where, precision=torch.float32
        )

    @property
    def name(self) -> str:
        """The last words of the model's path."""
        return "/".join(self.folder.absolute().parts[-4:])

    def reading(self) -> str:
        """Say in a few words how the probabilities are to be read."""
        if not self.calibration.clips:
            return "probabilities not calibrated, nothing abstained from"
        least = self.calibration.threshold
        abstains = f"abstains below {least:.2f}" if least > 0 else "never abstains"
        return f"probabilities calibrated, {abstains}"

    def notes(self) -> list[str]:
        """Say what a user must know before believing the answers."""
        notes = []
        if not self.calibration.clips:
            notes.append(
                f"{self.folder} is not calibrated: its probabilities are no measure of how sure "
                "it is, it abstains from nothing and gives no prediction sets; "
                "`safe-cli calibrate` makes one that does"
            )
        if not self.own_crops:
            notes.append(
                f"{self.folder} was trained on faces cut out otherwise than here: expect worse "
                "answers than in its evaluation, whatever probabilities it gives"
            )
        return notes

    def answers(
        self,
        video: Path,
        look: Look,
        *,
        on_film: Callable[[Film], None] | None = None,
        on_done: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[Answer, FaceWindow | None]]:
        """Yield the rows of a video in the order of time, each with its window; a gap has none.

        Raises:
            DataError: if the video cannot be used; also after some rows.
        """
        held: list[FaceWindow | Gap] = []
        size = look.detect_size or self.faces.detect_size
        own = self.own_crops and size == self.faces.detect_size
        for item in find_windows(
            video,
            faces=self.faces.model_copy(update={"detect_size": size}),
            shard=self.shard,
            window=look.window,
            hop=look.hop,
            who=look.who,
            pool=look.pool,
            on_film=on_film,
            on_done=on_done,
        ):
            if held and (longer := _join(held[-1], item)):
                held[-1] = longer
                continue
            if len(held) == look.batch:
                yield from self._judge(str(video), held, own_crops=own)
                held.clear()
            held.append(item)
        yield from self._judge(str(video), held, own_crops=own)

    def _judge(
        self, video: str, items: list[FaceWindow | Gap], *, own_crops: bool
    ) -> Iterator[tuple[Answer, FaceWindow | None]]:
        """Answer for all windows among the items in one pass of the model."""
        verdicts = iter(self._verdicts([i for i in items if isinstance(i, FaceWindow)]))
        for item in items:
            row = partial(Answer, video, item.start, item.end)
            if isinstance(item, Gap):
                yield row(reason=item.reason), None
                continue
            x0, y0, x1, y1 = map(float, np.median(item.boxes, axis=0))
            yield (
                row(
                    face=item.face,
                    verdict=next(verdicts),
                    box=(x0, y0, x1, y1),
                    flags=item.flags if own_crops else (*item.flags, OTHER_CROPS),
                ),
                item,
            )

    def _verdicts(self, windows: list[FaceWindow]) -> list[Verdict]:
        if not windows:
            return []
        shape = (self.shard.size, self.shard.frames)
        faces = np.stack([decode_strip(window.strip, *shape) for window in windows])
        return judge(self._answer(torch.from_numpy(faces))[0], self.calibration, self.classes)


def _join(gap: FaceWindow | Gap, item: FaceWindow | Gap) -> Gap | None:
    """Make one gap of two that touch and have one reason; None if they are not such."""
    if not (isinstance(gap, Gap) and isinstance(item, Gap)) or gap.reason != item.reason:
        return None
    return Gap(gap.start, max(gap.end, item.end), gap.reason) if item.start <= gap.end else None


def _settings(info: dict[str, Any], folder: Path, other_crops: bool) -> tuple[Faces, Shard, bool]:
    """Return how faces are found and cropped, and whether the model was trained on such faces."""
    made = info["preprocessing"].get("made_from") or {}
    own = made.get("source") == "video"
    if not own and not other_crops:
        raise ModelError(
            f"{folder}: trained on faces that were not cut out of videos here (data.source: "
            f"{made.get('source')}), so faces of a video would look otherwise to it; train with "
            "data.source=video, or add --other-crops to use it all the same"
        )
    if own:
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
    now = preprocessing("video", faces=faces, shard=shard)
    if own and now["id"] != info["preprocessing"]["id"]:
        other = [key for key, value in now["made_from"].items() if made.get(key) != value]
        raise ModelError(
            f"{folder}: trained on faces that this version of SAFE does not make "
            f"(other: {', '.join(other) or 'rules'}; preprocessing {info['preprocessing']['id']}, "
            f"here {now['id']}); use the version that trained it, or train anew"
        )
    return faces, shard, own
