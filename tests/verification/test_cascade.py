"""Stage by stage: who is read, who is looked at, who is ruled out, and what it costs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genmm_retriever.errors import InputError
from genmm_retriever.models.base import ImagePart, Prompt, TextPart
from genmm_retriever.verification import (
    Budget,
    Calibration,
    CandidateView,
    LikelihoodVerifier,
    QueryView,
)
from genmm_retriever.verification.calibration import REACH_DEPTH, REACH_FIRST, sigmoid

ASKED = QueryView("a red boat")
# Log-odds by all parts: the likelihood. Without it: the first stage's score, or the words'.
PLAIN = Calibration(
    likelihood=1.0,
    generation=0.0,
    bias=0.0,
    cheap_generation=1.0,
    cheap_bias=0.0,
    words_likelihood=1.0,
    words_generation=0.0,
    words_bias=0.0,
)
NATS = st.floats(-4, 4).map(lambda value: round(value, 2))


def captions(gains):
    return {f"caption {i}": gain for i, gain in enumerate(gains)}


def looked_at(parts):
    return set(np.flatnonzero(~np.isnan(parts.likelihood)).tolist())


@given(
    rows=st.lists(st.tuples(NATS, NATS, NATS), min_size=1, max_size=40),
    cascade=st.sampled_from([None, True, False]),
    k=st.integers(0, 12),
)
@settings(max_examples=60, deadline=None)
def test_without_limits_it_is_brute_force(scripted, make_views, rows, cascade, k):
    generation, words, pictures = zip(*rows, strict=True)
    model = scripted(pictures, captions(words))
    verifier = LikelihoodVerifier(model, budget=None, calibration=PLAIN, cascade=cascade)
    found, parts = verifier.verify(ASKED, make_views(generation), at_least=k)
    np.testing.assert_allclose(parts.likelihood, pictures, atol=1e-5)
    np.testing.assert_allclose(found, sigmoid(np.array(pictures)), rtol=1e-4)
    assert len(model.calls) <= 2


@given(
    rows=st.lists(st.tuples(NATS, NATS, NATS), min_size=1, max_size=60),
    slope=st.floats(0, 2),
    words=st.booleans(),
    k=st.integers(1, REACH_DEPTH),
    chunk=st.integers(1, 20),
)
@settings(max_examples=150, deadline=None)
def test_margins_that_hold_lose_none_of_the_best(
    scripted, make_views, rows, slope, words, k, chunk
):
    generation, read, pictures = map(np.array, zip(*rows, strict=True))
    unseen = read if words else generation
    order = np.argsort(-unseen, kind="stable")
    above = (pictures - slope * unseen)[order]
    # The very margin of these candidates: nobody lies further above the level of the first.
    margin = float((above - above[:REACH_FIRST].mean()).max()) + 1e-3
    weights = replace(
        PLAIN,
        words_reach_slope=slope,
        words_reach_margin=margin if words else math.inf,
        reach_slope=slope,
        reach_margin=math.inf if words else margin,
    )
    model = scripted(pictures, captions(read))
    verifier = LikelihoodVerifier(
        model, budget=None, calibration=weights, cascade=True if words else None, chunk=chunk
    )
    if not words:
        model.picture_tokens = 0
    found, parts = verifier.verify(ASKED, make_views(generation), at_least=k)
    best = np.sort(pictures)[::-1][:k]
    np.testing.assert_allclose(np.sort(found)[::-1][:k], sigmoid(best), rtol=1e-4)
    seen = looked_at(parts)
    assert seen == set(order[: len(seen)].tolist())
    assert len(seen) >= min(len(rows), max(k, 1))


def test_who_cannot_win_any_more_is_not_looked_at(scripted, make_views):
    generation = -np.arange(40.0)
    opened = []
    model = scripted(generation, picture_tokens=0)
    weights = replace(PLAIN, reach_margin=2.5)
    verifier = LikelihoodVerifier(model, budget=None, calibration=weights)
    found, parts = verifier.verify(ASKED, make_views(generation, opened=opened), at_least=3)
    # Predicted without an error: the third best has -2, so up to -4.5 could still have won.
    assert looked_at(parts) == set(range(8))
    assert opened == list(range(8))
    assert (np.diff(found) < 0).all()
    wide = LikelihoodVerifier(model, budget=None, calibration=replace(weights, reach_margin=9.5))
    assert looked_at(wide.verify(ASKED, make_views(generation), at_least=3)[1]) == set(range(12))
    off = LikelihoodVerifier(model, budget=None, calibration=weights, cascade=False)
    assert looked_at(off.verify(ASKED, make_views(generation), at_least=3)[1]) == set(range(40))
    composed = QueryView("in red", ImagePart(features=torch.zeros(1)))
    parts = verifier.verify(composed, make_views(generation), at_least=3)[1]
    assert looked_at(parts) == set(range(40))
    deep = verifier.verify(ASKED, make_views(generation), at_least=REACH_DEPTH + 1)[1]
    assert looked_at(deep) == set(range(40))


def test_nobody_is_ruled_out_where_some_words_are_missing(scripted, make_views):
    generation = -np.arange(20.0)
    words = [f"caption {i}" for i in range(19)] + [" \u200b"]
    weights = replace(PLAIN, words_reach_margin=0.5, reach_margin=0.5)
    model = scripted(generation, captions(generation))
    verifier = LikelihoodVerifier(model, budget=None, calibration=weights, cascade=True)
    _, parts = verifier.verify(ASKED, make_views(generation, words=words), at_least=3)
    assert np.flatnonzero(np.isnan(parts.text_likelihood)).tolist() == [19]
    assert len(looked_at(parts)) == 20
    _, parts = verifier.verify(ASKED, make_views(generation), at_least=3)
    assert len(looked_at(parts)) == 8


def test_words_choose_whom_to_look_at(scripted, make_views):
    words = np.array([0.0, 3.0, 1.0, 2.0, -1.0, 4.0] + [-3.0] * 14)
    model = scripted(np.arange(20.0), captions(words))
    verifier = LikelihoodVerifier(model, budget=3, calibration=PLAIN)
    found, parts = verifier.verify(ASKED, make_views([0.0] * 20))
    assert looked_at(parts) == {1, 3, 5}
    np.testing.assert_allclose(parts.text_likelihood, words, atol=1e-5)
    assert np.argsort(-found)[:3].tolist() == [5, 3, 1]
    assert found[[0, 2, 4]].max() < found[1]
    # The query alone is scored once, with the words.
    assert model.calls == [20 + 1, 3]
    named = parts.of(5)
    assert named == pytest.approx({"likelihood": 5.0, "text_likelihood": 4.0})
    assert set(parts.of(0)) == {"text_likelihood"}


def reads(model, make_views, n=20, **options):
    options = {"budget": 4, "calibration": PLAIN} | options
    LikelihoodVerifier(model, **options).verify(ASKED, make_views([-1.0 * i for i in range(n)]))
    return bool(model.read)


@pytest.mark.parametrize(("tokens", "worth"), [(2, False), (30, False), (60, True), (900, True)])
def test_words_are_read_where_that_costs_less(scripted, make_views, tokens, worth):
    # 20 candidates: 3 + 4 tokens each to read, against 4 pictures of `tokens` + 1 + 4.
    model = scripted([0.0] * 20, captions([0.0] * 20), picture_tokens=tokens)
    assert reads(model, make_views) == worth


def test_words_are_not_read_where_that_is_of_no_use(scripted, make_views):
    def model():
        return scripted([0.0] * 20, captions([0.0] * 20))

    assert reads(model(), make_views)
    assert not reads(model(), make_views, budget=20)
    assert not reads(model(), make_views, cascade=False)
    assert not reads(model(), make_views, calibration=replace(PLAIN, words_likelihood=0.0))
    assert not reads(scripted([0.0] * 20), make_views, budget=None)
    # Needed by the weights of all parts, or to rule somebody out.
    assert reads(model(), make_views, budget=20, calibration=replace(PLAIN, text_likelihood=0.5))
    assert reads(model(), make_views, budget=20, calibration=replace(PLAIN, words_reach_margin=1.0))
    assert reads(model(), make_views, budget=Budget(None, 500.0))


def test_a_model_that_cannot_count_reads_before_pixels_only(scripted, make_views, noise):
    class Uncounted(scripted):
        encode_prompt = None

        def _gain(self, parts):
            if isinstance(parts[0], ImagePart) and parts[0].image is not None:
                return 0.5
            return super()._gain(parts)

    assert not reads(Uncounted([0.0] * 20, captions([0.0] * 20)), make_views)
    model = Uncounted([], captions([0.0] * 20))
    pixels = [CandidateView(f"caption {i}", ImagePart(noise(seed=i)), -1.0) for i in range(20)]
    LikelihoodVerifier(model, budget=10, calibration=PLAIN).verify(ASKED, pixels)
    assert len(model.read) == 20


def test_text_items_are_read_once(scripted, make_views):
    texts = [CandidateView(f"passage {i}", None, -1.0) for i in range(3)]
    mixed = [*make_views([-2.0] * 5), *texts]
    words = captions([0.5] * 5) | {f"passage {i}": 1.0 + i for i in range(3)}
    weights = replace(PLAIN, text_likelihood=0.25)
    found = {}
    for cascade in (True, False):
        model = scripted([2.0] * 5, words)
        verifier = LikelihoodVerifier(model, budget=None, calibration=weights, cascade=cascade)
        found[cascade], parts = verifier.verify(ASKED, mixed)
        assert sorted(model.read).count("passage 1") == 1
        np.testing.assert_allclose(parts.likelihood, [2, 2, 2, 2, 2, 1, 2, 3], atol=1e-5)
        assert np.isnan(parts.words[5:]).all()
    np.testing.assert_allclose(found[True][5:], found[False][5:], rtol=1e-5)
    np.testing.assert_allclose(found[True][:5], sigmoid(np.full(5, 2 + 0.25 * 0.5)), rtol=1e-4)


def test_time_ends_the_looking_but_not_before_the_hits_are_done(scripted, make_views):
    generation = -np.arange(40.0)

    def looked(milliseconds, *, at_least=0, candidates=None, chunk=5):
        model = scripted(generation, captions(generation))
        verifier = LikelihoodVerifier(
            model,
            budget=Budget(candidates, milliseconds),
            calibration=PLAIN,
            cascade=False,
            chunk=chunk,
            clock=lambda: model.seconds,
        )
        found, parts = verifier.verify(ASKED, make_views(generation), at_least=at_least)
        seen = looked_at(parts)
        assert seen == set(range(len(seen)))
        if len(seen) < 40:
            assert found[len(seen) :].max() < found[: len(seen)].min()
        return len(seen)

    # A pass takes a second; five candidates a pass.
    assert looked(1) == 5
    assert looked(1, at_least=12) == 12
    assert looked(2500) == 15
    assert looked(2500, at_least=12) == 22
    assert looked(2500, candidates=7) == 7
    assert looked(1e9) == 40


def test_reading_also_ends_when_the_time_is_over(scripted, make_views):
    generation = -np.arange(100.0)
    model = scripted(generation, captions(generation + 50))
    verifier = LikelihoodVerifier(
        model,
        budget=Budget(None, 1500),
        calibration=PLAIN,
        cascade=True,
        clock=lambda: model.seconds,
    )
    _, parts = verifier.verify(ASKED, make_views(generation), at_least=3)
    # Two passes of 32 captions, those of the best first stage, then one of pictures.
    assert np.flatnonzero(~np.isnan(parts.text_likelihood)).tolist() == list(range(64))
    assert len(looked_at(parts)) == 8


def test_hopeless_ones_that_were_looked_at_stay_above_the_others(scripted, make_views):
    model = scripted([-4000.0] * 3 + [0.0] * 3)
    weights = replace(PLAIN, cheap_bias=900.0)
    verifier = LikelihoodVerifier(model, budget=3, calibration=weights, cascade=False)
    found, parts = verifier.verify(ASKED, make_views([-1.0, -2, -3, -4, -5, -6]))
    assert looked_at(parts) == {0, 1, 2}
    assert found[3:].max() < found[:3].min()


def test_a_query_picture_is_looked_at_once(tiny_builtin, noise):
    query = QueryView(image=ImagePart(features=tiny_builtin.encode_images([noise()])[0]))
    candidates = [CandidateView(f"thing {i % 9}", None, -1.0 * i) for i in range(20)]
    plain, whole = LikelihoodVerifier(tiny_builtin, budget=None).verify(query, candidates)
    timed = LikelihoodVerifier(tiny_builtin, budget=Budget(None, 1e9), chunk=6)
    chunked, parts = timed.verify(query, candidates)
    np.testing.assert_allclose(parts.likelihood, whole.likelihood, atol=1e-4)
    np.testing.assert_allclose(chunked, plain, rtol=1e-3)


def test_the_words_of_a_real_model_are_scored_as_passages(tiny_builtin, noise):
    features = tiny_builtin.encode_images([noise(seed=s) for s in range(3)])
    candidates = [
        CandidateView(words, ImagePart(features=one))
        for words, one in zip(["a blue car", "a red boat", ""], features, strict=True)
    ]
    verifier = LikelihoodVerifier(tiny_builtin, budget=1, cascade=True)
    _, parts = verifier.verify(ASKED, candidates)
    tail = [*tiny_builtin.encode("a red boat"), tiny_builtin.eos_token_id]

    def mean(words):
        [scores] = tiny_builtin.score([Prompt((TextPart(words),))], [tail])
        return float(scores.mean())

    expected = [mean(f"Describe: {c.words}") - mean("Describe.") for c in candidates[:2]]
    assert parts.text_likelihood[:2] == pytest.approx(expected, abs=1e-4)
    assert np.isnan(parts.text_likelihood[2])
    assert len(looked_at(parts)) == 1


def test_pixels_are_opened_only_to_be_looked_at(tiny_builtin, noise):
    opened = []

    def opening(seed):
        def open_it():
            opened.append(seed)
            return ImagePart(noise(seed=seed))

        return open_it

    candidates = [CandidateView(f"thing {i}", opening(i), -1.0 * i) for i in range(9)]
    verifier = LikelihoodVerifier(tiny_builtin, budget=2, cascade=False)
    found, parts = verifier.verify(ASKED, candidates)
    assert opened == [0, 1] == sorted(looked_at(parts))
    assert np.argmax(found) in (0, 1)


@pytest.mark.parametrize(
    ("candidates", "milliseconds"),
    [(0, None), (-1, None), (1.5, None), (16, 0), (16, -5), (16, math.nan), (16, math.inf)],
)
def test_budgets_out_of_range(candidates, milliseconds):
    with pytest.raises(InputError, match="budget"):
        Budget(candidates, milliseconds)
