"""SAFE as a whole: shapes, one clip, and what the baseline differs in."""

import pytest
import torch

from safe.models.safe import SAFE


def build(**changes) -> SAFE:
    torch.manual_seed(0)
    settings = {
        "classes": 7,
        "backbone": "small",
        "weights": None,
        "temporal": "s2am2",
        "window": 4,
        "stride": 2,
        "hidden": 16,
        "dropout": 0.2,
    }
    return SAFE(**(settings | changes))


@pytest.mark.parametrize("temporal", ["s2am2", "bilstm"])
@pytest.mark.parametrize(("window", "stride", "windows"), [(4, 2, 7), (16, 1, 1), (5, 3, 4)])
@pytest.mark.parametrize("batch", [1, 3])
def test_shapes(temporal, window, stride, windows, batch):
    model = build(temporal=temporal, window=window, stride=stride).eval()
    output = model(torch.randn(batch, 3, 16, 32, 32))
    assert output.logits.shape == (batch, 7)
    assert output.attention.shape == (batch, windows)
    assert output.embedding.shape == (batch, 16)
    assert torch.allclose(output.attention.sum(1), torch.ones(batch))


@pytest.mark.parametrize("classes", [2, 11, 100])
def test_as_many_logits_as_classes(classes):
    clips = torch.randn(1, 3, 16, 32, 32)
    assert build(classes=classes).eval()(clips).logits.shape == (1, classes)


def test_a_clip_gets_the_same_logits_alone_and_in_a_batch():
    model = build().eval()
    clips = torch.randn(3, 3, 16, 32, 32)
    together = model(clips).logits
    alone = torch.cat([model(clip[None]).logits for clip in clips])
    assert torch.allclose(together, alone, atol=1e-5)


def test_windows_reach_the_backbone_in_their_order():
    """The features of window n are those of frames 2n to 2n + 3, cut by hand."""
    model = build().eval()
    clips = torch.randn(2, 3, 16, 32, 32)
    seen = []
    model.backbone.register_forward_hook(lambda _, __, out: seen.append(out))
    model(clips)
    expected = torch.stack([model.backbone(clips[:, :, 2 * n : 2 * n + 4]) for n in range(7)], 1)
    assert torch.allclose(seen[0].unflatten(0, (2, 7)), expected, atol=1e-5)


def test_the_baselines_attention_is_uniform_and_every_parameter_of_safe_learns():
    baseline = build(temporal="bilstm").eval()
    assert torch.allclose(baseline(torch.randn(2, 3, 16, 32, 32)).attention, torch.tensor(1 / 7))
    model = build()
    output = model(torch.randn(2, 3, 16, 32, 32))
    (output.logits.square().sum() + output.embedding.square().sum()).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


@pytest.mark.slow
def test_the_full_model_takes_one_step():
    model = build(backbone="r3d_18", hidden=512, stride=12)  # two windows
    output = model(torch.randn(1, 3, 16, 112, 112))
    assert output.logits.shape == (1, 7)
    output.logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
