"""The loops that find what may come next, and the likeliest of it; compiled, see `jit`."""

from __future__ import annotations

import numpy as np

from genmm_retriever.constraints.clues.making import I32, I64, U64, popcount
from genmm_retriever.constraints.clues.ranking import (
    between,
    block_maxima,
    keep_largest,
    key_of,
    threshold,
    token_of,
)
from genmm_retriever.constraints.clues.searching import (
    BITS,
    BWT,
    DAMAGED,
    FOREIGN,
    OK,
    PSI,
    ROWS,
    STARTS,
    alive_before,
    appended,
    foreign,
    is_alive,
    within,
)
from genmm_retriever.jit import as_i32, as_i64, as_u32, helper, kernel

NARROW, CHECKED, ROWS_A_TOKEN = 4096, 256, 128
"""Ranges of so many rows are scanned; of wider ones so many tokens of the model are looked up,
or one for 128 rows, before they are scanned after all; without logits, above so many rows a
token of the vocabulary, the whole vocabulary is looked up instead."""
STEP = 16
"""Tokens that are looked up together."""

Room = tuple[I64, I64, U64, I64, I32, I32, I64]
"""What `next_tokens` writes on: counts by symbol, zeros and zeros again afterwards, [V + 1];
symbols seen, [V + 2]; bits by symbol, zeros as well, [V // 64 + 1]; symbols chosen,
[wanted + 1]; maxima of each `BLOCK` logits and of each `GROUP` of these; keys, [V + 1]."""


@helper
def scan(table: I64, low: I64, high: I64, vocab_size: int, counts: I64, seen: I64) -> int:
    """Count the alive symbols that follow one range; how many differ, -1 if one is too large.

    Args:
        table: The shards.
        low: First row in each shard, [S].
        high: Row behind the last, [S].
        vocab_size: Tokens.
        counts: By symbol, zeros, [V + 1].
        seen: Written, the symbols in any order, [V + 2].
    """
    found = 0
    for s in range(len(table)):
        bwt = as_u32(table[s, BWT], table[s, ROWS])
        every = table[s, BITS] == 0
        for i in range(low[s], high[s]):
            symbol = np.int64(bwt[i])
            if symbol > vocab_size:
                return -1
            # Written first and kept if new: a branch would often be guessed wrongly.
            number = counts[symbol]
            here = 1 if every else np.int64(is_alive(table[s], i))
            seen[found] = symbol
            found += np.int64(number == 0) & here
            counts[symbol] = number + here
    return found


@helper
def likeliest(seen: I64, found: int, logits: I32, wanted: int, keys: I64, heap: I64) -> int:
    """Put the `wanted` likeliest of the symbols seen first in `heap`; how many."""
    for i in range(found):  # apart, so that the memory is waited for but once
        token = max(0, seen[i] - 1)
        keys[i] = key_of(logits[token], token)
    size = 0
    for i in range(found):
        if seen[i] > 0:
            size = keep_largest(heap, size, keys[i], wanted)
    for i in range(size):
        heap[i] = token_of(heap[i]) + 1
    return size


@helper
def emit(
    chosen: I64, size: int, counts: I64, bits: U64, tokens: I64, numbers: I64, place: int
) -> int:
    """Write the chosen symbols as tokens, ascending, with their counts, from `place` on."""
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
            symbol = word * 64 + popcount(below - np.uint64(1))
            if symbol > 0:
                tokens[place] = symbol - 1
                numbers[place] = counts[symbol]
                place += 1
            rest ^= below
    return place


@helper
def occurrences(table: I64, low: I64, high: I64, symbol: int) -> int:
    """How often a symbol follows one range in what is alive."""
    total = 0
    for s in range(len(table)):
        begin, end = appended(table[s], low[s], high[s], symbol)
        if begin < end:
            total += alive_before(table[s], end) - alive_before(table[s], begin)
    return total


