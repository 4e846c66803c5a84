"""The loops that rank tokens by a model's logits; compiled, see `jit`."""

from __future__ import annotations

import numpy as np

from genmm_retriever.constraints.clues.making import I32, I64, popcount
from genmm_retriever.jit import helper

BLOCK, GROUP = 64, 8
"""Logits under one maximum, and maxima under one of those."""


@helper
def ordered(bits: int) -> int:
    """A float32's bits as an integer of the same order; NaN lowest, -0 as 0."""
    if (bits & 0x7FFFFFFF) > 0x7F800000:
        return -2147483648
    if bits == -2147483648:
        return 0
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@helper
def key_of(bits: int, token: int) -> int:
    """Likelier tokens have larger keys, of equally likely ones the smaller."""
    return (int(ordered(bits)) << 32) | (0xFFFFFFFF - token)


@helper
def token_of(key: int) -> int:
    """The token of a key."""
    return 0xFFFFFFFF - (key & 0xFFFFFFFF)


@helper
def sift(heap: I64, size: int, place: int) -> None:
    """Let the entry at `place` sink in a heap whose least entry is the first."""
    value = heap[place]
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = value


@helper
def keep_largest(heap: I64, size: int, key: int, wanted: int) -> int:
    """Offer a key to a heap of the `wanted` largest; its new size."""
    if size < wanted:
        heap[size] = key
        size += 1
        if size == wanted:
            for place in range(size // 2 - 1, -1, -1):
                sift(heap, size, place)
    elif key > heap[0]:
        heap[0] = key
        sift(heap, size, 0)
    return size


@helper
def block_maxima(logits: I32, maxima: I32, coarse: I32) -> None:
    """The largest of each `BLOCK` logits, `ordered`, and of each `GROUP` blocks."""
    for group in range(len(coarse)):
        most = np.int32(-2147483648)
        for block in range(group * GROUP, min(len(maxima), (group + 1) * GROUP)):
            part = logits[block * BLOCK : (block + 1) * BLOCK]
            best = np.int32(-2147483648)
            for j in range(len(part)):
                best = max(best, part[j] ^ ((part[j] >> np.int32(31)) & np.int32(0x7FFFFFFF)))
            # NaN of either sign, -0: not so simple. Below -inf there are negative NaN alone.
            if best > np.int32(0x7F800000) or best == np.int32(-1) or best < np.int32(-2139095041):
                best = np.int32(-2147483648)
                for j in range(len(part)):
                    best = max(best, np.int32(ordered(part[j])))
            maxima[block] = best
            most = max(most, best)
        coarse[group] = most


@helper
def threshold(maxima: I32, least: int) -> int:
    """A value that at least `least` blocks reach, and not many more, if there are so many."""
    low, high = -2147483648, int(maxima.max()) + 1
    if least >= len(maxima):
        return low
    low = int(maxima.min())
    while high - low > 1:
        middle = (low + high) >> 1
        value, reached = np.int32(middle), 0
        for block in range(len(maxima)):
            reached += maxima[block] >= value
        if reached < least:
            high = middle
        else:
            low = middle
            if reached <= least + (least >> 2):
                break
    return low


@helper
def sort_down(keys: I64, size: int) -> None:
    """Sort the first `size` keys, the largest first (Shell's sort, a few dozen are usual)."""
    gap = 1
    while 9 * gap < 4 * size:
        gap = (9 * gap + 3) // 4
    while gap > 0:
        for i in range(gap, size):
            key, place = keys[i], i
            while place >= gap and keys[place - gap] < key:
                keys[place] = keys[place - gap]
                place -= gap
            keys[place] = key
        gap = 4 * gap // 9


@helper
def between(logits: I32, maxima: I32, coarse: I32, value: int, above: int, keys: I64) -> int:
    """The keys of the logits in [value, above), descending; how many."""
    size, floor, ceiling = 0, np.int32(value), np.int32(above)
    for group in range(len(coarse)):
        if coarse[group] < value:
            continue
        for block in range(group * GROUP, min(len(maxima), (group + 1) * GROUP)):
            if maxima[block] < value:
                continue
            part = logits[block * BLOCK : (block + 1) * BLOCK]
            hits = np.uint64(0)  # the loop has no branch, so it is done eight logits at a time
            for j in range(len(part)):
                here = np.int32(ordered(part[j]))
                hits |= np.uint64((here >= floor) & (here < ceiling)) << np.uint64(j)
            while hits != 0:
                below = hits & (~hits + np.uint64(1))
                j = popcount(below - np.uint64(1))
                keys[size] = key_of(part[j], block * BLOCK + j)
                size += 1
                hits ^= below
    sort_down(keys, size)
    return size
