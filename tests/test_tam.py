"""Does TAM mix what Algorithm 1 says, with whom it says, and nothing else?

Every pixel of a test clip says where it comes from: its channels are class, clip id, frame, row and
column.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from safe.errors import ModelError
from safe.training.tam import STRATEGIES, TAM, draw_masks, mix_at_once, mix_in_turn

T, H, W, BLOCK = 16, 24, 40, 8  # 3 x 5 = 15 patches; H and W differ on purpose
SYSTEMS = [name for name in STRATEGIES if name != "none"]


def make_clips(labels: list[int], first_id: int = 0, frames: int = T) -> tuple[Tensor, Tensor]:
    """uint8 clips [B, frames, H, W, 5] whose pixels tell their origin, and their labels."""
    clips = torch.empty(len(labels), frames, H, W, 5, dtype=torch.uint8)
    for index, label in enumerate(labels):
        clips[index, ..., 0] = label
        clips[index, ..., 1] = first_id + index
    clips[..., 2] = torch.arange(frames)[:, None, None]
    clips[..., 3] = torch.arange(H)[:, None]
    clips[..., 4] = torch.arange(W)
    return clips, torch.tensor(labels)


def make_tam(strategy: str = "tam", **changes: float) -> TAM:
    settings = {"ratio": 1.0, "mask_ratio": 0.5, "block": BLOCK, "bank": 4, "classes": 7} | changes
    return TAM(strategy=strategy, **settings)  # type: ignore[arg-type]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mix(
    tam: TAM, clips: Tensor, labels: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The mixed batch, and how many clips got which kind of partner."""
    return tam(clips, labels, generator), tam.counts


def partner_ids(mixed: Tensor, own: int) -> set[int]:
    return set(mixed[..., 1].unique().tolist()) - {own}


