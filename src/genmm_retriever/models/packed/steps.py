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
from genmm_retriever.models.caches import is_only_read, kept_tokens, of_layer, set_layer

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


class Attention:
    """What comes of queries, keys and values: positions, the cache, and what each token sees.

    Args:
        attention: A layer of transformers, whose `q_norm` and `k_norm`, if it has them, are norms
            over each head.
    """

    def __init__(self, attention: Any) -> None:
        self.index = int(attention.layer_idx)
        self.scale = float(attention.scaling)
        size = int(attention.head_dim)
        own = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        self.norms = None if None in own else (RMSNorm(own[0]), RMSNorm(own[1]))
        self.form = kernels.Form(
            heads=attention.q_proj.out_features // size,
            shared=attention.k_proj.out_features // size,
            size=size,
            norms=None if self.norms is None else (self.norms[0].weight, self.norms[1].weight),
            epsilon=0.0 if self.norms is None else self.norms[0].epsilon,
        )

    def __call__(
        self,
        mixed: Tensor,
        rows: int,
        turns: Turns,
        mask: Tensor | None,
        cache: Any,
        loops: bool,
    ) -> Tensor:
        """What each token sees, [n * T, heads * S].

        Args:
            mixed: All heads of the n sequences, [n * T, (heads + 2 * shared) * S], contiguous.
            rows: n.
            turns: [n or 1, T, S].
            mask: What may be seen, [n, 1, T, L], added or bool; None for all before.
            cache: Keys and values to attend to; None for none.
            loops: Whether compiled loops do it.
        """
        width = len(mixed) // rows
        wanted = (rows, width, self.form.size)
        turns = (self._whole(turns[0], wanted), self._whole(turns[1], wanted))
        looped = loops and all(turn.shape == wanted and turn.dtype == mixed.dtype for turn in turns)
        if looped and rows == 1:
            before = self._before(cache, mixed.dtype)
            visible = None if before is None else _visible(width, before + width, mask)
            if before is not None and visible is not None:
                return self._looked_up(mixed, turns, visible, cache, before)
        if looped:
            queries, keys, values = kernels.split_heads(mixed, turns, self.form)
        else:
            queries, keys, values = self._by_torch(mixed.view(rows, width, -1, wanted[2]), turns)
        if cache is not None:
            keys, values = cache.update(keys, values, self.index)
        return attended(queries, keys, values, mask, self.scale)

    def _before(self, cache: Any, dtype: torch.dtype) -> int | None:
        """Tokens in the cache; None if loops cannot read it."""
        shape = (1, self.form.shared, self.form.size)
        return 0 if cache is None else kept_tokens(cache, self.index, shape, dtype)

    def _looked_up(
        self, mixed: Tensor, turns: Turns, visible: kernels.Visible, cache: Any, before: int
    ) -> Tensor:
        width, form = len(mixed), self.form
        past = of_layer(cache, self.index) if before else None
        shape = (2, 1, form.shared, before + width, form.size)
        # What is kept must not be scratch memory.
        kept = cache is not None and not is_only_read(cache)
        grown = mixed.new_empty(shape) if kept else _SCRATCH.take("grown", *shape)
        out = _SCRATCH.take("seen", width, form.heads * form.size)
        kernels.attend(mixed, turns, form, past, visible, self.scale, grown, out)
        if kept:
            set_layer(cache, self.index, grown[0], grown[1])
        return out

    @staticmethod
    def _whole(turn: Tensor, wanted: tuple[int, ...]) -> Tensor:
        """Cosines or sines for each of the sequences."""
        if turn.shape[0] != wanted[0]:
            turn = turn.expand(wanted[0], -1, -1)
        return turn if turn.is_contiguous() else turn.contiguous()

    def _by_torch(self, mixed: Tensor, turns: Turns) -> tuple[Tensor, ...]:
        heads, shared = self.form.heads, self.form.shared
        queries, keys, values = torch.split_with_sizes(mixed, [heads, shared, shared], dim=2)
        if self.norms is not None:
            queries, keys = self.norms[0].by_torch(queries), self.norms[1].by_torch(keys)
        turned = _rotated(torch.cat([queries, keys], dim=2), turns).transpose(1, 2)
        return turned[:, :heads], turned[:, heads:], values.transpose(1, 2)


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
    """What each token sees, weighed by its scores, by torch.

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


def _visible(width: int, length: int, mask: Tensor | None) -> kernels.Visible | None:
    """What each token of a single sequence sees, if that is little."""
    if mask is None:
        return kernels.Visible.before(width) if width == length else None
    return kernels.Visible.of(mask) if mask.shape == (1, 1, width, length) else None


def _rotated(states: Tensor, turns: Turns) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864), halves paired, of [n, T, heads, S]."""
    cosine, sine = turns
    first, second = states.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return torch.addcmul(states * cosine.unsqueeze(2), turned, sine.unsqueeze(2))
