"""Which tokens may come next in JSON of a schema, and how it is closed in few tokens."""

from __future__ import annotations

import json
import re
import threading
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from genmm_retriever.errors import MissingExtraError
from genmm_retriever.models.base import MLLM, Generator

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_MARKS = ("]", "}", ",", *"1234567890", "n", '"', "f", "t", "[", "{", "-", ".")
_NUMBER = re.compile(rb"(?:^|[:,\[-])[\d.]{1,5}$|:$")
"""At a number that begins, or has few digits yet."""
_COMPARED = 64

_tokenizers: weakref.WeakKeyDictionary[Any, LLTokenizer | None] = weakref.WeakKeyDictionary()
_building = threading.Lock()


class JsonGrammar:
    """A JSON schema as a grammar over the tokens of one model; safe to share among threads.

    Args:
        tokenizer: Of the model, as `llguidance` reads it.
        matcher: At the beginning of the grammar; never moved.
        vocab_size: V, the width of the model's logits.
    """

    def __init__(self, tokenizer: LLTokenizer, matcher: LLMatcher, vocab_size: int) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self._matcher = matcher
        self._quote = self._single(['"'])
        self._digits = self._single("1234567890")
        self._marks = self._single(_MARKS)

    def _single(self, texts: Sequence[str]) -> list[int]:
        """Those of some characters that are tokens of their own."""
        pieces = [self.tokenizer.tokenize_str(text) for text in texts]
        return [piece[0] for piece in pieces if len(piece) == 1]

    def matcher(self, tokens: Sequence[int] = ()) -> LLMatcher:
        """A matcher of its own after the given tokens."""
        fresh = self._matcher.deep_copy()
        if tokens:
            fresh.consume_tokens(list(tokens))
        return fresh

    def text(self, tokens: Sequence[int]) -> str:
        """What tokens spell; bytes that are no UTF-8 are replaced."""
        return self.tokenizer.decode_bytes(list(tokens)).decode("utf-8", "replace")

    def legal(self, matchers: Sequence[LLMatcher]) -> Tensor:
        """Which tokens may follow, [n, V], bool, on the CPU."""
        legal = np.zeros((len(matchers), self.vocab_size), dtype=bool)
        for row, matcher in enumerate(matchers):
            bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
            unpacked = np.unpackbits(bits, bitorder="little")[: self.vocab_size]
            legal[row, : len(unpacked)] = unpacked
        return torch.from_numpy(legal)

    def ending(
        self, matcher: LLMatcher, written: Sequence[int], most: int, *, roomy: bool = False
    ) -> list[int] | None:
        """A short way to the end of the JSON; None if there is none of at most `most` tokens.

        Strings and lists are closed, numbers and new strings are as short as the schema lets
        them be. Of other forms one that looks short is taken; it need not be the shortest.

        Args:
            matcher: Left as it was.
            written: The tokens that it has seen.
            most: The room there is, in tokens.
            roomy: Take long names of enumerations and some digits: where this fits, any other
                choice of theirs fits too.
        """
        ahead = matcher.deep_copy()
        tail: list[int] = []
        while len(tail) <= most and not ahead.is_stopped():
            more = ahead.compute_ff_tokens() or self._closer(ahead, [*written, *tail], roomy)
            if not ahead.consume_tokens(more):
                return None
            tail += more
        done = ahead.is_stopped() and not ahead.is_error()
        usable = len(tail) <= most and all(token < self.vocab_size for token in tail)
        return tail if done and usable else None

    def _closer(self, matcher: LLMatcher, written: Sequence[int], roomy: bool) -> list[int]:
        """The token that brings the end nearest."""
        text = _ESCAPED.sub(b"", self.tokenizer.decode_bytes(list(written)))
        if text.count(b'"') % 2 == 1:
            candidates = self._quote
        elif roomy and _NUMBER.search(text):
            candidates = [*self._digits, *self._marks]
        else:
            candidates = self._marks
        for token in candidates:
            if matcher.validate_tokens([token]) == 1:
                return [token]
        legal = self.legal([matcher])[0].nonzero()[:, 0].tolist()[:_COMPARED]
        spelled = [self._spelled(matcher, token) for token in legal]
        best = max(spelled) if roomy else min(spelled)
        return [legal[spelled.index(best)]]

    def _spelled(self, matcher: LLMatcher, token: int) -> int:
        """Bytes of a token and of what is forced after it."""
        ahead = matcher.deep_copy()
        ahead.consume_token(token)
        return len(self.tokenizer.decode_bytes([token])) + len(ahead.compute_ff_bytes())


def grammar_of(model: Generator, schema: dict[str, Any]) -> JsonGrammar | None:
    """The grammar of a JSON schema for a model, or None if none can be had.

    There is none for a model without logits, for a tokenizer that `llguidance` cannot read
    and for a schema that it does not know. Keywords of JSON schema that it does not know are
    left to whoever checks what was written.

    Raises:
        MissingExtraError: If `llguidance` is not installed.
    """
    if not isinstance(model, MLLM):
        return None
    try:
        from llguidance import LLMatcher
    except ImportError as error:
        raise MissingExtraError("llguidance", "models") from error
    tokenizer = _tokenizer_of(model)
    if tokenizer is None:
        return None
    options: Any = {"whitespace_flexible": False, "lenient": True}
    grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=options)
    matcher = LLMatcher(tokenizer, grammar, log_level=0)
    return None if matcher.is_error() else JsonGrammar(tokenizer, matcher, model.vocab_size)


def _tokenizer_of(model: MLLM) -> LLTokenizer | None:
    """The model's tokenizer; read once, and forgotten with the model."""
    with _building:
        if model not in _tokenizers:
            _tokenizers[model] = _read_tokenizer(model)
        return _tokenizers[model]


def _read_tokenizer(model: MLLM) -> LLTokenizer | None:
    from llguidance.hf import from_tokenizer

    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        return None
    try:
        # Some models have more tokens than logits: placeholders that are never written.
        width = max(model.vocab_size, len(tokenizer))
        return from_tokenizer(tokenizer, n_vocab=width, eos_token=model.eos_token_id)
    except Exception:
        # Tokenizers that are not byte-level BPE or the like meet it in many ways.
        return None
