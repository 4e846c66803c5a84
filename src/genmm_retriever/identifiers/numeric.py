"""Numeric identifiers: the path through a tree of clusters, for comparison with words.

As in DSI (Tay et al., arXiv 2202.06991): items near to one another share a prefix, and the
last number counts within a leaf. The digits mean nothing to a model until it is trained.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from genmm_retriever.errors import InputError
from genmm_retriever.identifiers.base import (
    Arrays,
    EncoderHolder,
    State,
    checked_state,
    flatten,
    free_number,
)
from genmm_retriever.identifiers.clusters import kmeans, nearest
from genmm_retriever.models.sentences import SentenceEncoder, Vectors

_LEAF = 16
_DEEPEST = 6


class NumericIdentifiers:
    """Identifiers of numbers, such as "3 17 4"; same use as `StructuredIdentifiers`.

    Made by `fit` or `from_state`.

    Args:
        centres: Of the tree's nodes, breadth first, [nodes, d]; the root's plays no part.
        children: Children of node i are `children[i]:children[i + 1]`, [nodes + 1].
        encoder: Gives the vectors of descriptions.
        seed: That the tree was made with.

    Examples:
        >>> from genmm_retriever.identifiers import HashingEncoder
        >>> scheme = NumericIdentifiers.fit([["a dog"], ["a cat"]], HashingEncoder())
        >>> scheme.assign([["a dog"], ["a cat"]], taken=set())
        [['0'], ['1']]
    """

    kind = "numeric"

    def __init__(
        self,
        centres: Vectors,
        children: NDArray[np.int64],
        encoder: EncoderHolder,
        *,
        seed: int = 0,
    ) -> None:
        self.centres = centres
        self.children = children
        self.seed = seed
        self._encoder = encoder

    @classmethod
    def fit(
        cls,
        descriptions: Sequence[Sequence[str]],
        encoder: SentenceEncoder,
        *,
        clusters: int | None = None,
        seed: int = 0,
    ) -> NumericIdentifiers:
        """Split all descriptions into clusters, and these again, down to 16 in a leaf.

        Args:
            descriptions: The descriptions of each item.
            encoder: Gives their vectors.
            clusters: Most children of a node; None for 10.
            seed: Of K-Means.

        Raises:
            InputError: If there is no item, or `clusters` is below 2.
        """
        if not descriptions:
            raise InputError("there is nothing to make identifiers for", "index at least one item")
        branching = 10 if clusters is None else clusters
        if branching < 2:
            raise InputError(f"clusters={clusters} must be at least 2")
        vectors = encoder.encode(flatten(descriptions)[0])
        centres, children = _tree(vectors, branching, seed)
        return cls(
            centres, children, EncoderHolder(encoder.name, vectors.shape[1], encoder), seed=seed
        )

    def assign(self, descriptions: Sequence[Sequence[str]], *, taken: set[str]) -> list[list[str]]:
        """Identifiers of items; see `Identifiers.assign`.

        Descriptions of one item that lead to the same leaf share an identifier.
        """
        texts, counts = flatten(descriptions)
        paths = self._paths(self._encoder.get().encode(texts)) if texts else []
        out: list[list[str]] = []
        at = 0
        for count in counts:
            own: list[str] = []
            for path in dict.fromkeys(paths[at : at + count]):
                place = partial(_numbered, path)
                own.append(free_number(place, 0, taken))
                taken.add(own[-1])
            out.append(own)
            at += count
        return out

    def _paths(self, vectors: Vectors) -> list[str]:
        """The digits that lead to the leaf of each vector."""
        digits: list[list[str]] = [[] for _ in vectors]
        waiting = [(0, np.arange(len(vectors)))]
        while waiting:
            node, rows = waiting.pop()
            first, end = int(self.children[node]), int(self.children[node + 1])
            if first == end:
                continue
            labels = nearest(vectors[rows], self.centres[first:end])
            for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
                digits[row].append(str(label))
            for label in np.unique(labels).tolist():
                waiting.append((first + label, rows[labels == label]))
        return [" ".join(some) for some in digits]

    def to_state(self) -> tuple[Arrays, State]:
        """Arrays and JSON-ready values for `from_state`."""
        state: State = {
            "kind": self.kind,
            "version": 1,
            "seed": self.seed,
            "encoder": self._encoder.name,
        }
        return {"centres": self.centres, "children": self.children}, state

    @classmethod
    def from_state(
        cls, arrays: Arrays, state: State, encoder: SentenceEncoder | None = None
    ) -> NumericIdentifiers:
        """The scheme that `to_state` was called on; see `StructuredIdentifiers.from_state`.

        Raises:
            InputError: If the state is of another kind or encoder, or contradicts itself.
        """
        state = checked_state(state, cls.kind)
        centres, children = arrays["centres"], arrays["children"]
        steps = np.diff(children)
        if len(children) != len(centres) + 1 or (steps < 0).any() or children[-1] != len(centres):
            raise InputError("the tree of clusters is broken", "build the index anew")
        holder = EncoderHolder(state["encoder"], centres.shape[1], encoder)
        return cls(centres, children, holder, seed=state["seed"])


def _numbered(path: str, number: int) -> str:
    return f"{path} {number}".strip()


def _tree(vectors: Vectors, branching: int, seed: int) -> tuple[Vectors, NDArray[np.int64]]:
    """Breadth-first tree of clusters: centres [nodes, d], first children [nodes + 1]."""
    centres = [vectors.mean(axis=0)]
    children = [1]
    queue = deque([(np.arange(len(vectors)), 0)])
    while queue:
        rows, depth = queue.popleft()
        found = 0
        if len(rows) > _LEAF and depth < _DEEPEST:
            k = min(branching, -(-len(rows) // _LEAF))
            inner, labels = kmeans(vectors[rows], k, seed=seed)
            # Points that cannot be told apart stay together.
            found = len(inner) if len(inner) > 1 else 0
            for label in range(found):
                centres.append(inner[label])
                queue.append((rows[labels == label], depth + 1))
        children.append(children[-1] + found)
    return np.stack(centres).astype(np.float32), np.asarray(children, dtype=np.int64)
