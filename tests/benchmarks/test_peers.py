from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from benchmarks.corpora.identifiers import Identifiers
from benchmarks.peers import brute, suffix_arrays
from benchmarks.peers.generate import constrained_generate
from benchmarks.peers.static_csr import StaticTrie
from benchmarks.peers.tries import DictTrie, MarisaTrie

from genmm_retriever.models.base import Prompt, TextPart


def flat(sequences):
    offsets = np.cumsum([0, *map(len, sequences)]).astype(np.int64)
    tokens = np.array([token for one in sequences for token in one], dtype=np.int32)
    return Identifiers(tokens, offsets, "by hand")


def followers(sequences, prefix):
    length = len(prefix)
    return {one[length] for one in sequences if one[:length] == prefix and len(one) > length}


@pytest.mark.parametrize("kind", [DictTrie, MarisaTrie])
def test_tries_name_what_may_follow(kind, identifiers):
    if kind is MarisaTrie:
        pytest.importorskip("marisa_trie")
    lists = identifiers.lists()
    trie = kind(identifiers)
    for one in lists[:40]:
        for length in range(len(one) + 1):
            found = trie.get(one[:length])
            assert len(found) == len(set(found))
            assert set(found) == followers(lists, one[:length])
    assert trie.get([2, 2]) == []
    assert trie.nbytes > len(lists)


def test_marisa_takes_ids_around_the_surrogates():
    pytest.importorskip("marisa_trie")
    ids = [0, 0xD7FD, 0xD7FE, 0xD7FF, 0xD800, 0xDFFF, 0xE000, 151_935, 1_000_000]
    sequences = [[one, other, 2] for one in ids for other in ids]
    trie = MarisaTrie(flat(sequences))
    assert set(trie.get([])) == set(ids)
    for one in ids:
        assert set(trie.get([one])) == set(ids)
        assert trie.get([one, ids[0]]) == [2]


def test_generate_finds_the_best_where_nothing_is_pruned(tiny_builtin):
    end = tiny_builtin.eos_token_id
    sequences = [[10, 20, end], [10, 21, 22, end], [30, end], [31, 40, 41, 42, end], [32, end]]
    few = flat(sequences)
    prompt = Prompt((TextPart("Find: a dog"),))
    found = constrained_generate(tiny_builtin, prompt, DictTrie(few), beams=5, wanted=5, longest=5)
    scores = brute.score_all(tiny_builtin, prompt, few)
    assert {tokens for tokens, _ in found} == {tuple(one) for one in sequences}
    for tokens, score in found:
        assert score == pytest.approx(scores[sequences.index(list(tokens))], abs=1e-3)
    assert [score for _, score in found] == sorted((s for _, s in found), reverse=True)


def counted(tokens, offsets, query):
    """Next tokens by Python alone."""
    found = {}
    for a, b in pairwise(offsets):
        passage = tokens[a:b].tolist()
        for at in range(len(passage) - len(query)):
            if passage[at : at + len(query)] == query:
                token = passage[at + len(query)]
                found[token] = found.get(token, 0) + 1
    return found


@pytest.fixture(scope="module")
def passages():
    draw = np.random.default_rng(0)
    tokens = np.minimum(draw.zipf(1.4, 20_000), 400).astype(np.uint32)
    cuts = np.sort(draw.choice(np.arange(1, 20_000), 150, replace=False))
    return tokens, np.concatenate([[0], cuts, [20_000]]).astype(np.int64)


@pytest.fixture(scope="module")
def queries(passages):
    draw = np.random.default_rng(1)
    found = [[], [399], [7, 999]]
    for length in (1, 1, 2, 2, 3, 5):
        at = int(draw.integers(0, 19_000))
        found.append(passages[0][at : at + length].tolist())
    return found


def test_the_plain_scan_counts_within_passages(passages, queries):
    for query in queries:
        assert brute.next_counts(*passages, query) == counted(*passages, query)


def test_tokengrams_counts_the_same(passages, queries, tmp_path):
    pytest.importorskip("tokengrams")
    stream = suffix_arrays.with_separators(*passages)
    index = suffix_arrays.Tokengrams(stream, tmp_path)
    assert index.nbytes > 2 * len(stream)
    for query in queries:
        if query:
            assert index.counts(query) == counted(*passages, query)


def test_infini_gram_counts_the_same(passages, queries, tmp_path):
    pytest.importorskip("infini_gram.engine")
    stream = suffix_arrays.with_separators(*passages)
    index = suffix_arrays.InfiniGram(stream, tmp_path / "index", support=10**6)
    for query in queries:
        if query and query != [7, 999]:
            assert index.counts(query) == counted(*passages, query)
    sampled = suffix_arrays.InfiniGram(stream, tmp_path / "index", support=10)
    assert sampled.counts([1]) is None


def test_separators_need_room():
    tokens = np.array([1, 2**16 - 2], dtype=np.uint32)
    with pytest.raises(suffix_arrays.Skipped, match="16 bits"):
        suffix_arrays.with_separators(tokens, np.array([0, 2]))
    stream = suffix_arrays.with_separators(np.array([1, 2], np.uint32), np.array([0, 1, 2]))
    assert stream.tolist() == [65535, 1, 65535, 2, 65535]


def test_static_selects_like_a_plain_beam(identifiers):
    fixed = identifiers.of_length(13)
    lists = fixed.lists()
    static = StaticTrie.build(fixed, "cpu")
    draw = torch.Generator().manual_seed(0)
    beams = {(): 0.0}
    states = torch.zeros(1, dtype=torch.int64)
    scores = torch.zeros(1)
    for level in range(13):
        logprobs = torch.randn(len(states), 3_000, generator=draw).log_softmax(-1)
        ordered = list(beams)
        candidates = {
            (*beam, token): beams[beam] + float(logprobs[row, token])
            for row, beam in enumerate(ordered)
            for token in followers(lists, list(beam))
        }
        best = sorted(candidates, key=lambda one: -candidates[one])[:8]
        parents, tokens, states, scores = static.step(logprobs, scores, states, level, 8)
        kept = torch.isfinite(scores)
        parents, tokens, states, scores = (x[kept] for x in (parents, tokens, states, scores))
        written = [
            (*ordered[parent], token)
            for parent, token in zip(parents.tolist(), tokens.tolist(), strict=True)
        ]
        assert written == best
        beams = {one: candidates[one] for one in best}
    assert {tuple(one) for one in lists} >= set(beams)
    assert static.nbytes > 0
