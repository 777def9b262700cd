"""ResNet18+LSTM, the baseline that DFEW's authors measured.

Jiang, Zong, Zheng, Tang, Xia, Lu, Liu: DFEW: A Large-Scale Database for Recognizing Dynamic Facial
Expressions in the Wild. ACM Multimedia 2020. Features of each frame, an LSTM over the frames, a
linear layer on its last state.

Published: 7.78 G multiply-adds for 16 frames of 112 x 112. Ours: 7.79 G, of which resnet18 without
its classifier is 7.76 G. The size of the LSTM is not published: 512 here, that of the features. The
dropout before the last layer is ours.
"""

import torch
from torch import Tensor, nn

from safe.models.safe import Output


class ResNet18LSTM(nn.Module):
    """torchvision's resnet18 on every frame, then an LSTM; no step is weighed."""

    def __init__(self, *, classes: int, dropout: float, hidden: int = 512) -> None:
        super().__init__()
        from torchvision.models import resnet18  # here: see safe/models/backbones.py

        self.frames = resnet18(weights=None)
        features = self.frames.fc.in_features
        self.frames.fc = nn.Identity()
        self.lstm = nn.LSTM(features, hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden, classes)

    def forward(self, clips: Tensor) -> Output:
        """Map normalised clips [B, C, T, H, W] to logits, last state [B, 512], attention [B, 1]."""
        batch, _, steps = clips.shape[:3]
        features = self.frames(clips.transpose(1, 2).flatten(0, 1)).unflatten(0, (batch, steps))
        embedding = self.lstm(features)[0][:, -1]
        logits = self.linear(self.dropout(embedding))
        return Output(logits, embedding, torch.ones_like(logits[:, :1]))
