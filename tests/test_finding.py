"""The first stage with topics: guided by the contrastive head, or by the language model alone."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

from genmm_retriever import building
from genmm_retriever.corpus.store import IndexReader
from genmm_retriever.finding import IdentifierStage
from genmm_retriever.identifiers.centres import read_centres
from genmm_retriever.retriever import GenerativeMMRetriever
from genmm_retriever.schema import Item
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
        model, "topic_logprobs", lambda text, *more: asked.append(text) or told(text, *more)
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
        model, "topic_logprobs", lambda text, *more: asked.append(text) or told(text, *more)
    )
    for weights, times in (({"guidance": 0.0}, 0), ({}, 1)):
        monkeypatch.setattr(model, "calibration", weights)
        with GenerativeMMRetriever(index, model=model, verify="off") as retriever:
            retriever.retrieve("a dog on grass", k=2)
        assert len(asked) == times


def exact_centres(reader: IndexReader, model: Any) -> torch.Tensor:
    """The definition: of each topic the mean direction of the items named by it."""
    sums = torch.zeros(len(TOPICS), 2 * model.model.config.contrastive_dim)
    rows = reader.live_rows().tolist()
    for row, item, named in zip(rows, reader.items(rows), reader.identifiers_of(rows), strict=True):
        if item.kind == "image":
            [vector] = model.embed_images(torch.from_numpy(np.array(reader.features([row]))))
        else:
            [vector] = model.embed_texts([reader.descriptions([row])[0][0].text])
        for topic in {name.split(",")[0] for name in named}:
            sums[TOPICS.index(topic)] += vector
    return torch.nn.functional.normalize(sums, dim=1)


def test_the_centres_are_those_of_what_lies_under_each_topic(index, model):
    with GenerativeMMRetriever(index, model=model) as retriever:
        with IndexReader.open(index) as reader:
            before = read_centres(reader)
            torch.testing.assert_close(before, exact_centres(reader, model), atol=1e-3, rtol=1e-3)
        retriever.add([Item(id="t", text="a wooden boat on the sea")], progress=False)
        with IndexReader.open(index) as reader:
            after = read_centres(reader)
            torch.testing.assert_close(after, exact_centres(reader, model), atol=1e-3, rtol=1e-3)
        assert not torch.allclose(before, after)
        retriever.delete("t")
        with IndexReader.open(index) as reader:
            assert torch.equal(read_centres(reader), after)


def test_the_search_looks_ahead_to_them(index, model, monkeypatch):
    given = []
    told = model.topic_logprobs
    monkeypatch.setattr(
        model,
        "topic_logprobs",
        lambda text, features, centres: given.append(centres) or told(text, features, centres),
    )
    with IndexReader.open(index) as reader:
        stage = IdentifierStage(reader, model, num_beams=4, debias=0.5, guidance=4.0)
        stage.find([QueryView("a boat on the sea")], [None])
        [centres] = given
        assert torch.equal(centres, read_centres(reader))


@pytest.mark.parametrize("text", ["a boat on the sea", None])
@pytest.mark.parametrize("seen", [True, False])
def test_topics_by_centres_are_likelier_the_nearer_these_are(model, noise, text, seen):
    if text is None and not seen:
        return
    [features] = model.encode_images([noise(seed=3)])
    picture = model.embed_images(features[None])
    words = model.embed_texts([text or ""])
    wanted = model.compose(picture, words) if text and seen else words if text else picture
    far = torch.nn.functional.normalize(torch.randn(2, wanted.shape[1]), dim=1)
    logprobs = model.topic_logprobs(text, features if seen else None, torch.cat([far, wanted]))
    assert max(range(3), key=logprobs.__getitem__) == 2
    assert sum(map(math.exp, logprobs)) == pytest.approx(1)


def test_a_build_that_was_killed_counts_no_item_twice(pictures, model, tmp_path, monkeypatch):
    path = tmp_path / "killed.genmm"
    written = building.write_trie

    def kill(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(building, "write_trie", kill)
    with pytest.raises(KeyboardInterrupt):
        GenerativeMMRetriever.from_images(pictures, path=path, model=model, progress=False)
    monkeypatch.setattr(building, "write_trie", written)
    GenerativeMMRetriever.from_images(pictures, path=path, model=model, progress=False).close()
    with IndexReader.open(path) as reader:
        found = read_centres(reader)
        torch.testing.assert_close(found, exact_centres(reader, model), atol=1e-3, rtol=1e-3)
        [rows] = reader.arrays_under("identifiers/topics/rows").values()
        assert rows.tolist() == [len(reader), len(reader)]


def test_centres_are_made_anew_when_much_of_what_they_count_is_gone(index, model):
    with IndexReader.open(index) as reader:
        [*gone, _] = [item.id for item in reader.items(reader.live_rows().tolist())]
    with GenerativeMMRetriever(index, model=model) as retriever:
        retriever.delete(gone)
        retriever.add([Item(id="t", text="a wooden boat on the sea")], progress=False)
        with IndexReader.open(index) as reader:
            assert len(reader) == 2
            found = read_centres(reader)
            torch.testing.assert_close(found, exact_centres(reader, model), atol=1e-3, rtol=1e-3)
            [rows] = reader.arrays_under("identifiers/topics/rows").values()
            assert rows.tolist()[1] == 2


def test_centres_do_not_keep_what_an_abandoned_build_staged(
    pictures, model, index, tmp_path, monkeypatch
):
    written = building.write_trie

    def kill(*given: Any) -> None:
        raise KeyboardInterrupt

    with GenerativeMMRetriever(index, model=model) as retriever:
        monkeypatch.setattr(building, "write_trie", kill)
        others = [Item(id=f"o{n}", text=f"a boat number {n} on the sea") for n in range(9)]
        with pytest.raises(KeyboardInterrupt):
            retriever.add(others, progress=False)
        monkeypatch.setattr(building, "write_trie", written)
        retriever.add([Item(id="t", text="snow on a mountain")], progress=False)
    with IndexReader.open(index) as reader:
        found = read_centres(reader)
        torch.testing.assert_close(found, exact_centres(reader, model), atol=1e-3, rtol=1e-3)
