"""What the search sees of a clue index: ranges of alive occurrences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genmm_retriever.constraints.clues.room import ROOM
from genmm_retriever.constraints.clues.shard import Shard
from genmm_retriever.errors import IndexDamagedError, InputError

if TYPE_CHECKING:
    from genmm_retriever.constraints.clues.index import ClueIndex

I64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ClueRanges:
    """Where each of n sequences occurs, in each of S shards; empty where it does not.

    Attributes:
        low: First row, [n, S], int64.
        high: Row behind the last, [n, S], int64.
    """

    low: I64
    high: I64

    def __len__(self) -> int:
        return len(self.low)


@dataclass(frozen=True, eq=False)
class Part:
    """A shard as a view sees it.

    Attributes:
        shard: The arrays.
        starts: Where each symbol begins in `psi`, [vocab_size + 2].
        passages: The number in the index of its first passage, or of each passage.
        alive: Whether each passage may be found, [P]; None for all.
        bits: A bit for each row whose passage may be found, or None.
        ranks: Bits set before each word of `bits`, or None.
    """

    shard: Shard
    starts: I64
    passages: int | I64
    alive: NDArray[np.bool_] | None = None
    bits: NDArray[np.uint64] | None = None
    ranks: NDArray[np.uint32] | None = None

    def restricted(self, alive: NDArray[np.bool_]) -> Part:
        """The same shard with only some passages alive; one pass over its rows."""
        from genmm_retriever.constraints.clues import making

        shard = self.shard
        bits = np.zeros(shard.rows // 64 + 1, np.uint64)
        ranks = np.zeros(len(bits), np.uint32)
        if not making.alive_rows(shard.doc.ctypes.data, shard.rows, alive, bits, ranks):
            raise _damaged()
        return Part(shard, self.starts, self.passages, alive, bits, ranks)

    def numbers(self, passages: I64) -> I64:
        """Numbers in the index of passages of the shard."""
        return (
            passages + self.passages if isinstance(self.passages, int) else self.passages[passages]
        )


def _damaged() -> IndexDamagedError:
    return IndexDamagedError("the clue index contradicts itself", "build the index again")


class ClueView:
    """The alive passages of an index, all or those of a metadata filter; immutable.

    Sequences are ranges of rows: `start` is the empty sequence, `extend` appends a token
    (backward search, Ferragina and Manzini, FOCS 2000, over the reversed text). Exact whatever
    the shards, deletions and filters: only occurrences in alive passages count.
    """

    limits: tuple[int, int, int] | None = None
    """When ranges are scanned and when tokens are looked up, see `choosing`; for tests."""

    def __init__(self, index: ClueIndex, parts: Sequence[Part]) -> None:
        """See `ClueIndex.view`.

        Args:
            index: Where the texts are.
            parts: The shards that are searched.
        """
        self._index = index
        self._parts = tuple(parts)
        self.vocab_size = index.vocab_size
        self._table = _table(self._parts)
        self._rows = np.array([part.shard.rows for part in parts], np.int64)
        self._most = max((part.shard.passages for part in parts), default=0)

    def start(self, n: int = 1) -> ClueRanges:
        """The empty sequence, n times."""
        low = np.zeros((n, len(self._parts)), np.int64)
        return ClueRanges(low, low + self._rows)

    def extend(self, ranges: ClueRanges, rows: ArrayLike, tokens: ArrayLike) -> ClueRanges:
        """Sequence `rows[i]` with `tokens[i]` appended, for each i.

        Args:
            ranges: Left as they were.
            rows: Which sequence is continued, [m].
            tokens: By which token, [m]; one that does not follow gives an empty range.

        Raises:
            InputError: If a row or a token does not exist.
        """
        from genmm_retriever.constraints.clues import searching

        chosen, new = _list(rows), _list(tokens)
        if len(chosen) != len(new):
            raise InputError(f"{len(chosen)} rows but {len(new)} tokens", "give one a row")
        low, high = self._own(ranges)
        made = np.empty((2, len(chosen), len(self._parts)), np.int64)
        size = self.vocab_size
        status = searching.extend(self._table, low, high, chosen, new, size, made[0], made[1])
        if status == searching.NO_ROW:
            raise _absent("row", chosen, len(low))
        if status == searching.NO_TOKEN:
            raise _absent("token", new, size)
        _refuse(status)
        return ClueRanges(made[0], made[1])

    def find(self, tokens: ArrayLike) -> ClueRanges:
        """Where a sequence of tokens occurs, as one row."""
        ranges = self.start(1)
        for token in _list(tokens):
            ranges = self.extend(ranges, [0], [token])
        return ranges

    def counts(self, ranges: ClueRanges) -> I64:
        """Alive occurrences of each sequence, [n]; of the empty one: all tokens."""
        from genmm_retriever.constraints.clues import searching

        low, high = self._own(ranges)
        counts = np.empty(len(low), np.int64)
        _refuse(searching.count(self._table, low, high, counts))
        return counts

    def document_frequency(self, ranges: ClueRanges, limit: int | None = None) -> I64:
        """Alive passages that contain each sequence, [n].

        Args:
            ranges: n sequences.
            limit: Stop counting at so many, which is what rare and frequent ones need to be
                told apart; an occurrence takes a nanosecond or two, and there may be millions.
        """
        from genmm_retriever.constraints.clues import searching

        low, high = self._own(ranges)
        counts = np.empty(len(low), np.int64)
        most = 2**62 if limit is None else max(0, limit)
        _refuse(searching.document_frequency(self._table, low, high, most, self._seen(), counts))
        return counts

    def next_tokens(
        self, ranges: ClueRanges, logits: NDArray[np.float32] | None = None, wanted: int = 32
    ) -> tuple[I64, I64, I64]:
        """The tokens that follow each sequence in alive passages, and how often.

        Narrow ranges are scanned. Of wide ones the model's tokens are looked up, likeliest
        first, until `wanted` are found; so the result is exact in either case.

        Args:
            ranges: n sequences.
            logits: The model's scores, [n, V], in any monotone form; None for all tokens.
            wanted: With logits, only so many tokens a sequence: the likeliest, of equally
                likely ones the smallest. NaN is less likely than everything.

        Returns:
            Row i owns `offsets[i]:offsets[i + 1]`, [n + 1]; tokens, ascending in a row, [m];
            how often each follows, [m]. All int64.

        Raises:
            InputError: If shapes do not fit.
        """
        from genmm_retriever.constraints.clues import choosing

        low, high = self._own(ranges)
        n, size = len(low), self.vocab_size
        address, wanted = 0, max(0, min(wanted, size))
        if logits is None:
            room = int(np.minimum(np.maximum(high - low, 0).sum(axis=1), size).sum())
        else:
            logits = np.ascontiguousarray(logits, np.float32)
            if logits.shape != (n, size):
                raise InputError(
                    f"logits of shape {logits.shape} for {n} sequences and {size} tokens",
                    "give one row a sequence and one column a token",
                )
            room, address = n * wanted, logits.ctypes.data
        offsets, tokens, numbers = np.zeros(n + 1, np.int64), *np.empty((2, room), np.int64)
        status = choosing.next_tokens(
            self._table,
            low,
            high,
            address,
            wanted,
            self.limits or (choosing.NARROW, choosing.CHECKED, choosing.ROWS_A_TOKEN),
            ROOM.for_next(size, wanted),
            offsets,
            tokens,
            numbers,
        )
        _refuse(status)
        return offsets, tokens[: offsets[-1]].copy(), numbers[: offsets[-1]].copy()

    def passages_of(
        self, ranges: ClueRanges, row: int, limit: int | None = None
    ) -> tuple[I64, I64]:
        """The alive passages that contain a sequence.

        Args:
            ranges: Some sequences.
            row: Which of them.
            limit: At most so many, those with the smallest numbers; None for all.

        Returns:
            Numbers of the passages in the index, ascending, and the item of each.
        """
        from genmm_retriever.constraints.clues import searching

        low, high = self._own(ranges)
        if not 0 <= row < len(low):
            raise _absent("row", np.array([row]), len(low))
        if (low[row] < 0).any() or (high[row] > self._rows).any():
            raise _foreign()
        found = [np.zeros((2, 0), np.int64)]
        for s, part in enumerate(self._parts):
            begin, end = int(low[row, s]), int(high[row, s])
            if begin >= end:
                continue
            room = np.empty(min(end - begin, part.shard.passages), np.int64)
            size = searching.distinct(self._table[s], begin, end, 2**62, self._seen(), room)
            _refuse(searching.DAMAGED if size < 0 else searching.OK)
            here = room[:size]
            found.append(np.stack([part.numbers(here), part.shard.items[here]]))
        passages, items = np.concatenate(found, axis=1)
        order = np.argsort(passages)[:limit]
        return passages[order], items[order]

    @property
    def passages(self) -> int:
        """How many passages may be found."""
        return int(self._table[:, 8].sum())

    def passage_tokens(self, passage: int) -> I64:
        """The tokens of a passage, by its number in the index."""
        return self._index.passage_tokens(passage)

    def occurrences(self, tokens: ArrayLike, passage: int) -> I64:
        """Where a sequence begins in a passage, in tokens from its start, ascending."""
        return self._index.occurrences(tokens, passage)

    def _own(self, ranges: ClueRanges) -> tuple[I64, I64]:
        """The two arrays, if they can be of this view."""
        low, high = _written(ranges.low), _written(ranges.high)
        if low.shape != high.shape or low.ndim != 2 or low.shape[1] != len(self._parts):
            raise _foreign()
        return low, high

    def _seen(self) -> NDArray[np.uint64]:
        return ROOM.for_passages(self._most)


def _written(array: I64) -> I64:
    """The array as numba knows it: writeable, of whole numbers, without gaps."""
    if type(array) is np.ndarray and array.dtype == np.int64 and array.flags.carray:
        return array
    return np.array(array, np.int64)


def _list(values: ArrayLike) -> I64:
    found = np.asarray(values)
    if found.ndim == 0:
        found = found[None]
    if found.ndim != 1 or (len(found) and found.dtype.kind not in "iu"):
        raise InputError("rows and tokens are lists of integers", "give one dimension")
    return _written(found)


def _refuse(status: int) -> None:
    """Raise what a kernel found wrong."""
    from genmm_retriever.constraints.clues import searching

    if status != searching.OK:
        ROOM.spoil()
        raise _foreign() if status == searching.FOREIGN else _damaged()


def _absent(what: str, values: I64, size: int) -> InputError:
    worst = next(value for value in values.tolist() if not 0 <= value < size)
    return InputError(f"there is no {what} {worst}", f"{what}s lie in [0, {size})")


def _foreign() -> InputError:
    return InputError("these ranges are not of this view", "extend what its `start` gives")


def _table(parts: Sequence[Part]) -> I64:
    """The table of `searching`; the parts hold the arrays whose addresses it names."""
    table = np.zeros((len(parts), 9), np.int64)
    for s, part in enumerate(parts):
        shard = part.shard
        arrays = (shard.bwt, shard.psi, shard.doc, part.starts, part.bits, part.ranks)
        table[s, :6] = [0 if array is None else array.ctypes.data for array in arrays]
        alive = shard.passages if part.alive is None else int(part.alive.sum())
        table[s, 6:] = shard.rows, shard.passages, alive
    return table
