from __future__ import annotations

import asyncio
import base64
import threading
from pathlib import Path
from typing import Any

import llama_index.core.instrumentation as instrument
import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms.mock import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import (
    ImageNode,
    MediaResource,
    Node,
    NodeWithScore,
    QueryBundle,
    TextNode,
)
from pydantic import ValidationError

from genmm_retriever import GenerativeMMReranker
from genmm_retriever.errors import InputError, QueryError
from keyword_core import KeywordCore, Words
from llama_index.retrievers.genmm import GenerativeMMRetriever, GenmmRerank


def scored(nodes: list[Any], scores: list[float | None] | None = None) -> list[NodeWithScore]:
    scores = scores or [None] * len(nodes)
    return [NodeWithScore(node=n, score=s) for n, s in zip(nodes, scores, strict=True)]


@pytest.fixture
def nodes(cat: str) -> list[NodeWithScore]:
    """Nodes of every form, worst first for a cat."""
    return scored(
        [
            TextNode(id_="none", text="Espresso is strong."),
            ImageNode(id_="address", text="a boat", image_url="https://example.org/a.png"),
            TextNode(id_="empty", text=" "),
            ImageNode(id_="image", text="a cat on a mat", image_path=cat),
            Node(
                id_="node",
                text_resource=MediaResource(text="a cat with green eyes"),
                image_resource=MediaResource(path=Path(cat)),
            ),
        ],
        [9.0, 5.0, 4.0, None, 0.1],
    )


@pytest.fixture
def words() -> Words:
    return Words()


def ids(nodes: list[NodeWithScore]) -> list[str]:
    return [node.node_id for node in nodes]


async def test_nodes_of_any_retriever_are_ordered(nodes: list[NodeWithScore], words: Words) -> None:
    rerank = GenmmRerank(reranker=words)
    found = rerank.postprocess_nodes(nodes, query_str="a cat with green eyes")
    assert ids(found) == ["node", "image", "none", "address", "empty"]
    assert [node.score for node in found] == [1.0, 0.25, 0.0, 0.0, 0.0]
    assert found[0].node is nodes[4].node
    bundle = QueryBundle("a cat with green eyes")
    assert await rerank.apostprocess_nodes(nodes, query_bundle=bundle) == found
    assert threading.get_ident() in words.threads
    assert len(words.threads) == 2


def test_pictures_texts_and_scores_reach_the_core(
    nodes: list[NodeWithScore], words: Words, cat: str
) -> None:
    data = base64.b64encode(b"encoded").decode()
    nodes += scored(
        [
            ImageNode(id_="data", image=data),
            Node(id_="bytes", image_resource=MediaResource(data=b"encoded")),
            ImageNode(id_="damaged", image="x"),
        ]
    )
    GenmmRerank(reranker=words).postprocess_nodes(
        nodes, query_bundle=QueryBundle("in red", image_path=cat)
    )
    ((query, items),) = words.asked
    assert (query.text, query.image) == ("in red", cat)
    # By the scores given, those without one last.
    assert [(item.id, item.image, item.text) for item in items] == [
        ("0", None, "Espresso is strong."),
        ("1", "https://example.org/a.png", "a boat"),
        ("4", cat, "a cat with green eyes"),
        ("3", cat, "a cat on a mat"),
        ("5", b"encoded", None),
        ("6", b"encoded", None),
        ("7", b"", None),
    ]


def test_top_n_and_the_earlier_score(nodes: list[NodeWithScore], words: Words) -> None:
    rerank = GenmmRerank(reranker=words, top_n=2, keep_retrieval_score=True)
    found = rerank.postprocess_nodes(nodes, query_str="a cat with green eyes")
    assert ids(found) == ["node", "image"]
    assert [node.metadata["retrieval_score"] for node in found] == [0.1, None]
    assert "retrieval_score" not in nodes[4].metadata
    assert len(GenmmRerank(reranker=words, top_n=99).postprocess_nodes(nodes, query_str="a")) == 5


