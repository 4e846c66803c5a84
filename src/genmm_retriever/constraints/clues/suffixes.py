"""Sorting the suffixes of a reversed text."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

U32 = NDArray[np.uint32]
I32 = NDArray[np.int32]

LONGEST = 2**31 - 1
"""Bytes that one call of divsufsort can sort."""


def reversed_suffixes(text: U32, counts: NDArray[np.int64]) -> I32:
    """Where the suffixes of the text read backwards begin, in lexicographic order.

    With `pydivsufsort` (Mori's divsufsort, Fischer and Kurpicz, arXiv:1710.01896) the symbols
    are written as one to four bytes, as few as do, and 5 to 9 bytes a byte are used; without
    it the order is found by prefix doubling (Manber and Myers, SIAM J. Comput. 22(5), 1993),
    which is slower and needs about 60 bytes a symbol.

    Args:
        text: Symbols, [N], N < 2**29.
        counts: How often each symbol occurs, [largest symbol + 1].

    Examples:
        >>> text = np.array([0, 2, 1, 2], np.uint32)  # backwards: 2 1 2 0
        >>> reversed_suffixes(text, np.bincount(text)).tolist()
        [3, 1, 2, 0]
    """
    if len(text) and find_spec("pydivsufsort") is not None:
        return _divsufsort(text, counts)
    return _doubling(text[::-1])


def _divsufsort(text: U32, counts: NDArray[np.int64]) -> I32:
    from genmm_retriever.constraints.clues import making

    occurs = counts > 0
    pydivsufsort: Any = import_module("pydivsufsort")
    rank: U32 = (np.cumsum(occurs) - occurs).astype(np.uint32)
    width = max(1, (int(occurs.sum() - 1).bit_length() + 7) // 8)
    packed = np.empty(len(text) * width, np.uint8)
    making.pack_reversed(text, rank, width, packed)
    order = pydivsufsort.divsufsort(packed)
    del packed
    if width == 1:
        return np.asarray(order, np.int32)
    # Copied, so that the suffixes that begin inside a symbol are given back.
    return np.array(order[: making.keep_aligned(order, width)], np.int32)


def _doubling(text: U32) -> I32:
    """Suffixes sorted by their first 2, 4, 8, ... symbols, until no two are equal."""
    size, step = len(text), 1
    rank = np.unique(text, return_inverse=True)[1].astype(np.int64) + 1
    while True:
        key = rank * (size + 2)
        key[: size - step] += rank[step:]
        order = np.argsort(key, kind="stable")
        ordered = key[order]
        rank[order] = 1 + np.cumsum(np.concatenate([[False], ordered[1:] != ordered[:-1]]))[:size]
        step *= 2
        if size == 0 or rank[order[-1]] == size:
            return order.astype(np.int32)
