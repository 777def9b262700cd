"""What is a model as one network, from stored faces to calibrated probabilities?

Shapes: B clips, T frames, S pixels, the side of a stored face; K classes, N windows, D features.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from safe.augment import MEAN, STD, center_crop
from safe.calibration import Calibration
from safe.networks.backbones import fold_norms


class Whole(nn.Module):
    """What Recogniser and Calibration do, made of what ONNX has."""

    mean: Tensor
    deviation: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, model: nn.Module, crop: int, calibration: Calibration) -> None:
        """Copy a model for export.

        Args:
            model: in evaluation mode, on the CPU.
            crop: pixels, side of the centre crop that it sees.
            calibration: how its logits are read.
        """
        super().__init__()
        self.network, self.crop = _with_plain_pools(fold_norms(model)), crop
        self.register_buffer("mean", torch.tensor(MEAN) * 255)
        self.register_buffer("deviation", torch.tensor(STD) * 255)
        self.register_buffer("scale", torch.tensor(calibration.scale))
        self.register_buffer("bias", torch.tensor(calibration.bias))

    def forward(self, faces: Tensor) -> tuple[Tensor, ...]:
        """Map uint8 faces [B, T, S, S, 3] to four outputs, float32.

        They are probabilities [B, K], attention [B, N], logits [B, K] and embedding [B, D].
        """
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
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.AdaptiveAvgPool3d | nn.AdaptiveMaxPool3d):
                setattr(parent, name, PlainPool(child))
    return model
