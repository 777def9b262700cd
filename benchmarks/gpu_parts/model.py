"""Which model, which loss and which clips does every part use?

The paper's: r3d_18, 7 windows of 4 frames at 112 x 112, 512 units a direction. Tiny ones where a
run is only tried out.
"""

from typing import Final

import torch
from torch import Tensor

from benchmarks.gpu_parts.timing import Setup
from safe.networks.model import SAFE
from safe.taxonomy import BASIC
from safe.training.acl import ACL

WINDOWS: Final = 7
K: Final = len(BASIC)
MIXING: Final = {
    "strategy": "tam",
    "ratio": 0.5,
    "mask_ratio": 0.5,
    "block": 16,
    "bank": 4,
    "classes": K,
}


def build_safe(setup: Setup, *, dropout: float = 0.2) -> SAFE:
    """Make SAFE on the device."""
    model = SAFE(
        classes=K,
        backbone=setup.pick("r3d_18", "small"),
        weights=None,
        temporal="s2am2",
        window=4,
        stride=2,
        hidden=setup.pick(512, 8),
        dropout=dropout,
    )
    return model.to(setup.device)


def build_loss(setup: Setup) -> ACL:
    """Make the loss on the device, with the weights of params.yaml."""
    acl = ACL(torch.ones(K), cal=True, fcl=True, top_k=1, tau=0.1, lambda_1=0.05, lambda_2=0.001)
    return acl.to(setup.device)


def crop_size(setup: Setup) -> int:
    """Return the side of the clips that the model sees, in pixels."""
    return setup.pick(112, 16)


def draw_faces(setup: Setup, batch: int) -> tuple[Tensor, Tensor]:
    """Draw faces, uint8 [B, 16, 128, 128, 3], on the device, and labels, int64 [B], on the CPU."""
    side = setup.pick(128, 32)
    generator = torch.Generator().manual_seed(batch)
    faces = torch.randint(256, (batch, 16, side, side, 3), dtype=torch.uint8, generator=generator)
    return faces.to(setup.device), torch.arange(batch) % K
