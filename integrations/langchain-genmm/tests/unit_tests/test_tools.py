from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import ToolMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import ToolException
from langchain_core.utils.function_calling import convert_to_openai_tool
from PIL import Image
from pydantic import ValidationError

from genmm_retriever.errors import ImageError
from genmm_retriever.schema import Item
from keyword_core import PICTURES, TEXTS, BatchingCore, LoopWatch
from langchain_genmm import (
    GenerativeMMRetriever,
    create_image_search_tool,
    documents_to_content_blocks,
)


def called(query: str) -> dict[str, Any]:
    return {"name": "search_images", "args": {"query": query}, "id": "1", "type": "tool_call"}


async def test_the_pictures_come_with_their_words(retriever: GenerativeMMRetriever) -> None:
    retriever.k = 2
    tool = create_image_search_tool(retriever)
    message = tool.invoke(called("coffee"))
    assert isinstance(message, ToolMessage)
    text, picture, note = message.content
    assert text["text"] == f"Result 1 (coffee.png, score 1.00): {PICTURES['coffee.png'][0]}"
    source = Path(message.artifact[0].metadata["source"])
    assert base64.b64decode(picture["base64"]) == source.read_bytes()
    assert picture["mime_type"] == "image/png"
    assert note["text"].endswith(TEXTS["note-1"])
    assert message.artifact == retriever.invoke("coffee")
    assert [block["type"] for block in message.content_blocks] == ["text", "image", "text"]
    again = await tool.ainvoke(called("coffee"))
    assert again.artifact == message.artifact
    assert again.content[1]["base64"] == picture["base64"]


def test_the_schema_is_flat_and_strict(retriever: GenerativeMMRetriever) -> None:
    tool = create_image_search_tool(retriever, name="photos", description="Finds photos.")
    function = convert_to_openai_tool(tool, strict=True)["function"]
    assert (function["name"], function["description"]) == ("photos", "Finds photos.")
    assert function["strict"] is True
    parameters = function["parameters"]
    assert list(parameters["properties"]) == parameters["required"] == ["query"]
    assert parameters["properties"]["query"]["type"] == "string"
    assert parameters["additionalProperties"] is False
    assert "$defs" not in parameters


async def test_bad_input_is_told_to_the_model_or_raised(retriever: GenerativeMMRetriever) -> None:
    tool = create_image_search_tool(retriever)
    message = tool.invoke(called("  "))
    assert message.status == "error"
    assert "the query is empty" in message.content
    assert (await tool.ainvoke(called(""))).status == "error"
    strict = create_image_search_tool(retriever, handle_tool_error=False)
    with pytest.raises(ToolException, match="the query is empty"):
        strict.invoke({"query": ""})
    with pytest.raises(ToolException, match="the query is empty"):
        await strict.ainvoke({"query": ""})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "`query` is missing (say in words what to look for)"),
        ({"query": 5}, "`query` must be a string (say in words what to look for)"),
        ({"query": "a", "k": 0}, "there is no argument `k` (the only one is `query`)"),
    ],
)
async def test_wrong_arguments_are_told_to_the_model_or_raised(
    retriever: GenerativeMMRetriever, arguments: dict[str, Any], told: str
) -> None:
    call = {"name": "search_images", "args": arguments, "id": "1", "type": "tool_call"}
    tool = create_image_search_tool(retriever)
    for message in (tool.invoke(call), await tool.ainvoke(call)):
        assert (message.status, message.content) == ("error", told)
    assert tool.invoke(arguments) == told
    with pytest.raises(ValidationError, match=next(iter(set(arguments) - {"query"}), "query")):
        create_image_search_tool(retriever, handle_tool_error=False).invoke(call)


async def test_a_lost_picture_is_an_error_of_the_tool(
    retriever: GenerativeMMRetriever, items: list[Item]
) -> None:
    class Lost(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
            metadata = {"source": "/gone/cat.jpg", "mime_type": "image/jpeg"}
            return [Document("a cat", metadata=metadata)]

    tool = create_image_search_tool(Lost(), handle_tool_error=False)
    with pytest.raises(ToolException, match=r"/gone/cat\.jpg"):
        tool.invoke({"query": "a cat"})
    with pytest.raises(ToolException, match=r"/gone/cat\.jpg"):
        await tool.ainvoke({"query": "a cat"})


def test_nothing_found_is_said() -> None:
    class Empty(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
            return []

    message = create_image_search_tool(Empty()).invoke(called("a cat"))
    assert message.content[0]["text"] == "Nothing was found."
    assert message.artifact == []


async def test_the_loop_stays_free(items: list[Item]) -> None:
    core = BatchingCore(items, delay=0.1)
    tool = create_image_search_tool(GenerativeMMRetriever(core=core, k=1))
    await tool.ainvoke(called("a cat"))
    async with LoopWatch() as watch:
        await tool.ainvoke(called("a cat"))
    assert watch.longest < 0.05


def document_of(path: Path, mime_type: str) -> Document:
    return Document("", metadata={"source": str(path), "mime_type": mime_type})


@pytest.mark.parametrize(
    ("name", "size", "given", "shown"),
    [
        ("a.png", (300, 100), "image/png", "image/png"),
        ("a.jpg", (300, 100), "image/jpeg", "image/jpeg"),
        ("a.tif", (40, 30), "image/tiff", "image/png"),
    ],
)
def test_large_and_uncommon_pictures_are_made_small_and_common(
    tmp_path: Path, name: str, size: tuple[int, int], given: str, shown: str
) -> None:
    Image.new("RGB", size, "red").save(tmp_path / name)
    (block,) = documents_to_content_blocks([document_of(tmp_path / name, given)], max_side=60)
    data = base64.b64decode(block["base64"])
    with Image.open(BytesIO(data)) as image:
        assert image.size == ((60, 20) if size[0] > 60 else size)
        assert Image.MIME[image.format or ""] == block["mime_type"] == shown
    (raw,) = documents_to_content_blocks([document_of(tmp_path / name, given)])
    assert base64.b64decode(raw["base64"]) == (tmp_path / name).read_bytes()


def test_a_small_common_picture_is_left_as_it_is_and_a_broken_one_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (60, 20), "red").save(path)
    (block,) = documents_to_content_blocks([document_of(path, "image/png")], max_side=60)
    assert base64.b64decode(block["base64"]) == path.read_bytes()
    path.write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"a\.png cannot be shown"):
        documents_to_content_blocks([document_of(path, "image/png")], max_side=60)
