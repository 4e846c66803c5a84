"""Measure a retriever: recall, reciprocal rank and seconds a query.

Usage:
    python examples/evaluate.py                          questions about scikit-image's photographs
    python examples/evaluate.py photos.jsonl             lines {"id", "image", "captions": [...]}
    python examples/evaluate.py photos questions.jsonl   lines {"text", "relevant": [item ids]}
    python examples/evaluate.py photos                   each picture must be found by a part of it
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import ImageOps
from skimage.data import __path__ as photographs

from genmm_retriever import GenerativeMMRetriever, Item, Query
from genmm_retriever.corpus.images import open_image
from genmm_retriever.corpus.readers import read_sources
from genmm_retriever.evaluation.datasets import EvalQuery, read_queries
from genmm_retriever.evaluation.report import evaluate

QUESTIONS = {
    "a cup of coffee": {"coffee.png"},
    "a cat": {"chelsea.png"},
    "a motorcycle": {"motorcycle_left.png", "motorcycle_right.png"},
    "a man with a camera on a tripod": {"camera.png"},
    "a rocket on its launch pad": {"rocket.jpg"},
    "an astronaut": {"astronaut.png"},
    "old coins": {"coins.png"},
    "a wall of bricks": {"brick.png"},
}


def questions_in_words() -> list[EvalQuery]:
    """Questions about the photographs of scikit-image, with the ids of the right answers."""
    return [
        EvalQuery(id=str(number), query=Query(text=text), relevant=frozenset(relevant))
        for number, (text, relevant) in enumerate(QUESTIONS.items())
    ]


def parts_of(items: Sequence[Item], folder: Path) -> list[EvalQuery]:
    """The middle of each picture, mirrored, as a query for the picture."""
    queries = []
    for number, item in enumerate(items):
        if item.image is None:
            continue
        picture = open_image(item.image)
        path = folder / f"{number}.png"
        ImageOps.mirror(ImageOps.crop(picture, border=min(picture.size) // 8)).save(path)
        queries.append(
            EvalQuery(id=item.id, query=Query(image=str(path)), relevant=frozenset({item.id}))
        )
    return queries


def main(arguments: Sequence[str]) -> None:
    """Index the source, ask the questions, print the report."""
    source = Path(arguments[0] if arguments else photographs[0])
    items = list(read_sources([source]))
    with (
        tempfile.TemporaryDirectory() as folder,
        GenerativeMMRetriever.from_images(items, k=10) as retriever,
    ):
        if not arguments:
            queries: Sequence[EvalQuery] = questions_in_words()
        elif len(arguments) > 1 or source.is_file():
            queries = read_queries(Path(arguments[-1]))
        else:
            queries = parts_of(items, Path(folder))
        print(evaluate(retriever, queries, ks=(1, 5, 10)).to_text())


if __name__ == "__main__":
    main(sys.argv[1:])