@helper
def look_up(
    table: I64, low: I64, high: I64, keys: I64, numbers: I64, first: I64, left: I64
) -> None:
    """How often each of a few tokens follows one range.

    The binary searches go in step: what they wait for, memory, they wait for together.

    Args:
        table: The shards.
        low: First row in each shard, [S].
        high: Row behind the last, [S].
        keys: The tokens' keys, [K].
        numbers: Written, how often each follows.
        first: Room, [K].
        left: Room, [K].
    """
    numbers[:] = 0
    for s in range(len(table)):
        if low[s] >= high[s]:
            continue
        rows = table[s, ROWS]
        starts = as_i64(table[s, STARTS], 1 << 40)
        psi = as_u32(table[s, PSI], rows)
        most = 0
        for k in range(len(keys)):
            symbol = token_of(keys[k]) + 1
            first[k] = starts[symbol]
            left[k] = starts[symbol + 1] - first[k]
            most = max(most, left[k])
        while most > 1 and low[s] > 0:
            for k in range(len(keys)):
                half = left[k] >> 1
                middle = min(first[k] + max(half, 1), rows) - 1
                first[k] += half if psi[middle] < low[s] else 0
                left[k] -= half
            most -= most >> 1
        for k in range(len(keys)):
            symbol = token_of(keys[k]) + 1
            end = starts[symbol + 1]
            begin = first[k]
            if begin < end and low[s] > 0 and psi[begin] < low[s]:
                begin += 1
            end = within(psi, begin, end, low[s], high[s], rows)
            if begin < end:
                numbers[k] += alive_before(table[s], end) - alive_before(table[s], begin)


@helper
def probe(
    table: I64,
    low: I64,
    high: I64,
    logits: I32,
    wanted: int,
    patience: int,
    counts: I64,
    chosen: I64,
    maxima: I32,
    coarse: I32,
    keys: I64,
    room: I64,
) -> int:
    """Look up the model's tokens, likeliest first, until `wanted` of them follow one range.

    Returns:
        How many were found, their counts entered into `counts`; -1 - that number if after
        `patience` tokens or so that is less than `wanted`.
    """
    block_maxima(logits, maxima, coarse)
    found, looked, least, above = 0, 0, 2 * wanted, 2**31 - 1
    while found < wanted and looked < len(logits):
        value = threshold(maxima, least)
        size = between(logits, maxima, coarse, value, above, keys)
        for begin in range(0, size, STEP):
            if found == wanted:
                break
            if looked >= patience:
                return -1 - found
            some = keys[begin : min(size, begin + STEP)]
            look_up(table, low, high, some, room[0, : len(some)], room[1], room[2])
            looked += len(some)
            for k in range(len(some)):
                if room[0, k] > 0 and found < wanted:
                    symbol = token_of(some[k]) + 1
                    counts[symbol] = room[0, k]
                    chosen[found] = symbol
                    found += 1
        # As many more as are needed if they are found as often as those before.
        more = (wanted - found) * looked * 5 // (4 * max(found, 1)) + STEP
        least, above = looked + min(more, 3 * looked), value
    return found


@helper
def look_up_all(table: I64, low: I64, high: I64, counts: I64, seen: I64) -> int:
    """Look up the whole vocabulary behind one range; how many symbols follow it."""
    found = 0
    for symbol in range(1, len(counts)):
        number = occurrences(table, low, high, symbol)
        if number > 0:
            counts[symbol] = number
            seen[found] = symbol
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
    held: Room,
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
        held: See `Room`.
        offsets: Written, [n + 1].
        tokens: Written, ascending within a range.
        numbers: Written, their counts.

    Returns:
        `OK`, or what is wrong.
    """
    counts, seen, bits, chosen, maxima, coarse, keys = held
    vocab_size, place = len(counts) - 1, 0
    narrow, checked, rows_a_token = limits
    offsets[0] = 0
    room = np.empty((3, STEP), np.int64)
    for i in range(len(low)):
        if foreign(table, low[i], high[i]):
            return FOREIGN
        width = 0
        for s in range(len(table)):
            width += max(0, high[i, s] - low[i, s])
        row = as_i32(logits + 4 * i * vocab_size if logits else 0, vocab_size)
        found = -1
        if logits and width > narrow:
            patience = max(checked, width // 128)
            found = probe(
                table,
                low[i],
                high[i],
                row,
                wanted,
                patience,
                counts,
                chosen,
                maxima,
                coarse,
                keys,
                room,
            )
            if found < 0:
                for k in range(-1 - found):
                    counts[chosen[k]] = 0
        if found >= 0:
            place = emit(chosen, found, counts, bits, tokens, numbers, place)
            for k in range(found):
                counts[chosen[k]] = 0
        else:
            if width > rows_a_token * vocab_size:
                found = look_up_all(table, low[i], high[i], counts, seen)
            else:
                found = scan(table, low[i], high[i], vocab_size, counts, seen)
            if found < 0:
                return DAMAGED
            if logits and found > wanted:
                size = likeliest(seen, found, row, wanted, keys, chosen)
                place = emit(chosen, size, counts, bits, tokens, numbers, place)
            else:
                place = emit(seen, found, counts, bits, tokens, numbers, place)
            for k in range(found):
                counts[seen[k]] = 0
        offsets[i + 1] = place
    return OK
