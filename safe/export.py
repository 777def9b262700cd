"""Export of a model folder as one ONNX file that needs neither torch nor this project.

The file maps stored faces, uint8, to calibrated probabilities: centre crop, normalisation, network
and calibration are inside, and what else a reader must know stands in its metadata. It is kept only
if onnxruntime gives what PyTorch gives. Shapes: B clips, of any number; T frames; S pixels, the
side of a stored face; K classes, N windows, D features.
"""

import json
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from safe.errors import ModelError
from safe.evaluation.calibration import Calibration
from safe.evaluation.inference import Inference
from safe.evaluation.metrics import Floats
from safe.files import atomic_file
from safe.models.backbones import fold_norms
from safe.report.card import MEANING, licence_of
from safe.saved import WEIGHTS, load_model
from safe.training.transforms import MEAN, STD, center_crop

INPUT: Final = "faces"
OUTPUTS: Final = ("probabilities", "attention", "logits", "embedding")
"""Float32: [B, K], calibrated, of sum 1; [B, N], of sum 1; [B, K] before calibration; [B, D]."""

TOLERANCE: Final = 1e-4
"""Largest difference from PyTorch; a share of the largest value where an output goes above 1."""

BATCH: Final = 32

Faces = NDArray[np.uint8]


@dataclass(frozen=True)
class Exported:
    """What an export came to."""

    bytes: int  # of the file
    seconds: float  # without the comparison
    clips: int  # that were compared
    difference: float  # the largest, see TOLERANCE
    torch_rate: float  # clips a second on this CPU, with the threads that torch was given
    onnx_rate: float  # the same of onnxruntime, with the threads that it takes


def export_model(folder: Path, out: Path, *, faces: Faces | None = None) -> Exported:
    """Write a model as ONNX, after comparing it with PyTorch in batches of 1, 7, 32, 32, ...

    Args:
        folder: the model folder.
        out: the file.
        faces: uint8 [n, T, S, S, 3], n >= 8, to compare on; drawn at random where there are none.

    Raises:
        ModelError: one line, if the model cannot be read or exported, the faces do not fit it, its
            answers are not finite, or the file does not give what PyTorch gives; then nothing is
            written.
    """
    model, info = load_model(folder)
    size, frames = face_size(info, folder), int(info["frames"])
    if faces is None:
        faces = random_faces(40, size, frames)
    if faces.shape[1:] != (frames, size, size, 3) or len(faces) < 8:
        raise ModelError(
            f"{folder}: made for clips of {[frames, size, size, 3]}, at least 8 to compare on; "
            f"these are {list(faces.shape)}"
        )
    calibration = Calibration.from_info(info)
    crop, cpu = info["crop"], torch.device("cpu")
    with atomic_file(out) as temporary:
        start = time.perf_counter()
        example = torch.from_numpy(np.zeros_like(faces[:2]))
        _write(Whole(model, crop, calibration), example, _metadata(info), temporary, folder)
        seconds = time.perf_counter() - start
        recogniser = Inference(
            model, crop=crop, device=cpu, precision=torch.float32, name=folder / WEIGHTS
        )
        difference, rates = _compare(temporary, recogniser, calibration, faces)
        if not difference <= TOLERANCE:  # nan too
            raise ModelError(
                f"{folder}: ONNX differs from PyTorch by {difference:.1e}, more than "
                f"{TOLERANCE:.0e}; nothing was written; please report it with torch's version, "
                f"{torch.__version__}"
            )
        size_on_disk = temporary.stat().st_size
    return Exported(size_on_disk, seconds, len(faces), difference, *rates)


def face_size(info: dict[str, Any], folder: Path) -> int:
    """Return S, which model.json tells. Raises ModelError where it does not."""
    size = (info["preprocessing"].get("made_from") or {}).get("size")
    if not isinstance(size, int) or not info["crop"] <= size <= 1024:
        raise ModelError(
            f"{folder}: model.json does not say how large its faces are stored; train again"
        )
    return size


