"""A picture and a change together against each of them alone, over photos and over garments.

The picture that asks is in the index and left out of what is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.claims.asking import (
    QUICK_QUERIES,
    TEN,
    Arm,
    ask,
    dev_photos,
    gained,
    open_items,
    open_photos,
    queries_of,
    shown,
)
from benchmarks.corpora import captioned, models
from benchmarks.corpora.composed import composed_queries
from benchmarks.corpora.garments import garment_queries, read_garments
from benchmarks.corpora.photos import Photo
from benchmarks.harness import Bar, Benchmark, Condition, Measurement, Options, Skipped
from genmm_retriever.evaluation.datasets import EvalQuery
from genmm_retriever.querying import adapted
from genmm_retriever.retriever import GenerativeMMRetriever
from genmm_retriever.schema import Item, Query

BOTH = "image and text"
IMAGE = "image alone"
TEXT = "text alone"
COMPOSED = "image and text, adapted"
CONSISTENT = "image and text, way back checked"
_QUICK_PHOTOS = 300
_QUICK_GARMENTS = 16


def composed(options: Options) -> Measurement:
    """Photos and facts of them that change, by `benchmarks.corpora.composed`."""
    model = models.load(options.model)
    photos, queries = _changed_photos(options, model, 200)
    with open_photos(options, model, photos, queries) as retriever:
        return compared(retriever, queries)


def _changed_photos(
    options: Options, model: Any, number: int
) -> tuple[list[Photo], list[EvalQuery]]:
    """The photos, and so many queries for others of them."""
    photos = dev_photos(options)
    if options.quick:
        photos = photos[:_QUICK_PHOTOS]
    features = captioned.cell_features([photo.image for photo in photos], model, options.cache)
    made = composed_queries(
        photos, features, number=options.pick(number, QUICK_QUERIES), seed=options.seed
    )
    return photos, queries_of(made.records)


def composed_garments(options: Options) -> Measurement:
    """Garments in the colour of another, by `benchmarks.corpora.garments`."""
    path = None if options.clothing is None else options.clothing / "items.jsonl"
    if path is None or not path.is_file():
        raise Skipped("give --clothing DIR, a folder with items.jsonl and the pictures")
    number = options.pick(100, QUICK_QUERIES)
    made = garment_queries(read_garments(path), number=number, seed=options.seed)
    queries = queries_of(made.records)
    asked = {name for query in queries for name in query.relevant | {query.reference}}
    items = [
        Item.model_validate(record)
        for place, record in enumerate(made.items)
        if not options.quick or place < _QUICK_GARMENTS or record["id"] in asked
    ]
    with open_items(options, models.load(options.model), items, "garments") as retriever:
        return compared(retriever, queries)


def reverse_consistency(options: Options) -> Measurement:
    """The photos' queries as they are, and with the way back checked."""
    model = models.load(options.model)
    photos, queries = _changed_photos(options, model, 80)
    with open_photos(options, model, photos, queries) as retriever:
        arms = {
            BOTH: ask(retriever, queries),
            CONSISTENT: ask(adapted(retriever, ["consistency"]), queries),
        }
    value, low, _ = gained(arms[CONSISTENT], arms[BOTH])["recall@5"]
    return Measurement(
        value,
        also=[Condition("the lower end of the paired 95% interval is above 0", low > 0)],
        details=shown(arms, (CONSISTENT, BOTH)),
        notes=[
            "the way back orders the first ten hits anew, so R@10 cannot change",
            "recalls in percent and differences in percentage points, each with its 95% interval",
        ],
    )


def compared(retriever: GenerativeMMRetriever, queries: Sequence[EvalQuery]) -> Measurement:
    """R@10 of picture and text together, by that of the better half alone.

    Where neither half finds anything, one query counts as found.
    """
    arms = {
        BOTH: ask(retriever, queries),
        IMAGE: ask(retriever, [_half(query, image=True) for query in queries]),
        TEXT: ask(retriever, [_half(query, image=False) for query in queries]),
        COMPOSED: ask(adapted(retriever, ["compose"]), queries),
    }
    alone = max((IMAGE, TEXT), key=lambda name: arms[name].recall())
    _, low, _ = gained(arms[BOTH], arms[alone])[TEN]
    ratios = _ratios(arms, max(arms[alone].recall(), 100 / len(queries)))
    pairs = [(BOTH, IMAGE), (BOTH, TEXT), (COMPOSED, BOTH), (COMPOSED, alone)]
    return Measurement(
        ratios.pop(BOTH),
        peers=ratios,
        also=[
            Condition(
                "the lower end of the paired 95% interval of the difference from the better half"
                " is above 0",
                low > 0,
            )
        ],
        details={"better_half": alone, **shown(arms, *pairs)},
        notes=[
            "each peer's figure is its R@10 by that of the better half alone",
            "recalls in percent and differences in percentage points, each with its 95% interval",
        ],
    )


def _ratios(arms: dict[str, Arm], alone: float) -> dict[str, float]:
    return {name: arm.recall() / alone for name, arm in arms.items()}


def _half(query: EvalQuery, *, image: bool) -> EvalQuery:
    """The same query by its picture alone, or by its words alone."""
    half = Query(image=query.query.image) if image else Query(text=query.query.text)
    return replace(query, query=half)


BENCHMARKS = (
    Benchmark(
        "composed_queries",
        "a photo and a change to it: R@10 by that of the better of photo alone and text alone",
        "times",
        Bar(">", 1),
        composed,
    ),
    Benchmark(
        "composed_garments",
        "a garment and another in its colour: R@10 by that of the better of picture alone and"
        " text alone",
        "times",
        Bar(">", 1),
        composed_garments,
    ),
    Benchmark(
        "reverse_consistency",
        "a photo and a change to it: R@5 with the way back checked, minus R@5 without",
        "percentage points",
        Bar(">", 0),
        reverse_consistency,
    ),
)
