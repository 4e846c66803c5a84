"""Tries of other libraries, as generative retrieval uses them: a prefix in, next tokens out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

from benchmarks.corpora.identifiers import Identifiers


class PrefixTrie(Protocol):
    """What `prefix_allowed_tokens_fn` needs."""

    def get(self, prefix: Sequence[int]) -> list[int]:
        """The tokens that may follow a prefix; none after a whole sequence."""
        ...


class DictTrie:
    """Nested dicts, walked from the root at every call: the form of GENRE (arXiv 2010.00904)."""

    def __init__(self, identifiers: Identifiers) -> None:
        self.root: dict[int, Any] = {}
        ends = identifiers.offsets.tolist()
        tokens = identifiers.tokens.tolist()
        for start, end in pairwise(ends):
            node = self.root
            for place in range(start, end):
                node = node.setdefault(tokens[place], {})

    def get(self, prefix: Sequence[int]) -> list[int]:
        """The tokens that may follow a prefix."""
        node = self.root
        for token in prefix:
            found = node.get(token)
            if found is None:
                return []
            node = found
        return list(node)

    @property
    def nbytes(self) -> int:
        """Bytes of all dicts; the integers in them, which may be shared, are not counted."""
        total, open_nodes = 0, [self.root]
        while open_nodes:
            node = open_nodes.pop()
            total += sys.getsizeof(node)
            open_nodes.extend(node.values())
        return total


class MarisaTrie:
    """Sequences as strings in a marisa-trie, every key under a prefix enumerated (GENRE's second).

    Raises:
        ImportError: If `marisa-trie` is not installed.
    """

    def __init__(self, identifiers: Identifiers) -> None:
        import marisa_trie

        ends = identifiers.offsets.tolist()
        # Code points beyond the surrogates; every token is one character.
        text = "".join(map(chr, _points(identifiers)))
        self._keys = marisa_trie.Trie(text[a:b] for a, b in pairwise(ends))
        self._first = sorted({_token(key[0]) for key in self._keys.iterkeys()})

    def get(self, prefix: Sequence[int]) -> list[int]:
        """The tokens that may follow a prefix; those of the empty one are kept."""
        if not prefix:
            return self._first
        start = "".join(chr(_point(token)) for token in prefix)
        length = len(start)
        return list({_token(key[length]) for key in self._keys.keys(start) if len(key) > length})

    @property
    def nbytes(self) -> int:
        """Bytes of the trie as it is written to disk."""
        return len(self._keys.tobytes())


_SURROGATES, _BEHIND = 0xD800, 0xE000


def _point(token: int) -> int:
    point = token + 1
    return point if point < _SURROGATES else point + _BEHIND - _SURROGATES


def _token(character: str) -> int:
    point = ord(character)
    return point - 1 if point < _SURROGATES else point - 1 - _BEHIND + _SURROGATES


def _points(identifiers: Identifiers) -> list[int]:
    points = identifiers.tokens.astype("int64") + 1
    points[points >= _SURROGATES] += _BEHIND - _SURROGATES
    found: list[int] = points.tolist()
    return found