def random_faces(clips: int, size: int, frames: int) -> Faces:
    """Draw coarse squares of random colours, which change with time: uint8 [n, T, S, S, 3]."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (clips, frames, 6, 6, 3), dtype=np.uint8)
    fine = np.arange(size) * 6 // size
    return np.ascontiguousarray(coarse[:, :, fine][:, :, :, fine])


def _write(
    whole: nn.Module, example: Tensor, metadata: dict[str, str], path: Path, folder: Path
) -> None:
    """Export, leave out what tells of this machine, and let ONNX's own checker look at it.

    `example` is two clips, of which the file then takes any number.
    """
    import onnx  # slow to import

    shapes = {INPUT: {0: torch.export.Dim("clips")}}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch's exporter warns of torch's own functions
            # strict: tracing alone would take the batch of the example for the only one
            program = torch.export.export(
                whole.eval(), (example,), dynamic_shapes=shapes, strict=True
            )
            made = torch.onnx.export(
                program,
                dynamo=True,
                input_names=[INPUT],
                output_names=OUTPUTS,
                dynamic_shapes=shapes,
                verbose=False,
            )
        assert made is not None
        made.model.doc_string = MEANING
        made.model.metadata_props.update(metadata)
        for node in made.model.graph.all_nodes():
            node.metadata_props.clear()  # stack traces, with the paths of this machine
        made.save(path, external_data=False)
        onnx.checker.check_model(path, full_check=True)
    except (
        torch.onnx.errors.OnnxExporterError,
        torch._dynamo.exc.TorchDynamoException,
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
    ) as error:
        line = next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
        raise ModelError(
            f"{folder}: this model cannot be turned into ONNX: {line[:300]}"
        ) from error


def _metadata(info: dict[str, Any]) -> dict[str, str]:
    """What a reader of the file must know: JSON by name, but for plain words and numbers."""
    whole = {
        "classes": info["classes"],
        "meaning": MEANING,
        "calibration": Calibration.from_info(info).record(),
        "preprocessing": info["preprocessing"],
        "crop": info["crop"],
        "architecture": info["architecture"],
        "dataset": info.get("dataset"),
        "fold": info["fold"],
        "selection": info["selection"],
        "commit": info.get("commit"),
        "licence": licence_of(str(info.get("dataset"))),
        "weights_sha256": info["weights"]["sha256"],
    }
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in whole.items()}


def _compare(
    path: Path, recogniser: Inference, calibration: Calibration, faces: Faces
) -> tuple[float, tuple[float, float]]:
    """Return the largest difference, and clips a second of PyTorch and of onnxruntime."""
    import onnxruntime  # slow to import

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    differences: list[float] = []
    taken = np.zeros(2)
    for batch in _batches(faces):
        start = time.perf_counter()
        logits, embedding, attention = recogniser(torch.from_numpy(batch))
        middle = time.perf_counter()
        found = session.run(OUTPUTS, {INPUT: batch})
        if differences:  # the first batch warms both up
            taken += middle - start, time.perf_counter() - middle
        right = (calibration.probabilities(logits), attention, logits, embedding)
        differences += [_difference(*pair) for pair in zip(found, right, strict=True)]
    speeds = (len(faces) - 1) / taken
    return float(np.max(differences)), (float(speeds[0]), float(speeds[1]))


def _batches(faces: Faces) -> Iterator[Faces]:
    """Cut clips into 1, 7 and then as many as BATCH at once."""
    cuts = [0, 1, 8, *range(8 + BATCH, len(faces), BATCH), len(faces)]
    for start, end in pairwise(cuts):
        if end > start:
            yield faces[start:end]


def _difference(found: Floats, right: Floats) -> float:
    return float(np.abs(found - right).max() / max(1.0, float(np.abs(right).max())))


class Whole(nn.Module):
    """From stored faces to calibrated probabilities, as Inference and Calibration do it.

    Made of what ONNX has.
    """

    mean: Tensor
    deviation: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, model: nn.Module, crop: int, calibration: Calibration) -> None:
        """Copy a model, which is on the CPU; `crop` is the side of what it sees, in pixels."""
        super().__init__()
        self.network, self.crop = _with_plain_pools(fold_norms(model)), crop
        self.register_buffer("mean", torch.tensor(MEAN) * 255)
        self.register_buffer("deviation", torch.tensor(STD) * 255)
        self.register_buffer("scale", torch.tensor(calibration.scale))
        self.register_buffer("bias", torch.tensor(calibration.bias))

    def forward(self, faces: Tensor) -> tuple[Tensor, ...]:
        """Map uint8 faces [B, T, S, S, 3] to OUTPUTS."""
        clips = (center_crop(faces, self.crop).float() - self.mean) / self.deviation
        logits, embedding, attention = self.network(clips.permute(0, 4, 1, 2, 3))
        probabilities = (logits * self.scale + self.bias).softmax(1)
        return probabilities, attention, logits, embedding


class PlainPool(nn.Module):
    """Adaptive pooling in three dimensions, which ONNX has not, as slices and their mean or max."""

    def __init__(self, pool: nn.AdaptiveAvgPool3d | nn.AdaptiveMaxPool3d) -> None:
        """Take the sizes of the pool, all of them numbers."""
        super().__init__()
        size: Any = pool.output_size
        self.sizes: list[int] = [size] * 3 if isinstance(size, int) else list(size)
        self.reduce = torch.mean if isinstance(pool, nn.AdaptiveAvgPool3d) else torch.amax

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, T, H, W] to the sizes of the pool."""
        for axis, count in enumerate(self.sizes, start=2):
            side = x.shape[axis]
            starts = [i * side // count for i in range(count)]
            ends = [-(-(i + 1) * side // count) for i in range(count)]
            cells = [
                self.reduce(x.narrow(axis, start, end - start), dim=axis, keepdim=True)
                for start, end in zip(starts, ends, strict=True)
            ]
            x = torch.cat(cells, axis)
        return x


def _with_plain_pools(model: nn.Module) -> nn.Module:
    """Replace them in place."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.AdaptiveAvgPool3d | nn.AdaptiveMaxPool3d):
                setattr(parent, name, PlainPool(child))
    return model
