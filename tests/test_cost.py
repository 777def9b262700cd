"""Cost: are the published figures found, is nothing taken for free, and is the model left alone?"""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.video import R3D_18_Weights, r3d_18

from safe.evaluation.cost import REST, count, measure
from safe.models.backbones import build_backbone
from safe.models.r3d import R3D18
from safe.models.safe import SAFE

HIDDEN, FEATURES, WINDOWS = 512, 512, 7
CPU = torch.device("cpu")


def build(temporal: str) -> SAFE:
    return SAFE(
        classes=7,
        backbone="r3d_18",
        weights=None,
        temporal=temporal,
        window=4,
        stride=2,
        hidden=HIDDEN,
        dropout=0.0,
    )


def tiny() -> SAFE:
    return SAFE(
        classes=7,
        backbone="small",
        weights=None,
        temporal="bilstm",
        window=4,
        stride=2,
        hidden=8,
        dropout=0.1,
    )


def test_r3d_18_costs_what_torchvision_publishes():
    published = R3D_18_Weights.KINETICS400_V1.meta
    with torch.device("meta"):
        model = r3d_18()
    cost = count(model)
    assert cost.parameters == published["num_params"]
    assert cost.multiply_adds == pytest.approx(published["_ops"] * 1e9, rel=1e-4)
    assert cost.multiply_adds == pytest.approx(40.7e9, rel=0.01)


def test_one_pass_of_the_backbone_is_40_0_g_without_the_sums_over_padding():
    assert count(build_backbone("r3d_18")).multiply_adds == pytest.approx(40.0e9, rel=0.001)


def lstm_step(inputs: int) -> int:
    return 4 * HIDDEN * (inputs + HIDDEN)


# The sizes of the paper by hand: two directions, seven windows.
TEMPORAL = {
    "bilstm": 2 * WINDOWS * lstm_step(FEATURES),
    # besides the LSTM: an MLP hidden -> hidden / 4 -> hidden, W_r and U_r; the first step has h = 0
    # and no product with it
    "s2am2": 2 * WINDOWS * (lstm_step(FEATURES) + 2 * HIDDEN * HIDDEN // 4 + 2 * HIDDEN * HIDDEN)
    - 2 * (4 * HIDDEN * HIDDEN + HIDDEN * HIDDEN // 4 + 2 * HIDDEN * HIDDEN),
}
WIDTH = 2 * HIDDEN
ATTENTION = WINDOWS * WIDTH * 2 * WIDTH + WINDOWS * WINDOWS * WIDTH  # queries and keys, then Q K^T
CLASSIFIER = WINDOWS * 3 * WIDTH * WIDTH // 2 + WIDTH // 2 * 7


def test_with_the_sums_over_padding_seven_windows_are_75_5_g():
    model = build("s2am2")
    with torch.device("meta"):
        model.backbone = R3D18(padded=True)
    assert count(model).multiply_adds == pytest.approx(75.5e9, rel=0.01)


@pytest.mark.parametrize("temporal", ["s2am2", "bilstm"])
def test_seven_windows_are_59_7_g_and_every_part_is_as_by_hand(temporal):
    model = build(temporal)
    cost = count(model)
    assert cost.multiply_adds == pytest.approx(59.75e9, rel=0.001)
    window = count(build_backbone("r3d_18"), clip=(3, 4, 112, 112)).multiply_adds
    expected = {
        "backbone": WINDOWS * window,
        "temporal": TEMPORAL[temporal],
        "attention": ATTENTION,
        "classifier": CLASSIFIER,
    }
    if temporal == "bilstm":
        del expected["attention"]
    assert {name: part.multiply_adds for name, part in cost.parts.items()} == expected
    for name, part in cost.parts.items():
        assert part.parameters == sum(p.numel() for p in getattr(model, name).parameters())
    assert sum(part.parameters for part in cost.parts.values()) == cost.parameters
    assert sum(part.multiply_adds for part in cost.parts.values()) == cost.multiply_adds


class First(nn.Module):
    """The clip's pixels as a sequence [B, 5, 24] for `inner`."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, clips: Tensor) -> Tensor:
        x = clips.flatten(2).unflatten(2, (5, -1)).movedim(1, 2).flatten(2)
        return (
            self.inner(x, x, x)[0]
            if isinstance(self.inner, nn.MultiheadAttention)
            else (self.inner(x))
        )


STEPS, WIDE = 5, 24
PROJECTIONS = 4 * STEPS * WIDE * WIDE
MIXING = 2 * STEPS * STEPS * WIDE


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        (nn.LSTM(WIDE, 30, batch_first=True), STEPS * 4 * 30 * (WIDE + 30)),
        (
            nn.LSTM(WIDE, 30, num_layers=2, batch_first=True, bidirectional=True),
            2 * STEPS * 4 * 30 * (WIDE + 30) + 2 * STEPS * 4 * 30 * (60 + 30),
        ),
        (nn.GRU(WIDE, 30, batch_first=True), STEPS * 3 * 30 * (WIDE + 30)),
        (nn.MultiheadAttention(WIDE, 4, batch_first=True), PROJECTIONS + MIXING),
        (
            nn.TransformerEncoderLayer(WIDE, 4, 50, batch_first=True),
            PROJECTIONS + MIXING + 2 * STEPS * WIDE * 50,
        ),
    ],
    ids=["lstm", "two bidirectional layers", "gru", "attention", "transformer"],
)
def test_layers_that_a_cpu_runs_as_one_call_are_not_free(inner, expected):
    assert count(First(inner), clip=(3, 5, 2, 4)).multiply_adds == expected


class Sharing(nn.Module):
    """A weight of its own, a product of its own, and two children with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8, 6))
        self.a, self.b = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.b.weight = self.a.weight

    def forward(self, clips: Tensor) -> Tensor:
        return self.b(self.a(clips.flatten(1))) @ self.scale


