"""Is S2AM2 the cell of equations (2) to (5), an LSTM without its additions, and is STM whole?"""

import pytest
import torch
from torch import Tensor, nn

from safe.models.safe import (
    S2AM2,
    BiLSTM,
    Conv1DClassifier,
    S2AM2Cell,
    WindowAttention,
    sliding_windows,
    window_count,
)

B, N, D, SIZE = 3, 7, 10, 12


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def neutralise(model: S2AM2) -> None:
    """M = 1, w_a = 1, U_r = 0."""
    with torch.no_grad():
        for cell in (model.ahead, model.back):
            cell.mlp_weight_2.zero_()
            cell.mlp_bias_2.fill_(50.0)  # sigmoid(50) is 1 in float32 and 1 - 2e-22 in float64
            cell.w_a.fill_(1.0)
            cell.u_r.zero_()


def copy_lstm(model: S2AM2, lstm: nn.LSTM) -> None:
    with torch.no_grad():
        for cell, suffix in ((model.ahead, "l0"), (model.back, "l0_reverse")):
            cell.weight_ih.copy_(getattr(lstm, f"weight_ih_{suffix}"))
            cell.weight_hh.copy_(getattr(lstm, f"weight_hh_{suffix}"))
            cell.bias.copy_(getattr(lstm, f"bias_ih_{suffix}") + getattr(lstm, f"bias_hh_{suffix}"))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_without_its_additions_it_is_torch_lstm_in_outputs_and_gradients(
    dtype: torch.dtype, tolerance: float
) -> None:
    lstm = nn.LSTM(D, SIZE, batch_first=True, bidirectional=True).to(dtype)
    model = S2AM2(D, SIZE).to(dtype)
    copy_lstm(model, lstm)
    neutralise(model)
    ours = torch.randn(B, N, D, dtype=dtype, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    upstream = torch.randn(B, N, 2 * SIZE, dtype=dtype)

    out, expected = model(ours), lstm(theirs)[0]
    assert out.shape == (B, N, 2 * SIZE)
    torch.testing.assert_close(out, expected, atol=tolerance, rtol=0)
    out.backward(upstream)
    expected.backward(upstream)
    assert ours.grad is not None
    assert ours.grad.abs().max() > 0.01
    torch.testing.assert_close(ours.grad, theirs.grad, atol=tolerance, rtol=tolerance)
    for cell, suffix in ((model.ahead, "l0"), (model.back, "l0_reverse")):
        for name, theirs_name in (("weight_ih",) * 2, ("weight_hh",) * 2, ("bias", "bias_ih")):
            gradient = getattr(lstm, f"{theirs_name}_{suffix}").grad
            torch.testing.assert_close(
                getattr(cell, name).grad, gradient, atol=tolerance, rtol=tolerance
            )


def literal_direction(cell: S2AM2Cell, steps: list[Tensor]) -> list[Tensor]:
    """Equations (2) to (5) for one clip, number by number; steps and states are vectors."""
    size = len(cell.w_a)
    h = c = torch.zeros(size, dtype=torch.float64)
    states = []
    for x in steps:
        i, f, g, o = (cell.weight_ih @ x + cell.weight_hh @ h + cell.bias).reshape(4, size)
        hidden = torch.clamp(cell.mlp_weight_1 @ h + cell.mlp_bias_1, min=0)
        mask = 1 / (1 + torch.exp(-(cell.mlp_weight_2 @ hidden + cell.mlp_bias_2)))
        fuse = 1 / (1 + torch.exp(-(cell.w_r @ h)))
        inject = torch.clamp(cell.u_r @ h, min=0)
        new_c, new_h = torch.empty_like(c), torch.empty_like(h)
        for unit in range(size):
            candidate = torch.tanh(g[unit]) * mask[unit]  # (2)
            kept = torch.sigmoid(f[unit]) * c[unit] + torch.sigmoid(i[unit]) * candidate
            scaled = kept * cell.w_a[unit]  # (3)
            new_c[unit] = scaled + fuse[unit] * inject[unit]  # (4, 5)
            new_h[unit] = torch.sigmoid(o[unit]) * torch.tanh(new_c[unit])
        h, c = new_h, new_c
        states.append(h)
    return states


def test_equations_against_a_literal_loop() -> None:
    model = S2AM2(D, SIZE).double()
    with torch.no_grad():
        for parameter in model.parameters():  # far from the start, so that every addition counts
            parameter.copy_(torch.randn_like(parameter) * 0.7)
    x = torch.randn(B, N, D, dtype=torch.float64)
    with torch.no_grad():
        out = model(x)
        for clip in range(B):
            steps = list(x[clip])
            ahead = literal_direction(model.ahead, steps)
            back = literal_direction(model.back, steps[::-1])[::-1]
            for step in range(N):
                expected = torch.cat([ahead[step], back[step]])
                torch.testing.assert_close(out[clip, step], expected, atol=1e-12, rtol=0)


def test_start_is_near_an_lstm_and_every_weight_learns() -> None:
    model = S2AM2(D, SIZE)
    x = torch.randn(B, N, D)
    out = model(x)
    out.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0, name
    neutralise(model)
    assert (out - model(x)).abs().max() < 0.1
    # One bias or scale a vector: the usual rule "no weight decay below two axes" finds them.
    assert {name.split(".")[1] for name, p in model.named_parameters() if p.ndim == 1} == {
        "bias",
        "mlp_bias_1",
        "mlp_bias_2",
        "w_a",
    }


def test_gradients_of_the_additions() -> None:
    model = S2AM2(2, 4).double()
    with torch.no_grad():
        for parameter in model.parameters():  # at its start of 0, mlp_bias_1 is at a ReLU's kink
            parameter.copy_(torch.randn_like(parameter) * 0.7)
    x = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    names, values = zip(*model.named_parameters(), strict=True)

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *values))


