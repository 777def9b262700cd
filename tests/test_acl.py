"""Are the losses equations (6) to (10), stable, and can alpha never collapse?"""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from safe.training.losses import ACL, cal, feature_contrast

COUNTS = torch.tensor([1956, 1515, 2135, 1738, 1175, 116, 721])  # DFEW fd1, training split
K = len(COUNTS)


def make_acl(counts: Tensor = COUNTS, **changes: float) -> ACL:
    settings = {"cal": True, "fcl": True, "top_k": 1, "tau": 0.1, "lambda_1": 0.05} | changes
    return ACL(counts, **({"lambda_2": 0.001} | settings))  # type: ignore[arg-type]


def draw(
    batch: int = 9, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [B, K], embedding [B, 6], labels [B]."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(batch, K, generator=generator, dtype=dtype)
    embedding = torch.randn(batch, 6, generator=generator, dtype=dtype)
    return logits, embedding, torch.randint(K, (batch,), generator=generator)


def literal_cal(logits: list[float], label: int, top_k: int) -> float:
    others = sorted((v for c, v in enumerate(logits) if c != label), reverse=True)[:top_k]
    true = math.exp(logits[label])
    return -math.log(true / (true + sum(math.exp(v) for v in others)))


def literal_contrast(embedding: Tensor, labels: list[int], tau: float) -> float:
    total = 0.0
    z = [row / row.norm() for row in embedding]
    batch = len(labels)
    for i in range(batch):
        positives = [j for j in range(batch) if j != i and labels[j] == labels[i]]
        below = sum(math.exp(float(z[i] @ z[k]) / tau) for k in range(batch) if k != i)
        for j in positives:
            total += math.log(math.exp(float(z[i] @ z[j]) / tau) / below) / len(positives)
    return -total / batch


@pytest.mark.parametrize("top_k", [1, 2, 3, 6])
def test_cal_against_a_literal_loop(top_k: int) -> None:
    logits, _, labels = draw(batch=40)
    expected = [
        literal_cal(row, label, top_k)
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    found = cal(logits, labels, top_k)
    torch.testing.assert_close(found, torch.tensor(expected).double(), atol=1e-6, rtol=1e-6)


def test_cal_with_all_others_is_cross_entropy() -> None:
    logits, _, labels = draw(batch=40)
    expected = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(cal(logits, labels, K - 1), expected, atol=1e-12, rtol=1e-12)
    assert (cal(logits, labels, 1) < expected).all()


def test_cal_by_hand_and_at_the_extremes() -> None:
    # True logit equal to the highest other: two equal chances, whatever the rest.
    logits = torch.tensor([[1.0, 1.0, -5.0]])
    torch.testing.assert_close(cal(logits, torch.tensor([0])), torch.tensor([math.log(2)]))
    extreme = torch.tensor([[1e4, 0.0, 0.0], [-1e4, 0.0, 0.0]], requires_grad=True)
    losses = cal(extreme, torch.tensor([0, 0]))
    torch.testing.assert_close(losses, torch.tensor([0.0, 1e4]))
    losses.sum().backward()
    assert extreme.grad is not None
    assert extreme.grad.isfinite().all()


@pytest.mark.parametrize("seed", range(5))
def test_logit_loss_against_the_unfactored_equation_8(seed: int) -> None:
    logits, embedding, labels = draw(batch=11, seed=seed)
    acl = make_acl().double()
    with torch.no_grad():
        acl.alpha_free.copy_(torch.tensor([0.7, -0.4]))
    found = acl(logits, embedding, labels)["logit"].item()
    first, second = (2 * math.exp(v) / (math.exp(0.7) + math.exp(-0.4)) for v in (0.7, -0.4))
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        loss = literal_cal(row, label, 1)
        margin = 1 - math.exp(row[label]) / sum(math.exp(v) for v in row)
        balance = COUNTS.sum().item() / (K * COUNTS[label].item())
        total += math.sqrt((first * (margin * loss) ** 2 + second * (balance * loss) ** 2) / 2)
    assert found == pytest.approx(total / 11, rel=1e-6)


@pytest.mark.parametrize("tau", [0.05, 0.1, 1.0])
def test_feature_contrast_against_a_literal_loop(tau: float) -> None:
    _, embedding, labels = draw(batch=12)
    labels[0] = labels.max() + 1  # one clip without a positive
    counts = [labels.tolist().count(label) for label in labels.tolist()]
    assert min(counts) == 1
    assert max(counts) > 2
    expected = literal_contrast(embedding, labels.tolist(), tau)
    assert feature_contrast(embedding, labels, tau).item() == pytest.approx(expected, rel=1e-9)


def test_feature_contrast_by_hand() -> None:
    # Two clips of one class: the denominator holds the positive alone, so the loss is 0.
    pair = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert feature_contrast(pair, torch.tensor([0, 0]), 0.1) == 0
    # A third of another class, all three alike: log 2 for two clips, 0 for the third.
    alike = torch.ones(3, 2)
    loss = feature_contrast(alike, torch.tensor([0, 0, 1]), 0.1)
    torch.testing.assert_close(loss, torch.tensor(2 * math.log(2) / 3))


@pytest.mark.parametrize("case", ["one clip", "zero vectors", "all alone", "huge", "tiny"])
def test_feature_contrast_is_finite_with_finite_gradients(case: str) -> None:
    embedding = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 1, 1])
    if case == "one clip":
        embedding, labels = embedding[:1], labels[:1]
    elif case == "zero vectors":
        embedding[1:3] = 0
    elif case == "all alone":
        labels = torch.arange(4)
    else:
        embedding *= 1e18 if case == "huge" else 1e-7
    embedding.requires_grad_()
    loss = feature_contrast(embedding, labels, 0.1)
    assert loss.isfinite()
    loss.backward()
    assert embedding.grad is not None
    assert embedding.grad.isfinite().all()
    if case in ("one clip", "all alone"):
        assert loss == 0
        assert (embedding.grad == 0).all()
    if case == "zero vectors":
        assert (embedding.grad[1:3] == 0).all()
        assert (embedding.grad[0] != 0).any()


