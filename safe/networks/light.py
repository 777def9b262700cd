"""Which 3D network is light enough for the paper's 2.94 G multiply-adds?

X3D-S up to its last pooling. Feichtenhofer: X3D: Expanding Architectures for Efficient Video
Recognition. CVPR 2020. Published with its head: 3.76 M parameters; 1.96 G multiply-adds for 13
frames of 160 x 160. Ours, without the head 432 -> 2048 -> 400: 2.09 M, and the same 1.96 G there.
On a 4-frame window of 112 x 112 it is 0.31 G, and the whole of SAFE on seven of them 2.26 G. What
differs: the last normalisation of a block starts at 1, not 0, so that all parameters learn from the
first step.
"""

from typing import Final

import torch
from torch import Tensor, nn

STEM: Final = 24
"""Channels of the stem."""

STAGES: Final = ((24, 3), (48, 5), (96, 11), (192, 7))
"""Channels and blocks of each stage."""

EXPANSION: Final = 2.25
"""Channels inside a block, as a multiple of those outside."""


def _squeezed(width: int) -> int:
    """A sixteenth of width in multiples of 8, at least 8, never less than 0.9 of it."""
    exact = width / 16
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * exact else rounded + 8


class SqueezeExcitation(nn.Module):
    """Weigh the channels by what the whole window shows (Hu et al., CVPR 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(width, _squeezed(width))
        self.excite = nn.Linear(_squeezed(width), width)

    def forward(self, x: Tensor) -> Tensor:
        """Scale x [B, D, T, H, W], each channel by a factor between 0 and 1."""
        weights: Tensor = self.excite(self.squeeze(x.mean((2, 3, 4))).relu()).sigmoid()
        return x * weights[:, :, None, None, None]


class Block(nn.Module):
    """1 x 1 x 1 wider, 3 x 3 x 3 channel by channel, 1 x 1 x 1 narrower; and the input added."""

    def __init__(self, inner: int, outer: int, *, stride: int, excitation: bool) -> None:
        super().__init__()
        wide = int(EXPANSION * outer)
        steps = (1, stride, stride)
        self.body = nn.Sequential(
            nn.Conv3d(inner, wide, 1, bias=False),
            nn.BatchNorm3d(wide),
            nn.ReLU(inplace=True),
            nn.Conv3d(wide, wide, 3, stride=steps, padding=1, groups=wide, bias=False),
            nn.BatchNorm3d(wide),
            SqueezeExcitation(wide) if excitation else nn.Identity(),
            nn.SiLU(inplace=True),
            nn.Conv3d(wide, outer, 1, bias=False),
            nn.BatchNorm3d(outer),
        )
        self.shortcut: nn.Module = nn.Identity()
        if inner != outer or stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv3d(inner, outer, 1, stride=steps, bias=False), nn.BatchNorm3d(outer)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inner, T, H, W] to [B, outer, T, H / stride, W / stride]."""
        return torch.relu(self.body(x) + self.shortcut(x))


class Light(nn.Module):
    """X3D-S up to its last pooling: 432 features. It never strides in time."""

    features = int(EXPANSION * STAGES[-1][0])
    sections = (Block,)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv3d(3, STEM, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), bias=False),
            nn.Conv3d(STEM, STEM, (5, 1, 1), padding=(2, 0, 0), groups=STEM, bias=False),
            nn.BatchNorm3d(STEM),
            nn.ReLU(inplace=True),
        ]
        inner = STEM
        for outer, blocks in STAGES:
            for i in range(blocks):
                stride, excitation = (1 if i else 2), i % 2 == 0
                layers.append(Block(inner, outer, stride=stride, excitation=excitation))
                inner = outer
        layers += [
            nn.Conv3d(inner, self.features, 1, bias=False),
            nn.BatchNorm3d(self.features),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
        ]
        self.net = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, windows: Tensor) -> Tensor:
        """Map [B, C, T_w, H, W], T_w from 1 and H, W from 16 up, to [B, 432]."""
        features: Tensor = self.net(windows)
        return features
