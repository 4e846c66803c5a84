"""Where words begin and end in tokens."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmm_retriever.identifiers.passages import Tokenizer

_UNKNOWN, _FREE, _JOINED, _BLANK = range(-1, 3)
_PART = "\ufffd"
"""What bytes that are no whole character are decoded to."""
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
        # The last bytes of the first and the last of the characters that no tokenizer knows whole.
        self._ends = [tokenizer.encode(sign)[-1:] for sign in ("\U000f0000", "\U000fffff")]

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
        said = self._said([token])
        if not said.strip():
            return _BLANK
        first = self._completed(token) if said[0] == _PART else said[0]
        # What goes on with a character is no word.
        inside = first is None or unicodedata.category(first) in _WRITTEN_APART
        return _JOINED if inside else _FREE

    def _completed(self, token: int) -> str | None:
        """A character that a token may be the beginning of, or None if it is of none."""
        for end in self._ends:
            for number in range(1, 4):
                said = self._said([token, *end * number])
                if said and said[0] != _PART:
                    return said[0]
        return None

    def _said(self, tokens: Sequence[int]) -> str:
        # Alone, some tokenizers drop the blank that a token begins with.
        return self._tokenizer.decode([*self._before, *tokens]).removeprefix(self._head)