@pytest.mark.parametrize("temporal", [S2AM2, BiLSTM])
def test_both_temporal_models_have_one_call(temporal: type[nn.Module]) -> None:
    model = temporal(D, SIZE)
    for batch, steps in ((1, 1), (1, 7), (4, 1), (4, 7)):
        assert model(torch.randn(batch, steps, D)).shape == (batch, steps, 2 * SIZE)
    x = torch.randn(2, N, D)
    changed = x.clone()
    changed[:, 3] += 1
    moved = (model(x) != model(changed)).any(2)[0]
    first, second = (model(x) != model(changed))[0].split(SIZE, dim=1)
    assert moved.all()
    assert first.any(1).tolist() == [False] * 3 + [True] * 4  # forward in time
    assert second.any(1).tolist() == [True] * 4 + [False] * 3  # backward in time


def test_autocast_keeps_the_state_in_float32() -> None:
    model = S2AM2(D, SIZE)
    x = torch.randn(B, N, D)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, model(x), atol=0.02, rtol=0)


@pytest.mark.parametrize(("window", "stride"), [(4, 2), (4, 1), (16, 3), (1, 1), (5, 3), (4, 20)])
def test_windows_are_a_view_of_the_slices(window: int, stride: int) -> None:
    clips = torch.randn(2, 3, 16, 5, 6)
    windows = sliding_windows(clips, window, stride)
    expected = []
    start = 0
    while start + window <= 16:
        expected.append(clips[:, :, start : start + window])
        start += stride
    assert torch.equal(windows, torch.stack(expected, 1))
    assert windows.shape[1] == window_count(16, window, stride) == len(expected)
    assert windows.data_ptr() == clips.data_ptr()
    assert windows.untyped_storage().data_ptr() == clips.untyped_storage().data_ptr()


def test_paper_has_seven_windows_and_a_longer_window_is_refused() -> None:
    assert window_count(16, 4, 2) == 7
    with pytest.raises(ValueError, match="17 frames does not fit into 16"):
        sliding_windows(torch.zeros(1, 1, 16, 2, 2), 17, 1)


def test_attention_against_a_literal_loop() -> None:
    attention = WindowAttention(12, 3).double()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    with torch.no_grad():
        features, weights = attention(x)
        projected = x @ attention.query_key.weight.T + attention.query_key.bias
        queries, keys = projected[..., :12], projected[..., 12:]
        for clip in range(2):
            received = torch.zeros(5, dtype=torch.float64)
            for head in range(3):
                part = slice(4 * head, 4 * head + 4)
                for query in range(5):
                    scores = [
                        (queries[clip, query, part] * keys[clip, key, part]).sum() / 2.0
                        for key in range(5)
                    ]
                    powers = torch.stack(scores).exp()
                    received += powers / powers.sum()
            expected = received / (3 * 5)
            torch.testing.assert_close(weights[clip], expected, atol=1e-12, rtol=0)
            for step in range(5):
                factor = (1 + 5 * expected[step]) / 2
                torch.testing.assert_close(features[clip, step], x[clip, step] * factor)


def test_attention_weights_are_a_distribution_and_uniform_attention_changes_nothing() -> None:
    attention = WindowAttention(16, 4)
    for steps in (1, 7):
        x = torch.randn(3, steps, 16)
        features, weights = attention(x * 30)
        assert features.shape == (3, steps, 16)
        assert weights.shape == (3, steps)
        assert (weights > 0).all()
        torch.testing.assert_close(weights.sum(1), torch.ones(3))
    nn.init.zeros_(attention.query_key.weight)
    features, weights = attention(x)
    torch.testing.assert_close(weights, torch.full((3, 7), 1 / 7))
    torch.testing.assert_close(features, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert attention(x)[1].dtype == torch.float32
    with pytest.raises(ValueError, match="3 heads must divide the width, 16"):
        WindowAttention(16, 3)


def test_classifier_pools_over_time_and_serves_one_clip_of_one_window() -> None:
    classifier = Conv1DClassifier(8, 7, dropout=0.9).eval()
    for batch, steps in ((1, 1), (1, 7), (5, 1), (5, 7)):
        logits, embedding = classifier(torch.randn(batch, steps, 8))
        assert logits.shape == (batch, 7)
        assert embedding.shape == (batch, classifier.embedding_size)
    x = torch.randn(2, 4, 8)
    logits, embedding = classifier(x)
    weight, bias = classifier.conv.weight, classifier.conv.bias
    padded = torch.cat([torch.zeros(2, 1, 8), x, torch.zeros(2, 1, 8)], 1)
    steps_out = [
        torch.relu(sum(padded[:, step + tap] @ weight[:, :, tap].T for tap in range(3)) + bias)
        for step in range(4)
    ]
    torch.testing.assert_close(embedding, sum(steps_out) / 4)
    torch.testing.assert_close(logits, classifier.linear(embedding))
    classifier.train()
    assert not torch.equal(classifier(x)[0], logits)  # dropout is on, yet logits still come out
    torch.testing.assert_close(classifier(x)[1], embedding)  # and not in the embedding
