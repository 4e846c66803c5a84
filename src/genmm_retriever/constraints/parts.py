"""One static radix trie: the steps of a search over its arrays."""

from __future__ import annotations

import ctypes
import threading
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genmm_retriever.constraints.radix import RadixArrays
from genmm_retriever.constraints.ragged import Ints, ragged_ranges, ragged_sums

ABSENT = -(1 << 40)
"""Target of a row that has no identifier in a part."""
_FEW = 64
"""Rows whose edges are looked for one by one on a CPU."""


@dataclass(frozen=True, eq=False)
class OnDevice:
    """What the search touches at every step; see `RadixArrays`."""

    edge_token: Tensor
    edge_target: Tensor
    edge_null: Tensor
    node_edges: Tensor
    node_leaves: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of these arrays."""
        return sum(tensor.nbytes for tensor in vars(self).values())


class TriePart:
    """A static radix trie.

    A row stands on the way to a *target*, a branching node or the complement of a leaf: what it
    has written is a prefix of every leaf under the target. It may have tokens left to write
    before it is there.
    """

    def __init__(self, arrays: RadixArrays) -> None:
        self.arrays = arrays
        self._lock = threading.Lock()
        self._devices: dict[torch.device, OnDevice] = {}

    def on(self, device: torch.device) -> OnDevice:
        """The arrays on a device, copied there once; on the CPU they are shared."""
        found = self._devices.get(device)
        if found is None:
            with self._lock:
                found = self._devices.get(device)
                if found is None:
                    names = OnDevice.__dataclass_fields__
                    tensors = {name: _tensor(getattr(self.arrays, name), device) for name in names}
                    found = self._devices[device] = OnDevice(**tensors)
        return found

    @property
    def end(self) -> int:
        """The token that ends every sequence; -1 if there is none."""
        return int(self.arrays.leaf_tokens[-1]) if self.arrays.leaves else -1

    def interval(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """First leaf under each target and one past the last; (0, 0) where absent."""
        leaves = self.on(target.device).node_leaves[target.clamp(min=0)].long()
        leaf, node = ~target, target >= 0
        low = torch.where(node, leaves[:, 0], leaf)
        high = torch.where(node, leaves[:, 1], leaf + 1)
        here = target > ABSENT
        return low * here, high * here

    def leaves(self, target: Tensor) -> Tensor:
        """How many leaves are under each target, int64; 0 where absent."""
        bounds = self.on(target.device).node_leaves[target.clamp(min=0)]
        return torch.where(target >= 0, bounds[:, 1] - bounds[:, 0], target > ABSENT).long()

    def bounds(self, target: Ints) -> tuple[Ints, Ints]:
        """As `interval`, on the host."""
        low, high = self.interval(torch.from_numpy(target))
        return low.numpy(), high.numpy()

    def first_leaf(self, target: Ints) -> Ints:
        """The first leaf under each target; 0 where absent."""
        leaf = np.where(target >= 0, self.arrays.node_leaves[np.maximum(target, 0), 0], ~target)
        return np.where(target > ABSENT, leaf, 0)

    def target_depth(self, target: Ints) -> Ints:
        """Tokens above each target; 0 where absent."""
        depth: Ints = self.arrays.node_depth[np.maximum(target, 0)].astype(np.int64)
        leaf = np.flatnonzero((target < 0) & (target > ABSENT))
        depth[leaf] = self.lengths(~target[leaf])
        depth[target == ABSENT] = 0
        return depth

    def lengths(self, leaf: Ints) -> Ints:
        """Tokens of each leaf, end token included."""
        lengths: Ints = self.arrays.leaf_offsets[leaf + 1] - self.arrays.leaf_offsets[leaf]
        return lengths

    def at(self, leaf: Ints, depth: Ints) -> tuple[Ints, NDArray[np.float32]]:
        """The token of each leaf at a depth, and its unconditional log-probability."""
        place = self.arrays.leaf_offsets[leaf] + depth
        tokens = self.arrays.leaf_tokens[place].astype(np.int64)
        return tokens, self.arrays.leaf_null[place].astype(np.float32)

    def null_sums(self, leaf: Ints, begin: Ints, end: Ints) -> NDArray[np.float64]:
        """Sum of the log-probabilities of tokens `begin` to `end` of each leaf, [n]."""
        starts = self.arrays.leaf_offsets[leaf] + begin
        return ragged_sums(self.arrays.leaf_null, starts, end - begin)

    def spans(self, leaf: Ints, begin: Ints, end: Ints) -> list[list[int]]:
        """Tokens `begin` to `end` of each leaf."""
        starts = self.arrays.leaf_offsets[leaf] + begin
        counts = end - begin
        taken = self.arrays.leaf_tokens[ragged_ranges(starts, counts)].tolist()
        bounds = np.cumsum(counts).tolist()
        return [taken[b - n : b] for b, n in zip(bounds, counts.tolist(), strict=True)]

    def padded(self, leaf: Ints, begin: Ints, width: int) -> Ints:
        """The next `width` tokens of each leaf, [n, width]; -1 behind the end."""
        place = (self.arrays.leaf_offsets[leaf] + begin)[:, None] + np.arange(width)
        inside = place < self.arrays.leaf_offsets[leaf + 1][:, None]
        tokens: Ints = np.where(inside, self.arrays.leaf_tokens[place * inside], -1)
        return tokens

    def edge(self, target: Tensor, tokens: Tensor) -> Tensor:
        """Where the edge of each node by a token leads; ABSENT if there is none.

        Args:
            target: Nodes; anything else has no edges, [n], int64.
            tokens: [n], int64.
        """
        if target.device.type == "cpu" and len(target) <= _FEW:
            return self._edges_of_few(target, tokens)
        on = self.on(target.device)
        node = target.clamp(min=0)
        low = on.node_edges[node].long()
        end = torch.where(target >= 0, on.node_edges[node + 1].long(), low)
        high, last = end, len(on.edge_token) - 1
        widest = int((end - low).max()) if len(low) else 0
        for _ in range(widest.bit_length()):
            middle = (low + high) // 2
            below = (on.edge_token[middle.clamp(max=last)] < tokens) & (low < high)
            low = torch.where(below, middle + 1, low)
            high = torch.where(below, high, middle)
        if last < 0:
            return torch.full_like(target, ABSENT)
        edge = low.clamp(max=last)
        found = (low < end) & (on.edge_token[edge] == tokens)
        return torch.where(found, on.edge_target[edge].long(), ABSENT)

    def _edges_of_few(self, target: Tensor, tokens: Tensor) -> Tensor:
        """As `edge`: to search row by row takes less than to prepare many steps for all."""
        arrays, found = self.arrays, []
        for node, token in zip(target.tolist(), tokens.tolist(), strict=True):
            there = ABSENT
            if node >= 0:
                low, end = int(arrays.node_edges[node]), int(arrays.node_edges[node + 1])
                edge = bisect_left(arrays.edge_token, token, low, end)
                if edge < end and arrays.edge_token[edge] == token:
                    there = int(arrays.edge_target[edge])
            found.append(there)
        return torch.tensor(found, dtype=torch.int64)

    def walk(self, target: Ints, leaf: Ints, depth: Ints) -> Ints:
        """Follow edges along a leaf's tokens until each target is at least at a depth.

        Args:
            target: Where the rows stand, [n].
            leaf: A leaf under each target that leads the way, [n].
            depth: The depth to be reached, [n].
        """
        target = target.copy()
        while True:
            above = self.arrays.node_depth[np.maximum(target, 0)].astype(np.int64)
            rows = np.flatnonzero((target >= 0) & (above < depth))
            if not len(rows):
                return target
            tokens, _ = self.at(leaf[rows], above[rows])
            found = self.edge(torch.from_numpy(target[rows]), torch.from_numpy(tokens))
            target[rows] = found.numpy()


def _tensor(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """A tensor over the array; nothing is copied on the CPU.

    torch warns of arrays that may not be written, as memory maps are, though nothing writes
    here; hence the detour over the address.
    """
    if not array.flags.writeable:
        array = np.ascontiguousarray(array)
        memory: Any = (ctypes.c_byte * array.nbytes).from_address(array.ctypes.data)
        memory.owner = array
        shown = np.frombuffer(memory, dtype=array.dtype) if array.nbytes else array.copy()
        array = shown.reshape(array.shape)
    return torch.from_numpy(array).to(device)
