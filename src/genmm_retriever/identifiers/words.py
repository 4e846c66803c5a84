"""Where words begin and end in tokens."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmm_retriever.identifiers.passages import Tokenizer

_UNKNOWN, _FREE, _JOINED, _BLANK = range(-1, 3)
_WRITTEN_APART = ("Lu", "Ll", "Lt", "Lm", "Mn", "Mc", "Nd")
"""Categories of characters whose words have blanks between them: cased letters, marks, digits.
Those of other scripts (Han, Kana, Thai, but also Hebrew and Arabic) may begin anywhere."""


class WordEdges:
    """Which tokens go on with the word before them; found out as tokens come up, then kept.

    Args:
        tokenizer: Whose tokens they are.
        vocab_size: V; tokens lie in [0, V).

    Examples:
        >>> class Bytes:
        ...     def encode(self, text):
        ...         return list(text.encode())
        ...     def decode(self, tokens):
        ...         return bytes(tokens).decode()
        >>> WordEdges(Bytes(), 256).joined([ord(c) for c in "a b-c2"]).tolist()
        [True, False, True, False, True, True]
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._known = np.full(vocab_size, _UNKNOWN, dtype=np.int8)
        self._before = tokenizer.encode("a")
        self._head = tokenizer.decode(self._before)

    def joined(self, tokens: Sequence[int] | NDArray[Any]) -> NDArray[np.bool_]:
        """Whether each token [m] is written to the letter or digit before it, without a blank."""
        return np.asarray(self._kinds(tokens) == _JOINED)

    def blank(self, tokens: Sequence[int] | NDArray[Any]) -> NDArray[np.bool_]:
        """Whether each token [m] shows nothing: no word ends with it."""
        return np.asarray(self._kinds(tokens) == _BLANK)

    def _kinds(self, tokens: Sequence[int] | NDArray[Any]) -> NDArray[np.int8]:
        asked = np.asarray(tokens, dtype=np.int64)
        new = np.unique(asked[self._known[asked] == _UNKNOWN])
        for token in new.tolist():
            self._known[token] = self._look(token)
        kinds: NDArray[np.int8] = self._known[asked]
        return kinds

    def _look(self, token: int) -> int:
        # Alone, some tokenizers drop the blank that a token begins with.
        said = self._tokenizer.decode([*self._before, token]).removeprefix(self._head)
        if not said.strip():
            return _BLANK
        # A part of a character is no word.
        inside = said[0] == "\ufffd" or unicodedata.category(said[0]) in _WRITTEN_APART
        return _JOINED if inside else _FREE
