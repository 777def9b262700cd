"""What does a model say about faces, as fast as it can?"""

import numpy as np
import torch
from torch import Tensor, nn

from safe.augment import center_crop, normalize
from safe.metrics import Floats
from safe.networks.backbones import fold_norms


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
