"""Winograd's filtering in time: the values and gradients of torch's own convolution."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from safe.networks import winograd
from safe.networks.winograd import convolve, gains


def run(way, x, weight, bias, upstream):
    """Return the output of one way and the gradients of those that want one."""
    leaves = [
        None if each is None else each.detach().requires_grad_() for each in (x, weight, bias)
    ]
    output = way(*leaves)
    output.backward(upstream)
    return [output.detach(), *(leaf.grad for leaf in leaves if leaf is not None)]


def direct(x, weight, bias):
    return F.conv3d(x, weight, bias, padding=1)


def drawn(batch, channels, outputs, depth, height, width, dtype=torch.float64):
    generator = torch.Generator().manual_seed(batch + 10 * channels)
    shapes = (batch, channels, depth, height, width), (outputs, channels, 3, 3, 3), (outputs,)
    shapes = *shapes, (batch, outputs, depth, height, width)
    return [torch.randn(shape, dtype=dtype, generator=generator) for shape in shapes]


size = st.integers(1, 5)


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(size, size, size, st.sampled_from([2, 4]), size, size),
    biased=st.booleans(),
    formats=st.lists(
        st.sampled_from([torch.contiguous_format, torch.channels_last_3d]), min_size=3, max_size=3
    ),
    cached=st.sampled_from([1, 1000, 1 << 20]),
)
def test_values_and_gradients_are_those_of_conv3d(shape, biased, formats, cached):
    x, weight, bias, upstream = drawn(*shape)
    x, weight, upstream = (
        each.contiguous(memory_format=memory_format)
        for each, memory_format in zip((x, weight, upstream), formats, strict=True)
    )
    bias = bias if biased else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "_CACHED", cached)  # bytes: one clip a part, some, all
        got = run(convolve, x, weight, bias, upstream)
    for mine, theirs in zip(got, run(direct, x, weight, bias, upstream), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
    assert got[0].is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_wants_no_gradient_gets_none(frozen):
    x, weight, bias, upstream = drawn(2, 3, 4, 4, 5, 6)
    leaves = [each.requires_grad_(k != frozen) for k, each in enumerate((x, weight, bias))]
    convolve(*leaves).backward(upstream)
    expected = run(direct, x, weight, bias, upstream)[1:]
    for k, leaf in enumerate(leaves):
        if k == frozen:
            assert leaf.grad is None
        else:
            torch.testing.assert_close(leaf.grad, expected[k])


@pytest.mark.parametrize(("depth", "bounds"), [(2, (1e-6, 1e-6)), (4, (3e-6, 8e-6))])
def test_float32_rounds_little_more_than_a_direct_convolution(depth, bounds):
    x, weight, bias, upstream = drawn(2, 64, 64, depth, 14, 14)
    exact = run(direct, x, weight, bias, upstream)[:3]
    single = [each.float() for each in (x, weight, bias, upstream)]
    errors = [
        ((mine - right).norm() / right.norm()).item()
        for mine, right in zip(run(convolve, *single)[:3], exact, strict=True)
    ]
    of_values, of_weights = bounds
    assert max(errors[:2]) < of_values
    assert errors[2] < of_weights


def test_it_is_for_few_large_frames_in_full_precision_on_a_cpu():
    x = torch.zeros(2, 2, 4, 16, 16)
    assert gains(x)
    assert not gains(x[:1])  # too little to gain
    assert gains(x[:, :, :2])
    assert not any(gains(x[:, :, :depth]) for depth in (1, 3))
    assert not gains(x.bfloat16())
    assert not gains(x.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not gains(x)


def test_an_exported_model_has_the_convolution_itself():
    class Layer(torch.nn.Module):
        def forward(self, x, weight):
            return convolve(x, weight, None) if gains(x) else direct(x, weight, None)

    x, weight, *_ = drawn(2, 2, 2, 4, 16, 16)
    assert gains(x)
    called = {str(node.target) for node in torch.export.export(Layer(), (x, weight)).graph.nodes}
    assert "aten.conv3d.default" in called


class _Asks(torch.nn.Module):
    """Takes the way that `gains` says, as the blocks of r3d_18 do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if gains(x) else x


def test_an_export_is_not_bound_to_batches_of_some_size() -> None:
    """8 pixels a frame and 512 at the least: by its size a batch of 64 would go another way."""
    batch = torch.export.Dim("batch", min=1, max=1024)
    exported = torch.export.export(
        _Asks(), (torch.zeros(2, 3, 4, 2, 4),), dynamic_shapes=({0: batch},)
    ).module()
    for size in (1, 63, 64, 200):
        x = torch.ones(size, 3, 4, 2, 4)
        torch.testing.assert_close(exported(x), x)
