"""The rivals: contract, published figures, hand counts, and that they see the order of frames."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from safe.models.systems.c3d import C3D
from safe.models.systems.former_dfer import FormerDFER, Layer
from safe.models.systems.m3dfel import DMIN, M3DFEL, InstanceAttention
from safe.models.systems.resnet18_lstm import ResNet18LSTM

SYSTEMS = {"resnet18_lstm": ResNet18LSTM, "former_dfer": FormerDFER, "m3dfel": M3DFEL, "c3d": C3D}
STEPS = {"resnet18_lstm": 1, "former_dfer": 16, "m3dfel": 4, "c3d": 1}
EMBEDDING = {"resnet18_lstm": 512, "former_dfer": 512, "m3dfel": 1024, "c3d": 4096}
SIDE = 16  # pixels: the least, for speed; the full size is only counted, on the meta device


@pytest.fixture(scope="module", params=SYSTEMS)
def rival(request):
    torch.manual_seed(0)
    return request.param, SYSTEMS[request.param](classes=7, dropout=0.0)


def measure(make) -> tuple[int, int]:
    """Parameters, and multiply-adds of one clip of 16 x 112 x 112 (the counter has 2 for each)."""
    with torch.device("meta"):
        model, clips = make().eval(), torch.empty(1, 3, 16, 112, 112)
    with FlopCounterMode(display=False) as counter:
        model(clips)
    assert counter.get_total_flops() % 2 == 0
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2


@pytest.mark.parametrize("batch", [1, 3])
def test_output_and_independence_of_the_batch(rival, batch):
    name, model = rival
    model.eval()
    clips = torch.randn(batch, 3, 16, SIDE, SIDE)
    with torch.no_grad():
        logits, embedding, attention = model(clips)
        alone = model(clips[-1:]).logits
    assert logits.shape == (batch, 7)
    assert embedding.shape == (batch, EMBEDDING[name])
    assert attention.shape == (batch, STEPS[name])
    assert (attention > 0).all()
    assert torch.allclose(attention.sum(1), torch.ones(batch))
    assert torch.allclose(model.linear(embedding), logits, atol=1e-5)
    assert torch.allclose(alone, logits[-1:], atol=1e-4, rtol=1e-4)
    if batch > 1:  # else "independent of the batch" would hold for a model blind to its input
        assert not torch.allclose(logits[0], logits[1], atol=1e-3)


def test_every_parameter_gets_a_gradient(rival):
    _, model = rival
    model.train().zero_grad()
    logits = model(torch.randn(2, 3, 16, SIDE, SIDE)).logits
    F.cross_entropy(logits, torch.tensor([0, 3])).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_the_order_of_frames_is_seen(rival):
    _, model = rival
    model.eval()
    clips = torch.randn(1, 3, 16, SIDE, SIDE)
    with torch.inference_mode():
        forward, again = model(clips).logits, model(clips.clone()).logits
        assert torch.allclose(forward, again, atol=1e-6)
        assert not torch.allclose(forward, model(clips.flip(2)).logits, atol=1e-3)


def test_only_its_positions_tell_former_dfer_the_order_and_its_attention_follows_the_frames():
    torch.manual_seed(0)
    model = FormerDFER(classes=7, dropout=0.0).eval()
    with torch.no_grad():
        model.temporal.positions.zero_()
        clips = torch.randn(1, 3, 16, SIDE, SIDE)
        forward, back = model(clips), model(clips.flip(2))
    assert torch.allclose(forward.logits, back.logits, atol=1e-4)
    assert torch.allclose(forward.attention, back.attention.flip(1), atol=1e-5)
    assert forward.attention.std() > 1e-4


def test_other_numbers_of_classes():
    with torch.device("meta"):
        clips = torch.empty(1, 3, 16, SIDE, SIDE)
        for make in SYSTEMS.values():
            for classes in (2, 11):
                made = make(classes=classes, dropout=0.5).eval()
                assert made(clips).logits.shape == (1, classes)


@pytest.mark.parametrize("make", [FormerDFER, M3DFEL])
def test_another_number_of_frames_is_refused(make):
    with torch.device("meta"), pytest.raises(RuntimeError):
        make(classes=7, dropout=0.0).eval()(torch.empty(1, 3, 12, SIDE, SIDE))


def conv(inner: int, outer: int, kernel: int, positions: int) -> int:
    """Multiply-adds of a convolution by definition: one a weight and output position."""
    return inner * outer * kernel * positions


def resnet18(side: int = 112) -> int:
    """Multiply-adds of resnet18 (He et al., CVPR 2016, table 1) without its classifier, a frame."""
    total, inner = conv(3, 64, 49, (side // 2) ** 2), 64
    for stage, outer in enumerate((64, 128, 256, 512)):
        area = math.ceil(side / (4 << stage)) ** 2
        total += conv(inner, outer, 9, area) + 3 * conv(outer, outer, 9, area)
        total += conv(inner, outer, 1, area) if inner != outer else 0
        inner = outer
    return total


def r3d_18(frames: int) -> int:
    """Multiply-adds of r3d_18 without its classifier at 112 x 112.

    Where at most two steps of time go into a layer, only the taps that see a frame count.
    """
    total, inner, side = conv(3, 64, 3 * 49, frames * 56 * 56), 64, 56
    for stage, outer in enumerate((64, 128, 256, 512)):
        depth = math.ceil(frames / (1 << stage))
        before = math.ceil(frames / (1 << max(stage - 1, 0)))
        positions = depth * (side >> stage) ** 2
        first, other = 9 * min(before, 3), 9 * min(depth, 3)
        total += conv(inner, outer, first, positions) + 3 * conv(outer, outer, other, positions)
        total += conv(inner, outer, 1, positions) if inner != outer else 0
        inner = outer
    return total


def layer(tokens: int, width: int, mlp: int) -> int:
    """Multiply-adds of a transformer layer: q, k, v, out; the MLP; scores and their mixture."""
    return tokens * (4 * width * width + 2 * width * mlp) + 2 * tokens * tokens * width


def former(depth: int) -> int:
    frame = resnet18() + depth * layer(49, 256, 512)
    return 16 * frame + 3 * layer(17, 512, 1024) + 512 * 7


LSTM = 16 * 4 * 512 * (512 + 512)  # 16 steps, 4 gates
BILSTM = 4 * 2 * 4 * 512 * ((512 + 512) + (1024 + 512))  # 4 steps, 2 directions, 4 gates, 2 layers
ATTENTION = 4 * 3 * 1024 * 1024 + 2 * 4 * 4 * 1024
C3D_CONVOLUTIONS = (  # Tran et al., figure 3
    conv(3, 64, 27, 16 * 112 * 112)
    + conv(64, 128, 27, 16 * 56 * 56)
    + conv(128, 256, 27, 8 * 28 * 28)
    + conv(256, 256, 27, 8 * 28 * 28)
    + conv(256, 512, 27, 4 * 14 * 14)
    + conv(512, 512, 27, 4 * 14 * 14)
    + 2 * conv(512, 512, 27, 2 * 7 * 7)
)


@pytest.mark.parametrize(
    ("make", "hand"),
    [
        (lambda: ResNet18LSTM(classes=7, dropout=0), 16 * resnet18() + LSTM + 512 * 7),
        (lambda: FormerDFER(classes=7, dropout=0), former(1)),
        (lambda: FormerDFER(classes=7, dropout=0, spatial_depth=3), former(3)),
        (
            lambda: M3DFEL(classes=7, dropout=0),
            4 * r3d_18(4) + BILSTM + ATTENTION + 1024 * (12 + 7),
        ),
        (
            lambda: C3D(classes=7, dropout=0),
            C3D_CONVOLUTIONS + 8192 * 4096 + 4096 * 4096 + 4096 * 7,
        ),
    ],
    ids=["resnet18_lstm", "former_dfer", "former_dfer of depth 3", "m3dfel", "c3d"],
)
def test_multiply_adds_are_those_counted_by_hand(make, hand):
    # Exactly: the counter knows LSTMs and products of matrices on the meta device. Of the
    # convolution over instances the padding counts as a product, as in any convolution.
    assert measure(make)[1] == hand


def test_multiply_adds_beside_the_published_ones():
    """Published: the SAFE paper's Table I; C3D: Tran et al., arXiv 1708.05038. In G."""
    giga = {
        name: measure(lambda make=make: make(classes=7, dropout=0))[1] / 1e9
        for name, make in SYSTEMS.items()
    }
    deep = measure(lambda: FormerDFER(classes=7, dropout=0, spatial_depth=3))[1] / 1e9
    assert giga["resnet18_lstm"] == pytest.approx(7.78, rel=0.01)
    assert giga["former_dfer"] == pytest.approx(0.91 * 9.11, rel=0.01)  # the public code's depth
    assert deep == pytest.approx(9.11, rel=0.01)
    assert giga["m3dfel"] > 20 * 1.65  # which cannot be the figure of this model
    assert giga["c3d"] == pytest.approx(38.5, rel=0.01)


