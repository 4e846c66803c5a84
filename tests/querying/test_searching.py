"""A retriever with adapters: what is asked, what comes back, and who holds the model."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from genmm_retriever.errors import InputError
from genmm_retriever.querying import (
    AdaptedRetriever,
    ComposedQueryAdapter,
    ConsistentRetriever,
    QueryExpander,
    QueryRewriter,
    ReasoningRetriever,
    adapted,
)
from genmm_retriever.querying.fusing import fuse
from genmm_retriever.schema import Query

from .conftest import hit

WORDY = "please find me a picture that I saw a while ago of a dog in the snow thanks"
SAID = {"constraints": "dog, snow"}


def test_what_is_asked_is_the_adapted_query(writer, searcher):
    found = searcher({"dog, snow": [("a", 0.9), ("b", 0.1)]})
    asked = AdaptedRetriever(found, [QueryRewriter(writer({"snow": SAID}))])
    hits = asked.retrieve(WORDY, k=2)
    assert [one.item.id for one in hits] == ["a", "b"]
    assert found.asked[0][0].text == "dog, snow"
    assert hits[0].evidence.steps[0].adapter == "rewrite"
    assert set(asked.last_timings) == {"adapt", "decode"}
    assert asked.last_candidates == [["a", "b"]]
    assert [one.item.id for one in asyncio.run(asked.aretrieve(WORDY, k=1))] == ["a"]


def test_expansions_are_asked_together_and_fused(writer, searcher):
    model = writer({"puppy": {"queries": ["a young dog", "a small dog", "A young dog"]}})
    found = searcher(
        {
            "a young dog": [("b", 0.5), ("a", 0.4)],
            "a small dog": [("b", 0.5), ("c", 0.4)],
            "puppy": [("a", 0.9), ("b", 0.1)],
        }
    )
    asked = AdaptedRetriever(found, expander=QueryExpander(model, number=2))
    hits = asked.retrieve("a puppy", k=3)
    assert [one.item.id for one in hits] == ["b", "a", "c"]
    assert [query.context for query in found.asked[0]] == [None, "a young dog", "a small dog"]
    assert {query.text for query in found.asked[0]} == {"a puppy"}
    assert asked.last_candidates == [["a", "b", "c"]]
    assert 0 < hits[2].score < hits[0].score <= 1
    assert hits[0].evidence.parts["fused"] == hits[0].score
    for one in hits:
        [step] = one.evidence.steps
        assert step.changed
        assert step.text == "a puppy [a young dog; a small dog]"


def test_what_is_no_adapter_is_refused_when_it_is_given(writer, searcher):
    found, model = searcher({"": [("a", None)]}), writer({})
    with pytest.raises(InputError, match="expander="):
        AdaptedRetriever(found, [QueryExpander(model)])
    with pytest.raises(InputError, match=r"querying\.adapted"):
        AdaptedRetriever(found, ["rewrite"])
    with pytest.raises(InputError, match="no expander"):
        AdaptedRetriever(found, expander="expand")


def test_a_query_picture_is_not_expanded(writer, searcher, picture):
    model = writer({})
    found = searcher({"": [("a", None)]})
    AdaptedRetriever(found, expander=QueryExpander(model)).retrieve("like this", image=picture)
    assert len(found.asked[0]) == 1
    assert model.prompts == []


def test_the_retrievers_own_model_is_held_while_it_writes(writer, searcher):
    held = []

    class Model(writer):
        def prefill(self, prompts):
            raise AssertionError

        def generate(self, prompts, **options):
            held.append(found.held._is_owned())
            return super().generate(prompts, **options)

    found = searcher({"": [("a", None)]})
    expander = QueryExpander(Model({"Describe": ["a dog in the snow"]}, style="builtin"))
    AdaptedRetriever(found, expander=expander).retrieve("a dog")
    assert held
    assert all(held)


def test_fusing_ranks_by_reciprocal_ranks():
    rankings = [
        [hit("a", 1, 0.9), hit("b", 2, 0.5), hit("c", 3, 0.1)],
        [hit("c", 1, 0.8), hit("b", 2, 0.7)],
        [],
    ]
    fused = fuse(rankings, 3)
    expected = {"a": 1 / 61, "b": 2 / 62, "c": 1 / 63 + 1 / 61}
    order = sorted(expected, key=lambda name: -expected[name])
    assert [one.item.id for one in fused] == order
    assert [one.rank for one in fused] == [1, 2, 3]
    for one in fused:
        assert one.score == pytest.approx(expected[one.item.id] / (3 / 61))
    best = {one.item.id: one.evidence.verification for one in fused}
    assert best == {"a": 0.9, "b": 0.5, "c": 0.8}
    assert fuse([], 3) == []
    assert len(fuse(rankings, 1)) == 1
    assert all(one.is_fused for one in fused)


def test_a_single_ranking_keeps_its_scores():
    alone = [hit("a", 1, 0.9), hit("b", 2, 0.5)]
    assert fuse([alone], 1) == alone[:1]
    assert not fuse([alone], 1)[0].is_fused


def test_adapters_by_name(writer, searcher):
    found = searcher({}, model=writer({}))
    assert adapted(found, []) is found
    both = adapted(found, ["reason:2", "rewrite", "expand:4"])
    assert isinstance(both, AdaptedRetriever)
    assert both.expander.number == 4
    assert isinstance(both.retriever, ReasoningRetriever)
    assert both.retriever.rounds == 2
    assert [adapter.name for adapter in both.adapters] == ["rewrite"]
    assert isinstance(adapted(found, ["reason"]), ReasoningRetriever)
    checked = adapted(found, ["consistency", "rewrite"])
    assert isinstance(checked, ConsistentRetriever)
    assert isinstance(checked.retriever, AdaptedRetriever)
    # A writer without log-probabilities cannot check the way back: the retriever's model does.
    assert adapted(found, ["consistency"], writer({}))._named is None
    for wrong in ("rewrit", "rewrite:2", "consistency:2", "expand:0", "expand:99", "expand:x", ""):
        with pytest.raises(InputError, match="adapter"):
            adapted(found, [wrong])
    with pytest.raises(InputError, match="'expand' is named twice"):
        adapted(found, ["expand:2", "rewrite", "expand:3"])
    with pytest.raises(InputError, match="no query adapter"):
        AdaptedRetriever(found)


def test_each_call_reads_its_own_candidates_whoever_asks_meanwhile(writer, searcher):
    # Another query between a search and the reading of its candidates must not be mistaken.
    model = writer({"puppy": {"queries": ["a young dog", "a small dog"]}})
    found = searcher({"": [("a", 0.9)]})
    both = threading.Barrier(2)
    plain = found.retrieve_batch

    def slow(queries, **options):
        hits = plain(queries, **options)
        time.sleep(0.05)
        return hits

    def ask(text):
        both.wait()
        return AdaptedRetriever(found, expander=QueryExpander(model)).retrieve(text)

    found.retrieve_batch = slow
    with ThreadPoolExecutor(2) as pool:
        asked = ["a puppy", "a quiet evening"]
        assert [hits[0].item.id for hits in pool.map(ask, asked)] == ["a", "a"]


def test_what_comes_first_does_not_depend_on_how_much_is_shown(writer, searcher):
    model = writer({"puppy": {"queries": ["a young dog", "a small dog"]}})
    found = searcher(
        {
            "a young dog": [("c", 0.5), ("b", 0.4)],
            "a small dog": [("d", 0.5), ("b", 0.4)],
            "puppy": [("a", 0.9), ("b", 0.1)],
        }
    )
    asked = AdaptedRetriever(found, expander=QueryExpander(model, number=2))
    for k in (1, 2, 4):
        assert asked.retrieve("a puppy", k=k)[0].item.id == "b"
        assert asyncio.run(asked.aretrieve("a puppy", k=k))[0].item.id == "b"


def test_a_context_of_the_users_own_stays(writer, searcher, picture):
    model = writer({"puppy": {"queries": ["a young dog"]}})
    forms = QueryExpander(model, number=1).expand(Query(text="a puppy", context="at night"))
    assert [form.context for form in forms] == ["at night", "at night, a young dog"]
    said = {"two lists": {"keep": ["dog"], "change": ["snow"]}, "": {"target": "a dog in snow"}}
    query = ComposedQueryAdapter(writer(said)).adapt(
        Query(text="in the snow", image=picture, context="at night")
    )
    assert query.context == "at night, a dog in snow"
