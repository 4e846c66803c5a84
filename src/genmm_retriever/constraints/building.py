"""From token sequences to the flat arrays of a radix trie; no Python for each sequence.

Sequences are sorted by keys of several packed tokens, and only ties are looked at again. What
neighbours in that order have in common gives the branching nodes: a node of depth d is an
interval of leaves that share d tokens and no more (an LCP interval; Abouelhoda, Kurtz and
Ohlebusch, J. Discrete Algorithms 2(1), 2004), and all intervals are found at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from genmm_retriever.constraints.radix import RadixArrays
from genmm_retriever.constraints.ragged import (
    Ints,
    chunks,
    gather_rows,
    offsets_of,
    ragged_ranges,
    ragged_sums,
)
from genmm_retriever.constraints.sorting import sort_sequences
from genmm_retriever.errors import InputError

_LEAST_NULL = -6e4
"""What float16 can hold."""


@dataclass(frozen=True, eq=False)
class Flat:
    """Sequences end to end: sequence i is `tokens[offsets[i]:offsets[i + 1]]`.

    Attributes:
        tokens: Token ids, int32 or int64.
        offsets: [n + 1], int64.
        items: The item that each sequence names, [n], int64.
        null: Log-probability (nats) of each token without a query, float16 or float32.
    """

    tokens: NDArray[np.integer]
    offsets: Ints
    items: Ints
    null: NDArray[np.floating]


def flatten(
    sequences: Sequence[Sequence[int]],
    items: Sequence[int] | Ints,
    null_logprobs: Sequence[Sequence[float]] | None = None,
) -> Flat:
    """Lists end to end.

    Raises:
        InputError: If the log-probabilities are not as many as the tokens, sequence by sequence.
    """
    lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
    tokens = np.fromiter(chain.from_iterable(sequences), np.int64, int(lengths.sum()))
    if null_logprobs is None:
        null = np.zeros(len(tokens), dtype=np.float16)
    else:
        given = np.fromiter(map(len, null_logprobs), np.int64, len(null_logprobs))
        if not np.array_equal(given, lengths):
            raise InputError(
                "the null log-probabilities do not match the sequences", "give one a token"
            )
        null = np.fromiter(chain.from_iterable(null_logprobs), np.float32, len(tokens))
    return Flat(tokens, offsets_of(lengths), np.asarray(items, dtype=np.int64), null)


def build_radix(flat: Flat) -> RadixArrays:
    """Sort the sequences and lay out their trie.

    Args:
        flat: Sequences in any order, all ended by the same end token, which occurs nowhere
            else. Equal sequences share a leaf, which keeps the log-probabilities of the first.

    Returns:
        The arrays. A million identifiers of 15 tokens take about a second.

    Raises:
        InputError: If lengths disagree, a sequence is empty or not ended by the end token, a
            token is negative, or a log-probability is not finite.
    """
    check_flat(flat)
    perm, shared, again = sort_sequences(flat.tokens, flat.offsets)
    leaves = perm[~again]
    lengths = np.diff(flat.offsets)[leaves]
    starts = flat.offsets[leaves]
    tokens = gather_rows(flat.tokens, starts, lengths, np.int32)
    null, total = _leaf_null(flat.null, starts, lengths)
    item_rows, item_offsets = _leaf_items(np.cumsum(~again) - 1, flat.items[perm], len(leaves))
    offsets = offsets_of(lengths)
    nodes = _intervals(shared[~again])
    at = offsets[nodes.edge_start] + np.repeat(nodes.depth, np.diff(nodes.edges))
    depth_type = np.uint16 if len(lengths) == 0 or lengths.max() < 2**16 else np.int32
    return RadixArrays(
        edge_token=tokens[at],
        edge_target=nodes.edge_target.astype(np.int32),
        edge_null=null[at],
        node_edges=nodes.edges.astype(np.int32),
        node_leaves=np.stack([nodes.low, nodes.high], axis=1).astype(np.int32),
        node_depth=nodes.depth.astype(depth_type),
        node_least_null=_least_null(nodes, null, total, offsets),
        leaf_tokens=tokens,
        leaf_null=null,
        leaf_offsets=offsets,
        item_rows=item_rows,
        item_offsets=item_offsets,
    )


def check_flat(flat: Flat) -> None:
    """Refuse what is no set of identifiers.

    Raises:
        InputError: As in `build_radix`.
    """
    count = len(flat.offsets) - 1
    if len(flat.items) != count:
        raise InputError(f"{count} sequences but {len(flat.items)} items", "give one item each")
    if len(flat.null) != len(flat.tokens):
        raise InputError(
            "the null log-probabilities do not match the sequences", "give one a token"
        )
    if len(flat.null) and not (flat.null.min() > -np.inf and flat.null.max() <= 1e-3):
        raise InputError(
            "a null log-probability is not finite or above zero",
            "give natural logarithms of probabilities",
        )
    lengths = np.diff(flat.offsets)
    if flat.offsets[0] != 0 or flat.offsets[-1] != len(flat.tokens) or (lengths < 0).any():
        raise InputError("the offsets do not cut up the tokens", "begin at 0, end at their number")
    if count:
        _check_tokens(flat, lengths)


def _check_tokens(flat: Flat, lengths: Ints) -> None:
    if (lengths == 0).any():
        raise InputError(
            f"sequence {int(np.argmin(lengths))} is empty", "end every sequence by the end token"
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


def _leaf_items(leaf_of: Ints, items: Ints, leaves: int) -> tuple[Ints, Ints]:
    """Items by leaf, each once, in the order given; and the offsets of the leaves."""
    if len(items) == leaves:
        return items, np.arange(leaves + 1, dtype=np.int64)
    order = np.lexsort((items, leaf_of))
    again = np.zeros(len(order), dtype=bool)
    again[1:] = (np.diff(items[order]) == 0) & (np.diff(leaf_of[order]) == 0)
    keep = np.sort(order[~again])
    return items[keep], offsets_of(np.bincount(leaf_of[keep], minlength=leaves))


@dataclass(frozen=True, eq=False)
class _Nodes:
    """Branching nodes by depth and place, the root first; edges by node and place.

    Attributes:
        depth: Tokens above each node, [B].
        low: First leaf under each node, [B].
        high: One past the last leaf, [B].
        edges: Where the edges of each node begin, [B + 1].
        edge_start: First leaf under each edge, [E].
        edge_target: Node, or the complement of the leaf, [E].
    """

    depth: Ints
    low: Ints
    high: Ints
    edges: Ints
    edge_start: Ints
    edge_target: Ints


def _intervals(shared: Ints) -> _Nodes:
    """The LCP intervals over U leaves.

    Between two neighbouring leaves lies a split, whose depth is what they share. Splits of one
    depth with nothing shallower between them belong to one node; each begins one edge, and the
    first edge of a node begins where the node begins.
    """
    leaves = len(shared)
    depth = np.append(shared, -1)
    depth[0] = -1
    left, right = _shallower(depth), leaves - _shallower(depth[::-1])[::-1]
    small = depth[1:-1]
    # A stable sort of 16-bit numbers is a radix sort.
    by_depth = small.astype(np.uint16) if leaves < 2 or small.max() < 2**16 else small
    splits = np.argsort(by_depth, kind="stable") + 1 if leaves > 1 else np.zeros(0, np.int64)
    first = np.ones(len(splits), dtype=np.bool_)
    first[1:] = (np.diff(depth[splits]) != 0) | (np.diff(left[splits]) != 0)
    begins = np.flatnonzero(first)
    rooted = bool(len(begins)) and depth[splits[0]] == 0
    if not rooted:  # the root is always there, even with one edge or none
        first = np.concatenate([[True], first])
    node = np.cumsum(first)[int(not rooted) :] - 1
    low = left[splits[begins]]
    high = right[splits[begins]]
    node_depth = depth[splits[begins]]
    edges = np.append(begins, len(splits))
    edges += np.arange(len(edges))
    edge_of = np.zeros(leaves + 1, dtype=np.int64)
    node_of = np.zeros(leaves + 1, dtype=np.int64)
    if not rooted:
        low, high = np.append(0, low), np.append(leaves, high)
        node_depth = np.append(0, node_depth)
        edges = np.append(0, edges + int(leaves > 0))
    edge_of[splits] = np.arange(len(splits)) + node + 1
    node_of[splits] = node
    edge_start = np.zeros(edges[-1], dtype=np.int64)
    edge_start[edges[:-1][np.diff(edges) > 0]] = low[np.diff(edges) > 0]
    edge_start[edge_of[splits]] = splits
    target = ~edge_start
    child = np.arange(1, len(low))
    if not rooted and len(low) > 1:
        target[0] = 1
        child = child[1:]
    at_left = depth[low[child]] >= depth[high[child]]
    parent_edge = np.where(at_left, edge_of[low[child]], edges[node_of[high[child]]])
    target[parent_edge] = child
    return _Nodes(node_depth, low, high, edges, edge_start, target)


def _shallower(depth: Ints) -> Ints:
    """For each place the nearest place before it with a smaller value, by pointer jumping.

    The first value must be smaller than all but those equal to it, and the last likewise; their
    own results are 0. A pass goes over the places still open, at most about the number of
    different values plus the logarithm of the longest run times.
    """
    before = np.arange(-1, len(depth) - 1)
    before[0] = 0
    inner = np.arange(1, len(depth) - 1)
    open_ = inner[depth[before[inner]] >= depth[inner]]
    while len(open_):
        before[open_] = before[before[open_]]
        open_ = open_[depth[before[open_]] >= depth[open_]]
    return before


def _leaf_null(
    given: NDArray[np.floating], starts: Ints, lengths: Ints
) -> tuple[NDArray[np.float16], NDArray[np.float64]]:
    """The log-probabilities of the leaves end to end, and the sum of each leaf."""
    if given.min(initial=0.0) < _LEAST_NULL or given.max(initial=0.0) > 0.0:
        given = np.clip(given, _LEAST_NULL, 0.0)
    null = np.empty(int(lengths.sum()), dtype=np.float16)
    total = np.empty(len(lengths), dtype=np.float64)
    end = 0
    for rows in chunks(len(lengths)):
        part = given.take(ragged_ranges(starts[rows], lengths[rows])).astype(np.float16)
        null[end : end + len(part)] = part
        end += len(part)
        own = offsets_of(lengths[rows])[:-1]
        total[rows] = np.add.reduceat(part.astype(np.float64), own)
    return null, total


def _least_null(
    nodes: _Nodes, null: NDArray[np.float16], total: NDArray[np.float64], offsets: Ints
) -> NDArray[np.float32]:
    """The lowest sum from each node to a leaf under it, [B], float32."""
    if len(offsets) == 1:
        return np.zeros(len(nodes.depth), dtype=np.float32)
    # reduceat takes pairs (low, high); the padding lets the last interval end at U.
    bounds = np.stack([nodes.low, nodes.high], axis=1).ravel()
    lowest = np.minimum.reduceat(np.append(total, np.inf), bounds)[::2]
    above = ragged_sums(null, offsets[nodes.low], nodes.depth)
    return (lowest - above).astype(np.float32)
