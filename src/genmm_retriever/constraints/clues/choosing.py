"""The loops that find what may come next, and the likeliest of it; compiled, see `jit`."""

from __future__ import annotations

import numpy as np

from genmm_retriever.constraints.clues.jit import as_i32, as_u32, kernel
from genmm_retriever.constraints.clues.making import I32, I64, U64, popcount
from genmm_retriever.constraints.clues.searching import (
    BITS,
    BWT,
    ROWS,
    alive_before,
    appended,
    is_alive,
)

NARROW, CHECKED, ROWS_A_TOKEN = 4096, 256, 128
"""Ranges of so many rows are scanned; of wider ones so many tokens of the model are looked up,
or one for 256 rows, before they are scanned after all; without logits, above so many rows a
token of the vocabulary, the whole vocabulary is looked up instead."""
BLOCK = 64
"""Logits under one maximum."""
NOTHING = -(2**63)
OK, DAMAGED, FOREIGN = 0, 1, 2


@kernel
def ordered(bits: int) -> int:
    """A float32's bits as an integer of the same order; NaN lowest, -0 as 0."""
    if (bits & 0x7FFFFFFF) > 0x7F800000:
        return -2147483648
    if bits == -2147483648:
        return 0
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@kernel
def key_of(bits: int, token: int) -> int:
    """Likelier tokens have larger keys, of equally likely ones the smaller."""
    return (int(ordered(bits)) << 32) | (0xFFFFFFFF - token)


@kernel
def scan(table: I64, low: I64, high: I64, vocab_size: int, counts: I64, seen: I64) -> int:
    """Count the alive symbols that follow one range; how many differ, -1 if one is too large.

    Args:
        table: The shards.
        low: First row in each shard, [S].
        high: Row behind the last, [S].
        vocab_size: Tokens.
        counts: By token, zeros.
        seen: Written, the tokens in any order.
    """
    found = 0
    for s in range(len(table)):
        bwt = as_u32(table[s, BWT], table[s, ROWS])
        every = table[s, BITS] == 0
        for i in range(low[s], high[s]):
            token = np.int64(bwt[i]) - 1
            if token >= 0 and (every or is_alive(table[s], i)):
                if token >= vocab_size:
                    return -1
                if counts[token] == 0:
                    seen[found] = token
                    found += 1
                counts[token] += 1
    return found


@kernel
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