def test_objective_is_equation_10_and_parts_can_be_switched_off() -> None:
    logits, embedding, labels = draw()
    parts = make_acl().double()(logits, embedding, labels)
    assert set(parts) == {"loss", "ce", "logit", "feature"}
    assert all(part.shape == () for part in parts.values())
    torch.testing.assert_close(parts["ce"], F.cross_entropy(logits, labels))
    total = parts["ce"] + 0.05 * parts["logit"] + 0.001 * parts["feature"]
    torch.testing.assert_close(parts["loss"], total, atol=1e-12, rtol=1e-12)
    without = make_acl(cal=False, fcl=False).double()(logits, embedding, labels)
    assert without["logit"] == without["feature"] == 0
    assert without["loss"] == without["ce"] == parts["ce"]


def test_losses_are_float32_under_autocast() -> None:
    logits, embedding, labels = draw(dtype=torch.float32)
    acl = make_acl()
    low = acl(logits.bfloat16(), embedding.bfloat16(), labels)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = acl(logits.bfloat16(), embedding.bfloat16(), labels)
    for name, part in mixed.items():
        assert part.dtype == torch.float32
        assert part == low[name]


def test_no_gradient_flows_through_the_weights() -> None:
    """The gradient of L_A is that of CAL alone, times factors that are constants."""
    logits, embedding, labels = draw()
    logits.requires_grad_()
    acl = make_acl(fcl=False).double()
    (found,) = torch.autograd.grad(acl(logits, embedding, labels)["logit"], logits)
    with torch.no_grad():
        margin = 1 - logits.softmax(1)[torch.arange(9), labels]
        balance = (COUNTS.sum() / (K * COUNTS))[labels]
        factor = ((margin**2 + balance**2) / 2).sqrt()
    (expected,) = torch.autograd.grad((cal(logits, labels) * factor).mean(), logits)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    assert [name for name, _ in acl.named_parameters()] == ["alpha_free"]
    assert not acl.class_weight.requires_grad


def test_gradcheck() -> None:
    logits, embedding, labels = draw(batch=5)
    labels[1] = labels[0]
    logits.requires_grad_()
    embedding.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: cal(v, labels, 1), logits)
    assert torch.autograd.gradcheck(lambda v: cal(v, labels, 3), logits)
    assert torch.autograd.gradcheck(lambda v: feature_contrast(v, labels, 0.1), embedding)

    def alpha_to_loss(free: Tensor) -> Tensor:
        return torch.func.functional_call(
            make_acl().double(), {"alpha_free": free}, (logits.detach(), embedding.detach(), labels)
        )["logit"]

    free = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(alpha_to_loss, free)


