"""A tool that lets an agent search and see the pictures it found."""

from __future__ import annotations

import asyncio

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.types import ImageBlock, TextBlock
from llama_index.core.schema import MetadataMode, NodeWithScore
from llama_index.core.tools import FunctionTool
from pydantic import AnyUrl

from genmm_retriever.corpus.references import local_path
from genmm_retriever.schema import ImageRef
from llama_index.retrievers.genmm.nodes import image_of

DESCRIPTION = (
    "Searches a collection of pictures and texts by a description in words, and shows what was"
    " found, best first: the caption or text of each result, and the picture itself."
)


def image_search_tool(
    retriever: BaseRetriever, *, name: str = "search_images", description: str = DESCRIPTION
) -> FunctionTool:
    """A `FunctionTool` whose result is text and image blocks, for models that see.

    LlamaIndex's own `RetrieverTool` gives text alone.

    Args:
        retriever: Whose nodes are shown; as many as it gives.
        name: What the model calls it.
        description: What the model is told of it.

    Returns:
        A tool with one argument, `query`; its output has a `TextBlock` for each node and an
        `ImageBlock` after it if the node has a picture.

    Examples:
        >>> tool = image_search_tool(retriever)  # doctest: +SKIP
        >>> [block.block_type for block in tool.call(query="a cat").blocks]  # doctest: +SKIP
        ['text', 'image']
    """

    def search(query: str) -> list[TextBlock | ImageBlock]:
        return to_blocks(retriever.retrieve(query))

    async def asearch(query: str) -> list[TextBlock | ImageBlock]:
        nodes = await retriever.aretrieve(query)
        # A block of encoded bytes looks into them for their type.
        return await asyncio.to_thread(to_blocks, nodes)

    return FunctionTool.from_defaults(
        fn=search, async_fn=asearch, name=name, description=description
    )


def to_blocks(nodes: list[NodeWithScore]) -> list[TextBlock | ImageBlock]:
    """Nodes as blocks for a chat message; pictures are referred to, not read.

    Args:
        nodes: Of any retriever.

    Returns:
        A text block for each node (its place, id, score and text) and its picture if it has one.
    """
    if not nodes:
        return [TextBlock(text="Nothing was found.")]
    blocks: list[TextBlock | ImageBlock] = []
    for place, found in enumerate(nodes, start=1):
        score = "" if found.score is None else f", score {found.score:.2f}"
        text = found.node.get_content(MetadataMode.NONE)
        blocks.append(TextBlock(text=f"Result {place} ({found.node_id}{score}): {text}".rstrip()))
        image = image_of(found.node)
        if image is not None:
            blocks.append(_block(image))
    return blocks


def _block(image: ImageRef) -> ImageBlock:
    """Not by `get_content_blocks`, which for an `ImageNode` fetches addresses then and there."""
    if isinstance(image, bytes):
        return ImageBlock(image=image)
    path = local_path(image)
    return ImageBlock(url=AnyUrl(image)) if path is None else ImageBlock(path=path)
