"""The token trie: all identifiers of an index, as a constraint on decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genmm_retriever.constraints.base import Completions, ConstraintState, LegalTokens, Subsets
from genmm_retriever.constraints.building import Ints, TrieArrays, build_arrays
from genmm_retriever.errors import IndexDamagedError, InputError


@dataclass(frozen=True, eq=False)
class TrieState(ConstraintState):
    """Rows that stand at nodes of the trie.

    Attributes:
        node: Node of each row, [n], int64.
        slot: For each query its row in `alive`, [Q], int64.
        alive: Alive leaves before each leaf, [distinct subsets, U + 1], int32; None if no query
            is restricted.
        subsets: For each query the rows that may be found, sorted, or None.
    """

    node: Tensor
    slot: Tensor
    alive: Tensor | None
    subsets: tuple[NDArray[np.int64] | None, ...]


@dataclass(frozen=True, eq=False)
class _OnDevice:
    """What the search touches at every step."""

    token: Tensor
    child: Tensor
    low: Tensor
    high: Tensor
    null: Tensor
    least_null: Tensor


class TokenTrie:
    """Identifiers as a trie of tokens; immutable once built.

    Every sequence ends by the same end token, so an identifier may be the beginning of
    another. A subset of items is a prefix sum over the sorted leaves: a node is alive where its
    interval of leaves holds at least one alive leaf, so a filter costs nothing a step.

    Examples:
        >>> trie = TokenTrie.build([[5, 7, 0], [5, 0], [9, 0]], items=[10, 11, 12])
        >>> state = trie.start(1)
        >>> trie.legal(state).tokens.tolist()
        [5, 9]
        >>> state = trie.advance(state, torch.tensor([0]), torch.tensor([5]))
        >>> trie.legal(state).tokens.tolist(), trie.legal(state).finishes.tolist()
        ([0, 7], [True, False])
    """

    def __init__(self, arrays: TrieArrays) -> None:
        self._arrays = arrays
        self._node_null, self._leaf_null, self._least_null = _null_totals(arrays)
        self._devices: dict[torch.device, _OnDevice] = {}

    @classmethod
    def build(
        cls,
        sequences: Sequence[Sequence[int]],
        items: Sequence[int] | NDArray[np.int64],
        null_logprobs: Sequence[Sequence[float]] | None = None,
    ) -> TokenTrie:
        """Build from identifiers in any order.

        Args:
            sequences: Token ids of each identifier, all ended by the same end token.
            items: The item (row of the index) that each sequence names; an item may have
                several sequences, and a sequence several items.
            null_logprobs: Log-probability (nats) of each token without a query; zeros if None.

        Raises:
            InputError: If the sequences, items and log-probabilities do not fit together.
        """
        return cls(build_arrays(sequences, items, null_logprobs))

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """The arrays to keep on disk, by name."""
        return {name: getattr(self._arrays, name) for name in TrieArrays.names()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> TokenTrie:
        """The trie that `to_arrays` described; arrays may be memory-mapped.

        Raises:
            IndexDamagedError: If an array is missing or the sizes do not fit together.
        """
        missing = [name for name in TrieArrays.names() if name not in arrays]
        if missing:
            raise IndexDamagedError(f"the trie lacks {', '.join(missing)}", "build the index again")
        trie = TrieArrays(**{name: arrays[name] for name in TrieArrays.names()})  # type: ignore[arg-type]
        nodes, leaves = len(trie.node_token), len(trie.leaf_offsets) - 1
        fits = (
            nodes > 0
            and trie.node_child.shape == (nodes + 1,)
            and trie.node_leaves.shape == (nodes, 2)
            and trie.node_null.shape == (nodes,)
            and trie.level_start[-1] == nodes
            and trie.item_offsets.shape == (leaves + 1,)
            and len(trie.leaf_tokens) == trie.leaf_offsets[-1]
            and len(trie.item_rows) == trie.item_offsets[-1]
        )
        if not fits:
            raise IndexDamagedError("the trie's arrays disagree in size", "build the index again")
        return cls(trie)

    def __len__(self) -> int:
        """The number of distinct identifiers."""
        return len(self._arrays.leaf_offsets) - 1

    @property
    def nodes(self) -> int:
        """The number of nodes, root and leaves included."""
        return len(self._arrays.node_token)

    @property
    def depth(self) -> int:
        """Tokens of the longest identifier, end token included."""
        return len(self._arrays.level_start) - 2

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.to_arrays().values())

    def start(
        self, batch: int, subsets: Subsets | None = None, *, device: torch.device | str = "cpu"
    ) -> TrieState:
        """One row a query, at the root.

        Args:
            batch: Q, the number of queries.
            subsets: For each query the item rows that may be found, or None for all; None if no
                query is restricted. Unknown rows are ignored; an empty subset finds nothing.
            device: Where the search runs; the trie is copied there once.

        Raises:
            InputError: If there is not one subset a query.
        """
        if subsets is not None and len(subsets) != batch:
            raise InputError(f"{batch} queries but {len(subsets)} subsets", "give one a query")
        given = [None if s is None else np.asarray(s, dtype=np.int64) for s in subsets or ()]
        alive: Tensor | None = None
        slot = torch.zeros(batch, dtype=torch.int64, device=device)
        if any(subset is not None for subset in given):
            # Queries usually share one filter object: its prefix sum is computed once.
            slots: dict[int, int] = {}
            sums: list[NDArray[np.int32]] = []
            for raw, subset in zip(subsets or (), given, strict=True):
                if id(raw) not in slots:
                    slots[id(raw)] = len(sums)
                    sums.append(self._alive_before(subset))
            slot = torch.tensor([slots[id(raw)] for raw in subsets or ()], device=device)
            alive = torch.from_numpy(np.stack(sums)).to(device)
        return TrieState(
            query=torch.arange(batch, device=device),
            node=torch.zeros(batch, dtype=torch.int64, device=device),
            slot=slot,
            alive=alive,
            subsets=tuple(given) if given else (None,) * batch,
        )

    def legal(self, state: TrieState) -> LegalTokens:
        """The children that still lead to an alive identifier."""
        on = self._on(state.node.device)
        first = on.child[state.node].long()
        counts = on.child[state.node + 1].long() - first
        rows, nodes = _expand(first, counts)
        if state.alive is not None:
            lives = self._count(state, state.query[rows], nodes) > 0
            rows, nodes = rows[lives], nodes[lives]
            counts = torch.bincount(rows, minlength=len(counts))
        return LegalTokens(
            offsets=torch.nn.functional.pad(counts.cumsum(0), (1, 0)),
            rows=rows,
            tokens=on.token[nodes].long(),
            null_logprobs=on.null[nodes].float(),
            finishes=on.child[nodes + 1] == on.child[nodes],
        )

    def advance(self, state: TrieState, parents: Tensor, tokens: Tensor) -> TrieState:
        """Walk along one edge a row; each token is found by binary search in its row.

        Raises:
            InputError: If a token is not legal after its row.
        """
        on = self._on(state.node.device)
        low = on.child[state.node[parents]].long()
        end = on.child[state.node[parents] + 1].long()
        high, query = end, state.query[parents]
        last = len(on.token) - 1
        widest = int((end - low).max()) if len(low) else 0
        for _ in range(widest.bit_length()):
            middle = (low + high) // 2
            below = (on.token[middle.clamp(max=last)] < tokens) & (low < high)
            low = torch.where(below, middle + 1, low)
            high = torch.where(below, high, middle)
        node = low.clamp(max=last)
        found = (low < end) & (on.token[node] == tokens) & (self._count(state, query, node) > 0)
        if not bool(found.all()):
            bad = int(tokens[~found][0])
            raise InputError(f"token {bad} is not legal here", "take tokens from `legal`")
        return TrieState(query, node, state.slot, state.alive, state.subsets)

    def remaining(self, state: TrieState) -> Tensor:
        """Alive identifiers under each row, [n], int64."""
        return self._count(state, state.query, state.node).long()

    def least_null_logprob(self, state: TrieState) -> Tensor:
        """The lowest unconditional log-probability of a tail under each row, [n], float32."""
        return self._on(state.node.device).least_null[state.node]

    def completions(self, state: TrieState) -> Completions:
        """Every alive identifier under every row, with the tokens that are missing."""
        on, arrays = self._on(state.node.device), self._arrays
        low, high = on.low[state.node].long(), on.high[state.node].long()
        rows, leaves = _expand(low, high - low)
        if state.alive is not None:
            slot = state.slot[state.query[rows]]
            lives = state.alive[slot, leaves + 1] > state.alive[slot, leaves]
            rows, leaves = rows[lives], leaves[lives]
        leaf: Ints = leaves.cpu().numpy()
        node: Ints = state.node[rows].cpu().numpy()
        depth = np.searchsorted(arrays.level_start, node, side="right") - 1
        starts, stops = arrays.leaf_offsets[leaf] + depth, arrays.leaf_offsets[leaf + 1]
        spans = zip(starts.tolist(), stops.tolist(), strict=True)
        null = self._leaf_null[leaf] - self._node_null[node]
        return Completions(
            rows=rows,
            tails=[arrays.leaf_tokens[start:stop].tolist() for start, stop in spans],
            null_logprobs=torch.from_numpy(null.astype(np.float32)).to(rows.device),
            items=self._items(leaf, state.query[rows].tolist(), state.subsets),
        )

    def documents(self, state: TrieState) -> list[tuple[int, ...]]:
        """The items of the identifier that each row has completed, within its subset."""
        arrays = self._arrays
        node: Ints = state.node.cpu().numpy()
        done = (arrays.node_child[node + 1] == arrays.node_child[node]) & (node > 0)
        leaf = arrays.node_leaves[node, 0].astype(np.int64)
        items = iter(self._items(leaf[done], state.query.cpu()[done].tolist(), state.subsets))
        return [next(items) if finished else () for finished in done.tolist()]

    def sequences(self) -> list[tuple[int, ...]]:
        """All identifiers, sorted."""
        bounds = self._arrays.leaf_offsets.tolist()
        tokens = self._arrays.leaf_tokens.tolist()
        return [tuple(tokens[a:b]) for a, b in pairwise(bounds)]

    def _items(
        self, leaf: Ints, query: list[int], subsets: tuple[NDArray[np.int64] | None, ...]
    ) -> list[tuple[int, ...]]:
        offsets, rows = self._arrays.item_offsets, self._arrays.item_rows
        found: list[tuple[int, ...]] = []
        for one, of in zip(leaf.tolist(), query, strict=True):
            items = rows[offsets[one] : offsets[one + 1]]
            subset = subsets[of]
            # An alive leaf of one item needs no look-up: it is the item that keeps it alive.
            if subset is not None and len(items) > 1:
                items = items[np.isin(items, subset)]
            found.append(tuple(items.tolist()))
        return found

    def _alive_before(self, subset: NDArray[np.int64] | None) -> NDArray[np.int32]:
        if subset is None:
            return np.arange(len(self) + 1, dtype=np.int32)
        before = np.zeros(len(self) + 1, dtype=np.int32)
        if len(self):
            hit = np.isin(self._arrays.item_rows, subset).astype(np.int32)
            alive = np.maximum.reduceat(hit, self._arrays.item_offsets[:-1])
            np.cumsum(alive, out=before[1:])
        return before

    def _count(self, state: TrieState, query: Tensor, node: Tensor) -> Tensor:
        on = self._on(node.device)
        low, high = on.low[node].long(), on.high[node].long()
        if state.alive is None:
            return high - low
        slot = state.slot[query]
        return state.alive[slot, high] - state.alive[slot, low]

    def _on(self, device: torch.device) -> _OnDevice:
        if device not in self._devices:
            arrays = self._arrays
            self._devices[device] = _OnDevice(
                token=torch.tensor(arrays.node_token, device=device),
                child=torch.tensor(arrays.node_child, device=device),
                low=torch.tensor(arrays.node_leaves[:, 0], device=device),
                high=torch.tensor(arrays.node_leaves[:, 1], device=device),
                null=torch.tensor(arrays.node_null, device=device),
                least_null=torch.tensor(self._least_null, device=device),
            )
        return self._devices[device]


def _expand(first: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """The ranges `first[i]:first[i] + counts[i]` end to end, with the i of each entry."""
    ends = counts.cumsum(0)
    rows = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    return rows, torch.arange(len(rows), device=counts.device) + (first - ends + counts)[rows]


def _null_totals(
    arrays: TrieArrays,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float32]]:
    """Unconditional log-probabilities along the paths of the trie.

    Returns:
        The sum from the root to each node; that to each leaf; and the lowest sum from each node
        to any leaf under it.
    """
    child = arrays.node_child.astype(np.int64)
    counts = np.diff(child)
    parent = np.repeat(np.arange(len(counts)), counts)
    node = arrays.node_null.astype(np.float64)
    for low, high in zip(arrays.level_start[1:-1], arrays.level_start[2:], strict=True):
        node[low:high] += node[parent[low - 1 : high - 1]]
    leaves = np.flatnonzero(counts == 0)
    total = np.empty(len(arrays.leaf_offsets) - 1)
    if not len(total):
        return node, total, np.zeros(len(node), dtype=np.float32)
    total[arrays.node_leaves[leaves, 0]] = node[leaves]
    # reduceat takes pairs (low, high); the padding lets the last interval end at U.
    bounds = arrays.node_leaves.astype(np.int64).ravel()
    lowest = np.minimum.reduceat(np.append(total, np.inf), bounds)[::2]
    return node, total, (lowest - node).astype(np.float32)
