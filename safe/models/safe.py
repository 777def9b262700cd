"""SAFE, from pixels to logits: windows, backbone, S2AM2, attention over the windows, classifier.

Shapes: B clips, T frames, C channels, H W pixels, N windows, K classes, D features.
"""

import math
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safe.models.backbones import build_backbone

HEADS: Final = 4
"""Heads of the attention over windows."""

GATE_BIAS: Final = 2.0
"""Initial bias of the sparse gate: M starts near sigmoid(2) = 0.88, mostly open yet not saturated
(its slope is 0.1): training starts close to an LSTM and can close the gate where that helps."""

RESIDUAL_SCALE: Final = 0.1
"""Initial size of W_r and U_r against the other weights: the residual path starts small. It must
not start at 0, where the ReLU of (5) would pass no gradient to U_r for ever."""


class Output(NamedTuple):
    """What one forward pass gives, in training and in evaluation alike."""

    logits: Tensor  # [B, K]
    embedding: Tensor  # [B, D], what FCL and t-SNE use
    attention: Tensor  # [B, N], the weight of each window, sums to 1


class SAFE(nn.Module):
    """A backbone over sliding windows, S2AM2 and attention, Conv1D classifier.

    With `temporal="bilstm"` it is the paper's baseline (Sec. IV-C): a BiLSTM, no attention, and the
    attention that it reports is uniform.
    """

    def __init__(
        self,
        *,
        classes: int,
        backbone: str,
        weights: str | None,
        temporal: str,
        window: int,
        stride: int,
        hidden: int,
        dropout: float,
        **own: Any,
    ) -> None:
        """Make the network from the parameters of `model`; `own` are those of the backbone alone.

        Raises:
            ModelError: if the weights cannot be loaded into the backbone.
        """
        super().__init__()
        self.window, self.stride = window, stride
        # channels_last_3d: a quarter to a half faster on CPUs. The same sums, but torch's BatchNorm
        # adds them up in float32 there, in float64 otherwise: gradients differ by 0.4 %.
        built = build_backbone(backbone, weights, **own)
        self.backbone = built.to(memory_format=torch.channels_last_3d)
        width = 2 * hidden
        self.temporal: nn.Module
        self.attention: WindowAttention | None
        if temporal == "s2am2":
            self.temporal = S2AM2(self.backbone.features, hidden)
            self.attention = WindowAttention(width, HEADS)
        else:
            self.temporal = BiLSTM(self.backbone.features, hidden)
            self.attention = None
        self.classifier = Conv1DClassifier(width, classes, dropout)

    def forward(self, clips: Tensor) -> Output:
        """Map normalised clips [B, C, T, H, W] to logits, embedding and attention."""
        windows = sliding_windows(clips, self.window, self.stride)  # [B, N, C, T_w, H, W], a view
        batch, steps = windows.shape[:2]
        frames = windows.movedim(2, -1).flatten(0, 1).movedim(-1, 1)  # channels_last_3d, one copy
        features = self.backbone(frames).unflatten(0, (batch, steps))  # [B, N, F]
        sequence = self.temporal(features)  # [B, N, D]
        if self.attention is None:
            weights = sequence.new_full((batch, steps), 1 / steps)
        else:
            sequence, weights = self.attention(sequence)
        logits, embedding = self.classifier(sequence)
        return Output(logits, embedding, weights)


def window_count(frames: int, window: int, stride: int) -> int:
    """Return N = floor((T - T_w) / T_s) + 1, equation (1). Raises ValueError if T_w > T."""
    if window > frames:
        raise ValueError(f"a window of {window} frames does not fit into {frames} frames")
    return (frames - window) // stride + 1


def sliding_windows(clips: Tensor, window: int, stride: int) -> Tensor:
    """Cut clips [B, C, T, H, W] into windows [B, N, C, T_w, H, W]: a view, equation (1).

    Raises:
        ValueError: if the window is longer than the clips.
    """
    window_count(clips.shape[2], window, stride)
    return clips.unfold(2, window, stride).permute(0, 2, 1, 5, 3, 4)


