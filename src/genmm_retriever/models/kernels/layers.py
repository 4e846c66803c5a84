"""What stands between the matrix products of a decoder layer."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from genmm_retriever.jit import as_f32, as_u16, vectorised
from genmm_retriever.models.kernels.numbers import Number, exponential, over_root_mean, short, wide

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
        scale = over_root_mean(total, size, epsilon)
        for i in range(size):
            made[i] = short(wide(given[i]) * scale * weights[i])


@vectorised
def _gate(both: int, gated: int, rows: int, size: int) -> None:
    source, target = as_u16(both, (rows, 2, size)), as_u16(gated, (rows, size))
    for row in range(rows):
        left, right, made = source[row, 0], source[row, 1], target[row]
        for i in range(size):
            value = wide(left[i])
            made[i] = short(value / (_ONE + exponential(-value)) * wide(right[i]))
