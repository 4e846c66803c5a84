"""Answer a question from photographs with LlamaIndex's multimodal query engine.

Usage:
    python examples/rag_llama_index.py [FOLDER] [--ask QUESTION] [--llm MODULE:CLASS:NAME]

Without --llm a scripted model that only describes what it was sent answers, offline.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any

try:
    from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ImageBlock
    from llama_index.core.llms.mock import MockLLM
    from llama_index.core.query_engine import RetrieverQueryEngine
    from llama_index.retrievers.genmm import GenerativeMMRetriever
    from PIL import Image
    from skimage.data import __path__ as photographs
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: pip install ./integrations/llama-index-retrievers-genmm") from error


class Scripted(MockLLM):
    """Says what it was shown."""

    def chat(self, messages: Any, **_: Any) -> ChatResponse:
        """The number and the sizes of the pictures."""
        blocks = [block for message in messages for block in message.blocks]
        pictures = [block.resolve_image() for block in blocks if isinstance(block, ImageBlock)]
        sizes = [Image.open(picture).size for picture in pictures]
        answer = f"I was shown {len(pictures)} pictures of {sizes}."
        return ChatResponse(message=ChatMessage(role="assistant", content=answer))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default=photographs[0])
    parser.add_argument("--ask", default="a cup of coffee")
    parser.add_argument("--llm")
    given = parser.parse_args()
    llm: Any = Scripted(is_chat_model=True)
    if given.llm:
        module, name, model = given.llm.split(":")
        llm = getattr(import_module(module), name)(model=model)
    retriever = GenerativeMMRetriever.from_images(given.folder, similarity_top_k=1)
    engine = RetrieverQueryEngine.from_args(retriever, llm=llm, multimodal=True)
    response = engine.query(given.ask)
    print(response)
    for found in response.source_nodes:
        print(f"{found.score:.3f}", found.metadata["source"])
