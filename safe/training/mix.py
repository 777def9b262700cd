"""How do the pixels of partners get into a batch, and those of the batch into the bank?

In: a batch, the bank, and what was drawn (tam.py). Both change in place:

    bank  <- unmixed clips of the batch, where a class's ring has moved on
    batch <- I_u * (1 - M) + I_s * M, with unmixed partners I_s of the batch or of the old bank

What was drawn is on the CPU. There are two ways with the same results: one for devices, which must
not wait for the host and where every operation is a launch, and one for CPUs, where every byte
counts.
Shapes: B clips, n of them chosen, T frames, H W pixels, C channels, K classes.
"""

from typing import Final

import torch
from torch import Tensor

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
        writers: int64 [K * bank], which clip of the batch comes to each place; -1 leaves it.
    """
    batch = len(clips)
    inside = int((sources < batch).sum())
    places = (writers >= 0).nonzero()[:, 0]
    parts = [chosen, sources[:inside], sources[inside:] - batch, places, writers[places]]
    there = torch.cat(parts).to(clips.device, non_blocking=True)  # one copy for all
    chosen, in_batch, in_bank, places, kept = torch.split(there, [len(part) for part in parts])
    partners = clips.new_empty(len(chosen), *clips.shape[1:])
    torch.index_select(clips, 0, in_batch, out=partners[:inside])
    torch.index_select(bank, 0, in_bank, out=partners[inside:])
    bank.index_copy_(0, places, clips[kept])
    clips.index_copy_(0, chosen, torch.where(masks, partners, clips[chosen]))


def mix_in_turn(
    clips: Tensor,
    bank: Tensor,
    masks: Tensor,
    chosen: Tensor,
    sources: Tensor,
    writers: Tensor,
    late: dict[int, Tensor],
) -> None:
    """Do the same clip by clip: where memory is the limit, on a CPU, with far less of its traffic.

    Clips that are not mixed come into the bank one batch later, and only those whose place the
    later batch leaves them: few. `late` has them, views [T, H, X] by their places: on the way in
    those of the batch before, which the bank lacks; on the way out those of this one.
    """
    batch, rows, partners = len(clips), chosen.tolist(), sources.tolist()
    clip, ring = clips.unbind(), bank.unbind()
    places = {row: place for place, row in enumerate(writers.tolist()) if row >= 0}
    unmixed = {
        source: late[source - batch] if source - batch in late else ring[source - batch].clone()
        for source in partners
        if source >= batch
    }
    settle(bank, {place: late[place] for place in late.keys() - set(places.values())})
    late.clear()
    changes, needed = set(rows), places.keys() | set(partners)

    def keep(row: int) -> None:
        """Bring the clip to its place in the bank, or aside, if it is to be mixed."""
        if row in unmixed:
            return
        if row not in changes:
            unmixed[row] = clip[row]
        elif row in places:
            unmixed[row] = ring[places[row]].copy_(clip[row])
        else:
            unmixed[row] = clip[row].clone()

    for row, partner, mask in zip(rows, partners, masks, strict=True):
        keep(partner)
        if row in needed:
            keep(row)
        torch.where(mask, unmixed[partner], clip[row], out=clip[row])
    late.update({place: clip[row] for row, place in places.items() if row not in changes})


def settle(bank: Tensor, late: dict[int, Tensor]) -> None:
    """Copy late clips to their places in the bank, [K * bank, T, H, X]."""
    for place, clip in late.items():
        bank[place].copy_(clip)
