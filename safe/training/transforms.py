"""Transforms of a batch of faces, from the bytes of the shards to what a network sees.

In: uint8 [B, T, S, S, 3], RGB. Out: float32 [B, 3, T, H, W], normalised as for Kinetics-400.
Training goes through the list of `training_transforms` and normalises; evaluation cuts the centre
square and normalises. Who adds a transform writes one callable here and names it in that list: it
works on uint8, on the device that holds the batch, draws from the step's generator alone, and does
the same to all T frames of a clip.

A GPU gets few kernels over the whole batch. A CPU goes clip by clip, so that a clip is still in its
cache when the next pass reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:  # tools/benchmarks run this file on machines without pydantic
    from safe.config import Config

MEAN = (0.43216, 0.394666, 0.37645)
"""Kinetics-400 mean of R, G, B in 0..1 (torchvision's video weights)."""
STD = (0.22803, 0.22145, 0.216989)
"""Kinetics-400 standard deviation of R, G, B in 0..1."""


class Transform(Protocol):
    """One step of the list: a batch in, a batch out."""

    def __call__(self, clips: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Transform uint8 clips [B, T, H, W, 3], in place or not.

        labels are int64 [B], and on the CPU as the generator is, whose draws are then the same on
        every device. B counts the clips of all ranks that train together.
        """


def training_transforms(config: Config, tam: Transform) -> list[Transform]:
    """List what training does to a batch, in order. A step that is added changes no draw before."""
    steps: list[Transform] = [CropFlip(config.augment.crop, config.augment.flip)]
    if config.tam.strategy != "none":
        steps.append(tam)
    return steps


class Transforms:
    """A list of transforms and the normalisation after them."""

    def __init__(self, steps: Sequence[Transform]) -> None:
        self.steps = steps
        self._pixels = torch.empty(0)

    def __call__(
        self,
        clips: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        *,
        share: slice = slice(None),
    ) -> Tensor:
        """Transform the whole batch and normalise a share of its clips.

        Args:
            clips: uint8 [B, T, S, S, 3].
            labels: int64 [B], on the CPU.
            generator: of all draws, on the CPU.
            share: which clips of the batch are wanted: those of this rank.

        Returns:
            float32 [B', 3, T, H, W] as from normalize. The next call writes into the same memory:
            page faults of fresh memory cost a CPU several times what the arithmetic does.
        """
        *steps, last = self.steps
        for step in steps:
            clips = step(clips, labels, generator)
        # Where nothing follows the crop, a CPU is spared the copy of the squares.
        if isinstance(last, CropFlip) and clips.device.type == "cpu":
            squares = last.squares(clips, generator)
            chosen = islice(squares, share.start, share.stop, share.step)
            return _normalize_each(chosen, self._memory(last.shape(clips[share]), clips.device))
        clips = last(clips, labels, generator)[share]
        return normalize(clips, out=self._memory(clips.shape, clips.device))

    def _memory(self, shape: Sequence[int], device: torch.device) -> Tensor:
        if (self._pixels.shape, self._pixels.device) != (torch.Size(shape), device):
            self._pixels = torch.empty(shape, device=device)
        return self._pixels


class CropFlip:
    """Cut a random square of each clip and mirror it with a probability."""

    def __init__(self, crop: int, flip: float) -> None:
        """Set the side of the square in pixels, at most S, and the probability, 0..1."""
        self.crop, self.flip = crop, flip

    def __call__(self, clips: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Map uint8 [B, T, S, S, C] to [B, T, crop, crop, C], a copy."""
        if clips.device.type != "cpu":
            return self._gather(clips, *self._draw(clips, generator))
        cut = clips.new_empty(self.shape(clips))
        with _one_thread():
            for square, done in zip(self.squares(clips, generator), cut, strict=True):
                done.copy_(square)
        return cut

    def shape(self, clips: Tensor) -> tuple[int, ...]:
        """Return the shape of the result."""
        return (*clips.shape[:2], self.crop, self.crop, clips.shape[4])

    def squares(self, clips: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """Give each clip's square, [T, crop, crop, C], on a CPU: a view that lasts until the next.

        It is one of the clip, or of a mirrored copy.
        """
        import cv2  # here, because only a CPU needs it; its flip takes half of the time of torch's

        corner, mirrored = self._draw(clips, generator)
        crop, (frames, side, _, channels) = self.crop, clips.shape[1:]
        strips = clips.reshape(len(clips), frames * side, side, channels).numpy()
        copy = np.empty((frames * side, crop, channels), np.uint8)
        draws = zip(*corner.flatten(1).tolist(), mirrored.flatten().tolist(), strict=True)
        for strip, (top, left, mirror) in zip(strips, draws, strict=True):
            cut = strip[:, left : left + crop]
            if mirror:
                cut = cv2.flip(cut, 1, copy)
            square = torch.from_numpy(cut).view(frames, side, crop, channels)
            yield square[:, top : top + crop]

    def _draw(self, clips: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw each clip's corner, row and column, [2, B, 1], and whether to mirror, [B, 1]."""
        batch, side = clips.shape[0], clips.shape[2]
        corner = torch.randint(0, side - self.crop + 1, (2, batch, 1), generator=generator)
        return corner, torch.rand((batch, 1), generator=generator) < self.flip

    def _gather(self, clips: Tensor, corner: Tensor, mirrored: Tensor) -> Tensor:
        """Gather the rows and columns of every frame of each clip in one indexing."""
        pixel = torch.arange(self.crop)
        rows = (corner[0] + pixel).to(clips.device, non_blocking=True)
        columns = corner[1] + torch.where(mirrored, pixel.flip(0), pixel)
        columns = columns.to(clips.device, non_blocking=True)
        clip = torch.arange(clips.shape[0], device=clips.device)[:, None, None, None]
        frame = torch.arange(clips.shape[1], device=clips.device)[None, :, None, None]
        return clips[clip, frame, rows[:, None, :, None], columns[:, None, None, :]]


def center_crop(clips: Tensor, crop: int) -> Tensor:
    """View the centre square: [B, T, S, S, C] to [B, T, crop, crop, C]."""
    start = (clips.shape[2] - crop) // 2
    return clips[:, :, start : start + crop, start : start + crop]


def normalize(clips: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Map uint8 [B, T, H, W, C] (0..255) to float32 [B, C, T, H, W]: (x / 255 - mean) / std.

    Args:
        clips: the batch.
        out: float32 [B, T, H, W, C], contiguous, to write into; None: new memory.

    Returns:
        A view, of `out` where given, in torch's channels_last_3d memory format.
    """
    if clips.device.type == "cpu":
        return _normalize_each(clips, torch.empty(clips.shape) if out is None else out)
    mean, scale = (constant.to(clips.device, non_blocking=True) for constant in _constants())
    return torch.sub(clips, mean, out=out).mul_(scale).permute(0, 4, 1, 2, 3)


def _constants() -> tuple[Tensor, Tensor]:
    """Return what is taken from each channel of 0..255, and what that is multiplied by."""
    return torch.tensor(MEAN) * 255, 1 / (torch.tensor(STD) * 255)


def _normalize_each(clips: Iterable[Tensor], out: Tensor) -> Tensor:
    """Normalise clips uint8 [T, H, W, C], one after the other, into out, [B, T, H, W, C]."""
    width = out.shape[3]  # the constants are repeated, for inner loops of W * C, not of C
    mean, scale = (constant.repeat(width) for constant in _constants())
    with _one_thread():
        for clip, done in zip(clips, out.view(*out.shape[:3], -1), strict=True):
            done.copy_(clip.flatten(2)).sub_(mean).mul_(scale)
    return out.permute(0, 4, 1, 2, 3)


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
