"""Ask what photographs show, and be told when they do not: `genmm ask` as code.

Usage:
    python examples/ask.py [FOLDER] [--writer openai:NAME] [--threshold P]

The builtin model cannot answer questions: it quotes what the index knows of the best photograph,
and it is sure of few, so at a high threshold it also misses some that are there. With --writer a
model behind an OpenAI-compatible server looks at the photographs and answers.
"""

from __future__ import annotations

import argparse

from skimage.data import __path__ as photographs

from genmm_retriever import GenerativeMMRetriever
from genmm_retriever.models.loading import load_generator
from genmm_retriever.querying import Answer, Answerer

QUESTIONS = ("a motorcycle", "an elephant in a swimming pool")


def show(question: str, answer: Answer) -> None:
    print(question)
    if answer.found:
        print("  found:", answer.text, "(quoted)" if answer.quoted else "")
    else:
        print("  not found:", answer.reason)
    for hit in answer.sources:
        print("  rests on" if answer.found else "  looked at", hit.item.id, f"{hit.score:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default=photographs[0])
    parser.add_argument("--writer")
    parser.add_argument("--threshold", type=float, default=0.5)
    given = parser.parse_args()
    writer = load_generator(given.writer) if given.writer else None
    with GenerativeMMRetriever.from_images(given.folder, progress=False) as retriever:
        answerer = Answerer(retriever, writer, k=2, threshold=given.threshold)
        for question in QUESTIONS:
            show(question, answerer.ask(question))
