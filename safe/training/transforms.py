"""How is a batch cropped, flipped and normalised? One draw a clip, the same for its 16 frames.

Everything happens on the device that holds the batch, on uint8 until the last step. A GPU gets few
kernels over the whole batch. A CPU goes clip by clip, so that a clip is still in its cache when the
next pass reads it.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
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
    draws = _draw(clips, crop, flip, generator)
    return (_cut if clips.device.type == "cpu" else _gather)(clips, crop, *draws)


def random_crop_flip_normalize(
    clips: Tensor, crop: int, flip: float, generator: torch.Generator, *, out: Tensor | None = None
) -> Tensor:
    """Do both at once, where nothing stands between: the same bits from the same draws.

    A CPU saves the copy of the squares, a quarter of the two together.

    Args:
        clips: uint8 [B, T, S, S, C].
        crop: as for random_crop_flip.
        flip: as for random_crop_flip.
        generator: as for random_crop_flip.
        out: as for normalize, [B, T, crop, crop, C].

    Returns:
        float32 [B, C, T, crop, crop], as from normalize.
    """
    if clips.device.type != "cpu":
        return normalize(random_crop_flip(clips, crop, flip, generator), out=out)
    squares = _squares(clips, crop, *_draw(clips, crop, flip, generator))
    return _normalize_each(squares, (*clips.shape[:2], crop, crop, clips.shape[4]), out)


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
    if clips.device.type == "cpu":
        return _normalize_each(clips, clips.shape, out)
    mean, scale = (constant.to(clips.device, non_blocking=True) for constant in _constants())
    pixels = torch.sub(clips, mean, out=out)
    return pixels.mul_(scale).permute(0, 4, 1, 2, 3)


def _constants() -> tuple[Tensor, Tensor]:
    """Return what is taken from each channel of 0..255, and what that is multiplied by."""
    return torch.tensor(MEAN) * 255, 1 / (torch.tensor(STD) * 255)


def _normalize_each(clips: Iterable[Tensor], shape: Sequence[int], out: Tensor | None) -> Tensor:
    """Normalise B clips uint8 [T, H, W, C], one after the other, into `shape`, [B, T, H, W, C]."""
    pixels = torch.empty(shape) if out is None else out
    width = shape[3]  # the constants are repeated, for inner loops of W * C, not of C
    mean, scale = (constant.repeat(width) for constant in _constants())
    with _one_thread():
        for clip, done in zip(clips, pixels.view(*shape[:3], -1), strict=True):
            done.copy_(clip.flatten(2)).sub_(mean).mul_(scale)
    return pixels.permute(0, 4, 1, 2, 3)


def _draw(
    clips: Tensor, crop: int, flip: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw each clip's corner, row and column int64 [2, B, 1], and whether to mirror it, [B, 1]."""
    batch, side = clips.shape[0], clips.shape[2]
    corner = torch.randint(0, side - crop + 1, (2, batch, 1), generator=generator)
    return corner, torch.rand((batch, 1), generator=generator) < flip


def _squares(clips: Tensor, crop: int, corner: Tensor, mirrored: Tensor) -> Iterator[Tensor]:
    """Give each clip's square, [T, crop, crop, C]: a view of it, or of a copy until the next."""
    import cv2  # here, because only a CPU needs it; its flip takes half of the time of torch's

    frames, side, _, channels = clips.shape[1:]
    strips = clips.reshape(len(clips), frames * side, side, channels).numpy()
    copy = np.empty((frames * side, crop, channels), np.uint8)
    draws = zip(*corner.flatten(1).tolist(), mirrored.flatten().tolist(), strict=True)
    for strip, (top, left, mirror) in zip(strips, draws, strict=True):
        cut = strip[:, left : left + crop]
        if mirror:
            cut = cv2.flip(cut, 1, copy)
        square = torch.from_numpy(cut).view(frames, side, crop, channels)
        yield square[:, top : top + crop]


def _cut(clips: Tensor, crop: int, corner: Tensor, mirrored: Tensor) -> Tensor:
    """Copy one slice a clip."""
    cut = clips.new_empty(*clips.shape[:2], crop, crop, clips.shape[4])
    with _one_thread():
        for square, done in zip(_squares(clips, crop, corner, mirrored), cut, strict=True):
            done.copy_(square)
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
