"""What does Algorithm 1 look like as one writes it from the paper, and what does it cost so?

The rival of safe/training/tam.py: the same mixing with the same kind of class bank, loop by loop.
"""

import torch
from torch import Tensor

RATIO, MASK_RATIO, BLOCK, BANK = 0.5, 0.5, 16, 4


class LiteralTAM:
    """Algorithm 1 line by line: clip, partner, mask, frame, patch; a list of clips a class."""

    def __init__(self, generator: torch.Generator, *, classes: int, arrays: bool) -> None:
        """Copy patches as numpy arrays, or as tensors."""
        self.generator, self.arrays = generator, arrays
        self.bank: list[list[Tensor]] = [[] for _ in range(classes)]

    def __call__(self, clips: Tensor, labels: list[int]) -> Tensor:
        """Return clips uint8 [B, T, H, W, C] mixed."""
        mixed = clips.clone()
        batch, frames, height, width, _ = clips.shape
        columns = width // BLOCK
        patches = (height // BLOCK) * columns
        for row in torch.randperm(batch, generator=self.generator)[: int(RATIO * batch)].tolist():
            label = labels[row]
            partners = [clips[i] for i in range(batch) if labels[i] == label and i != row]
            partners = partners or self.bank[label]
            if not partners:
                continue
            drawn = torch.randint(len(partners), (1,), generator=self.generator)
            source, target = partners[int(drawn)], mixed[row]
            if self.arrays:
                source, target = source.numpy(), target.numpy()
            shuffled = torch.randperm(patches, generator=self.generator)
            masked = shuffled[: int(MASK_RATIO * patches)].tolist()
            for frame in range(frames):
                for patch in masked:
                    y, x = BLOCK * (patch // columns), BLOCK * (patch % columns)
                    target[frame, y : y + BLOCK, x : x + BLOCK] = source[
                        frame, y : y + BLOCK, x : x + BLOCK
                    ]
        for clip, label in zip(clips, labels, strict=True):
            self.bank[label] = [*self.bank[label], clip][-BANK:]
        return mixed
