"""Which clips of a batch are mixed with which partners, and where?

In: a batch of clips on any device, their labels and a generator on the CPU. Out: the batch with
some of its clips mixed (Algorithm 1, or one of its rivals), and how many. Labels never change,
because a partner always has the clip's own class:

    I_mix = I_u * (1 - M) + I_s * M          label(I_s) = label(I_u), s != u, M in {0, 1}

A batch alone often has no companion for a rare class (DFEW: 116 disgust clips in 9,356), which
would starve the very classes TAM is for: so the last few unmixed clips of each class are banked.
All is drawn on the CPU, which knows the labels first: a device gets the places and the masks, and
moves pixels alone, in few operations. Nothing is read back from it, so nothing waits for it.
Shapes: B clips, n of them chosen, T frames, H W pixels, C channels, K classes.
"""

import math
from typing import Final

import torch
from torch import Tensor

from safe.errors import ModelError
from safe.training.mix import in_words, mix_at_once, mix_in_turn, settle

STRATEGIES: Final = ("none", "random", "frame", "videomix", "tam")
"""What Table III compares. All but none replace about mask_ratio of a chosen clip's volume."""


class TAM:
    """Temporal-aware augmentation: Algorithm 1, with a class bank.

    The bank holds, for each class, a ring of the last `bank` unmixed clips of the stream. It is
    made at the first batch, with that batch's clip shape, dtype and device. It knows no clip by
    name: one that returns before its class has refilled the ring may meet its own earlier crop.
    """

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
        self.strategy = strategy
        self.ratio = ratio
        self.mask_ratio = mask_ratio
        self.block = block
        self.bank = bank
        self.classes = classes
        self._seen = torch.zeros(classes, dtype=torch.int64)  # clips of each class so far
        self._clips: Tensor | None = None  # [K, bank, T, H, W, C]
        self._late: dict[int, Tensor] = {}  # of the last batch, not copied yet; on a CPU only

    def __call__(
        self, clips: Tensor, labels: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Mix floor(ratio * B) clips of the batch; then remember the unmixed batch in the bank.

        Args:
            clips: [B, T, H, W, C], any dtype, contiguous; becomes the mixed batch, in place. On a
                CPU it must not be written to before the next call, which takes clips over from it.
            labels: int64 [B], 0..K-1, on the CPU.
            generator: where all draws come from, on the CPU.

        Returns:
            The same clips, and int64 [3] on the CPU: how many chosen clips were mixed with a
            companion of the batch, with a banked clip, and not at all, because no other clip of
            their class was seen yet.

        Raises:
            ValueError: if H or W is no multiple of block, the clips are not contiguous, or do not
                fit the banked ones.
        """
        if self.strategy == "none":
            return clips, torch.zeros(3, dtype=torch.int64)
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
        sources, counts = self._draw_partners(labels, chosen, generator)
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
        drawn = (*pixels, chosen[order], sources[order], self._take_places(labels))
        if clips.device.type == "cpu":
            mix_in_turn(*drawn, self._late)
        else:
            mix_at_once(*drawn)
        return clips, counts

    def state_dict(self) -> dict[str, Tensor]:
        """Return the bank: seen int64 [K] and, after the first batch, clips [K, bank, T, H, W, C].

        The tensors are never written to later, so this is a snapshot.
        """
        self._settle()
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
        self._late.clear()

    def _open_bank(self, clips: Tensor) -> Tensor:
        """Return the bank on the clips' device, [K, bank, T, H, W, C]; empty at the first batch."""
        if self._clips is None:
            self._clips = clips.new_zeros(self.classes, self.bank, *clips.shape[1:])
        if self._clips.shape[2:] != clips.shape[1:] or self._clips.dtype != clips.dtype:
            raise ValueError(
                f"clips {tuple(clips.shape[1:])} {clips.dtype} do not fit the banked clips "
                f"{tuple(self._clips.shape[2:])} {self._clips.dtype}; one TAM, one kind of clip"
            )
        if self._clips.device != clips.device:
            self._settle()
            self._clips = self._clips.to(clips.device)
        return self._clips

    def _settle(self) -> None:
        """Bring what is late into the bank."""
        if self._clips is not None and self._late:
            word = next(iter(self._late.values())).dtype
            rows = self._clips.view(self.classes * self.bank, *self._clips.shape[2:4], -1)
            settle(rows.view(word), self._late)
            self._late.clear()

    def _draw_partners(
        self, labels: Tensor, chosen: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Draw one partner for each of the n chosen clips, uniformly among those allowed.

        Returns:
            int64 [n], where the partner is: below B in the batch, from B on in the bank; a clip
            that has none is its own. And the counts that __call__ returns.
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

    def _take_places(self, labels: Tensor) -> Tensor:
        """Give the batch's clips places in the rings in order; later ones take those of older ones.

        Returns:
            int64 [K * bank], which clip of the batch is to lie in each place; -1 leaves it.
        """
        order = torch.arange(len(labels))
        earlier = ((labels == labels[:, None]) & (order < order[:, None])).sum(1)
        place = labels * self.bank + (self._seen[labels] + earlier) % self.bank
        self._seen = self._seen.index_add(0, labels, torch.ones_like(labels))
        nobody = order.new_full((self.classes * self.bank,), -1)
        return nobody.scatter_reduce(0, place, order, "amax")


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
    random    as many patches, drawn anew for every frame.
    frame     int(mask_ratio * T) whole frames.
    videomix  one box, the same in all frames, with the frame's aspect and, but for whole pixels,
              the area of tam's patches. Its corner is uniform over all places where the box lies
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
