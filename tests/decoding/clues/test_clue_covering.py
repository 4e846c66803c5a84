"""From clues to items: the formulas by hand, the cover against a plain retelling."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genmm_retriever.decoding.clue_types import Clue, ClueConfig
from genmm_retriever.decoding.clues import clue_search
from genmm_retriever.decoding.covering import CoverConfig, clue_weight, cover_passages
from genmm_retriever.decoding.matching import occurrences
from genmm_retriever.errors import InputError

tokens = st.integers(0, 4)
texts = st.lists(st.lists(tokens, max_size=9), min_size=1, max_size=6)
phrases = st.lists(st.lists(tokens, min_size=1, max_size=4).map(tuple), unique=True, max_size=8)


def clue(view, phrase, logprob):
    return Clue(tuple(phrase), logprob, view.count(phrase), len(view.holding(phrase)))


def cover(view, clues, config=None):
    return cover_passages(view, view.passage_tokens, clues, config)


def test_weights_by_hand():
    # p(n|q) = 0.2, p(n) = (3 + 5) / (995 + 5) = 0.008.
    odds = math.log((0.2 * 0.992) / (0.008 * 0.8))
    assert odds == pytest.approx(3.43399)
    assert clue_weight(math.log(0.2), 3, 995) == pytest.approx(11.79228, abs=1e-4)
    assert clue_weight(math.log(0.2), 3, 995, exponent=1) == pytest.approx(odds)
    assert clue_weight(math.log(0.008), 3, 995) == pytest.approx(0, abs=1e-12)
    assert clue_weight(math.log(0.007), 3, 995) == 0
    assert clue_weight(-2000.0, 3, 995) == 0


def test_weights_at_the_ends_are_finite():
    assert 0 < clue_weight(0.0, 3, 995) < math.inf
    # A text of one token over and over: nothing is likelier than it.
    assert clue_weight(-0.1, 1000, 1000) == 0
    assert clue_weight(-math.inf, 3, 995) == 0


def test_a_cover_by_hand(brute):
    # 995 tokens; the first passage is looked at, the others fill up the text.
    view = brute([[1, 2, 3, 1, 2, 4, 1], [9] * 488, [8] * 500])
    logprobs = {(1, 2): 0.5, (2, 3): 0.4, (4,): 0.1, (2, 4, 1): 0.3}
    clues = [clue(view, phrase, math.log(p)) for phrase, p in logprobs.items()]

    def weight(p, count):
        frequency = (count + 5) / 1000
        return math.log(p * (1 - frequency) / (frequency * (1 - p))) ** 2

    weights = {
        (1, 2): weight(0.5, 2),
        (2, 3): weight(0.4, 1),
        (4,): weight(0.1, 1),
        (2, 4, 1): weight(0.3, 1),
    }
    assert sorted(weights, key=weights.__getitem__, reverse=True) == list(
        ((1, 2), (2, 3), (2, 4, 1), (4,))
    )
    [found] = cover(view, clues)
    assert (found.row, found.passage) == (0, 0)
    # (1, 2) stands at 0 and 3; (2, 3) and (2, 4, 1) would overlap it; (4) is free and new.
    assert [(f.clue.tokens, f.places) for f in found.clues] == [((1, 2), (0, 3)), ((4,), (5,))]
    assert found.clues[0].score == pytest.approx(weights[1, 2])
    assert found.clues[1].score == pytest.approx(weights[(4,)])
    assert found.score == pytest.approx(math.sqrt(weights[1, 2] + weights[(4,)]))


def test_repeated_tokens_by_hand(brute):
    view = brute([[1, 2, 3, 3, 2, 5], [9] * 489, [8] * 500])
    clues = [
        clue(view, (1, 2, 3), -0.1),
        clue(
            view,
            (
                3,
                2,
                5,
            ),
            -3.0,
        ),
        clue(view, (8,), -9.0),
    ]
    found, _ = cover(view, clues)
    heavy, light = found.clues
    assert heavy.clue.tokens == (1, 2, 3)
    # Of three distinct tokens one is new: 1 - 0.8 + 0.8 / 3.
    weight = clue_weight(-3.0, 1, 995)
    assert light.score == pytest.approx(weight * (0.2 + 0.8 / 3))
    plain, _ = cover(view, clues, CoverConfig(repetition=0))
    assert plain.clues[1].score == pytest.approx(weight)
    strict, _ = cover(view, clues, CoverConfig(repetition=1))
    assert strict.clues[1].score == pytest.approx(weight / 3)


def test_a_phrase_with_a_token_twice_counts_it_once(brute):
    view = brute([[1, 1, 2, 7], [9] * 496, [8] * 495])
    clues = [clue(view, (7,), -0.01), clue(view, (1, 1, 2), -3.0)]
    [found] = cover(view, clues)
    assert found.clues[1].score == pytest.approx(clue_weight(-3.0, 1, 995))
    # It overlaps itself: (1, 1) covers 1 1 1 once.
    view = brute([[1, 1, 1, 2], [9] * 496, [8] * 495])
    [found] = cover(view, [clue(view, (1, 1), -0.1)])
    assert found.clues[0].places == (0,)


def test_an_item_is_worth_its_best_passage(brute):
    view = brute([[1, 2], [3, 4, 1], [5], [3, 4], [9] * 490], items=[7, 7, 8, 6, 8])
    clues = [clue(view, (1,), -2.0), clue(view, (3, 4), -0.5), clue(view, (5,), -9.0)]
    found = cover(view, clues)
    # (5) is less likely than by chance: what it alone names comes last.
    assert [c.row for c in found] == [7, 6, 8]
    assert found[2].score < 0 == found[2].clues[0].score
    assert found[0].passage == 1
    assert [f.clue.tokens for f in found[0].clues] == [(3, 4), (1,)]
    expected = clue_weight(-2.0, 2, view.tokens) + clue_weight(-0.5, 2, view.tokens)
    assert found[0].score == pytest.approx(math.sqrt(expected))
    view = brute([[1, 2], [1, 2], [1, 2], [9] * 490], items=[5, 4, 5, 9])
    equal = cover(view, [clue(view, (1, 2), -0.5)])
    assert [(c.row, c.passage) for c in equal] == [(4, 1), (5, 0)]


def test_frequent_clues_do_not_nominate_but_count(brute):
    view = brute([[1], [1], [1, 2], [9] * 900])
    clues = [clue(view, (1,), -0.3), clue(view, (2,), -1.0)]
    assert [c.row for c in cover(view, clues)] == [2, 0, 1]
    [found] = cover(view, clues, CoverConfig(most_hits=2))
    assert found.row == 2
    assert {f.clue.tokens for f in found.clues} == {(1,), (2,)}
    assert cover(view, clues[:1], CoverConfig(most_hits=2)) == []


def test_only_the_most_promising_passages_are_scored_in_full(brute):
    view = brute([[1], [2, 1], [3, 2, 1], [9] * 900])
    clues = [clue(view, (t,), -0.5) for t in (1, 2, 3)]
    assert [c.row for c in cover(view, clues)] == [2, 1, 0]
    assert [c.row for c in cover(view, clues, CoverConfig(passages=2))] == [2, 1]


def test_a_small_text_is_smoothed_less(brute):
    view = brute([[1, 2], [9] * 98])
    clues = [clue(view, (1, 2), math.log(0.1))]
    assert clue_weight(math.log(0.1), 1, 100) < clue_weight(math.log(0.1), 1, 100, prior=0.1)
    [plain] = cover(view, clues)
    [small] = cover(view, clues, CoverConfig(prior=None))
    frequency = 1.1 / 100.1
    odds = math.log(0.1 / 0.9) - math.log(frequency / (1 - frequency))
    assert small.score == pytest.approx(odds)
    assert plain.score < small.score
    [none] = cover(view, clues, CoverConfig(prior=0))
    assert none.score == pytest.approx(math.log(0.1 / 0.9) - math.log(0.01 / 0.99))


def test_nothing_from_nothing(brute):
    view = brute([[1, 2], [9] * 50])
    assert cover(view, []) == []
    assert cover(view, [clue(view, (1,), -math.inf)]) == []


def test_what_weighs_nothing_is_ordered_by_log_odds(brute):
    view = brute([[1, 2], [3, 2, 1], [4], [2], [9] * 50])
    clues = [clue(view, (1,), -9.0), clue(view, (2,), -7.0), clue(view, (4,), -8.0)]

    def odds(logprob, count):
        frequency = (count + 5) / (57 + 5)
        odds = math.log(math.exp(logprob) / (1 - math.exp(logprob)))
        return odds - math.log(frequency / (1 - frequency))

    found = cover(view, clues)
    # Equal ones by where the clue stands: item 3 begins with it.
    assert [(c.row, c.passage) for c in found] == [(3, 3), (0, 0), (1, 1), (2, 2)]
    assert [c.score for c in found] == pytest.approx([odds(-7, 3)] * 3 + [odds(-8, 1)])
    for candidate in found:
        [only] = candidate.clues
        assert only.score == 0
    assert found[1].clues[0].places == (1,)
    # One clue of weight outdoes them all, and they add nothing to it.
    found = cover(view, [*clues, clue(view, (3,), -0.5)])
    assert found[0].row == 1
    assert [f.clue.tokens for f in found[0].clues] == [(3,)]
    assert [c.row for c in found[1:]] == [3, 0, 2]


@pytest.mark.parametrize(
    "options",
    [
        {"exponent": 0},
        {"repetition": 1.5},
        {"prior": -1},
        {"most_hits": 0},
        {"passages": 0},
        {"later": -1},
    ],
    ids=str,
)
def test_options_out_of_range(options):
    with pytest.raises(InputError):
        CoverConfig(**options)


def cover_by_hand(view, clues, passage, repetition, exponent):
    """The same cover, retold plainly; None if no clue stands in the passage."""
    weighed = []
    for c in clues:
        frequency = (c.count + 5) / (view.tokens + 5)
        likely = math.exp(c.logprob)
        odds = math.log(likely / (1 - likely)) - math.log(frequency / (1 - frequency))
        if view.places(c.tokens, passage):
            weighed.append((odds, c.tokens))
    if not weighed:
        return None
    if max(weighed)[0] <= 0:
        return max(weighed)[0]
    taken, seen, total = set(), set(), 0.0
    for odds, phrase in sorted(weighed, key=lambda wc: (-wc[0], -len(wc[1]), wc[1])):
        own = False
        for place in view.places(phrase, passage) if odds > 0 else ():
            span = set(range(place, place + len(phrase)))
            if not span & taken:
                taken |= span
                own = True
        if own:
            new = set(phrase) - seen
            total += odds**exponent * (1 - repetition + repetition * len(new) / len(set(phrase)))
            seen |= set(phrase)
    return total ** (1 / exponent)


@settings(max_examples=60, deadline=None)
@given(
    texts, phrases, st.integers(0, 999), st.sampled_from([0, 0.8, 1]), st.sampled_from([1, 2, 3])
)
def test_scores_are_those_of_a_plain_retelling(brute, passages, wanted, seed, repetition, exponent):
    draw = np.random.default_rng(seed)
    items = draw.integers(0, 4, len(passages)).tolist()
    view = brute([*passages, [77] * 60], [*items, 99])
    clues = [
        clue(view, phrase, float(-draw.exponential(1.5))) for phrase in wanted if view.count(phrase)
    ]
    config = CoverConfig(repetition=repetition, exponent=exponent)
    best = {}
    for passage, item in enumerate(view.items):
        score = cover_by_hand(view, clues, passage, repetition, exponent)
        if score is not None:
            best[item] = max(score, best.get(item, -math.inf))
    found = cover(view, clues, config)
    assert {c.row: c.score for c in found} == pytest.approx(best)
    keys = [(-c.score, c.clues[0].places[0], c.row) for c in found]
    assert keys == sorted(keys)
    for candidate in found:
        assert view.items[candidate.passage] == candidate.row
        for one in candidate.clues:
            text = view.passages[candidate.passage]
            for place in one.places:
                assert text[place : place + len(one.clue.tokens)] == one.clue.tokens


@settings(deadline=None)
@given(texts, phrases)
def test_occurrences_are_those_of_a_plain_search(brute, passages, wanted):
    view = brute(passages)
    found = occurrences([np.array(p, dtype=np.int64) for p in passages], wanted)
    assert found == [
        [(i, places) for i, p in enumerate(wanted) if (places := view.places(p, number))]
        for number in range(len(passages))
    ]


def test_tokens_beyond_the_phrases_are_no_match():
    # 12 = 1 * (10 + 1) + 1: it must not be read as the edge of token 1 below the first node.
    text = np.array([1, 12, 0, 2**31, 1, 9], dtype=np.int64)
    assert occurrences([text], [(1, 1), (9,), (1, 9)]) == [[(1, [5]), (2, [4])]]


def test_a_search_leads_to_the_passage_it_is_made_of(tiny, prompts, brute, corpus):
    """End to end: the best item holds clues where the evidence says."""
    view = brute(corpus(5, passages=30), items=[n // 2 for n in range(30)])
    for clues in clue_search(tiny, prompts, [view] * 4, ClueConfig(num_beams=8, max_tokens=5)):
        found = cover(view, clues)
        assert len({c.row for c in found}) == len(found) > 3
        for candidate in found:
            for one in candidate.clues:
                assert set(one.places) <= set(view.places(one.clue.tokens, candidate.passage))