@pytest.mark.parametrize("mask_ratio", [0.0, 0.3, 0.5, 0.99, 1.0])
def test_exact_patches_the_same_in_all_frames_from_one_clip_of_the_same_class(
    mask_ratio: float,
) -> None:
    labels = [0, 0, 0, 1, 1, 2, 2, 2]
    clips, targets = make_clips(labels)
    before = clips.clone()
    mixed, counts = mix(make_tam(mask_ratio=mask_ratio), clips, targets, seeded())

    assert mixed is clips  # in place
    assert mixed.dtype == torch.uint8
    assert mixed.shape == clips.shape
    assert counts.tolist() == [8, 0, 0]
    assert torch.equal(mixed[..., 2:], before[..., 2:])  # same frame, row and column as before
    assert torch.equal(mixed[..., 0], before[..., 0])  # same class in every pixel
    for own, clip in enumerate(mixed):
        foreign = clip[..., 1] != own  # [T, H, W]
        assert (foreign == foreign[0]).all()
        patches = foreign[0].reshape(H // BLOCK, BLOCK, W // BLOCK, BLOCK).float().mean((1, 3))
        assert set(patches.unique().tolist()) <= {0.0, 1.0}  # whole patches
        assert patches.sum() == int(mask_ratio * 15)
        assert len(partner_ids(clip, own)) == (int(mask_ratio * 15) > 0)  # one partner


@pytest.mark.parametrize(("ratio", "batch"), [(0.0, 8), (0.5, 7), (0.34, 9), (1.0, 5), (0.5, 1)])
def test_floor_of_ratio_times_batch_clips_are_chosen(ratio: float, batch: int) -> None:
    clips, targets = make_clips([3] * batch)
    mixed, counts = mix(make_tam(ratio=ratio), clips.clone(), targets, seeded())
    changed = (mixed != clips).flatten(1).any(1).sum().item()
    assert changed == counts[0] == counts.sum() == math.floor(ratio * batch)


def test_never_itself_and_all_companions_equally_often() -> None:
    clips, targets = make_clips([5, 0, 5, 5, 0, 5], frames=1)
    tam, generator = make_tam(), seeded()
    drawn = torch.zeros(6, 6)
    for _ in range(600):
        mixed, counts = mix(tam, clips.clone(), targets, generator)
        assert counts.tolist() == [6, 0, 0]  # a full bank is not touched while companions are there
        for own, clip in enumerate(mixed):
            (partner,) = partner_ids(clip, own)
            drawn[own, partner] += 1
    same_class = targets[:, None] == targets
    allowed = same_class & ~torch.eye(6, dtype=torch.bool)
    expected = 600 * allowed / allowed.sum(1, keepdim=True)
    assert (drawn[~allowed] == 0).all()
    # Standard deviation of a count of 200 in 600 is 11.5: five of them either way.
    assert (drawn - expected).abs().max() < 58


def test_every_clip_is_chosen_and_every_patch_masked_equally_often() -> None:
    clips, targets = make_clips([1] * 6, frames=1)
    tam, generator = make_tam(ratio=0.5, mask_ratio=0.4), seeded()
    chosen, replaced = torch.zeros(6), torch.zeros(H, W)
    for _ in range(500):
        mixed, _ = mix(tam, clips.clone(), targets, generator)
        foreign = mixed[..., 1] != torch.arange(6)[:, None, None, None]
        chosen += foreign.flatten(1).any(1)
        replaced += foreign[:, 0].sum(0)
    assert ((chosen / 500 - 0.5).abs() < 0.12).all()  # 5 standard deviations
    assert ((replaced / 1500 - 0.4).abs() < 0.07).all()


def test_bank_serves_exactly_when_the_batch_has_no_companion() -> None:
    tam, generator = make_tam(bank=2), seeded()
    first, targets = make_clips([0, 1, 1])
    mixed, counts = mix(tam, first.clone(), targets, generator)
    assert counts.tolist() == [2, 0, 1]  # class 0: never seen before, left unmixed
    assert torch.equal(mixed[0], first[0])

    second, targets = make_clips([0, 1, 2], first_id=10)
    mixed, counts = mix(tam, second.clone(), targets, generator)
    assert counts.tolist() == [0, 2, 1]
    assert partner_ids(mixed[0], 10) == {0}
    assert partner_ids(mixed[1], 11) <= {1, 2}  # unmixed, though both were mixed in their batch
    assert torch.equal(mixed[2], second[2])


def test_bank_is_a_ring_of_the_last_clips_of_each_class() -> None:
    def partners_of(history: list[list[int]], label: int) -> set[int]:
        """Which clips (numbered over the stream) a lone clip of this class can meet."""
        tam, generator, count = make_tam(bank=3), seeded(), 0
        for labels in history:
            clips, targets = make_clips(labels, first_id=count, frames=1)
            tam(clips, targets, generator)
            count += len(labels)
        snapshot, found = tam.state_dict(), set()
        for _ in range(60):
            tam.load_state_dict(snapshot)
            clips, targets = make_clips([label], first_id=255, frames=1)
            found |= partner_ids(tam(clips, targets, generator)[0], 255)
        return found

    assert partners_of([[4, 4, 4, 4, 4, 4, 4, 4]], 4) == {5, 6, 7}  # more than the ring holds
    assert partners_of([[4, 1, 4], [1, 4, 1], [4, 1, 2]], 4) == {2, 4, 6}
    assert partners_of([[4, 1, 4], [1, 4, 1], [4, 1, 2]], 1) == {3, 5, 7}
    assert partners_of([[4, 1, 4], [1, 4, 1], [4, 1, 2]], 2) == {8}
    assert partners_of([[4, 1, 4], [1, 4, 1], [4, 1, 2]], 6) == set()
    assert partners_of([[0] * 2, [0] * 5, [0] * 4], 0) == {8, 9, 10}


def test_banked_partners_are_drawn_equally_often() -> None:
    tam, generator = make_tam(bank=4), seeded()
    clips, targets = make_clips([0] * 4, frames=1)
    tam(clips, targets, generator)
    snapshot, drawn = tam.state_dict(), torch.zeros(4)
    lone, label = make_clips([0], first_id=9, frames=1)
    for _ in range(600):
        tam.load_state_dict(snapshot)
        (partner,) = partner_ids(tam(lone.clone(), label, generator)[0], 9)
        drawn[partner] += 1
    assert ((drawn - 150).abs() < 53).all()  # 5 standard deviations


@pytest.mark.parametrize("strategy", SYSTEMS)
def test_rivals_replace_the_same_volume_in_their_own_shape(strategy: str) -> None:
    clips, targets = make_clips([2] * 12)
    mixed, counts = mix(make_tam(strategy), clips.clone(), targets, seeded())
    assert counts.tolist() == [12, 0, 0]
    assert torch.equal(mixed[..., 2:], clips[..., 2:])  # every pixel keeps its frame and place
    foreign = mixed[..., 1] != torch.arange(12)[:, None, None, None]  # [B, T, H, W]
    volume = foreign.float().mean((1, 2, 3))
    constant = (foreign == foreign[:, :1]).all(1).all(1).all(1)
    assert (constant == (strategy in ("tam", "videomix"))).all()
    if strategy in ("tam", "random"):
        assert torch.allclose(volume, torch.tensor(7 / 15))
        per_frame = foreign.float().mean((2, 3))
        assert torch.allclose(per_frame, torch.tensor(7 / 15))
    if strategy == "frame":
        whole = foreign.flatten(2)
        assert (whole.any(2) == whole.all(2)).all()
        assert (whole.all(2).sum(1) == 8).all()
    if strategy == "videomix":
        assert (volume - 7 / 15).abs().max() < 0.02
        tops = set()
        for mask in foreign[:, 0]:
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert box.all()
            assert box.sum() == mask.sum()
            tops.add((rows[0].item(), columns[0].item()))
        assert len(tops) > 6


def test_videomix_box_reaches_every_place_inside_and_extreme_ratios_work() -> None:
    def boxes(mask_ratio: float, count: int) -> Tensor:
        return draw_masks(
            "videomix",
            (count, T, H, W),
            mask_ratio=mask_ratio,
            block=BLOCK,
            generator=seeded(),
        )

    drawn = boxes(0.5, 2000)
    assert drawn.shape == (2000, 1, H, W, 1)
    tops = drawn[:, 0, :, :, 0].any(2).int().argmax(1)
    side = int(drawn[0, 0, :, :, 0].any(1).sum())
    assert sorted(tops.unique().tolist()) == list(range(H - side + 1))
    assert boxes(0.0, 3).sum() == 0
    assert boxes(1.0, 3).all()
    assert boxes(1 / 15, 3).sum() == 3 * 66  # 6 x 11 pixels, for one patch of 64


def test_none_returns_the_batch_itself_and_fills_no_bank() -> None:
    clips, targets = make_clips([0, 0, 1])
    tam, generator = make_tam("none"), seeded()
    before = generator.get_state()
    mixed, counts = mix(tam, clips, targets, generator)
    assert mixed is clips
    assert counts.tolist() == [0, 0, 0]
    assert list(tam.state_dict()) == ["seen"]
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int16])
def test_any_dtype(dtype: torch.dtype) -> None:
    clips, targets = make_clips([0, 0, 1, 1])
    expected, _ = mix(make_tam(), clips.clone(), targets, seeded())
    mixed, _ = mix(make_tam(), clips.to(dtype), targets, seeded())
    assert mixed.dtype == dtype
    assert torch.equal(mixed, expected.to(dtype))


