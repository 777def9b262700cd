"""What does a model say about faces, as fast as it can?"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from safe.errors import DataError
from safe.evaluation.metrics import Floats
from safe.files import whole_file
from safe.models.backbones import fold_norms
from safe.shards.folder import ShardFolder
from safe.shards.loader import load_batches
from safe.shards.order import in_order
from safe.taxonomy import encode
from safe.training.transforms import center_crop, normalize


class Recogniser:
    """A model made ready to answer: BatchNorm folded into the convolutions, centre crop."""

    def __init__(
        self, model: nn.Module, *, crop: int, device: torch.device, precision: torch.dtype
    ) -> None:
        """Make a copy of the model for answers; the model itself stays as it is.

        Args:
            model: in evaluation mode.
            crop: pixels, side of the centre crop that the model sees; `crop` of model.json.
            device: where to run.
            precision: of autocast; float32 means none.
        """
        self._network = fold_norms(model.to(device))
        self._crop, self._device, self._precision = crop, device, precision

    @torch.inference_mode()
    def __call__(self, faces: Tensor) -> tuple[Floats, Floats, Floats]:
        """Answer for a batch of clips.

        Args:
            faces: uint8 [B, T, S, S, 3], RGB, with S at least `crop`; on any device.

        Returns:
            Logits [B, K], embedding [B, D] and attention [B, N], float32 numpy arrays.
        """
        clips = normalize(center_crop(faces.to(self._device), self._crop))
        device, low = self._device.type, self._precision != torch.float32
        with torch.autocast(device, self._precision, low):
            output = self._network(clips)
        logits, embedding, attention = (np.asarray(part.float().cpu()) for part in output)
        return logits, embedding, attention


# What does a model say about every clip of a split, exactly once each?
#
# Its answers become predictions.parquet; every figure, table and plot is made from that, never by
# running the model again.


@dataclass(frozen=True)
class Predictions:
    """What the model gave, one entry a row of the split, in the table's order."""

    rows: NDArray[np.int64]  # [n]
    logits: NDArray[np.float32]  # [n, K]
    embedding: NDArray[np.float32]  # [n, D]
    attention: NDArray[np.float32]  # [n, N]


@torch.inference_mode()
def predict(
    model: nn.Module,
    folder: ShardFolder,
    rows: NDArray[np.int64],
    *,
    crop: int,
    batch: int,
    device: torch.device,
    precision: torch.dtype,
    workers: int,
    change: Callable[[Tensor, NDArray[np.int64]], Tensor] | None = None,
) -> Predictions:
    """Run the model over `rows` with the centre crop, each row exactly once.

    `change`, if given, perturbs uint8 faces [B, T, S, S, 3] of some rows before the crop.

    Raises:
        DataError: if a clip cannot be read, or the pass did not see each row once.
    """
    answer = Recogniser(model, crop=crop, device=device, precision=precision)
    seen, found = [], []
    there = torch.device("cpu") if change else device  # a perturbation works on the CPU
    for loaded in load_batches(folder, in_order(rows, batch), workers=workers, device=there):
        faces = loaded["faces"]
        if change is not None:
            faces = change(faces, loaded["row"].numpy())
        seen.append(loaded["row"].numpy())
        found.append(answer(faces))
    order = np.concatenate(seen)
    if not np.array_equal(order, rows):
        raise DataError(
            f"{folder.place}: {len(order)} clips came from the loader, expected {len(rows)}"
        )
    logits, embedding, attention = (np.concatenate(part) for part in zip(*found, strict=True))
    return Predictions(order, logits, embedding, attention)


def write_predictions(path: Path, folder: ShardFolder, found: Predictions) -> None:
    """Write a predictions.parquet; it appears whole."""
    floats = pa.list_(pa.float32())
    table = pa.table(
        {
            "clip": pa.array(folder.clip[found.rows].tolist(), pa.string()),
            "label": pa.array(folder.label[found.rows], pa.int8()),
            "logits": pa.array(list(found.logits), floats),
            "embedding": pa.array(list(found.embedding), floats),
            "attention": pa.array(list(found.attention), floats),
        }
    ).replace_schema_metadata(encode(folder.classes))
    with whole_file(path) as temporary:
        pq.write_table(table, temporary)
