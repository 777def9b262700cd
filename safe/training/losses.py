"""Losses: ACL, with more weight on confusion and on rare classes, equations (6) to (10).

In: logits, embeddings and labels of a batch. Out: the loss and its three parts. All of it is
computed in float32 whatever the model's precision (float64 stays float64).
Shapes: B clips, K classes, D features.
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FREE_LIMIT: Final = 10.0
"""How far the free numbers behind alpha count. At the limit the softmax passes next to no gradient
anyway (2e-9 of it), and within it both alphas stay above 4e-9: the root of (8) never sees 0."""

MIN_NORM: Final = 1e-8
"""Embeddings shorter than this have no direction: similarity 0 to all, and no gradient."""


def cal(logits: Tensor, labels: Tensor, top_k: int = 1) -> Tensor:
    """Confusion-aware loss of each clip, equation (6) and its top-k form (Table V).

        L_CA = -log( exp(l_y) / (exp(l_y) + sum of exp(l_c) over the k highest c != y) )
             = -log sigmoid( l_y - logsumexp of the k highest l_c )

    k = 1 is (6), k = K - 1 is cross-entropy.

    Args:
        logits: [B, K].
        labels: int64 [B].
        top_k: k, 1..K-1.

    Returns:
        [B], in nats, not negative.
    """
    true = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf).topk(top_k, dim=1).values
    return -F.logsigmoid(true.squeeze(1) - others.logsumexp(1))


def feature_contrast(embedding: Tensor, labels: Tensor, tau: float) -> Tensor:
    """Feature contrastive loss, equation (9): clips of a class near, others far.

        L_C = -1/B sum_i 1/|P(i)| sum_{j in P(i)} log( exp(S_ij) / sum_{k != i} exp(S_ik) )
        S_ij = cosine(z_i, z_j) / tau,   P(i) = {j != i: y_j = y_i}

    A clip without a positive contributes 0 and counts in B. A zero embedding has cosine 0 to all.

    Args:
        embedding: [B, D].
        labels: int64 [B].
        tau: temperature, > 0.

    Returns:
        A scalar, in nats, not negative; finite for any B >= 1.
    """
    norm = torch.linalg.vector_norm(embedding, dim=1, keepdim=True)
    z = torch.where(norm > MIN_NORM, embedding / norm.clamp(min=MIN_NORM), 0)
    similarity = z @ z.T / tau
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    others = similarity.masked_fill(itself, -torch.inf)
    log_ratio = similarity - others.logsumexp(1, keepdim=True)
    positive = (labels == labels[:, None]) & ~itself
    per_clip = torch.where(positive, log_ratio, 0).sum(1) / positive.sum(1).clamp(min=1)
    return -per_clip.mean()


class ACL(nn.Module):
    """The objective, equation (10): L = L_CE + lambda_1 L_A + lambda_2 L_C.

    L_CA is common to both terms of (8), so the root is taken of the factors alone:

        L_A = 1/B sum_i L_CA_i sqrt( (a1 f_MA_i^2 + a2 f_CB_i^2) / 2 )               (8)
        f_MA = 1 - p_y,   f_CB = N / (K n_y)                                         (7)

    f_MA and f_CB are weights: no gradient flows through them. f_CB >= 1/K and a2 > 0, so the root
    never sees 0, where its gradient is infinite. a1 and a2 are learned, and the loss falls as they
    fall; so they are 2 softmax of two free numbers: (1, 1) at the start, positive, of sum 2, able
    to shift weight from one factor to the other but not to shed it.
    """

    class_weight: Tensor

    def __init__(
        self,
        class_counts: Tensor,
        *,
        cal: bool,
        fcl: bool,
        top_k: int,
        tau: float,
        lambda_1: float,
        lambda_2: float,
    ) -> None:
        """Set the weights of the parts.

        Args:
            class_counts: [K], n_y, the clips of each class in the TRAINING split. A class without
                clips counts as one clip, so that its f_CB is the largest and not infinite.
            cal: whether L_A is part of the loss.
            fcl: whether L_C is part of the loss.
            top_k: k of cal, 1..K-1.
            tau: temperature of (9).
            lambda_1: weight of L_A.
            lambda_2: weight of L_C.

        Raises:
            ValueError: if class_counts is not [K] with at least one clip, or top_k not in 1..K-1.
        """
        super().__init__()
        if class_counts.ndim != 1 or class_counts.sum() < 1:
            raise ValueError(f"class_counts must be [K] with at least one clip: {class_counts}")
        if not 1 <= top_k < len(class_counts):
            raise ValueError(f"top_k = {top_k} must be from 1 to {len(class_counts) - 1}")
        self.cal, self.fcl, self.top_k, self.tau = cal, fcl, top_k, tau
        self.lambda_1, self.lambda_2 = lambda_1, lambda_2
        self.alpha_free = nn.Parameter(torch.zeros(2))
        counts = class_counts.to(torch.float32)
        weight = counts.sum() / (len(counts) * counts.clamp(min=1))
        self.register_buffer("class_weight", weight, persistent=False)

    @property
    def alpha(self) -> Tensor:
        """(a1, a2), the weights of f_MA and f_CB: [2], positive, of sum 2."""
        return 2 * self.alpha_free.clamp(-FREE_LIMIT, FREE_LIMIT).softmax(0)

    def forward(self, logits: Tensor, embedding: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            logits: [B, K].
            embedding: [B, D].
            labels: int64 [B].

        Returns:
            Scalars: loss (10), ce, logit (L_A) and feature (L_C), means over the batch, in nats. A
            part that is switched off is 0.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits, embedding = _at_least_float32(logits), _at_least_float32(embedding)
            zero = logits.new_zeros(())
            ce = F.cross_entropy(logits, labels)
            logit = self._logit_loss(logits, labels) if self.cal else zero
            feature = feature_contrast(embedding, labels, self.tau) if self.fcl else zero
            loss = ce + self.lambda_1 * logit + self.lambda_2 * feature
        return {"loss": loss, "ce": ce, "logit": logit, "feature": feature}

    def _logit_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """L_A, equation (8)."""
        p_true = logits.detach().softmax(1).gather(1, labels[:, None]).squeeze(1)
        margin = 1 - p_true
        balance = self.class_weight[labels]
        factor = ((self.alpha[0] * margin**2 + self.alpha[1] * balance**2) / 2).sqrt()
        return (cal(logits, labels, self.top_k) * factor).mean()


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
