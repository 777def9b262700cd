"""TAM, temporal-aware augmentation (Algorithm 1), its class bank, and what Table III compares.

    I_mix = I_u * (1 - M) + I_s * M          label(I_s) = label(I_u), s != u, M in {0, 1}

Labels never change, because a partner always has the clip's own class. A batch alone often has no
companion for a rare class (DFEW: 116 disgust clips in 9,356), which would starve the very classes
TAM is for: so the last few unmixed clips of each class are banked. All is drawn on the CPU, which
knows the labels first; a device gets indices and masks, and moves pixels alone, in few operations.
Nothing is read back from it, so nothing waits for it.
Shapes: B clips, n of them chosen, T frames, H W pixels, C channels, K classes.
"""

import math
from typing import Final

import torch
from torch import Tensor

from safe.errors import ModelError

STRATEGIES: Final = ("none", "random", "frame", "videomix", "tam")
"""What Table III compares. All but none replace about mask_ratio of a chosen clip's volume."""


class TAM:
    """Algorithm 1 as a transform (safe/training/transforms.py), with a class bank.

    The bank holds, for each class, a ring of the last `bank` unmixed clips of the stream: copies,
    so that whoever gets the batch may write into it. It is made at the first batch, with that
    batch's clip shape, dtype and device. It knows no clip by name: one that returns before its
    class has refilled the ring may meet its own earlier crop.
    """

    counts: Tensor
    """Of the last batch, int64 [3] on the CPU: how many chosen clips were mixed with a companion of
    the batch, with a banked clip, and not at all, since no other clip of their class was seen."""

    def __init__(
        self,
        *,
        strategy: str,
        ratio: float,
        mask_ratio: float,
        block: int,
        bank: int,
        classes: int,
    ) -> None:
        """Set what is drawn.

        Args:
            strategy: one of STRATEGIES; see draw_masks.
            ratio: lambda_TAM, the share of a batch that is chosen, 0..1.
            mask_ratio: rho, the share of a chosen clip that is replaced, 0..1.
            block: side of a patch, in pixels.
            bank: clips kept a class, at least 1.
            classes: K.

        Raises:
            ValueError: for an unknown strategy.
        """
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy {strategy!r} must be one of {', '.join(STRATEGIES)}")
        self.strategy, self.block = strategy, block
        self.ratio, self.mask_ratio = ratio, mask_ratio
        self.bank, self.classes = bank, classes
        self.counts = torch.zeros(3, dtype=torch.int64)
        self._seen = torch.zeros(classes, dtype=torch.int64)  # clips of each class so far
        self._clips: Tensor | None = None  # [K, bank, T, H, W, C]

    def __call__(self, clips: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Mix floor(ratio * B) clips of the batch; keep unmixed ones in the bank.

        Args:
            clips: [B, T, H, W, C], any dtype, contiguous; becomes the mixed batch, in place.
            labels: int64 [B], 0..K-1, on the CPU.
            generator: where all draws come from, on the CPU.

        Raises:
            ValueError: if H or W is no multiple of block, the clips are not contiguous, or do not
                fit the banked ones.
        """
        if self.strategy == "none":
            return clips
        batch, frames, height, width, _ = clips.shape
        if height % self.block or width % self.block:
            raise ValueError(
                f"clips of {width} x {height} pixels cannot be cut into blocks of {self.block}; "
                "both sides must be multiples of the block"
            )
        if not clips.is_contiguous():
            raise ValueError("clips are mixed in place, for which they must be contiguous")
        bank = self._open_bank(clips)
        count = math.floor(self.ratio * batch)
        chosen = torch.rand(batch, generator=generator).argsort()[:count]
        sources, self.counts = self._draw_partners(labels, chosen, generator)
        masks = draw_masks(
            self.strategy,
            (count, frames, height, width),
            mask_ratio=self.mask_ratio,
            block=self.block,
            generator=generator,
        )
        run = {"frame": width, "videomix": 1}.get(self.strategy, self.block)
        order = sources.argsort()  # partners of the batch before those of the bank
        pixels = in_words(clips, bank, masks[order], run)
        mix = mix_in_turn if clips.device.type == "cpu" else mix_at_once
        mix(*pixels, chosen[order], sources[order], self._take_slots(labels))
        return clips

    def state_dict(self) -> dict[str, Tensor]:
        """Return the bank: seen int64 [K] and, after the first batch, clips [K, bank, T, H, W, C].

        The tensors are never written to later, so this is a snapshot.
        """
        banked = {} if self._clips is None else {"clips": self._clips.clone()}
        return {"seen": self._seen, **banked}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a snapshot, on whatever device the next batch is.

        Raises:
            ModelError: if the snapshot is of another number of classes or banked clips.
        """
        seen, clips = state["seen"].cpu(), state.get("clips")
        shape = (len(seen), self.bank if clips is None else clips.shape[1])
        if shape != (self.classes, self.bank):
            raise ModelError(
                f"checkpoint: the TAM bank holds {shape[1]} clips of {shape[0]} classes, this run "
                f"{self.bank} of {self.classes}; resume with the settings it was made with"
            )
        self._seen, self._clips = seen, None if clips is None else clips.clone()

    def _open_bank(self, clips: Tensor) -> Tensor:
        """Return the bank on the clips' device, [K, bank, T, H, W, C]; empty at the first batch."""
        if self._clips is None:
            self._clips = clips.new_zeros(self.classes, self.bank, *clips.shape[1:])
        if self._clips.shape[2:] != clips.shape[1:] or self._clips.dtype != clips.dtype:
            raise ValueError(
                f"clips {tuple(clips.shape[1:])} {clips.dtype} do not fit the banked clips "
                f"{tuple(self._clips.shape[2:])} {self._clips.dtype}; one TAM, one kind of clip"
            )
        self._clips = self._clips.to(clips.device)
        return self._clips

    def _draw_partners(
        self, labels: Tensor, chosen: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Draw one partner for each of the n chosen clips, uniformly among those allowed.

        Returns:
            int64 [n], where the partner is: below B in the batch, from B on in the bank; a clip
            that has none is its own. And `counts`.
        """
        label = labels[chosen]
        companion = (label[:, None] == labels).scatter(1, chosen[:, None], False)  # not itself
        from_batch = companion.any(1)
        filled = torch.arange(self.bank) < self._seen[label][:, None]
        banked = filled & ~from_batch[:, None]

        # The highest of independent uniform numbers is equally likely to be any of them.
        allowed = torch.cat([companion, banked], dim=1)  # [n, B + bank]
        score = torch.rand(allowed.shape, generator=generator)
        drawn = torch.where(allowed, score, -1).argmax(1)  # the first, 0, where none is allowed
        from_bank = drawn >= len(labels)
        drawn = drawn + label * self.bank * from_bank  # in the class's own ring
        found = from_batch | from_bank
        counts = torch.stack([from_batch, from_bank, ~found]).sum(1)
        return torch.where(found, drawn, chosen), counts

    def _take_slots(self, labels: Tensor) -> Tensor:
        """Say which clip of the batch each slot of the bank gets, int64 [K * bank]; -1 keeps.

        They come into the rings in order, and later ones take the slots of older ones.
        """
        order = torch.arange(len(labels))
        earlier = ((labels == labels[:, None]) & (order < order[:, None])).sum(1)
        slot = labels * self.bank + (self._seen[labels] + earlier) % self.bank
        self._seen = self._seen.index_add(0, labels, torch.ones_like(labels))
        nobody = order.new_full((self.classes * self.bank,), -1)
        return nobody.scatter_reduce(0, slot, order, "amax")


def draw_masks(
    strategy: str,
    shape: tuple[int, int, int, int],
    *,
    mask_ratio: float,
    block: int,
    generator: torch.Generator,
) -> Tensor:
    """Draw where n clips are replaced by their partners.

    tam       int(mask_ratio * n_p) of the n_p = H/block x W/block patches, the same in all frames.
    random    as many patches, drawn again for every frame.
    frame     int(mask_ratio * T) whole frames.
    videomix  one box, the same in all frames, with the frame's aspect and, but for whole pixels,
              the area of tam's patches. Its corner is uniform over all positions where the box lies
              inside the frame, so its area never varies (VideoMix cuts boxes off at the border).

    Args:
        strategy: one of STRATEGIES, not none.
        shape: (n, T, H, W); H and W are multiples of block.
        mask_ratio: rho, 0..1.
        block: side of a patch, in pixels.
        generator: of the draws, on the CPU.

    Returns:
        bool on the CPU, True where replaced: [n, t, h, w, 1]. Each value is that of T/t frames, H/h
        rows and W/w columns: t is T or 1, where all frames have the same; h x w are pixels,
        patches, or 1.
    """
    count, frames, height, width = shape
    if strategy == "frame":
        drawn = _exactly(int(mask_ratio * frames), (count, frames), generator)
        return drawn[:, :, None, None, None]
    rows, columns = height // block, width // block
    masked = int(mask_ratio * rows * columns)
    if strategy == "videomix":
        return _box(count, (height, width), masked * block**2, generator)
    times = frames if strategy == "random" else 1
    patches = _exactly(masked, (count, times, rows * columns), generator)
    return patches.view(count, times, rows, columns, 1)


def _box(count: int, size: tuple[int, int], area: int, generator: torch.Generator) -> Tensor:
    """Draw a box of about `area` pixels inside each frame of size (H, W): bool [n, 1, H, W, 1]."""
    inside = []
    share = math.sqrt(area / (size[0] * size[1]))
    tall = max(1, round(size[0] * share))
    wide = min(size[1], round(area / tall))
    for length, side in zip(size, (tall, wide), strict=True):
        corner = torch.randint(length - side + 1, (count, 1), generator=generator)
        pixel = torch.arange(length)
        inside.append((corner <= pixel) & (pixel < corner + side))
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None, :, :, None]


def _exactly(count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Shuffle `count` ones among zeros along the last axis: bool, of the given shape."""
    return torch.rand(shape, generator=generator).argsort(-1) < count


# The pixels. Both the bank and the batch change in place, from what was drawn:
#
#     bank  <- unmixed clips of the batch, where a class's ring has moved on
#     batch <- I_u * (1 - M) + I_s * M, with unmixed partners I_s of the batch or of the old bank
#
# in two ways with the same results: for devices, which must not wait for the host and where every
# operation is a launch, and for CPUs, where every byte counts.

WORDS: Final = (torch.complex128, torch.int64)
"""What bytes are moved as, the longest that fits; nothing is ever computed with them."""


def in_words(clips: Tensor, bank: Tensor, masks: Tensor, run: int) -> tuple[Tensor, Tensor, Tensor]:
    """View rows of pixels as rows of 16- or 8-byte words, each handled as fast as a single byte.

    Args:
        clips: [B, T, H, W, C], contiguous.
        bank: [K, bank, T, H, W, C], contiguous.
        masks: of draw_masks.
        run: pixels of a row that always have the same mask; a word must lie within them.

    Returns:
        Clips, bank and masks as mix_at_once takes them, all on the clips' device, X words wide; or
        W * C elements wide, where words do not fit.
    """
    height, width, channels = clips.shape[2:]
    pixel = channels * clips.element_size()  # bytes
    element = next((word for word in WORDS if run * pixel % word.itemsize == 0), clips.dtype)
    rows = clips.view(*clips.shape[:3], -1).view(element)
    masks, (tall, wide) = masks[..., 0], masks.shape[2:4]
    if wide > 1:
        start = torch.arange(rows.shape[3]) * element.itemsize
        masks = masks.index_select(3, start * wide // (width * pixel))
    masks = masks.to(clips.device, non_blocking=True)
    if tall > 1:
        masks = masks[:, :, :, None].expand(-1, -1, -1, height // tall, -1).flatten(2, 3)
    return rows, bank.view(-1, *clips.shape[1:3], width * channels).view(element), masks


def mix_at_once(
    clips: Tensor, bank: Tensor, masks: Tensor, chosen: Tensor, sources: Tensor, writers: Tensor
) -> None:
    """Mix the batch and renew the bank, both in place, in few operations that wait for nothing.

    Args:
        clips: [B, T, H, X] of any dtype; becomes the mixed batch.
        bank: [K * bank, T, H, X]; then holds unmixed clips of the batch too.
        masks: bool [n, T, H, X], or with 1 for some of the last three; True where replaced. On the
            clips' device; all below on the CPU.
        chosen: int64 [n], the clips to be mixed.
        sources: int64 [n], the partner of each, ascending: below B in the batch, from B on in the
            bank.
        writers: int64 [K * bank], which clip of the batch comes to each slot; -1 leaves it.
    """
    batch = len(clips)
    inside = int((sources < batch).sum())
    slots = (writers >= 0).nonzero()[:, 0]
    parts = [chosen, sources[:inside], sources[inside:] - batch, slots, writers[slots]]
    there = torch.cat(parts).to(clips.device, non_blocking=True)  # one copy for all
    chosen, in_batch, in_bank, slots, kept = torch.split(there, [len(part) for part in parts])
    partners = clips.new_empty(len(chosen), *clips.shape[1:])
    torch.index_select(clips, 0, in_batch, out=partners[:inside])
    torch.index_select(bank, 0, in_bank, out=partners[inside:])
    bank.index_copy_(0, slots, clips[kept])
    clips.index_copy_(0, chosen, torch.where(masks, partners, clips[chosen]))


def mix_in_turn(
    clips: Tensor, bank: Tensor, masks: Tensor, chosen: Tensor, sources: Tensor, writers: Tensor
) -> None:
    """Do the same clip by clip, with far less traffic of memory, which is the limit of a CPU."""
    batch, clip, ring = len(clips), clips.unbind(), bank.unbind()
    rows, partners = chosen.tolist(), sources.tolist()
    slots = {row: slot for slot, row in enumerate(writers.tolist()) if row >= 0}
    changes, renewed = set(rows), set(slots.values())
    unmixed = {
        source: ring[slot].clone() if slot in renewed else ring[slot]
        for source in partners
        if (slot := source - batch) >= 0
    }
    for row, slot in slots.items():
        ring[slot].copy_(clip[row])
    for row in set(partners) - unmixed.keys():
        if row not in changes:
            unmixed[row] = clip[row]
        else:
            unmixed[row] = ring[slots[row]] if row in slots else clip[row].clone()
    for row, partner, mask in zip(rows, partners, masks, strict=True):
        torch.where(mask, unmixed[partner], clip[row], out=clip[row])
