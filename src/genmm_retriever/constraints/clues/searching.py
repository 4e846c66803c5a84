"""The loops that search shards; compiled, see `jit`.

A `table` describes S shards, [S, COLUMNS] int64. Ranges are [n, S] int64. A row of a shard is
alive if its passage is; separators are the first rows.
"""

from __future__ import annotations

import numpy as np

from genmm_retriever.constraints.clues.making import I64, U32, U64, popcount
from genmm_retriever.jit import as_i64, as_u32, as_u64, helper, kernel

# Columns of the table: addresses first. BITS is 0 where every passage is alive.
BWT, PSI, DOC, STARTS, BITS, RANKS, ROWS, PASSAGES, ALIVE = range(9)
COLUMNS = 9
# What a kernel may say.
OK, DAMAGED, FOREIGN, NO_ROW, NO_TOKEN = range(5)


@helper
def lower(psi: U32, begin: int, end: int, row: int) -> int:
    """First entry of `psi[begin:end]` that is `row` or more, or `end`."""
    while begin < end:
        middle = (begin + end) >> 1
        if psi[middle] < row:
            begin = middle + 1
        else:
            end = middle
    return begin


@helper
def within(psi: U32, first: int, end: int, low: int, high: int, rows: int) -> int:
    """The entry behind those of `psi[first:end]` below `high`; all are `low` or more."""
    if high == rows:
        return end
    limit, step = min(end, first + high - low), 1
    if first >= limit or psi[first] >= high:
        return first
    # There are often few, on the same line of memory.
    while first + step < limit and psi[first + step] < high:
        first += step
        step *= 2
    return lower(psi, first + 1, min(first + step, limit), high)


@helper
def appended(shard: I64, low: int, high: int, symbol: int) -> tuple[int, int]:
    """The range of a shard after a symbol is appended; empty ranges are (0, 0)."""
    starts = as_i64(shard[STARTS], symbol + 2)
    begin, end = starts[symbol], starts[symbol + 1]
    if low >= high or begin == end:
        return 0, 0
    psi = as_u32(shard[PSI], shard[ROWS])
    first = lower(psi, begin, end, low) if low > 0 else begin
    end = within(psi, first, end, low, high, shard[ROWS])
    return (first, end) if first < end else (0, 0)


@helper
def alive_before(shard: I64, row: int) -> int:
    """How many rows before this one are alive."""
    if shard[BITS] == 0:
        return row
    bits = as_u64(shard[BITS], (shard[ROWS] >> 6) + 1)
    ranks = as_u32(shard[RANKS], (shard[ROWS] >> 6) + 1)
    mask = (np.uint64(1) << np.uint64(row & 63)) - np.uint64(1)
    return int(ranks[row >> 6]) + popcount(bits[row >> 6] & mask)


@helper
def foreign(table: I64, low: I64, high: I64) -> bool:
    """Whether one range lies outside the shards."""
    outside = False
    for s in range(len(table)):
        outside |= low[s] < 0 or high[s] > table[s, ROWS]
    return outside


@kernel
def extend(
    table: I64,
    low: I64,
    high: I64,
    rows: I64,
    tokens: I64,
    vocab_size: int,
    new_low: I64,
    new_high: I64,
) -> int:
    """Append `tokens[i]` to the range of `rows[i]`, into [n, S]; `OK` or what is wrong."""
    for i in range(len(rows)):
        row = rows[i]
        if row < 0 or row >= len(low):
            return NO_ROW
        if tokens[i] < 0 or tokens[i] >= vocab_size:
            return NO_TOKEN
        if foreign(table, low[row], high[row]):
            return FOREIGN
        for s in range(len(table)):
            new_low[i, s], new_high[i, s] = appended(
                table[s], low[row, s], high[row, s], tokens[i] + 1
            )
    return OK


@kernel
def count(table: I64, low: I64, high: I64, counts: I64) -> int:
    """Alive rows of each range that are no separators; `OK` or what is wrong."""
    for i in range(len(low)):
        if foreign(table, low[i], high[i]):
            return FOREIGN
        total = 0
        for s in range(len(table)):
            begin = max(low[i, s], table[s, PASSAGES])
            if begin < high[i, s]:
                total += alive_before(table[s], high[i, s]) - alive_before(table[s], begin)
        counts[i] = total
    return OK


@helper
def is_alive(shard: I64, row: int) -> bool:
    """Whether a row's passage is alive."""
    if shard[BITS] == 0:
        return True
    word = as_u64(shard[BITS], (shard[ROWS] >> 6) + 1)[row >> 6]
    return bool((word >> np.uint64(row & 63)) & np.uint64(1))


@kernel
def distinct(shard: I64, low: int, high: int, limit: int, seen: U64, found: I64) -> int:
    """The alive passages of a range, each once, in any order.

    Args:
        shard: A row of the table.
        low: First row.
        high: Row behind the last.
        limit: Stop at so many.
        seen: A bit for each passage, all zero; zero again afterwards.
        found: Room for the passages, min(high - low, passages); empty to count alone.

    Returns:
        How many there are; -1 if a row names a passage that does not exist.
    """
    doc = as_u32(shard[DOC], shard[ROWS])
    total, end = 0, low
    while end < high and total < limit:
        passage = int(doc[end])
        if passage >= shard[PASSAGES]:
            total = -1
            break
        bit = np.uint64(1) << np.uint64(passage & 63)
        if seen[passage >> 6] & bit == 0 and is_alive(shard, end):
            seen[passage >> 6] |= bit
            if total < len(found):
                found[total] = passage
            total += 1
        end += 1
    for i in range(low, end):
        seen[int(doc[i]) >> 6] = np.uint64(0)
    return total


@kernel
def document_frequency(table: I64, low: I64, high: I64, limit: int, seen: U64, counts: I64) -> int:
    """Alive passages of each range, or `limit`, into [n]; `OK` or what is wrong."""
    nothing = np.empty(0, np.int64)
    for i in range(len(low)):
        if foreign(table, low[i], high[i]):
            return FOREIGN
        counts[i] = 0
        for s in range(len(table)):
            begin, end = low[i, s], high[i, s]
            left = limit - counts[i]
            if begin == 0 and end == table[s, ROWS]:
                counts[i] += min(left, table[s, ALIVE])
            elif end - begin == 1:
                counts[i] += min(left, np.int64(is_alive(table[s], begin)))
            elif begin < end:
                here = distinct(table[s], begin, end, left, seen, nothing)
                if here < 0:
                    return DAMAGED
                counts[i] += here
    return OK