class S2AM2Cell(nn.Module):
    """The weights of S2AM2 in one direction of time; S2AM2 does the computing.

    weight_ih [4 hidden, D], weight_hh [4 hidden, hidden] and bias [4 hidden] are those of
    torch.nn.LSTM, gates in its order i, f, g, o; its two biases are one here, their sum.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        squeezed = max(1, hidden_size // 4)
        bound = 1 / math.sqrt(hidden_size)  # torch.nn.LSTM's own initialisation

        def uniform(*shape: int, scale: float = 1.0) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-bound * scale, bound * scale))

        self.weight_ih = uniform(4 * hidden_size, input_size)
        self.weight_hh = uniform(4 * hidden_size, hidden_size)
        self.bias = uniform(4 * hidden_size)
        self.mlp_weight_1 = uniform(squeezed, hidden_size)
        self.mlp_bias_1 = nn.Parameter(torch.zeros(squeezed))
        self.mlp_weight_2 = uniform(hidden_size, squeezed)
        self.mlp_bias_2 = nn.Parameter(torch.full((hidden_size,), GATE_BIAS))
        self.w_a = nn.Parameter(torch.ones(hidden_size))
        self.w_r = uniform(hidden_size, hidden_size, scale=RESIDUAL_SCALE)
        self.u_r = uniform(hidden_size, hidden_size, scale=RESIDUAL_SCALE)

    def recurrent(self) -> Tensor:
        """All that multiplies h_{t-1}, [4 hidden + hidden // 4 + 2 hidden, hidden]."""
        return torch.cat([self.weight_hh, self.mlp_weight_1, self.w_r, self.u_r])


class S2AM2(nn.Module):
    """Sequential Sparse Attention Modeling, equations (2) to (5): an LSTM with three additions.

        i, f, o = sigmoid(W x_t + U h_{t-1} + b),  c~_t = tanh(W x_t + U h_{t-1} + b)
        M_t = sigmoid(MLP(h_{t-1})),  c~_t <- c~_t * M_t                        (2) sparse gate
        c_t = (f_t * c_{t-1} + i_t * c~_t) * w_a                                (3) scaling
        c_t <- c_t + sigmoid(W_r h_{t-1}) * relu(U_r h_{t-1})                   (4, 5) residual
        h_t = o_t * tanh(c_t)

    MLP is two layers with a ReLU between, hidden // 4 wide: its second layer is the only product of
    a step that cannot join the one with h_{t-1}, so it is kept small. w_a is a learned vector, 1 at
    the start. With M = 1, w_a = 1 and U_r = 0 this is torch.nn.LSTM. Both directions of time, each
    with its own weights, go through one loop as a batch of two.

    It maps [B, N, D] to [B, N, 2 hidden]; the first half was read forward, the second backward.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.ahead = S2AM2Cell(input_size, hidden_size)
        self.back = S2AM2Cell(input_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Read x [B, N, D] in both directions of time and return h [B, N, 2 hidden].

        Under autocast the products are in the lower precision, the state c stays in the weights'.
        """
        cells, size = (self.ahead, self.back), self.hidden_size

        def both(name: str) -> Tensor:  # of a vector, so that it meets [2, B, size]
            return torch.stack([getattr(cell, name) for cell in cells])[:, None]

        recurrent = torch.stack([cell.recurrent() for cell in cells]).mT  # [2, hidden, all]
        mlp_weight_2 = torch.stack([cell.mlp_weight_2.T for cell in cells])
        mlp_bias_1, mlp_bias_2, w_a = both("mlp_bias_1"), both("mlp_bias_2"), both("w_a")
        from_x = self._project(x)
        sizes = [4 * size, mlp_bias_1.shape[2], size, size]
        c = w_a.new_zeros(2, from_x.shape[2], size)
        from_h = w_a.new_zeros(2, from_x.shape[2], sum(sizes))  # of h = 0, without a product
        states: list[Tensor] = []
        for step in from_x.unbind(1):
            if states:
                from_h = torch.bmm(states[-1], recurrent)
            gates, hidden, r, u = torch.split(from_h, sizes, dim=2)
            i, f, g, o = (step + gates).chunk(4, dim=2)
            m = (torch.bmm((hidden + mlp_bias_1).relu(), mlp_weight_2) + mlp_bias_2).sigmoid()
            candidate = g.tanh() * m  # (2)
            c = (f.sigmoid() * c + i.sigmoid() * candidate) * w_a  # (3)
            c = c + r.sigmoid() * u.relu()  # (4, 5)
            states.append(o.sigmoid() * c.tanh())
        ahead, back = torch.stack(states, dim=2)  # [2, B, N, hidden]
        return torch.cat([ahead, back.flip(1)], dim=2)

    def _project(self, x: Tensor) -> Tensor:
        """W x + b of all steps in reading order, a product a direction: [2, N, B, 4 hidden]."""
        ahead = F.linear(x, self.ahead.weight_ih, self.ahead.bias)
        back = F.linear(x.flip(1), self.back.weight_ih, self.back.bias)
        return torch.stack([ahead, back]).transpose(1, 2)


class BiLSTM(nn.Module):
    """The paper's baseline in the place of S2AM2: [B, N, D] -> [B, N, 2 hidden]."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size, hidden_size, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        """Read x [B, N, D] in both directions of time and return h [B, N, 2 hidden]."""
        states: Tensor = self.lstm(x)[0]
        return states


class WindowAttention(nn.Module):
    """Lightweight self-attention over the windows that re-weights each of them.

        A = softmax(Q K^T / sqrt(d))  per head, over the keys
        w_n = mean of A[:, n] over heads and queries        the attention that window n receives
        y_n = x_n * (1 + N w_n) / 2

    To re-weight a step is to scale it: so there are no values and no output layer, steps do not
    mix, and w is all that the layer does to a window, an honest account of which ones mattered. The
    factors average 1; the residual half keeps a gradient for a window that is ignored at first.
    """

    def __init__(self, width: int, heads: int) -> None:
        """Set the sizes. Raises ValueError if heads does not divide width."""
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads must divide the width, {width}")
        self.heads = heads
        self.query_key = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the re-weighted x, [B, N, D], and the weights, [B, N], positive, of sum 1."""
        steps = x.shape[1]
        queries_keys = self.query_key(x).unflatten(2, (2, self.heads, -1))  # [B, N, 2, heads, d]
        query, key = queries_keys.permute(2, 0, 3, 1, 4)
        scores = query @ key.mT / math.sqrt(query.shape[-1])  # [B, heads, N queries, N keys]
        weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        weights = weights.mean((1, 2))
        return x * ((1 + steps * weights) / 2)[:, :, None], weights


class Conv1DClassifier(nn.Module):
    """The paper's Conv1D classifier: convolution over time, mean over the windows, a linear layer.

    [B, N, D] -> logits [B, K] and the embedding [B, D // 2] that FCL compares. The mean is
    unweighted: the windows come weighted from WindowAttention.
    """

    def __init__(self, width: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.embedding_size = max(1, width // 2)
        self.conv = nn.Conv1d(width, self.embedding_size, kernel_size=3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(self.embedding_size, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, K] and the embedding [B, D // 2], non-negative, of x [B, N, D]."""
        embedding = self.conv(x.mT).relu().mean(2)
        return self.linear(self.dropout(embedding)), embedding
