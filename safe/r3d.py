"""What is R3D-18 on windows as short as the paper's, without the sums over padding?

torchvision's r3d_18 up to global pooling, with its names and weights. It halves time three times: a
window of 4 frames has a depth of 2 in the second layer group and of 1 from the third on, where one
or two of the three temporal taps of a 3 x 3 x 3 kernel see nothing but zero padding. Those are left
out: the same sums (their gradient is zero), at two thirds or a third of the multiplications. Seven
windows of 16 frames at 112 x 112 then take 59.7 G multiply-adds in place of 75.5 G. Tran et al.: A
Closer Look at Spatiotemporal Convolutions. CVPR 2018.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.video.resnet import BasicBlock, BasicStem, Conv3DSimple, VideoResNet


class SeenTaps(Conv3DSimple):  # type: ignore[misc]
    """A 3 x 3 x 3 convolution that leaves out the temporal taps that see padding alone."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, T, H, W] as nn.Conv3d with padding 1 does."""
        depth, padding = x.shape[2], (0, *self.padding[1:])
        if depth > 2:
            output: Tensor = super().forward(x)
            return output
        steps = []  # of time that come out; each sees all that goes in, by taps of its own
        for step in range(0, depth, self.stride[0]):
            seen = self.weight[:, :, 1 - step : 1 - step + depth]
            steps.append(F.conv3d(x, seen, self.bias, self.stride, padding))
        return torch.cat(steps, 2) if len(steps) > 1 else steps[0]


class ChannelsLastPool(nn.Module):
    """Mean over time and space, [B, C, T, H, W] to [B, C, 1, 1, 1].

    Its gradient has the memory format of the convolutions below it; that of AdaptiveAvgPool3d has
    the other, and every layer would copy.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, T, H, W] to [B, C, 1, 1, 1]."""
        return x.movedim(1, -1).flatten(1, 3).mean(1)[:, :, None, None, None]


class R3D18(nn.Module):
    """torchvision's r3d_18 up to global pooling: 512 features (the paper's backbone)."""

    features = 512
    sections = (BasicStem, BasicBlock)

    def __init__(self, *, padded: bool = False) -> None:
        """Make the network; `padded` computes the sums over padding too, as torchvision does."""
        super().__init__()
        conv = Conv3DSimple if padded else SeenTaps
        self.net = VideoResNet(BasicBlock, [conv] * 4, [2, 2, 2, 2], BasicStem)
        self.net.avgpool = ChannelsLastPool()
        self.net.fc = nn.Identity()

    def forward(self, windows: Tensor) -> Tensor:
        """Map [B, C, T_w, H, W] to [B, 512]."""
        features: Tensor = self.net(windows)
        return features
