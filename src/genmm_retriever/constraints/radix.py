"""The flat arrays of a radix trie: rows for branching nodes, tails left where they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from genmm_retriever.constraints.ragged import Ints
from genmm_retriever.errors import IndexDamagedError


@dataclass(frozen=True, eq=False)
class RadixArrays:
    """A trie of B branching nodes and E edges over U distinct sequences (leaves).

    Only the root (node 0) and nodes with two edges or more are there; the tokens between are
    read from the leaves. Leaves are in lexicographic order, so those under a node are an
    interval. Nodes are in order of their depth, then of their leaves.

    Attributes:
        edge_token: First token of each edge, ascending within a node, [E], int32.
        edge_target: Where each edge leads: a node, or the complement of a leaf, [E], int32.
        edge_null: Unconditional log-probability (nats) of the first token, [E], float16.
        node_edges: Edges of node i are `node_edges[i]:node_edges[i + 1]`, [B + 1], int32.
        node_leaves: The leaves under each node, [B, 2], int32, end exclusive.
        node_depth: Tokens above each node, [B], uint16 (int32 if longer).
        node_least_null: The lowest sum of log-probabilities from there to a leaf, [B], float32.
        leaf_tokens: All sequences end to end, [T], int32.
        leaf_null: Unconditional log-probability of each of these tokens, [T], float16.
        leaf_offsets: Where each sequence begins, [U + 1], int64.
        item_rows: The items of all leaves end to end, int64.
        item_offsets: Where each leaf's items begin, [U + 1], int64.
    """

    edge_token: NDArray[np.int32]
    edge_target: NDArray[np.int32]
    edge_null: NDArray[np.float16]
    node_edges: NDArray[np.int32]
    node_leaves: NDArray[np.int32]
    node_depth: NDArray[np.integer]
    node_least_null: NDArray[np.float32]
    leaf_tokens: NDArray[np.int32]
    leaf_null: NDArray[np.float16]
    leaf_offsets: Ints
    item_rows: Ints
    item_offsets: Ints

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of the arrays."""
        return tuple(field.name for field in fields(cls))

    @property
    def leaves(self) -> int:
        """U, the number of distinct sequences."""
        return len(self.leaf_offsets) - 1

    def to_dict(self) -> dict[str, NDArray[np.generic]]:
        """The arrays by name."""
        return {name: getattr(self, name) for name in self.names()}

    @classmethod
    def from_dict(cls, arrays: Mapping[str, NDArray[np.generic]], prefix: str = "") -> RadixArrays:
        """The arrays that `to_dict` named, each name after `prefix`; nothing is read through.

        Raises:
            IndexDamagedError: If an array is missing or the sizes do not fit together.
        """
        missing = [name for name in cls.names() if prefix + name not in arrays]
        if missing:
            raise IndexDamagedError(f"the trie lacks {', '.join(missing)}", "build the index again")
        found = cls(**{name: arrays[prefix + name] for name in cls.names()})  # type: ignore[arg-type]
        if not found._fits():
            raise IndexDamagedError("the trie's arrays disagree in size", "build the index again")
        return found

    def _fits(self) -> bool:
        edges, nodes, leaves = len(self.edge_token), len(self.node_depth), self.leaves
        kinds = all(
            getattr(self, name).dtype == kind
            for name, kind in _KINDS.items()
            if name != "node_depth"
        )
        return (
            kinds
            and self.node_depth.dtype in (np.uint16, np.int32)
            and nodes > 0
            and leaves >= 0
            and edges == nodes - 1 + leaves
            and self.edge_target.shape == (edges,)
            and self.edge_null.shape == (edges,)
            and self.node_edges.shape == (nodes + 1,)
            and self.node_leaves.shape == (nodes, 2)
            and self.node_least_null.shape == (nodes,)
            and self.item_offsets.shape == (leaves + 1,)
            and len(self.leaf_null) == len(self.leaf_tokens)
            and self.node_edges[0] == 0
            and self.node_edges[-1] == edges
            and tuple(self.node_leaves[0]) == (0, leaves)
            and self.leaf_offsets[0] == 0
            and self.leaf_offsets[-1] == len(self.leaf_tokens)
            and self.item_offsets[0] == 0
            and self.item_offsets[-1] == len(self.item_rows)
        )


_KINDS: dict[str, type[np.generic]] = {
    "edge_token": np.int32,
    "edge_target": np.int32,
    "edge_null": np.float16,
    "node_edges": np.int32,
    "node_leaves": np.int32,
    "node_least_null": np.float32,
    "leaf_tokens": np.int32,
    "leaf_null": np.float16,
    "leaf_offsets": np.int64,
    "item_rows": np.int64,
    "item_offsets": np.int64,
}
