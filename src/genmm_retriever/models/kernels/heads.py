"""Queries, keys and values by head, normed and turned by their positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from genmm_retriever.jit import as_f32, as_u16, vectorised, vectorised_helper
from genmm_retriever.models.kernels.numbers import (
    F32,
    U16,
    USUAL,
    Number,
    copied,
    narrow,
    over_root_mean,
    widen,
)


@dataclass(frozen=True)
class Form:
    """How the heads of a layer come.

    Attributes:
        heads: Number of the queries.
        shared: Number of the keys, and of the values; each serves as many queries.
        size: S, of a head, even.
        norms: Weights of a norm over each head of the queries and of the keys, each [S], float32,
            contiguous; None if there is none.
        epsilon: Of those norms.

    Raises:
        ValueError: If the size is odd.
    """

    heads: int
    shared: int
    size: int
    norms: tuple[Tensor, Tensor] | None = None
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        if self.size % 2:
            raise ValueError(f"heads of {self.size} numbers have no halves to be turned")

    @property
    def norms_at(self) -> tuple[int, int]:
        """Addresses of the norms' weights, 0 for none."""
        if self.norms is None:
            return 0, 0
        return self.norms[0].data_ptr(), self.norms[1].data_ptr()


def split_heads(
    mixed: Tensor, turns: tuple[Tensor, Tensor], form: Form
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of one product, by head, with rotary positions.

    Args:
        mixed: [n * T, (heads + 2 * shared) * S], bfloat16, contiguous.
        turns: Cosines and sines of the positions, each [n, T, S], bfloat16, contiguous; the
            halves of a head are paired (arXiv 2104.09864).
        form: Of the heads.

    Returns:
        Queries [n, heads, T, S], keys and values [n, shared, T, S].
    """
    rows, width, size = turns[0].shape
    made = mixed.new_empty((rows, form.heads + 2 * form.shared, width, size))
    _split_heads(
        (mixed.data_ptr(), made.data_ptr()),
        (turns[0].data_ptr(), turns[1].data_ptr()),
        form.norms_at,
        (rows, width, form.heads, form.shared, size),
        form.epsilon,
    )
    queries, keys, values = made.split_with_sizes([form.heads, form.shared, form.shared], dim=1)
    return queries, keys, values


@vectorised
def _split_heads(
    places: tuple[int, int],
    turns: tuple[int, int],
    norms: tuple[int, int],
    shape: tuple[int, int, int, int, int],
    epsilon: Number,
) -> None:
    rows, width, heads, shared, size = shape
    count = heads + 2 * shared
    source = as_u16(places[0], (rows, width, count, size))
    target = as_u16(places[1], (rows, count, width, size))
    cosines, sines = as_u16(turns[0], (rows, width, size)), as_u16(turns[1], (rows, width, size))
    head, made = np.empty(size, np.float32), np.empty(size, np.float32)
    turning = np.empty((2, size), np.float32)
    for row in range(rows):
        for at in range(width):
            widen(cosines[row, at], turning[0])
            widen(sines[row, at], turning[1])
            for i in range(heads + shared):
                normed(source[row, at, i], norms[0] if i < heads else norms[1], epsilon, head)
                turned(head, turning[0], turning[1], made)
                narrow(made, target[row, i, at])
            for i in range(heads + shared, count):
                copied(source[row, at, i], target[row, i, at])


@vectorised_helper
def normed(given: U16, norm: int, epsilon: Number, head: F32) -> None:
    """Write a head, after its norm if there is one, as float32."""
    widen(given, head)
    if norm == 0:
        return
    size = len(head)
    total = np.float32(0)
    for i in range(size):
        total += head[i] * head[i]
    scale, weights = over_root_mean(total, size, epsilon), as_f32(norm, (size,))
    for i in range(size):
        head[i] = head[i] * scale * weights[i]


@vectorised_helper
def turned(head: F32, cosine: F32, sine: F32, made: F32) -> None:
    """Write a head turned by its position."""
    if len(made) == USUAL:
        _turned(head, cosine, sine, made, USUAL // 2)
    else:
        _turned(head, cosine, sine, made, len(made) // 2)


@vectorised_helper
def _turned(head: F32, cosine: F32, sine: F32, made: F32, half: int) -> None:
    for i in range(half):
        made[i] = head[i] * cosine[i] - head[half + i] * sine[i]
    for i in range(half, 2 * half):
        made[i] = head[i] * cosine[i] + head[i - half] * sine[i]
