"""The way back: hits of composed queries checked by reverse texts."""

from __future__ import annotations

import asyncio

import pytest
import torch

from genmm_retriever.errors import CapabilityError, InputError
from genmm_retriever.querying import ConsistentRetriever
from genmm_retriever.schema import Query

from ..models.conftest import build  # noqa: F401
from .conftest import ScriptedWriter, words_of

FOUND = [("a", 0.5), ("b", 0.4), ("c", 0.3)]


class Scoring(ScriptedWriter):
    """Finds the query's picture likelier after some words than after others."""

    eos_token_id = 0
    fingerprint = "scoring"
    vocab_size = 300

    def __init__(self, answers, liked, style="instruct"):
        super().__init__(answers, style)
        self.liked, self.scored = liked, []

    def encode(self, text):
        return list(text.encode())

    def decode(self, tokens):
        return bytes(tokens).decode()

    def encode_images(self, images):
        return torch.zeros(len(images), 4)

    def score(self, prompts, continuations):
        self.scored += [words_of(prompt) for prompt in prompts]
        likes = [-1.0 if f"text of {self.liked}" in words_of(p) else -3.0 for p in prompts]
        return [torch.full((len(c),), like) for c, like in zip(continuations, likes, strict=True)]

    def prefill(self, prompts):
        raise AssertionError

    step = extend = score_from = prefill


BACK = {"reference": "a dog on grass", "reverse": "on grass instead"}


def test_a_hit_from_which_the_way_leads_back_rises(searcher, picture):
    model = Scoring({"reverse request": BACK}, liked="c")
    found = searcher({"": FOUND}, model=model)
    checked = ConsistentRetriever(found, depth=3)
    query = Query(text="but in snow", image=picture)
    hits = checked.retrieve(query, k=2)
    assert [hit.item.id for hit in hits] == ["a", "c"]
    assert hits[1].evidence.parts["consistency"] == pytest.approx(-1.0)
    step = hits[0].evidence.steps[-1]
    assert (step.adapter, step.text, step.note) == (
        "consistency",
        "on grass instead",
        "back to: a dog on grass",
    )
    assert all("on grass instead" in words for words in model.scored)
    assert set(checked.last_timings) == {"decode", "check"}
    again = asyncio.run(checked.aretrieve(query, k=2))
    assert [hit.item.id for hit in again] == ["a", "c"]


def test_other_queries_are_passed_on_and_what_cannot_be_written_changes_nothing(searcher, picture):
    model = Scoring({}, liked="c")
    found = searcher({"": FOUND}, model=model)
    checked = ConsistentRetriever(found)
    assert [hit.item.id for hit in checked.retrieve("in snow", k=2)] == ["a", "b"]
    assert model.prompts == []
    hits = checked.retrieve(Query(text="in snow", image=picture), k=2)
    assert [(hit.item.id, hit.score) for hit in hits] == [("a", 0.5), ("b", 0.4)]
    assert not hits[0].evidence.steps[-1].changed
    assert hits[0].evidence.steps[-1].note
    assert model.scored == []


def test_the_builtin_model_takes_what_would_be_lost_as_the_way_back(searcher, picture):
    answers = {"Describe.": "a dog runs on grass", "Describe: ": "a dog runs in snow"}
    model = Scoring(answers, liked="b", style="builtin")
    found = searcher({"": FOUND}, model=model)
    hits = ConsistentRetriever(found, depth=2).retrieve(Query(text="in snow", image=picture), k=3)
    assert [hit.item.id for hit in hits][:2] in (["a", "b"], ["b", "a"])
    assert model.scored == ["Describe: text of a, grass", "Describe: text of b, grass"]
    assert hits[-1].item.id == "c"


def test_real_models_check_too(build, searcher, picture):  # noqa: F811
    model = build("qwen3-vl")
    found = searcher({"": FOUND}, model=model)
    hits = ConsistentRetriever(found, depth=3).retrieve(Query(text="in snow", image=picture), k=3)
    assert sorted(hit.item.id for hit in hits) == ["a", "b", "c"]
    step = hits[0].evidence.steps[-1]
    if step.changed:
        assert all(hit.evidence.parts["consistency"] < 0 for hit in hits)


def test_what_cannot_work_is_refused(searcher):
    with pytest.raises(InputError, match="depth"):
        ConsistentRetriever(searcher({}), depth=1)
    with pytest.raises(CapabilityError, match="log-probabilities"):
        ConsistentRetriever(searcher({}), ScriptedWriter({}))