Rings = list[list[Tensor]]


def literal_tam(
    clips: Tensor, labels: list[int], rings: Rings, seen: list[int], generator: torch.Generator
) -> Tensor:
    """Algorithm 1 patch by patch, all clips chosen, with the draws that TAM makes."""
    batch, columns, bank = len(labels), W // BLOCK, 4
    order = torch.rand(batch, generator=generator).argsort().tolist()
    scores = torch.rand(batch, batch + bank, generator=generator)
    shuffles = torch.rand(batch, 1, 15, generator=generator).argsort(-1)
    mixed = clips.clone()
    for row, score, shuffle in zip(order, scores, shuffles, strict=True):
        label = labels[row]
        others = [other for other in range(batch) if labels[other] == label and other != row]
        candidates = [(score[other], clips[other]) for other in others]
        if not others:
            candidates = [(score[batch + slot], clip) for slot, clip in enumerate(rings[label])]
        if not candidates:
            continue
        partner = max(candidates, key=lambda pair: float(pair[0]))[1]
        for frame in range(clips.shape[1]):
            for patch in (shuffle[0] < int(0.5 * 15)).nonzero()[:, 0].tolist():
                y, x = BLOCK * (patch // columns), BLOCK * (patch % columns)
                place = (frame, slice(y, y + BLOCK), slice(x, x + BLOCK))
                mixed[row][place] = partner[place]
    for clip, label in zip(clips, labels, strict=True):
        rings[label][seen[label] % bank : seen[label] % bank + 1] = [clip]
        seen[label] += 1
    return mixed


@pytest.mark.parametrize("way", [mix_in_turn, mix_at_once], ids=["in turn", "at once"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_equals_a_literal_loop_with_the_same_draws(
    way: Callable[..., None], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safe.training.tam.mix_in_turn", way)  # what runs on CPUs
    rings: Rings = [[] for _ in range(7)]
    seen, tam, generators = [0] * 7, make_tam(), (seeded(), seeded())
    total = torch.zeros(3, dtype=torch.int64)
    likely = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.06, 0.03, 0.01])
    for step in range(8):
        drawn = torch.multinomial(likely, 11, replacement=True, generator=seeded(step)).tolist()
        clips, targets = make_clips(drawn, first_id=11 * step, frames=2)
        clips = clips.to(dtype)
        expected = literal_tam(clips, drawn, rings, seen, generators[0])
        mixed, counts = mix(tam, clips.clone(), targets, generators[1])
        assert torch.equal(mixed, expected)
        total += counts
    assert (total > 0).all()  # all three cases were there
    banked = tam.state_dict()["clips"]
    for label, ring in enumerate(rings):
        assert all(torch.equal(banked[label, slot], clip) for slot, clip in enumerate(ring))


@pytest.mark.parametrize("strategy", SYSTEMS)
@pytest.mark.parametrize("channels", [3, 8])  # rows of a patch are 24 bytes or 64; a pixel 3 or 8
def test_the_way_of_a_gpu_and_that_of_a_cpu_give_the_same(
    strategy: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tams, generators = [make_tam(strategy, bank=1) for _ in range(2)], [seeded(), seeded()]
    for step in range(6):
        clips = torch.randint(256, (9, T, H, W, channels), dtype=torch.uint8)
        targets = torch.randint(7, (9,), generator=seeded(step))
        found = []
        for way, tam, generator in zip((mix_in_turn, mix_at_once), tams, generators, strict=True):
            monkeypatch.setattr("safe.training.tam.mix_in_turn", way)
            found.append(tam(clips.clone(), targets, generator))
        assert torch.equal(found[0], found[1])
        assert not torch.equal(found[0], clips)
    assert torch.equal(tams[0].state_dict()["clips"], tams[1].state_dict()["clips"])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_state_dict_continues_identically(strategy: str) -> None:
    labels = torch.randint(7, (12, 5), generator=seeded(1)).tolist()
    batches = [make_clips(row, first_id=5 * index) for index, row in enumerate(labels)]

    whole, generator = make_tam(strategy, bank=2), seeded()
    for clips, targets in batches[:6]:
        whole(clips, targets, generator)
    snapshot, draws = whole.state_dict(), generator.get_state()
    frozen = {name: tensor.clone() for name, tensor in snapshot.items()}
    expected = [mix(whole, clips.clone(), targets, generator) for clips, targets in batches[6:]]
    assert all(torch.equal(snapshot[name], frozen[name]) for name in frozen)  # a snapshot stays

    resumed, generator = make_tam(strategy, bank=2), seeded(99)
    resumed.load_state_dict(snapshot)
    generator.set_state(draws)
    banked = 0
    for (clips, targets), (mixed, counts) in zip(batches[6:], expected, strict=True):
        again, counted = mix(resumed, clips.clone(), targets, generator)
        assert torch.equal(again, mixed)
        assert torch.equal(counted, counts)
        banked += int(counts[1])
    assert banked > 0 or strategy == "none"
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor)


def test_wrong_inputs_are_refused_with_their_numbers() -> None:
    clips, targets = make_clips([0, 0])
    with pytest.raises(ValueError, match=r"40 x 24 pixels .* blocks of 7"):
        make_tam(block=7)(clips, targets, seeded())
    with pytest.raises(ValueError, match="strategy 'mixup'"):
        make_tam("mixup")
    tam = make_tam(bank=2)
    tam(clips, targets, seeded())
    with pytest.raises(ValueError, match="do not fit the banked clips"):
        tam(clips[:, :, :16].contiguous(), targets, seeded())
    with pytest.raises(ValueError, match="must be contiguous"):
        tam(clips[:, ::2], targets, seeded())
    with pytest.raises(ModelError, match="2 clips of 7 classes, this run 3 of 7"):
        make_tam(bank=3).load_state_dict(tam.state_dict())
    with pytest.raises(ModelError, match="of 7 classes, this run 4 of 5"):
        make_tam(classes=5).load_state_dict(make_tam().state_dict())


@pytest.mark.parametrize("strategy", SYSTEMS)
def test_nothing_is_read_back_from_the_device(strategy: str) -> None:
    """Tensors of the device `meta` have shapes and no values: to ask for one raises."""
    tam, generator = make_tam(strategy, ratio=0.5), seeded()
    for labels in ([0, 0, 1, 2, 2, 3], [3, 3, 4, 1, 0, 0], [5, 4, 1, 2, 0, 3]):
        clips = torch.empty(6, T, H, W, 3, dtype=torch.uint8, device="meta")
        mixed, counts = mix(tam, clips, torch.tensor(labels), generator)
        assert mixed.shape == clips.shape
        assert counts.sum() == 3
        with pytest.raises(Exception, match=r"item|nonzero|data-dependent|meta"):
            mixed.max().item()  # what the check is able to see


@pytest.mark.parametrize("strategy", SYSTEMS)
def test_what_is_done_in_place_after_tam_does_not_reach_its_bank(strategy: str) -> None:
    tams, generators = [make_tam(strategy, ratio=0.5) for _ in range(2)], [seeded(), seeded()]
    for step in range(6):
        labels = torch.randint(7, (5,), generator=seeded(step)).tolist()
        clips, targets = make_clips(labels, first_id=5 * step)
        expected, mixed = (
            tam(clips.clone(), targets, generator)
            for tam, generator in zip(tams, generators, strict=True)
        )
        assert torch.equal(mixed, expected)
        mixed.zero_()  # a transform that works in place, or the next batch in the same memory
    assert torch.equal(tams[0].state_dict()["clips"], tams[1].state_dict()["clips"])