def test_events_and_callbacks(nodes: list[NodeWithScore], words: Words) -> None:
    seen: list[Any] = []

    class Log(BaseEventHandler):
        def handle(self, event: Any, **kwargs: Any) -> None:
            seen.append(event)

    root, log = instrument.get_dispatcher(), Log()
    root.add_event_handler(log)
    debug = LlamaDebugHandler(print_trace_on_end=False)
    try:
        rerank = GenmmRerank(reranker=words, top_n=3, callback_manager=CallbackManager([debug]))
        found = rerank.postprocess_nodes(nodes, query_str="a cat")
    finally:
        root.event_handlers.remove(log)
    start, end = seen
    assert start.class_name() == "ReRankStartEvent"
    assert (start.query.query_str, start.top_n, start.model_name) == ("a cat", 3, "builtin")
    assert len(start.nodes) == 5
    assert end.class_name() == "ReRankEndEvent"
    assert end.nodes == found
    assert [len(pair) for pair in debug.get_event_pairs(CBEventType.RERANKING)] == [2]


@pytest.mark.parametrize("query", [{}, {"query_str": " "}, {"query_bundle": QueryBundle("")}])
async def test_a_query_is_needed(nodes: list[NodeWithScore], words: Words, query: Any) -> None:
    rerank = GenmmRerank(reranker=words)
    with pytest.raises(QueryError):
        rerank.postprocess_nodes(nodes, **query)
    with pytest.raises(QueryError):
        await rerank.apostprocess_nodes(nodes, **query)


def test_nothing_to_order(words: Words) -> None:
    assert GenmmRerank(reranker=words).postprocess_nodes([], query_str="a") == []
    only_empty = scored([TextNode(text="")])
    assert ids(GenmmRerank(reranker=words).postprocess_nodes(only_empty, query_str="a")) == ids(
        only_empty
    )


def test_options_make_the_core_reranker() -> None:
    rerank = GenmmRerank(model="some/model", verify="yesno", budget=3, strict=False, top_n=1)
    core = rerank._reranker
    assert isinstance(core, GenerativeMMReranker)
    assert (core.verify, core.strict) == ("yesno", False)
    again = GenmmRerank.from_dict(rerank.to_dict())
    assert (again.model, again.verify, again.budget, again.top_n) == ("some/model", "yesno", 3, 1)


@pytest.mark.parametrize(
    "options", [{"top_n": 0}, {"verify": "off"}, {"budget": "all"}, {"top_k": 3}]
)
def test_options_are_checked(options: Any) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        GenmmRerank(**options)


def test_other_options_are_checked() -> None:
    with pytest.raises(InputError, match="budget_ms"):
        GenmmRerank(budget_ms=-1)
    with pytest.raises(InputError, match="reranker is a str"):
        GenmmRerank(reranker="builtin")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [{"strict": False}, {"budget": None}, {"verify": "choice"}, {"model": "m"}, {"budget_ms": 5}],
)
def test_options_of_a_shared_reranker_are_refused(words: Words, options: Any) -> None:
    (name,) = options
    named = rf"{name} cannot be given beside reranker= .*GenerativeMMReranker\({name}="
    with pytest.raises(InputError, match=named):
        GenmmRerank(reranker=words, top_n=1, **options)


async def test_in_an_engine_after_another_retriever(nodes: list[NodeWithScore]) -> None:
    class Other(BaseRetriever):
        def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
            return [node for node in nodes if node.node_id != "address"]

    engine = RetrieverQueryEngine.from_args(
        Other(), llm=MockLLM(), node_postprocessors=[GenmmRerank(reranker=Words(), top_n=1)]
    )
    for response in (engine.query("a cat on a mat"), await engine.aquery("a cat on a mat")):
        assert ids(response.source_nodes) == ["image"]


async def test_after_this_packages_retriever(core: KeywordCore) -> None:
    retriever = GenerativeMMRetriever(core, similarity_top_k=7)
    nodes = await retriever.aretrieve("nothing")
    rerank = GenmmRerank(reranker=Words(), top_n=1)
    found = await asyncio.gather(
        *(rerank.apostprocess_nodes(nodes, query_str=q) for q in ("a cat", "a rocket"))
    )
    assert [ids(one) for one in found] == [["cat.jpg"], ["rocket.jpg"]]
