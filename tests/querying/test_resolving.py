"""References resolved: names for what a question points at, and no answers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from genmm_retriever.querying import ReferenceResolver
from genmm_retriever.querying.resolving import _replaced
from genmm_retriever.schema import Query


def test_a_question_gets_the_name_of_what_is_shown(writer, picture):
    said = {"question": "When was the giant panda discovered?"}
    asked = Query(text="When was it discovered?", image=picture)
    query = ReferenceResolver(writer({"discovered": said})).adapt(asked)
    assert query.text == said["question"]
    assert query.image == picture
    assert query.rewritings == ("When was it discovered?",)
    alone = ReferenceResolver(writer({"discovered": said}), drop_image=True).adapt(asked)
    assert alone.image is None


def test_an_answer_in_place_of_a_question_is_not_taken(writer, picture):
    said = {"question": "The panda lives in Sichuan, China, where Armand David found one in 1869"}
    asked = Query(text="When was it discovered?", image=picture)
    query = ReferenceResolver(writer({"discovered": said})).adapt(asked)
    assert query.text == asked.text
    assert "dropped discovered" in query.steps[0].note
    more = {"question": "discovered by Armand David in Sichuan China eighteen sixty nine winter"}
    query = ReferenceResolver(writer({"discovered": more})).adapt(asked)
    assert query.text == asked.text
    assert "added more" in query.steps[0].note


def test_questions_that_point_at_nothing_or_have_no_picture_are_left_alone(writer, picture):
    model = writer({})
    resolver = ReferenceResolver(model)
    assert resolver.adapt("When was it discovered?").steps == ()
    assert resolver.adapt(Query(text="When was the panda found?", image=picture)).steps == ()
    assert resolver.adapt(Query(image=picture)).steps == ()
    assert model.prompts == []


def seeing(*names):
    """A builtin model's eyes."""
    return SimpleNamespace(
        name="seeing",
        prompt_style="builtin",
        supports_images=True,
        encode_images=lambda images: torch.zeros(len(images), 4),
        object_words=lambda features, least: [[n for n in names if n[1] >= least]],
        generate=None,
    )


def test_the_builtin_model_names_what_its_classifier_is_sure_of(picture):
    resolver = ReferenceResolver(seeing(("giant panda", 0.9), ("bear", 0.4)))
    query = resolver.adapt(Query(text="What does this animal eat when it wakes?", image=picture))
    assert query.text == "What does the giant panda eat when it wakes?"
    assert "0.90" in query.steps[0].note
    unsure = ReferenceResolver(seeing(("bear", 0.2)))
    query = unsure.adapt(Query(text="What does it eat?", image=picture))
    assert query.text == "What does it eat?"
    assert not query.steps[0].changed


@pytest.mark.parametrize(
    ("asked", "resolved"),
    [
        (
            "Which river flows past the town that it stands in?",
            "Which river flows past the town that the castle stands in?",
        ),
        ("What is that?", "What is the castle?"),
        ("That animal, where does it live?", "the castle, where does it live?"),
        ("Is this older than that?", "Is the castle older than that?"),
    ],
)
def test_the_name_stands_for_what_points_and_not_for_what_joins(asked, resolved):
    assert _replaced(asked, "the castle") == resolved


def test_a_that_which_joins_is_left(writer):
    assert _replaced("the same dog that is in the snow", "the castle") == (
        "the same dog that is in the snow"
    )
