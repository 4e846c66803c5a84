from __future__ import annotations

import asyncio
import importlib.util
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_index.core.instrumentation as instrument
import pytest
from llama_index.core.base.base_multi_modal_retriever import MultiModalRetriever
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ImageBlock, TextBlock
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms.mock import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.tools import RetrieverTool
from PIL import Image

from genmm_retriever.errors import IndexNotFoundError, InputError, QueryError
from genmm_retriever.schema import Item
from keyword_core import PICTURES, TEXTS, BatchingCore, KeywordCore, LoopWatch
from llama_index.retrievers.genmm import GenerativeMMRetriever


def ids(nodes: list[NodeWithScore]) -> list[str]:
    return [node.node_id for node in nodes]


@contextmanager
def events() -> Iterator[list[Any]]:
    """The events that LlamaIndex's dispatcher hands out meanwhile."""
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


def test_class() -> None:
    bases = [base.__name__ for base in GenerativeMMRetriever.__mro__]
    assert BaseRetriever.__name__ in bases
    assert MultiModalRetriever.__name__ in bases


def test_package_leaves_the_namespace_open() -> None:
    # A regular package `llama_index` here would hide llama-index-core.
    for name in ("llama_index", "llama_index.retrievers"):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert len(list(spec.submodule_search_locations or ())) >= 1
    root = Path(__file__).parents[1] / "llama_index"
    assert not (root / "__init__.py").exists()
    assert not (root / "retrievers" / "__init__.py").exists()


def test_finds_the_picture_with_path_caption_and_score(retriever: GenerativeMMRetriever) -> None:
    first = retriever.retrieve("a cup of coffee")[0]
    assert first.node_id == "coffee.png"
    assert first.score == 1.0
    assert first.get_content() == PICTURES["coffee.png"][0]
    assert first.node.image_resource.path.is_file()
    assert first.node.image_resource.mimetype == "image/png"
    assert first.metadata["generated_id"] == "coffee, cup"
    assert first.metadata["verification"] == 1.0
    assert first.metadata["year"] == 2010


def test_nodes_are_sorted_and_all_different(retriever: GenerativeMMRetriever) -> None:
    retriever.similarity_top_k = 7
    nodes = retriever.retrieve("a man with a camera")
    scores = [node.score for node in nodes]
    assert scores == sorted(scores, reverse=True)
    assert len(set(ids(nodes))) == 7


@pytest.mark.parametrize("k", [1, 2, 5, 7])
async def test_top_k_is_exact_sync_and_async(core: KeywordCore, k: int) -> None:
    retriever = GenerativeMMRetriever(core, similarity_top_k=k)
    assert len(retriever.retrieve("nothing that any caption names")) == k
    assert len(await retriever.aretrieve("nothing that any caption names")) == k


def test_top_k_larger_than_the_corpus_gives_all(core: KeywordCore) -> None:
    retriever = GenerativeMMRetriever(core, similarity_top_k=1000)
    assert len(retriever.retrieve("a cat")) == len(PICTURES) + len(TEXTS)


def test_constructor_checks_its_arguments(
    core: KeywordCore, retriever: GenerativeMMRetriever
) -> None:
    with pytest.raises(ValueError, match="similarity_top_k is 0"):
        GenerativeMMRetriever(core, similarity_top_k=0)
    with pytest.raises(ValueError, match="similarity_top_k is -1"):
        retriever.similarity_top_k = -1
    with pytest.raises(ValueError, match="node_type is 'picture'"):
        GenerativeMMRetriever(core, node_type="picture")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="core is a str, not a retriever"):
        GenerativeMMRetriever("index")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="give a source or the path"):
        GenerativeMMRetriever.from_defaults()


@pytest.mark.parametrize("query", ["", " \n", QueryBundle(""), QueryBundle("", image_path="")])
async def test_empty_query_is_refused(retriever: GenerativeMMRetriever, query: Any) -> None:
    for ask in (retriever.retrieve, retriever.text_retrieve, retriever.text_to_image_retrieve):
        with pytest.raises(ValueError, match="the query is empty"):
            ask(query)
    with pytest.raises(ValueError, match="the query is empty"):
        await retriever.aretrieve(query)
    with pytest.raises(ValueError, match="no picture"):
        retriever.image_to_image_retrieve(QueryBundle("red"))


def test_image_and_composed_queries(
    retriever: GenerativeMMRetriever, core: KeywordCore, cat: str
) -> None:
    assert ids(retriever.retrieve(QueryBundle("", image_path=cat)))[0] == "cat.jpg"
    assert core.queries[-1].text is None
    composed = QueryBundle("with coffee on a table", image_path=cat)
    assert set(ids(retriever.retrieve(composed))[:2]) == {"cat.jpg", "coffee.png"}
    assert core.queries[-1].is_composed