def test_parts_sum_to_the_whole_also_with_shared_and_own_weights():
    cost = count(Sharing(), clip=(1, 2, 2, 2))
    assert (cost.parameters, cost.multiply_adds) == (64 + 48, 64 + 64 + 48)
    assert cost.parts == {"a": (64, 64), "b": (0, 64), REST: (48, 48)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_model_stays_as_it_was(dtype):
    model = tiny().to(dtype).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tensors = [id(p) for p in model.parameters()]
    cost = count(model, clip=(3, 8, 32, 32))
    measure(model, device=CPU, clip=(3, 8, 32, 32), batches=(2,), repeats=1)
    assert cost == count(tiny().eval(), clip=(3, 8, 32, 32))
    assert model.training
    assert [id(p) for p in model.parameters()] == tensors
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name]), name


def test_a_clip_shorter_than_the_window_is_refused():
    with pytest.raises(ValueError, match="a window of 4 frames does not fit into 3 frames"):
        count(tiny(), clip=(3, 3, 32, 32))


class Known(nn.Module):
    """Takes as long as told, by `clock`, and holds a known number of bytes while it runs."""

    def __init__(self, *, pauses: tuple[float, ...] = (0.0,), megabytes: int = 0) -> None:
        super().__init__()
        self.pauses, self.megabytes = pauses, megabytes
        self.clock = 0.0
        self.seen: list[tuple[int, ...]] = []

    def __deepcopy__(self, memo: dict[int, object]) -> "Known":
        return self

    def forward(self, clips: Tensor) -> None:
        assert torch.is_inference_mode_enabled()
        assert clips.dtype == torch.float32
        self.clock += self.pauses[len(self.seen) % len(self.pauses)]
        self.seen.append(tuple(clips.shape))
        _ = [torch.ones(250_000) for _ in range(self.megabytes)]


def test_latency_is_the_median_after_warm_up_divided_by_the_batch(monkeypatch):
    # the warm-up would move the median, and the mean is not the median
    model = Known(pauses=(9.0, 9.0, 0.04, 0.02, 0.6))
    monkeypatch.setattr("safe.evaluation.cost.time.perf_counter", lambda: model.clock)
    speed = measure(model, device=CPU, clip=(3, 2, 8, 8), batches=(4, 1), repeats=3)
    assert model.seen == [(1, 3, 2, 8, 8)] * 5 + [(4, 3, 2, 8, 8)] * 5
    assert speed.latency_ms == pytest.approx({1: 40.0, 4: 10.0})


def test_peak_memory_on_a_cpu_is_that_of_the_pass_whatever_came_before():
    blocks = [torch.ones(250_000) for _ in range(500)]
    del blocks[:-1]  # the last one keeps glibc from giving the others back by itself
    for megabytes in (300, 100):  # the second peak is below the first one
        speed = measure(Known(megabytes=megabytes), device=CPU, clip=(3, 2, 8, 8), batches=(1,))
        found = speed.peak_bytes[1]
        if found is None:
            pytest.skip("this system does not tell the peak resident set")
        assert found == pytest.approx(megabytes * 1e6, abs=30e6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_peak_memory_on_a_gpu_holds_the_weights_and_grows_with_the_batch():
    speed = measure(tiny(), device=torch.device("cuda"), clip=(3, 16, 64, 64), batches=(1, 8))
    weights = sum(p.numel() * 4 for p in tiny().parameters())
    clip = 3 * 16 * 64 * 64 * 4
    assert weights + clip < speed.peak_bytes[1]
    assert speed.peak_bytes[1] + 7 * clip < speed.peak_bytes[8]
    assert speed.device == torch.cuda.get_device_name()


@pytest.mark.parametrize(("batches", "repeats"), [((), 1), ((0,), 1), ((1,), 0)])
def test_numbers_below_one_are_refused(batches, repeats):
    with pytest.raises(ValueError, match="from 1 up"):
        measure(tiny(), device=CPU, batches=batches, repeats=repeats)
