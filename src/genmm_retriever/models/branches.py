"""Tails of rows laid out as branches of a tree, each beginning once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Branches:
    """New tokens (nodes) under rows; a node comes after the one that it follows.

    Attributes:
        tokens: Token of each node, N of them.
        rows: Row that each node grows from.
        parents: Node before each node, -1 if it follows its row directly.
        depths: Nodes between each node and its row.
        paths: For each tail the nodes of its tokens.
    """

    tokens: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    paths: list[list[int]] = field(default_factory=list)

    @classmethod
    def of(cls, rows: Sequence[int], tails: Sequence[Sequence[int]]) -> Branches:
        """Lay out tails; what tails of one row have in common is laid once.

        Examples:
            >>> grown = Branches.of([0, 0], [[5, 6], [5, 7]])
            >>> grown.tokens, grown.parents, grown.paths
            ([5, 6, 7], [-1, 0, 0], [[0, 1], [0, 2]])
        """
        grown = cls()
        known: dict[tuple[int, int], int] = {}
        for row, tail in zip(rows, tails, strict=True):
            # Places are numbered: rows below zero, nodes from zero.
            place, path = ~row, []
            for depth, token in enumerate(tail):
                node = known.setdefault((place, token), len(grown.tokens))
                if node == len(grown.tokens):
                    grown.tokens.append(token)
                    grown.rows.append(row)
                    grown.parents.append(max(place, -1))
                    grown.depths.append(depth)
                path.append(node)
                place = node
            grown.paths.append(path)
        return grown

    def ancestors(self) -> Tensor:
        """Which nodes lie on the way to each node, itself included, [N, N], bool."""
        count = len(self.tokens)
        seen = torch.eye(count, dtype=torch.bool)
        parents, depths = torch.tensor(self.parents), torch.tensor(self.depths)
        for depth in range(1, max(self.depths, default=0) + 1):
            level = torch.nonzero(depths == depth).flatten()
            seen[level] |= seen[parents[level]]
        return seen
