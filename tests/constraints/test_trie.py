"""The trie against a dict of prefixes."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genmm_retriever.constraints import TokenTrie, TrieState, parts
from genmm_retriever.errors import IndexDamagedError, InputError

EOS = 2
EXAMPLES = settings(max_examples=50, deadline=None)
token = st.sampled_from([0, 1, 3, 4, 49_151])
identifier = st.lists(token, max_size=5).map(lambda body: (*body, EOS))
corpora = st.lists(st.tuples(identifier, st.integers(0, 6)), max_size=20)
subset = st.none() | st.lists(st.integers(0, 9), max_size=6).map(lambda r: np.array(r, np.int64))


def null_of(sequence: tuple[int, ...]) -> list[float]:
    """A log-probability a token that depends on the prefix alone; exact in float16."""
    return [-((sum(sequence[: i + 1]) + i) % 64) / 4 for i in range(len(sequence))]


def build(corpus: list[tuple[tuple[int, ...], int]]) -> TokenTrie:
    sequences = [sequence for sequence, _ in corpus]
    return TokenTrie.build(sequences, [item for _, item in corpus], list(map(null_of, sequences)))


def shared_beginning(sequences: list[tuple[int, ...]]) -> tuple[int, ...]:
    """What the sequences have in common; nothing of none."""
    common = takewhile(lambda column: len(set(column)) == 1, zip(*sequences, strict=False))
    return tuple(column[0] for column in common)


def walk(trie: TokenTrie, state: TrieState) -> list[tuple[TrieState, list[tuple[int, ...]]]]:
    """Every state that can be reached, level by level, with the tokens of each row."""
    prefixes: list[tuple[int, ...]] = [()] * len(state.query)
    levels = [(state, prefixes)]
    while True:
        legal = trie.legal(state)
        if not len(legal.rows):
            return levels
        state = trie.advance(state, legal.rows, legal.tokens)
        pairs = zip(legal.rows.tolist(), legal.tokens.tolist(), strict=True)
        prefixes = [(*prefixes[row], token) for row, token in pairs]
        levels.append((state, prefixes))


@EXAMPLES
@given(corpus=corpora, tokens=st.lists(st.integers(-1, 49_200) | token, min_size=1, max_size=9))
def test_edges_of_few_rows_are_those_of_many(corpus: Any, tokens: list[int]) -> None:
    [part] = build(corpus)._layers.parts
    nodes = len(part.arrays.node_depth)
    rows = [(node, one) for node in [*range(nodes), -1, -2, parts.ABSENT] for one in tokens]
    target, asked = (torch.tensor(column) for column in zip(*rows, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_FEW", 0)
        many = part.edge(target, asked)
        patch.setattr(parts, "_FEW", len(rows))
        assert torch.equal(part.edge(target, asked), many)


@EXAMPLES
@given(corpus=corpora, subsets=st.lists(subset, min_size=3, max_size=3))
def test_every_state_equals_a_dict_of_prefixes(corpus: Any, subsets: Any) -> None:
    trie = build(corpus)
    assert trie.sequences() == sorted({sequence for sequence, _ in corpus})
    for state, prefixes in walk(trie, trie.start(3, subsets)):
        legal = trie.legal(state)
        completions = trie.completions(state)
        remaining, documents = trie.remaining(state).tolist(), trie.documents(state)
        least = trie.least_null_logprob(state).tolist()
        forced = trie.forced(state)
        stands = trie.legal(forced.state)
        most = [row % 3 for row in range(len(prefixes))]
        limited = trie.forced(state, torch.tensor(most))
        rest, goes_on = trie.completions(limited.state), trie.legal(limited.state)
        for row, (query, prefix) in enumerate(zip(state.query.tolist(), prefixes, strict=True)):
            allowed = subsets[query]
            under = [
                (s, item)
                for s, item in corpus
                if s[: len(prefix)] == prefix and (allowed is None or item in allowed)
            ]
            distinct = sorted({s for s, _ in under})
            assert remaining[row] == len(distinct)
            common = shared_beginning(distinct)[len(prefix) :]
            assert forced.tokens[row] == list(common)
            assert forced.null_logprobs[row] == sum(null_of((*prefix, *common))[len(prefix) :])
            assert forced.complete[row] == (distinct == [(*prefix, *common)])
            cut = common[: most[row]]
            assert limited.tokens[row] == list(cut)
            assert limited.null_logprobs[row] == sum(null_of((*prefix, *cut))[len(prefix) :])
            assert limited.complete[row] == (distinct == [(*prefix, *cut)])
            tails = [t for r, t in zip(rest.rows.tolist(), rest.tails, strict=True) if r == row]
            assert tails == [list(s[len(prefix) + len(cut) :]) for s in distinct]
            own = slice(*goes_on.offsets[row : row + 2].tolist())
            nexts = {s[len(prefix) + len(cut)] for s in distinct if len(s) > len(prefix + cut)}
            assert goes_on.tokens[own].tolist() == sorted(nexts)
            choices = {s[len(prefix) + len(common)] for s in distinct if s != (*prefix, *common)}
            own = slice(*stands.offsets[row : row + 2].tolist())
            assert stands.tokens[own].tolist() == sorted(choices)
            own = slice(*legal.offsets[row : row + 2].tolist())
            after = sorted({s[len(prefix)] for s in distinct if len(s) > len(prefix)})
            assert legal.tokens[own].tolist() == after
            assert legal.rows[own].tolist() == [row] * len(after)
            assert legal.finishes[own].tolist() == [t == EOS for t in after]
            steps = [null_of((*prefix, t))[-1] for t in after]
            assert legal.null_logprobs[own].tolist() == steps
            places = torch.nonzero(completions.rows == row).flatten().tolist()
            assert [completions.tails[i] for i in places] == [
                list(s[len(prefix) :]) for s in distinct
            ]
            tails = [sum(null_of(s)[len(prefix) :]) for s in distinct]
            assert completions.null_logprobs[places].tolist() == tails
            assert not tails or least[row] <= min(tails)
            named = [{item for s, item in under if s == one} for one in distinct]
            assert [set(completions.items[i]) for i in places] == named
            done = named[0] if distinct == [prefix] else set()
            assert sorted(documents[row]) == sorted(done)


@EXAMPLES
@given(corpus=corpora)
def test_arrays_make_the_same_trie(corpus: Any) -> None:
    trie = build(corpus)
    arrays = trie.to_arrays()
    for array in arrays.values():
        array.flags.writeable = False  # as from a memory map
    again = TokenTrie.from_arrays(arrays)
    assert again.sequences() == trie.sequences()
    assert (len(again), again.nodes, again.depth) == (len(trie), trie.nodes, trie.depth)
    for (one, _), (other, _) in zip(
        walk(trie, trie.start(1)), walk(again, again.start(1)), strict=True
    ):
        assert torch.equal(one.targets, other.targets)
        assert trie.completions(one).items == again.completions(other).items


def test_order_of_the_input_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    corpus = [((*rng.integers(3, 9, 4).tolist(), EOS), row) for row in range(200)]
    mixed = [corpus[i] for i in rng.permutation(200)]
    one, other = build(corpus).to_arrays(), build(mixed).to_arrays()
    for name in one.keys() - {"base/item_rows"}:
        assert np.array_equal(one[name], other[name])


def test_one_item_is_kept_once_a_leaf() -> None:
    trie = TokenTrie.build([(5, EOS), (5, EOS), (5, EOS)], [3, 1, 3])
    state = trie.advance(trie.start(1), torch.tensor([0]), torch.tensor([5]))
    state = trie.advance(state, torch.tensor([0]), torch.tensor([EOS]))
    assert trie.documents(state) == [(3, 1)]


def test_an_empty_trie_allows_nothing() -> None:
    trie = TokenTrie.build([], [])
    state = trie.start(2)
    assert (len(trie), trie.nodes, trie.depth) == (0, 1, 0)
    assert trie.forced(state).tokens == [[], []]
    assert trie.forced(state).complete.tolist() == [False, False]
    assert trie.legal(state).offsets.tolist() == [0, 0, 0]
    assert trie.remaining(state).tolist() == [0, 0]
    assert trie.documents(state) == [(), ()]
    assert trie.completions(state).tails == []


@pytest.mark.parametrize("allowed", [None, np.array([0])])
def test_illegal_tokens_are_refused(allowed: np.ndarray | None) -> None:
    trie = TokenTrie.build([(5, EOS), (7, EOS)], [0, 1])
    state = trie.start(1, [allowed])
    for bad in (0, 6, 49_151) if allowed is None else (7,):
        with pytest.raises(InputError, match=f"token {bad} is not legal"):
            trie.advance(state, torch.tensor([0]), torch.tensor([bad]))


@pytest.mark.parametrize(
    ("sequences", "items", "nulls", "said"),
    [
        ([(5, EOS), ()], [0, 1], None, "sequence 1 is empty"),
        ([(5, EOS), (5, 3)], [0, 1], None, "sequence 1 ends by token 3"),
        ([(7, EOS), (5, EOS, 3, EOS)], [0, 1], None, "sequence 1 has the end token"),
        ([(-1, EOS)], [0], None, "negative"),
        ([(5, EOS)], [-4], None, "item row is negative"),
        ([(5, EOS)], [0, 1], None, "1 sequences but 2 items"),
        ([(5, EOS)], [0], [(-1.0,)], "do not match"),
        ([(5, EOS)], [0], [(-1.0, float("-inf"))], "not finite"),
        ([(5, EOS)], [0], [(-1.0, 2.0)], "above zero"),
    ],
)
def test_bad_identifiers_are_refused(sequences: Any, items: Any, nulls: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        TokenTrie.build(sequences, items, nulls)


def test_damaged_arrays_are_refused() -> None:
    arrays = TokenTrie.build([(5, EOS), (7, EOS)], [0, 1]).to_arrays()
    with pytest.raises(IndexDamagedError, match="lacks node_edges"):
        TokenTrie.from_arrays({k: v for k, v in arrays.items() if k != "base/node_edges"})
    with pytest.raises(IndexDamagedError, match="disagree"):
        TokenTrie.from_arrays({**arrays, "base/edge_token": arrays["base/edge_token"][:-1]})
    with pytest.raises(InputError, match="2 queries but 1 subsets"):
        TokenTrie.from_arrays(arrays).start(2, [None])


@pytest.mark.parametrize("highest", [1, 3, 40, 2**31 - 3])
def test_any_tokens_sort_like_tuples(highest: int) -> None:
    rng = np.random.default_rng(highest)
    end = 2**31 - 2 if highest > 40 else 0
    bodies = [rng.integers(1, highest + 1, rng.integers(0, 30)).tolist() for _ in range(500)]
    bodies += [[*body[: len(body) // 2], *body[::-1]] for body in bodies]  # share long beginnings
    sequences = [(*body, end) for body in bodies]
    trie = TokenTrie.build(sequences, range(len(sequences)))
    assert trie.sequences() == sorted(set(sequences))
    left = trie.completions(trie.start(1))
    assert [sequences[items[0]] for items in left.items] == list(map(tuple, left.tails))
    # Of equal sequences the items stay in order.
    assert [list(items) for items in left.items] == [
        [row for row, one in enumerate(sequences) if one == tuple(tail)] for tail in left.tails
    ]


def test_very_long_identifiers() -> None:
    long = [7] * 66_000
    trie = TokenTrie.build([(*long, 8, 9, EOS), (*long, 8, EOS), (5, EOS)], [0, 1, 2])
    assert trie.to_arrays()["base/node_depth"].dtype == np.int32
    state = trie.advance(trie.start(1), torch.tensor([0]), torch.tensor([7]))
    forced = trie.forced(state)
    assert forced.tokens == [[*long[1:], 8]]
    assert trie.legal(forced.state).tokens.tolist() == [EOS, 9]


def test_read_only_arrays_are_shared_not_copied(tmp_path: Path) -> None:
    arrays = TokenTrie.build([(5, EOS), (7, 8, EOS), (7, 9, EOS)], [0, 1, 2]).to_arrays()
    mapped = {}
    for number, (name, array) in enumerate(arrays.items()):
        np.save(tmp_path / f"{number}.npy", array)
        mapped[name] = np.load(tmp_path / f"{number}.npy", mmap_mode="r")
    trie = TokenTrie.from_arrays(mapped)
    state = trie.advance(trie.start(1), torch.tensor([0]), torch.tensor([7]))
    assert trie.completions(state).tails == [[8, EOS], [9, EOS]]
    on = trie._layers.parts[0].on(torch.device("cpu"))
    assert on.edge_token.data_ptr() == mapped["base/edge_token"].ctypes.data
    assert on.node_leaves.data_ptr() == mapped["base/node_leaves"].ctypes.data
    # Three edges to leaves, one to a node; two nodes.
    assert trie.device_nbytes == 4 * (4 + 4 + 2) + 3 * 4 + 2 * 8


def test_sixty_thousand_identifiers() -> None:
    rng = np.random.default_rng(0)
    bodies = np.minimum(rng.zipf(1.3, (60_000, 8)) + 2, 49_000)
    sequences = [(*body, EOS) for body in bodies.tolist()]
    trie = TokenTrie.build(sequences, range(60_000))
    assert trie.sequences() == sorted(set(sequences))
