"""A LlamaIndex agent that searches photographs and sees what it found.

Usage:
    python examples/agent_llama_index.py [FOLDER] [--ask QUESTION] [--llm MODULE:CLASS:NAME]

Without --llm a scripted model plays the language model, so that it runs offline. With it any
function-calling model of LlamaIndex that takes pictures answers, such as
--llm llama_index.llms.openai:OpenAIResponses:NAME.
"""

from __future__ import annotations

import argparse
import asyncio
from importlib import import_module
from typing import Any

try:
    from llama_index.core.agent.workflow import FunctionAgent
    from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock, ToolCallBlock
    from llama_index.core.llms import MockFunctionCallingLLM
    from llama_index.retrievers.genmm import GenerativeMMRetriever, image_search_tool
    from PIL import Image
    from skimage.data import __path__ as photographs
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: pip install ./integrations/llama-index-retrievers-genmm") from error


def script(messages: list[ChatMessage], **_: Any) -> ChatMessage:
    """Searches for the question's words, then says what it was shown."""
    blocks = [block for message in messages for block in message.blocks]
    pictures = [block for block in blocks if isinstance(block, ImageBlock)]
    if pictures:
        size = Image.open(pictures[0].resolve_image()).size
        words = next(b.text for b in blocks if getattr(b, "text", "").startswith("Result 1"))
        answer: Any = TextBlock(text=f"I see a picture of {size[0]} x {size[1]} pixels. {words}")
    else:
        asked = {"query": messages[-1].content}
        answer = ToolCallBlock(tool_call_id="1", tool_name="search_images", tool_kwargs=asked)
    return ChatMessage(role="assistant", blocks=[answer])


async def ask(llm: Any, retriever: GenerativeMMRetriever, question: str) -> str:
    """The agent's answer; it may search as often as it likes."""
    prompt = "Answer from the pictures that search_images shows you."
    agent = FunctionAgent(tools=[image_search_tool(retriever)], llm=llm, system_prompt=prompt)
    return str(await agent.run(question))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default=photographs[0])
    parser.add_argument("--ask", default="a cup of coffee")
    parser.add_argument("--llm")
    given = parser.parse_args()
    if given.llm:
        module, name, model = given.llm.split(":")
        chosen = getattr(import_module(module), name)(model=model)
    else:
        chosen = MockFunctionCallingLLM(response_generator=script)
    index = GenerativeMMRetriever.from_images(given.folder, similarity_top_k=2, kind="image")
    print(asyncio.run(ask(chosen, index, given.ask)))
