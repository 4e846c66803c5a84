"""The clue index against lists of tokens, whatever shards, deletions and filters."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genmm_retriever.constraints.clues import ClueIndex, ClueView, suffixes
from genmm_retriever.constraints.clues import index as index_module
from genmm_retriever.constraints.clues.shard import Shard
from genmm_retriever.constraints.clues.suffixes import _doubling, reversed_suffixes
from genmm_retriever.errors import IndexDamagedError, InputError

EXAMPLES = settings(max_examples=30, deadline=None)
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
    return [dict(pairs[a:b]) for a, b in pairwise(offsets)]


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
        for limit in (0, 1, 2):
            some = view.document_frequency(ranges, limit)
            assert some.tolist() == [min(limit, len(holders))]
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
        if logits is not None and len(gram) < 3:
            check_likeliest(view, ranges, logits, wanted, best(expected, logits, wanted))


LIMITS = [None, (0, 1000, 0), (0, 0, 128), (0, 1, 128), (3, 2, 0)]


def check_likeliest(view: ClueView, ranges: Any, logits: Any, wanted: int, expected: Any) -> None:
    """Whether rows are scanned or tokens are looked up must not matter."""
    every = rows_of(view.next_tokens(ranges))
    view.limits = (0, 0, 0)
    assert rows_of(view.next_tokens(ranges)) == every
    for limits in LIMITS:
        view.limits = limits
        assert rows_of(view.next_tokens(ranges, logits[None], wanted)) == [expected]
    view.limits = None


def some_logits(values: list[float]) -> Any:
    logits = np.full(V, -2.0, np.float32)
    logits[[0, 1, 2, 255, 256, V - 1]] = values
    return logits


LOGITS = some_logits([1.0, 2.0, 3.0, 1.0, 2.0, 3.0])
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


@EXAMPLES
@given(corpora, shard_sizes, some_items, st.booleans())
def test_filters(corpus, shard_tokens, wanted, copied):
    index = build(corpus, shard_tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "COPIED", 1000 if copied else -1)
        view = index.view(wanted)
    check(view, [pair for pair in corpus if pair[1] in wanted], some_logits([0.5] * 6))


@EXAMPLES
@given(corpora, corpora, some_items, some_items, shard_sizes, st.booleans())
def test_adding_deleting_filtering_merging(first, second, gone, wanted, shard_tokens, copied):
    index = build(first, shard_tokens).delete(gone).add(*flat(second))
    corpus = [pair for pair in first if pair[1] not in gone] + second
    index = index.delete(wanted[:1])
    corpus = [pair for pair in corpus if pair[1] not in wanted[:1]]
    some = [pair for pair in corpus if pair[1] in wanted]
    reopened = ClueIndex.from_arrays(index.to_arrays())
    for state in (index, index.merged(), index.merged(below=5), reopened):
        assert state.passages == len(corpus)
        assert state.tokens == sum(len(text) for text, _ in corpus)
        check(state.view(), corpus, LOGITS if state is index else None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(index_module, "COPIED", 1000 if copied else -1)
            check(state.view(wanted), some)


def test_merging_leaves_large_shards_and_their_names_alone():
    big: Corpus = [((1, 2) * 20, n) for n in range(3)]
    small: Corpus = [((0, 1), 9)]
    index = build(big).add(*flat(small)).add(*flat(small))
    assert index.shards == 3
    merged = index.merged(below=50)
    assert merged.shards == 2
    before, after = index.to_arrays(), merged.to_arrays()
    assert after["0000/bwt"] is before["0000/bwt"]
    assert not {"0001/bwt", "0002/bwt"} & set(after)
    again = merged.delete([9]).merged(below=1).add(*flat(small)).to_arrays()
    assert again["shards"][4:].tolist() == [0, 4], "a number is never used twice"


def test_a_large_shard_is_seldom_written_anew():
    index = build([((1, 2, 3) * 20, n) for n in range(20)], 100_000)
    for n in range(40):
        index = index.add(*flat([((4, 5), 100 + n)])).delete([97 + n])
        if index.needs_merge:
            index = index.merged(below=index.shard_tokens // 8)
        assert index.shards < 10
    assert "0000/bwt" in index.to_arrays()
    gone = index.delete(np.arange(19))
    assert gone.needs_merge
    assert "0000/bwt" not in gone.merged(below=1).to_arrays(), "too much of it was deleted"


def test_deleting_leaves_the_arrays_of_shards_alone():
    index = build([((1, 2), 0), ((1,), 1)])
    before, after = index.to_arrays(), index.delete([1]).to_arrays()
    assert set(after) - set(before) == {"dead/0000"}
    assert all(after[name] is before[name] for name in before if name != "shards")
    assert after["shards"].tolist() == before["shards"].tolist()


def test_merging_is_asked_for_when_shards_are_many_or_half_empty():
    index = build([((1,) * 30, 0), ((2,) * 30, 1)])
    assert not index.needs_merge
    assert index.delete([0]).needs_merge
    assert not index.delete([0]).merged().needs_merge
    for _ in range(9):
        index = index.add(*flat([((3,), 2)]))
    assert index.needs_merge
    assert not index.merged().needs_merge


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 2, 255, 256, 70_000]), max_size=40))
def test_suffixes_are_sorted_with_and_without_divsufsort(symbols):
    text = np.array(symbols, np.uint32)
    backwards = symbols[::-1]
    expected = sorted(range(len(symbols)), key=lambda i: backwards[i:])
    counts = np.bincount(text, minlength=1)
    assert reversed_suffixes(text, counts).tolist() == expected
    assert _doubling(text[::-1]).tolist() == expected


@pytest.mark.parametrize("symbols", [200, 5_000, 70_000])
def test_suffixes_of_one_two_and_three_bytes(symbols):
    text = np.random.default_rng(0).permutation(symbols).astype(np.uint32)
    text = np.concatenate([text, text[: symbols // 2]])
    counts = np.bincount(text)
    assert np.array_equal(reversed_suffixes(text, counts), _doubling(text[::-1]))


@pytest.fixture(scope="module")
def zipfian() -> Corpus:
    draw = np.random.default_rng(0)
    words = np.minimum(draw.zipf(1.3, 60_000) - 1, V - 1)
    cuts = np.sort(draw.integers(0, len(words), 600))
    return [(tuple(text.tolist()), n % 50) for n, text in enumerate(np.split(words, cuts))]


@pytest.mark.parametrize("items", [None, [3, 4, 5, 30]])
def test_wide_ranges(zipfian, items, monkeypatch):
    monkeypatch.setattr(index_module, "COPIED", 0)
    index = build(zipfian, 25_000)
    assert index.shards > 2
    view = index.view(items)
    corpus = [pair for pair in zipfian if items is None or pair[1] in items]
    logits = np.random.default_rng(1).normal(size=(3, V)).astype(np.float32)
    logits[1] = -np.arange(V)  # what is frequent is likely
    logits[2] = np.arange(V)
    for gram in [(), (0,), (0, 0)]:
        expected = followers(corpus, gram)
        ranges = (
            view.extend(view.find(gram[:-1]), [0] * 3, gram[-1:] * 3) if gram else view.start(3)
        )
        assert rows_of(view.next_tokens(ranges)) == [expected] * 3
        for wanted in (1, 30, V):
            answer = rows_of(view.next_tokens(ranges, logits, wanted))
            assert answer == [best(expected, row, wanted) for row in logits]


def test_not_a_number_is_least_likely():
    view = build([((1,), 0), ((2,), 0), ((3,), 0)]).view()
    logits = np.full((1, V), np.nan, np.float32)
    logits[0, 2] = -np.inf
    for limits in LIMITS:
        view.limits = limits
        assert rows_of(view.next_tokens(view.start(1), logits, 2)) == [{1: 1, 2: 1}]


def test_threads_share_an_index(zipfian):
    index = build(zipfian, 25_000).delete([1])
    logits = np.random.default_rng(2).normal(size=(6, V)).astype(np.float32)

    def answers(seed: int) -> list[Any]:
        view = index.view(None if seed % 2 else [2, 3, 4])
        ranges = view.extend(view.start(1), [0] * 6, range(6))
        found = [*view.next_tokens(ranges, logits, 9), *view.next_tokens(ranges)]
        found += [view.counts(ranges), view.document_frequency(ranges)]
        found += [view.passages_of(ranges, 3)[0]]
        return [array.tolist() for array in found]

    alone = [answers(0), answers(1)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(answers, range(48)))
    assert together == alone * 24


def test_arrays_may_be_mapped_read_only(tmp_path, zipfian):
    arrays = build(zipfian, 40_000).delete([7]).to_arrays()
    mapped = {}
    for name, array in arrays.items():
        path = tmp_path / f"{name.replace('/', '-')}.npy"
        np.save(path, array)
        mapped[name] = np.load(path, mmap_mode="r")
    index = ClueIndex.from_arrays(mapped)
    corpus = [pair for pair in zipfian if pair[1] != 7]
    assert rows_of(index.view().next_tokens(index.view().find((5,)))) == [followers(corpus, (5,))]
    assert rows_of(index.merged().view().next_tokens(index.merged().view().find((5,)))) == [
        followers(corpus, (5,))
    ]


DAMAGES = {
    "cut short": lambda array: array[:-1],
    "longer": lambda array: np.append(array, array[-1:]),
    "another type": lambda array: array.astype(np.float64),
    "another shape": lambda array: array[None],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize(
    "name",
    [f"0000/{n}" for n in ("text", "bwt", "psi", "doc", "symbols", "c", "offsets", "items")]
    + ["dead/0000"],
)
def test_sizes_that_do_not_fit_are_refused(name, damage):
    arrays = build([((1, 2), n) for n in range(8)]).delete([1]).to_arrays()
    arrays[name] = damage(arrays[name])
    with pytest.raises(IndexDamagedError):
        ClueIndex.from_arrays(arrays)


@pytest.mark.parametrize("name", ["shards", "0000/bwt"])
def test_missing_arrays_are_refused(name):
    arrays = build([((1, 2), 0)]).to_arrays()
    del arrays[name]
    with pytest.raises(IndexDamagedError):
        ClueIndex.from_arrays(arrays)


def test_passages_and_tokens_that_do_not_exist_are_noticed_in_time():
    arrays = build([((1, 2, 1), 0)]).to_arrays()
    doc = arrays["0000/doc"].copy()
    doc[:] = 77
    view = ClueIndex.from_arrays(arrays | {"0000/doc": doc}).view()
    with pytest.raises(IndexDamagedError):
        view.document_frequency(view.find((1,)))
    with pytest.raises(IndexDamagedError):
        view.passages_of(view.find((1,)), 0)
    bwt = arrays["0000/bwt"].copy()
    bwt[:] = V + 1
    broken = ClueIndex.from_arrays(arrays | {"0000/bwt": bwt}).view()
    with pytest.raises(IndexDamagedError):
        broken.next_tokens(broken.find((1,)))
    text = arrays["0000/text"].copy()
    text[1] = V + 1
    offsets = arrays["0000/offsets"] + [0, 1]
    for change in ({"0000/text": text}, {"0000/offsets": offsets}):
        shard = Shard(
            **{n.removeprefix("0000/"): a for n, a in (arrays | change).items() if "/" in n}
        )
        with pytest.raises(IndexDamagedError):
            shard.gather(np.array([0]))
    whole = ClueIndex.from_arrays(arrays).view()
    assert rows_of(whole.next_tokens(whole.find((1,)))) == [{2: 1}], "nothing is left behind"


@pytest.mark.parametrize(
    ("tokens", "offsets", "items"),
    [
        ([1, 2], [0, 1], [0, 1]),
        ([1, 2], [0, 1], [0]),
        ([1, 2], [1, 2], [0]),
        ([1, 2], [0, 2, 1, 2], [0, 0, 0]),
        ([1, V], [0, 2], [0]),
        ([-1, 2], [0, 2], [0]),
        ([1.5, 2], [0, 2], [0]),
        ([[1, 2]], [0, 2], [0]),
        ([], [], []),
    ],
)
def test_what_cannot_be_indexed_is_refused(tokens, offsets, items):
    with pytest.raises(InputError):
        ClueIndex.build(tokens, offsets, items, vocab_size=V)


def test_what_cannot_be_asked_is_refused():
    view = build([((1, 2), 0)]).view()
    start = view.start(2)
    for rows, tokens in [
        ([2], [1]),
        ([0.5], [1]),
        ([[0]], [[1]]),
        ([-1], [1]),
        ([0], [V]),
        ([0], [-1]),
        ([0, 1], [1]),
    ]:
        with pytest.raises(InputError):
            view.extend(start, rows, tokens)
    with pytest.raises(InputError):
        view.next_tokens(start, np.zeros((1, V), np.float32))
    with pytest.raises(InputError):
        view.passages_of(start, 2)
    with pytest.raises(InputError):
        view.passage_tokens(1)
    with pytest.raises(InputError):
        view.passage_tokens(-1)
    other = build([((1, 2, 3, 4), 0)] * 3, 5).view()
    for foreign in (other.start(1), build([((1,) * 9, 0)]).view().start(1)):
        for ask in (view.counts, view.document_frequency, view.next_tokens):
            with pytest.raises(InputError):
                ask(foreign)


def test_shards_that_cannot_be_sorted_are_refused():
    with pytest.raises(InputError):
        build([((1, 2), 0)], 2**31)
    with pytest.raises(InputError):
        ClueIndex.build([], [0], [], vocab_size=0)


def test_item_rows_are_those_with_a_living_passage():
    index = ClueIndex.build([5, 7, 5], [0, 2, 2, 3], [12, 10, 12], vocab_size=16)
    index = index.add([3], [0, 1], [4])
    assert index.item_rows.tolist() == [4, 10, 12]
    assert index.delete([12, 99]).item_rows.tolist() == [4, 10]
    assert index.delete([4, 10, 12]).merged().item_rows.tolist() == []


def test_divsufsort_is_not_needed(monkeypatch):
    monkeypatch.setattr(suffixes, "find_spec", lambda name: None)
    corpus: Corpus = [((1, 2, 1, 2, 1), 0), ((), 1), ((2, 1), 2)]
    check(build(corpus).view(), corpus, LOGITS)


def test_the_likeliest_of_a_large_vocabulary():
    draw = np.random.default_rng(3)
    size = 20_000
    words = np.minimum(draw.zipf(1.1, 60_000) - 1, size - 1).astype(np.int32)
    index = ClueIndex.build(words, np.arange(0, 60_001, 50), np.arange(1200), vocab_size=size)
    logits = draw.normal(size=(6, size)).astype(np.float32)
    logits[1] = logits[1].round(1)  # many are equally likely
    logits[2] = np.where(logits[2] > 0, -0.0, 0.0)
    logits[3, draw.integers(0, size, 15_000)] = np.nan
    logits[4, draw.integers(0, size, 15_000)] = -np.inf
    logits[5] = -np.arange(size)[::-1]
    view = index.view()
    ranges = view.extend(view.start(1), [0] * 6, [words[0]] * 6)
    for start in (view.start(6), ranges):
        legal = view.next_tokens(start)[1][: view.next_tokens(start)[0][1]]
        for wanted in (1, 7, 40, 500):
            expected = []
            for row in np.nan_to_num(logits, nan=-np.inf, posinf=np.inf, neginf=-np.inf):
                nan = np.isnan(logits[len(expected)])
                order = np.lexsort((legal, nan[legal], -row[legal]))
                expected.append(np.sort(legal[order[:wanted]]).tolist())
            for limits in (None, (0, 10**9, 10**9), (10**9, 0, 10**9)):
                view.limits = limits
                offsets, tokens, _ = view.next_tokens(start, logits, wanted)
                assert [tokens[a:b].tolist() for a, b in pairwise(offsets)] == expected


@pytest.mark.parametrize("finite", [0, 20, 9_000])
def test_negative_nan_is_as_unlikely_as_positive_behind_a_wide_range(finite):
    draw = np.random.default_rng(4)
    size = 20_000
    words = draw.integers(0, size, 30_000).astype(np.int32)
    index = ClueIndex.build(words, np.arange(0, 30_001, 50), np.arange(600), vocab_size=size)
    negative = np.full((1, size), np.copysign(np.nan, -1), np.float32)
    assert np.signbit(negative).all()
    negative[0, draw.choice(size, finite, replace=False)] = draw.normal(size=finite)
    positive = np.where(np.isnan(negative), np.float32(np.nan), negative)
    view = index.view()
    legal = view.next_tokens(view.start(1))[1]
    for wanted in (1, 40, 150):
        found = [array.tolist() for array in view.next_tokens(view.start(1), negative, wanted)]
        expected = [array.tolist() for array in view.next_tokens(view.start(1), positive, wanted)]
        assert found == expected
        order = np.lexsort((legal, -positive[0, legal]))
        assert found[1] == np.sort(legal[order[:wanted]]).tolist()
