"""What is SAFE, from pixels to logits?

windows -> backbone -> temporal model -> attention over the windows -> Conv1D classifier. Shapes: B
clips, T frames, C channels, H W pixels, N windows, D features, K classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from safe.networks.backbones import build_backbone
from safe.networks.stm import S2AM2, BiLSTM, Conv1DClassifier, WindowAttention, sliding_windows

HEADS = 4
"""Heads of the attention over windows."""


class Output(NamedTuple):
    """What one forward pass gives, in training and in evaluation alike."""

    logits: Tensor  # [B, K]
    embedding: Tensor  # [B, D], what FCL and t-SNE use
    attention: Tensor  # [B, N], the weight of each window, sums to 1


class SAFE(nn.Module):
    """R3D-18 (or another backbone) over sliding windows, S2AM2 and attention, Conv1D classifier.

    With `temporal="bilstm"` it is the paper's baseline (Sec. IV-C): a BiLSTM, no attention, and the
    attention that it reports is uniform.
    """

    def __init__(
        self,
        *,
        classes: int,
        backbone: str,
        weights: str | None,
        temporal: str,
        window: int,
        stride: int,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.window, self.stride = window, stride
        # channels_last_3d: a quarter to a half faster on CPUs. The same sums, but torch's BatchNorm
        # adds them up in float32 there, in float64 otherwise: gradients differ by 0.4 %.
        self.backbone = build_backbone(backbone, weights).to(memory_format=torch.channels_last_3d)
        width = 2 * hidden
        self.temporal: nn.Module
        self.attention: WindowAttention | None
        if temporal == "s2am2":
            self.temporal = S2AM2(self.backbone.features, hidden)
            self.attention = WindowAttention(width, HEADS)
        else:
            self.temporal = BiLSTM(self.backbone.features, hidden)
            self.attention = None
        self.classifier = Conv1DClassifier(width, classes, dropout)

    def forward(self, clips: Tensor) -> Output:
        """Map normalised clips [B, C, T, H, W] to logits, embedding and attention."""
        windows = sliding_windows(clips, self.window, self.stride)  # [B, N, C, T_w, H, W], a view
        batch, steps = windows.shape[:2]
        frames = windows.movedim(2, -1).flatten(0, 1).movedim(-1, 1)  # channels_last_3d, one copy
        features = self.backbone(frames).unflatten(0, (batch, steps))  # [B, N, F]
        sequence = self.temporal(features)  # [B, N, D]
        if self.attention is None:
            weights = sequence.new_full((batch, steps), 1 / steps)
        else:
            sequence, weights = self.attention(sequence)
        logits, embedding = self.classifier(sequence)
        return Output(logits, embedding, weights)
