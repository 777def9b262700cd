"""R3D-18 on windows as short as the paper's, without the sums over padding.

torchvision's r3d_18 up to global pooling, with its names and weights. It halves time three times: a
window of 4 frames has a depth of 2 in the second layer group and of 1 from the third on, where one
or two of the three temporal taps of a 3 x 3 x 3 kernel see nothing but zero padding. Those are left
out: the same sums (their gradient is zero), at two thirds or a third of the multiplications. Seven
windows of 16 frames at 112 x 112 then take 59.7 G multiply-adds in place of 75.5 G. On a GPU what
cuDNN is slow at is asked of it in another form. Tran et al.: A Closer Look at Spatiotemporal
Convolutions. CVPR 2018.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.video.resnet import BasicBlock, Conv3DSimple, VideoResNet


def is_gpu(x: Tensor) -> bool:
    """Say whether a tensor is on a GPU; a function, so that tests can ask for the GPU's way."""
    return x.is_cuda


class SeenTaps(Conv3DSimple):  # type: ignore[misc]
    """A 3 x 3 x 3 convolution that leaves out the temporal taps that see padding alone."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, T, H, W] as nn.Conv3d with padding 1 does."""
        depth, stride, padding = x.shape[2], self.stride, (0, *self.padding[1:])
        gpu = is_gpu(x)
        if gpu and depth == 1:  # cuDNN has more kernels for two dimensions
            taps = self.weight[:, :, 1]
            flat = F.conv2d(x[:, :, 0], taps, self.bias, stride[1:], padding[1:])
            return flat[:, :, None]
        # Two kernels and a copy for depth 2 take cuDNN 1.4 times as long as one with padding.
        if depth > 2 or (gpu and stride[0] == 1):
            output: Tensor = super().forward(x)
            return output
        steps = []  # of time that come out; each sees all that goes in, by taps of its own
        for step in range(0, depth, stride[0]):
            taps = self.weight[:, :, 1 - step : 1 - step + depth]
            steps.append(F.conv3d(x, taps, self.bias, stride, padding))
        return torch.cat(steps, 2) if len(steps) > 1 else steps[0]


class StemConv(nn.Conv3d):
    """The stem's 3 x 7 x 7 convolution of three channels, stride 1 x 2 x 2.

    cuDNN has no fast kernel for it in bfloat16: 15 TFLOP/s on an H100, a seventh of the training
    step. On a GPU it is one in two dimensions, of 4 x 4 with stride 1: a square of 2 x 2 pixels of
    the three frames that an output sees is one pixel of 36 channels. The kernel gets a row and a
    column of zeros to have an even side; the sums are the same.
    """

    channels = 64
    """36 and zeros: on an H200 3.4 ms a step with 40 channels, 3.8 with 48, 2.2 with 64."""

    def __init__(self) -> None:
        super().__init__(3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, 3, T, H, W] to [B, 64, T, ceil(H / 2), ceil(W / 2)]."""
        if not is_gpu(x) or x.shape[3] % 2 or x.shape[4] % 2:
            output: Tensor = super().forward(x)
            return output
        flat = F.conv2d(self._squares(x), self._kernel(), self.bias)
        return flat.view(len(x), -1, *flat.shape[1:]).transpose(1, 2)

    def _squares(self, x: Tensor) -> Tensor:
        """Gather what an output sees: [B T, channels, H / 2 + 3, W / 2 + 3], channels_last."""
        batch, colours, depth, height, width = x.shape
        low = torch.is_autocast_enabled(x.device.type)
        dtype = torch.get_autocast_dtype(x.device.type) if low else x.dtype
        shape = batch, depth, height // 2 + 3, width // 2 + 3, self.channels
        padded = x.new_zeros(shape, dtype=dtype)
        cells = x.reshape(batch, colours, depth, height // 2, 2, width // 2, 2)
        cells = cells.permute(0, 2, 3, 5, 4, 6, 1)  # [B, T, H / 2, W / 2, 2, 2, colours]
        inner = padded[:, :, 2:-1, 2:-1, : 12 * colours].view(*cells.shape[:4], 3, 2, 2, colours)
        inner[:, 1:, :, :, 0] = cells[:, :-1]  # the frame before
        inner[:, :, :, :, 1] = cells
        inner[:, :-1, :, :, 2] = cells[:, 1:]
        return padded.flatten(0, 1).permute(0, 3, 1, 2)

    def _kernel(self) -> Tensor:
        """Return the weights for it, [64, channels, 4, 4]."""
        even = F.pad(self.weight, (1, 0, 1, 0)).reshape(*self.weight.shape[:3], 4, 2, 4, 2)
        kernel = even.permute(0, 2, 4, 6, 1, 3, 5).flatten(1, 4)
        return F.pad(kernel, (0, 0, 0, 0, 0, self.channels - kernel.shape[1]))


class Stem(nn.Sequential):
    """torchvision's BasicStem."""

    def __init__(self) -> None:
        super().__init__(StemConv(), nn.BatchNorm3d(64), nn.ReLU(inplace=True))


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
    sections = (Stem, BasicBlock)

    def __init__(self, *, padded: bool = False) -> None:
        """Make the network; `padded` computes the sums over padding too, as torchvision does."""
        super().__init__()
        conv = Conv3DSimple if padded else SeenTaps
        self.net = VideoResNet(BasicBlock, [conv] * 4, [2, 2, 2, 2], Stem)
        self.net.avgpool = ChannelsLastPool()
        self.net.fc = nn.Identity()

    def forward(self, windows: Tensor) -> Tensor:
        """Map [B, C, T_w, H, W] to [B, 512]."""
        features: Tensor = self.net(windows)
        return features
