"""How is a batch cropped, flipped and normalised? One draw a clip, the same for its 16 frames.

Everything happens on the device that holds the batch, on uint8 until the last step.
"""

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
    pixel = torch.arange(crop)
    rows = corner[0] + pixel
    columns = corner[1] + torch.where(mirrored, pixel.flip(0), pixel)
    rows = rows.to(clips.device, non_blocking=True)
    return _take(clips, rows, columns.to(clips.device, non_blocking=True))


def center_crop(clips: Tensor, crop: int) -> Tensor:
    """Cut the centre square: uint8 [B, T, S, S, C] to [B, T, crop, crop, C]."""
    start = (clips.shape[2] - crop) // 2
    return clips[:, :, start : start + crop, start : start + crop]


def normalize(clips: Tensor) -> Tensor:
    """Turn uint8 [B, T, H, W, C] (0..255) into float32 [B, C, T, H, W], Kinetics-normalised.

    The result is a view in torch's channels_last_3d memory format.
    """
    mean = (torch.tensor(MEAN) * 255).to(clips.device, non_blocking=True)
    scale = (1 / (torch.tensor(STD) * 255)).to(clips.device, non_blocking=True)
    return ((clips.float() - mean) * scale).permute(0, 4, 1, 2, 3)


def _take(clips: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Gather rows [B, h] and columns [B, w] of every frame of each clip in one indexing."""
    clip = torch.arange(clips.shape[0], device=clips.device)[:, None, None, None]
    frame = torch.arange(clips.shape[1], device=clips.device)[None, :, None, None]
    return clips[clip, frame, rows[:, None, :, None], columns[:, None, None, :]]
