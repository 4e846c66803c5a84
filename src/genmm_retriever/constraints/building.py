"""From token sequences to the flat arrays of a trie, a level at a time, never a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from genmm_retriever.errors import InputError

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TrieArrays:
    """A trie of N nodes over U distinct sequences (leaves), breadth first.

    Nodes are numbered level by level and, within a level, in the order of their sequences, so
    the children of a node are neighbours, sorted by token. Leaves are numbered in
    lexicographic order, so the leaves under a node are an interval. Node 0 is the root.

    Attributes:
        node_token: The token on the edge into each node, [N], int32; -1 for the root.
        node_child: Children of node i are `node_child[i]:node_child[i + 1]`, [N + 1], int32.
        node_leaves: The leaves under each node, [N, 2], int32, end exclusive.
        node_null: Unconditional log-probability (nats) of the edge's token, [N], float16.
        level_start: First node of each depth, [longest + 2], int64.
        leaf_tokens: All distinct sequences end to end, sorted, int32.
        leaf_offsets: Where each sequence begins, [U + 1], int64.
        item_rows: The items of all leaves end to end, int64.
        item_offsets: Where each leaf's items begin, [U + 1], int64.
    """

    node_token: NDArray[np.int32]
    node_child: NDArray[np.int32]
    node_leaves: NDArray[np.int32]
    node_null: NDArray[np.float16]
    level_start: Ints
    leaf_tokens: NDArray[np.int32]
    leaf_offsets: Ints
    item_rows: Ints
    item_offsets: Ints

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of the arrays."""
        return tuple(field.name for field in fields(cls))


@dataclass(frozen=True, eq=False)
class _Flat:
    """The input end to end: sequence i is `tokens[offsets[i]:offsets[i + 1]]`."""

    tokens: Ints
    offsets: Ints
    items: Ints
    null: NDArray[np.float32]

    @property
    def lengths(self) -> Ints:
        return np.diff(self.offsets)


@dataclass(eq=False)
class _Level:
    """The nodes of one depth; `low` and `high` are positions in the sorted order."""

    token: Ints
    parent: Ints
    low: Ints
    high: Ints
    null: NDArray[np.float32]


def build_arrays(
    sequences: Sequence[Sequence[int]],
    items: Sequence[int] | Ints,
    null_logprobs: Sequence[Sequence[float]] | None = None,
) -> TrieArrays:
    """Sort the sequences and lay out their trie.

    Args:
        sequences: Token ids of each identifier, all ended by the same end token, which occurs
            nowhere else. Equal sequences share a leaf.
        items: The item (row of the index) that each sequence names.
        null_logprobs: Log-probability (nats) of each token without a query; zeros if None. The
            log-probability of an edge is that of the first sequence that passes it.

    Returns:
        The arrays; about 20 bytes a node, and one pass of sorting a level.

    Raises:
        InputError: If lengths disagree, a sequence is empty or not ended by the end token, a
            token is negative, or a log-probability is not finite.
    """
    flat = _flatten(sequences, items, null_logprobs)
    perm = np.arange(len(flat.lengths), dtype=np.int64)
    group = np.zeros(len(perm), dtype=np.int64)
    levels = _sorted_levels(flat, perm, group)
    first = np.ones(len(perm), dtype=bool)
    first[1:] = group[1:] != group[:-1]
    leaf_of = np.cumsum(first) - 1
    leaves = perm[first]
    item_rows, item_offsets = _leaf_items(leaf_of, flat.items[perm], len(leaves))
    lengths = flat.lengths[leaves]
    parents = np.concatenate([level.parent for level in levels] or [np.zeros(0, np.int64)])
    low = np.concatenate([[0], *(leaf_of[level.low] for level in levels)])
    high = np.concatenate([[len(leaves)], *(leaf_of[level.high - 1] + 1 for level in levels)])
    null = np.concatenate([[0.0], *(level.null for level in levels)])
    sizes = [0, 1, *(len(level.token) for level in levels)]
    return TrieArrays(
        node_token=np.concatenate([[-1], *(level.token for level in levels)]).astype(np.int32),
        node_child=(1 + np.searchsorted(parents, np.arange(len(parents) + 2))).astype(np.int32),
        node_leaves=np.stack([low, high], axis=1).astype(np.int32),
        node_null=np.clip(null, -6e4, 0.0).astype(np.float16),
        level_start=np.cumsum(sizes, dtype=np.int64),
        leaf_tokens=flat.tokens[ragged_ranges(flat.offsets[leaves], lengths)].astype(np.int32),
        leaf_offsets=_offsets(lengths),
        item_rows=item_rows,
        item_offsets=item_offsets,
    )


