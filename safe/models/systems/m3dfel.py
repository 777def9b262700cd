"""M3DFEL, which takes a clip for a bag of short instances.

Wang, Li, Wu, Shen, Liu, Ding, Zhou: Rethinking the Learning Paradigm for Dynamic Facial Expression
Recognition. CVPR 2023. r3d_18 on four instances of four frames; a BiLSTM of two layers; multi-head
self-attention, whose normalised output gates the states of the BiLSTM; a convolution that makes one
vector of the bag; a linear layer. Sizes as in the public code M3DFEL_replicate.

Published: 1.65 G multiply-adds for 16 frames of 112 x 112. Ours: 34.2 G, nearly all of it r3d_18 on
four instances. The four 3 x 3 x 3 convolutions of its first stage alone are 22.2 G, so 1.65 G
cannot be the figure of this model. What differs: the dropout before the last layer, and the frames,
which the loader chooses. The authors start from Kinetics weights: `weights` takes them.
"""

import math
from typing import Final

import torch
from torch import Tensor, nn

from safe.models.backbones import build_backbone
from safe.models.safe import Output, sliding_windows
from safe.sample import DEFAULT_FRAMES

LENGTH: Final = 4
"""Frames of an instance."""

HEADS: Final = 8
"""Heads of the attention over instances."""


class DMIN(nn.Module):
    """Dynamic multi-instance normalisation: between each clip's feature and its whole bag.

        mean = a_1 mean_I + a_2 mean_L,  var = b_1 var_I + b_2 var_L,  a = softmax, b = softmax

    I: over the instances, one figure a clip and feature. L: over instances and features, one figure
    a clip. The shares a and b are learned and equal at the start.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.mean_shares = nn.Parameter(torch.ones(2))
        self.var_shares = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [B, N, D], N >= 2."""
        var_i, mean_i = torch.var_mean(x, dim=1, keepdim=True)  # [B, 1, D], unbiased
        mean_l = mean_i.mean(2, keepdim=True)
        var_l = (var_i + mean_i.square()).mean(2, keepdim=True) - mean_l.square()
        mean_share, var_share = self.mean_shares.softmax(0), self.var_shares.softmax(0)
        mean = mean_share[0] * mean_i + mean_share[1] * mean_l
        var = var_share[0] * var_i + var_share[1] * var_l
        return (x - mean) / (var + 1e-5).sqrt() * self.weight + self.bias


class InstanceAttention(nn.Module):
    """Self-attention whose normalised output is a gate: y = x * sigmoid(DMIN(A V))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.norm = DMIN(width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gated x, [B, N, D], and what attention each instance receives, [B, N].

        The second is the mean of A over heads and queries: positive, of sum 1.
        """
        projected = self.project(x).unflatten(2, (3, HEADS, -1))  # [B, N, 3, heads, d]
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        scores = query @ key.mT / math.sqrt(query.shape[-1])  # [B, heads, N queries, N keys]
        weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        mixed = (weights.to(value.dtype) @ value).transpose(1, 2).flatten(2)
        return x * self.norm(mixed).sigmoid(), weights.mean((1, 2))


class M3DFEL(nn.Module):
    """R3D-18 on four instances, then the dynamic long-term aggregation of the paper."""

    def __init__(
        self,
        *,
        classes: int,
        dropout: float,
        frames: int = DEFAULT_FRAMES,
        weights: str | None = None,
        hidden: int = 512,
    ) -> None:
        """Make the model; `weights` is a path as in `build_backbone`, which says what it raises."""
        super().__init__()
        # channels_last_3d: the same sums, faster on CPUs
        self.backbone = build_backbone("r3d_18", weights).to(memory_format=torch.channels_last_3d)
        width = 2 * hidden
        self.temporal = nn.LSTM(
            self.backbone.features, hidden, num_layers=2, batch_first=True, bidirectional=True
        )
        self.attention = InstanceAttention(width)
        # The instances are the channels: a vector of the bag, each of its features from 3 of each.
        self.aggregate = nn.Conv1d(frames // LENGTH, 1, kernel_size=3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, classes)

    def forward(self, clips: Tensor) -> Output:
        """Map clips [B, C, T, H, W] to logits, embedding [B, 1024], attention [B, T / 4].

        Raises:
            RuntimeError: from torch, if T is not the number of frames that the model is made for.
        """
        windows = sliding_windows(clips, LENGTH, LENGTH)  # [B, N, C, T_w, H, W], a view
        batch, steps = windows.shape[:2]
        frames = windows.movedim(2, -1).flatten(0, 1).movedim(-1, 1)  # channels_last_3d, one copy
        features = self.backbone(frames).unflatten(0, (batch, steps))
        sequence, weights = self.attention(self.temporal(features)[0])
        embedding = self.aggregate(sequence).squeeze(1)
        return Output(self.linear(self.dropout(embedding)), embedding, weights)
