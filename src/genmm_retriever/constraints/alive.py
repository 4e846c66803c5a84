"""Which leaves may be found: subsets of items and tombstones as prefix sums over the leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genmm_retriever.constraints.parts import TriePart
from genmm_retriever.constraints.ragged import Ints

Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Alive:
    """Alive leaves of a part, for S distinct subsets end to end.

    Attributes:
        before: Alive leaves before each leaf and before each subset, ascending,
            [S * (U + 1)], int32 (int64 if many).
        tensor: The same on the device of the search.
        stride: U + 1.
    """

    before: NDArray[np.integer]
    tensor: Tensor
    stride: int

    def count(self, slot: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Alive leaves in each interval, [n], int64."""
        base = slot * self.stride
        return (self.tensor[base + high] - self.tensor[base + low]).long()

    def lives(self, slot: Ints, leaf: Ints) -> Bools:
        """Whether each leaf is alive."""
        place = slot * self.stride + leaf
        found: Bools = self.before[place + 1] > self.before[place]
        return found

    def first(self, slot: Ints, low: Ints) -> Ints:
        """The first alive leaf from `low` on; there must be one."""
        base = slot * self.stride
        found: Ints = np.searchsorted(self.before, self.before[base + low], side="right") - 1
        return found - base

    def last(self, slot: Ints, high: Ints) -> Ints:
        """The last alive leaf before `high`; there must be one."""
        base = slot * self.stride
        found: Ints = np.searchsorted(self.before, self.before[base + high], side="left") - 1
        return found - base


@dataclass(frozen=True, eq=False)
class View:
    """What a search may find.

    Attributes:
        slot: The distinct subset of each query, [Q], int64.
        host_slot: The same on the host.
        parts: For each part its alive leaves; None if all are.
        allowed: For each distinct subset whether each item may be found; None if all may.
    """

    slot: Tensor
    host_slot: Ints
    parts: tuple[Alive | None, ...]
    allowed: tuple[Bools | None, ...]

    def items(self, query: int, rows: Ints) -> list[int]:
        """Those of the rows that the query may find."""
        allowed = self.allowed[int(self.host_slot[query])]
        found: list[int] = (rows if allowed is None else rows[allowed[rows]]).tolist()
        return found


def allowed_items(rows: int, subset: Ints | None, dead: Ints) -> Bools | None:
    """Whether each item below `rows` may be found; None if all may."""
    if subset is None and not len(dead):
        return None
    allowed = np.full(rows, subset is None)
    if subset is not None:
        allowed[subset[(subset >= 0) & (subset < rows)]] = True
    allowed[dead[dead < rows]] = False
    return allowed


def alive_leaves(part: TriePart, allowed: Bools | None) -> Bools | None:
    """Leaves with an item that may be found; None if all have."""
    arrays = part.arrays
    if allowed is None:
        return None
    hit: Bools = allowed[arrays.item_rows]
    if len(hit) == arrays.leaves:
        return hit
    found: Bools = np.logical_or.reduceat(hit, arrays.item_offsets[:-1])
    return found


def prefix_sums(
    masks: Sequence[Bools | None], leaves: int, device: torch.device | str
) -> Alive | None:
    """The prefix sums of the masks of S distinct subsets; None if no mask hides anything."""
    if all(mask is None for mask in masks):
        return None
    stride = leaves + 1
    kind = np.int32 if stride * len(masks) < 2**31 else np.int64
    before = np.zeros(stride * len(masks), dtype=kind)
    total = 0
    for slot, mask in enumerate(masks):
        own = before[slot * stride : (slot + 1) * stride]
        if mask is None:
            own[:] = np.arange(stride)
        else:
            np.cumsum(mask, out=own[1:], dtype=kind)
        own += total
        total = int(own[-1])
    return Alive(before, torch.from_numpy(before).to(device), stride)
