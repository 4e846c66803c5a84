"""The loop of reasoning and searching: its rounds, its stops, its account."""

from __future__ import annotations

import pytest

from genmm_retriever.errors import InputError
from genmm_retriever.querying import ReasoningRetriever
from genmm_retriever.schema import Query

from .conftest import words_of

REASONED = {
    "intent": "find a pet",
    "entities": ["dog"],
    "must_have": ["snow"],
    "avoid": ["people"],
    "context": "a dog alone in the snow",
}


def reflection(ok=False, context="", wrong=""):
    return {"ok": ok, "wrong_because": wrong, "context": context}


def test_reflection_mends_the_context_and_rounds_are_fused(writer, searcher):
    model = writer(
        {
            "What was found": reflection(False, "a husky pulls a sled", "no sled"),
            "Reason briefly": REASONED,
        }
    )
    found = searcher(
        {
            "husky": [("c", 0.5), ("a", 0.4), ("d", 0.1)],
            "alone in the snow": [("a", 0.3), ("b", 0.2), ("c", 0.1)],
        }
    )
    loop = ReasoningRetriever(found, model, rounds=2)
    hits = loop.retrieve("my dog", k=2)
    assert [one.item.id for one in hits] == ["a", "c"]
    assert [query.context for [query] in found.asked] == [
        "a dog alone in the snow",
        "a husky pulls a sled",
    ]
    assert all(query.text == "my dog" for [query] in found.asked)
    first, second = hits[1].evidence.steps
    assert first.note == "find a pet; entities: dog; must have: snow; avoid: people"
    assert second.note == "no sled"
    assert second.text == "my dog [a husky pulls a sled]"
    assert loop.last_timings["decode"] == 1.0
    assert loop.last_timings["think"] >= 0
    assert loop.last_candidates == [["a", "c", "b", "d"]]
    shown = words_of(model.prompts[1])
    assert "1. text of a" in shown
    assert "a dog alone in the snow" in shown


def test_it_stops_when_the_model_is_content(writer, searcher):
    model = writer({"What was found": reflection(True), "Reason briefly": REASONED})
    found = searcher({"": [("a", 0.3), ("b", 0.2)]})
    hits = ReasoningRetriever(found, model).retrieve("my dog")
    assert len(found.asked) == 1
    assert [step.changed for step in hits[0].evidence.steps] == [True, False]


def test_it_stops_when_the_first_hit_stays_or_leads(writer, searcher):
    model = writer({"What was found": reflection(False, "another"), "Reason briefly": REASONED})
    found = searcher({"": [("a", 0.3), ("b", 0.2)]})
    ReasoningRetriever(found, model, rounds=8).retrieve("my dog")
    assert len(found.asked) == 2
    sure = searcher({"": [("a", 0.9), ("b", 0.2)]})
    ReasoningRetriever(sure, model, rounds=8, margin=0.5).retrieve("my dog")
    assert len(sure.asked) == 1


def test_without_words_from_the_model_it_is_the_plain_search(writer, searcher):
    found = searcher({"": [("a", None), ("b", None)]})
    hits = ReasoningRetriever(found, writer({})).retrieve("my dog", k=2)
    assert [one.item.id for one in hits] == ["a", "b"]
    assert found.asked[0][0].context is None
    assert hits[0].evidence.steps[0].note
    assert not hits[0].evidence.steps[0].changed


def test_a_picture_alone_gives_no_context_and_that_is_said(writer, searcher, picture):
    found = searcher({"": [("a", 0.9), ("b", 0.1)]}, model=writer({"": ["a dog"]}, "builtin"))
    model = found.model
    model.supports_images = False
    hits = ReasoningRetriever(found).retrieve(image=picture, k=2)
    [step] = hits[0].evidence.steps
    assert (step.changed, step.text) == (False, "")
    assert "nothing was thought of" in step.note


def test_queries_of_a_batch_stop_each_for_itself(writer, searcher):
    model = writer(
        {
            "What was found": reflection(False, "better"),
            "Reason briefly": REASONED,
        }
    )
    found = searcher({"cat": [("a", 0.9), ("b", 0.1)], "": [("c", 0.3), ("d", 0.2)]})
    hits = ReasoningRetriever(found, model, rounds=3).retrieve_batch(["a cat", "a dog"], k=1)
    assert [some[0].item.id for some in hits] == ["a", "c"]
    assert [len(batch) for batch in found.asked] == [2, 1]


def test_the_builtin_model_imagines_and_goes_on_from_what_it_found(writer, searcher):
    model = writer({"Describe: ": ["a cat", "a dog runs in snow"]}, style="builtin")
    found = searcher({"": [("a", 0.3), ("b", 0.2), ("c", 0.1)]}, model=model)
    hits = ReasoningRetriever(found, rounds=2).retrieve(Query(text="dog, snow", context="winter"))
    assert found.asked[0][0].context == "winter, a dog runs in snow"
    assert words_of(model.prompts[0]) == "Describe: dog, snow"
    assert words_of(model.prompts[-1]) == "Describe: dog, snow, text of a, text of b"
    assert len(hits[0].evidence.steps) == 2


@pytest.mark.parametrize("options", [{"rounds": 0}, {"rounds": 9}, {"margin": 2}, {"shown": 0}])
def test_options_out_of_range_are_refused(searcher, options):
    with pytest.raises(InputError):
        ReasoningRetriever(searcher({}), **options)
