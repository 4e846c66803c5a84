"""From identifiers to items and back for people: exact and prefix look-ups of texts."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmm_retriever.errors import IndexDamagedError, InputError, MissingExtraError
from genmm_retriever.schema import is_unicode

Rows = tuple[int, ...]
_RECORD = "<q"
_LARGEST_TEXT = 1 << 16


def _marisa() -> Any:
    try:
        import marisa_trie
    except ImportError as error:
        raise MissingExtraError("marisa-trie", "models") from error
    return marisa_trie


class IdentifierLookup:
    """Identifier texts as a compressed trie (marisa), each with the items that it names.

    Decoding never asks it; it answers `genmm info INDEX --prefix TEXT`.

    Examples:
        >>> packed = IdentifierLookup.build(["a dog", "a cat", "a dog"], [7, 8, 3])
        >>> lookup = IdentifierLookup.from_array(packed)
        >>> lookup.items("a dog")
        (3, 7)
        >>> lookup.starting_with("a ", limit=1)
        [('a cat', (8,))]
    """

    def __init__(self, tries: Sequence[Any]) -> None:
        self._tries = tries

    @staticmethod
    def build(texts: Iterable[str], rows: Iterable[int]) -> NDArray[np.uint8]:
        """Pack texts, in any order, with the item that each names.

        Raises:
            InputError: If a text is very long, or has null characters or lone surrogates.
            MissingExtraError: If `marisa-trie` is not installed.
        """
        marisa = _marisa()
        pairs = [(text, (row,)) for text, row in zip(texts, rows, strict=True)]
        for text, _ in pairs:
            if len(text) > _LARGEST_TEXT:
                raise InputError(
                    f"an identifier has {len(text)} characters", "keep identifiers to a few words"
                )
            if not _can_be_kept(text):
                raise InputError(
                    f"the identifier {text!r} is no plain text",
                    "remove lone surrogates and null characters",
                )
        trie = marisa.RecordTrie(_RECORD, pairs, order=marisa.LABEL_ORDER)
        return np.frombuffer(trie.tobytes(), dtype=np.uint8)

    @classmethod
    def from_array(cls, *packed: NDArray[np.uint8]) -> IdentifierLookup:
        """The look-up over what `build` packed, once or in several pieces.

        Raises:
            IndexDamagedError: If it is nothing that `build` made.
            MissingExtraError: If `marisa-trie` is not installed.
        """
        marisa = _marisa()
        try:
            tries = [marisa.RecordTrie(_RECORD).frombytes(one.tobytes()) for one in packed]
        except (RuntimeError, ValueError) as error:
            raise IndexDamagedError(
                "the look-up of identifiers is damaged", "build the index again"
            ) from error
        return cls(tries)

    def items(self, text: str) -> tuple[int, ...]:
        """The items that an identifier names, ascending; none if it is unknown."""
        if not _can_be_kept(text):
            return ()
        rows = {row for trie in self._tries for (row,) in trie.get(text, ())}
        return tuple(sorted(rows))

    def starting_with(self, prefix: str, limit: int | None = None) -> list[tuple[str, Rows]]:
        """Identifiers that begin so, with their items; see `iterate`.

        Args:
            prefix: The beginning; empty for all identifiers.
            limit: At most so many identifiers; only as many are read.
        """
        return list(islice(self.iterate(prefix), limit))

    def iterate(self, prefix: str) -> Iterator[tuple[str, Rows]]:
        """Identifiers that begin so, with their items, ascending.

        They come in the order of their UTF-8 bytes, but an identifier stands behind those that
        it is the beginning of.
        """
        if not _can_be_kept(prefix):
            return
        pairs = heapq.merge(*(_pairs(trie, prefix) for trie in self._tries), key=_place)
        for text, same in groupby(pairs, key=itemgetter(0)):
            yield text, tuple(sorted({row for _, row in same}))


def _pairs(trie: Any, prefix: str) -> Iterator[tuple[str, int]]:
    for text, (row,) in trie.iteritems(prefix):
        yield text, row


def _can_be_kept(text: str) -> bool:
    """Whether UTF-8 can hold the text; marisa cuts its queries at a null character."""
    return "\0" not in text and is_unicode(text)


def _place(pair: tuple[str, int]) -> bytes:
    # A text is followed by this byte where marisa keeps it, hence "a" stands behind "a b".
    return pair[0].encode() + b"\xff"
