"""A tool that lets an agent search and see the pictures it found."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from langchain_core.messages.content import ContentBlock, create_text_block
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import StructuredTool, ToolException
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.v1 import ValidationError as ValidationErrorV1

from genmm_retriever.errors import InputError
from langchain_genmm.documents import documents_to_content_blocks

DESCRIPTION = (
    "Searches a collection of pictures and texts by a description in words, and shows what was"
    " found, best first: the caption or text of each result, and the picture itself."
)


class SearchImagesInput(BaseModel):
    """What a model fills in."""

    # An argument that is passed over would be believed to have been heeded.
    model_config = ConfigDict(extra="forbid")

    query: str = Field(description="What to look for, in words.")


def create_image_search_tool(
    retriever: BaseRetriever,
    *,
    name: str = "search_images",
    description: str = DESCRIPTION,
    max_side: int | None = 1024,
    handle_tool_error: bool = True,
) -> StructuredTool:
    """A tool whose result is text and image blocks, for models that see.

    LangChain's own `create_retriever_tool` gives text alone.

    Args:
        retriever: Whose documents are shown; as many as it gives.
        name: What the model calls it.
        description: What the model is told of it.
        max_side: See `documents_to_content_blocks`.
        handle_tool_error: Tell the model what is wrong with its input; False raises a
            `ToolException`, which a `ToolNode` passes on and so ends the agent's run, or
            pydantic's `ValidationError` for arguments that the schema does not have.

    Returns:
        A tool with one argument, `query`. The content of its message is a text block and an
        image block for each document, its artifact the documents.

    Examples:
        >>> tool = create_image_search_tool(retriever)  # doctest: +SKIP
        >>> tool.invoke({"query": "a cat"})[0]["type"]  # doctest: +SKIP
        'text'
    """

    def search(
        query: str, callbacks: Callbacks = None
    ) -> tuple[list[ContentBlock], list[Document]]:
        try:
            found = retriever.invoke(_words(query), config={"callbacks": callbacks})
            return _shown(found, max_side), found
        except InputError as error:
            raise ToolException(str(error)) from error

    async def asearch(
        query: str, callbacks: Callbacks = None
    ) -> tuple[list[ContentBlock], list[Document]]:
        try:
            found = await retriever.ainvoke(_words(query), config={"callbacks": callbacks})
            return await asyncio.to_thread(_shown, found, max_side), found
        except InputError as error:
            raise ToolException(str(error)) from error

    return StructuredTool(
        name=name,
        description=description,
        func=search,
        coroutine=asearch,
        args_schema=SearchImagesInput,
        response_format="content_and_artifact",
        handle_tool_error=handle_tool_error,
        handle_validation_error=_wrong_arguments if handle_tool_error else False,
    )


def _wrong_arguments(error: ValidationError | ValidationErrorV1) -> str:
    """What a model is told of arguments that the schema does not have, a line for each."""
    lines = []
    for one in error.errors():
        name = ".".join(str(part) for part in one["loc"])
        if one["type"] == "missing":
            lines.append(f"`{name}` is missing (say in words what to look for)")
        elif one["type"] == "extra_forbidden":
            lines.append(f"there is no argument `{name}` (the only one is `query`)")
        else:
            lines.append(f"`{name}` must be a string (say in words what to look for)")
    return "\n".join(lines)


def _words(query: str) -> str:
    if not query.strip():
        raise ToolException("the query is empty (say in words what to look for)")
    return query


def _shown(documents: Sequence[Document], max_side: int | None) -> list[Any]:
    if not documents:
        return [create_text_block("Nothing was found.")]
    blocks: list[Any] = []
    for place, document in enumerate(documents, start=1):
        score = document.metadata.get("score")
        known = f", score {score:.2f}" if isinstance(score, float) else ""
        words = f"Result {place} ({document.id}{known}): {document.page_content}".rstrip()
        shown = document.model_copy(update={"page_content": words})
        blocks += documents_to_content_blocks([shown], max_side=max_side)
    return blocks
