from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.types import (
    ChatMessage,
    ImageBlock,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.llms import MockFunctionCallingLLM
from llama_index.core.schema import ImageNode, NodeWithScore, QueryBundle, TextNode

from genmm_retriever.errors import QueryError
from genmm_retriever.schema import Item
from keyword_core import PICTURES, TEXTS, BatchingCore, KeywordCore, LoopWatch
from llama_index.retrievers.genmm import GenerativeMMRetriever, image_search_tool


@pytest.mark.parametrize("node_type", ["multimodal", "image"])
async def test_the_pictures_come_with_their_words(core: KeywordCore, node_type: Any) -> None:
    retriever = GenerativeMMRetriever(core, similarity_top_k=2, node_type=node_type)
    tool = image_search_tool(retriever)
    output = tool.call(query="coffee")
    text, picture, note = output.blocks
    assert isinstance(text, TextBlock)
    assert text.text == f"Result 1 (coffee.png, score 1.00): {PICTURES['coffee.png'][0]}"
    assert isinstance(picture, ImageBlock)
    assert picture.image is None, "the picture was read before anybody wanted it"
    source = retriever.retrieve("coffee")[0].metadata["source"]
    assert picture.resolve_image().read() == Path(source).read_bytes()
    assert isinstance(note, TextBlock)
    assert note.text.endswith(TEXTS["note-1"])
    assert (await tool.acall(query="coffee")).blocks == output.blocks


def test_the_schema_is_one_string(retriever: GenerativeMMRetriever) -> None:
    metadata = image_search_tool(retriever, name="photos", description="Finds photos.").metadata
    assert metadata.to_openai_tool()["function"]["name"] == "photos"
    assert metadata.description == "Finds photos."
    parameters = metadata.get_parameters_dict()
    assert parameters["required"] == ["query"]
    assert parameters["properties"]["query"]["type"] == "string"


async def test_an_empty_query_is_refused(retriever: GenerativeMMRetriever) -> None:
    tool = image_search_tool(retriever)
    with pytest.raises(QueryError, match="empty"):
        tool.call(query=" ")
    with pytest.raises(QueryError, match="empty"):
        await tool.acall(query=" ")


class Fixed(BaseRetriever):
    def __init__(self, nodes: list[Any]) -> None:
        super().__init__()
        self.nodes = nodes

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [NodeWithScore(node=node) for node in self.nodes]


def test_nodes_of_other_retrievers_and_addresses_are_not_fetched() -> None:
    data = base64.b64encode(b"encoded").decode()
    nodes = [
        ImageNode(id_="a", image_url="https://example.org/a.png"),
        ImageNode(id_="b", image=data),
        TextNode(id_="c", text="A note."),
    ]
    output = image_search_tool(Fixed(nodes)).call(query="x").blocks
    assert [type(block) for block in output] == [
        TextBlock, ImageBlock, TextBlock, ImageBlock, TextBlock,
    ]  # fmt: skip
    assert output[0].text == "Result 1 (a):"
    assert str(output[1].url) == "https://example.org/a.png"
    assert output[1].image is None
    assert output[3].resolve_image().read() == b"encoded"
    assert output[4].text == "Result 3 (c): A note."


def test_nothing_found_is_said() -> None:
    (block,) = image_search_tool(Fixed([])).call(query="x").blocks
    assert block.text == "Nothing was found."


async def test_concurrent_calls_leave_the_loop_free(items: list[Item]) -> None:
    core = BatchingCore(items, delay=0.1)
    tool = image_search_tool(GenerativeMMRetriever(core, similarity_top_k=1))
    async with LoopWatch() as watch:
        await asyncio.gather(*(tool.acall(query=query) for query in ("a cat", "a rocket")))
    assert core.batches == [2]
    assert watch.longest < 0.05


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")  # of workflows
async def test_an_agent_sees_the_picture(retriever: GenerativeMMRetriever) -> None:
    seen: list[Any] = []

    def answer(messages: Any, **_: Any) -> ChatMessage:
        return ChatMessage(role="assistant", blocks=blocks(messages))

    def blocks(messages: Any) -> list[Any]:
        shown = [b for m in messages for b in m.blocks if isinstance(b, ImageBlock)]
        if not shown:
            return [
                ToolCallBlock(
                    tool_call_id="1", tool_name="search_images", tool_kwargs={"query": "coffee"}
                )
            ]
        seen.extend(block.resolve_image().read() for block in shown)
        return [TextBlock(text="A cup of coffee.")]

    llm = MockFunctionCallingLLM(response_generator=answer)
    agent = FunctionAgent(tools=[image_search_tool(retriever)], llm=llm)
    response = await agent.run("What drink is there?")
    assert "A cup of coffee." in str(response)
    source = retriever.retrieve("coffee")[0].metadata["source"]
    assert seen[0] == Path(source).read_bytes()
