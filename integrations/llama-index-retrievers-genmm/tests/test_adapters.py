from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_index.core.instrumentation as instrument
import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms.mock import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine, TransformQueryEngine
from llama_index.core.response_synthesizers.no_text import NoText
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.tools import QueryEngineTool

from genmm_retriever.errors import ImageError, InputError, QueryError, StorageError
from genmm_retriever.querying import (
    AdaptedRetriever,
    Answerer,
    ComposedQueryAdapter,
    QueryExpander,
    QueryRewriter,
    ReasoningRetriever,
    adapted,
)
from genmm_retriever.schema import Item, Query
from keyword_core import LoopWatch, ScriptedWriter, SearcherCore, Words
from llama_index.retrievers.genmm import (
    GenerativeMMRetriever,
    GenmmQueryBundle,
    GenmmQueryTransform,
    GenmmRerank,
    GroundedQueryEngine,
    GroundedSynthesizer,
)
from llama_index.retrievers.genmm.queries import to_query

WORDY = "Hello! Could you please find me the picture that I saw, of a rocket at night? Thanks!"
SHORT = {"rocket at night": {"constraints": "rocket, night"}}
REWRITTEN = "rocket, night"
COMPOSED = {
    "with coffee": {"keep": ["cat"], "change": ["coffee"]},
    "coffee": {"target": "a cat beside coffee"},
}
ANSWER = {"found": True, "answer": "A spoon.", "sources": [1]}
NOT_FOUND = {"found": False, "answer": "", "sources": []}


def ids(nodes: list[NodeWithScore]) -> list[str]:
    return [node.node_id for node in nodes]


@pytest.fixture
def searcher(items: list[Item]) -> SearcherCore:
    return SearcherCore(items)


@contextmanager
def events() -> Iterator[list[Any]]:
    seen: list[Any] = []

    class Log(BaseEventHandler):
        def handle(self, event: Any, **kwargs: Any) -> None:
            seen.append(event)

    root, log = instrument.get_dispatcher(), Log()
    root.add_event_handler(log)
    try:
        yield seen
    finally:
        root.event_handlers.remove(log)


class Fixed(BaseRetriever):
    """Another retriever, whose nodes are always the same."""

    def __init__(self, nodes: list[NodeWithScore]) -> None:
        super().__init__()
        self._found = nodes

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self._found


@pytest.fixture
def notes() -> Fixed:
    texts = ["Two wheels and an engine.", "", "A spoon lies beside the cup."]
    return Fixed([NodeWithScore(node=TextNode(text=text), score=0.4) for text in texts])


