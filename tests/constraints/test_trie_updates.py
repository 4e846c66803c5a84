"""Insertions, deletions and merges against a trie that is built anew."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genmm_retriever.constraints import TokenTrie, TrieState
from genmm_retriever.errors import IndexDamagedError, InputError

EOS = 2
EXAMPLES = settings(max_examples=50, deadline=None)
token = st.sampled_from([0, 1, 3, 4, 49_151])
identifier = st.lists(token, max_size=5).map(lambda body: (*body, EOS))
Corpus = list[tuple[tuple[int, ...], int]]


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, Any]]:
    """Insertions of new items and deletions, in any order."""
    history: list[tuple[str, Any]] = []
    row = 0
    for kind in draw(
        st.lists(st.sampled_from(["insert", "delete", "merge", "reopen"]), max_size=6)
    ):
        if kind == "insert":
            sequences = draw(st.lists(identifier, max_size=8))
            rows = [row + draw(st.integers(0, 3)) for _ in sequences]
            row = max([row, *(r + 1 for r in rows)])
            history.append((kind, list(zip(sequences, rows, strict=True))))
        else:
            history.append((kind, draw(st.lists(st.integers(0, row + 2), max_size=4))))
    return history


def null_of(sequence: Sequence[int]) -> list[float]:
    """A log-probability a token that depends on the prefix alone; exact in float16."""
    return [-((sum(sequence[: i + 1]) + i) % 64) / 4 for i in range(len(sequence))]


def flat(corpus: Corpus) -> tuple[Any, ...]:
    """Tokens, offsets, items and log-probabilities end to end."""
    sequences = [sequence for sequence, _ in corpus]
    return (
        np.array([t for s in sequences for t in s], dtype=np.int32),
        np.cumsum([0, *map(len, sequences)]),
        np.array([item for _, item in corpus], dtype=np.int64),
        np.array([null for s in sequences for null in null_of(s)], dtype=np.float32),
    )


def played(first: Corpus, history: list[tuple[str, Any]]) -> tuple[TokenTrie, Corpus]:
    """The trie that a history makes, and what should be in it."""
    trie, corpus = TokenTrie.from_flat(*flat(first)), list(first)
    for kind, given_ in history:
        if kind == "insert":
            trie, corpus = trie.insert(*flat(given_)), corpus + given_
        elif kind == "delete":
            trie = trie.delete(np.array(given_, dtype=np.int64))
            corpus = [(s, item) for s, item in corpus if item not in given_]
        elif kind == "merge":
            trie = trie.merged()
        else:
            arrays = trie.to_arrays()
            for array in arrays.values():
                array.flags.writeable = False  # as from a memory map
            trie = TokenTrie.from_arrays(arrays)
    return trie, corpus


def seen(trie: TokenTrie, state: TrieState) -> list[Any]:
    """Everything that a trie says of a state, whatever its layout."""
    legal, completions, forced = trie.legal(state), trie.completions(state), trie.forced(state)
    after = trie.legal(forced.state)
    part = trie.forced(state, torch.arange(len(state.query)) % 3)
    between = trie.completions(part.state)
    return [
        *(one.tolist() for one in vars(legal).values()),
        *(one.tolist() for one in vars(after).values()),
        *(completions.rows.tolist(), completions.tails, completions.null_logprobs.tolist()),
        [sorted(items) for items in completions.items],
        *(forced.tokens, forced.null_logprobs.tolist(), forced.complete.tolist()),
        *(part.tokens, part.null_logprobs.tolist(), part.complete.tolist()),
        *(one.tolist() for one in vars(trie.legal(part.state)).values()),
        *(between.rows.tolist(), between.tails, between.null_logprobs.tolist()),
        [sorted(items) for items in trie.documents(part.state)],
        [sorted(items) for items in trie.documents(state)],
        [sorted(items) for items in trie.documents(forced.state)],
        trie.remaining(state).tolist(),
        trie.remaining(forced.state).tolist(),
    ]


def assert_equal(one: TokenTrie, other: TokenTrie, subsets: Any, *, choices: bool) -> None:
    """Walk through both, token by token or from choice to choice."""
    states = [trie.start(len(subsets), subsets) for trie in (one, other)]
    while True:
        assert seen(one, states[0]) == seen(other, states[1])
        least = [t.least_null_logprob(s) for t, s in zip((one, other), states, strict=True)]
        tails = one.completions(states[0])
        assert (least[0][tails.rows] <= tails.null_logprobs).all()
        assert (least[1][tails.rows] <= tails.null_logprobs).all()
        if choices:
            states = [t.forced(s).state for t, s in zip((one, other), states, strict=True)]
        legal = one.legal(states[0])
        if not len(legal.rows):
            return
        states = [
            t.advance(s, legal.rows, legal.tokens)
            for t, s in zip((one, other), states, strict=True)
        ]


corpora = st.lists(st.tuples(identifier, st.integers(0, 3)), max_size=15)
subset = st.none() | st.lists(st.integers(0, 12), max_size=8).map(lambda r: np.array(r, np.int64))


@EXAMPLES
@given(corpora, histories(), st.lists(subset, min_size=2, max_size=2), st.booleans())
def test_any_history_equals_a_new_build(
    first: Corpus, history: Any, subsets: Any, choices: bool
) -> None:
    trie, corpus = played(first, history)
    fresh = TokenTrie.from_flat(*flat(corpus))
    assert trie.sequences() == fresh.sequences()
    assert len(trie) == len(fresh)
    assert trie.item_rows.tolist() == sorted({item for _, item in corpus})
    assert_equal(trie, fresh, subsets, choices=choices)
    assert_equal(trie.merged(), fresh, subsets, choices=choices)
    assert trie.merged().overlay_share == 0.0


@EXAMPLES
@given(corpora, histories(), subset, st.booleans())
def test_a_subset_is_searched_like_an_index_of_the_subset(
    first: Corpus, history: Any, wanted: np.ndarray | None, choices: bool
) -> None:
    trie, corpus = played(first, history)
    alone = [(s, item) for s, item in corpus if wanted is None or item in wanted]
    fresh = TokenTrie.from_flat(*flat(alone))
    one, other = trie.start(1, [wanted]), fresh.start(1)
    while True:
        assert seen(trie, one) == seen(fresh, other)
        if choices:
            one, other = trie.forced(one).state, fresh.forced(other).state
        legal = trie.legal(one)
        if not len(legal.rows):
            return
        one = trie.advance(one, legal.rows, legal.tokens)
        other = fresh.advance(other, legal.rows, legal.tokens)


@EXAMPLES
@given(corpora, histories())
def test_merging_makes_the_arrays_of_a_new_build(first: Corpus, history: Any) -> None:
    trie, corpus = played(first, history)
    fresh, mended = TokenTrie.from_flat(*flat(corpus)).to_arrays(), trie.merged().to_arrays()
    assert fresh.keys() == mended.keys()
    for name in fresh:
        assert np.array_equal(fresh[name], mended[name]), name
        assert fresh[name].dtype == mended[name].dtype


def random_corpus(seed: int, count: int, first_row: int = 0) -> Corpus:
    rng = np.random.default_rng(seed)
    return [
        ((*(rng.zipf(1.5, rng.integers(0, 6)).clip(max=40) + 2).tolist(), EOS), first_row + row)
        for row in range(count)
    ]


def test_updates_leave_the_old_trie_and_share_the_base() -> None:
    corpus, more = random_corpus(0, 300), random_corpus(1, 30, 300)
    old = TokenTrie.from_flat(*flat(corpus))
    before = {name: array.copy() for name, array in old.to_arrays().items()}
    new = old.insert(*flat(more)).delete(np.array([3, 5]))
    assert old.sequences() == sorted({s for s, _ in corpus})
    after = new.to_arrays()
    assert all(after[name] is old.to_arrays()[name] for name in before)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert {name.split("/")[0] for name in after} == {"base", "overlay", "dead"}
    share = new.overlay_share
    assert 0.02 < share < 0.2
    assert old.overlay_share == 0.0
    assert new.delete(np.arange(150)).overlay_share > 0.4


def test_an_item_may_come_back_after_its_deletion() -> None:
    trie = TokenTrie.build([(5, EOS), (7, EOS)], [0, 1]).delete(np.array([1]))
    trie = trie.insert(*flat([((9, EOS), 1)]))
    assert trie.sequences() == [(5, EOS), (9, EOS)]
    assert trie.item_rows.tolist() == [0, 1]


@pytest.mark.parametrize("reopened", [False, True])
def test_the_highest_row_may_be_deleted_and_a_lower_one_come(reopened: bool) -> None:
    def kept(trie: TokenTrie) -> TokenTrie:
        return TokenTrie.from_arrays(trie.to_arrays()) if reopened else trie

    trie = TokenTrie.build([(5, EOS), (7, EOS)], [0, 1])
    trie = kept(trie.add([(8, EOS)], [10]))
    trie = kept(trie.delete(np.array([10])))
    assert trie.item_rows.tolist() == [0, 1]
    trie = kept(trie.add([(9, EOS)], [3]))
    assert trie.item_rows.tolist() == [0, 1, 3]
    assert trie.added_rows.tolist() == [3]
    assert trie.sequences() == [(5, EOS), (7, EOS), (9, EOS)]
    few = kept(trie.keep(np.array([1, 3, 10, 99])))
    assert few.item_rows.tolist() == [1, 3]
    assert few.sequences() == [(7, EOS), (9, EOS)]
    fresh = TokenTrie.build([(7, EOS), (9, EOS)], [1, 3])
    for subsets in ([None], [np.array([3, 10])]):
        assert_equal(few, fresh, subsets, choices=True)
        assert_equal(few.merged(), fresh, subsets, choices=True)


def test_nothing_changes_by_nothing() -> None:
    trie = TokenTrie.build([(5, EOS)], [0])
    assert trie.insert(*flat([])).to_arrays().keys() == trie.to_arrays().keys()
    assert trie.delete(np.array([-1, 4, 99])).to_arrays().keys() == trie.to_arrays().keys()
    empty = trie.delete(np.array([0]))
    assert (len(empty), empty.sequences(), empty.legal(empty.start(1)).tokens.tolist()) == (
        0,
        [],
        [],
    )
    assert len(empty.merged().insert(*flat([((7, 1), 4)]))) == 1


def test_an_insertion_must_end_like_the_rest() -> None:
    trie = TokenTrie.build([(5, EOS)], [0])
    with pytest.raises(InputError, match="end by token 9, the trie's by 2"):
        trie.insert(np.array([5, 9]), np.array([0, 2]), np.array([1]))
    with pytest.raises(InputError, match="offsets"):
        trie.insert(np.array([5, EOS]), np.array([0, 3]), np.array([1]))


def test_damaged_updates_are_refused() -> None:
    trie = TokenTrie.build([(5, EOS), (7, EOS)], [0, 1])
    arrays = trie.insert(*flat([((5, EOS), 2)])).delete(np.array([1])).to_arrays()
    for name, wrong in [
        ("overlay/twin", np.array([7])),
        ("overlay/twin", np.array([0, 0])),
        ("overlay/leaf_tokens", np.array([9], dtype=np.int32)),
        ("overlay/edge_token", np.array([9], dtype=np.int64)),
        ("dead", np.array([1], dtype=np.int32)),
    ]:
        with pytest.raises(IndexDamagedError):
            TokenTrie.from_arrays({**arrays, name: wrong})
    with pytest.raises(IndexDamagedError, match="lacks edge_null"):
        TokenTrie.from_arrays({k: v for k, v in arrays.items() if k != "overlay/edge_null"})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_sees_the_same() -> None:
    corpus, more = random_corpus(4, 300), random_corpus(5, 40, 300)
    for trie in (
        TokenTrie.from_flat(*flat(corpus)),
        TokenTrie.from_flat(*flat(corpus)).insert(*flat(more)).delete(np.arange(30)),
    ):
        for wanted in (None, [np.arange(0, 340, 3), None]):
            here, there = trie.start(2, wanted), trie.start(2, wanted, device="cuda")
            while True:
                assert seen(trie, here) == seen(trie, there)
                least = trie.least_null_logprob(there)
                assert trie.least_null_logprob(here).tolist() == least.tolist()
                here, there = trie.forced(here).state, trie.forced(there).state
                legal, same = trie.legal(here), trie.legal(there)
                if not len(legal.rows):
                    break
                here = trie.advance(here, legal.rows, legal.tokens)
                there = trie.advance(there, same.rows, same.tokens)


def test_eight_threads_see_the_same() -> None:
    corpus, more = random_corpus(2, 400), random_corpus(3, 60, 400)
    trie = TokenTrie.from_flat(*flat(corpus)).insert(*flat(more)).delete(np.arange(0, 40))
    fresh = TokenTrie.from_flat(*flat([one for one in corpus + more if one[1] >= 40]))
    wanted = [None, np.arange(0, 460, 3), np.arange(100)]

    def walk(seed: int) -> list[Any]:
        found, state = [], trie.start(3, wanted)
        torch.manual_seed(seed)
        for _ in range(8):
            found.append(seen(trie, state))
            state = trie.forced(state).state
            legal = trie.legal(state)
            state = trie.advance(state, legal.rows, legal.tokens)
        return found

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(walk, range(8)))
    assert all(one == results[0] for one in results)
    assert len(results[0][0][0]) == 4
    assert_equal(trie, fresh, wanted, choices=True)
