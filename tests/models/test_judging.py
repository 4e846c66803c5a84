"""Choice and yes/no over every family of models, with several pictures in a prompt or one."""

from __future__ import annotations

import numpy as np
import pytest

from genmm_retriever.describing.prompts import choice_prompt, yesno_prompt
from genmm_retriever.models.base import ImagePart
from genmm_retriever.verification import CandidateView, ChoiceVerifier, QueryView, YesNoVerifier
from genmm_retriever.verification.answers import Answers

QUERY = QueryView("a boat")


def pictures(picture, count=3):
    return [
        CandidateView(f"thing {i}", ImagePart(picture(32, 32, seed=i)), -1.0 * i)
        for i in range(count)
    ]


def after(model, prompt, text):
    [scores] = model.score([prompt], [model.encode(text)])
    return float(scores.sum())


@pytest.mark.parametrize("kind", ["qwen3-vl", "internvl", "smolvlm"])
def test_several_pictures_in_a_prompt(build, picture, kind):
    model = build(kind)
    assert model.pictures_per_prompt is None
    candidates = pictures(picture)
    found, parts = ChoiceVerifier(model, prior=False).verify(QUERY, candidates)
    assert found.sum() == pytest.approx(1)
    shown = [c.image for c in candidates]
    expected = np.zeros((2, 3))
    for row, order in enumerate(([0, 1, 2], [2, 1, 0])):
        prompt = choice_prompt("a boat", None, [shown[i] for i in order], model)
        assert sum(isinstance(part, ImagePart) for part in prompt.parts) == 3
        logits = np.array([after(model, prompt, letter) for letter in "ABC"])
        expected[row, order] = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(found, expected.mean(axis=0), rtol=2e-3)
    np.testing.assert_allclose(parts.judged["choice_2"], expected[1], rtol=2e-3)


def test_a_model_of_one_picture_a_prompt_reads_the_captions(build, picture):
    model = build("llava")
    assert model.pictures_per_prompt == 1
    candidates = pictures(picture)
    found, _ = ChoiceVerifier(model).verify(QUERY, candidates)
    read, _ = ChoiceVerifier(model).verify(
        QUERY, [CandidateView(c.words, None, c.generation) for c in candidates]
    )
    np.testing.assert_allclose(found, read, rtol=1e-4)
    # A query picture takes the one place.
    asked = QueryView(image=ImagePart(picture(32, 32, seed=9)))
    by_picture, _ = ChoiceVerifier(model).verify(asked, candidates)
    assert by_picture.sum() == pytest.approx(1)
    assert not np.allclose(by_picture, found)


def test_yes_and_no_of_every_model(visual, picture):
    candidates = [*pictures(picture, 2), CandidateView("a thing", None, -3.0)]
    found, _ = YesNoVerifier(visual, prior=False).verify(QUERY, candidates)
    for candidate, value in zip(candidates, found, strict=True):
        prompt = yesno_prompt("a boat", None, candidate.image or candidate.words, visual)
        sums = [
            np.logaddexp.reduce([after(visual, prompt, word) for word in words])
            for words in (("Yes", "yes", "YES"), ("No", "no", "NO"))
        ]
        assert value == pytest.approx(1 / (1 + np.exp(sums[1] - sums[0])), rel=5e-3)


def test_text_models_choose_among_passages(textual):
    candidates = [CandidateView(f"thing {i}", None, -1.0 * i) for i in range(4)]
    found, parts = ChoiceVerifier(textual).verify(QUERY, candidates)
    assert found.sum() == pytest.approx(1)
    assert np.isfinite(parts.judged["choice_spread"]).all()
    again, _ = ChoiceVerifier(textual, group=2).verify(QUERY, candidates)
    assert again.sum() == pytest.approx(1)
    assert ((found > 0) & (found < 1)).all()


def test_letters_are_one_token_whatever_stands_before(build, tiny_builtin):
    for model in (build("qwen3-vl"), tiny_builtin):
        answers = Answers(model, [("A",), ("B",)])
        assert answers.is_one_pass
        assert [model.decode(tail).strip() for tails in answers.tails for tail in tails] == [
            "A",
            "B",
        ]
        # Words of several tokens are scored whole.
        assert not Answers(model, [("Yes",), ("No",)]).is_one_pass


def test_the_builtin_model_chooses_by_captions(tiny_builtin, noise):
    features = tiny_builtin.encode_images([noise(seed=s) for s in range(4)])
    candidates = [
        CandidateView(f"caption {i}", ImagePart(features=one), -1.0 * i)
        for i, one in enumerate(features)
    ]
    for query in (
        QUERY,
        QueryView(image=candidates[0].image),
        QueryView("red", candidates[1].image),
    ):
        for verifier in (ChoiceVerifier(tiny_builtin), YesNoVerifier(tiny_builtin)):
            found, _ = verifier.verify(query, candidates)
            assert ((found > 0) & (found < 1)).all()
