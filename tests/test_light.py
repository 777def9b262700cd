"""The light backbone: X3D-S by its published figures, and SAFE within the paper's 2.94 G."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from safe.models.backbones import BACKBONES, Light, SqueezeExcitation
from safe.models.safe import SAFE


def multiply_adds(make, *shape: int) -> int:
    with torch.device("meta"):
        model, x = make().eval(), torch.empty(1, 3, *shape)
    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() // 2


def test_safe_with_it_stays_within_the_papers_cost(monkeypatch):
    monkeypatch.setitem(BACKBONES, "light", Light)
    settings = {"weights": None, "window": 4, "stride": 2, "hidden": 512, "dropout": 0.2}
    total = multiply_adds(
        lambda: SAFE(classes=7, backbone="light", temporal="s2am2", **settings), 16, 112, 112
    )
    windows = 7 * multiply_adds(Light, 4, 112, 112)
    assert 2.0e9 < total <= 2.94e9
    # What comes on top: S2AM2 in two directions, the gate's MLP, attention, classifier; by hand.
    # The first step has h = 0, and no product with it.
    step, of_h = (2 * 512 * each for each in (4 * 432 + 128, 4 * 512 + 2 * 512 + 128))
    rest = 7 * (step + 2 * 1024 * 1024 + 3 * 1024 * 512 + 7 * 1024) + 6 * of_h + 512 * 7
    assert total == windows + rest


@pytest.mark.parametrize(("frames", "published"), [(13, 1.96e9), (4, 0.60e9)], ids=["S", "XS"])
def test_multiply_adds_are_x3ds(frames, published):
    """X3D-S and X3D-XS at 160 x 160: Feichtenhofer, CVPR 2020. Their head is 0.0017 G."""
    head = 432 * 2048 + 2048 * 400
    assert multiply_adds(Light, frames, 160, 160) + head == pytest.approx(published, rel=0.01)


def test_parameters_are_x3ds():
    """X3D-S with its 400-way head: 3.76 M, ibid."""
    head = 432 * 2048 + 2048 * 400 + 400
    total = sum(p.numel() for p in Light().parameters()) + head
    assert total == pytest.approx(3.76e6, rel=0.01)


@pytest.mark.parametrize("shape", [(1, 3, 1, 16, 16), (3, 3, 4, 32, 48), (1, 3, 16, 17, 31)])
def test_any_window_becomes_one_vector(shape):
    torch.manual_seed(0)
    model, windows = Light().eval(), torch.randn(shape)
    with torch.inference_mode():
        features = model(windows)
        alone = model(windows[-1:])
    assert features.shape == (shape[0], Light.features)
    assert features.std() > 1e-3
    assert torch.allclose(alone, features[-1:], atol=1e-5)


def test_every_parameter_gets_the_gradient_that_float64_gives():
    torch.manual_seed(0)
    model, windows = Light().eval(), torch.randn(2, 3, 4, 32, 32)
    probe = torch.linspace(-1, 1, Light.features, dtype=torch.float64)

    def gradients(dtype: torch.dtype, layout: torch.memory_format) -> list[torch.Tensor]:
        model.zero_grad()
        model.to(dtype=dtype).to(memory_format=layout)
        (model(windows.to(dtype)) * probe.to(dtype)).sum().backward()
        return [p.grad.double().flatten() for p in model.parameters()]

    exact = torch.cat(gradients(torch.float64, torch.contiguous_format))
    parts = gradients(torch.float32, torch.channels_last_3d)
    still = [name for name, p in model.named_parameters() if not p.grad.any()]
    assert not still
    got = torch.cat(parts)
    assert (got - exact).norm() / exact.norm() < 1e-4


def test_the_order_of_frames_is_seen():
    torch.manual_seed(0)
    model, windows = Light().eval(), torch.randn(1, 3, 4, 32, 32)
    with torch.inference_mode():
        assert not torch.allclose(model(windows), model(windows.flip(2)), atol=1e-4)


def test_excitation_weighs_channels_by_the_whole_window():
    torch.manual_seed(0)
    layer, x = SqueezeExcitation(24), torch.randn(2, 24, 3, 5, 5)
    factors = layer(x) / x
    assert torch.allclose(factors, factors[:, :, :1, :1, :1].expand_as(x), atol=1e-4)
    assert ((factors > 0) & (factors < 1)).all()
    assert factors[0].std() > 1e-3
