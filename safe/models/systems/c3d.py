"""C3D, the first deep network on whole clips.

Tran, Bourdev, Fergus, Torresani, Paluri: Learning Spatiotemporal Features with 3D Convolutional
Networks. ICCV 2015. Eight convolutions of 3 x 3 x 3, five poolings, two fully connected layers.
16 frames of 112 x 112 are its native input.

Published: 38.5 G multiply-adds (Tran et al., arXiv 1708.05038). Ours: 38.55 G, and 78.0 M
parameters. As published it has no batch normalisation; what differs is the
initialisation: He et al. (ICCV 2015) instead of a pretraining on Sports-1M, because without either
the signal fades from layer to layer and nothing learns.
"""

import torch
from torch import Tensor, nn

from safe.models.safe import Output

WIDTHS = ((64,), (128,), (256, 256), (512, 512), (512, 512))
"""Channels of the convolutions before each of the five poolings."""

GRID = (1, 4, 4)
"""Frames, rows and columns that are left for the fully connected layers."""

SHORTEST = 16
"""Frames that four poolings in time leave one of."""

FULL = 4096
"""Width of the fully connected layers."""


def _pooling(stage: int) -> nn.MaxPool3d:
    """The first pooling keeps all frames; the last pads 7 x 7 so that 4 x 4 is left."""
    size = (1, 2, 2) if stage == 0 else (2, 2, 2)
    return nn.MaxPool3d(size, padding=(0, 1, 1) if stage == len(WIDTHS) - 1 else 0)


class C3D(nn.Module):
    """C3D; the whole clip is one step, so that nothing is weighed."""

    def __init__(self, *, classes: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inner = 3
        for stage, widths in enumerate(WIDTHS):
            for outer in widths:
                layers += [nn.Conv3d(inner, outer, 3, padding=1), nn.ReLU(inplace=True)]
                inner = outer
            layers.append(_pooling(stage))
        # Nothing happens here at 16 x 112 x 112; other sizes are brought to the same grid.
        layers += [nn.AdaptiveMaxPool3d(GRID), nn.Flatten()]
        self.features = nn.Sequential(*layers)
        self.fc6 = nn.Linear(inner * GRID[0] * GRID[1] * GRID[2], FULL)
        self.fc7 = nn.Linear(FULL, FULL)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(FULL, classes)
        for module in [*self.features, self.fc6, self.fc7]:
            if isinstance(module, nn.Conv3d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, clips: Tensor) -> Output:
        """Map normalised clips [B, C, T, H, W] to logits, fc7 [B, 4096], attention [B, 1]."""
        hidden = self.dropout(self.fc6(self.features(clips)).relu())
        embedding = self.fc7(hidden).relu()
        logits = self.linear(self.dropout(embedding))
        return Output(logits, embedding, torch.ones_like(logits[:, :1]))
