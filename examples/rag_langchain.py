"""Answer a question from photographs with LangChain: retrieve, show, ask.

Usage:
    python examples/rag_langchain.py [FOLDER] [--ask QUESTION] [--model PROVIDER:NAME]

Without --model a scripted model that only describes what it was sent answers, offline.
"""

from __future__ import annotations

import argparse
import base64
import io

try:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
    from langchain_core.messages.content import create_text_block
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough
    from langchain_genmm import GenerativeMMRetriever, documents_to_content_blocks
    from PIL import Image
    from skimage.data import __path__ as photographs
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: pip install ./integrations/langchain-genmm") from error


def prompt(given: dict) -> list[BaseMessage]:
    """The question, then each picture after its caption."""
    question = create_text_block(f"{given['question']} Answer from these pictures:")
    shown = documents_to_content_blocks(given["documents"], max_side=512)
    return [HumanMessage(content_blocks=[question, *shown])]


def make_chain(retriever: GenerativeMMRetriever, model: Runnable) -> Runnable:
    """From a question to an answer."""
    asked = {"question": RunnablePassthrough(), "documents": retriever}
    return asked | RunnableLambda(prompt) | model | StrOutputParser()


def script(messages: list[BaseMessage]) -> AIMessage:
    """Says what it was shown."""
    blocks = messages[-1].content_blocks
    data = [base64.b64decode(block["base64"]) for block in blocks if block["type"] == "image"]
    sizes = [Image.open(io.BytesIO(picture)).size for picture in data]
    captions = [block["text"] for block in blocks if block["type"] == "text"][1:]
    return AIMessage(f"I was shown {len(data)} pictures of {sizes}; the first is: {captions[0]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default=photographs[0])
    parser.add_argument("--ask", default="a cup of coffee")
    parser.add_argument("--model")
    given = parser.parse_args()
    model: BaseChatModel | Runnable = RunnableLambda(script)
    if given.model:
        from langchain.chat_models import init_chat_model

        model = init_chat_model(given.model)
    chain = make_chain(GenerativeMMRetriever.from_images(given.folder, k=2), model)
    print(chain.invoke(given.ask))