def test_parameters_are_those_derived_from_the_published_parts():
    resnet = 11_689_512 - 513_000  # torchvision's documentation, less the 1000-way classifier
    r3d = 33_371_472 - 205_200  # the same, less the 400-way classifier
    lstm = 4 * 512 * (512 + 512 + 2)
    bilstm = 2 * (lstm + 4 * 512 * (1024 + 512 + 2))
    spatial = 4 * 256 * 256 + 2 * 256 * 512 + 256 + 512 + 256 + 4 * 256  # biases, two LayerNorms
    temporal = 4 * 512 * 512 + 2 * 512 * 1024 + 512 + 1024 + 512 + 4 * 512
    tokens = 49 * 256 + 17 * 512 + 512
    head = 512 * 7 + 7
    expected = {
        "resnet18_lstm": resnet + lstm + head,
        "former_dfer": resnet + spatial + 3 * temporal + tokens + head,
        "m3dfel": r3d + bilstm + 3 * 1024**2 + 2 * 1024 + 4 + (4 * 3 + 1) + 1024 * 7 + 7,
        "c3d": 27_655_936 + (8192 + 1) * 4096 + (4096 + 1) * 4096 + 4096 * 7 + 7,
    }
    pairs = ((3, 64), (64, 128), (128, 256), (256, 256), (256, 512), *[(512, 512)] * 3)
    assert sum(27 * a * b + b for a, b in pairs) == 27_655_936
    assert {
        name: measure(lambda m=m: m(classes=7, dropout=0))[0] for name, m in SYSTEMS.items()
    } == expected


