"""Inference: what a model says of faces, and of every clip of a split, exactly once each.

Shapes: B clips of a batch, T frames, n clips of a split, K classes, D features, N windows.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from safe.errors import DataError, ModelError
from safe.evaluation.metrics import Floats, Ints
from safe.evaluation.predictions import Split
from safe.models.backbones import fold_norms
from safe.shards.folder import ShardFolder
from safe.shards.loader import load_batches
from safe.shards.order import in_order
from safe.training.transforms import center_crop, normalize


class Inference:
    """A model made ready to answer: BatchNorm folded into the convolutions, centre crop."""

    def __init__(
        self,
        model: nn.Module,
        *,
        crop: int,
        device: torch.device,
        precision: torch.dtype,
        name: Path | str = "the network",
    ) -> None:
        """Make a copy of the model for answers; the model itself stays as it is.

        Args:
            model: in evaluation mode.
            crop: pixels, side of the centre crop that the model sees; `crop` of model.json.
            device: where to run.
            precision: of autocast; float32 means none.
            name: what an error calls it; the file of its weights.
        """
        self._network = fold_norms(model.to(device))
        self._crop, self._device, self._precision = crop, device, precision
        self._name = name

    @torch.inference_mode()
    def __call__(self, faces: Tensor) -> tuple[Floats, Floats, Floats]:
        """Answer for a batch of clips.

        Args:
            faces: uint8 [B, T, S, S, 3], RGB, with S at least `crop`; on any device.

        Returns:
            Logits [B, K], embedding [B, D] and attention [B, N], float32 numpy arrays.

        Raises:
            ModelError: if a number of them is not finite: weights that all are can give such.
        """
        clips = normalize(center_crop(faces.to(self._device), self._crop))
        device, low = self._device.type, self._precision != torch.float32
        with torch.autocast(device, self._precision, low):
            output = self._network(clips)
        logits, embedding, attention = (np.asarray(part.float().cpu()) for part in output)
        check_finite(self._name, logits=logits, embedding=embedding, attention=attention)
        return logits, embedding, attention


def check_finite(name: Path | str, **answers: Floats) -> None:
    """Raise ModelError, which names the file `name`, unless all numbers of its answers are finite.

    The answers are arrays [B, ...], by what they are called.
    """
    for what, numbers in answers.items():
        broken = int((~np.isfinite(numbers)).reshape(len(numbers), -1).any(axis=1).sum())
        if broken:
            raise ModelError(
                f"{name}: the {what} of {broken} of {len(numbers)} clips are not finite; the "
                "training diverged or the weights were altered: train again with a smaller train.lr"
            )


@torch.inference_mode()
def predict(
    model: nn.Module,
    folder: ShardFolder,
    rows: Ints,
    *,
    crop: int,
    batch: int,
    device: torch.device,
    precision: torch.dtype,
    workers: int,
    name: Path | str = "the network",
    change: Callable[[Tensor, Ints], Tensor] | None = None,
) -> Split:
    """Run the model over `rows` with the centre crop, each row exactly once, in this order.

    `change`, if given, perturbs uint8 faces [B, T, S, S, 3] of some rows before the crop.

    Returns:
        The outputs, float32 and finite.

    Raises:
        DataError: if a clip cannot be read, or the pass did not see each row once.
        ModelError: if an answer is not finite; `name` is the file that it names.
    """
    answer = Inference(model, crop=crop, device=device, precision=precision, name=name)
    seen, found = [], []
    there = torch.device("cpu") if change else device  # a perturbation works on the CPU
    for loaded in load_batches(folder, in_order(rows, batch), workers=workers, device=there):
        faces, some = loaded["faces"], loaded["row"].numpy()
        seen.append(some)
        found.append(answer(change(faces, some) if change else faces))
    order = np.concatenate(seen)
    if not np.array_equal(order, rows):
        raise DataError(
            f"{folder.location}: {len(order)} clips came from the loader, expected {len(rows)}"
        )
    logits, embedding, attention = (np.concatenate(part) for part in zip(*found, strict=True))
    return Split(
        clip=tuple(folder.clip[rows].tolist()),
        label=folder.label[rows].astype(np.int64),
        classes=folder.classes,
        logits=logits,
        embedding=embedding,
        attention=attention,
    )
