"""Identifiers as token ids: made up to any number, or derived from the entries of WordNet."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_CHUNK = 250_000
_WORDS = 40_000
_PIECES = 1_000
_CLUSTERS = 1024
_KEYWORDS = 4
_STOP = {"that", "which", "with", "from", "used", "having", "some", "such", "than", "also"}


@dataclass(frozen=True, eq=False)
class Identifiers:
    """Token sequences end to end, each ended by the end token.

    Attributes:
        tokens: [T], int32.
        offsets: Identifier i is `tokens[offsets[i]:offsets[i + 1]]`, [n + 1], int64.
        name: What they are.
    """

    tokens: NDArray[np.int32]
    offsets: Ints
    name: str

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def items(self) -> Ints:
        """One item an identifier, [n], int64."""
        return np.arange(len(self), dtype=np.int64)

    @property
    def mean_length(self) -> float:
        """Tokens of an identifier, the end token included."""
        return len(self.tokens) / max(1, len(self))

    def first(self, count: int) -> Identifiers:
        """The first ones; the order is random already."""
        end = int(self.offsets[count])
        return Identifiers(self.tokens[:end], self.offsets[: count + 1], self.name)

    def of_length(self, length: int) -> Identifiers:
        """Those of exactly so many tokens."""
        return self.rows(np.flatnonzero(np.diff(self.offsets) == length))

    def rows(self, chosen: Ints) -> Identifiers:
        """Some of them, in the order given."""
        lengths = np.diff(self.offsets)[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        shift = np.repeat(self.offsets[chosen] - offsets[:-1], lengths)
        return Identifiers(self.tokens[shift + np.arange(offsets[-1])], offsets, self.name)

    def cut(self, length: int) -> Identifiers:
        """All to one length: the first `length - 1` tokens and the end; shorter ones left out."""
        chosen = np.flatnonzero(np.diff(self.offsets) >= length)
        rows = self.tokens[self.offsets[chosen][:, None] + np.arange(length)]
        rows[:, -1] = self.tokens[-1]
        offsets = np.arange(len(chosen) + 1, dtype=np.int64) * length
        return Identifiers(rows.ravel(), offsets, f"{self.name}, cut to {length} tokens")

    def lists(self) -> list[list[int]]:
        """Python lists, for peers that take nothing else."""
        flat, ends = self.tokens.tolist(), self.offsets.tolist()
        return [flat[a:b] for a, b in pairwise(ends)]


@dataclass(frozen=True, eq=False)
class Lexicon:
    """Token ids that words are made of.

    Attributes:
        heads: Tokens that begin a word, [h], int32.
        tails: Tokens that continue one, [t], int32.
        comma: The token between phrases.
        end: The token that ends an identifier.
    """

    heads: NDArray[np.int32]
    tails: NDArray[np.int32]
    comma: int
    end: int

    @classmethod
    def of_tokenizer(cls, tokenizer: Any, end: int) -> Lexicon:
        """The lower-case English pieces of a byte-level tokenizer; without many, its numbers."""
        heads, tails = [], []
        for token, number in tokenizer.get_vocab().items():
            if re.fullmatch(r"Ġ[a-z]{2,}", token):
                heads.append(number)
            elif re.fullmatch(r"[a-z]{2,}", token):
                tails.append(number)
        if min(len(heads), len(tails)) < _PIECES:
            return cls.numbered(len(tokenizer), end)
        comma = tokenizer(",", add_special_tokens=False).input_ids[0]
        as_array = [np.array(sorted(ids), dtype=np.int32) for ids in (heads, tails)]
        return cls(as_array[0], as_array[1], int(comma), end)

    @classmethod
    def numbered(cls, vocabulary: int, end: int) -> Lexicon:
        """Without a tokenizer: a third of the ids begin words, a third continue them."""
        third = vocabulary // 3
        ids = np.arange(vocabulary, dtype=np.int32)
        ids = ids[ids != end]
        return cls(ids[1:third], ids[third : 2 * third], int(ids[0]), end)


def synthetic(count: int, lexicon: Lexicon, *, seed: int = 0) -> Identifiers:
    """Identifiers that look like "two global words, keyword, keyword, two words, keyword".

    Words have one to three tokens and Zipfian frequencies, the global words come from 1,024
    clusters: beginnings are shared as those of real structured identifiers are. About 15
    tokens each; a few of a million are equal.

    Args:
        count: How many.
        lexicon: What words are made of.
        seed: Equal seeds give equal identifiers; those of a smaller count come first.
    """
    draw = np.random.default_rng(seed)
    words = _words(draw, lexicon)
    usual = _zipf(_WORDS, 1.0)
    clusters = np.searchsorted(usual, draw.random((_CLUSTERS, 2)))
    often = _zipf(_CLUSTERS, 0.6)
    tokens, lengths = [], []
    for start in range(0, count, _CHUNK):
        # A generator of its own keeps a chunk the same whatever the count.
        own = np.random.default_rng([seed, start])
        pieces = _pieces(own, words, clusters, usual, often, lexicon)
        size = min(_CHUNK, count - start)
        kept = pieces[:size] >= 0
        tokens.append(pieces[:size][kept])
        lengths.append(kept.sum(axis=1))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    return Identifiers(np.concatenate(tokens), offsets, f"{count:,} synthetic identifiers")


def _zipf(size: int, exponent: float) -> NDArray[np.float64]:
    weights = 1.0 / (np.arange(size) + 3.0) ** exponent
    share: NDArray[np.float64] = np.cumsum(weights) / weights.sum()
    share[-1] = 1.0
    return share


def _words(draw: np.random.Generator, lexicon: Lexicon) -> NDArray[np.int32]:
    """Token ids of each word, [words, 3], -1 where it is shorter."""
    heads = draw.permutation(lexicon.heads)
    words = np.full((_WORDS, 3), -1, dtype=np.int32)
    # Frequent words are single tokens, as in a trained tokenizer.
    words[:, 0] = np.resize(heads, _WORDS)
    longer = draw.random(_WORDS) < np.linspace(0.0, 1.0, _WORDS)
    longer[len(heads) :] = True
    words[longer, 1] = draw.choice(lexicon.tails, int(longer.sum()))
    longest = longer & (draw.random(_WORDS) < 0.3)
    words[longest, 2] = draw.choice(lexicon.tails, int(longest.sum()))
    return words


def _pieces(
    draw: np.random.Generator,
    words: NDArray[np.int32],
    clusters: Ints,
    usual: NDArray[np.float64],
    often: NDArray[np.float64],
    lexicon: Lexicon,
) -> NDArray[np.int32]:
    """One chunk of identifiers, [_CHUNK, columns], -1 where there is no token."""
    comma = np.full((_CHUNK, 1), lexicon.comma, dtype=np.int32)
    cluster = clusters[np.searchsorted(often, draw.random(_CHUNK))]
    columns = [words[cluster[:, 0]], words[cluster[:, 1]]]
    for _ in range(_KEYWORDS):
        columns += [comma, words[np.searchsorted(usual, draw.random(_CHUNK))]]
        second = words[np.searchsorted(usual, draw.random(_CHUNK))]
        second[draw.random(_CHUNK) >= 0.6] = -1
        columns.append(second)
    columns.append(np.full((_CHUNK, 1), lexicon.end, dtype=np.int32))
    return np.concatenate(columns, axis=1)


def wordnet_entries(path: Path, limit: int | None = None) -> list[dict[str, Any]]:
    """JSONL lines of `{"id", "title", "text"}`: titles and glosses."""
    lines = path.read_text(encoding="utf-8").splitlines()[:limit]
    return [json.loads(line) for line in lines]


def wordnet_texts(path: Path, limit: int | None = None) -> list[str]:
    """An identifier for each entry: its title and the first content words of its gloss."""
    texts = []
    for entry in wordnet_entries(path, limit):
        words = re.findall(r"[a-z][a-z'-]{3,}", entry["text"].lower().split(";")[0])
        kept = list(dict.fromkeys(word for word in words if word not in _STOP))[:6]
        texts.append(", ".join([entry["title"].lower(), *kept]))
    return texts


def wordnet(
    path: Path, encode: Callable[[str], list[int]], end: int, limit: int | None = None
) -> Identifiers:
    """The identifiers of `wordnet_texts` in a model's tokens."""
    sequences = [[*encode(text), end] for text in wordnet_texts(path, limit)]
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64)
    tokens = np.array([token for s in sequences for token in s], dtype=np.int32)
    return Identifiers(tokens, offsets, f"{len(sequences):,} WordNet identifiers")
