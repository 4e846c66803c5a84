"""Steps of several works side by side: each gets its own scores, and the model is asked less."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genmm_retriever.models.base import ImagePart, Prompt, TextPart
from genmm_retriever.verification import (
    Budget,
    CandidateView,
    LikelihoodVerifier,
    QueryView,
    YesNoVerifier,
    verify_all,
)
from genmm_retriever.verification.steps import ToScore, run_alone, run_together


class Lengths:
    """Scores a tail by its length and its prompt's words."""

    def __init__(self):
        self.calls = []

    def score(self, prompts, tails):
        self.calls.append(len(prompts))
        return [
            torch.full((len(tail),), float(len(prompt.parts[0].text)))
            for prompt, tail in zip(prompts, tails, strict=True)
        ]


def counting(word, steps):
    total = 0.0
    for step in range(steps):
        scores = yield ToScore([Prompt((TextPart(word * (step + 1)),))] * 2, [[1], [1, 2]])
        assert [len(one) for one in scores] == [1, 2]
        total += float(sum(one.sum() for one in scores))
    return word, total


def test_works_of_any_lengths_get_their_own_scores():
    model = Lengths()
    works = [counting("a", 3), counting("bb", 0), counting("ccc", 1)]
    assert run_together(model, works) == [("a", 18.0), ("bb", 0.0), ("ccc", 9.0)]
    assert model.calls == [4, 2, 2]
    assert run_alone(model, counting("dd", 2)) == ("dd", 18.0)
    assert run_together(model, []) == []


def test_an_error_reaches_the_caller():
    def failing():
        yield ToScore([], [])
        raise ValueError("of one work")

    with pytest.raises(ValueError, match="of one work"):
        run_together(Lengths(), [counting("a", 2), failing()])


@pytest.fixture
def asked(tiny_builtin, noise):
    features = tiny_builtin.encode_images([noise(seed=n) for n in range(14)])
    pictures = [
        CandidateView(f"caption {n}", ImagePart(features=one), generation=-0.1 * n)
        for n, one in enumerate(features)
    ]
    texts = [CandidateView(f"a passage of {n}", generation=-1.0) for n in range(3)]
    queries = [
        QueryView("a red boat"),
        QueryView("a dog in the snow", ImagePart(features=features[3])),
        QueryView(image=ImagePart(features=features[5])),
        QueryView("boat"),
    ]
    return queries, [pictures, [*texts, *pictures[3:9]], texts, []]


@pytest.mark.parametrize("budget", [4, None, Budget(None, milliseconds=1e6)])
def test_queries_verified_together_get_what_they_get_alone(tiny_builtin, asked, budget):
    verifier = LikelihoodVerifier(tiny_builtin, budget=budget)
    queries, candidates = asked
    together = verify_all(verifier, queries, candidates, at_least=3)
    for query, some, (found, parts) in zip(queries, candidates, together, strict=True):
        wanted, alone = verifier.verify(query, some, at_least=3)
        np.testing.assert_allclose(found, wanted, rtol=1e-3)
        np.testing.assert_allclose(parts.likelihood, alone.likelihood, atol=1e-3)


def test_together_the_model_is_asked_less_often(tiny_builtin, asked, monkeypatch):
    calls = []
    score = tiny_builtin.score

    def counted(prompts, tails):
        calls.append(len(prompts))
        return score(prompts, tails)

    monkeypatch.setattr(tiny_builtin, "score", counted)
    verifier = LikelihoodVerifier(tiny_builtin)
    queries, candidates = [asked[0][0]] * 4, [asked[1][0]] * 4
    verifier.verify_all(queries, candidates, at_least=3)
    together, total = len(calls), sum(calls)
    calls.clear()
    for query, some in zip(queries, candidates, strict=True):
        verifier.verify(query, some, at_least=3)
    assert len(calls) == 4 * together
    assert sum(calls) == total


def test_pictures_that_are_opened_are_looked_at_query_by_query(tiny_builtin, noise, monkeypatch):
    opened = []

    def opener(number):
        def open_it():
            opened.append(number)
            return ImagePart(noise(seed=number))

        return open_it

    held = []
    score = tiny_builtin.score

    def watched(prompts, tails):
        held.append(len(opened))
        opened.clear()
        return score(prompts, tails)

    monkeypatch.setattr(tiny_builtin, "score", watched)
    candidates = [CandidateView("", opener(n), generation=-1.0) for n in range(2)]
    verifier = LikelihoodVerifier(tiny_builtin, cascade=False)
    verifier.verify_all([QueryView("a"), QueryView("b")], [candidates, candidates])
    assert held == [2, 2]


def test_other_verifiers_are_asked_one_by_one(tiny_builtin, asked):
    verifier = YesNoVerifier(tiny_builtin, budget=2)
    queries, candidates = asked[0][:2], asked[1][:2]
    together = verify_all(verifier, queries, candidates, at_least=1)
    for query, some, (found, _) in zip(queries, candidates, together, strict=True):
        np.testing.assert_allclose(found, verifier.verify(query, some, at_least=1)[0], rtol=1e-3)
