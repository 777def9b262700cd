"""Which clips does the page show, and how do their faces get into it?

Shown are the clips that the model is most sure about and wrong, and those that it is least sure
about. Their faces come from the shards, checked as a training reads them, scaled down, as JPEG in
the page itself. Faces are biometric data: a page with them is to be kept as the clips are.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from safe.errors import DataError
from safe.metrics import Ints
from safe.reading.loader import ClipReader
from safe.reading.shards import ShardFolder
from safe.report.gather import Experiment

SIDE: Final = 64
"""Pixels of a face in the picture; 16 of them take some 25 KB. The page shows them smaller."""

QUALITY: Final = 82


@dataclass(frozen=True)
class Case:
    """One clip that is shown."""

    row: int
    """Position in the experiment's split."""
    clip: str
    label: str
    decision: str | None
    """The class that is decided for; None: the model abstains."""
    likeliest: str
    sure: float
    """Highest probability, in percent."""


def choose(experiment: Experiment, count: int) -> tuple[list[Case], list[Case]]:
    """Find `count` clips, or fewer, that are wrong most surely, and as many doubtful ones.

    Confidence is the highest probability, calibrated where there is a calibration.

    Returns:
        The wrong ones, the surest first; the doubtful ones, the least sure first. No clip is in
        both.
    """
    p = experiment.probabilities
    confidence, said = p.max(axis=1), p.argmax(axis=1)
    order = np.argsort(-confidence, kind="stable")
    worst = [int(i) for i in order if said[i] != experiment.split.label[i]][:count]
    doubtful = [int(i) for i in order[::-1] if i not in worst][:count]
    return _cases(experiment, worst, said), _cases(experiment, doubtful, said)


def _cases(experiment: Experiment, rows: Sequence[int], said: Ints) -> list[Case]:
    split = experiment.split
    return [
        Case(
            row=row,
            clip=split.clip[row],
            label=split.classes[split.label[row]],
            decision=None if experiment.abstains[row] else split.classes[said[row]],
            likeliest=split.classes[said[row]],
            sure=100 * float(experiment.probabilities[row].max()),
        )
        for row in rows
    ]


def read_strips(folder: ShardFolder, clips: Sequence[str]) -> dict[str, str]:
    """Read the faces of clips and make each a picture: clip to a data: URI.

    A clip that is not in the shards any more, or cannot be read, is left out.
    """
    found = {}
    reader = ClipReader(folder)
    size = folder.face_size
    faces = np.empty((1, folder.frames, size, size, 3), dtype=np.uint8)
    try:
        for clip in clips:
            rows = np.flatnonzero(folder.clip == clip)
            if not len(rows):
                continue
            try:
                reader.read(rows, faces)
            except DataError:
                continue
            found[clip] = _data_uri(faces[0])
    finally:
        reader.close()
    return found


def _data_uri(faces: NDArray[np.uint8]) -> str:
    """Put faces uint8 [T, S, S, 3] side by side, SIDE pixels each, as a JPEG."""
    import cv2  # here: a page without faces needs it not

    small = [cv2.resize(face, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for face in faces]
    strip = np.ascontiguousarray(np.concatenate(small, axis=1))
    jpeg = simplejpeg.encode_jpeg(strip, QUALITY, "RGB", "420", fastdct=False)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