async def test_multi_modal_methods(
    retriever: GenerativeMMRetriever, core: KeywordCore, cat: str
) -> None:
    composed = QueryBundle("with coffee", image_path=cat)
    cases = [
        ("text_retrieve", "coffee", "note-1", ("coffee", None, "text")),
        ("text_retrieve", composed, "note-1", ("with coffee", None, "text")),
        ("text_to_image_retrieve", "coffee", "coffee.png", ("coffee", None, "image")),
        ("_text_to_image_retrieve", composed, "coffee.png", ("with coffee", None, "image")),
        ("image_to_image_retrieve", cat, "cat.jpg", (None, cat, "image")),
        ("image_to_image_retrieve", composed, "cat.jpg", ("with coffee", cat, "image")),
        ("_image_to_image_retrieve", composed, "cat.jpg", ("with coffee", cat, "image")),
    ]
    for name, query, found, asked in cases:
        twin = name.replace("_", "_a", 1) if name.startswith("_") else f"a{name}"
        nodes = getattr(retriever, name)(query)
        assert nodes[0].node_id == found, name
        last = core.queries[-1]
        assert (last.text, last.image, last.kind) == asked, name
        assert await getattr(retriever, twin)(query) == nodes, twin


async def test_every_public_method_emits_one_pair_of_events(
    retriever: GenerativeMMRetriever, cat: str
) -> None:
    names = ["retrieve", "text_retrieve", "text_to_image_retrieve", "image_to_image_retrieve"]
    for name in names:
        query = cat if name.startswith("image") else "coffee"
        with events() as seen:
            nodes = getattr(retriever, name)(query)
            await getattr(retriever, f"a{name}")(query)
        kinds = [event.class_name() for event in seen if "Retrieval" in event.class_name()]
        assert kinds == ["RetrievalStartEvent", "RetrievalEndEvent"] * 2, name
        assert seen[1].nodes == nodes


async def test_eight_at_once_are_answered_together_and_leave_the_loop_free(
    items: list[Item],
) -> None:
    delay = 0.2
    core = BatchingCore(items, delay=delay)
    retriever = GenerativeMMRetriever(core, similarity_top_k=1)
    queries = ["a cat", "coffee", "a rocket", "a motorcycle"] * 2
    await retriever.aretrieve("a cat")
    core.batches.clear()
    async with LoopWatch() as watch:
        started = time.perf_counter()
        found = await asyncio.gather(*(retriever.aretrieve(query) for query in queries))
        seconds = time.perf_counter() - started
    first = ["cat.jpg", "coffee.png", "rocket.jpg", "motorcycle.png"]
    assert [ids(nodes) for nodes in found] == [[one] for one in first * 2]
    assert sum(core.batches) == 8
    assert len(core.batches) <= 2
    assert seconds < 8 * delay / 2
    assert watch.longest < 0.05
    assert threading.get_ident() not in core.threads


async def test_a_core_that_cannot_batch_is_asked_at_once(items: list[Item], cat: str) -> None:
    core = KeywordCore(items, delay=0.1)
    retriever = GenerativeMMRetriever(core, similarity_top_k=1)
    async with LoopWatch() as watch:
        await asyncio.gather(
            retriever.aretrieve("a cat"),
            retriever.atext_retrieve("coffee"),
            retriever.aimage_to_image_retrieve(cat),
        )
    assert core.most_at_once == 3, "the queries ran one after another"
    assert watch.longest < 0.05


async def test_batches(items: list[Item], cat: str) -> None:
    core = BatchingCore(items)
    retriever = GenerativeMMRetriever(core, similarity_top_k=2, filters={"year": [2010, 2011]})
    queries = ["coffee", QueryBundle("", image_path=cat), QueryBundle("a rocket")]
    with events() as seen:
        found = retriever.retrieve_batch(queries)
    assert [nodes[0].node_id for nodes in found] == ["coffee.png", "cat.jpg", "rocket.jpg"]
    assert core.batches == [3]
    assert [event.class_name() for event in seen] == ["RetrievalStartEvent"] * 3 + [
        "RetrievalEndEvent"
    ] * 3
    assert [event.nodes for event in seen[3:]] == found
    assert await retriever.aretrieve_batch(queries) == found
    assert retriever.retrieve_batch([]) == await retriever.aretrieve_batch([]) == []
    with pytest.raises(QueryError, match="the query is empty"):
        retriever.retrieve_batch(["a cat", " "])


