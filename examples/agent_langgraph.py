"""A LangGraph agent that searches photographs and sees what it found.

Usage: python examples/agent_langgraph.py [FOLDER] [--ask QUESTION] [--model PROVIDER:NAME]

Without --model a script plays the language model, offline. With it any model of LangChain's
`init_chat_model` that takes pictures in tool results answers (pip install langchain).
"""

from __future__ import annotations

import argparse
import base64
import io
from importlib import import_module
from typing import Any

try:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, ToolMessage
    from langchain_core.outputs import ChatGeneration, ChatResult
    from langchain_genmm import GenerativeMMRetriever, create_image_search_tool
    from langgraph.graph import START, MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode, tools_condition
    from PIL import Image
    from skimage.data import __path__ as photographs
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: pip install ./integrations/langchain-genmm langgraph") from error


class Scripted(BaseChatModel):
    """Searches for the question's words, then says what it was shown."""

    _llm_type = "scripted"

    def bind_tools(self, tools: Any, **_: Any) -> Scripted:
        """As it is: the script knows its tool."""
        return self

    def _generate(self, messages: Any, *_: Any, **__: Any) -> ChatResult:
        last = messages[-1]
        if isinstance(last, ToolMessage):
            words, shown = last.content_blocks[:2]
            size = Image.open(io.BytesIO(base64.b64decode(shown["base64"]))).size
            answer = AIMessage(f"I see a picture of {size} pixels. {words['text']}")
        else:
            call = {"name": "search_images", "args": {"query": last.text}, "id": "1"}
            answer = AIMessage("", tool_calls=[call])
        return ChatResult(generations=[ChatGeneration(message=answer)])


def make_agent(model: Any, retriever: GenerativeMMRetriever) -> Any:
    tools = [create_image_search_tool(retriever)]
    model = model.bind_tools(tools)
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_node("tools", ToolNode(tools))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    return graph.compile()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default=photographs[0])
    parser.add_argument("--ask", default="a cup of coffee")
    parser.add_argument("--model")
    given = parser.parse_args()
    chats = import_module("langchain.chat_models") if given.model else None
    model = chats.init_chat_model(given.model) if chats else Scripted()
    agent = make_agent(model, GenerativeMMRetriever.from_images(given.folder, k=2, kind="image"))
    for message in agent.invoke({"messages": [("user", given.ask)]})["messages"]:
        print(f"{message.type}: {message.text or message.tool_calls}")
