"""The clue index: every passage of a corpus, for constrained decoding of n-grams of its text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmm_retriever.constraints.clues.kept import Kept, check_input
from genmm_retriever.constraints.clues.shard import Shard
from genmm_retriever.constraints.clues.view import ClueView, Part
from genmm_retriever.errors import IndexDamagedError, InputError

I64 = NDArray[np.int64]

FORMAT = 1
LARGEST_SHARD = 2**31 // 4 - 1
"""Tokens and passages of a shard: four bytes each are sorted by 32-bit numbers."""
COPIED = 1_000_000
"""Tokens of a subset that is indexed anew rather than looked for in the whole."""
_MANY = 8
_HINT = "build the index again"


class ClueIndex:
    """An FM-index over passages of tokens, in shards; immutable, and shared by threads.

    A passage is an own or extracted text of an item, or a piece of it; sequences never cross
    its borders. Adding makes a new small shard, deleting a mark; `merged` makes both cheap to
    search again and changes no answer. Passages are numbered in the order they were added.

    Examples:
        >>> import numpy as np
        >>> index = ClueIndex.build([5, 7, 5, 9], [0, 2, 4], [10, 11], vocab_size=16)
        >>> view = index.view()
        >>> ranges = view.extend(view.start(1), [0], [5])
        >>> view.counts(ranges).tolist()
        [2]
        >>> offsets, tokens, counts = view.next_tokens(ranges)
        >>> tokens.tolist(), counts.tolist()
        ([7, 9], [1, 1])
    """

    def __init__(
        self, shards: Sequence[Kept], vocab_size: int, shard_tokens: int, number: int
    ) -> None:
        """See `build` and `from_arrays`."""
        self._shards = tuple(shards)
        self.vocab_size = vocab_size
        self.shard_tokens = shard_tokens
        self._next_number = number

    @classmethod
    def build(
        cls,
        tokens: ArrayLike,
        offsets: ArrayLike,
        items: ArrayLike,
        *,
        vocab_size: int,
        shard_tokens: int = 500_000_000,
    ) -> ClueIndex:
        """Index passages.

        Args:
            tokens: Token ids of all passages end to end, any integers, [T].
            offsets: Passage p is `tokens[offsets[p]:offsets[p + 1]]`, [P + 1].
            items: The item (row of the index) of each passage, [P]; an item may have many.
            vocab_size: V; tokens lie in [0, V), and logits have V columns.
            shard_tokens: Tokens and passages of a shard at most; a longer passage has its own.

        Raises:
            InputError: If tokens, offsets and items do not fit together.
            MissingExtraError: If numba is not installed.
        """
        if not 0 < shard_tokens <= LARGEST_SHARD:
            raise InputError(
                f"shards of {shard_tokens} tokens cannot be sorted", f"at most {LARGEST_SHARD}"
            )
        if not 0 < vocab_size < 2**32 - 1:
            raise InputError(f"a vocabulary of {vocab_size} tokens", "at least 1, below 2**32 - 1")
        return cls((), vocab_size, shard_tokens, 0).add(tokens, offsets, items)

    def add(self, tokens: ArrayLike, offsets: ArrayLike, items: ArrayLike) -> ClueIndex:
        """With more passages, behind the present ones; arguments as for `build`."""
        flat, where = np.asarray(tokens), np.array(offsets, np.int64)
        rows = np.array(items, np.int64)
        check_input(flat, where, rows, self.vocab_size)
        made, begin = list(self._shards), 0
        while begin < len(rows):
            sizes = where[begin:] - where[begin] + np.arange(len(where) - begin)
            fit = int(np.searchsorted(sizes, self.shard_tokens, side="right")) - 1
            end = begin + max(1, fit)
            if where[end] - where[begin] + (end - begin) > LARGEST_SHARD:
                raise InputError(f"passage {begin} is too long", f"at most {LARGEST_SHARD} tokens")
            piece = flat[where[begin] : where[end]]
            shard = Shard.build(piece, where[begin : end + 1], rows[begin:end], self.vocab_size)
            made.append(Kept(self._next_number + len(made) - len(self._shards), shard))
            begin = end
        number = self._next_number + len(made) - len(self._shards)
        return ClueIndex(made, self.vocab_size, self.shard_tokens, number)

    def delete(self, items: ArrayLike) -> ClueIndex:
        """Without the passages of some items (rows of the index); unknown ones are no error."""
        gone = np.unique(np.array(items, np.int64))
        kept = []
        for old in self._shards:
            passages = old.shard.passages_of_items(gone)
            if len(passages):
                dead = np.zeros(old.shard.passages, bool) if old.dead is None else old.dead.copy()
                dead[passages] = True
                kept.append(replace(old, dead=dead))
            else:
                kept.append(old)
        return ClueIndex(kept, self.vocab_size, self.shard_tokens, self._next_number)

    @property
    def needs_merge(self) -> bool:
        """Whether small shards are many, or a quarter of a shard is deleted."""
        below = self.shard_tokens // _MANY
        small = sum(kept.alive_tokens < below for kept in self._shards)
        if not all(kept.mostly_alive for kept in self._shards):
            return True
        return small > _MANY and any(len(run) > 1 for run in self._runs(below))

    def merged(self, *, below: int | None = None) -> ClueIndex:
        """The same passages in fewer shards, with fewer tombstones.

        Args:
            below: Of neighbouring shards with fewer alive tokens, those are joined that are no
                larger than all behind them together, so that a passage is seldom moved; and
                shards a quarter of which is deleted are rebuilt. None joins all and rebuilds
                what has any tombstone.
        """
        made: list[Kept] = []
        number = self._next_number
        for run in [list(self._shards)] if below is None else self._runs(below):
            tidy = all(kept.dead is None if below is None else kept.mostly_alive for kept in run)
            if len(run) == 1 and tidy:
                made.extend(run)
            elif run:
                texts = [kept.alive_text() for kept in run]
                lengths = np.concatenate([length for _, length, _ in texts])
                one = ClueIndex((), self.vocab_size, self.shard_tokens, number).add(
                    np.concatenate([tokens for tokens, _, _ in texts]),
                    np.concatenate([[0], np.cumsum(lengths)]),
                    np.concatenate([items for _, _, items in texts]),
                )
                made.extend(one._shards)
                number = one._next_number
        return ClueIndex(made, self.vocab_size, self.shard_tokens, number)

    def _runs(self, below: int) -> list[list[Kept]]:
        """The shards in order, those together that a merge would join."""
        runs: list[list[Kept]] = []
        small: list[Kept] = []
        for kept in self._shards:
            if kept.alive_tokens < below:
                small.append(kept)
            else:
                runs += [*_joined(small), [kept]]
                small = []
        return runs + _joined(small)

    @property
    def tokens(self) -> int:
        """Alive tokens."""
        return sum(kept.alive_tokens for kept in self._shards)

    @property
    def passages(self) -> int:
        """Alive passages."""
        return sum(kept.alive_passages for kept in self._shards)

    @property
    def item_rows(self) -> I64:
        """Items that have a passage, empty ones included, ascending."""
        alive = [
            kept.shard.items if kept.dead is None else kept.shard.items[~kept.dead]
            for kept in self._shards
        ]
        return np.unique(np.concatenate([np.zeros(0, np.int64), *alive]))

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return len(self._shards)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(kept.shard.nbytes for kept in self._shards)

    def passages_of_item(self, item: int) -> I64:
        """The numbers of an item's alive passages, ascending."""
        wanted, found = np.array([item], np.int64), [np.zeros(0, np.int64)]
        for kept, first in zip(self._shards, self._first_passages, strict=True):
            own = kept.shard.passages_of_items(wanted)
            found.append(first + (own if kept.dead is None else own[~kept.dead[own]]))
        return np.concatenate(found)

    def passage_tokens(self, passage: int) -> I64:
        """The tokens of a passage, by the number that `ClueView.passages_of` gives."""
        left = int(passage)
        for kept in self._shards:
            if 0 <= left < kept.shard.passages:
                return kept.shard.passage(left)
            left -= kept.shard.passages
        raise InputError(f"there is no passage {passage}", "ask `passages_of` for numbers")

    def occurrences(self, tokens: ArrayLike, passage: int) -> I64:
        """Where a sequence begins in a passage, in tokens from its start, ascending."""
        sequence = np.array(tokens, np.int64, ndmin=1)
        text = self.passage_tokens(passage)
        if len(sequence) > len(text):
            return np.zeros(0, np.int64)
        if not len(sequence):
            return np.arange(len(text) + 1)
        windows = np.lib.stride_tricks.sliding_window_view(text, len(sequence))
        return np.flatnonzero((windows == sequence).all(axis=1))

    def view(self, items: ArrayLike | None = None) -> ClueView:
        """What a search may find.

        Args:
            items: Rows of the items that pass a filter; None for all. A subset of at most a
                million tokens is indexed anew; of a larger one the rows are marked, which
                takes a pass over the index. Keep the view for as long as the filter is used.
        """
        if items is None:
            return self._everything
        wanted = np.unique(np.array(items, np.int64))
        chosen = []
        for kept in self._shards:
            passages = kept.shard.passages_of_items(wanted)
            chosen.append(passages if kept.dead is None else passages[~kept.dead[passages]])
        lengths = [k.shard.lengths(p) for k, p in zip(self._shards, chosen, strict=True)]
        total = sum(int(length.sum()) for length in lengths)
        if total <= COPIED:
            return self._copied(chosen)
        parts = []
        for part, passages in zip(self._parts, chosen, strict=True):
            if len(passages) == part.shard.passages:
                parts.append(part)
            elif len(passages):
                alive = np.zeros(part.shard.passages, bool)
                alive[passages] = True
                parts.append(part.restricted(alive))
        return ClueView(self, parts)

    def _copied(self, chosen: Sequence[I64]) -> ClueView:
        """A view of an index of some passages alone."""
        texts = [k.shard.gather(p) for k, p in zip(self._shards, chosen, strict=True)]
        lengths = np.concatenate([np.zeros(0, np.int64), *(np.diff(where) for _, where in texts)])
        tokens = np.concatenate([np.zeros(0, np.uint32), *(tokens for tokens, _ in texts)])
        if not len(lengths):
            return ClueView(self, ())
        numbers = np.concatenate(
            [first + p for first, p in zip(self._first_passages, chosen, strict=True)]
        )
        items = np.concatenate(
            [k.shard.items[p] for k, p in zip(self._shards, chosen, strict=True)]
        )
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        shard = Shard.build(tokens, offsets, items, self.vocab_size)
        return ClueView(self, (Part(shard, shard.starts(self.vocab_size), numbers),))

    @cached_property
    def _first_passages(self) -> list[int]:
        sizes = [kept.shard.passages for kept in self._shards]
        return [sum(sizes[:s]) for s in range(len(sizes))]

    @cached_property
    def _parts(self) -> tuple[Part, ...]:
        return tuple(
            Part(kept.shard, kept.shard.starts(self.vocab_size), first)
            for kept, first in zip(self._shards, self._first_passages, strict=True)
        )

    @cached_property
    def _everything(self) -> ClueView:
        parts = [
            part if kept.dead is None else part.restricted(~kept.dead)
            for kept, part in zip(self._shards, self._parts, strict=True)
        ]
        return ClueView(self, parts)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays to keep on disk, by name.

        Those of a shard begin by its number, never change and are never followed by others of
        that number; tombstones are apart (`dead/`).
        """
        numbers = [kept.number for kept in self._shards]
        head = [FORMAT, self.vocab_size, self.shard_tokens, self._next_number, *numbers]
        arrays: dict[str, NDArray[Any]] = {"shards": np.array(head, np.int64)}
        for kept in self._shards:
            for name, array in kept.shard.arrays().items():
                arrays[f"{kept.number:04d}/{name}"] = array
            if kept.dead is not None:
                arrays[f"dead/{kept.number:04d}"] = np.packbits(kept.dead)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> ClueIndex:
        """The index that `to_arrays` described; arrays may be memory-mapped.

        Raises:
            IndexDamagedError: If an array is missing or the sizes do not fit together.
        """
        head = arrays.get("shards")
        if head is None or head.ndim != 1 or len(head) < 4 or int(head[0]) != FORMAT:
            raise IndexDamagedError("the clue index has no list of shards", _HINT)
        _, vocab_size, shard_tokens, number, *numbers = (int(value) for value in head)
        grouped: dict[str, dict[str, NDArray[Any]]] = {}
        for name, array in arrays.items():
            found = re.fullmatch(r"(\d+)/(\w+)", name)
            if found:
                grouped.setdefault(found[1], {})[found[2]] = array
        kept = []
        for own in numbers:
            name = f"{own:04d}"
            shard = Shard.from_arrays(name, grouped.get(name, {}), vocab_size)
            dead = None
            if f"dead/{name}" in arrays:
                packed = np.asarray(arrays[f"dead/{name}"])
                if packed.dtype != np.uint8 or packed.shape != (-(-shard.passages // 8),):
                    raise IndexDamagedError(f"tombstones of clue shard {name} do not fit", _HINT)
                dead = np.unpackbits(packed, count=shard.passages).astype(bool)
            kept.append(Kept(own, shard, dead))
        return cls(kept, vocab_size, shard_tokens, number)


def _joined(small: list[Kept]) -> list[list[Kept]]:
    """Neighbours, joined from the first that is no larger than all behind it."""
    sizes = np.array([kept.alive_tokens for kept in small], np.int64)
    behind = sizes[::-1].cumsum()[::-1] - sizes
    due = np.flatnonzero(sizes[:-1] <= behind[:-1])
    first = int(due[0]) if len(due) else len(small)
    return [[kept] for kept in small[:first]] + ([small[first:]] if first < len(small) else [])
