"""What the builtin model is trained for."""

from __future__ import annotations

import torch
from torch import Tensor


def discriminative_loss(
    scores: Tensor, nll: Tensor, *, nll_weight: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Likelihoods as logits: each query must be likeliest under its own picture.

    `L = -log softmax_i(log p(q | i))_0 + nll_weight * NLL(q | i_0)`, the other pictures of the
    group being the negatives.

    Args:
        scores: log p(query | picture) in nats, [groups, pictures, queries]; query j belongs
            to picture j.
        nll: NLL of the queries under their own pictures, a scalar in nats a token.
        nll_weight: Keeps the model fluent.

    Returns:
        The loss and the share of queries whose own picture is likeliest (no gradient).
    """
    groups, size, _ = scores.shape
    own = torch.arange(size, device=scores.device).expand(groups, size)
    chosen = torch.nn.functional.cross_entropy(scores, own)
    accuracy = (scores.detach().argmax(dim=1) == own).float().mean()
    return chosen + nll_weight * nll, accuracy
