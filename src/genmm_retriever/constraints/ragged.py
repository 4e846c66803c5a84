"""Small operations on ragged rows that the tries share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]

_ROWS_AT_ONCE = 1 << 13


def ragged_ranges(starts: Ints, counts: Ints) -> Ints:
    """The ranges `starts[i]:starts[i] + counts[i]` end to end.

    Examples:
        >>> ragged_ranges(np.array([5, 0]), np.array([2, 1])).tolist()
        [5, 6, 0]
    """
    ends = np.cumsum(counts)
    shift: Ints = np.repeat(starts - (ends - counts), counts)
    shift += np.arange(len(shift))
    return shift


def offsets_of(counts: NDArray[np.integer]) -> Ints:
    """Where each of the rows begins and the last one ends, [n + 1], int64."""
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


ScalarT = TypeVar("ScalarT", bound=np.generic)


def chunks(count: int) -> Iterator[slice]:
    """Rows in pieces of which an index fits in the processor's cache."""
    for row in range(0, count, _ROWS_AT_ONCE):
        yield slice(row, row + _ROWS_AT_ONCE)


def gather_rows(
    values: NDArray[Any], starts: Ints, counts: Ints, dtype: type[ScalarT]
) -> NDArray[ScalarT]:
    """`values[starts[i]:starts[i] + counts[i]]` end to end; the index is made in chunks."""
    gathered = np.empty(int(counts.sum()), dtype=dtype)
    end = 0
    for rows in chunks(len(starts)):
        part = values.take(ragged_ranges(starts[rows], counts[rows]))
        gathered[end : end + len(part)] = part
        end += len(part)
    return gathered


def ragged_sums(values: NDArray[np.float16], starts: Ints, counts: Ints) -> NDArray[np.float64]:
    """The sum of each range `values[starts[i]:starts[i] + counts[i]]`, [n], float64."""
    sums = np.empty(len(starts), dtype=np.float64)
    for rows in chunks(len(starts)):
        taken = values[ragged_ranges(starts[rows], counts[rows])]
        total = np.zeros(len(taken) + 1, dtype=np.float64)
        np.cumsum(taken, out=total[1:], dtype=np.float64)
        sums[rows] = np.diff(total[offsets_of(counts[rows])])
    return sums


def expand(first: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """The ranges `first[i]:first[i] + counts[i]` end to end, with the i of each entry."""
    ends = counts.cumsum(0)
    rows = torch.repeat_interleave(counts)
    return rows, torch.arange(len(rows), device=counts.device) + (first - ends + counts)[rows]