def test_c3ds_native_grid_needs_no_resizing():
    with torch.device("meta"):
        model = C3D(classes=7, dropout=0.0)
        assert model.features[:-2](torch.empty(1, 3, 16, 112, 112)).shape == (1, 512, 1, 4, 4)


def test_the_layer_of_former_dfer_is_torchs():
    torch.manual_seed(0)
    ours = Layer(32, heads=4, mlp=64)
    theirs = torch.nn.TransformerEncoderLayer(
        32,
        4,
        64,
        dropout=0.0,
        activation=lambda x: F.gelu(x, approximate="tanh"),
        norm_first=True,
        batch_first=True,
    )
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(ours.project.weight)
        theirs.self_attn.in_proj_bias.zero_()
    theirs.self_attn.out_proj.load_state_dict(ours.out.state_dict())
    for part, name in (("norm1", "norm_1"), ("norm2", "norm_2")):
        getattr(theirs, part).load_state_dict(getattr(ours, name).state_dict())
    theirs.linear1.load_state_dict(ours.mlp[0].state_dict())
    theirs.linear2.load_state_dict(ours.mlp[2].state_dict())
    x = torch.randn(2, 9, 32)
    assert torch.allclose(ours(x)[0], theirs(x), atol=1e-5)


def test_m3dfels_attention_is_what_each_instance_receives_and_its_gate_is_between_0_and_1():
    torch.manual_seed(0)
    ours = InstanceAttention(64)
    theirs = torch.nn.MultiheadAttention(64, 8, bias=False, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.project.weight)
        theirs.out_proj.weight.copy_(torch.eye(64))
    x = 3 * torch.randn(2, 4, 64)
    mixed, weights = theirs(x, x, x)
    gated, received = ours(x)
    assert torch.allclose(received, weights.mean(1), atol=1e-6)
    assert received.std() > 1e-3
    assert torch.allclose(gated, x * ours.norm(mixed).sigmoid(), atol=1e-5)


def test_dmin_goes_from_each_features_figures_to_the_bags():
    torch.manual_seed(0)
    norm, x = DMIN(6), 2 + 3 * torch.randn(2, 4, 6)
    one, other = torch.tensor([40.0, 0.0]), torch.tensor([0.0, 40.0])

    def shares(mean: torch.Tensor, var: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            norm.mean_shares.copy_(mean)
            norm.var_shares.copy_(var)
            return norm(x)

    by_feature = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)
    assert torch.allclose(shares(one, one), by_feature, atol=1e-4)
    for clip, got in zip(x, shares(other, other), strict=True):
        # the spread within the features, and that of their means
        var = clip.var(0).mean() + clip.mean(0).var(unbiased=False)
        assert torch.allclose(got, (clip - clip.mean()) / var.sqrt(), atol=1e-4)
    mixed = shares(torch.ones(2), one)
    mean = (x.mean(1, keepdim=True) + x.mean((1, 2), keepdim=True)) / 2
    assert torch.allclose(mixed, (x - mean) / x.std(1, keepdim=True), atol=1e-4)
