"""What stands between the matrix products of a decoder layer."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from genmm_retriever.jit import as_f32, as_u16, vectorised, vectorised_helper
from genmm_retriever.models.kernels.numbers import F32, U16, Number, exponential, short, wide

_ONE = np.float32(1)


def rms_norm(states: Tensor, weight: Tensor, epsilon: float, out: Tensor | None = None) -> Tensor:
    """States over their root mean square, times a weight (arXiv 1910.07467).

    Args:
        states: [n, H], bfloat16, contiguous.
        weight: [H], float32.
        epsilon: Added to the mean square.
        out: Where it is written, like the states; new if None.
    """
    out = torch.empty_like(states) if out is None else out
    rows, size = states.shape
    _rms_norm(states.data_ptr(), weight.data_ptr(), out.data_ptr(), rows, size, epsilon)
    return out


def split_heads(
    mixed: Tensor,
    turns: tuple[Tensor, Tensor],
    heads: int,
    shared: int,
    norms: tuple[Tensor, Tensor] | None = None,
    epsilon: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of one product, by head, with rotary positions.

    Args:
        mixed: [n * T, (heads + 2 * shared) * S], bfloat16, contiguous.
        turns: Cosines and sines of the positions, each [n, T, S], bfloat16, contiguous; the
            halves of a head are paired (arXiv 2104.09864).
        heads: Heads of the queries.
        shared: Heads of the keys, and of the values.
        norms: Weights of a norm over each head of the queries and of the keys, each [S], float32.
        epsilon: Of those norms.

    Returns:
        Queries [n, heads, T, S], keys and values [n, shared, T, S].
    """
    rows, width, size = turns[0].shape
    made = mixed.new_empty((rows, heads + 2 * shared, width, size))
    _split_heads(
        mixed.data_ptr(),
        turns[0].data_ptr(),
        turns[1].data_ptr(),
        norms[0].data_ptr() if norms else 0,
        norms[1].data_ptr() if norms else 0,
        made.data_ptr(),
        (rows, width, heads, shared, size),
        epsilon,
    )
    queries, keys, values = torch.split_with_sizes(made, [heads, shared, shared], dim=1)
    return queries, keys, values


def gate(both: Tensor, out: Tensor | None = None) -> Tensor:
    """SiLU of the first half of each row times its second half.

    Args:
        both: [n, 2 * I], bfloat16, contiguous.
        out: Where it is written, [n, I]; new if None.
    """
    rows, size = both.shape
    out = both.new_empty((rows, size // 2)) if out is None else out
    _gate(both.data_ptr(), out.data_ptr(), rows, size // 2)
    return out


@vectorised_helper
def _scale(total: Number, size: int, epsilon: Number) -> Number:
    return _ONE / np.sqrt(total / np.float32(size) + np.float32(epsilon))


@vectorised
def _rms_norm(states: int, weight: int, normed: int, rows: int, size: int, epsilon: Number) -> None:
    source, target = as_u16(states, (rows, size)), as_u16(normed, (rows, size))
    weights = as_f32(weight, (size,))
    for row in range(rows):
        given, made = source[row], target[row]
        total = np.float32(0)
        for i in range(size):
            value = wide(given[i])
            total += value * value
        scale = _scale(total, size, epsilon)
        for i in range(size):
            made[i] = short(wide(given[i]) * scale * weights[i])


@vectorised
def _split_heads(
    mixed: int,
    cosine: int,
    sine: int,
    query_norm: int,
    key_norm: int,
    made: int,
    shape: tuple[int, int, int, int, int],
    epsilon: Number,
) -> None:
    rows, width, heads, shared, size = shape
    count = heads + 2 * shared
    source = as_u16(mixed, (rows, width, count, size))
    target = as_u16(made, (rows, count, width, size))
    cosines, sines = as_u16(cosine, (rows, width, size)), as_u16(sine, (rows, width, size))
    head = np.empty(size, np.float32)
    for row in range(rows):
        for at in range(width):
            turn = cosines[row, at], sines[row, at]
            for i in range(heads + shared):
                _normed(source[row, at, i], query_norm if i < heads else key_norm, epsilon, head)
                _turned(head, turn, target[row, i, at])
            for i in range(heads + shared, count):
                given, kept = source[row, at, i], target[row, i, at]
                for j in range(size):
                    kept[j] = given[j]


@vectorised_helper
def _normed(given: U16, norm: int, epsilon: Number, head: F32) -> None:
    """Write a head, after its norm if there is one, as float32."""
    size = len(given)
    for i in range(size):
        head[i] = wide(given[i])
    if norm == 0:
        return
    total = np.float32(0)
    for i in range(size):
        total += head[i] * head[i]
    scale, weights = _scale(total, size, epsilon), as_f32(norm, (size,))
    for i in range(size):
        head[i] = head[i] * scale * weights[i]


@vectorised_helper
def _turned(head: F32, turn: tuple[U16, U16], made: U16) -> None:
    """Write a head turned by its position."""
    cosine, sine = turn
    half = len(made) // 2
    for i in range(half):
        one, other = head[i], head[half + i]
        made[i] = short(one * wide(cosine[i]) - other * wide(sine[i]))
        made[half + i] = short(other * wide(cosine[half + i]) + one * wide(sine[half + i]))


@vectorised
def _gate(both: int, gated: int, rows: int, size: int) -> None:
    source, target = as_u16(both, (rows, 2, size)), as_u16(gated, (rows, size))
    for row in range(rows):
        left, right, made = source[row, 0], source[row, 1], target[row]
        for i in range(size):
            value = wide(left[i])
            made[i] = short(value / (_ONE + exponential(-value)) * wide(right[i]))
