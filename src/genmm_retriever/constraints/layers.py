"""The parts of a trie that is updated: a static base, a small overlay, tombstones."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genmm_retriever.constraints.alive import (
    Alive,
    Bools,
    View,
    alive_leaves,
    allowed_items,
    prefix_sums,
)
from genmm_retriever.constraints.base import Subsets
from genmm_retriever.constraints.parts import TriePart
from genmm_retriever.constraints.radix import RadixArrays
from genmm_retriever.constraints.ragged import Ints
from genmm_retriever.errors import IndexDamagedError

BASE, OVERLAY, DEAD = "base/", "overlay/", "dead"
TWIN = OVERLAY + "twin"
_NONE = np.zeros(0, dtype=np.int64)


class Layers:
    """Immutable; updates make new layers that share the base.

    An identifier that base and overlay both have is found in the base for as long as an item
    there may be found, and else in the overlay: what the parts show is always disjoint, and
    counts of the parts add up.

    Args:
        base: The static part.
        overlay: What was inserted since, if anything.
        twin: For each leaf of the overlay the equal one of the base, or -1, [leaves], int64.
        dead: Items that were deleted, sorted, int64.
    """

    def __init__(
        self,
        base: TriePart,
        overlay: TriePart | None = None,
        twin: Ints = _NONE,
        dead: Ints = _NONE,
    ) -> None:
        self.parts: tuple[TriePart, ...] = (base,) if overlay is None else (base, overlay)
        self.twin = twin
        self.dead = dead
        self._lock = threading.Lock()
        self._everything: dict[torch.device, tuple[Alive | None, ...]] = {}

    @cached_property
    def item_bound(self) -> int:
        """One more than the highest item row, of those that nothing names any more too."""
        rows = (*(part.arrays.item_rows for part in self.parts), self.dead)
        return 1 + max(int(some.max(initial=-1)) for some in rows)

    def masks(self, subset: Ints | None) -> tuple[Bools | None, tuple[Bools | None, ...]]:
        """Which items and which leaves of each part may be found; None where all may."""
        allowed = allowed_items(self.item_bound, subset, self.dead)
        base = alive_leaves(self.parts[0], allowed)
        if len(self.parts) == 1:
            return allowed, (base,)
        overlay = alive_leaves(self.parts[1], allowed)
        shown = self.twin >= 0
        if base is not None:
            shown &= base[self.twin]
        if shown.any():
            overlay = ~shown if overlay is None else overlay & ~shown
        return allowed, (base, overlay)

    @cached_property
    def whole(self) -> tuple[Bools | None, tuple[Bools | None, ...]]:
        """`masks` without a subset."""
        return self.masks(None)

    def view(self, batch: int, subsets: Subsets | None, device: torch.device) -> View:
        """What each of the queries may find."""
        if subsets is None or all(subset is None for subset in subsets):
            slots = np.zeros(batch, dtype=np.int64)
            return View(
                torch.from_numpy(slots).to(device), slots, self._all(device), (self.whole[0],)
            )
        # Queries usually share one filter object: its prefix sums are computed once.
        known: dict[int, int] = {}
        slots = np.array([known.setdefault(id(s), len(known)) for s in subsets], dtype=np.int64)
        distinct = {id(subset): subset for subset in subsets}
        masks = [
            self.whole if (one := distinct[key]) is None else self.masks(_rows(one))
            for key in known
        ]
        return View(
            slot=torch.from_numpy(slots).to(device),
            host_slot=slots,
            parts=tuple(
                prefix_sums([leaves[p] for _, leaves in masks], part.arrays.leaves, device)
                for p, part in enumerate(self.parts)
            ),
            allowed=tuple(allowed for allowed, _ in masks),
        )

    def _all(self, device: torch.device) -> tuple[Alive | None, ...]:
        with self._lock:
            if device not in self._everything:
                self._everything[device] = tuple(
                    prefix_sums([mask], part.arrays.leaves, device)
                    for part, mask in zip(self.parts, self.whole[1], strict=True)
                )
            return self._everything[device]

    def named(self, part: int, leaf: Ints, query: Ints, view: View) -> list[tuple[int, ...]]:
        """The items of each leaf that its query may find, in the order of their insertion."""
        arrays = self.parts[part].arrays
        found: list[tuple[int, ...]] = []
        twins = self._overlay_twins(leaf) if part == 0 else np.full(len(leaf), -1)
        columns = (leaf.tolist(), query.tolist(), twins.tolist())
        for one, of, twin in zip(*columns, strict=True):
            own = slice(arrays.item_offsets[one], arrays.item_offsets[one + 1])
            items = view.items(of, arrays.item_rows[own])
            if twin >= 0:
                other = self.parts[1].arrays
                own = slice(other.item_offsets[twin], other.item_offsets[twin + 1])
                items = list(dict.fromkeys(items + view.items(of, other.item_rows[own])))
            found.append(tuple(items))
        return found

    def named_under(self, targets: Ints, query: int, view: View) -> Ints:
        """Every item below one row that its query may find, ascending.

        Args:
            targets: Where the row stands in each part, [parts].
            query: The row's.
            view: What may be found.
        """
        found = [_NONE]
        for p, (part, target) in enumerate(zip(self.parts, targets, strict=True)):
            low, high = (int(one[0]) for one in part.bounds(target[None]))
            arrays = part.arrays
            found.append(arrays.item_rows[arrays.item_offsets[low] : arrays.item_offsets[high]])
            if p == 0 and len(self.parts) > 1:
                # What base and overlay both have is shown by the base, with the items of both.
                overlay, twins = self._twins
                other = self.parts[1].arrays
                first, end = np.searchsorted(twins, [low, high])
                for leaf in overlay[first:end].tolist():
                    own = slice(other.item_offsets[leaf], other.item_offsets[leaf + 1])
                    found.append(other.item_rows[own])
        rows = np.unique(np.concatenate(found)).astype(np.int64)
        return np.array(view.items(query, rows), dtype=np.int64)

    def _overlay_twins(self, leaf: Ints) -> Ints:
        """For each leaf of the base the equal one of the overlay, or -1."""
        overlay, twins = self._twins
        if not len(overlay):
            return np.full(len(leaf), -1, dtype=np.int64)
        place = np.searchsorted(twins, leaf).clip(max=len(overlay) - 1)
        found: Ints = np.where(twins[place] == leaf, overlay[place], -1)
        return found

    @cached_property
    def _twins(self) -> tuple[Ints, Ints]:
        """Leaves of the overlay that the base has too, and these leaves of the base.

        Leaves are in the same order in both parts, hence both ascend.
        """
        overlay = np.flatnonzero(self.twin >= 0)
        return overlay, self.twin[overlay]

    def to_dict(self) -> dict[str, NDArray[np.generic]]:
        """The arrays by name; the overlay and the tombstones only if there are any."""
        arrays = {BASE + name: a for name, a in self.parts[0].arrays.to_dict().items()}
        if len(self.parts) > 1:
            arrays |= {OVERLAY + name: a for name, a in self.parts[1].arrays.to_dict().items()}
            arrays[TWIN] = self.twin
        if len(self.dead):
            arrays[DEAD] = self.dead
        return arrays

    @classmethod
    def from_dict(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Layers:
        """The layers that `to_dict` named.

        Raises:
            IndexDamagedError: If an array is missing or the sizes do not fit together.
        """
        base = TriePart(RadixArrays.from_dict(arrays, BASE))
        dead: NDArray[Any] = arrays.get(DEAD, _NONE)
        twin: NDArray[Any] = arrays.get(TWIN, _NONE)
        overlay = None
        if any(name.startswith(OVERLAY) for name in arrays):
            overlay = TriePart(RadixArrays.from_dict(arrays, OVERLAY))
            leaves = overlay.arrays.leaves
            fits = twin.shape == (leaves,) and twin.max(initial=-1) < base.arrays.leaves
            if not fits or overlay.end != base.end:
                raise IndexDamagedError(
                    "the trie's overlay does not fit its base", "build the index again"
                )
        if any(a.dtype != np.int64 or a.ndim != 1 for a in (dead, twin)):
            raise IndexDamagedError("the trie's tombstones are damaged", "build the index again")
        return cls(base, overlay, twin, dead)


def _rows(subset: Sequence[int] | Ints) -> Ints:
    return np.asarray(subset, dtype=np.int64)
