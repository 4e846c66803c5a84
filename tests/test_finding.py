"""The first stage with topics: guided by the contrastive head, or by the language model alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from genmm_retriever.corpus.store import IndexReader
from genmm_retriever.finding import IdentifierStage
from genmm_retriever.retriever import GenerativeMMRetriever
from genmm_retriever.verification import QueryView

TOPICS = ("dog grass", "boat sea", "snow mountain")


@pytest.fixture(scope="module")
def model(make_builtin: Any) -> Any:
    from genmm_retriever.models.builtin import BuiltinMLLM

    tiny, processor = make_builtin(topics=list(TOPICS))
    # Near each other, so that none is certain and the guide weighs on every identifier.
    draw = torch.Generator().manual_seed(0)
    tiny.contrastive.topics.copy_(0.05 * torch.randn(tiny.contrastive.topics.shape, generator=draw))
    return BuiltinMLLM(tiny, processor, name="tiny-builtin")


@pytest.fixture
def index(pictures, model, tmp_path):
    path = tmp_path / "photos.genmm"
    brief = copy.copy(model)
    brief.generate = lambda *given, **options: model.generate(
        *given, **{**options, "max_new_tokens": 8}
    )
    GenerativeMMRetriever.from_images(pictures, path=path, model=brief, progress=False).close()
    return path


def test_the_guide_is_asked_only_where_it_weighs(index, model, monkeypatch):
    asked = []
    told = model.topic_logprobs
    monkeypatch.setattr(
        model, "topic_logprobs", lambda text, features: asked.append(text) or told(text, features)
    )
    query = QueryView("a boat on the sea")
    found = {}
    with IndexReader.open(index) as reader:
        for guidance in (0.0, 4.0):
            stage = IdentifierStage(reader, model, num_beams=4, debias=0.5, guidance=guidance)
            found[guidance] = stage.find([query], [None])[0]
            assert len(asked) == (guidance > 0)
    assert {c.row for c in found[0.0]} == {c.row for c in found[4.0]}
    assert [c.score for c in found[0.0]] != pytest.approx([c.score for c in found[4.0]])


def test_calibration_says_how_much_the_guide_weighs(index, model, monkeypatch):
    asked = []
    told = model.topic_logprobs
    monkeypatch.setattr(
        model, "topic_logprobs", lambda text, features: asked.append(text) or told(text, features)
    )
    for weights, times in (({"guidance": 0.0}, 0), ({}, 1)):
        monkeypatch.setattr(model, "calibration", weights)
        with GenerativeMMRetriever(index, model=model, verify="off") as retriever:
            retriever.retrieve("a dog on grass", k=2)
        assert len(asked) == times
