"""The lexicographic order of many short sequences, by keys of several packed tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genmm_retriever.constraints.ragged import Ints

_KEY_BITS = 63


def sort_sequences(
    tokens: NDArray[np.integer], offsets: Ints
) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """The lexicographic order of the sequences; equal ones keep their order.

    Args:
        tokens: All sequences end to end, each ended by a token that occurs nowhere else.
        offsets: Where each sequence begins, [n + 1].

    Returns:
        The order; for each place how many tokens are shared with the place before (undefined
        for equal sequences); and whether the place before holds an equal sequence.
    """
    count = len(offsets) - 1
    perm = np.arange(count, dtype=np.int64)
    shared = np.zeros(count, dtype=np.int64)
    again = np.zeros(count, dtype=np.bool_)
    bits = max(1, int(tokens.max()).bit_length()) if count else 1
    # Places whose order is open, ascending, and the tie that each belongs to.
    active, tie = perm.copy(), np.zeros(count, dtype=np.int64)
    depth = 0
    while len(active):
        width = max(1, (_KEY_BITS - int(tie[-1]).bit_length()) // bits)
        rows = perm[active]
        key = _keys(tokens, offsets[rows] + depth, offsets[rows + 1], tie, bits, width)
        order = np.argsort(key)
        rows, key = rows[order], key[order]
        perm[active] = rows
        change = key[1:] ^ key[:-1]
        new = np.flatnonzero((change != 0) & (tie[1:] == tie[:-1]))
        same = np.zeros(len(new), dtype=np.int64)
        for left in range(width):
            same += (change[new] >> (bits * left)) == 0
        shared[active[new + 1]] = depth + same
        depth += width
        equal = np.concatenate([[False], change == 0, [False]])
        ended = offsets[rows] + depth >= offsets[rows + 1]
        again[active[equal[:-1] & ended]] = True
        on = (equal[:-1] | equal[1:]) & ~ended
        active, tie = active[on], np.cumsum(~equal[:-1][on]) - 1
    _order_equals(perm, again)
    return perm, shared, again


def _keys(
    tokens: NDArray[np.integer], places: Ints, ends: Ints, tie: Ints, bits: int, width: int
) -> Ints:
    """The next `width` tokens of each row behind its tie, as one integer.

    Zeros follow the end of a row: rows that differ do so no later than at an end token.
    """
    key: Ints = tie.copy()
    for ahead in range(width):
        place = places + ahead
        inside = place < ends
        place *= inside
        key <<= bits
        key |= tokens[place] * inside
    return key


def _order_equals(perm: Ints, again: NDArray[np.bool_]) -> None:
    """Bring runs of equal sequences back to the order of the input, in place."""
    if not again.any():
        return
    run = again.copy()
    run[:-1] |= again[1:]
    places = np.flatnonzero(run)
    key = np.cumsum(~again)[places] * len(perm) + perm[places]
    key.sort()
    perm[places] = key % len(perm)
