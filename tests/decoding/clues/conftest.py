"""Texts searched by brute force, with the interface of the clue index's views."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest


@dataclass(frozen=True)
class BruteRanges:
    """Phrases by their number in `BruteView.phrases`, [n]."""

    lo: np.ndarray


class BruteView:
    """Every answer by looking through all passages."""

    def __init__(self, passages, items=None):
        self.passages = [tuple(passage) for passage in passages]
        self.items = list(range(len(self.passages))) if items is None else list(items)
        self.phrases = [()]

    @property
    def tokens(self):
        return sum(map(len, self.passages))

    def places(self, phrase, passage):
        text = self.passages[passage]
        return [
            i
            for i in range(len(text) - len(phrase) + 1)
            if text[i : i + len(phrase)] == tuple(phrase)
        ]

    def count(self, phrase):
        if not phrase:
            return self.tokens
        return sum(len(self.places(phrase, p)) for p in range(len(self.passages)))

    def holding(self, phrase):
        return [p for p in range(len(self.passages)) if self.places(phrase, p)]

    def following(self, phrase):
        """Occurrences by next token."""
        found = {}
        for text in self.passages:
            for i in range(len(text) - len(phrase)):
                if text[i : i + len(phrase)] == tuple(phrase):
                    token = text[i + len(phrase)]
                    found[token] = found.get(token, 0) + 1
        return found

    def start(self, n):
        return BruteRanges(np.zeros(n, dtype=np.int64))

    def extend(self, ranges, rows, tokens):
        numbers = []
        for row, token in zip(rows, tokens, strict=True):
            self.phrases.append((*self.phrases[ranges.lo[row]], int(token)))
            numbers.append(len(self.phrases) - 1)
        return BruteRanges(np.array(numbers, dtype=np.int64))

    def counts(self, ranges):
        return np.array([self.count(self.phrases[n]) for n in ranges.lo], dtype=np.int64)

    def document_frequency(self, ranges, limit=None):
        found = np.array([len(self.holding(self.phrases[n])) for n in ranges.lo], dtype=np.int64)
        return found if limit is None else np.minimum(found, limit)

    def next_tokens(self, ranges, logits, wanted):
        offsets, tokens, counts = [0], [], []
        for row, number in enumerate(ranges.lo):
            following = self.following(self.phrases[number])
            best = sorted(following)
            if logits is not None:
                best = sorted(best, key=lambda token: -logits[row, token])[:wanted]
            tokens += best
            counts += [following[token] for token in best]
            offsets.append(len(tokens))
        return tuple(np.array(a, dtype=np.int64) for a in (offsets, tokens, counts))

    def passages_of(self, ranges, row, limit):
        found = self.holding(self.phrases[ranges.lo[row]])[:limit]
        return np.array(found, dtype=np.int64), np.array([self.items[p] for p in found])

    def passage_tokens(self, passage):
        return np.array(self.passages[passage], dtype=np.uint32)


@pytest.fixture(scope="session")
def brute():
    return BruteView


@pytest.fixture(scope="session")
def corpus():
    """Makes passages of Zipf-like tokens of the tiny model's vocabulary."""

    def make(seed, passages=12, longest=14, vocabulary=20):
        draw = np.random.default_rng(seed)
        weights = 1 / np.arange(1, vocabulary + 1)
        return [
            draw.choice(
                np.arange(3, 3 + vocabulary),
                size=draw.integers(0, longest),
                p=weights / sum(weights),
            ).tolist()
            for _ in range(passages)
        ]

    return make


class Halves:
    """Even tokens begin words, odd ones go on with them; 4 shows nothing."""

    def joined(self, tokens):
        tokens = np.asarray(tokens)
        return tokens % 2 == 1

    def blank(self, tokens):
        return np.asarray(tokens) == 4


@pytest.fixture(scope="session")
def halves():
    return Halves()
