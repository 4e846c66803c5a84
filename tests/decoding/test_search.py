"""The search against brute force: scoring every identifier of the subset."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genmm_retriever.constraints import TokenTrie
from genmm_retriever.decoding import BeamConfig, Guide, Hypothesis, constrained_beam_search
from genmm_retriever.errors import InputError, ModelError
from genmm_retriever.models.base import DecodingState, Prompt

VOCAB, EOS = 24, 2
EXAMPLES = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

# Few distinct tokens make prefixes common; 0 and VOCAB - 1 are the ends of the vocabulary.
token = st.sampled_from([0, 1, 3, 4, VOCAB - 2, VOCAB - 1])
identifier = st.lists(token, min_size=0, max_size=4).map(lambda body: (*body, EOS))


@st.composite
def corpora(draw: st.DrawFn) -> tuple[list[tuple[int, ...]], list[int], list[tuple[float, ...]]]:
    sequences = draw(st.lists(identifier, min_size=1, max_size=16))
    items = [draw(st.integers(0, 9)) for _ in sequences]
    # A null log-probability belongs to a prefix, as it would when a model computes it.
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    by_prefix: dict[tuple[int, ...], float] = {}
    nulls = []
    for sequence in sequences:
        prefixes = [sequence[: i + 1] for i in range(len(sequence))]
        for prefix in prefixes:
            by_prefix.setdefault(prefix, float(np.float16(-rng.exponential(3.0))))
        nulls.append(tuple(by_prefix[prefix] for prefix in prefixes))
    return sequences, items, nulls


subset = st.none() | st.lists(st.integers(0, 11), max_size=8).map(lambda r: np.array(r, np.int64))


def brute_force(
    model: Any,
    prompt: Prompt,
    corpus: tuple[list[tuple[int, ...]], list[int], list[tuple[float, ...]]],
    allowed: np.ndarray | None,
    debias: float = 1.0,
) -> list[Hypothesis]:
    """Score every identifier by `score`, without trie or search."""
    items: dict[tuple[int, ...], set[int]] = {}
    null: dict[tuple[int, ...], float] = {}
    for sequence, item, nulls in zip(*corpus, strict=True):
        if allowed is None or item in allowed:
            items.setdefault(sequence, set()).add(item)
            null[sequence] = sum(nulls)
    found = []
    for sequence, named in items.items():
        logprob = model.plain_logprob(prompt, sequence)
        score = logprob - debias * null[sequence]
        found.append(Hypothesis(sequence, tuple(sorted(named)), logprob, null[sequence], score))
    return sorted(found, key=lambda h: -h.score)


def assert_same(found: list[Hypothesis], expected: list[Hypothesis]) -> None:
    by_tokens = {h.tokens: h for h in expected}
    assert len(found) == len(expected)
    assert {h.tokens for h in found} == set(by_tokens)
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
    for h in found:
        other = by_tokens[h.tokens]
        assert sorted(h.items) == list(other.items)
        assert h.logprob == pytest.approx(other.logprob, abs=2e-4)
        assert h.null_logprob == pytest.approx(other.null_logprob, abs=2e-4)
        assert h.score == pytest.approx(other.score, abs=4e-4)


@EXAMPLES
@given(corpus=corpora(), subsets=st.lists(subset, min_size=4, max_size=4), data=st.data())
def test_equals_brute_force_when_nothing_is_pruned(
    tiny: Any, prompts: list[Prompt], corpus: Any, subsets: Any, data: st.DataObject
) -> None:
    config = data.draw(
        st.sampled_from(
            [
                BeamConfig(num_beams=16, max_leaves_exact=0),
                BeamConfig(num_beams=1, max_leaves_exact=16),
                BeamConfig(num_beams=16, max_leaves_exact=3),
                BeamConfig(num_beams=16, max_leaves_exact=5, debias=0.3),
            ]
        )
    )
    found = constrained_beam_search(tiny, prompts, TokenTrie.build(*corpus), subsets, config)
    assert len(found) == len(prompts)
    for prompt, allowed, one in zip(prompts, subsets, found, strict=True):
        assert_same(one, brute_force(tiny, prompt, corpus, allowed, config.debias))


beginnings = st.lists(st.tuples(token, token), unique=True, max_size=6).flatmap(
    lambda firsts: st.tuples(
        st.just(firsts),
        st.lists(st.floats(-9, 0), min_size=len(firsts), max_size=len(firsts)),
    )
)


@EXAMPLES
@given(corpus=corpora(), scored=beginnings, wanted=st.none() | st.integers(1, 4))
def test_guides_add_what_they_expect(
    tiny: Any, prompts: list[Prompt], corpus: Any, scored: Any, wanted: int | None
) -> None:
    guide = Guide.over(zip(*scored, strict=True))
    config = BeamConfig(num_beams=16, max_leaves_exact=0, num_hypotheses=wanted)
    guides = [guide, None][: len(prompts)] + [None] * (len(prompts) - 2)
    found = constrained_beam_search(tiny, prompts, TokenTrie.build(*corpus), None, config, guides)
    for prompt, one, given_guide in zip(prompts, found, guides, strict=True):
        plain = brute_force(tiny, prompt, corpus, None)
        expected = sorted(
            (h.score + (given_guide.of(h.tokens) if given_guide else 0.0) for h in plain),
            reverse=True,
        )
        assert [h.score for h in one] == pytest.approx(expected[: len(one)], abs=1e-3)
        assert len(one) == min(len(expected), wanted or len(expected))


def test_a_guide_leads_a_narrow_beam(tiny: Any, prompts: list[Prompt]) -> None:
    sequences = [(first, second, EOS) for first in (1, 3, 4, 5, 6) for second in (7, 8)]
    trie = TokenTrie.build(sequences, range(len(sequences)), [(0.0,) * 3] * len(sequences))
    config = BeamConfig(num_beams=1, max_leaves_exact=0, debias=0)
    for first, second in ((5, 8), (1, 7)):
        guide = Guide.over(
            ((a, b), 0.0 if (a, b) == (first, second) else -50.0) for a, b, _ in sequences
        )
        (found,) = constrained_beam_search(tiny, prompts[:1], trie, None, config, [guide])
        assert found[0].tokens == (first, second, EOS)


def test_guides_that_do_not_fit_are_refused(tiny: Any, prompts: list[Prompt]) -> None:
    trie = TokenTrie.build([(1, EOS)], [0], [(0.0, 0.0)])
    guide = Guide.over([((1,), -1.0)])
    with pytest.raises(InputError):
        constrained_beam_search(tiny, prompts[:1], trie, None, None, [guide, guide])
    hf = BeamConfig(num_beams=2, compat="hf")
    with pytest.raises(InputError):
        constrained_beam_search(tiny, prompts[:1], trie, None, hf, [guide])


@EXAMPLES
@given(corpus=corpora(), allowed=subset, most=st.integers(1, 5), debias=st.sampled_from([0, 0.7]))
def test_what_is_left_open_gets_the_score_of_what_was_written(
    tiny: Any, prompts: list[Prompt], corpus: Any, allowed: Any, most: int, debias: float
) -> None:
    config = BeamConfig(num_beams=16, max_leaves_exact=0, open_leaves=most, debias=debias)
    (found,) = constrained_beam_search(
        tiny, prompts[:1], TokenTrie.build(*corpus), [allowed], config
    )
    whole = {h.tokens: h for h in brute_force(tiny, prompts[0], corpus, allowed)}
    nulls = dict(zip(corpus[0], corpus[2], strict=True))
    assert sorted(h.tokens for h in found) == sorted(whole)
    for h in found:
        assert set(h.items) == set(whole[h.tokens].items)
        begun = h.tokens[: h.length]
        alike = [tokens for tokens in whole if tokens[: h.length] == begun]
        assert len(alike) <= most or h.length == len(h.tokens)
        assert h.logprob == pytest.approx(tiny.plain_logprob(prompts[0], begun), abs=2e-4)
        assert h.null_logprob == pytest.approx(sum(nulls[h.tokens][: h.length]), abs=2e-3)
        assert h.score == pytest.approx(h.logprob - debias * h.null_logprob, abs=4e-4)
        # No more was written than is needed: at the last choice there were too many.
        for shorter in range(1, h.length):
            under = {tokens for tokens in whole if tokens[:shorter] == h.tokens[:shorter]}
            nexts = {tokens[shorter : shorter + 1] for tokens in under}
            assert len(under) > most or len(nexts) == 1


@EXAMPLES
@given(
    corpus=corpora(), allowed=subset, most=st.integers(1, 4), end=st.sampled_from([3, 4, VOCAB - 1])
)
def test_levels_are_written_to_their_end_before_the_rest_is_left_open(
    tiny: Any, prompts: list[Prompt], corpus: Any, allowed: Any, most: int, end: int
) -> None:
    config = BeamConfig(num_beams=16, max_leaves_exact=0, open_leaves=most, level_end=end)
    (found,) = constrained_beam_search(
        tiny, prompts[:1], TokenTrie.build(*corpus), [allowed], config
    )
    whole = {h.tokens: h for h in brute_force(tiny, prompts[0], corpus, allowed)}
    nulls = dict(zip(corpus[0], corpus[2], strict=True))
    assert sorted(h.tokens for h in found) == sorted(whole)
    for h in found:
        assert set(h.items) == set(whole[h.tokens].items)
        begun = h.tokens[: h.length]
        assert h.logprob == pytest.approx(tiny.plain_logprob(prompts[0], begun), abs=2e-4)
        assert h.null_logprob == pytest.approx(sum(nulls[h.tokens][: h.length]), abs=2e-3)
        closes = [
            length
            for length in range(1, len(h.tokens))
            if h.tokens[length - 1] == end
            and sum(tokens[:length] == h.tokens[:length] for tokens in whole) <= most
        ]
        assert h.length == min([*closes, len(h.tokens)])


@EXAMPLES
@given(
    corpus=corpora(),
    allowed=subset,
    wanted=st.integers(1, 6),
    debias=st.sampled_from([0, 0.5, 1, 3]),
)
def test_dropping_hopeless_beams_changes_no_result(
    tiny: Any, prompts: list[Prompt], corpus: Any, allowed: Any, wanted: int, debias: float
) -> None:
    config = BeamConfig(num_beams=16, max_leaves_exact=0, debias=debias, num_hypotheses=wanted)
    [found] = constrained_beam_search(
        tiny, prompts[:1], TokenTrie.build(*corpus), [allowed], config
    )
    expected = brute_force(tiny, prompts[0], corpus, allowed, debias)[:wanted]
    assert len(found) == len(expected)
    assert [h.score for h in found] == pytest.approx([h.score for h in expected], abs=4e-4)


@EXAMPLES
@given(corpus=corpora(), subsets=st.lists(subset, min_size=4, max_size=4), beams=st.integers(1, 4))
def test_pruned_search_equals_a_plain_one_and_batches_change_nothing(
    tiny: Any, prompts: list[Prompt], corpus: Any, subsets: Any, beams: int
) -> None:
    config = BeamConfig(num_beams=beams, max_leaves_exact=0)
    trie = TokenTrie.build(*corpus)
    found = constrained_beam_search(tiny, prompts, trie, subsets, config)
    for prompt, allowed, one in zip(prompts, subsets, found, strict=True):
        every = brute_force(tiny, prompt, corpus, allowed)
        expected = plain_beam_search(tiny, prompt, corpus, every, beams)
        assert_same(one, expected)


def plain_beam_search(
    model: Any, prompt: Prompt, corpus: Any, every: list[Hypothesis], beams: int
) -> list[Hypothesis]:
    """Beam search in words of one syllable: prefixes in a list, no trie, no cache."""
    null = {s: n for s, _, n in zip(*corpus, strict=True)}
    names = {h.tokens: h for h in every}
    live: list[tuple[int, ...]] = [()]
    finished = []
    while live:
        longer = [(*p, t) for p in live for t in following(p, names)]
        finished += [names[p] for p in longer if p in names]
        scores = {}
        for prefix in (p for p in longer if p not in names):
            of = next(t for t in names if t[: len(prefix)] == prefix)
            given_query = model.plain_logprob(prompt, prefix)
            scores[prefix] = given_query - sum(null[of][: len(prefix)])
        picked = sorted(scores, key=lambda p: -scores[p])[:beams]
        live = []
        for prefix in picked:
            while prefix not in names and len(following(prefix, names)) == 1:
                prefix = (*prefix, *following(prefix, names))
            if prefix in names:
                finished.append(names[prefix])
            else:
                live.append(prefix)
    return finished


def following(prefix: tuple[int, ...], names: Any) -> list[int]:
    """Tokens that come next after a prefix in some identifier."""
    n = len(prefix)
    return sorted({t[n] for t in names if t[:n] == prefix and len(t) > n})


@EXAMPLES
@given(corpus=corpora(), allowed=subset, leaves=st.sampled_from([0, 16]))
def test_local_scores_renormalise_at_every_choice(
    tiny: Any, prompts: list[Prompt], corpus: Any, allowed: Any, leaves: int
) -> None:
    config = BeamConfig(num_beams=16, max_leaves_exact=leaves, score="local", debias=0.5)
    [found] = constrained_beam_search(
        tiny, prompts[:1], TokenTrie.build(*corpus), [allowed], config
    )
    every = brute_force(tiny, prompts[0], corpus, allowed)
    names = {h.tokens: h for h in every}
    expected = []
    for h in every:
        logprob = 0.0
        for place, token in enumerate(h.tokens):
            options = following(h.tokens[:place], names)
            logprobs = [tiny.plain_logprob(prompts[0], (*h.tokens[:place], t)) for t in options]
            logprob += logprobs[options.index(token)] - float(np.logaddexp.reduce(logprobs))
        score = logprob - 0.5 * h.null_logprob
        expected.append(Hypothesis(h.tokens, h.items, logprob, h.null_logprob, score))
    assert_same(found, expected)


def test_local_scores_need_no_pass_for_what_is_forced(counted: Any, prompts: list[Prompt]) -> None:
    sequences = [(a, 3, 4, 8, 6, 9, EOS) for a in range(3, 13)]
    config = BeamConfig(score="local")
    [found] = constrained_beam_search(
        counted, prompts[:1], TokenTrie.build(sequences, range(10)), None, config
    )
    assert len(found) == 10
    assert counted.passes == 1


@EXAMPLES
@given(
    corpus=corpora(),
    allowed=subset,
    beams=st.integers(1, 3),
    wanted=st.none() | st.integers(1, 5),
    debias=st.sampled_from([0, 0.5, 2]),
)
def test_what_is_called_proven_is_exact(
    tiny: Any,
    prompts: list[Prompt],
    corpus: Any,
    allowed: Any,
    beams: int,
    wanted: int | None,
    debias: float,
) -> None:
    config = BeamConfig(num_beams=beams, max_leaves_exact=2, debias=debias, num_hypotheses=wanted)
    [found] = constrained_beam_search(
        tiny, prompts[:1], TokenTrie.build(*corpus), [allowed], config
    )
    every = brute_force(tiny, prompts[0], corpus, allowed, debias)
    exact = [h.score for h in every[: found.proven]]
    assert [h.score for h in found[: found.proven]] == pytest.approx(exact, abs=4e-4)
    if len(every) <= 2:
        assert found.proven == len(found)


def test_a_likely_winner_is_proven_by_a_narrow_beam(tiny: Any, prompts: list[Prompt]) -> None:
    first = [tiny.plain_logprob(prompts[0], (t,)) for t in range(3, VOCAB)]
    order = [int(t) + 3 for t in np.argsort(first)[::-1]]
    # The likeliest token ends at once; what is unlikely goes on, and can only fall.
    sequences = [(order[0], EOS), *((t, a, EOS) for t in order[-4:] for a in (5, 6))]
    config = BeamConfig(num_beams=2, max_leaves_exact=0, debias=0)
    [found] = constrained_beam_search(
        tiny, prompts[:1], TokenTrie.build(sequences, range(9)), None, config
    )
    assert len(found) < 9
    assert found[0].tokens == (order[0], EOS)
    assert found.proven >= 1


def test_deleted_items_are_found_no_more(tiny: Any, prompts: list[Prompt]) -> None:
    trie = TokenTrie.build([(5, EOS), (5, 6, EOS), (7, EOS)], [0, 1, 2])
    live = np.array([0, 2])
    [found] = constrained_beam_search(tiny, prompts[:1], trie, [live])
    assert {h.items for h in found} == {(0,), (2,)}


def test_an_empty_subset_and_an_empty_trie_find_nothing(tiny: Any, prompts: list[Prompt]) -> None:
    trie = TokenTrie.build([(5, EOS), (7, EOS)], [0, 1])
    nothing = np.zeros(0, dtype=np.int64)
    found = constrained_beam_search(tiny, prompts[:2], trie, [nothing, None])
    assert [len(one) for one in found] == [0, 2]
    assert constrained_beam_search(tiny, prompts[:2], TokenTrie.build([], [])) == [[], []]
    assert constrained_beam_search(tiny, [], trie) == []


def test_debiasing_steers_the_beam(tiny: Any, prompts: list[Prompt]) -> None:
    # Both branches are long; the likelier first token is a truism (its null is as likely).
    sequences = [(a, b, c, EOS) for a in (5, 7) for b in (3, 4, 6) for c in (8, 9)]
    first = {t: tiny.plain_logprob(prompts[0], (t,)) for t in (5, 7)}
    likely = max(first, key=lambda t: first[t])
    nulls = [((-0.1 if s[0] == likely else -12.0), -1.0, -1.0, -0.1) for s in sequences]
    trie = TokenTrie.build(sequences, range(len(sequences)), nulls)
    for debias, expected in ((0.0, likely), (1.0, 12 - likely)):
        config = BeamConfig(num_beams=1, max_leaves_exact=0, debias=debias)
        [found] = constrained_beam_search(tiny, prompts[:1], trie, None, config)
        assert {h.tokens[0] for h in found} == {expected}


def test_length_penalty_divides_the_finished_score(tiny: Any, prompts: list[Prompt]) -> None:
    trie = TokenTrie.build([(5, EOS), (7, 3, 4, EOS)], [0, 1])
    config = BeamConfig(length_penalty=1.0, debias=0.0)
    [found] = constrained_beam_search(tiny, prompts[:1], trie, None, config)
    assert [h.score for h in found] == pytest.approx([h.logprob / len(h.tokens) for h in found])


def test_few_identifiers_take_two_passes(counted: Any, prompts: list[Prompt]) -> None:
    sequences = [(a, 3, 4, 8, 6, 9, EOS) for a in range(3, 13)]
    trie = TokenTrie.build(sequences, range(10))
    found = constrained_beam_search(counted, prompts, trie)
    assert [len(one) for one in found] == [10] * 4
    assert counted.passes == 2  # the prompts, then all tails at once


def test_shared_beginnings_are_run_once(counted: Any, prompts: list[Prompt]) -> None:
    sequences = [(3, 4, 8, a, b, EOS) for a in range(3, 23) for b in (3, 4, 5)]
    trie = TokenTrie.build(sequences, range(60))
    [found] = constrained_beam_search(counted, prompts[:1], trie)
    assert len(found) == 60
    assert counted.passes == 2
    # The prompt; three shared tokens, 20 middle ones, 60 last ones; end tokens are never fed.
    assert counted.fed == 3 + 3 + 20 + 60


def test_a_search_goes_from_choice_to_choice(counted: Any, prompts: list[Prompt]) -> None:
    middle = (3, 4, 8, 6, 9, 10)
    sequences = [(*middle, a, *middle, b, *middle, EOS) for a in (3, 4, 5) for b in (6, 7, 8)]
    trie = TokenTrie.build(sequences, range(9))
    config = BeamConfig(num_beams=9, max_leaves_exact=0)
    [found] = constrained_beam_search(counted, prompts[:1], trie, None, config)
    assert len(found) == 9
    # 21 tokens: the prompt, the beginning, from the first choice to the second, the rest.
    assert counted.passes == 4
    assert counted.fed == 3 + 6 + 3 * 7 + 9 * 7


def test_ties_are_broken_by_tokens(make_tiny: Any, prompts: list[Prompt]) -> None:
    flat = make_tiny(seed=0)
    torch.nn.init.zeros_(flat.model.lm_head.weight)
    sequences = [(b, a, EOS) for a in (9, 3, 5) for b in (4, 8)]
    trie = TokenTrie.build(sequences, range(6))
    for config in (BeamConfig(), BeamConfig(max_leaves_exact=0)):
        [found] = constrained_beam_search(flat, prompts[:1], trie, None, config)
        assert [h.tokens for h in found] == sorted(sequences)
    [found] = constrained_beam_search(
        flat, prompts[:1], trie, None, BeamConfig(num_beams=2, max_leaves_exact=0)
    )
    assert [h.tokens[0] for h in found] == [4, 4]


def test_equal_calls_give_equal_results(tiny: Any, prompts: list[Prompt]) -> None:
    rng = np.random.default_rng(0)
    sequences = [(*rng.integers(3, VOCAB, 4).tolist(), EOS) for _ in range(400)]
    trie = TokenTrie.build(sequences, range(400))
    config = BeamConfig(num_beams=10)
    first = constrained_beam_search(tiny, prompts, trie, None, config)
    assert first == constrained_beam_search(tiny, prompts, trie, None, config)
    assert all(len(one) >= 10 for one in first)


def test_faults_are_named(
    tiny: Any, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    trie = TokenTrie.build([(5, EOS)], [0])
    with pytest.raises(InputError, match="4 prompts but 1 subsets"):
        constrained_beam_search(tiny, prompts, trie, [None])
    state = DecodingState(
        torch.full((1, VOCAB), torch.nan), torch.zeros(1, dtype=torch.int64), None
    )
    monkeypatch.setattr(tiny, "prefill", lambda prompts: state)
    with pytest.raises(ModelError, match="NaN"):
        constrained_beam_search(tiny, prompts[:1], trie)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_beams": 0},
        {"max_leaves_exact": -1},
        {"debias": -1.0},
        {"debias": float("nan")},
        {"length_penalty": float("inf")},
        {"compat": "other"},
        {"num_hypotheses": 0},
        {"score": "other"},
        {"score": "local", "compat": "hf"},
    ],
)
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        BeamConfig(**wrong)
