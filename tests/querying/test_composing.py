"""Composed queries in two hops."""

from __future__ import annotations

import torch

from genmm_retriever.querying import ComposedQueryAdapter
from genmm_retriever.schema import Query

from .conftest import ScriptedWriter, words_of


def test_two_hops_lead_to_a_target_that_guides_the_writing(writer, picture):
    model = writer(
        {
            "what stays": "never asked",
            "What it keeps": {"target": "A woman in a blue dress on a stage."},
            "what of the picture above stays": {"keep": ["a woman", "stage"], "change": ["blue"]},
        }
    )
    query = ComposedQueryAdapter(model).adapt(Query(text="the same in blue", image=picture))
    assert query.context == "A woman in a blue dress on a stage."
    assert (query.text, query.image) == ("the same in blue", picture)
    assert query.steps[0].note == "keep: a woman, stage; change: blue"
    assert "a woman; stage" in words_of(model.prompts[1])


def test_without_a_first_hop_the_second_still_has_the_change(writer, picture):
    model = writer({"What it keeps": {"target": "a blue dress"}})
    query = ComposedQueryAdapter(model).adapt(Query(text="in blue", image=picture))
    assert query.context == "a blue dress"
    assert "in blue" in words_of(model.prompts[-1])
    none = ComposedQueryAdapter(writer({})).adapt(Query(text="in blue", image=picture))
    assert none.context is None
    assert not none.steps[0].changed
    assert none.steps[0].note


def test_only_a_picture_with_words_is_composed(writer, picture):
    model = writer({})
    assert ComposedQueryAdapter(model).adapt("a dog").steps == ()
    assert ComposedQueryAdapter(model).adapt(Query(image=picture)).steps == ()
    assert model.prompts == []


def test_the_builtin_model_goes_on_from_its_own_caption(picture):
    class Builtin(ScriptedWriter):
        def encode_images(self, images):
            return torch.zeros(len(images), 4)

    model = Builtin(
        {"Describe.": "a dog runs", "Describe: ": ["a cat", "a dog runs in water"]}, "builtin"
    )
    query = ComposedQueryAdapter(model).adapt(Query(text="but in the water", image=picture))
    assert query.context == "a dog runs in water"
    assert words_of(model.prompts[1]) == "Describe: a dog runs, but in the water"
