"""Metadata filters act before the model writes, so k hits come back whenever k items match.

Usage:
    python examples/filters.py
"""

from __future__ import annotations

from pathlib import Path

from skimage.data import __path__ as photographs

from genmm_retriever import GenerativeMMRetriever, Item, Query

ITEMS = [
    Item(id=name, image=str(Path(photographs[0], name)), metadata={"colour": colour, "tags": tags})
    for name, colour, tags in (
        ("coffee.png", True, ["drink", "still life"]),
        ("chelsea.png", True, ["animal", "portrait"]),
        ("astronaut.png", True, ["person", "portrait"]),
        ("rocket.jpg", True, ["vehicle"]),
        ("motorcycle_left.png", True, ["vehicle"]),
        ("camera.png", False, ["person"]),
    )
] + [Item(id="note", text="The cat was photographed in spring.", metadata={"tags": ["animal"]})]


def show(title: str, hits: list) -> None:
    print(f"{title:<28}", *(hit.item.id for hit in hits))


with GenerativeMMRetriever.from_images(ITEMS, k=2, progress=False) as retriever:
    show("everything", retriever.retrieve("a cat"))
    show("vehicles", retriever.retrieve("a cat", filters={"tags": "vehicle"}))
    show(
        "portraits or drinks", retriever.retrieve("a cat", filters={"tags": ["portrait", "drink"]})
    )
    show(
        "people in black and white",
        retriever.retrieve("a man with a camera", filters={"tags": "person", "colour": False}),
    )
    show("only texts", retriever.retrieve(Query(text="a cat", kind="text")))
