"""What a packed layer does between its products: by compiled loops, or by torch where it is many.

torch shares large tensors among its threads, the loops do not; `kernels.pays` draws the line.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from genmm_retriever.models import kernels

Turns = tuple[Tensor, Tensor]
"""Cosines and sines of positions."""


class RMSNorm:
    """States over their root mean square, times a weight (arXiv 1910.07467).

    Args:
        norm: A layer of transformers with `weight` and `variance_epsilon`.
    """

    def __init__(self, norm: Any) -> None:
        self.own = norm
        self.epsilon = float(norm.variance_epsilon)
        self.weight = norm.weight.detach().float().contiguous()

    def __call__(self, states: Tensor) -> Tensor:
        """Of states [..., H]."""
        if states.dim() == 2 and kernels.pays(states.numel()):
            return kernels.rms_norm(states.contiguous(), self.weight, self.epsilon)
        weight = self.own.weight
        return functional.rms_norm(states, weight.shape, weight, self.epsilon)


class Heads:
    """Queries, keys and values by head, with their positions.

    Args:
        attention: A layer of transformers, whose `q_norm` and `k_norm`, if it has them, are norms
            over each head.
    """

    def __init__(self, attention: Any) -> None:
        self.size = int(attention.head_dim)
        self.asking = attention.q_proj.out_features // self.size
        self.shared = attention.k_proj.out_features // self.size
        norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        self.norms = None if None in norms else tuple(RMSNorm(norm) for norm in norms)

    def __call__(self, mixed: Tensor, turns: Turns) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [n, heads, T, size], keys and values [n, shared, T, size] of [n, T, all]."""
        mixed = mixed.view(*mixed.shape[:2], -1, self.size)
        cosine, sine = (one.expand(len(mixed), -1, -1) for one in turns)
        plain = cosine.dtype == sine.dtype == mixed.dtype and cosine.shape[-1] == self.size
        if not (plain and self.size % 2 == 0 and kernels.pays(mixed.numel())):
            return self._by_torch(mixed, (cosine, sine))
        norms, epsilon = None, 0.0
        if self.norms is not None:
            norms = (self.norms[0].weight, self.norms[1].weight)
            epsilon = self.norms[0].epsilon
        turned = (cosine.contiguous(), sine.contiguous())
        return kernels.split_heads(mixed, turned, self.asking, norms, epsilon)

    def _by_torch(self, mixed: Tensor, turns: Turns) -> tuple[Tensor, Tensor, Tensor]:
        sizes = [self.asking, self.shared, self.shared]
        queries, keys, values = torch.split(mixed, sizes, dim=2)
        if self.norms is not None:
            queries, keys = self.norms[0](queries), self.norms[1](keys)
        turned = _rotated(torch.cat([queries, keys], dim=2), turns).transpose(1, 2)
        return turned[:, : self.asking], turned[:, self.asking :], values.transpose(1, 2)


def gated(both: Tensor) -> Tensor:
    """SiLU of the first half of each row times its second half: [n, 2 * I] to [n, I]."""
    if kernels.pays(both.numel()):
        return kernels.gate(both)
    left, right = both.chunk(2, dim=1)
    return functional.silu(left).mul_(right)


def attended(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """What each token sees, weighed by its scores.

    Args:
        queries: [n, heads, T, S].
        keys: [n, shared, L, S]; each serves as many heads.
        values: As the keys.
        mask: What may be seen, [n, 1, T, L], added or bool; None for all before.
        scale: Of the scores.

    Returns:
        [n * T, heads * S].
    """
    rows, heads, width, size = queries.shape
    visible = kernels.Visible.of(mask)
    if visible is not None and mask is not None and mask.shape[-1] == keys.shape[2]:
        query, key, value = (one[0].contiguous() for one in (queries, keys, values))
        return kernels.attend(query, key, value, visible, scale).view(width, -1)
    seen = functional.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=mask,
        is_causal=mask is None and width > 1,
        scale=scale,
        enable_gqa=heads != keys.shape[1],
    )
    return seen.transpose(1, 2).reshape(rows * width, heads * size)


def _rotated(states: Tensor, turns: Turns) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864), halves paired, of [n, T, heads, S]."""
    cosine, sine = turns
    first, second = states.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return torch.addcmul(states * cosine.unsqueeze(2), turned, sine.unsqueeze(2))
