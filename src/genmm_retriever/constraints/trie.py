"""The token trie: all identifiers of an index, as a constraint on decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from genmm_retriever.constraints.building import Flat, build_radix, flatten
from genmm_retriever.constraints.layers import Layers
from genmm_retriever.constraints.parts import TriePart
from genmm_retriever.constraints.ragged import Ints
from genmm_retriever.constraints.stepping import TrieSearch, TrieState
from genmm_retriever.constraints.updating import (
    deleted,
    inserted,
    merged,
    named_items,
    overlay_share,
)

__all__ = ["TokenTrie", "TrieState"]


class TokenTrie(TrieSearch):
    """Identifiers as a radix trie of tokens; immutable, updates make new tries.

    Every sequence ends by the same end token, so an identifier may be the beginning of
    another. A subset of items is a prefix sum over the sorted leaves: a node is alive where its
    interval of leaves holds at least one alive leaf, so a filter costs nothing a step.

    The log-probability of an edge is that of the first leaf under it; they are meant to depend
    on the tokens before alone.

    Examples:
        >>> trie = TokenTrie.build([[5, 7, 0], [5, 0], [9, 8, 0]], items=[10, 11, 12])
        >>> state = trie.start(1)
        >>> trie.legal(state).tokens.tolist()
        [5, 9]
        >>> state = trie.advance(state, torch.tensor([0, 0]), torch.tensor([5, 9]))
        >>> trie.legal(state).tokens.tolist(), trie.legal(state).finishes.tolist()
        ([0, 7, 8], [True, False, False])
        >>> forced = trie.forced(state)
        >>> forced.tokens, forced.complete.tolist()
        ([[], [8, 0]], [False, True])
    """

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
        return cls(Layers(TriePart(build_radix(flatten(sequences, items, null_logprobs)))))

    @classmethod
    def from_flat(
        cls,
        tokens: NDArray[np.integer],
        offsets: Ints,
        items: Ints,
        null_logprobs: NDArray[np.floating] | None = None,
    ) -> TokenTrie:
        """Build from identifiers end to end, without any Python for each of them.

        Args:
            tokens: Token ids of all identifiers, each ended by the same end token, [T].
            offsets: Identifier i is `tokens[offsets[i]:offsets[i + 1]]`, [n + 1].
            items: The item (row of the index) that each identifier names, [n].
            null_logprobs: Log-probability (nats) of each token without a query, [T]; zeros if
                None.

        Raises:
            InputError: If these do not fit together.

        Examples:
            >>> trie = TokenTrie.from_flat(
            ...     np.array([5, 7, 0, 9, 0]), np.array([0, 3, 5]), np.array([10, 11])
            ... )
            >>> trie.sequences()
            [(5, 7, 0), (9, 0)]
        """
        return cls(Layers(TriePart(build_radix(_flat(tokens, offsets, items, null_logprobs)))))

    def insert(
        self,
        tokens: NDArray[np.integer],
        offsets: Ints,
        items: Ints,
        null_logprobs: NDArray[np.floating] | None = None,
    ) -> TokenTrie:
        """A trie with more identifiers, in a small overlay beside this one's base.

        Args:
            tokens: Token ids of the new identifiers end to end, as in `from_flat`.
            offsets: Where each begins. One that is there already may name further items.
            items: The item that each names.
            null_logprobs: As in `from_flat`.

        Raises:
            InputError: If these do not fit together, or end by another token than the trie's.
        """
        return TokenTrie(inserted(self._layers, _flat(tokens, offsets, items, null_logprobs)))

    def delete(self, item_rows: Ints) -> TokenTrie:
        """A trie in which nothing names these items; unknown rows are ignored."""
        return TokenTrie(deleted(self._layers, np.asarray(item_rows, dtype=np.int64)))

    def add(
        self,
        sequences: Sequence[Sequence[int]],
        items: Sequence[int] | NDArray[np.int64],
        null_logprobs: Sequence[Sequence[float]] | None = None,
    ) -> TokenTrie:
        """As `insert`, from lists as `build` takes them."""
        return TokenTrie(inserted(self._layers, flatten(sequences, items, null_logprobs)))

    def keep(self, item_rows: Ints) -> TokenTrie:
        """A trie in which nothing but these items is named."""
        named = self.item_rows
        kept = np.zeros(self._layers.item_bound, dtype=np.bool_)
        item_rows = np.asarray(item_rows, dtype=np.int64)
        kept[item_rows[(item_rows >= 0) & (item_rows < len(kept))]] = True
        return self.delete(named[~kept[named]])

    def shares_base(self, other: TokenTrie) -> bool:
        """Whether both are updates of the same base."""
        return self._layers.parts[0] is other._layers.parts[0]

    def merged(self) -> TokenTrie:
        """The same identifiers as one static part; results do not change."""
        return TokenTrie(merged(self._layers))

    @property
    def overlay_share(self) -> float:
        """Which part of the identifiers was inserted or deleted since the last merge."""
        return overlay_share(self._layers)

    @property
    def item_rows(self) -> Ints:
        """Every item that an identifier names, ascending, int64."""
        return named_items(self._layers, self._layers.parts)

    @property
    def added_rows(self) -> Ints:
        """Every item that an identifier of the overlay names, ascending, int64."""
        return named_items(self._layers, self._layers.parts[1:])

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """The arrays to keep on disk, by name.

        Names begin by `base/` and, if there are insertions or deletions that have not been
        merged, `overlay/` and `dead`; updates do not touch those of the base.
        """
        return self._layers.to_dict()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> TokenTrie:
        """The trie that `to_arrays` described; arrays may be memory-mapped.

        Raises:
            IndexDamagedError: If an array is missing or the sizes do not fit together.
        """
        return cls(Layers.from_dict(arrays))

    def __len__(self) -> int:
        """The number of distinct identifiers."""
        _, masks = self._layers.whole
        return sum(
            part.arrays.leaves if mask is None else int(np.count_nonzero(mask))
            for part, mask in zip(self._layers.parts, masks, strict=True)
        )

    @property
    def nodes(self) -> int:
        """The number of branching nodes and leaves, the root included."""
        return sum(len(part.arrays.node_depth) + part.arrays.leaves for part in self._layers.parts)

    @property
    def depth(self) -> int:
        """Tokens of the longest identifier, end token included."""
        return max(
            int(np.diff(part.arrays.leaf_offsets).max(initial=0)) for part in self._layers.parts
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.to_arrays().values())

    @property
    def device_nbytes(self) -> int:
        """Bytes of the arrays that a search copies to its device; subsets come on top."""
        cpu = torch.device("cpu")
        return sum(part.on(cpu).nbytes for part in self._layers.parts)

    def sequences(self) -> list[tuple[int, ...]]:
        """All identifiers, sorted."""
        found: list[tuple[int, ...]] = []
        for part, mask in zip(self._layers.parts, self._layers.whole[1], strict=True):
            tokens, bounds = part.arrays.leaf_tokens.tolist(), part.arrays.leaf_offsets.tolist()
            leaves = range(part.arrays.leaves) if mask is None else np.flatnonzero(mask).tolist()
            found += [tuple(tokens[bounds[leaf] : bounds[leaf + 1]]) for leaf in leaves]
        return sorted(found)


def _flat(
    tokens: NDArray[np.integer],
    offsets: Ints,
    items: Ints,
    null_logprobs: NDArray[np.floating] | None,
) -> Flat:
    null = np.zeros(len(tokens), np.float16) if null_logprobs is None else null_logprobs
    return Flat(
        np.asarray(tokens),
        np.asarray(offsets, dtype=np.int64),
        np.asarray(items, dtype=np.int64),
        np.asarray(null),
    )
