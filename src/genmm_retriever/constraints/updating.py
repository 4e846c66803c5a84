"""Insertions, deletions and their merging: new layers over the same base."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from genmm_retriever.constraints.building import Flat, build_radix, check_flat
from genmm_retriever.constraints.layers import Layers
from genmm_retriever.constraints.parts import ABSENT, TriePart
from genmm_retriever.constraints.ragged import Ints, gather_rows, offsets_of, ragged_ranges
from genmm_retriever.errors import InputError


def inserted(layers: Layers, new: Flat) -> Layers:
    """Layers whose overlay also has the new sequences; it is sorted anew, the base is not.

    Raises:
        InputError: If the sequences are no identifiers, or end by another token.
    """
    check_flat(new)
    if not len(new.items):
        return layers
    if np.isin(new.items, layers.dead).any():
        # A tombstone buries an item's identifiers of the past, not those that come now.
        return inserted(merged(layers), new)
    base = layers.parts[0]
    if not base.arrays.leaves:
        return Layers(TriePart(build_radix(new)))
    if int(new.tokens[-1]) != base.end:
        raise InputError(
            f"the new sequences end by token {int(new.tokens[-1])}, the trie's by {base.end}",
            "end every sequence by the same end token",
        )
    flats = [living(layers, part) for part in layers.parts[1:]]
    overlay = TriePart(build_radix(_joined([*flats, new])))
    return Layers(base, overlay, find_twins(base, overlay), layers.dead)


def _named(layers: Layers, parts: tuple[TriePart, ...]) -> NDArray[np.bool_]:
    """Whether an identifier of the parts names each item, dead or not."""
    named = np.zeros(layers.item_bound, dtype=np.bool_)
    for part in parts:
        named[part.arrays.item_rows] = True
    return named


def named_items(layers: Layers, parts: tuple[TriePart, ...]) -> Ints:
    """The items that the parts name and that are alive, ascending."""
    named = _named(layers, parts)
    named[layers.dead] = False
    return np.flatnonzero(named)


def deleted(layers: Layers, rows: Ints) -> Layers:
    """Layers in which no identifier names these items; unknown rows are ignored."""
    known = _named(layers, layers.parts)
    rows = rows[(rows >= 0) & (rows < len(known))]
    dead = np.union1d(layers.dead, rows[known[rows]])
    if len(dead) == len(layers.dead):
        return layers
    overlay = layers.parts[1] if len(layers.parts) > 1 else None
    return Layers(layers.parts[0], overlay, layers.twin, dead)


def merged(layers: Layers) -> Layers:
    """Layers of a base alone, equal to one built from what is alive."""
    if len(layers.parts) == 1 and not len(layers.dead):
        return layers
    flat = _joined([living(layers, part) for part in layers.parts])
    return Layers(TriePart(build_radix(flat)))


def overlay_share(layers: Layers) -> float:
    """Which part of the leaves is in the overlay, or in the base and dead."""
    leaves = [part.arrays.leaves for part in layers.parts]
    base = layers.whole[1][0]
    dead = 0 if base is None else leaves[0] - int(np.count_nonzero(base))
    return (sum(leaves[1:]) + dead) / max(1, sum(leaves))


def living(layers: Layers, part: TriePart) -> Flat:
    """The sequences of a part with each of the items that they still name."""
    arrays = part.arrays
    allowed = layers.whole[0]
    leaf = np.repeat(np.arange(arrays.leaves), np.diff(arrays.item_offsets))
    items = arrays.item_rows
    if allowed is not None:
        keep = allowed[items]
        leaf, items = leaf[keep], items[keep]
    starts, lengths = arrays.leaf_offsets[leaf], part.lengths(leaf)
    return Flat(
        gather_rows(arrays.leaf_tokens, starts, lengths, np.int32),
        offsets_of(lengths),
        items,
        gather_rows(arrays.leaf_null, starts, lengths, np.float16),
    )


def _joined(flats: list[Flat]) -> Flat:
    lengths = np.concatenate([np.diff(flat.offsets) for flat in flats])
    return Flat(
        np.concatenate([flat.tokens for flat in flats]),
        offsets_of(lengths),
        np.concatenate([flat.items for flat in flats]),
        np.concatenate([flat.null for flat in flats]),
    )


def find_twins(base: TriePart, overlay: TriePart) -> Ints:
    """For each leaf of the overlay the equal one of the base, or -1, [leaves], int64.

    Each is walked down the base edge by edge; the leaf it comes to is compared in full.
    """
    leaves = np.arange(overlay.arrays.leaves, dtype=np.int64)
    lengths = overlay.lengths(leaves)
    target = np.zeros(len(leaves), dtype=np.int64)
    while True:
        depth = base.arrays.node_depth[np.maximum(target, 0)].astype(np.int64)
        target[(target >= 0) & (depth >= lengths)] = ABSENT
        rows = np.flatnonzero(target >= 0)
        if not len(rows):
            break
        tokens, _ = overlay.at(rows, depth[rows])
        target[rows] = base.edge(torch.from_numpy(target[rows]), torch.from_numpy(tokens)).numpy()
    rows = np.flatnonzero(target > ABSENT)
    rows = rows[base.lengths(~target[rows]) == lengths[rows]]
    if len(rows):
        # Each token of the one against that of the other, all rows end to end.
        counts = lengths[rows]
        own = overlay.arrays.leaf_tokens[ragged_ranges(overlay.arrays.leaf_offsets[rows], counts)]
        there = base.arrays.leaf_offsets[~target[rows]]
        equal = own == base.arrays.leaf_tokens[ragged_ranges(there, counts)]
        rows = rows[np.logical_and.reduceat(equal, offsets_of(counts)[:-1])]
    twin = np.full(len(leaves), -1, dtype=np.int64)
    twin[rows] = ~target[rows]
    return twin
