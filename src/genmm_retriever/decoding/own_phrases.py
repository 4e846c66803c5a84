"""Phrases that a query brings along and that occur in the text: SEAL's "n-grams of the query"."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genmm_retriever.decoding.clue_types import MOST_DOCUMENTS, ClueTexts, Ints
from genmm_retriever.identifiers.words import WordEdges

Phrase = tuple[int, ...]


@dataclass(frozen=True)
class OwnPhrase:
    """A phrase that occurs.

    Attributes:
        tokens: Its tokens.
        count: Occurrences; where words are kept whole, of whole words.
        documents: Passages, counted up to `MOST_DOCUMENTS`; at most `count`.
    """

    tokens: Phrase
    count: int
    documents: int


def whole_counts(view: ClueTexts, ranges: Any, words: WordEdges | None) -> Ints:
    """How often each phrase occurs without its last word going on, [n].

    Args:
        view: The text.
        ranges: n phrases.
        words: Tells which tokens go on with a word; None counts all occurrences.
    """
    counts = view.counts(ranges)
    if words is None:
        return counts
    offsets, tokens, numbers = view.next_tokens(ranges, None, 0)
    rows = np.repeat(np.arange(len(counts)), np.diff(offsets))
    on = words.joined(tokens)
    whole: Ints = counts - np.bincount(rows[on], numbers[on], len(counts)).astype(np.int64)
    return whole


def windows_of(
    view: ClueTexts, tokens: Sequence[int], longest: int, words: WordEdges | None
) -> tuple[list[OwnPhrase], int]:
    """The phrases of a query's words that occur, each once, and the places where one may begin.

    Args:
        view: The text.
        tokens: The query's.
        longest: Tokens of a phrase.
        words: If given, phrases are made of whole words of the query and of the text.
    """
    ids = np.array(tokens, dtype=np.int64)
    if not len(ids):
        return [], 0
    joined = np.zeros(len(ids) + 1, dtype=bool)
    if words is not None:
        joined[:-1] = words.joined(ids)
    places = np.flatnonzero(~joined[:-1])
    found: dict[Phrase, OwnPhrase] = {}
    ranges, alive = view.start(len(places)), places
    for length in range(longest):
        local = np.flatnonzero(alive + length < len(ids))
        ranges = view.extend(ranges, local, ids[alive[local] + length])
        alive = alive[local]
        on = np.flatnonzero(view.counts(ranges) > 0)
        ranges, alive = taken(ranges, on), alive[on]
        if not len(alive):
            break
        last = ids[alive + length]
        open_ended = joined[alive + length + 1] | (words is not None and words.blank(last))
        whole = np.where(open_ended, 0, whole_counts(view, ranges, words))
        documents = np.minimum(view.document_frequency(ranges, MOST_DOCUMENTS), whole)
        for place, count, many in zip(
            *(a.tolist() for a in (alive, whole, documents)), strict=True
        ):
            if count > 0:
                phrase = tuple(tokens[place : place + length + 1])
                found[phrase] = OwnPhrase(phrase, count, many)
    return list(found.values()), len(places)


def occurring(
    view: ClueTexts, phrases: Iterable[Phrase], words: WordEdges | None
) -> list[OwnPhrase]:
    """Those of some phrases that occur, in their order; none may be empty."""
    found = []
    for phrase in phrases:
        ranges = view.start(1)
        for token in phrase:
            ranges = view.extend(ranges, np.array([0]), np.array([token]))
            if not view.counts(ranges)[0]:
                break
        else:
            [count] = whole_counts(view, ranges, words).tolist()
            [many] = view.document_frequency(ranges, MOST_DOCUMENTS).tolist()
            if count > 0:
                found.append(OwnPhrase(phrase, count, min(count, many)))
    return found


def longest_only(phrases: Iterable[Phrase]) -> list[Phrase]:
    """Those that no other one begins with; scoring them scores all.

    Examples:
        >>> longest_only([(1,), (1, 2), (3,)])
        [(1, 2), (3,)]
    """
    ordered = sorted(set(phrases))
    return [
        one
        for place, one in enumerate(ordered)
        if place + 1 == len(ordered) or ordered[place + 1][: len(one)] != one
    ]


def taken(ranges: Any, rows: Ints) -> Any:
    """Some of the phrases."""
    fields = dataclasses.fields(ranges)
    return dataclasses.replace(ranges, **{f.name: getattr(ranges, f.name)[rows] for f in fields})