def ragged_ranges(starts: Ints, counts: Ints) -> Ints:
    """The ranges `starts[i]:starts[i] + counts[i]` end to end."""
    ends = np.cumsum(counts)
    shift: Ints = np.repeat(starts - (ends - counts), counts)
    shift += np.arange(len(shift))
    return shift


def _offsets(counts: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _flatten(
    sequences: Sequence[Sequence[int]],
    items: Sequence[int] | Ints,
    null_logprobs: Sequence[Sequence[float]] | None,
) -> _Flat:
    count = len(sequences)
    if len(items) != count:
        raise InputError(f"{count} sequences but {len(items)} items", "give one item a sequence")
    lengths = np.fromiter(map(len, sequences), np.int64, count)
    tokens = np.fromiter(chain.from_iterable(sequences), np.int64, int(lengths.sum()))
    offsets = _offsets(lengths)
    if null_logprobs is None:
        null = np.zeros(len(tokens), dtype=np.float32)
    else:
        null = np.fromiter(chain.from_iterable(null_logprobs), np.float32)
        given = np.fromiter(map(len, null_logprobs), np.int64, len(null_logprobs))
        if not np.array_equal(given, lengths):
            raise InputError(
                "the null log-probabilities do not match the sequences", "give one a token"
            )
        if not np.isfinite(null).all() or (null > 1e-3).any():
            raise InputError(
                "a null log-probability is not finite or above zero",
                "give natural logarithms of probabilities",
            )
    flat = _Flat(tokens, offsets, np.asarray(items, dtype=np.int64), null)
    if count:
        _check_tokens(flat)
    return flat


def _check_tokens(flat: _Flat) -> None:
    if (flat.lengths == 0).any():
        raise InputError(
            f"sequence {int(np.argmin(flat.lengths))} is empty",
            "end every sequence by the end token",
        )
    if flat.tokens.min() < 0 or flat.tokens.max() >= 2**31 - 1:
        raise InputError("a token id is negative or too large", "token ids lie in [0, 2**31 - 1)")
    last = flat.tokens[flat.offsets[1:] - 1]
    odd = np.flatnonzero(last != last[0])
    if len(odd):
        raise InputError(
            f"sequence {odd[0]} ends by token {last[odd[0]]}, the first by {last[0]}",
            "end every sequence by the same end token",
        )
    ends = np.flatnonzero(flat.tokens == last[0])
    if len(ends) != len(last):
        inside = ends[~np.isin(ends, flat.offsets[1:] - 1)][0]
        where = int(np.searchsorted(flat.offsets, inside, side="right")) - 1
        raise InputError(
            f"sequence {where} has the end token {int(last[0])} in its middle",
            "the end token may only come last",
        )
    if flat.items.min() < 0:
        raise InputError("an item row is negative", "rows count from 0")


def _sorted_levels(flat: _Flat, perm: Ints, group: Ints) -> list[_Level]:
    """Sort `perm` lexicographically, in place, one level of the trie at a time.

    `group` becomes the node of each position at its own last level. Rows of one group are
    neighbours, since no sequence is a prefix of a longer one once the end token is counted.
    """
    levels: list[_Level] = []
    base = int(flat.tokens.max()) + 1 if len(flat.tokens) else 1
    active = np.arange(len(perm), dtype=np.int64)
    next_node = 1
    for depth in range(int(flat.lengths.max()) if len(perm) else 0):
        rows = perm[active]
        key = group[active] * base + flat.tokens[flat.offsets[rows] + depth]
        order = np.argsort(key, kind="stable")
        rows, key = rows[order], key[order]
        perm[active] = rows
        starts = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
        counts = np.diff(np.append(starts, len(key)))
        group[active] = np.repeat(next_node + np.arange(len(starts)), counts)
        low = active[starts]
        levels.append(
            _Level(
                token=key[starts] % base,
                parent=key[starts] // base,
                low=low,
                high=low + counts,
                null=flat.null[flat.offsets[rows[starts]] + depth],
            )
        )
        next_node += len(starts)
        active = active[flat.lengths[rows] > depth + 1]
    return levels


def _leaf_items(leaf_of: Ints, items: Ints, leaves: int) -> tuple[Ints, Ints]:
    """Items by leaf, each once, in the order given; and the offsets of the leaves."""
    order = np.lexsort((items, leaf_of))
    again = np.zeros(len(order), dtype=bool)
    again[1:] = (np.diff(items[order]) == 0) & (np.diff(leaf_of[order]) == 0)
    keep = np.sort(order[~again])
    return items[keep], _offsets(np.bincount(leaf_of[keep], minlength=leaves))
