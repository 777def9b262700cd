"""How does the field usually read its clips? Written anew from its description, as a rival.

One folder a clip with its 16 frames as JPEG files of 224 pixels. PIL opens each; torchvision's
transforms go over each frame, drawn once a clip: a random resized crop to 112 pixels, a flip and,
as shipped, colour jitter of 0.4 (brightness, contrast, saturation and hue). The clip becomes a
float32 tensor in the worker, and torch's DataLoader makes the batches.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import functional

SIDE = 224
"""Pixels, side of a stored frame."""
_JITTER = 0.4
_QUALITY = 95


def write_frames(folder: Path, faces: NDArray[np.uint8]) -> None:
    """Store uint8 [T, S, S, 3], scaled up to 224 pixels, as 00.jpg, 01.jpg, ... in `folder`."""
    folder.mkdir(parents=True)
    for number, face in enumerate(faces):
        image = Image.fromarray(face).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:02d}.jpg", quality=_QUALITY)


class FrameFolders(Dataset):
    """The clips below a folder, one folder each; a sample is float32 [3, T, crop, crop], 0..1."""

    def __init__(self, root: Path, *, crop: int, jitter: bool) -> None:
        self.folders = sorted(path for path in root.iterdir() if path.is_dir())
        self.crop = transforms.RandomResizedCrop(crop)
        self.jitter = transforms.ColorJitter(*[_JITTER] * 4) if jitter else None

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, index: int) -> Tensor:
        images = []
        for path in sorted(self.folders[index].iterdir()):
            with Image.open(path) as image:
                images.append(image.convert("RGB"))
        box = self.crop.get_params(images[0], self.crop.scale, self.crop.ratio)
        images = [functional.resized_crop(image, *box, self.crop.size) for image in images]
        if torch.rand(()) < 0.5:
            images = [functional.hflip(image) for image in images]
        if self.jitter is not None:
            images = _jitter(images, self.jitter)
        return torch.stack([functional.to_tensor(image) for image in images], dim=1)


def usual_loader(root: Path, *, crop: int, batch: int, workers: int, jitter: bool) -> DataLoader:
    """Give float32 batches [B, 3, T, crop, crop]; the workers live on from epoch to epoch."""
    return DataLoader(
        FrameFolders(root, crop=crop, jitter=jitter),
        batch_size=batch,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=True,
    )


def _jitter(images: list[Image.Image], jitter: transforms.ColorJitter) -> list[Image.Image]:
    """Change all frames by one draw, as ColorJitter.forward does for one."""
    order, *factors = jitter.get_params(
        jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue
    )
    change = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    )
    for which in order.tolist():
        images = [change[which](image, factors[which]) for image in images]
    return images
