"""How is a batch cropped, flipped and normalised? One draw a clip, the same for its 16 frames.

Everything happens on the device that holds the batch, on uint8 until the last step. A GPU gets few
kernels over the whole batch. A CPU goes clip by clip, so that a clip is still in its cache when the
next pass reads it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

MEAN = (0.43216, 0.394666, 0.37645)
"""Kinetics-400 mean of R, G, B in 0..1 (torchvision's video weights)."""
STD = (0.22803, 0.22145, 0.216989)
"""Kinetics-400 standard deviation of R, G, B in 0..1."""


def random_crop_flip(clips: Tensor, crop: int, flip: float, generator: torch.Generator) -> Tensor:
    """Cut a random square of each clip and mirror it with probability `flip`.

    Args:
        clips: uint8 [B, T, S, S, C].
        crop: side of the square, at most S.
        flip: probability of a horizontal flip, 0..1.
        generator: on the CPU; the draws are the same on every device.

    Returns:
        uint8 [B, T, crop, crop, C].
    """
    batch, side = clips.shape[0], clips.shape[2]
    corner = torch.randint(0, side - crop + 1, (2, batch, 1), generator=generator)
    mirrored = torch.rand((batch, 1), generator=generator) < flip
    return (_cut if clips.device.type == "cpu" else _gather)(clips, crop, corner, mirrored)


def center_crop(clips: Tensor, crop: int) -> Tensor:
    """Cut the centre square: uint8 [B, T, S, S, C] to [B, T, crop, crop, C]."""
    start = (clips.shape[2] - crop) // 2
    return clips[:, :, start : start + crop, start : start + crop]


def normalize(clips: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Turn uint8 [B, T, H, W, C] (0..255) into float32 [B, C, T, H, W], Kinetics-normalised.

    Args:
        clips: the batch.
        out: float32 [B, T, H, W, C], contiguous, to write into. Without it the result is new
            memory, whose page faults cost a CPU several times what the arithmetic does.

    Returns:
        A view, of `out` where given, in torch's channels_last_3d memory format.
    """
    mean, scale = torch.tensor(MEAN) * 255, 1 / (torch.tensor(STD) * 255)
    if clips.device.type != "cpu":
        mean = mean.to(clips.device, non_blocking=True)
        pixels = torch.sub(clips, mean, out=out)
        pixels.mul_(scale.to(clips.device, non_blocking=True))
    else:
        pixels = torch.empty(clips.shape) if out is None else out
        width = clips.shape[3]
        mean, scale = mean.repeat(width), scale.repeat(width)  # inner loops of W * C, not of C
        with _one_thread():
            for clip, done in zip(clips.flatten(3), pixels.view(*clips.shape[:3], -1), strict=True):
                done.copy_(clip).sub_(mean).mul_(scale)
    return pixels.permute(0, 4, 1, 2, 3)


def _cut(clips: Tensor, crop: int, corner: Tensor, mirrored: Tensor) -> Tensor:
    """Copy one slice a clip; corner is [2, B, 1], mirrored [B, 1]."""
    cut = clips.new_empty(*clips.shape[:2], crop, crop, clips.shape[4])
    draws = zip(*corner.flatten(1).tolist(), mirrored.flatten().tolist(), strict=True)
    with _one_thread():
        for clip, done, (top, left, mirror) in zip(clips, cut, draws, strict=True):
            square = clip[:, top : top + crop, left : left + crop]
            done.copy_(square.flip(2) if mirror else square)
    return cut


def _gather(clips: Tensor, crop: int, corner: Tensor, mirrored: Tensor) -> Tensor:
    """Gather the rows and columns of every frame of each clip in one indexing."""
    pixel = torch.arange(crop)
    rows = (corner[0] + pixel).to(clips.device, non_blocking=True)
    columns = corner[1] + torch.where(mirrored, pixel.flip(0), pixel)
    columns = columns.to(clips.device, non_blocking=True)
    clip = torch.arange(clips.shape[0], device=clips.device)[:, None, None, None]
    frame = torch.arange(clips.shape[1], device=clips.device)[None, :, None, None]
    return clips[clip, frame, rows[:, None, :, None], columns[:, None, None, :]]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to the calling thread.

    Passes over one clip are short, and at the end of each a second thread would wait for a core
    that a worker of the loader has.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
