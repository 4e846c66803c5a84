"""The normaliser over a vocabulary."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genmm_retriever.jit import as_f32, as_i16, vectorised, vectorised_helper
from genmm_retriever.models.kernels.numbers import Number, exponential, wide

I16: TypeAlias = NDArray[np.int16]

_FIRST = 64
"""Logits of which the largest is looked for before anything is known."""
_INFINITE = np.float32(np.inf)


def log_sum_exp(logits: Tensor) -> Tensor:
    """Log of the sum of exponentials of each row, [n], float32.

    Args:
        logits: [n, V], bfloat16, contiguous.
    """
    found = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    rows, size = logits.shape
    _log_sum_exp(logits.data_ptr(), found.data_ptr(), rows, size)
    return found


@vectorised
def _log_sum_exp(logits: int, sums: int, rows: int, size: int) -> None:
    source, found = as_i16(logits, (rows, size)), as_f32(sums, (rows,))
    for row in range(rows):
        given = source[row]
        # Any logit will do to subtract, if no other is so much larger that its power is infinite.
        less = _largest(given[:_FIRST])
        total = _total(given, less)
        if not total < _INFINITE:
            less = _largest(given)
            if less == -_INFINITE:
                # No token may be written, or what is no number hides among them.
                found[row] = _sum(given)
                continue
            total = _total(given, less)
        found[row] = less + np.log(total)


@vectorised_helper
def _total(given: I16, less: Number) -> Number:
    # Sums that do not wait for each other.
    half = len(given) // 2
    one = other = np.float32(0)
    for i in range(half):
        one += exponential(wide(np.uint16(given[i])) - less)
        other += exponential(wide(np.uint16(given[half + i])) - less)
    if 2 * half < len(given):
        one += exponential(wide(np.uint16(given[2 * half])) - less)
    return one + other


@vectorised_helper
def _sum(given: I16) -> Number:
    total = np.float32(0)
    for i in range(len(given)):
        total += wide(np.uint16(given[i]))
    return total


@vectorised_helper
def _largest(given: I16) -> Number:
    largest = np.int16(-32768)
    for i in range(len(given)):
        largest = max(largest, _ordered(given[i]))
    return wide(np.uint16(_ordered(largest)))


@vectorised_helper
def _ordered(bits: Number) -> Number:
    """Bits of a bfloat16 to a whole number of the same order, and back again.

    Lanes compare whole numbers without a branch.
    """
    sign = np.int16(bits >> np.int16(15))
    return np.int16(bits ^ np.int16(sign & np.int16(0x7FFF)))
