"""One piece of the clue index: an FM-index of some passages, as flat arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmm_retriever.constraints.clues.suffixes import reversed_suffixes
from genmm_retriever.errors import IndexDamagedError

U32 = NDArray[np.uint32]
I64 = NDArray[np.int64]

_TYPES: dict[str, Any] = {
    "text": np.uint32,
    "bwt": np.uint32,
    "psi": np.uint32,
    "doc": np.uint32,
    "symbols": np.uint32,
    "c": np.int64,
    "offsets": np.int64,
    "items": np.int64,
}
_HINT = "build the index again"


@dataclass(frozen=True, eq=False)
class Shard:
    """An FM-index (Ferragina and Manzini, FOCS 2000) over P passages, N symbols.

    The text is every passage behind a separator, symbol 0; token t is the symbol t + 1. Rows
    are the places of the text, sorted by what precedes them, read backwards and including the
    place itself. So the places where a sequence ends are neighbours, and what may come next
    stands beside them in `bwt`. There is no wavelet tree: ranks are binary searches in `psi`.

    Attributes:
        text: Symbols, [N].
        bwt: The symbol that follows each row's place; 0 at the end of a passage, [N].
        psi: The rows of each symbol in `bwt`, ascending; symbols end to end, [N].
        doc: The passage of each row, a separator's being the one behind it, [N].
        symbols: The symbols that occur, ascending, [S].
        c: Where each of them begins in `psi`, [S + 1].
        offsets: Where each passage's separator stands in `text`, and N, [P + 1].
        items: The item (row of the index) of each passage, [P].
    """

    text: U32
    bwt: U32
    psi: U32
    doc: U32
    symbols: U32
    c: I64
    offsets: I64
    items: I64

    @classmethod
    def build(cls, tokens: NDArray[Any], offsets: I64, items: I64, vocab_size: int) -> Shard:
        """Index passages whose tokens lie in [0, vocab_size); 24 bytes a token at most."""
        from genmm_retriever.constraints.clues import making

        offsets = offsets - offsets[0] + np.arange(len(offsets))
        size = int(offsets[-1])
        text = np.empty(size, np.uint32)
        _fill(text, tokens, offsets)
        counts = np.zeros(vocab_size + 1, np.int64)
        making.count_symbols(text, counts)
        doc = reversed_suffixes(text, counts).view(np.uint32)
        bwt = _transformed(text, offsets, doc)
        starts = np.cumsum(counts) - counts
        psi = np.empty(size, np.uint32)
        making.positions_by_symbol(bwt, 0, size, starts.copy(), psi)
        symbols = np.flatnonzero(counts)
        c = np.append(starts[symbols], size).astype(np.int64)
        return cls(text, bwt, psi, doc, symbols.astype(np.uint32), c, offsets, items)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of the arrays."""
        return tuple(_TYPES)

    @classmethod
    def from_arrays(cls, name: str, arrays: Mapping[str, NDArray[Any]], vocab_size: int) -> Shard:
        """The shard that these arrays describe; they may be memory-mapped.

        Raises:
            IndexDamagedError: If types or sizes do not fit together.
        """
        given: dict[str, Any] = {}
        for key, dtype in _TYPES.items():
            array = arrays.get(key)
            if array is None:
                raise IndexDamagedError(f"the clue shard {name} lacks {key!r}", _HINT)
            if array.dtype != dtype or array.ndim != 1:
                raise IndexDamagedError(
                    f"{key!r} of the clue shard {name} is no list of {dtype.__name__}", _HINT
                )
            given[key] = np.require(array, dtype, ["C", "A"])
        shard = cls(**given)
        shard._check(name, vocab_size)
        return shard

    def _check(self, name: str, vocab_size: int) -> None:
        size, passages = len(self.text), len(self.items)
        fits = (
            len(self.bwt) == len(self.psi) == len(self.doc) == size
            and len(self.offsets) == passages + 1
            and len(self.c) == len(self.symbols) + 1
            and int(self.offsets[0]) == 0
            and int(self.offsets[-1]) == size
            and int(self.c[0]) == 0
            and int(self.c[-1]) == size
            and bool((np.diff(self.c) > 0).all())
            and bool((np.diff(self.symbols.astype(np.int64)) > 0).all())
            and (not len(self.symbols) or int(self.symbols[-1]) <= vocab_size)
            and (not passages or int(self.c[1]) == passages)
        )
        if not fits:
            raise IndexDamagedError(
                f"the sizes of the clue shard {name} do not fit together", _HINT
            )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays to keep, by name."""
        return {name: getattr(self, name) for name in _TYPES}

    def starts(self, vocab_size: int) -> I64:
        """Where each symbol begins in `psi`, whether it occurs or not, [vocab_size + 2]."""
        counts = np.zeros(vocab_size + 2, np.int64)
        counts[self.symbols.astype(np.int64) + 1] = np.diff(self.c)
        return np.cumsum(counts)

    @property
    def rows(self) -> int:
        """N: tokens and separators."""
        return len(self.text)

    @property
    def passages(self) -> int:
        """P."""
        return len(self.items)

    @property
    def tokens(self) -> int:
        """Tokens of all passages."""
        return self.rows - self.passages

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays().values())

    @cached_property
    def _sorted(self) -> bool:
        return bool((self.items[1:] >= self.items[:-1]).all())

    def passages_of_items(self, items: I64) -> I64:
        """The passages of some items, ascending.

        Args:
            items: Ascending, each once.
        """
        if not len(items) or not self.passages:
            return np.zeros(0, np.int64)
        if self._sorted:
            first = np.searchsorted(self.items, items)
            count = np.searchsorted(self.items, items, side="right") - first
            shift = first - (np.cumsum(count) - count)
            return np.repeat(shift, count) + np.arange(int(count.sum()))
        place = np.minimum(np.searchsorted(items, self.items), len(items) - 1)
        return np.flatnonzero(items[place] == self.items)

    def passage(self, number: int) -> I64:
        """The tokens of a passage."""
        begin, end = self.offsets[number : number + 2]
        return self.text[begin + 1 : end].astype(np.int64) - 1

    def lengths(self, passages: NDArray[Any]) -> I64:
        """Tokens of some passages, by number or by a mask."""
        chosen = np.flatnonzero(passages) if passages.dtype == bool else passages
        return self.offsets[chosen + 1] - self.offsets[chosen] - 1

    def gather(self, passages: I64) -> tuple[U32, I64]:
        """The tokens of some passages end to end, and where each begins.

        Raises:
            IndexDamagedError: If the text contradicts itself.
        """
        from genmm_retriever.constraints.clues import making

        begins, length = self.offsets[passages], self.lengths(passages)
        if len(begins) and (
            begins.min() < 0 or length.min() < 0 or (begins + length).max() >= self.rows
        ):
            raise IndexDamagedError("passages of the clue index exceed its text", _HINT)
        offsets = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
        tokens = np.empty(int(offsets[-1]), np.uint32)
        making.gather(self.text.ctypes.data, self.rows, begins, offsets, tokens)
        if len(tokens) and int(tokens.max()) >= int(self.symbols[-1]):
            raise IndexDamagedError("the text of the clue index has unknown tokens", _HINT)
        return tokens, offsets


def _transformed(text: U32, offsets: I64, order: U32) -> U32:
    """The array `bwt`; `order`, the sorted suffixes, becomes `doc`."""
    from genmm_retriever.constraints.clues import making

    passage, bwt = np.empty(len(text), np.uint32), np.empty(len(text), np.uint32)
    making.number_passages(offsets, passage)
    _in_halves(len(text), lambda a, b: making.transform(order, text, passage, a, b, bwt))
    return bwt


def _in_halves(size: int, work: Callable[[int, int], None]) -> None:
    """Do the rows before and behind the middle side by side, if they are worth a thread."""
    if size < 1 << 17:
        work(0, size)
        return
    with ThreadPoolExecutor(2) as pool:
        for part in [pool.submit(work, 0, size // 2), pool.submit(work, size // 2, size)]:
            part.result()


def _fill(text: U32, tokens: NDArray[Any], offsets: I64) -> None:
    """Write separators and symbols a piece at a time, so that nothing large is held twice."""
    from genmm_retriever.constraints.clues import making

    piece = 1 << 22
    making.separate(text, offsets)
    written = 0
    for begin in range(0, len(tokens), piece):
        part = np.asarray(tokens[begin : begin + piece]).astype(np.uint32)
        written = making.enter(text, part, written)
