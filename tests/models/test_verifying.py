"""The verifier over every family of models: by stages or not, in chunks or at once, the same."""

from __future__ import annotations

import numpy as np
import pytest

from genmm_retriever.describing.prompts import query_given_item_prompt
from genmm_retriever.models.base import ImagePart
from genmm_retriever.verification import (
    Budget,
    CandidateView,
    LikelihoodVerifier,
    QueryView,
)
from genmm_retriever.verification.reverse import BASELINE


def mean(model, prompt, text):
    [scores] = model.score([prompt], [[*model.encode(text), model.eos_token_id]])
    return float(scores.mean())


def passages(count):
    return [CandidateView(f"thing {i}", None, -1.0 * i) for i in range(count)]


def test_words_and_pictures_of_every_model(visual, picture):
    pictures = [
        CandidateView(f"thing {i}", ImagePart(picture(40, 30, seed=i)), -1.0 * i) for i in range(3)
    ]
    candidates = [*pictures, *passages(2)]
    query = QueryView("a boat")
    verifier = LikelihoodVerifier(visual, budget=None, cascade=True)
    staged, parts = verifier.verify(query, candidates)
    alone = mean(visual, BASELINE, "a boat")
    for i, candidate in enumerate(candidates):
        words = mean(visual, query_given_item_prompt(visual, text=candidate.words), "a boat")
        if isinstance(candidate.image, ImagePart):
            seen = mean(visual, query_given_item_prompt(visual, image=candidate.image), "a boat")
            assert parts.text_likelihood[i] == pytest.approx(words - alone, abs=2e-4)
            assert parts.likelihood[i] == pytest.approx(seen - alone, abs=2e-4)
        else:
            assert parts.likelihood[i] == pytest.approx(words - alone, abs=2e-4)
    plain, _ = LikelihoodVerifier(visual, budget=None, cascade=False).verify(query, candidates)
    np.testing.assert_allclose(staged, plain, rtol=2e-3)


def test_captions_of_a_query_picture_in_chunks(visual, picture):
    query = QueryView(image=ImagePart(picture(40, 30)))
    candidates = passages(5)
    whole, _ = LikelihoodVerifier(visual, budget=None).verify(query, candidates)
    timed = LikelihoodVerifier(visual, budget=Budget(None, 1e9), chunk=2)
    np.testing.assert_allclose(timed.verify(query, candidates)[0], whole, rtol=2e-3)


def test_passages_in_chunks(textual):
    query, candidates = QueryView("a boat"), passages(7)
    whole, _ = LikelihoodVerifier(textual, budget=None).verify(query, candidates)
    timed = LikelihoodVerifier(textual, budget=Budget(None, 1e9), chunk=3)
    np.testing.assert_allclose(timed.verify(query, candidates)[0], whole, rtol=2e-3)


def test_pictures_are_chosen_by_their_words_where_that_costs_less(build, picture):
    model = build("qwen3-vl")
    candidates = [
        CandidateView(f"thing {i}", ImagePart(picture(64, 64, seed=i)), -1.0 * i) for i in range(6)
    ]

    def prompt(**shown):
        return model.encode_prompt(query_given_item_prompt(model, **shown))["input_ids"].shape[1]

    read, looked = prompt(text="thing 0"), prompt(image=candidates[0].image)
    # Six captions cost less than three pictures and more than one.
    assert looked + 2 < 6 * (read + 2) < 3 * (looked + 2)
    for budget, worth in ((3, True), (1, False)):
        verifier = LikelihoodVerifier(model, budget=budget)
        _, parts = verifier.verify(QueryView("x"), candidates)
        unseen = verifier.calibration.unseen(parts)
        assert (parts.text_likelihood is not None) == worth
        seen = ~np.isnan(parts.likelihood)
        assert seen.sum() == budget
        assert unseen[seen].min() > unseen[~seen].max()