def check_alpha(acl: ACL) -> None:
    alpha = acl.alpha
    assert alpha.isfinite().all()
    assert (alpha > 0).all()
    assert abs(alpha.sum().item() - 2) < 1e-5


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=1.0),
        lambda p: torch.optim.SGD(p, lr=1e4, momentum=0.9),
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.05),
        lambda p: torch.optim.RMSprop(p, lr=0.5),
    ],
    ids=["sgd", "momentum", "adamw", "rmsprop"],
)
def test_alpha_survives_the_steps_of_its_own_loss(
    optimizer: Callable[..., torch.optim.Optimizer],
) -> None:
    """The loss falls as alpha falls: free numbers would run to 0, below, and to NaN."""
    logits, embedding, labels = draw(dtype=torch.float32)
    acl = make_acl(fcl=False)
    start = acl(logits, embedding, labels)["logit"].item()
    steps = optimizer(acl.parameters())
    for step in range(500):  # thousands more are the next test's
        steps.zero_grad()
        acl(logits, embedding, labels)["logit"].backward()
        steps.step()
        if step % 50 == 0:
            check_alpha(acl)
    check_alpha(acl)
    assert 0 < acl(logits, embedding, labels)["logit"].item() < start


def test_alpha_survives_adversarial_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    acl = make_acl()
    free = acl.alpha_free
    exponents = 74 * torch.rand(3_000, 1, generator=generator) - 37
    gradients = torch.randn(3_000, 2, generator=generator) * 10**exponents
    optimizers = (torch.optim.SGD([free], lr=1.0), torch.optim.SGD([free], lr=1e-3))
    moved = set()
    for index, gradient in enumerate(gradients):
        free.grad = gradient
        optimizers[index % 2].step()
        check_alpha(acl)
        moved.add(acl.alpha[0].item())
    assert min(moved) < 1e-8  # both ends were met
    assert max(moved) == 2


@pytest.mark.parametrize("far", [1e30, torch.inf])
@pytest.mark.parametrize("direction", [1, -1])
def test_both_ends_of_alpha_have_finite_losses_and_gradients(far: float, direction: int) -> None:
    acl = make_acl()
    with torch.no_grad():
        acl.alpha_free.copy_(torch.tensor([direction * far, -direction * far]))
    check_alpha(acl)
    logits, embedding, labels = draw(dtype=torch.float32)
    logits[0] = F.one_hot(labels[0], K) * 1e4  # p = 1: f_MA = 0, only f_CB keeps the root from 0
    logits.requires_grad_()
    losses = acl(logits, embedding, labels)
    losses["loss"].backward()
    assert all(part.isfinite() for part in losses.values())
    for gradient in (logits.grad, acl.alpha_free.grad):
        assert gradient is not None
        assert gradient.isfinite().all()


def test_alpha_starts_at_one_and_shifts_weight_to_the_smaller_factor() -> None:
    acl = make_acl()
    assert acl.alpha.tolist() == [1.0, 1.0]
    disgust = torch.full((4,), 5)  # f_CB = 11.5 there, f_MA below 1
    acl(torch.zeros(4, K), torch.zeros(4, 2), disgust)["logit"].backward()
    assert acl.alpha_free.grad is not None
    assert acl.alpha_free.grad[1] > 0 > acl.alpha_free.grad[0]


def test_rare_classes_weigh_more_and_an_absent_one_stays_finite() -> None:
    acl = make_acl()
    expected = [9356 / (7 * count) for count in COUNTS.tolist()]
    torch.testing.assert_close(acl.class_weight, torch.tensor(expected))
    absent = make_acl(torch.tensor([10, 4, 0]), top_k=2)
    torch.testing.assert_close(absent.class_weight, torch.tensor([14 / 30, 14 / 12, 14 / 3]))
    assert "class_weight" not in acl.state_dict()  # it belongs to the split, not to the weights


@pytest.mark.parametrize("count", [2, 11, 100])
def test_any_number_of_classes(count: int) -> None:
    counts = torch.arange(count)  # of the first class there is no clip
    logits, labels = torch.randn(8, count), torch.arange(8) % count
    expected = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(cal(logits, labels, count - 1), expected)
    parts = make_acl(counts, top_k=count - 1)(logits, torch.randn(8, 4), labels)
    assert all(part.isfinite() for part in parts.values())
    with pytest.raises(ValueError, match=f"top_k = {count} must be from 1 to {count - 1}"):
        make_acl(counts, top_k=count)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="top_k = 7 must be from 1 to 6"):
        make_acl(top_k=7)
    with pytest.raises(ValueError, match="class_counts must be"):
        make_acl(torch.zeros(7))
