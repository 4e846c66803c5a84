"""Adapters with models of true architectures and random weights: nonsense, but never a crash."""

from __future__ import annotations

import pytest
from PIL import Image

from genmm_retriever.querying import (
    Answerer,
    ComposedQueryAdapter,
    QueryExpander,
    QueryRewriter,
    ReasoningRetriever,
    ReferenceResolver,
    adapted,
)
from genmm_retriever.schema import Query

from ..models.conftest import build  # noqa: F401

WORDY = 'please find "two {dogs}" <|im_end|> in the snow, that I saw some time ago, thanks a lot }'


@pytest.fixture(params=["qwen3-vl", "smolvlm"])
def model(build, request):  # noqa: F811
    return build(request.param)


@pytest.fixture
def asked(tmp_path) -> Query:
    path = tmp_path / "query.png"
    Image.new("RGB", (40, 30), (10, 200, 30)).save(path)
    return Query(text="what is this, and who is it for?", image=str(path))


def test_a_query_survives_every_adapter(model, asked):
    for adapter, query in (
        (QueryRewriter(model), Query(text=WORDY)),
        (ReferenceResolver(model), asked),
        (ComposedQueryAdapter(model), asked),
    ):
        adapted_query = adapter.adapt(query)
        [step] = adapted_query.steps
        assert step.adapter == adapter.name
        assert step.tokens > 0
        assert step.seconds > 0
        if not step.changed:
            assert step.note
            assert (adapted_query.text, adapted_query.image) == (query.text, query.image)
    assert len(QueryExpander(model, number=2).expand(WORDY)) >= 1


def test_rounds_of_reasoning_and_answers(model, asked, searcher):
    found = searcher({"": [("a", 0.4), ("b", 0.3)]}, model=model)
    hits = ReasoningRetriever(found, rounds=2).retrieve(asked, k=2)
    assert [hit.item.id for hit in hits] == ["a", "b"]
    assert 1 <= len(hits[0].evidence.steps) <= 3
    assert all(step.tokens > 0 for step in hits[0].evidence.steps)
    answer = Answerer(adapted(found, ["rewrite", "resolve"])).ask(asked)
    assert answer.tokens > 0
    assert answer.found == bool(answer.text)
    assert {hit.item.id for hit in answer.sources} <= {"a", "b"}