@kernel
def likeliest(seen: I64, found: int, logits: I32, wanted: int, heap: I64) -> int:
    """Put the `wanted` likeliest of the tokens seen first in `heap`; how many."""
    size = 0
    for i in range(found):
        key = key_of(logits[seen[i]], seen[i])
        if size < wanted:
            heap[size] = key
            size += 1
            if size == wanted:
                for place in range(size // 2 - 1, -1, -1):
                    sift(heap, size, place)
        elif key > heap[0]:
            heap[0] = key
            sift(heap, size, 0)
    for i in range(size):
        heap[i] = 0xFFFFFFFF - (heap[i] & 0xFFFFFFFF)
    return size


@kernel
def emit(
    chosen: I64, size: int, counts: I64, bits: U64, tokens: I64, numbers: I64, place: int
) -> int:
    """Write the chosen tokens in ascending order with their counts, from `place` on."""
    first, last = len(bits), -1
    for i in range(size):
        word = chosen[i] >> 6
        bits[word] |= np.uint64(1) << np.uint64(chosen[i] & 63)
        first, last = min(first, word), max(last, word)
    for word in range(first, last + 1):
        rest = bits[word]
        bits[word] = np.uint64(0)
        while rest != 0:
            below = rest & (~rest + np.uint64(1))
            token = word * 64 + popcount(below - np.uint64(1))
            tokens[place] = token
            numbers[place] = counts[token]
            place += 1
            rest ^= below
    return place


@kernel
def occurrences(table: I64, low: I64, high: I64, token: int) -> int:
    """How often a token follows one range in what is alive."""
    total = 0
    for s in range(len(table)):
        begin, end = appended(table[s], low[s], high[s], token + 1)
        if begin < end:
            total += alive_before(table[s], end) - alive_before(table[s], begin)
    return total


@kernel
def block_best(logits: I32, block: int, below: int) -> int:
    """Largest key of a block that is less than `below`."""
    part = logits[block * BLOCK : (block + 1) * BLOCK]
    best = NOTHING
    base = 0xFFFFFFFF - block * BLOCK
    for j in range(len(part)):
        key = (np.int64(ordered(part[j])) << 32) | (base - j)
        best = max(best, key if key < below else NOTHING)
    return best


@kernel
def bounds_of(logits: I32, bounds: I64, tops: I64) -> None:
    """An upper bound of the keys of each block, and of each 64 blocks."""
    for block in range(len(bounds)):
        part = logits[block * BLOCK : (block + 1) * BLOCK]
        best = np.int32(-2147483648)
        for j in range(len(part)):
            best = max(best, np.int32(ordered(part[j])))
        bounds[block] = (np.int64(best) << 32) | 0xFFFFFFFF
    for top in range(len(tops)):
        tops[top] = bounds[top * 64 : (top + 1) * 64].max()


@kernel
def probe(
    table: I64,
    low: I64,
    high: I64,
    logits: I32,
    wanted: int,
    patience: int,
    counts: I64,
    chosen: I64,
    bounds: I64,
    tops: I64,
) -> int:
    """Look up the model's tokens, likeliest first, until `wanted` of them follow one range.

    Returns:
        How many were found, their counts entered into `counts`; -1 - that number if after
        `patience` tokens that is less than `wanted`.
    """
    bounds_of(logits, bounds, tops)
    found, looked, last = 0, 0, 2**63 - 1
    while found < wanted:
        top = 0
        for i in range(1, len(tops)):
            if tops[i] > tops[top]:
                top = i
        bound = tops[top]
        if bound == NOTHING:
            break
        block = top * 64
        while bounds[block] != bound:
            block += 1
        best = block_best(logits, block, last)
        bounds[block] = best
        if best == bound:
            if looked == patience:
                return -1 - found
            looked += 1
            last = best
            bounds[block] = best - 1
            token = 0xFFFFFFFF - (best & 0xFFFFFFFF)
            number = occurrences(table, low, high, token)
            if number > 0:
                counts[token] = number
                chosen[found] = token
                found += 1
        tops[top] = bounds[top * 64 : (top + 1) * 64].max()
    return found


@kernel
def every_token(table: I64, low: I64, high: I64, vocab_size: int, counts: I64, seen: I64) -> int:
    """Look up the whole vocabulary behind one range; how many tokens follow it."""
    found = 0
    for token in range(vocab_size):
        number = occurrences(table, low, high, token)
        if number > 0:
            counts[token] = number
            seen[found] = token
            found += 1
    return found


@kernel
def next_tokens(
    table: I64,
    low: I64,
    high: I64,
    logits: int,
    wanted: int,
    limits: tuple[int, int, int],
    counts: I64,
    seen: I64,
    bits: U64,
    chosen: I64,
    bounds: I64,
    tops: I64,
    offsets: I64,
    tokens: I64,
    numbers: I64,
) -> int:
    """What may come next after each range.

    Args:
        table: The shards, [S, COLUMNS].
        low: First rows, [n, S].
        high: Rows behind the last, [n, S].
        logits: Address of the logits, float32, [n, V]; 0 for all tokens, whatever `wanted` is.
        wanted: How many tokens a range at most.
        limits: `NARROW`, `CHECKED`, `ROWS_A_TOKEN`; no answer depends on them.
        counts: Zeros, [V]; zeros again afterwards, as `bits`.
        seen: Room, [V].
        bits: Zeros, [V // 64 + 1].
        chosen: Room, [min(wanted, V)].
        bounds: Room, one for each `BLOCK` logits.
        tops: Room, one for each 64 blocks.
        offsets: Written, [n + 1].
        tokens: Written, ascending within a range.
        numbers: Written, their counts.

    Returns:
        `OK`, `DAMAGED` if a shard contradicts itself, `FOREIGN` if ranges exceed the shards.
    """
    vocab_size, place = len(counts), 0
    narrow, checked, rows_a_token = limits
    offsets[0] = 0
    for i in range(len(low)):
        width = 0
        for s in range(len(table)):
            if low[i, s] < 0 or high[i, s] > table[s, ROWS]:
                return FOREIGN
            width += max(0, high[i, s] - low[i, s])
        row = as_i32(logits + 4 * i * vocab_size if logits else 0, vocab_size)
        found = -1
        if logits and width > narrow:
            patience = max(checked, width // 256)
            found = probe(
                table, low[i], high[i], row, wanted, patience, counts, chosen, bounds, tops
            )
            if found < 0:
                for k in range(-1 - found):
                    counts[chosen[k]] = 0
        if found >= 0:
            place = emit(chosen, found, counts, bits, tokens, numbers, place)
            for k in range(found):
                counts[chosen[k]] = 0
        else:
            if not logits and width > rows_a_token * vocab_size:
                found = every_token(table, low[i], high[i], vocab_size, counts, seen)
            else:
                found = scan(table, low[i], high[i], vocab_size, counts, seen)
            if found < 0:
                return DAMAGED
            if logits and found > wanted:
                size = likeliest(seen, found, row, wanted, chosen)
                place = emit(chosen, size, counts, bits, tokens, numbers, place)
            else:
                place = emit(seen, found, counts, bits, tokens, numbers, place)
            for k in range(found):
                counts[seen[k]] = 0
        offsets[i + 1] = place
    return OK
