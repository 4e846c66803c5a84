"""Rerank the hits of another retriever: BM25 over what people wrote beside photographs.

Usage:
    python examples/rerank_bm25.py [QUERY]
"""

from __future__ import annotations

import sys
from pathlib import Path

try:
    import bm25s
    from skimage.data import __path__ as photographs

    from genmm_retriever import GenerativeMMReranker, Item
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: pip install bm25s") from error

# What one finds beside photographs: more about the day than about what can be seen.
NOTES = {
    "coffee.png": "Sunday morning at the kitchen table, with a cat beside me.",
    "chelsea.png": "She wants to be fed again.",
    "rocket.jpg": "The launch on the fifth attempt; the cat slept through it.",
    "astronaut.png": "A portrait from the archive.",
    "motorcycle_left.png": "In the garage, where a cat sleeps on the seat.",
}


def main(query: str) -> None:
    """Show the order before and after."""
    items = [
        Item(id=name, image=str(Path(photographs[0], name)), text=note)
        for name, note in NOTES.items()
    ]
    bm25 = bm25s.BM25()
    bm25.index(bm25s.tokenize([item.text for item in items], show_progress=False), False, False)
    tokens = bm25s.tokenize(query, show_progress=False)
    (places,), (scores,) = bm25.retrieve(tokens, k=len(items), show_progress=False)
    found = [(items[place], score) for place, score in zip(places, scores, strict=True)]
    print("BM25:    ", *(f"{item.id} {score:.2f}" for item, score in found))

    hits = GenerativeMMReranker().rerank(query, found)
    print("reranked:", *(f"{hit.item.id} {hit.score:.2f}" for hit in hits))


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "a cat")
