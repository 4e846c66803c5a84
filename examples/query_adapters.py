"""Queries made fit to be looked for, and what that cost: rewriting, composing, reasoning.

Usage:
    python examples/query_adapters.py [FOLDER] [--writer openai:NAME]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from skimage.data import __path__ as photographs

from genmm_retriever import GenerativeMMRetriever, Query
from genmm_retriever.models.loading import load_generator
from genmm_retriever.querying import adapted

WORDY = "Hello! I wonder if you could find me the picture of a cup of coffee? Thanks!"
PICTURE = str(Path(photographs[0], "motorcycle_left.png"))
ASKED = {
    "rewrite": Query(text=WORDY),
    "compose": Query(text="as a rocket", image=PICTURE),
    "reason:2": Query(text="an animal that purrs"),
}


def main(retriever: GenerativeMMRetriever, writer: str | None) -> None:
    """Ask each query with its adapter in front of the retriever."""
    model = load_generator(writer) if writer else None
    for name, query in ASKED.items():
        hits = adapted(retriever, [name], model).retrieve(query, k=3)
        print(f"{name}: {query.text}")
        for step in hits[0].evidence.steps:
            done = step.text if step.changed else "left as it was"
            print(f"  {step.adapter}: {done} ({step.tokens} tokens, {step.seconds:.2f} s)")
            if step.note:
                print(f"    {step.note}")
        print("  found:", *(hit.item.id for hit in hits))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default=photographs[0])
    parser.add_argument("--writer")
    given = parser.parse_args()
    with GenerativeMMRetriever.from_images(given.folder, progress=False) as retriever:
        main(retriever, given.writer)
