"""What a packed layer does between its products: by compiled loops, or by torch where it is many.

torch shares large tensors among its threads, the loops do not; `kernels.pays` draws the line.
What a loop writes for the next product is scratch memory, which the next layer writes again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from genmm_retriever.models import kernels

Turns = tuple[Tensor, Tensor]
"""Cosines and sines of positions, each [n, T, S]."""

_SCRATCH = kernels.Scratch()


class RMSNorm:
    """States over their root mean square, times a weight (arXiv 1910.07467).

    Args:
        norm: A layer of transformers with `weight` and `variance_epsilon`.
    """

    def __init__(self, norm: Any) -> None:
        self.own = norm
        self.epsilon = float(norm.variance_epsilon)
        self.weight = norm.weight.detach().float().contiguous()

    def __call__(self, states: Tensor, loops: bool) -> Tensor:
        """Of contiguous states [n, H], for the next product."""
        if loops:
            out = _SCRATCH.take("normed", *states.shape)
            return kernels.rms_norm(states, self.weight, self.epsilon, out)
        return self.by_torch(states)

    def by_torch(self, states: Tensor) -> Tensor:
        """Of states [..., H]."""
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
        own = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        self.norms = None if None in own else (RMSNorm(own[0]), RMSNorm(own[1]))
        self.weights: tuple[Tensor, Tensor] | None = None
        self.epsilon = 0.0
        if self.norms is not None:
            self.weights = (self.norms[0].weight, self.norms[1].weight)
            self.epsilon = self.norms[0].epsilon

    def __call__(self, mixed: Tensor, rows: int, turns: Turns, loops: bool) -> tuple[Tensor, ...]:
        """Queries [n, heads, T, S], keys and values [n, shared, T, S].

        Args:
            mixed: All heads of the n sequences, [n * T, heads in all * S], contiguous.
            rows: n.
            turns: [n or 1, T, S].
            loops: Whether compiled loops do it.
        """
        wanted = (rows, len(mixed) // rows, self.size)
        cosine, sine = (self._whole(turn, wanted) for turn in turns)
        known = cosine.shape == sine.shape == wanted and cosine.dtype == sine.dtype == mixed.dtype
        if loops and known and self.size % 2 == 0:
            heads = (self.asking, self.shared)
            return kernels.split_heads(mixed, (cosine, sine), *heads, self.weights, self.epsilon)
        return self._by_torch(mixed.view(*wanted[:2], -1, self.size), (cosine, sine))

    @staticmethod
    def _whole(turn: Tensor, wanted: tuple[int, ...]) -> Tensor:
        """Cosines or sines for each of the sequences."""
        if turn.shape[0] != wanted[0]:
            turn = turn.expand(wanted[0], -1, -1)
        return turn if turn.is_contiguous() else turn.contiguous()

    def _by_torch(self, mixed: Tensor, turns: Turns) -> tuple[Tensor, ...]:
        sizes = [self.asking, self.shared, self.shared]
        queries, keys, values = torch.split_with_sizes(mixed, sizes, dim=2)
        if self.norms is not None:
            queries, keys = self.norms[0].by_torch(queries), self.norms[1].by_torch(keys)
        turned = _rotated(torch.cat([queries, keys], dim=2), turns).transpose(1, 2)
        return turned[:, : self.asking], turned[:, self.asking :], values.transpose(1, 2)


def gated(both: Tensor, loops: bool) -> Tensor:
    """SiLU of the first half of each row times its second half: [n, 2 * I] to [n, I]."""
    if loops:
        rows, size = both.shape
        return kernels.gate(both, _SCRATCH.take("gated", rows, size // 2))
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
    visible = _visible(rows, width, keys.shape[2], mask)
    if visible is not None and queries.dtype == torch.bfloat16:
        out = _SCRATCH.take("seen", width, heads * size)
        query, key, value = queries.contiguous(), keys.contiguous(), values.contiguous()
        return kernels.attend(query, key, value, visible, scale, out)
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


def _visible(rows: int, width: int, length: int, mask: Tensor | None) -> kernels.Visible | None:
    """What each token of a single sequence sees, if that is little."""
    if rows != 1:
        return None
    if mask is None:
        return kernels.Visible.before(width) if width == length else None
    return kernels.Visible.of(mask) if mask.shape == (1, 1, width, length) else None


def _rotated(states: Tensor, turns: Turns) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864), halves paired, of [n, T, heads, S]."""
    cosine, sine = turns
    first, second = states.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return torch.addcmul(states * cosine.unsqueeze(2), turned, sine.unsqueeze(2))