def test_verify_and_kind_reach_the_core(core: KeywordCore) -> None:
    retriever = GenerativeMMRetriever(core, verify="off", kind="text", similarity_top_k=5)
    nodes = retriever.retrieve("coffee")
    assert ids(nodes) == ["note-1", "note-2"]
    assert nodes[0].metadata["verification"] is None
    assert core.verify_asked == ["off"]


@pytest.mark.parametrize(
    ("args", "kwargs"), [(("cats",), {}), ((), {"input": "cats"}), (("cats  ",), {})]
)
async def test_retriever_tool_asks_with_the_words_alone(
    retriever: GenerativeMMRetriever, core: KeywordCore, args: Any, kwargs: Any
) -> None:
    tool = RetrieverTool.from_defaults(retriever)
    tool.call(*args, **kwargs)
    await tool.acall(*args, **kwargs)
    assert [query.text for query in core.queries] == ["cats", "cats"]


class ColourLLM(MockLLM):
    """Sees: answers with the colour of the picture whose bytes it is given."""

    def __init__(self) -> None:
        super().__init__(is_chat_model=True)
        self._shown: list[Any] = []

    def _answer(self, messages: Any) -> ChatResponse:
        self._shown = [block for message in messages for block in message.blocks]
        pictures = [block for block in self._shown if isinstance(block, ImageBlock)]
        seen = [Image.open(block.resolve_image()).getpixel((0, 0)) for block in pictures]
        return ChatResponse(message=ChatMessage(role="assistant", content=f"I see {seen}."))

    def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        return self._answer(messages)

    async def achat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        return self._answer(messages)


async def test_a_multimodal_engine_answers_from_the_pictures_bytes(
    retriever: GenerativeMMRetriever,
) -> None:
    llm = ColourLLM()
    retriever.similarity_top_k = 1
    engine = RetrieverQueryEngine.from_args(retriever, llm=llm, multimodal=True)
    coffee = PICTURES["coffee.png"]
    answer = f"I see [{coffee[1]}]."
    assert str(engine.query("a cup of coffee")) == answer
    assert str(await engine.aquery("a cup of coffee")) == answer
    texts = "\n".join(block.text for block in llm._shown if isinstance(block, TextBlock))
    assert coffee[0] in texts
    assert "a cup of coffee" in texts
    assert "verification" not in texts
    (picture,) = (block for block in llm._shown if isinstance(block, ImageBlock))
    source = retriever.retrieve("a cup of coffee")[0].metadata["source"]
    assert picture.resolve_image().read() == Path(source).read_bytes()


def test_missing_index_is_named(tmp_path: Path) -> None:
    pytest.importorskip("genmm_retriever.retriever", reason="the core class is not there")
    with pytest.raises(IndexNotFoundError, match="nowhere"):
        GenerativeMMRetriever.from_defaults(path=tmp_path / "nowhere")


def test_bad_picture_is_an_input_error(retriever: GenerativeMMRetriever) -> None:
    with pytest.raises(QueryError, match=r"absent\.png"):
        retriever.image_to_image_retrieve("absent.png")


def test_k_is_called_similarity_top_k_here(items: list[Item], tmp_path: Path) -> None:
    for make in (
        lambda: GenerativeMMRetriever.from_index(tmp_path, k=3),
        lambda: GenerativeMMRetriever.from_images(items, k=3),
        lambda: GenerativeMMRetriever.from_defaults(path=tmp_path, k=3),
    ):
        with pytest.raises(InputError, match=r"k is not asked here .*similarity_top_k=3"):
            make()


@pytest.mark.parametrize("value", ["x", 0, 10_001, 1.5, None])
def test_similarity_top_k_is_checked(core: KeywordCore, value: Any) -> None:
    with pytest.raises(InputError, match=r"similarity_top_k is .* from 1 to 10000"):
        GenerativeMMRetriever(core, similarity_top_k=value)


def test_filters_that_are_none_are_one_clear_error(core: KeywordCore) -> None:
    with pytest.raises(QueryError, match=r"^filters is 'year=1' \(give fields"):
        GenerativeMMRetriever(core, filters="year=1")  # type: ignore[arg-type]
    nested = GenerativeMMRetriever(core, filters={"a": {"b": 1}})
    for ask in (nested.retrieve, nested.text_retrieve):
        with pytest.raises(QueryError, match=r"^the filter 'a' is {'b': 1} \(give"):
            ask("a dog")


async def test_the_letters_of_a_single_query_are_not_asked(
    retriever: GenerativeMMRetriever,
) -> None:
    for query in ("a dog", QueryBundle("a dog")):
        with pytest.raises(QueryError, match="the queries are a single one"):
            retriever.retrieve_batch(query)  # type: ignore[arg-type]
        with pytest.raises(QueryError, match="the queries are a single one"):
            await retriever.aretrieve_batch(query)  # type: ignore[arg-type]
