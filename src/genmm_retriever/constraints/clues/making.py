"""The loops that lay out a shard; compiled, see `jit`. Symbol 0 separates, token t is t + 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genmm_retriever.jit import as_u32, helper, kernel

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]


@kernel
def separate(text: U32, offsets: I64) -> None:
    """Zero at each passage's begin, one everywhere else."""
    text[:] = 1
    for p in range(len(offsets) - 1):
        text[offsets[p]] = 0


@kernel
def enter(text: U32, tokens: U32, place: int) -> int:
    """Write tokens over the ones from `place` on; the place behind the last."""
    for i in range(len(tokens)):
        while text[place] == 0:
            place += 1
        text[place] = tokens[i] + np.uint32(1)
        place += 1
    return place


@kernel
def gather(text: int, size: int, begins: I64, offsets: I64, tokens: U32) -> None:
    """Copy the tokens of passages whose separators stand at `begins`, end to end."""
    symbols = as_u32(text, size)
    for p in range(len(begins)):
        place = begins[p] + 1
        for i in range(offsets[p], offsets[p + 1]):
            tokens[i] = symbols[place] - np.uint32(1)
            place += 1


@kernel
def count_symbols(text: U32, counts: I64) -> None:
    """Add each symbol's occurrences to `counts`, [vocab_size + 1]."""
    for i in range(len(text)):
        counts[text[i]] += 1


@kernel
def pack_reversed(text: U32, rank: U32, width: int, packed: U8) -> None:
    """The text backwards, each symbol's rank as `width` bytes, the highest first."""
    size = len(text)
    for i in range(size):
        value = rank[text[size - 1 - i]]
        for k in range(width):
            packed[i * width + k] = (value >> np.uint32(8 * (width - 1 - k))) & np.uint32(255)


@kernel
def keep_aligned(order: I32, width: int) -> int:
    """Keep suffixes that begin with a symbol, as symbol numbers, in place; how many."""
    kept = 0
    for i in range(len(order)):
        symbol = order[i] // width
        if symbol * width == order[i]:
            order[kept] = symbol
            kept += 1
    return kept


@kernel
def number_passages(offsets: I64, passage: U32) -> None:
    """The passage of each place of the text; a separator belongs to the passage behind it."""
    for p in range(len(offsets) - 1):
        for i in range(offsets[p], offsets[p + 1]):
            passage[i] = p


@kernel
def transform(order: U32, text: U32, passage: U32, begin: int, end: int, bwt: U32) -> None:
    """Rows `begin:end` of `bwt`: what follows each place; `order` becomes its passage."""
    size = len(text)
    for i in range(begin, end):
        place = size - 1 - np.int64(order[i])
        bwt[i] = text[place + 1] if place + 1 < size else np.uint32(0)
        order[i] = passage[place]


@kernel
def positions_by_symbol(bwt: U32, begin: int, end: int, following: I64, psi: U32) -> None:
    """Enter rows `begin:end` into `psi`; `following` is each symbol's next free entry."""
    for i in range(begin, end):
        symbol = bwt[i]
        psi[following[symbol]] = i
        following[symbol] += 1


@helper
def popcount(word: np.uint64) -> int:
    """How many bits are set."""
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + (
        (word >> np.uint64(2)) & np.uint64(0x3333333333333333)
    )
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return int((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@kernel
def alive_rows(doc: int, size: int, alive: NDArray[np.bool_], bits: U64, ranks: U32) -> bool:
    """A bit for each row whose passage is alive, and the bits set before each word.

    Args:
        doc: Address of the passages of the rows, uint32.
        size: How many rows there are.
        alive: For each passage.
        bits: Zeros, [size // 64 + 1].
        ranks: Written, [size // 64 + 1].

    Returns:
        False if a row names a passage that does not exist.
    """
    passages = as_u32(doc, size)
    total = 0
    for word in range(len(bits)):
        ranks[word] = total
        value = np.uint64(0)
        for i in range(word * 64, min(word * 64 + 64, size)):
            if passages[i] >= len(alive):
                return False
            if alive[passages[i]]:
                value |= np.uint64(1) << np.uint64(i & 63)
        bits[word] = value
        total += popcount(value)
    return True
