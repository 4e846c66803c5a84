"""The normaliser over a vocabulary."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from genmm_retriever.jit import as_f32, as_i16, vectorised, vectorised_helper
from genmm_retriever.models.kernels.numbers import Number, exponential, wide


def log_sum_exp(logits: Tensor) -> Tensor:
    """Log of the sum of exponentials of each row, [n], float32.

    Args:
        logits: [n, V], bfloat16, contiguous.
    """
    found = torch.empty(len(logits))
    rows, size = logits.shape
    _log_sum_exp(logits.data_ptr(), found.data_ptr(), rows, size)
    return found


@vectorised_helper
def _ordered(bits: Number) -> Number:
    """Bits of a bfloat16 to a whole number of the same order, and back again.

    Lanes compare whole numbers without a branch.
    """
    sign = np.int16(bits >> np.int16(15))
    return np.int16(bits ^ np.int16(sign & np.int16(0x7FFF)))


@vectorised
def _log_sum_exp(logits: int, sums: int, rows: int, size: int) -> None:
    source, found = as_i16(logits, (rows, size)), as_f32(sums, (rows,))
    for row in range(rows):
        given = source[row]
        largest = np.int16(-32768)
        for i in range(size):
            largest = max(largest, _ordered(given[i]))
        most = wide(np.uint16(_ordered(largest)))
        total = np.float32(0)
        for i in range(size):
            total += exponential(wide(np.uint16(given[i])) - most)
        found[row] = most + np.log(total)