def test_importing_the_package_loads_no_deep_learning_library() -> None:
    code = (
        "import sys, llama_index.retrievers.genmm as g; g.GenmmQueryBundle; "
        "assert 'torch' not in sys.modules; g.GroundedSynthesizer; g.GenmmQueryTransform"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# The transform.


async def test_a_transform_rewrites_before_any_retriever(searcher: SearcherCore) -> None:
    writer = ScriptedWriter(SHORT)
    transform = GenmmQueryTransform([QueryRewriter(writer)], searcher)
    bundle = transform.run(WORDY)
    assert bundle.query_str == REWRITTEN
    assert bundle.embedding_strs == [REWRITTEN], "embedding retrievers would embed the old words"
    assert searcher.held == 0, "the core was held for a model that is not its own"
    (step,) = bundle.query.steps
    assert (step.adapter, step.changed) == ("rewrite", True)
    again = await transform.arun(WORDY)
    assert (again.query_str, again.embedding_strs) == (REWRITTEN, [REWRITTEN])


async def test_arun_leaves_the_loop_free() -> None:
    writer = ScriptedWriter(SHORT, delay=0.1)
    transform = GenmmQueryTransform([QueryRewriter(writer)])
    async with LoopWatch() as watch:
        await transform.arun(WORDY)
    assert watch.longest < 0.05
    assert threading.get_ident() not in writer.threads


def test_what_is_left_alone_keeps_its_embedding() -> None:
    transform = GenmmQueryTransform([QueryRewriter(ScriptedWriter({}))])
    bundle = transform.run(QueryBundle("a cat", custom_embedding_strs=["cats"], embedding=[0.5]))
    assert (bundle.query_str, bundle.embedding_strs) == ("a cat", ["cats"])
    assert bundle.embedding == [0.5]


def test_a_local_model_is_held_while_it_writes(searcher: SearcherCore) -> None:
    writer = ScriptedWriter(SHORT)
    writer.prefill = None  # type: ignore[attr-defined]  # as a model that computes here has
    GenmmQueryTransform([QueryRewriter(writer)], searcher).run(WORDY)
    assert searcher.held == 1


async def test_in_an_engine_the_whole_query_reaches_the_core(
    searcher: SearcherCore, cat: str
) -> None:
    transform = GenmmQueryTransform([ComposedQueryAdapter(ScriptedWriter(COMPOSED))])
    retriever = GenerativeMMRetriever(searcher, 2, filters={"tags": "drawn"})
    engine = TransformQueryEngine(
        RetrieverQueryEngine(retriever, NoText(llm=MockLLM())), query_transform=transform
    )
    query = Query(
        text="with coffee",
        image=cat,
        filters={"year": [2010, 2011]},
        kind="image",
        ids=("cat.jpg", "coffee.png", "note-1"),
    )
    bundle = GenmmQueryBundle.from_query(query)
    responses = [engine.query(bundle), await engine.aquery(bundle)]
    for response, asked in zip(responses, searcher.queries, strict=True):
        assert set(ids(response.source_nodes)) == {"cat.jpg", "coffee.png"}
        assert asked.is_composed
        assert asked.context == "a cat beside coffee"
        assert asked.filters == {"tags": "drawn", "year": [2010, 2011]}
        assert (asked.kind, asked.ids) == (query.kind, query.ids)
    assert ids(engine.retrieve(bundle)) == ids(responses[0].source_nodes)
    plain = QueryBundle("with coffee", image_path=cat)
    engine.query(plain)
    assert searcher.queries[-1].is_composed
    assert searcher.queries[-1].context == "a cat beside coffee"
    assert engine.get_prompts() == {}


def test_transforms_can_be_chained(searcher: SearcherCore) -> None:
    first = GenmmQueryTransform([QueryRewriter(ScriptedWriter(SHORT))])
    second = GenmmQueryTransform([QueryRewriter(ScriptedWriter({"": {"constraints": "moon"}}))])
    given = GenmmQueryBundle.from_query(Query(text=WORDY, ids=("rocket.jpg",)))
    bundle = second.run(first.run(given))
    assert bundle.query_str == REWRITTEN
    assert bundle.query.ids == ("rocket.jpg",)
    assert bundle.query.rewritings == (WORDY,)


def test_transforms_need_an_adapter_and_a_query() -> None:
    with pytest.raises(InputError, match="no query adapter"):
        GenmmQueryTransform([])
    transform = GenmmQueryTransform([ComposedQueryAdapter(ScriptedWriter({}))])
    with pytest.raises(QueryError, match="empty"):
        transform.run(" ")
    with pytest.raises(ImageError, match=r"absent\.png"):
        transform.run(QueryBundle("in red", image_path="absent.png"))


# The bundle.


def test_every_method_asks_the_whole_query(searcher: SearcherCore, cat: str) -> None:
    retriever = GenerativeMMRetriever(searcher, 1)
    picture = Path(cat).read_bytes()
    query = Query(text="coffee", image=picture, filters={"year": 2010}, context="cup", kind="text")
    bundle = GenmmQueryBundle.from_query(query)
    retriever.retrieve(bundle)
    retriever.retrieve_batch([bundle])
    retriever.image_to_image_retrieve(bundle)
    retriever.text_retrieve(bundle)
    retriever.text_to_image_retrieve(bundle)
    assert [(asked.image, asked.kind) for asked in searcher.queries] == [
        (picture, "text"),
        (picture, "text"),
        (picture, "image"),
        (None, "text"),
        (None, "image"),
    ]
    assert all(asked.filters == {"year": 2010} for asked in searcher.queries)
    assert all(asked.context == "cup" for asked in searcher.queries)
    only_picture = GenmmQueryBundle.from_query(Query(image=picture))
    assert ids(retriever.image_to_image_retrieve(only_picture)) == ["cat.jpg"]
    with pytest.raises(QueryError, match="empty"):
        retriever.text_retrieve(only_picture)
    with pytest.raises(QueryError, match="no picture"):
        retriever.image_to_image_retrieve(GenmmQueryBundle.from_query(Query(text="a cat")))


def test_a_bundle_without_a_query_is_a_plain_one() -> None:
    assert to_query(GenmmQueryBundle("a cat"), "image", {}) == Query(text="a cat", kind="image")


@pytest.mark.parametrize("image", [None, "cat.jpg", b"\x89PNG"])
def test_bundles_can_be_written_without_the_pictures_bytes(image: Any) -> None:
    query = Query(text="a dog", image=image, ids=("1",), filters={"year": [1, 2]})
    written = json.dumps(GenmmQueryBundle.from_query(query).to_dict())
    assert "PNG" not in written
    again = GenmmQueryBundle.from_dict(json.loads(written))
    kept = query if isinstance(image, str) else query.model_copy(update={"image": None})
    assert again.query == kept
    assert GenmmQueryBundle.from_dict(GenmmQueryBundle.from_query(
        Query(image=b"\x89PNG")).to_dict()).query is None  # fmt: skip


def test_rerank_holds_nodes_against_the_query(searcher: SearcherCore) -> None:
    reranker = Words()
    nodes = GenerativeMMRetriever(searcher, 3).retrieve("coffee")
    bundle = GenmmQueryBundle.from_query(Query(text="a rocket", context="at night"))
    GenmmRerank(reranker=reranker).postprocess_nodes(nodes, bundle)
    assert reranker.asked[0][0].text == "a rocket"


# Adapters within the core.


@pytest.fixture(params=["adapted", "reasoning", "both"])
def core(request: pytest.FixtureRequest, searcher: SearcherCore) -> Any:
    writer = ScriptedWriter(SHORT | {"": {"context": "rocket on its pad"}})
    searcher.model = writer
    if request.param == "reasoning":
        return ReasoningRetriever(searcher, rounds=2)
    if request.param == "both":
        return adapted(searcher, ["rewrite", "expand:2", "reason:2"])
    return AdaptedRetriever(
        searcher, [QueryRewriter(writer)], expander=QueryExpander(writer, number=2)
    )


@pytest.mark.parametrize("k", [1, 5])
async def test_a_core_with_adapters_does_what_a_core_does(
    core: Any, searcher: SearcherCore, cat: str, k: int
) -> None:
    retriever = GenerativeMMRetriever(core, k, filters={"tags": "drawn"}, verify="off")
    nodes = retriever.retrieve(WORDY)
    assert len(nodes) == k
    assert nodes[0].node_id == "rocket.jpg"
    assert [node.node_id for node in await retriever.aretrieve(WORDY)] == ids(nodes)
    assert nodes[0].metadata["steps"]
    assert json.dumps(nodes[0].metadata)
    assert "steps" not in nodes[0].node.get_content("llm")
    batch = retriever.retrieve_batch([WORDY, QueryBundle("", image_path=cat)])
    assert [found[0].node_id for found in batch] == ["rocket.jpg", "cat.jpg"]
    assert [ids(found) for found in await retriever.aretrieve_batch([WORDY] * 3)] == [
        ids(nodes)
    ] * 3
    assert retriever.retrieve_batch([]) == []
    assert all(asked.filters == {"tags": "drawn"} for asked in searcher.queries)
    assert set(searcher.verify_asked) == {"off"}
    assert retriever.text_retrieve("coffee") == []
    assert ids(retriever.image_to_image_retrieve(cat))[0] == "cat.jpg"
    retriever.close()
    assert searcher.closed


async def test_a_core_with_adapters_leaves_the_loop_free(items: list[Item]) -> None:
    writer = ScriptedWriter(SHORT, delay=0.1)
    core = AdaptedRetriever(SearcherCore(items, delay=0.05), [QueryRewriter(writer)])
    retriever = GenerativeMMRetriever(core, 1)
    async with LoopWatch() as watch:
        found = await asyncio.gather(*(retriever.aretrieve(WORDY) for _ in range(3)))
    assert [ids(nodes) for nodes in found] == [["rocket.jpg"]] * 3
    assert watch.longest < 0.05


def test_persist_refuses_adapters_and_says_what_to_do(core: Any, tmp_path: Path) -> None:
    retriever = GenerativeMMRetriever(core, 2)
    with pytest.raises(StorageError, match=r"adapters of \w+ cannot.*retriever\.core\.retriever"):
        retriever.persist(tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_persist_after_the_adapters_were_taken_off(items: list[Item], tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "manifest.json").write_text("{}")
    searcher = SearcherCore(items, ScriptedWriter(SHORT), path=tmp_path / "index")
    retriever = GenerativeMMRetriever(adapted(searcher, ["rewrite"]), 2)
    retriever.core = retriever.core.retriever  # type: ignore[attr-defined]
    retriever.persist(tmp_path / "kept")
    assert (tmp_path / "kept" / "index" / "manifest.json").is_file()


# Grounded answers.


async def test_the_engine_answers_with_what_it_rests_on(searcher: SearcherCore) -> None:
    writer = ScriptedWriter({"What lies": ANSWER})
    engine = GroundedQueryEngine(Answerer(searcher, writer, k=2), filters={"tags": "drawn"})
    question = "What lies beside the cup of coffee?"
    for response in (engine.query(question), await engine.aquery(question)):
        assert str(response) == "A spoon."
        (source,) = response.source_nodes
        assert source.node_id == "coffee.png"
        assert source.node.image_resource.path.is_file()
        told = response.metadata
        assert (told["found"], told["reason"], told["quoted"]) == (True, None, False)
        assert told["confidence"] == source.score
        assert json.dumps(told)
    assert writer.pictures == [2, 2], "the pictures of both sources were not shown"
    assert searcher.queries[-1].filters == {"tags": "drawn"}
    assert len(engine.retrieve(QueryBundle(question))) == 2
    assert str(QueryEngineTool.from_defaults(engine).call(question)) == "A spoon."


@pytest.mark.parametrize(
    ("said", "threshold", "reason"),
    [
        (NOT_FOUND, None, "finds no answer in the sources"),
        (ANSWER | {"sources": []}, None, "names none of the sources"),
        (ANSWER, 0.9, "less than 0.90"),
    ],
)
async def test_what_is_not_found_is_said(
    searcher: SearcherCore, said: Any, threshold: float | None, reason: str
) -> None:
    answerer = Answerer(searcher, ScriptedWriter({"": said}), k=2, threshold=threshold)
    engine = GroundedQueryEngine(answerer)
    for response in (engine.query("What coffee machine is it?"), await engine.aquery("What is?")):
        assert str(response).startswith("Not found: ")
        assert reason in response.metadata["reason"]
        assert response.metadata["found"] is False
        assert len(response.source_nodes) == 2, "what was looked at"


def test_a_threshold_without_verification_is_refused(searcher: SearcherCore) -> None:
    answerer = Answerer(searcher, ScriptedWriter({}), threshold=0.9)
    with pytest.raises(InputError, match="needs verification"):
        GroundedQueryEngine(answerer, verify="off")


def test_nothing_matches(searcher: SearcherCore) -> None:
    engine = GroundedQueryEngine(Answerer(searcher, ScriptedWriter({})), filters={"year": 1900})
    response = engine.query("a cat")
    assert str(response) == "Not found: no item"
    assert response.source_nodes == []


def test_the_builtin_model_quotes(searcher: SearcherCore) -> None:
    searcher.model = ScriptedWriter({}, style="builtin")
    response = GroundedQueryEngine(Answerer(searcher)).query("a cup of coffee")
    assert str(response) == "a cup of coffee with a spoon on a table"
    assert response.metadata["quoted"]
    assert ids(response.source_nodes) == ["coffee.png"]


def test_a_transformed_question_is_answered_as_it_was_asked(
    searcher: SearcherCore, items: list[Item]
) -> None:
    writer = ScriptedWriter({"Answer the question": ANSWER} | SHORT)
    engine = TransformQueryEngine(
        GroundedQueryEngine(Answerer(searcher, writer, k=1)),
        GenmmQueryTransform([QueryRewriter(writer)]),
    )
    response = engine.query(WORDY)
    assert ids(response.source_nodes) == ["rocket.jpg"]
    assert searcher.queries[-1].text == REWRITTEN
    assert "that I saw, of a rocket" in writer.prompts[-1]


async def test_a_synthesizer_answers_from_any_retrievers_nodes(notes: Fixed) -> None:
    writer = ScriptedWriter({"What lies": ANSWER | {"sources": [2]}})
    engine = RetrieverQueryEngine(notes, GroundedSynthesizer(Answerer(None, writer)))
    for response in (engine.query("What lies there?"), await engine.aquery("What lies there?")):
        assert str(response) == "A spoon."
        assert [node.get_content() for node in response.source_nodes] == [
            "A spoon lies beside the cup."
        ], "the empty node before it must not shift the numbers"
        assert response.metadata["confidence"] is None


def test_scores_of_a_verifier_are_held_against_the_threshold(notes: Fixed) -> None:
    writer = ScriptedWriter({"": ANSWER})
    answerer = Answerer(None, writer, threshold=0.5)
    nodes = notes.retrieve("x")
    assert GroundedSynthesizer(answerer).synthesize("What?", nodes).metadata["found"]
    held = GroundedSynthesizer(answerer, verified_scores=True).synthesize("What?", nodes)
    assert "0.40, less than 0.50" in str(held)


async def test_a_synthesizer_looks_at_pictures(searcher: SearcherCore, cat: str) -> None:
    writer = ScriptedWriter({"What": ANSWER})
    synthesizer = GroundedSynthesizer(Answerer(searcher, writer))
    nodes = GenerativeMMRetriever(searcher, 2, node_type="image").retrieve("coffee")
    more = [NodeWithScore(node=TextNode(text="before", id_="before"))]
    bundle = QueryBundle("What is beside it?", image_path=cat)
    response = await synthesizer.asynthesize(bundle, nodes, more)
    assert writer.pictures == [sum(n.metadata["kind"] == "image" for n in nodes) + 1]
    assert ids(response.source_nodes) == [nodes[0].node_id, "before"]
    assert "source_nodes" not in response.metadata


async def test_a_synthesizer_is_polite(notes: Fixed) -> None:
    writer = ScriptedWriter({"What": ANSWER}, delay=0.1)
    synthesizer = GroundedSynthesizer(Answerer(None, writer))
    async with LoopWatch() as watch:
        await synthesizer.asynthesize("What?", notes.retrieve("x"))
    assert watch.longest < 0.05
    assert str(synthesizer.synthesize("What?", [])) == "Not found: no item"
    assert synthesizer.get_response("What?", ["A spoon.", " "]) == "A spoon."
    assert await synthesizer.aget_response("What?", []) == "Not found: no item"
    with pytest.raises(QueryError, match="empty"):
        synthesizer.synthesize(" ", [])
    with pytest.raises(InputError, match="GroundedSynthesizer"):
        GroundedQueryEngine(Answerer(None, writer))


async def test_events_and_callbacks_tell_of_the_whole_way(searcher: SearcherCore) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    answerer = Answerer(searcher, ScriptedWriter({"": ANSWER}))
    engine = GroundedQueryEngine(answerer, callback_manager=CallbackManager([debug]))
    with events() as seen:
        response = engine.query("coffee")
        await engine.aquery("coffee")
    assert [event.class_name().removesuffix("Event") for event in seen] == [
        "QueryStart",
        "RetrievalStart",
        "RetrievalEnd",
        "SynthesizeStart",
        "SynthesizeEnd",
        "QueryEnd",
    ] * 2
    assert seen[4].response == response
    for kind in (CBEventType.QUERY, CBEventType.RETRIEVE, CBEventType.SYNTHESIZE):
        assert len(debug.get_event_pairs(kind)) == 2, kind


def test_events_with_a_whole_query_can_be_recorded(searcher: SearcherCore, cat: str) -> None:
    bundle = GenmmQueryBundle.from_query(Query(text="coffee", image=Path(cat).read_bytes()))
    with events() as seen:
        GroundedQueryEngine(Answerer(searcher, ScriptedWriter({"": ANSWER}))).query(bundle)
    for event in seen:
        assert event.model_dump()
    asked = [event.query for event in seen if hasattr(event, "query")]
    assert all(one.query.image == bundle.query.image for one in asked), "events change the query"
