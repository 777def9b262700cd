"""How many clips a second does SAFE recognise on a GPU, and how long does one clip take?"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.gpu_parts.model import build_safe, crop_size, draw_faces
from benchmarks.gpu_parts.timing import Setup, rate, wall
from benchmarks.report import Figure, ratio, spread
from safe.augment import center_crop, normalize
from safe.networks.backbones import fold_norms


@torch.inference_mode()
def infer(model: nn.Module, faces: Tensor, setup: Setup, precision: torch.dtype) -> Tensor:
    """Return the logits [B, K] of faces on the device, as safe.inference makes them."""
    clips = normalize(center_crop(faces, crop_size(setup)))
    with setup.autocast(precision):
        return model(clips).logits


def inference(setup: Setup) -> Iterator[Figure | str]:
    """How many clips a second, and how long for one clip?"""
    yield "from uint8 faces on the device to logits; tf32 as torch sets it"
    model = fold_norms(build_safe(setup))
    rounds, inner = setup.pick((15, 5), (1, 1))
    precisions = {str(p).removeprefix("torch."): p for p in (torch.float32, torch.bfloat16)}
    for batch in (setup.pick(32, 4), 1):
        faces, _ = draw_faces(setup, batch)
        runs = {name: partial(infer, model, faces, setup, p) for name, p in precisions.items()}
        if batch == 1:
            found = wall(setup, runs, rounds=4 * rounds)
            for name, seconds in found.items():
                milliseconds = [1000 * value for value in seconds]
                yield spread(f"inference, {name}, one clip", milliseconds, unit="ms")
            continue
        found = wall(setup, runs, rounds=rounds, inner=inner)
        for name, seconds in found.items():
            yield rate(f"inference, {name}, batch {batch}", batch, seconds)
        yield ratio(f"inference, bf16 against float32, batch {batch}", *found.values())
