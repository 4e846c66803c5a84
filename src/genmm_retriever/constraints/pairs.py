"""Legal (row, token) pairs of the parts of a trie, and their union."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genmm_retriever.constraints.alive import Alive
from genmm_retriever.constraints.parts import TriePart
from genmm_retriever.constraints.ragged import expand


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs in order of row and token; see `LegalTokens`."""

    rows: Tensor
    tokens: Tensor
    null: Tensor

    @property
    def keys(self) -> Tensor:
        """Row and token as one integer, ascending."""
        return (self.rows << 32) | self.tokens

    def where(self, keep: Tensor) -> Pairs:
        """The pairs that a mask or an index keeps."""
        return Pairs(self.rows[keep], self.tokens[keep], self.null[keep])


def edge_pairs(part: TriePart, target: Tensor, alive: Alive | None, slot: Tensor) -> Pairs:
    """The edges of the rows that stand at a node; those of other rows must be masked.

    Args:
        part: Where the rows stand.
        target: Their nodes; anything below 0 has no edges, [n], int64.
        alive: Which leaves may be found.
        slot: The distinct subset of each row, [n], int64.
    """
    on = part.on(target.device)
    node = target.clamp(min=0)
    first = on.node_edges[node].long()
    counts = (on.node_edges[node + 1].long() - first) * (target >= 0)
    rows, edges = expand(first, counts)
    if alive is not None:
        low, high = part.interval(on.edge_target[edges].long())
        lives = alive.count(slot[rows], low, high) > 0
        rows, edges = rows[lives], edges[lives]
    return Pairs(rows, on.edge_token[edges].long(), on.edge_null[edges].float())


def union(one: Pairs, other: Pairs) -> Pairs:
    """The pairs of both; where both have one, that of `one`.

    Args:
        one: May be long.
        other: Should be short: it is looked up in `one`, not the other way around.
    """
    if not len(other.rows):
        return one
    if not len(one.rows):
        return other
    keys, wanted = one.keys, other.keys
    place = torch.searchsorted(keys, wanted)
    new = keys[place.clamp(max=len(keys) - 1)] != wanted
    added, place = other.where(new), place[new]
    place = place + torch.arange(len(place), device=place.device)
    own = torch.ones(len(keys) + len(place), dtype=torch.bool, device=place.device)
    own[place] = False

    def joined(first: Tensor, second: Tensor) -> Tensor:
        result = first.new_empty(len(own))
        result[own], result[place] = first, second
        return result

    return Pairs(
        joined(one.rows, added.rows),
        joined(one.tokens, added.tokens),
        joined(one.null, added.null),
    )
