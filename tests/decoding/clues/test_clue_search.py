"""The search for clues, against looking at every phrase of the text with a bare model."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genmm_retriever.decoding.clue_types import Clue, ClueConfig
from genmm_retriever.decoding.clues import clue_search
from genmm_retriever.decoding.covering import CoverConfig, cover_passages
from genmm_retriever.decoding.phrase_scores import Unasked
from genmm_retriever.errors import InputError, ModelError
from genmm_retriever.models.base import Prompt, TextPart


def phrases_of(view, longest):
    """All distinct phrases of the text of at most so many tokens."""
    return {
        text[i : i + n]
        for text in view.passages
        for n in range(1, longest + 1)
        for i in range(len(text) - n + 1)
    }


def beam_by_hand(model, prompt, view, config):
    """What the search should find, one bare forward a phrase; plain Python."""
    width = config.num_beams // config.groups
    live = {group: [()] for group in range(config.groups)}
    found = {}
    for _ in range(config.max_tokens):
        written_now, taken, following = [], set(), {}
        for group, phrases in live.items():
            options = []
            for phrase in phrases:
                for token, count in view.following(phrase).items():
                    new = (*phrase, token)
                    logprob = model.plain_logprob(prompt, new)
                    prior = view.tokens / 1000 if config.prior is None else config.prior
                    frequency = (count + prior) / (view.tokens + prior)
                    score = logprob - config.debias * math.log(frequency)
                    score -= config.diversity * written_now.count(token)
                    if new not in taken:
                        options.append((score, new, logprob, count))
            options.sort(key=lambda option: -option[0])
            kept = options[:width]
            written_now += [new[-1] for _, new, *_ in kept]
            taken |= {new for _, new, *_ in kept}
            following[group] = []
            for _, new, logprob, count in kept:
                found[new] = (logprob, count, len(view.holding(new)))
                if not config.stop_unique or found[new][2] > 1:
                    following[group].append(new)
        live = following
    return found


def check(clues, expected):
    assert {clue.tokens for clue in clues} == set(expected)
    for clue in clues:
        logprob, count, documents = expected[clue.tokens]
        assert clue.logprob == pytest.approx(logprob, abs=1e-3)
        assert (clue.count, clue.documents, clue.given) == (count, documents, False)
    keys = [(-clue.logprob, clue.tokens) for clue in clues]
    assert keys == sorted(keys)


@pytest.mark.parametrize("stop_unique", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_wide_beams_find_every_phrase(tiny, prompts, brute, corpus, seed, stop_unique):
    view = brute(corpus(seed, passages=5))
    config = ClueConfig(num_beams=200, max_tokens=4, stop_unique=stop_unique)
    for prompt, clues in zip(
        prompts, clue_search(tiny, prompts, [view] * len(prompts), config), strict=True
    ):
        wanted = phrases_of(view, 4)
        if stop_unique:
            # What goes on behind a phrase of a single passage is left out.
            wanted = {p for p in wanted if len(p) == 1 or len(view.holding(p[:-1])) > 1}
        check(
            clues,
            {
                p: (tiny.plain_logprob(prompt, p), view.count(p), len(view.holding(p)))
                for p in wanted
            },
        )


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 1},
        {"num_beams": 6, "groups": 3, "diversity": 0.7},
        {"num_beams": 4, "groups": 4, "diversity": 0.0},
        {"num_beams": 4, "groups": 4, "diversity": 50.0},
        {"num_beams": 6, "groups": 2, "diversity": 0.5, "stop_unique": False},
        {"num_beams": 12, "debias": 1.0},
        {"num_beams": 12, "debias": 0.7, "prior": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [0, 1])
def test_narrow_beams_decide_as_by_hand(tiny, prompts, brute, corpus, options, seed):
    config = ClueConfig(max_tokens=4, **options)
    view = brute(corpus(seed))
    found = clue_search(tiny, prompts, [view] * len(prompts), config)
    for prompt, clues in zip(prompts, found, strict=True):
        check(clues, beam_by_hand(tiny, prompt, view, config))


def test_groups_avoid_each_others_tokens(tiny, prompts, brute, corpus):
    view = brute(corpus(3))
    options = {"num_beams": 5, "max_tokens": 1}
    one, many = (
        clue_search(tiny, prompts, [view] * 4, ClueConfig(groups=groups, **options))
        for groups in (1, 5)
    )
    # At the first step every group writes a token of its own either way.
    assert one == many
    # Whatever the first group writes second, the other one writes the other token.
    view = brute([[4, 7, 7, 4, 4, 7, 4]] * 2)
    config = ClueConfig(num_beams=2, max_tokens=2, groups=2, diversity=90)
    for clues in clue_search(tiny, prompts, [view] * 4, config):
        assert {clue.tokens[-1] for clue in clues if len(clue.tokens) == 2} == {4, 7}


def test_each_query_looks_into_its_own_text(tiny, prompts, brute, corpus):
    texts = [brute(corpus(7)), brute(corpus(8)), brute([]), brute([[], []])]
    order = [1, 0, 1, 2, 3]
    asked = [*prompts, prompts[0]]
    config = ClueConfig(num_beams=4, max_tokens=5)
    together = clue_search(tiny, asked, [texts[i] for i in order], config)
    assert together[3] == together[4] == []
    for prompt, i, clues in zip(asked, order, together, strict=True):
        [alone] = clue_search(tiny, [prompt], [texts[i]], config)
        assert [c.tokens for c in clues] == [c.tokens for c in alone]
        assert [c.logprob for c in clues] == pytest.approx([c.logprob for c in alone], abs=1e-4)
        assert [(c.count, c.documents) for c in clues] == [(c.count, c.documents) for c in alone]


def test_prompts_are_run_once_and_steps_are_shared(counted, prompts, brute, corpus):
    view = brute(corpus(4, passages=20))
    config = ClueConfig(num_beams=3, max_tokens=4, stop_unique=False)
    clue_search(counted, prompts, [view] * 4, config)
    # One pass for the prompts, one for each token but the last.
    assert counted.passes == 4


@pytest.mark.parametrize("seed", range(3))
def test_phrases_of_the_query_that_occur_are_clues(tiny, prompts, brute, corpus, seed):
    view = brute(corpus(seed))
    words = [[3, 4, 5, 3, 4], [], [21, 3], [6, 1, 4, 4, 9, 3, 5, 4, 3]]
    config = ClueConfig(num_beams=1, max_tokens=3, max_given=6)
    written = clue_search(tiny, prompts, [view] * 4, config)
    found = clue_search(tiny, prompts, [view] * 4, config, given=words)
    for prompt, own, before, clues in zip(prompts, words, written, found, strict=True):
        own = own[:6]
        expected = {
            tuple(own[i : i + n]) for n in (1, 2, 3) for i in range(len(own) - n + 1)
        } & phrases_of(view, 3)
        known = {clue.tokens for clue in before}
        assert {c.tokens for c in clues} == expected | known
        assert {c.tokens for c in clues if c.given} == expected - known
        for clue in clues:
            assert clue.logprob == pytest.approx(tiny.plain_logprob(prompt, clue.tokens), abs=1e-3)
            assert clue.count == view.count(clue.tokens)
            assert clue.documents == len(view.holding(clue.tokens))


def test_copies_of_the_query_are_expected(tiny, prompts, brute, corpus):
    view = brute(corpus(1))
    words = [[3, 4, 3, 5, 3, 4], [], [21, 3], [6, 1, 4, 4, 9, 3]]
    config = ClueConfig(num_beams=12, max_tokens=3)
    plain = clue_search(tiny, prompts, [view] * 4, config, given=words)
    mixed = clue_search(tiny, prompts, [view] * 4, replace(config, copying=0.25), given=words)
    written_too = 0
    for own, before, after in zip(words, plain, mixed, strict=True):
        expected = {clue.tokens: clue for clue in after}
        assert set(expected) == {clue.tokens for clue in before}
        for clue in before:
            copies = sum(
                tuple(own[i : i + len(clue.tokens)]) == clue.tokens for i in range(len(own))
            )
            probability = math.exp(clue.logprob)
            if copies:
                probability = 0.75 * probability + 0.25 * copies / len(own)
                written_too += not clue.given
            found = expected[clue.tokens]
            assert found.logprob == pytest.approx(math.log(probability), abs=1e-4)
            assert (found.count, found.given) == (clue.count, clue.given)
    assert written_too


def whole_places(view, phrase, passage, words):
    """Where a phrase stands and its last word ends with it."""
    text = view.passages[passage]
    ends = [at + len(phrase) for at in view.places(phrase, passage)]
    return [
        end - len(phrase) for end in ends if end == len(text) or not words.joined([text[end]])[0]
    ]


def whole_count(view, phrase, words):
    if words.joined(phrase[:1])[0] or words.blank(phrase[-1:])[0]:
        return 0
    return sum(len(whole_places(view, phrase, p, words)) for p in range(len(view.passages)))


@pytest.mark.parametrize("seed", range(3))
def test_clues_of_whole_words_are_all_those_in_the_text(tiny, prompts, brute, corpus, halves, seed):
    view = brute(corpus(seed, passages=8))
    config = ClueConfig(num_beams=300, max_tokens=4, stop_unique=False)
    own = [3, 6, 5, 4, 3, 6, 7]
    found = clue_search(tiny, prompts, [view] * 4, config, words=halves, given=[own] * 4)
    expected = {p: whole_count(view, p, halves) for p in phrases_of(view, 4)}
    expected = {phrase: count for phrase, count in expected.items() if count}
    for prompt, clues in zip(prompts, found, strict=True):
        assert {clue.tokens: clue.count for clue in clues} == expected
        for clue in clues[:5]:
            assert clue.logprob == pytest.approx(tiny.plain_logprob(prompt, clue.tokens), abs=1e-3)
            assert clue.documents <= clue.count
    # The query's own phrases too are of whole words of the query.
    narrow = ClueConfig(num_beams=1, max_tokens=3)
    [alone] = clue_search(tiny, prompts[:1], [view], narrow, words=halves)
    [both] = clue_search(tiny, prompts[:1], [view], narrow, words=halves, given=[own])
    added = {clue.tokens for clue in both if clue.given}
    windows = {
        tuple(own[i : i + n])
        for n in (1, 2, 3)
        for i in range(len(own) - n + 1)
        if i + n == len(own) or not halves.joined([own[i + n]])[0]
    }
    assert added == (windows & set(expected)) - {clue.tokens for clue in alone}


def test_a_word_of_one_passage_is_written_to_its_end(tiny, prompts, brute, halves):
    view = brute([[6, 7, 9, 8], [8, 10, 8]])
    [clues] = clue_search(
        tiny, prompts[:1], [view], ClueConfig(num_beams=9, max_tokens=5), words=halves
    )
    assert (6, 7, 9) in {clue.tokens for clue in clues}
    assert {(6,), (6, 7), (6, 7, 9, 8)}.isdisjoint(clue.tokens for clue in clues)


def test_a_clue_covers_only_whole_words(brute, halves):
    view = brute([[6, 7, 8], [6, 8, 6], [10, 12, 6, 7]])
    clues = [Clue((6,), -0.1, 2, 2), Clue((8,), -3.0, 2, 2)]
    found = cover_passages(view, view.passage_tokens, clues, words=halves)
    assert {one.row for one in found} == {0, 1}
    places = {one.row: {c.clue.tokens: c.places for c in one.clues} for one in found}
    assert places[1][6,] == (0, 2)
    assert (6,) not in places[0]


@pytest.mark.parametrize("at_the_end", [False, True])
@pytest.mark.parametrize("place", [0, 7, 20])
@pytest.mark.parametrize("indexed", [False, True])
def test_a_rare_word_that_begins_frequent_ones_finds_its_item_wherever_it_is_indexed(
    brute, halves, place, at_the_end, indexed
):
    passages = [(8, 6, 7 + 2 * (n % 2), 10) for n in range(20)]
    passages.insert(place, (8, 10, 6) if at_the_end else (8, 6, 10))
    view = brute(passages)
    if indexed:
        index_module = pytest.importorskip("genmm_retriever.constraints.clues")
        pytest.importorskip("numba")
        flat, offsets = np.concatenate(passages), np.cumsum([0, *map(len, passages)])
        rows = np.arange(len(passages))
        view = index_module.ClueIndex.build(flat, offsets, rows, vocab_size=24).view()
    [found] = cover_passages(
        view,
        view.passage_tokens,
        [Clue((6,), -0.1, 1, 1)],
        CoverConfig(most_hits=2),
        words=halves,
    )
    assert found.row == place
    assert found.clues[0].places == ((2,) if at_the_end else (1,))


def test_names_for_what_is_seen_are_clues(tiny, prompts, brute, corpus):
    view = brute(corpus(2, passages=9))
    held = sorted(p for p in phrases_of(view, 3) if len(p) == 2)[:2]
    seen = [{held[0]: 0.6, held[1]: 0.3, (2, 2, 2): 0.1}, {}, {held[0]: 0.5}, {held[1]: 1.0}]
    config = ClueConfig(num_beams=2, max_tokens=2, naming=0.5)
    plain = clue_search(tiny, prompts, [view] * 4, config)
    found = clue_search(tiny, prompts, [view] * 4, config, seen=seen)
    for prompt, names, before, clues in zip(prompts, seen, plain, found, strict=True):
        named = {clue.tokens: clue for clue in clues if clue.seen}
        assert set(named) == set(names) & phrases_of(view, 3)
        assert {c.tokens for c in clues} == {c.tokens for c in before} | set(named)
        for phrase, clue in named.items():
            alone = math.exp(tiny.plain_logprob(prompt, phrase))
            assert math.exp(clue.logprob) == pytest.approx(0.5 * alone + 0.5 * names[phrase])
            assert not clue.given
            assert clue.count == view.count(phrase)


def test_what_is_said_unasked_is_no_clue(tiny, prompts, brute, corpus):
    view = brute(corpus(5, passages=9))
    config = ClueConfig(num_beams=6, max_tokens=3)
    unasked = Unasked(tiny, prompts[0])
    found = clue_search(tiny, prompts, [view] * 4, config, unasked=unasked)
    for clues in found:
        for clue in clues:
            plain = tiny.plain_logprob(prompts[0], clue.tokens)
            assert clue.unasked == pytest.approx(plain, abs=1e-3)
    # What the query makes no likelier than that weighs nothing.
    for candidate in cover_passages(view, view.passage_tokens, found[0]):
        assert candidate.score <= 1e-3
    assert any(c.score > 0.1 for c in cover_passages(view, view.passage_tokens, found[1]))
    # Those met are kept.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "score_from", lambda *a: pytest.fail("scored again"))
        assert unasked.scores([clue.tokens for clue in found[0]])


def test_of_the_names_seen_one_counts_in_a_passage(brute):
    view = brute([[1, 2, 3, 4], [1, 2, 9, 9], [9] * 490, [8] * 500])
    clues = [Clue((1, 2), -1.0, 2, 2, seen=True), Clue((3, 4), -1.5, 1, 1, seen=True)]
    both, one = cover_passages(view, view.passage_tokens, clues)
    assert len(both.clues) == len(one.clues) == 1
    # Where it does not begin the passage a name weighs less.
    further = brute([[4, 1, 2], [1, 2, 4], [9] * 490, [8] * 500])
    first, second = cover_passages(further, further.passage_tokens, clues[:1])
    assert (first.row, second.row) == (1, 0)
    assert second.score == pytest.approx(first.score - 0.5)
    apart = [replace(clue, seen=False) for clue in clues]
    assert len(cover_passages(view, view.passage_tokens, apart)[0].clues) == 2


def test_of_equal_scores_the_earlier_place_comes_first(brute):
    view = brute([[9, 5, 6], [5, 6, 9]])
    found = cover_passages(view, view.passage_tokens, [Clue((5, 6), -1.0, 2, 2)])
    assert [one.row for one in found] == [1, 0]


def test_impossible_tokens_are_not_written(tiny, prompts, brute, monkeypatch):
    real = tiny.prefill

    def without_5(asked):
        state = real(asked)
        state.logits[:, 5] = -math.inf
        return state

    monkeypatch.setattr(tiny, "prefill", without_5)
    [clues] = clue_search(tiny, prompts[:1], [brute([[5, 6], [7, 6]])], ClueConfig(max_tokens=1))
    assert {clue.tokens for clue in clues} == {(6,), (7,)}


def test_logits_that_are_no_numbers_are_refused(tiny, prompts, brute, monkeypatch):
    real = tiny.prefill

    def broken(asked):
        state = real(asked)
        state.logits[0, 5] = torch.nan
        return state

    monkeypatch.setattr(tiny, "prefill", broken)
    with pytest.raises(ModelError, match="NaN"):
        clue_search(tiny, prompts, [brute([[5, 6]])] * 4)


def test_logits_that_are_negative_nan_are_refused_where_much_may_follow(tiny, prompts, monkeypatch):
    index_module = pytest.importorskip("genmm_retriever.constraints.clues")
    pytest.importorskip("numba")
    size = 5_000
    index = index_module.ClueIndex.build(np.arange(size), [0, size], [0], vocab_size=size)
    real = tiny.prefill

    def broken(asked):
        logits = np.full((len(asked), size), np.copysign(np.nan, -1), np.float32)
        return replace(real(asked), logits=torch.from_numpy(logits), normaliser=None)

    monkeypatch.setattr(tiny, "prefill", broken)
    with pytest.raises(ModelError, match="NaN"):
        clue_search(tiny, prompts, [index.view()] * 4, ClueConfig(num_beams=4))


def test_no_prompt_no_clue(tiny, brute):
    assert clue_search(tiny, [], []) == []
    with pytest.raises(InputError, match="as many"):
        clue_search(tiny, [Prompt((TextPart("5"),))], [])
    with pytest.raises(InputError, match="as many"):
        clue_search(tiny, [Prompt((TextPart("5"),))], [brute([[5]])], given=[])


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 0},
        {"max_tokens": 0},
        {"groups": 0},
        {"num_beams": 5, "groups": 2},
        {"diversity": -1.0},
        {"debias": math.nan},
        {"max_given": -1},
        {"prior": -1.0},
        {"copying": 1.0},
        {"naming": -0.1},
        {"naming": 0.5, "copying": 0.5},
    ],
    ids=str,
)
def test_options_out_of_range(options):
    with pytest.raises(InputError):
        ClueConfig(**options)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_the_clue_index_gives_what_brute_force_gives(tiny, prompts, brute, corpus, data):
    """Shards, deletions and filters included."""
    index_module = pytest.importorskip("genmm_retriever.constraints.clues")
    pytest.importorskip("numba")
    passages = corpus(data.draw(st.integers(0, 10**6)), passages=10)
    items = [n // 2 for n in range(10)]
    offsets = np.cumsum([0, *map(len, passages)])
    flat = np.array([token for passage in passages for token in passage], dtype=np.int64)
    index = index_module.ClueIndex.build(flat, offsets, items, vocab_size=24, shard_tokens=40)
    gone = data.draw(st.sets(st.integers(0, 4), max_size=2))
    chosen = data.draw(st.none() | st.sets(st.integers(0, 4), max_size=4))
    index = index.delete(sorted(gone))
    view = index.view(None if chosen is None else sorted(chosen))
    left = [i not in gone and (chosen is None or i in chosen) for i in items]
    plain = brute([p if ok else () for p, ok in zip(passages, left, strict=True)], items)
    config = ClueConfig(
        num_beams=4, groups=2, max_tokens=5, debias=data.draw(st.sampled_from([0, 1]))
    )
    words = [[3, 4, 5], [4, 4], [], [3, 9, 21, 3]]
    found, expected = (
        clue_search(tiny, prompts, [each] * 4, config, given=words) for each in (view, plain)
    )
    assert found == expected
    for clues in found:
        assert cover_passages(view, index.passage_tokens, clues) == cover_passages(
            plain, plain.passage_tokens, clues
        )
