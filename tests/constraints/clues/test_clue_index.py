"""The clue index against lists of tokens, whatever shards, deletions and filters."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genmm_retriever.constraints.clues import ClueIndex, ClueView
from genmm_retriever.errors import IndexDamagedError, InputError

EXAMPLES = settings(max_examples=60, deadline=None)
V = 300
Corpus = list[tuple[tuple[int, ...], int]]

token = st.sampled_from([0, 1, 2, 255, 256, V - 1])
passage = st.lists(token, max_size=8).map(tuple)
corpora = st.lists(st.tuples(passage, st.integers(0, 5)), max_size=12)
some_items = st.lists(st.integers(0, 6), max_size=5)
shard_sizes = st.sampled_from([1, 5, 12, 1000])
logit = st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 0.25, 3.0, np.inf])


def flat(corpus: Corpus) -> tuple[Any, Any, Any]:
    tokens = [t for text, _ in corpus for t in text]
    offsets = np.cumsum([0, *(len(text) for text, _ in corpus)])
    return np.array(tokens, np.int64), offsets, np.array([i for _, i in corpus], np.int64)


def build(corpus: Corpus, shard_tokens: int = 1000) -> ClueIndex:
    return ClueIndex.build(*flat(corpus), vocab_size=V, shard_tokens=shard_tokens)


def grams(corpus: Corpus) -> list[tuple[int, ...]]:
    """Every sequence that occurs, and some that do not."""
    found = {(), (0, 0, 0, 0), (7,), (V - 1, 7)}
    for text, _ in corpus:
        found |= {text[a:b] for a in range(len(text)) for b in range(a + 1, len(text) + 1)}
    return sorted(found, key=lambda gram: (len(gram), gram))


def places(text: tuple[int, ...], gram: tuple[int, ...]) -> list[int]:
    return [a for a in range(len(text) - len(gram) + 1) if text[a : a + len(gram)] == gram]


def followers(corpus: Corpus, gram: tuple[int, ...]) -> dict[int, int]:
    found: dict[int, int] = {}
    for text, _ in corpus:
        for a in places(text, gram):
            if a + len(gram) < len(text):
                follower = text[a + len(gram)]
                found[follower] = found.get(follower, 0) + 1
    return dict(sorted(found.items()))


def best(found: dict[int, int], logits: Any, wanted: int) -> dict[int, int]:
    order = sorted(found, key=lambda t: (-logits[t], t))[:wanted]
    return {t: found[t] for t in sorted(order)}


def rows_of(answer: tuple[Any, Any, Any]) -> list[dict[int, int]]:
    offsets, tokens, counts = (array.tolist() for array in answer)
    pairs = list(zip(tokens, counts, strict=True))
    return [dict(pairs[a:b]) for a, b in zip(offsets[:-1], offsets[1:], strict=True)]


def check(view: ClueView, corpus: Corpus, logits: Any = None, wanted: int = 3) -> None:
    """Every answer of a view against the passages that should be alive in it."""
    wants = grams(corpus)
    assert view.counts(view.start(2)).tolist() == [sum(len(text) for text, _ in corpus)] * 2
    assert view.document_frequency(view.start(2)).tolist() == [len(corpus)] * 2
    for gram in wants:
        ranges = view.find(gram)
        holders = [(text, item) for text, item in corpus if places(text, gram)]
        hits = sum(len(places(text, gram)) for text, _ in holders)
        if gram:
            assert view.counts(ranges).tolist() == [hits], gram
        assert view.document_frequency(ranges).tolist() == [len(holders)]
        numbers, items = view.passages_of(ranges, 0)
        assert items.tolist() == [item for _, item in holders]
        assert [tuple(view.passage_tokens(p).tolist()) for p in numbers] == [t for t, _ in holders]
        for number, (text, _) in zip(numbers, holders, strict=True):
            assert view.occurrences(gram, number).tolist() == places(text, gram)
        few = view.passages_of(ranges, 0, 2)
        assert few[0].tolist() == numbers[:2].tolist()
        assert few[1].tolist() == items[:2].tolist()
        expected = followers(corpus, gram)
        assert rows_of(view.next_tokens(ranges)) == [expected]
        if logits is not None:
            answer = view.next_tokens(ranges, logits[None], wanted)
            assert rows_of(answer) == [best(expected, logits, wanted)]


def some_logits(values: list[float]) -> Any:
    logits = np.full(V, -2.0, np.float32)
    logits[[0, 1, 2, 255, 256, V - 1]] = values
    return logits


six = st.lists(logit, min_size=6, max_size=6).map(some_logits)


@EXAMPLES
@given(corpora, shard_sizes, six, st.integers(0, 7))
def test_answers(corpus, shard_tokens, logits, wanted):
    index = build(corpus, shard_tokens)
    assert index.passages == len(corpus)
    assert index.tokens == sum(len(text) for text, _ in corpus)
    check(index.view(), corpus, logits, wanted)


def test_passages_do_not_run_into_each_other():
    view = build([((1, 2), 0), ((2, 1), 1), ((), 2), ((1,), 3)]).view()
    assert view.counts(view.find((2, 2))).tolist() == [0]
    assert view.counts(view.find((1, 1))).tolist() == [0]
    assert view.document_frequency(view.find((1,))).tolist() == [3]


def test_sequences_that_begin_alike_are_extended_at_once():
    view = build([((1, 2, 3, 1, 2), 0)]).view()
    ranges = view.extend(view.start(1), [0, 0, 0], [1, 3, 9])
    ranges = view.extend(ranges, [0, 1, 2, 0], [2, 1, 1, 3])
    assert view.counts(ranges).tolist() == [2, 1, 0, 0]


def test_an_empty_index_has_nothing():
    view = build([]).view()
    ranges = view.extend(view.start(1), [0], [1])
    assert view.counts(ranges).tolist() == [0]
    assert rows_of(view.next_tokens(view.start(1))) == [{}]
    assert view.passages_of(view.start(1), 0)[0].tolist() == []


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint32, np.uint16])
def test_tokens_of_any_integer_type(dtype):
    corpus: Corpus = [((0, V - 1, 0), 4)]
    tokens, offsets, items = flat(corpus)
    index = ClueIndex.build(tokens.astype(dtype), offsets, items, vocab_size=V)
    check(index.view(), corpus)
